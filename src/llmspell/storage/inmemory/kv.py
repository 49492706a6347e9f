"""The key-value store in memory.

Rule: expiry is decided by the injected clock at every read; an expired item stays until something replaces or clears it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from llmspell.clock import Clock
from llmspell.codec import require_key, require_limit, require_size, require_text
from llmspell.ids import IdSource
from llmspell.storage.contracts.capabilities import BackendType, Characteristics
from llmspell.storage.contracts.checks import require_items, require_ttl, require_value
from llmspell.storage.contracts.kv import BATCH_MAX
from llmspell.storage.inmemory.capabilities import CHARACTERISTICS
from llmspell.storage.inmemory.store import Row, State, Unit

LIST_MAX = 1_000_000


class Item(NamedTuple):
    """A value, and what else its row has: `metadata` comes with rows of other stores, nothing here writes any."""

    id: UUID
    value: bytes
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    metadata: Any = None


class InMemoryKV:
    """`KV` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids

    async def get(self, key: str) -> bytes | None:
        require_key(key)
        now = self._clock.now()
        return await self._unit.read(lambda state: _value(state, key, now))

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        item = self._item(require_key(key), require_value(value), ttl_s)
        await self._unit.write(lambda state: _put(state, key, item))

    async def delete(self, key: str) -> bool:
        require_key(key)
        now = self._clock.now()
        return await self._unit.write(lambda state: _delete(state, [key], now)) == 1

    async def exists(self, key: str) -> bool:
        return await self.get(key) is not None

    async def list_keys(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> list[str]:
        require_text(prefix, field="prefix")
        most = LIST_MAX if limit is None else require_limit(limit, maximum=LIST_MAX)
        if after is not None:
            require_text(after, field="after")
        now = self._clock.now()
        items = await self._unit.read(lambda state: state.kv.items())
        # Code points and UTF-8 bytes sort alike: UTF-8 was made so.
        keys = sorted(key for key, item in items if key.startswith(prefix) and _live(item, now))
        return [key for key in keys if after is None or key > after][:most]

    async def get_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        wanted = _keys(keys)
        now = self._clock.now()

        def work(state: State) -> dict[str, bytes]:
            found = ((key, _value(state, key, now)) for key in wanted)
            return {key: value for key, value in found if value is not None}

        return await self._unit.read(work)

    async def set_batch(self, items: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        rows = {key: self._item(key, value, ttl_s) for key, value in require_items(items).items()}

        def work(state: State) -> None:
            for key, item in rows.items():
                _put(state, key, item)

        if rows:
            await self._unit.write(work)

    async def delete_batch(self, keys: Sequence[str]) -> int:
        wanted = _keys(keys)
        now = self._clock.now()
        return await self._unit.write(lambda state: _delete(state, wanted, now)) if wanted else 0

    async def clear(self) -> int:
        now = self._clock.now()
        return await self._unit.write(lambda state: _delete(state, [key for key, _ in state.kv.items()], now))

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        require_limit(limit)
        now = self._clock.now()

        def work(state: State) -> int:
            gone = [
                (item.expires_at, key) for key, item in state.kv.items() if item.expires_at and not _live(item, now)
            ]
            for _, key in sorted(gone)[:limit]:
                state.kv.remove(key)
            return min(len(gone), limit)

        return await self._unit.write(work)

    def backend_type(self) -> BackendType:
        return CHARACTERISTICS.backend

    def characteristics(self) -> Characteristics:
        return CHARACTERISTICS

    def _item(self, key: str, value: bytes, ttl_s: float | None) -> Item:
        now = self._clock.now()
        expires = None if ttl_s is None else now + timedelta(seconds=require_ttl(ttl_s))
        return Item(id=self._ids.new(), value=value, created_at=now, updated_at=now, expires_at=expires)


def _put(state: State, key: str, item: Item) -> None:
    """Store an item; one that takes the place of another goes on in its row."""
    old = state.kv.get(key)
    if old is not None:
        item = item._replace(id=old.id, created_at=old.created_at, metadata=old.metadata)
    state.kv.put(key, item)


def _live(item: Item, now: datetime) -> bool:
    return item.expires_at is None or item.expires_at > now


def _value(state: State, key: str, now: datetime) -> bytes | None:
    item = state.kv.get(key)
    return item.value if item is not None and _live(item, now) else None


def _delete(state: State, keys: Sequence[str], now: datetime) -> int:
    """Remove the keys, and return how many of them a reader would have seen."""
    live = 0
    for key in keys:
        live += _value(state, key, now) is not None
        state.kv.remove(key)
    return live


def _keys(keys: Sequence[str]) -> list[str]:
    require_size(keys, field="keys", maximum=BATCH_MAX)
    return sorted({require_key(key) for key in keys})


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `kv_store`."""
    for key, item in state.kv.items():
        yield {
            "kv_id": item.id,
            "key": key,
            "value": item.value,
            "metadata": item.metadata,
            "created_at": item.created_at,
            "updated_at": item.updated_at,
            "expires_at": item.expires_at,
        }


def load(state: State, row: Row) -> None:
    """Keep a row of `kv_store`."""
    item = Item(
        id=row["kv_id"],
        value=row["value"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        metadata=row["metadata"],
    )
    state.kv.put(row["key"], item)
