"""Idempotency keys on a database.

Rule: a claim is one conditional insert: on a server it waits for another transaction that claims the same key.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from llmspell.errors import Conflict, IdempotencyConflict, NotFound
from llmspell.storage.contracts.checks import require_ttl
from llmspell.storage.contracts.idempotency import (
    TTL_S,
    require_expire_limit,
    require_idempotency_key,
    require_operation,
    require_recorded,
    require_result,
)
from llmspell.storage.relational.database import Row, Unit
from llmspell.storage.relational.runtime import Runtime


class RelationalIdempotency:
    """`Idempotency` by the queries of `idempotency.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._queries = runtime.catalog.idempotency

    async def find(self, key: str, *, operation: str, fingerprint: bytes) -> bytes | None:
        require_idempotency_key(key)
        asked = require_operation(operation, fingerprint)
        row = await self._unit.row(self._queries.find, key=key, now=self._now())
        return None if row is None else _result(key, row, asked)

    async def claim(self, key: str, *, operation: str, fingerprint: bytes, ttl_s: float = TTL_S) -> bytes | None:
        require_idempotency_key(key)
        asked = require_operation(operation, fingerprint)
        now = self._runtime.clock.now()
        claimed = await self._unit.execute(
            self._queries.claim,
            key=key,
            operation=operation,
            fingerprint=fingerprint,
            now=self._runtime.dialect.instant(now),
            expires_at=self._runtime.dialect.instant(now + timedelta(seconds=require_ttl(ttl_s))),
        )
        if claimed:
            return None
        row = await self._unit.row(self._queries.find, key=key, now=self._now())
        if row is None:  # it was used, and forgotten between the two
            raise Conflict("The idempotency key was forgotten at this very moment.", idempotency_key=key)
        return require_recorded(key, _result(key, row, asked))

    async def record(self, key: str, result: bytes) -> None:
        require_idempotency_key(key)
        if not await self._unit.execute(self._queries.record, key=key, result=require_result(result)):
            raise NotFound("The idempotency key was not claimed.", idempotency_key=key)

    async def expire(self, *, limit: int = 1_000) -> int:
        return await self._unit.execute(self._queries.expire, now=self._now(), limit=require_expire_limit(limit))

    def _now(self) -> Any:
        return self._runtime.dialect.instant(self._runtime.clock.now())


def _result(key: str, row: Row, asked: tuple[str, bytes]) -> bytes | None:
    operation, fingerprint, result = row
    if (operation, bytes(fingerprint)) != asked:
        raise IdempotencyConflict(idempotency_key=key, used_for=operation, asked_for=asked[0])
    return None if result is None else bytes(result)
