"""The registry of tenants: who may be served.

Not here: quotas and policies (`tenancy`), what a tenant id may be (`tenant`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, TypeAlias

import msgspec

from llmspell.tenant import TenantId

TenantStatus: TypeAlias = Literal["active", "suspended", "deleted"]


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One registered tenant."""

    tenant_id: TenantId
    name: str
    status: TenantStatus
    created_at: datetime


class Tenants(Protocol):
    """The registry. Each call is bound to the tenant that it names, so it works for the application's own role."""

    async def create(self, tenant: TenantId, *, name: str | None = None, exist_ok: bool = False) -> TenantRecord:
        """Register a tenant (its name defaults to its id).

        Raises:
            AlreadyExists: it is registered and `exist_ok` is False.
        """
        ...

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        """Return the tenant, or None when it is not registered."""
        ...
