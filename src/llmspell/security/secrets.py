"""Where secrets are looked for: the environment, mounted files, the store (SCR-01, SCR-02).

    key = await get_api_key("openai", stores=[MountedSecrets("/run/secrets"), tenant.api_keys])

A vault is a `SecretStore`: one class with one method, from whoever has such a vault to try it against. None is shipped.

Rule 1: a secret is handed out as `HeldSecret`: no `repr`, no format and no pickle shows it; `reveal()` does.
Rule 2: a reference is a path of plain names; no store resolves one to anything outside of its own room.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec

from llmspell.errors import InvalidInput, InvalidKey, Unavailable
from llmspell.settings import Secret, provider_key
from llmspell.storage.contracts.api_keys import API_KEY_MAX_BYTES

_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
PARTS_MAX = 8


class HeldSecret(Secret):
    """A secret that stays in this process: it is never shown, and cannot be pickled."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled: it would be readable")

    def __copy__(self) -> HeldSecret:
        return self

    def __deepcopy__(self, memo: object) -> HeldSecret:
        return self


class SecretRef(msgspec.Struct, frozen=True):
    """Where a secret is: one to eight names with strokes between them."""

    path: str

    def __post_init__(self) -> None:
        parts = self.path.split("/") if isinstance(self.path, str) else []
        if not 1 <= len(parts) <= PARTS_MAX or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidKey(
                "path", f"must be 1 to {PARTS_MAX} names of letters, digits, `_`, `.` and `-`", given=self.path
            )


class SecretStore(Protocol):
    """Something that keeps secrets."""

    async def get_secret(self, ref: SecretRef) -> Secret | None:
        """Return the secret, or None when this store has none of that name.

        Raises:
            LlmspellError: it cannot be said whether there is one.
        """
        ...


class MountedSecrets:
    """A `SecretStore` over a directory with a file for each secret, as containers mount them."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory).expanduser()

    async def get_secret(self, ref: SecretRef) -> Secret | None:
        """Return the content of the file without its line end; at most 16 KiB of UTF-8.

        Raises:
            Unavailable: there is a file, and it cannot be read.
            InvalidInput: it is too long, empty, no text, or a link out of the directory.
        """
        return await asyncio.to_thread(self._read, require_ref(ref))

    def _read(self, ref: SecretRef) -> Secret | None:
        root = self._directory.resolve()
        # Mounts are full of links (`..data`), so they are followed; but not out of the directory.
        path = (root / ref.path).resolve()
        if not path.is_relative_to(root):
            raise InvalidInput("path", "must stay inside of the directory of secrets", given=ref.path)
        try:
            with path.open("rb") as stream:
                content = stream.read(API_KEY_MAX_BYTES + 3)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise Unavailable("A mounted secret cannot be read.", path=str(path), problem=exc.strerror) from exc
        return HeldSecret(require_secret(_text(content, ref.path), field=ref.path))


async def get_api_key(
    provider: str, *, stores: Sequence[SecretStore] = (), environ: Mapping[str, str] | None = None
) -> Secret | None:
    """Return the key of a model provider: from `<PROVIDER>_API_KEY`, then from the first store that has it (SCR-01).

    In a store it is `llmspell/<provider>/api_key`. `environ` is the process's unless given.

    Raises:
        InvalidKey: the name of the provider.
    """
    found = provider_key(require_provider(provider), environ)
    if found is not None:
        return HeldSecret(found.reveal())
    ref = api_key_ref(provider)
    for store in stores:
        kept = await store.get_secret(ref)
        if kept is not None:
            return kept
    return None


def api_key_ref(provider: str) -> SecretRef:
    """Return where stores have the key of a provider."""
    return SecretRef(f"llmspell/{require_provider(provider)}/api_key")


def require_ref(value: object) -> SecretRef:
    """Return a reference. What was given in its place is not shown: it may be a secret.

    Raises:
        InvalidInput: it is none.
    """
    if not isinstance(value, SecretRef):
        raise InvalidInput(
            "ref",
            "must be a SecretRef",
            given=type(value).__name__,
            hint='Such as `SecretRef("llmspell/openai/api_key")`.',
        )
    return value


def require_provider(value: object) -> str:
    """Return the name of a provider: 1 to 64 letters, digits, `_` and `-`.

    Raises:
        InvalidKey: anything else.
    """
    if not isinstance(value, str) or _PROVIDER.fullmatch(value) is None:
        raise InvalidKey("provider", "must be 1 to 64 letters, digits, `_` and `-`", given=value)
    return value


def require_secret(value: object, *, field: str) -> str:
    """Return the text of a secret: 1 to 16,384 bytes, no control characters. An error never shows it.

    Raises:
        InvalidInput: anything else.
    """
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str):
        raise InvalidInput(field, "must be text or a Secret", given=type(value).__name__)
    if not text or not text.isprintable():
        # Also what a terminal or a file adds without being asked: a line end, a tab, an escape.
        raise InvalidInput(field, "must be one line of text that is not empty and has no control characters")
    if len(text.encode()) > API_KEY_MAX_BYTES:
        raise InvalidInput(field, f"must be at most {API_KEY_MAX_BYTES:,} bytes", given=len(text.encode()))
    return text


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        pass
    raise InvalidInput(name, "must be UTF-8")  # outside: the exception in flight holds the content
