"""The key that signs tenants, and what is made of it: signatures, and the blocks that the database verifies them by (V032).

Not here: turning the strict mode on, rotating its key (`signing`); what is checked (`llmspell.signed_tenant`).

Rule 1: a signature is for one tenant until one second. It is made here and kept for a few minutes, so that signing costs a call
nothing, and it travels as a parameter beside the tenant. A server that logs statements writes parameters too, unless its
log_parameter_max_length is 0, which is not the default: `llmspell database isolation` says whether it does.
Rule 2: the database compares the second with its own clock, so that clock is read on every connection, and neither the clock of
this machine nor the one of the store has to be right.
Rule 3: nothing shows a key: not `repr`, not an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections import OrderedDict
from typing import NoReturn

import msgspec

from llmspell.clock import Clock, SystemClock
from llmspell.errors import InvalidSetting
from llmspell.settings import Secret
from llmspell.storage.postgres.link import bind_signed_tenant
from llmspell.storage.postgres.statements import Bound

TENANT_KEY_PREFIX = "lstk_"
SIGNATURE_LIFETIME_S = 900
"""How long a signature is good for. Each statement is checked as it begins; a long transaction is signed anew meanwhile."""
SIGNATURE_RENEWED_S = 300
"""A signature is made anew when it is so old: what is left of its life is for clocks that jump."""
SIGNATURES_MAX = 10_000
"""Tenants whose signature is kept."""
_KEY_BYTES = 32
_CHECKSUM_BYTES = 4
_BLOCK_BYTES = 64  # of SHA-256
_PURPOSE = b"llmspell tenant v1."


class TenantKey:
    """A key of 32 bytes, as the application holds it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise InvalidSetting(f"A tenant key has {_KEY_BYTES} bytes; got {len(key)}.")
        self._key = key
        self.id = hashlib.sha256(b"llmspell tenant key id\0" + key).hexdigest()[:16]

    def sign(self, tenant: bytes, *, until: int) -> bytes:
        """Return the signature of a tenant that is good until a second since 1970."""
        head = f"{self.id}.{until:010}.".encode()
        return head + hmac.digest(self._key, _PURPOSE + head + tenant, "sha256").hex().encode()

    def blocks(self) -> tuple[bytes, bytes]:
        """Return the inner and the outer block of HMAC-SHA-256: what the database verifies by."""
        padded = self._key.ljust(_BLOCK_BYTES, b"\0")
        return bytes(byte ^ 0x36 for byte in padded), bytes(byte ^ 0x5C for byte in padded)

    def __repr__(self) -> str:
        return f"TenantKey(id={self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tenant key cannot be pickled: it would be readable")


def new_tenant_key() -> Secret:
    """Return a new random key as text: a recognisable prefix, 256 bits, a checksum."""
    key = secrets.token_bytes(_KEY_BYTES)
    return Secret(TENANT_KEY_PREFIX + base64.urlsafe_b64encode(key + _checksum(key)).decode())


def read_tenant_key(text: Secret, *, name: str = "storage.postgres.tenant_key") -> TenantKey:
    """Return the key of a text that `new_tenant_key` made. `name` is where it comes from, for the error.

    Raises:
        InvalidSetting: it is none; the text is not shown.
    """
    word = text.reveal().strip()
    try:
        raw = base64.b64decode(re.sub(f"^{TENANT_KEY_PREFIX}", "", word), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    key, checksum = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
    if not word.startswith(TENANT_KEY_PREFIX) or len(key) != _KEY_BYTES or checksum != _checksum(key):
        # Raised here and not above: an exception in flight would carry the text of the key.
        raise InvalidSetting(
            f"`{name}` is not a tenant key, or was mistyped.", hint="Make one with: llmspell database signing new"
        )
    return TenantKey(key)


class _Signed(msgspec.Struct, frozen=True):
    bound: Bound
    renew_at_s: float


class Signer:
    """Binds tenants, with their signatures."""

    def __init__(self, key: TenantKey, *, clock: Clock | None = None) -> None:
        """`clock` is this machine's, not the one that dates records: signatures are measured by a real one."""
        self._key = key
        self._clock = clock or SystemClock()
        self._ahead_s = 0.0
        self._signed: OrderedDict[bytes, _Signed] = OrderedDict()

    @property
    def key_id(self) -> str:
        return self._key.id

    def server_says(self, now_s: float) -> None:
        """Learn the server's clock, in seconds since 1970."""
        ahead_s = now_s - self._clock.now().timestamp()
        if abs(ahead_s - self._ahead_s) > 1.0:
            self._signed.clear()
        self._ahead_s = ahead_s

    def __call__(self, tenant: bytes) -> Bound:
        """Return the statement that binds a tenant; the very same one until it is time for a new signature."""
        now_s = self._clock.now().timestamp() + self._ahead_s
        kept = self._signed.get(tenant)
        if kept is not None and kept.renew_at_s - SIGNATURE_RENEWED_S <= now_s < kept.renew_at_s:
            return kept.bound
        signature = self._key.sign(tenant, until=int(now_s) + SIGNATURE_LIFETIME_S) if tenant else b""
        bound = bind_signed_tenant(tenant, signature)
        self._signed[tenant] = _Signed(bound, now_s + SIGNATURE_RENEWED_S)
        self._signed.move_to_end(tenant)
        if len(self._signed) > SIGNATURES_MAX:
            self._signed.popitem(last=False)
        return bound

    def __repr__(self) -> str:
        return f"Signer(key={self._key.id})"


def _checksum(key: bytes) -> bytes:
    return zlib.crc32(key).to_bytes(_CHECKSUM_BYTES, "big")
