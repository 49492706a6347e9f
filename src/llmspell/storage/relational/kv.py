"""The key-value store on a database.

Rule: expiry is decided by the injected clock, handed to each query as `:now`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from llmspell.codec import require_key, require_limit, require_size, require_text
from llmspell.storage.contracts.capabilities import BackendType, Characteristics
from llmspell.storage.contracts.checks import require_items, require_ttl, require_value
from llmspell.storage.contracts.kv import BATCH_MAX
from llmspell.storage.relational.database import Executor, Unit
from llmspell.storage.relational.runtime import Runtime

LIST_MAX = 1_000_000


class RelationalKV:
    """`KV` by the queries of `kv.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._queries = runtime.catalog.kv

    async def get(self, key: str) -> bytes | None:
        require_key(key)
        value = await self._unit.value(self._queries.get, key=key, now=self._now())
        return None if value is None else bytes(value)

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        await self._unit.execute(self._queries.set, **self._item(require_key(key), require_value(value), ttl_s))

    async def delete(self, key: str) -> bool:
        require_key(key)
        return bool(await self._unit.value(self._queries.delete, key=key, now=self._now()))

    async def exists(self, key: str) -> bool:
        require_key(key)
        return await self._unit.value(self._queries.exists, key=key, now=self._now()) is not None

    async def list_keys(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> list[str]:
        require_text(prefix, field="prefix")
        if after is not None:
            require_text(after, field="after")
        most = LIST_MAX if limit is None else require_limit(limit, maximum=LIST_MAX)
        rows = await self._unit.rows(
            self._queries.list_keys,
            first=prefix,
            beyond=after_prefix(prefix),
            after=after if after is not None else "",
            now=self._now(),
            limit=most,
        )
        return [row[0] for row in rows]

    async def get_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        wanted = self._keys(keys)
        if not wanted:
            return {}
        rows = await self._unit.rows(self._queries.get_batch, keys=self._runtime.dialect.array(wanted), now=self._now())
        return {key: bytes(value) for key, value in rows}

    async def set_batch(self, items: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        checked = require_items(items)
        # Sorted: two overlapping batches lock their rows in the same order, so they cannot deadlock.
        rows = [self._item(key, checked[key], ttl_s) for key in sorted(checked)]
        if rows:
            await self._unit.batch([(self._queries.set, rows)])

    async def delete_batch(self, keys: Sequence[str]) -> int:
        wanted = self._keys(keys)
        if not wanted:
            return 0
        names, now = self._runtime.dialect.array(wanted), self._now()

        async def work(executor: Executor) -> int:
            live = await executor.value(self._queries.count_batch, keys=names, now=now)
            await executor.execute(self._queries.delete_batch, keys=names)
            return int(live)

        return await self._unit.write(work)

    async def clear(self) -> int:
        now = self._now()

        async def work(executor: Executor) -> int:
            live = await executor.value(self._queries.count, now=now)
            await executor.execute(self._queries.clear)
            return int(live)

        return await self._unit.write(work)

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        return await self._unit.execute(self._queries.delete_expired, now=self._now(), limit=require_limit(limit))

    def backend_type(self) -> BackendType:
        return self._runtime.characteristics.backend

    def characteristics(self) -> Characteristics:
        return self._runtime.characteristics

    def _now(self) -> Any:
        return self._runtime.dialect.instant(self._runtime.clock.now())

    def _item(self, key: str, value: bytes, ttl_s: float | None) -> dict[str, Any]:
        now = self._runtime.clock.now()
        expires = None if ttl_s is None else self._runtime.dialect.instant(now + timedelta(seconds=require_ttl(ttl_s)))
        return {
            "kv_id": self._runtime.dialect.id(self._runtime.ids.new()),
            "key": key,
            "value": value,
            "expires_at": expires,
            "now": self._runtime.dialect.instant(now),
        }

    def _keys(self, keys: Sequence[str]) -> list[str]:
        require_size(keys, field="keys", maximum=BATCH_MAX)
        return sorted({require_key(key) for key in keys})


def after_prefix(prefix: str) -> str | None:
    """Return the smallest text greater than every text that starts with `prefix`, or None when there is none.

    A prefix scan is then `key >= prefix and key < after_prefix(prefix)`, which a B-tree answers also under row-level
    security, where LIKE does not reach an index. Surrogates are skipped: they are not text.
    """
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1])
        if code < 0x10FFFF:
            following = 0xE000 if code == 0xD7FF else code + 1
            return prefix[: end - 1] + chr(following)
    return None
