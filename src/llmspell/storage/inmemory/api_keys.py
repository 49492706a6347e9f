"""Sealed provider keys in memory."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from llmspell.clock import Clock, parse_instant
from llmspell.codec import require_limit
from llmspell.errors import AlreadyExists, NotFound
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts.api_keys import (
    SWEEP_MAX,
    USES_MAX,
    ApiKeyInfo,
    ApiKeyStats,
    NewApiKey,
    ResealedApiKey,
    SealedApiKey,
)
from llmspell.storage.contracts.api_keys_checks import as_of, position, require_new, require_resealed, require_service
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.checks import require_actor
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.inmemory.audit import record
from llmspell.storage.inmemory.store import State, Unit


class StoredApiKey(NamedTuple):
    """A key with what is known of it. Its status is "active" or "inactive": whether it expired is asked with a clock."""

    info: ApiKeyInfo
    sealed: bytes


class InMemoryApiKeys:
    """`ApiKeys` over a dictionary."""

    def __init__(self, unit: Unit, clock: Clock, ids: IdSource, cursors: Cursors) -> None:
        self._unit = unit
        self._clock = clock
        self._ids = ids
        self._cursors = cursors

    async def set(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        return await self._put(new, actor=actor, rotating=False)

    async def rotate(self, new: NewApiKey, *, actor: str | None = None) -> ApiKeyInfo:
        return await self._put(new, actor=actor, rotating=True)

    async def get(self, service: str) -> ApiKeyInfo | None:
        require_service(service)
        now = self._clock.now()
        found = await self._unit.read(lambda state: _active(state, service))
        return None if found is None else as_of(found.info, now)

    async def list(
        self, *, service: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ApiKeyInfo]:
        require_limit(limit)
        query = {"api_keys": None if service is None else require_service(service)}
        after = await self._cursors.read(cursor, query=query)
        now = self._clock.now()
        rows = await self._unit.read(lambda state: state.api_keys.rows())
        found = sorted(
            (one.info for one in rows if service in (None, one.info.service)),
            key=lambda info: (info.created_at, info.key_id),
            reverse=True,
        )
        if after is not None:
            last = (datetime.fromisoformat(after["at"]), UUID(after["id"]))
            found = [info for info in found if (info.created_at, info.key_id) < last]
        shown = [as_of(info, now) for info in found[: limit + 1]]
        return await self._cursors.page(shown, limit=limit, query=query, position=position)

    async def find_sealed(self, service: str) -> SealedApiKey | None:
        require_service(service)
        now = self._clock.now()
        found = await self._unit.read(lambda state: _active(state, service))
        return None if found is None or as_of(found.info, now).status != "active" else _sealed(found)

    async def note_use(self, key_id: UUID | str, *, uses: int = 1) -> bool:
        id = parse_id(key_id, field="key_id")
        require_limit(uses, field="uses", maximum=USES_MAX)
        now = self._clock.now()

        def work(state: State) -> bool:
            found = state.api_keys.get(id)
            if found is not None:
                info = replace(found.info, usage_count=found.info.usage_count + uses, last_used_at=now)
                state.api_keys.put(id, StoredApiKey(info, found.sealed))
            return found is not None

        return await self._unit.write(work)

    async def deactivate(self, service: str, *, actor: str | None = None) -> ApiKeyInfo:
        require_service(service)
        entry = _entry("deactivate", service, require_actor(actor))
        now = self._clock.now()

        def work(state: State) -> ApiKeyInfo:
            record(state, self._clock, self._ids, entry)
            retired = _retire(state, service, now)
            if retired is None:
                raise NotFound("The service has no active key.", service=service)
            return retired

        return await self._unit.write(work)

    async def delete(self, service: str, *, actor: str | None = None) -> int:
        require_service(service)
        entry = _entry("delete", service, require_actor(actor))

        def work(state: State) -> int:
            record(state, self._clock, self._ids, entry)
            ids = [id for id, one in state.api_keys.items() if one.info.service == service]
            if not ids:
                raise NotFound("The service has no key.", service=service)
            for id in ids:
                state.api_keys.remove(id)
            return len(ids)

        return await self._unit.write(work)

    async def expire(self, *, limit: int = 1_000) -> int:
        require_limit(limit, maximum=SWEEP_MAX)
        now = self._clock.now()

        def work(state: State) -> int:
            due = [one for one in state.api_keys.rows() if as_of(one.info, now).status == "expired"]
            due = sorted(due, key=lambda one: (one.info.expires_at, one.info.key_id))[:limit]
            for one in due:
                _replace(state, one, replace(one.info, status="inactive", deactivated_at=now))
            return len(due)

        return await self._unit.write(work)

    async def prune(self, *, before: datetime | str, limit: int = 1_000) -> int:
        instant = parse_instant(before, field="before")
        require_limit(limit, maximum=SWEEP_MAX)

        def work(state: State) -> int:
            ended = [
                (one.info.deactivated_at, id)
                for id, one in state.api_keys.items()
                if one.info.deactivated_at is not None and one.info.deactivated_at < instant
            ]
            for _, id in sorted(ended)[:limit]:
                state.api_keys.remove(id)
            return len(ended[:limit])

        return await self._unit.write(work)

    async def stats(self) -> ApiKeyStats:
        now = self._clock.now()
        infos = [as_of(one.info, now) for one in await self._unit.read(lambda state: state.api_keys.rows())]
        return ApiKeyStats(
            total_keys=len(infos),
            active_keys=sum(info.status == "active" for info in infos),
            expired_keys=sum(info.expires_at is not None and info.expires_at <= now for info in infos),
            rotated_keys=sum(info.rotated_from is not None for info in infos),
            services=len({info.service for info in infos}),
            total_usage=sum(info.usage_count for info in infos),
            last_used_at=max((info.last_used_at for info in infos if info.last_used_at is not None), default=None),
        )

    async def list_sealed(self, *, after: UUID | str | None = None, limit: int = 100) -> builtins.list[SealedApiKey]:
        require_limit(limit)
        beyond = None if after is None else parse_id(after, field="after")
        rows = await self._unit.read(lambda state: state.api_keys.items())
        return [_sealed(one) for id, one in sorted(rows) if beyond is None or id > beyond][:limit]

    async def reseal(self, items: Sequence[ResealedApiKey], *, actor: str | None = None) -> int:
        resealed = require_resealed(items)
        entry = _entry("reseal", "*", require_actor(actor), keys=len(resealed))

        def work(state: State) -> int:
            record(state, self._clock, self._ids, entry)
            done = 0
            for item in resealed:
                found = state.api_keys.get(item.key_id)
                if found is not None and found.sealed == item.expected:
                    state.api_keys.put(item.key_id, StoredApiKey(found.info, item.sealed))
                    done += 1
            return done

        return await self._unit.write(work) if resealed else 0

    async def _put(self, new: NewApiKey, *, actor: str | None, rotating: bool) -> ApiKeyInfo:
        checked = require_new(new)
        verb = "rotate" if rotating else "set"
        entry = _entry(verb, checked.service, require_actor(actor), key_id=str(checked.key_id))
        now = self._clock.now()

        def work(state: State) -> ApiKeyInfo:
            record(state, self._clock, self._ids, entry)
            old = _retire(state, checked.service, now)
            if rotating and old is None:
                raise NotFound("The service has no active key to rotate.", service=checked.service)
            if checked.key_id in state.api_keys:
                raise AlreadyExists("There is an API key of that id.", key_id=str(checked.key_id))
            kept = old.metadata if rotating and old is not None else {}
            info = ApiKeyInfo(
                key_id=checked.key_id,
                service=checked.service,
                status="active",
                metadata=kept if checked.metadata is None else checked.metadata,
                created_at=now,
                expires_at=checked.expires_at,
                last_used_at=None,
                usage_count=0,
                rotated_from=None if old is None else old.key_id,
                deactivated_at=None,
            )
            state.api_keys.put(info.key_id, StoredApiKey(info, checked.sealed))
            return as_of(info, now)

        return await self._unit.write(work)


def _entry(verb: str, service: str, actor: str, **details: str | int) -> NewAuditEntry:
    return NewAuditEntry(
        operation=f"api_keys.{verb}", principal=actor, resource=f"api_keys/{service}", details={**details}
    )


def _active(state: State, service: str) -> StoredApiKey | None:
    rows = state.api_keys.rows()
    return next((one for one in rows if one.info.service == service and one.info.status == "active"), None)


def _retire(state: State, service: str, now: datetime) -> ApiKeyInfo | None:
    active = _active(state, service)
    if active is None:
        return None
    return _replace(state, active, replace(active.info, status="inactive", deactivated_at=now))


def _replace(state: State, stored: StoredApiKey, info: ApiKeyInfo) -> ApiKeyInfo:
    state.api_keys.put(info.key_id, StoredApiKey(info, stored.sealed))
    return info


def _sealed(stored: StoredApiKey) -> SealedApiKey:
    info = stored.info
    return SealedApiKey(key_id=info.key_id, service=info.service, sealed=stored.sealed, last_used_at=info.last_used_at)
