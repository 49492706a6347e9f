"""Idempotency keys in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from llmspell.clock import Clock
from llmspell.errors import IdempotencyConflict, NotFound
from llmspell.storage.contracts.checks import require_ttl
from llmspell.storage.contracts.idempotency import (
    TTL_S,
    require_expire_limit,
    require_idempotency_key,
    require_operation,
    require_recorded,
    require_result,
)
from llmspell.storage.inmemory.store import Row, State, Unit


class UsedKey(NamedTuple):
    """What a key was used for. The result is None until it is recorded, in the same transaction."""

    operation: str
    fingerprint: bytes
    expires_at: datetime
    result: bytes | None
    created_at: datetime


class InMemoryIdempotency:
    """`Idempotency` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock) -> None:
        self._unit = unit
        self._clock = clock

    async def find(self, key: str, *, operation: str, fingerprint: bytes) -> bytes | None:
        require_idempotency_key(key)
        asked = require_operation(operation, fingerprint)
        used = await self._unit.read(lambda state: state.idempotency.get(key))
        return None if used is None or used.expires_at <= self._clock.now() else _result(key, used, asked)

    async def claim(self, key: str, *, operation: str, fingerprint: bytes, ttl_s: float = TTL_S) -> bytes | None:
        require_idempotency_key(key)
        asked = require_operation(operation, fingerprint)
        now = self._clock.now()
        mine = UsedKey(*asked, now + timedelta(seconds=require_ttl(ttl_s)), None, now)

        def work(state: State) -> bytes | None:
            used = state.idempotency.get(key)
            if used is not None and used.expires_at > now:
                return require_recorded(key, _result(key, used, asked))
            state.idempotency.put(key, mine)
            return None

        return await self._unit.write(work)

    async def record(self, key: str, result: bytes) -> None:
        require_idempotency_key(key)
        kept = require_result(result)

        def work(state: State) -> None:
            used = state.idempotency.get(key)
            if used is None:
                raise NotFound("The idempotency key was not claimed.", idempotency_key=key)
            state.idempotency.put(key, used._replace(result=kept))

        await self._unit.write(work)

    async def expire(self, *, limit: int = 1_000) -> int:
        most, now = require_expire_limit(limit), self._clock.now()

        def work(state: State) -> int:
            old = sorted((used.expires_at, key) for key, used in state.idempotency.items() if used.expires_at <= now)
            for _, key in old[:most]:
                state.idempotency.remove(key)
            return len(old[:most])

        return await self._unit.write(work)


def _result(key: str, used: UsedKey, asked: tuple[str, bytes]) -> bytes | None:
    if (used.operation, used.fingerprint) != asked:
        raise IdempotencyConflict(idempotency_key=key, used_for=used.operation, asked_for=asked[0])
    return used.result


def rows(state: State) -> Iterator[Row]:
    """Yield the rows of `idempotency_keys`."""
    for key, used in state.idempotency.items():
        yield {"idempotency_key": key, **used._asdict()}


def load(state: State, row: Row) -> None:
    """Keep a row of `idempotency_keys`."""
    state.idempotency.put(row["idempotency_key"], UsedKey(**{name: row[name] for name in UsedKey._fields}))
