"""Pages and their cursors: opaque, signed, bound to one tenant and one query.

Rule: a cursor that was altered, belongs to another tenant, or comes from another query is refused; it never selects anything.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from llmspell.codec import decode_json, encode_json
from llmspell.errors import InvalidCursor
from llmspell.tenant import TenantId

T = TypeVar("T")
CURSOR_MAX_CHARACTERS = 4_096
_SIGNATURE_BYTES = 16


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page, and the cursor of the next one; None when this is the last."""

    items: list[T]
    next_cursor: str | None


class Cursors:
    """Makes and reads the cursors of one tenant, for every storage that lists."""

    def __init__(self, tenant: TenantId, key: Callable[[], Awaitable[bytes]]) -> None:
        """`key` gives the store's key; it is asked for when a cursor is made or read, never before."""
        self._tenant = tenant
        self._key = key

    async def read(self, cursor: str | None, *, query: Any) -> dict[str, Any] | None:
        """Return the position of a cursor, or None without one. `query` is whatever must not change between two pages (JSON).

        Raises:
            InvalidCursor: it was not made by this store for this tenant and this query.
        """
        if cursor is None:
            return None
        return read_cursor(cursor, key=await self._key(), tenant=self._tenant, query=query)

    async def page(
        self, records: Sequence[T], *, limit: int, query: Any, position: Callable[[T], Mapping[str, Any]]
    ) -> Page[T]:
        """Return a page of at most `limit`; `records` holds one more where there is more, and `position` is of a record."""
        if len(records) <= limit:
            return Page(list(records), None)
        return Page(list(records[:limit]), await self.cursor(position(records[limit - 1]), query=query))

    async def cursor(self, position: Mapping[str, Any], *, query: Any) -> str:
        """Return the cursor of a position."""
        return sign_cursor(position, key=await self._key(), tenant=self._tenant, query=query)


def sign_cursor(position: Mapping[str, Any], *, key: bytes, tenant: TenantId, query: Any) -> str:
    """Return the cursor of a position. `query` is whatever must not change between two pages (JSON)."""
    payload = encode_json(position).encode()
    signature = _signature(payload, key=key, tenant=tenant, query=query)
    return base64.urlsafe_b64encode(signature + payload).decode().rstrip("=")


def read_cursor(cursor: str, *, key: bytes, tenant: TenantId, query: Any) -> dict[str, Any]:
    """Return the position of a cursor.

    Raises:
        InvalidCursor: it was not signed by this store for this tenant and this query.
    """
    try:
        if not isinstance(cursor, str) or len(cursor) > CURSOR_MAX_CHARACTERS:
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _signature(payload, key=key, tenant=tenant, query=query)):
            raise ValueError
        return dict(decode_json(payload))
    except (ValueError, binascii.Error) as exc:
        raise InvalidCursor(
            "cursor",
            "must be the `next_cursor` of a page of this very query",
            given=cursor,
            hint="Start again without one.",
        ) from exc


def _signature(payload: bytes, *, key: bytes, tenant: TenantId, query: Any) -> bytes:
    bound = encode_json([tenant, query]).encode()
    digest = hmac.new(key, len(bound).to_bytes(8, "big") + bound + payload, hashlib.sha256).digest()
    return digest[:_SIGNATURE_BYTES]
