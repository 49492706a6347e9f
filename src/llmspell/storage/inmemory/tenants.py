"""The registry of tenants in memory: each record beside the store of everything the tenant has."""

from __future__ import annotations

import threading

from llmspell.clock import Clock
from llmspell.codec import NAME_MAX_BYTES, require_key
from llmspell.errors import AlreadyExists, TenantInactive, TenantUnknown
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.inmemory.store import TenantStore
from llmspell.tenant import STORE_TENANT, TenantId, tenant_id


class InMemoryTenants:
    """`Tenants` over a dictionary, and the one way to a tenant's store."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._records: dict[TenantId, TenantRecord] = {}
        self._stores: dict[TenantId, TenantStore] = {}

    async def create(self, tenant: TenantId, *, name: str | None = None, exist_ok: bool = False) -> TenantRecord:
        tenant = tenant_id(tenant)
        shown = tenant if name is None else require_key(name, field="name", max_bytes=NAME_MAX_BYTES)
        with self._mutex:
            known = self._records.get(tenant)
            if known is not None and not exist_ok:
                raise AlreadyExists(
                    "The tenant exists already.", tenant=tenant, hint="Pass exist_ok=True to accept that."
                )
            return known or self._register(tenant, shown)

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        with self._mutex:
            return self._records.get(tenant)

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
                return TenantStore()
            if not auto_create:
                raise TenantUnknown(tenant=tenant)
            self._register(tenant, tenant)
            return self._stores[tenant]

    def working(self, tenant: TenantId) -> TenantStore:
        """Return a store whatever the tenant's status is, for the operator; that of the store's own jobs is made when missing.

        Raises:
            TenantUnknown: it is not registered.
        """
        with self._mutex:
            if tenant == STORE_TENANT:
                return self._stores.setdefault(tenant, TenantStore())
            if tenant not in self._stores:
                raise TenantUnknown(tenant=tenant)
            return self._stores[tenant]

    def all_with_stores(self) -> list[TenantId]:
        """Return every tenant that has a store, in byte order."""
        with self._mutex:
            return sorted(self._stores)

    def active(self) -> list[TenantId]:
        """Return the active tenants, in byte order."""
        with self._mutex:
            return sorted(tenant for tenant, record in self._records.items() if record.status == "active")

    def _register(self, tenant: TenantId, name: str) -> TenantRecord:
        record = TenantRecord(tenant_id=tenant, name=name, status="active", created_at=self._clock.now())
        self._records[tenant] = record
        self._stores[tenant] = TenantStore()
        return record
