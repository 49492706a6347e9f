"""The keyring: seals secrets before a store sees them, by AES-256-GCM under a master key that no store holds.

    sealed = "LSS" | version 1 | key id, 8 bytes | salt, 16 bytes | nonce, 12 bytes | ciphertext | tag, 16 bytes

Not here: where sealed bytes are kept (`storage`), where master keys come from (`settings`).

Rule 1: sealed bytes are bound to their header and to `bound_to` (the tenant, the table, the row): moved to another row, or
altered in any bit, they do not open. Every failure to open is the one error `SealBroken`.
Rule 2: the data key is made anew for every value, by HKDF-SHA-256 of the master key and the salt. So however much one master
key seals, no two values share a key, and the limit of random nonces is never near.
Rule 3: the id of a master key is a digest of it: two keys cannot be confused, and nothing but the key needs to be configured.
Rule 4: nothing shows a key: not `repr`, not an error; a keyring cannot be pickled.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from llmspell.errors import InvalidInput, InvalidSetting, MasterKeyMissing, MissingExtra, SealBroken
from llmspell.settings import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MASTER_KEY_PREFIX = "lsmk_"
MASTER_KEYS_MAX = 64
PLAINTEXT_MAX_BYTES = 8 * 1024 * 1024
_MAGIC = b"LSS\x01"
_KEY_BYTES = 32
_CHECKSUM_BYTES = 4
_KEY_ID_BYTES = 8
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SALT_AT = len(_MAGIC) + _KEY_ID_BYTES
_NONCE_AT = _SALT_AT + _SALT_BYTES
HEADER_BYTES = _NONCE_AT + _NONCE_BYTES
SEALED_EXTRA_BYTES = HEADER_BYTES + _TAG_BYTES
"""How much longer sealed bytes are than what they hold."""


class Keyring:
    """Master keys: the first one seals, all of them open."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """`keys` are master keys of 32 bytes; users have them as text, see `read_keyring`."""
        if len(keys) > MASTER_KEYS_MAX or any(len(key) != _KEY_BYTES for key in keys):
            raise InvalidInput("keys", f"must be at most {MASTER_KEYS_MAX} keys of {_KEY_BYTES} bytes")
        self._keys: Mapping[bytes, bytes] = {_id_of(key): key for key in keys}

    @property
    def active(self) -> str | None:
        """The id of the key that seals; None when the keyring is empty."""
        return next(iter(self._keys)).hex() if self._keys else None

    @property
    def key_ids(self) -> list[str]:
        """The ids of all keys, the active one first."""
        return [id.hex() for id in self._keys]

    def seal(self, plaintext: bytes, *, bound_to: Sequence[str]) -> bytes:
        """Encrypt, so that only this keyring opens it, and only with the same `bound_to`.

        Raises:
            MasterKeyMissing: the keyring is empty.
            MissingExtra: the package `cryptography` is not installed.
            InvalidInput: more than 8 MiB.
        """
        if not self._keys:
            raise MasterKeyMissing
        if len(plaintext) > PLAINTEXT_MAX_BYTES:
            raise InvalidInput("plaintext", f"must be at most {PLAINTEXT_MAX_BYTES:,} bytes", given=len(plaintext))
        key_id, master = next(iter(self._keys.items()))
        salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
        header = _MAGIC + key_id + salt + nonce
        return header + _cipher(master, salt).encrypt(nonce, plaintext, _associated(header, bound_to))

    def open(self, sealed: bytes, *, bound_to: Sequence[str]) -> bytes:
        """Decrypt what `seal` gave.

        Raises:
            SealBroken: it was altered or cut, belongs elsewhere, or its master key is not in this keyring.
            MissingExtra: the package `cryptography` is not installed.
        """
        header, key_id = sealed[:HEADER_BYTES], sealed_by(sealed)
        master = self._keys.get(bytes.fromhex(key_id))
        if master is None:
            raise SealBroken(
                "It was sealed by a master key that is not configured here.",
                master_key_id=key_id,
                hint="Add that key to security.master_keys; older keys stand behind the active one.",
            )
        cipher = _cipher(master, header[_SALT_AT:_NONCE_AT])
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(header[_NONCE_AT:], sealed[HEADER_BYTES:], _associated(header, bound_to))
        except InvalidTag:
            # `from None`: the cause says nothing, and its frames hold the plaintext's key.
            raise SealBroken(master_key_id=key_id) from None

    def reseal(self, sealed: bytes, *, bound_to: Sequence[str]) -> bytes | None:
        """Return the same value sealed by the active key, or None when it is already.

        Raises:
            MasterKeyMissing, SealBroken, MissingExtra: as `seal` and `open`.
        """
        if self.active is None:
            raise MasterKeyMissing
        if sealed_by(sealed) == self.active:
            return None
        return self.seal(self.open(sealed, bound_to=bound_to), bound_to=bound_to)

    def derive(self, purpose: str, *, key_id: str | None = None) -> bytes | None:
        """Return 32 bytes for another purpose than sealing, of the active key or of `key_id`; None when there is no such key."""
        wanted = key_id if key_id is not None else self.active
        master = None if wanted is None else self._keys.get(bytes.fromhex(wanted))
        return None if master is None else hmac.digest(master, f"llmspell {purpose} v1".encode(), "sha256")

    def __repr__(self) -> str:
        return f"Keyring(active={self.active}, keys={len(self._keys)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring cannot be pickled: its keys would be readable")


def new_master_key() -> Secret:
    """Return a new random master key as text: a recognisable prefix, 256 bits, a checksum."""
    key = secrets.token_bytes(_KEY_BYTES)
    return Secret(MASTER_KEY_PREFIX + base64.urlsafe_b64encode(key + _checksum(key)).decode())


def read_keyring(master_keys: Secret | None) -> Keyring:
    """Return the keyring of a setting: master keys as `new_master_key` makes them, between commas or white space.

    Raises:
        InvalidSetting: says which one cannot be read, and never shows it.
    """
    words = re.split(r"[,\s]+", master_keys.reveal().strip(", \t\r\n")) if master_keys is not None else []
    if len(words) > MASTER_KEYS_MAX:
        raise InvalidSetting(f"`security.master_keys` must be at most {MASTER_KEYS_MAX} keys; got {len(words)}.")
    return Keyring([_read_key(word, position) for position, word in enumerate(words, 1) if word])


def sealed_by(sealed: bytes) -> str:
    """Return the id of the master key that sealed these bytes. It is only believed once they open.

    Raises:
        SealBroken: they are no sealed bytes.
    """
    if len(sealed) < SEALED_EXTRA_BYTES or not sealed.startswith(_MAGIC):
        raise SealBroken("These bytes were not sealed by this version of llmspell.")
    return sealed[len(_MAGIC) : _SALT_AT].hex()


def _read_key(word: str, position: int) -> bytes:
    try:
        raw = base64.b64decode(word.removeprefix(MASTER_KEY_PREFIX), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    key, checksum = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
    if not word.startswith(MASTER_KEY_PREFIX) or len(key) != _KEY_BYTES or checksum != _checksum(key):
        # Raised here and not above: an exception in flight would carry the text of the key.
        raise InvalidSetting(
            f"Key {position} of `security.master_keys` is not a master key, or was mistyped.",
            hint="Make one with: llmspell keys new",
        )
    return key


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"llmspell master key id\0" + key).digest()[:_KEY_ID_BYTES]


def _checksum(key: bytes) -> bytes:
    return zlib.crc32(key).to_bytes(_CHECKSUM_BYTES, "big")


def _associated(header: bytes, bound_to: Sequence[str]) -> bytes:
    """Everything that must be the same at opening, each part behind its length: no two lists give the same bytes."""
    parts = [header, *(part.encode() for part in bound_to)]
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _cipher(master: bytes, salt: bytes) -> AESGCM:
    make = _aes()
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return make(HKDF(SHA256(), _KEY_BYTES, salt=salt, info=b"llmspell seal v1").derive(master))


def _aes() -> Callable[[bytes], AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as exc:
        raise MissingExtra("encryption", needed_for="Keeping secrets") from exc
    return AESGCM
