"""What a call was, in 32 bytes: the same call has the same fingerprint, another one has not.

Rule: a value is told by its type and its content; callbacks do not count, and what can be read once only is refused.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import to_microseconds
from llmspell.errors import InvalidInput
from llmspell.settings import Secret

READ_BYTES = 1024 * 1024
DEPTH_MAX = 64


def fingerprint(operation: str, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a call of `method`, whose first parameter is `self`; defaults count as if they were given.

    Raises:
        TypeError: the arguments do not fit the method.
        InvalidInput: an argument can be read only once (a stream, an iterator), so a repeated call could not be recognised.
    """
    bound = inspect.signature(method).bind(None, *args, **kwargs)
    bound.apply_defaults()
    digest = hashlib.sha256()
    for part in _parts(operation, "operation", 0):
        digest.update(part)
    for name, value in list(bound.arguments.items())[1:]:
        if not callable(value):
            for part in (*_framed(b"a", name.encode()), *_parts(value, name, 0)):
                digest.update(part)
    return digest.digest()


def _framed(kind: bytes, content: bytes) -> Iterator[bytes]:
    yield kind + len(content).to_bytes(8, "big")
    yield content


def _parts(value: Any, field: str, depth: int) -> Iterator[bytes]:
    if depth > DEPTH_MAX:
        raise InvalidInput(field, f"must be nested at most {DEPTH_MAX} deep")
    plain = _plain(value)
    if plain is not None:
        yield from _framed(*plain)
    elif isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        yield from _framed(b"r", type(value).__name__.encode())
        yield from _parts(fields, field, depth + 1)
    elif isinstance(value, Mapping):
        yield b"m" + len(value).to_bytes(8, "big")
        for key in sorted(value, key=str):
            yield from _parts(key, field, depth + 1)
            yield from _parts(value[key], f"{field}.{key}", depth + 1)
    elif isinstance(value, (set, frozenset)):
        yield b"s" + len(value).to_bytes(8, "big")
        yield from sorted(b"".join(_parts(one, field, depth + 1)) for one in value)
    elif isinstance(value, (list, tuple)):
        yield b"l" + len(value).to_bytes(8, "big")
        for position, one in enumerate(value):
            yield from _parts(one, f"{field}[{position}]", depth + 1)
    elif hasattr(value, "read") and hasattr(value, "seek"):
        yield from _framed(b"b", _digest_of_file(value, field))
    else:
        yield from _framed(b"b", hashlib.sha256(_buffer(value, field)).digest())


def _plain(value: Any) -> tuple[bytes, bytes] | None:
    """Return kind and content of a value without parts."""
    if isinstance(value, Secret):
        return b"b", hashlib.sha256(value.reveal().encode()).digest()
    if value is None or value is msgspec.UNSET:
        return b"n", repr(value).encode()
    if isinstance(value, bool):
        return b"t", repr(value).encode()
    if isinstance(value, (int, float)):
        return b"i" if isinstance(value, int) else b"f", repr(value).encode()
    if isinstance(value, str):
        return b"u", value.encode("utf-8", "surrogatepass")
    if isinstance(value, UUID):
        return b"u", str(value).encode()  # an id may be given as either
    if isinstance(value, datetime):
        aware = value.utcoffset() is not None
        return b"d", (str(to_microseconds(value)) if aware else value.isoformat()).encode()
    if isinstance(value, date):
        return b"u", value.isoformat().encode()
    return None


def _buffer(value: Any, field: str) -> memoryview:
    try:
        return memoryview(value).cast("B")
    except TypeError as exc:
        raise InvalidInput(
            field,
            "must be something that can be read again, for a call under an idempotency key",
            given=type(value).__name__,
            hint="Give bytes, a list, or a file that can be rewound.",
        ) from exc


def _digest_of_file(file: Any, field: str) -> bytes:
    """Hash what a file has from where it stands, and go back there."""
    digest = hashlib.sha256()
    try:
        start = file.tell()
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
        file.seek(start)
    except (OSError, TypeError) as exc:
        raise InvalidInput(field, "must be a binary file that can be rewound", given=type(file).__name__) from exc
    return digest.digest()
