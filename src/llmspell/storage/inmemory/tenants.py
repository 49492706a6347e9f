"""The registry of tenants in memory: each record beside the store of everything the tenant has."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from llmspell.clock import Clock
from llmspell.codec import require_limit
from llmspell.errors import Conflict, NotFound, TenantInactive, TenantUnknown
from llmspell.ids import IdSource
from llmspell.storage.contracts import tenants_checks as checks
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.contracts.tenants import (
    SYSTEM,
    IsolationLevel,
    QuotaLimits,
    QuotaName,
    TenantRecord,
    TenantStatus,
    TenantUsage,
)
from llmspell.storage.inmemory.audit import InMemoryAudit
from llmspell.storage.inmemory.audit import record as record_audit
from llmspell.storage.inmemory.store import AutocommitUnit, State, TenantStore, Transaction
from llmspell.storage.inmemory.usage import COUNTED, used
from llmspell.tenant import NO_TENANT, STORE_TENANT, TenantId, tenant_id


class Snapshot(NamedTuple):
    """What one tenant had at an instant; `record` is None for one that is not registered."""

    tenant: TenantId
    record: TenantRecord | None
    state: State


class InMemoryTenants:
    """`Tenants` over a dictionary, and the one way to a tenant's store."""

    def __init__(self, clock: Clock, ids: IdSource, cursor_key: Callable[[], Awaitable[bytes]]) -> None:
        self._clock = clock
        self._ids = ids
        self._cursor_key = cursor_key
        self._cursors = Cursors(NO_TENANT, cursor_key)
        self._mutex = threading.Lock()
        self._records: dict[TenantId, TenantRecord] = {}
        self._stores: dict[TenantId, TenantStore] = {}
        self._arriving: dict[TenantId, TenantStore] = {}
        """Stores of tenants that a transfer brings, until it is committed: whoever brings the same one waits for its end."""
        self._embedded: dict[TenantId, tuple[int, int]] = {}
        """The latest day on which a tenant had texts embedded, and how many."""

    async def create(
        self,
        tenant: TenantId,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        isolation_level: IsolationLevel = "strict",
        exist_ok: bool = False,
        actor: str | None = None,
    ) -> TenantRecord:
        now = self._clock.now()
        new = checks.new_tenant(tenant, name=name, quotas=quotas, isolation_level=isolation_level, actor=actor, now=now)
        with self._mutex:
            known = self._records.get(new.record.tenant_id)
            if known is None:
                self._register(new)
                return new.record
        return checks.registered(known, exist_ok=exist_ok)

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        with self._mutex:
            return self._records.get(tenant)

    async def list(
        self, *, status: TenantStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[TenantRecord]:
        require_limit(limit)
        query = ["tenants", None if status is None else checks.require_status(status)]
        position = await self._cursors.read(cursor, query=query)
        behind = "" if position is None else position["id"]
        with self._mutex:
            records = list(self._records.values())
        found = sorted(
            (one for one in records if one.tenant_id > behind and status in (None, one.status)),
            key=lambda record: record.tenant_id,
        )
        return await self._cursors.page(
            found[: limit + 1], limit=limit, query=query, position=lambda record: {"id": record.tenant_id}
        )

    async def update(
        self,
        tenant: TenantId,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        wish = checks.require_update(name=name, quotas=quotas, expected_version=expected_version, actor=actor)
        return await self._change(tenant, wish)

    async def set_status(
        self,
        tenant: TenantId,
        status: TenantStatus,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        wish = checks.require_status_update(status, reason=reason, expected_version=expected_version, actor=actor)
        return await self._change(tenant, wish)

    async def usage(self, tenant: TenantId) -> TenantUsage:
        id, today = tenant_id(tenant), checks.day_of(self._clock.now())
        with self._mutex:
            record, store = self._records.get(id), self._stores.get(id)
            _, embeddings = checks.embedded_on(today, self._embedded.get(id, (today, 0)))
        if record is None or store is None:
            raise NotFound(checks.NOT_REGISTERED, tenant=id)

        with store.mutex:
            numbers: dict[QuotaName, int] = {quota: used(store.committed, quota) for quota in COUNTED}
        return TenantUsage.of(record.quotas, {**numbers, "embeddings": embeddings})

    async def take_embeddings(self, tenant: TenantId, count: int) -> None:
        id, asked, today = tenant_id(tenant), checks.require_amount(count), checks.day_of(self._clock.now())
        with self._mutex:
            record = self._records.get(id)
            if record is None:
                raise NotFound(checks.NOT_REGISTERED, tenant=id)
            limit = record.quotas.max_embeddings_per_day
            day, taken = checks.embedded_on(today, self._embedded.get(id, (today, 0)))
            if asked and limit is not None and taken + asked > limit:
                raise checks.exceeded("max_embeddings_per_day", limit=limit, used=taken, asked=asked)
            self._embedded[id] = (day, taken + asked)

    def audit(self, tenant: TenantId) -> Audit:
        id = tenant_id(tenant)

        def store(*, writing: bool) -> TenantStore:
            with self._mutex:
                known = self._stores.get(id)
            if known is None and writing:
                raise TenantUnknown(tenant=id)
            return known or TenantStore(id)

        return InMemoryAudit(AutocommitUnit(store), self._clock, self._ids, Cursors(id, self._cursor_key))

    async def _change(self, tenant: TenantId, wish: checks.Update | checks.StatusUpdate) -> TenantRecord:
        """Change a record and its tenant's audit log together. It waits for the tenant's open transaction, as a writer does."""
        id, now = tenant_id(tenant), self._clock.now()
        with self._mutex:
            store = self._stores.get(id) or TenantStore(id)
        await store.writer.acquire()
        try:
            with self._mutex:
                known = self._records.get(id)
            change = wish.of(id, known, now)
            if isinstance(change, TenantRecord):
                return change
            layer = store.committed.layer(Transaction())
            record_audit(layer, self._clock, self._ids, change.entry)
            with self._mutex, store.mutex:
                layer.merge()
                self._records[id] = change.record
                store.limits = change.record.quotas
            return change.record
        finally:
            store.writer.release()

    def store(self, tenant: TenantId, *, writing: bool, auto_create: bool) -> TenantStore:
        """Return the store of a tenant. One that is not registered has an empty one, which only a first write keeps.

        Raises:
            TenantUnknown: a write for a tenant that is not registered, where that does not create it.
            TenantInactive: the tenant is suspended or deleted.
        """
        with self._mutex:
            known = self._records.get(tenant)
            if known is not None:
                if known.status != "active":
                    raise TenantInactive(tenant=tenant, status=known.status)
                return self._stores[tenant]
            if not writing:
                return TenantStore(tenant)
            if not auto_create:
                raise TenantUnknown(tenant=tenant)
            return self._register(self._new(tenant))

    def stores(self) -> builtins.list[TenantStore]:
        """Return the stores of all tenants, whatever their status."""
        with self._mutex:
            return [*self._stores.values()]

    def working(self, tenant: TenantId) -> TenantStore:
        """Return a store whatever the tenant's status is, for the operator; that of the store's own jobs is made when missing.

        Raises:
            TenantUnknown: it is not registered.
        """
        with self._mutex:
            if tenant == STORE_TENANT:
                return self._stores.setdefault(tenant, TenantStore(tenant))
            if tenant not in self._stores:
                raise TenantUnknown(tenant=tenant)
            return self._stores[tenant]

    def all_with_stores(self) -> builtins.list[TenantId]:
        """Return every tenant that has a store, in byte order."""
        with self._mutex:
            return sorted(self._stores)

    def stored(self, tenant: TenantId) -> TenantStore:
        """Return a store whatever the tenant's status is; one that is not registered has a new one, which `replace` may keep."""
        with self._mutex:
            return self._stores.get(tenant) or self._arriving.setdefault(tenant, TenantStore(tenant))

    def snapshot(self, tenant: TenantId) -> Snapshot:
        """Return what a tenant has now."""
        with self._mutex:
            store, record = self._stores.get(tenant), self._records.get(tenant)
        if store is None:
            return Snapshot(tenant, record, State(tenant=tenant))
        with store.mutex:
            return Snapshot(tenant, record, store.committed.copy())

    def replace(self, changed: Sequence[tuple[TenantStore, State, TenantRecord | None]]) -> None:
        """Put whole states in the place of those of stores whose writer the caller is, all at once, with the tenants' records.

        A tenant without a record is registered, unless it is.

        Raises:
            Conflict: a tenant was registered meanwhile, whose writer the caller is not.
        """
        with self._mutex:
            for store, state, _ in changed:
                if self._stores.get(state.tenant, store) is not store:
                    raise Conflict("The tenant was registered meanwhile.", tenant=state.tenant, hint="Import it again.")
            for store, state, given in changed:
                record = given or self._records.get(state.tenant)
                if record is None and state.tenant != STORE_TENANT:
                    record = self._new(state.tenant).record
                if record is not None:
                    self._records[state.tenant] = record
                    store.limits = record.quotas
                with store.mutex:
                    store.committed = state
                self._stores[state.tenant] = store
                self._arriving.pop(state.tenant, None)

    def _new(self, tenant: TenantId) -> checks.Change:
        return checks.new_tenant(
            tenant, name=None, quotas=None, isolation_level="strict", actor=SYSTEM, now=self._clock.now()
        )

    def active(self) -> builtins.list[TenantId]:
        """Return the active tenants, in byte order."""
        with self._mutex:
            return sorted(tenant for tenant, record in self._records.items() if record.status == "active")

    def _register(self, new: checks.Change) -> TenantStore:
        """Keep a new tenant, with its creation as the first entry of its audit log."""
        store = TenantStore(new.record.tenant_id)
        record_audit(store.committed, self._clock, self._ids, new.entry)
        store.limits = new.record.quotas
        self._records[new.record.tenant_id] = new.record
        self._stores[new.record.tenant_id] = store
        return store
