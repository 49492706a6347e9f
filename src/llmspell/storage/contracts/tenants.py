"""The registry of tenants: who may be served, and how much each was granted (TEN-01 to TEN-05).

Not here: what a tenant id may be (`tenant`); refusing what exceeds a quota, which is the writer's work and is not done yet.

Rule 1: what changes a tenant is the operator's work, and is recorded in the tenant's audit log in the same transaction; so is its
creation. When the entry cannot be written, nothing is changed.
Rule 2: a tenant that is not active is refused in every call. Its data stays: deleting a tenant marks it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, TypeAlias

import msgspec

from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.pages import Page
from llmspell.tenant import TenantId

TenantStatus: TypeAlias = Literal["active", "suspended", "deleted"]
IsolationLevel: TypeAlias = Literal["strict"]
"""How tenants are kept apart (TEN-04): by the database itself where it can, in every query everywhere."""

QUOTA_MAX = 2**53 - 1
"""The largest whole number that every reader of JSON keeps."""
SYSTEM = "llmspell"
"""The principal of what nobody asked for in person: a tenant that its first write creates."""
OPERATOR = "operator"
"""The principal of an operator who gave no name."""


class QuotaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant was granted (TEN-03); 0 is nothing. Recorded here; nothing refuses what exceeds them yet."""

    max_documents: int = 10_000
    max_storage_mb: int = 1_024
    max_vectors: int = 1_000_000
    max_api_calls_per_minute: int = 100
    max_api_calls_per_day: int = 10_000
    max_embeddings_per_day: int = 50_000


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One registered tenant (TEN-02)."""

    tenant_id: TenantId
    name: str
    status: TenantStatus
    created_at: datetime
    updated_at: datetime
    quotas: QuotaLimits
    isolation_level: IsolationLevel = "strict"
    version: int = 1
    """Rises with every change; `expected_version` compares it."""
    status_reason: str | None = None
    """Why it was suspended or deleted."""

    @property
    def namespace(self) -> str:
        """How other systems name its part (TEN-05): `tenant:<id>`."""
        return f"tenant:{self.tenant_id}"


class Tenants(Protocol):
    """The registry. `create` and `get` are bound to the tenant that they name, so they work for the application's own role; the
    rest is the operator's.
    """

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
        """Register a tenant (its name defaults to its id).

        Raises:
            AlreadyExists: it is registered and `exist_ok` is False. The id of a deleted tenant stays taken.
            TenantInactive: `exist_ok` is True, and the tenant was deleted.
        """
        ...

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        """Return the tenant, or None when it is not registered."""
        ...

    async def list(
        self, *, status: TenantStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[TenantRecord]:
        """Return tenants by id, in byte order."""
        ...

    async def update(
        self,
        tenant: TenantId,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        """Change the name or the quotas of a tenant that was not deleted; what is None stays.

        Raises:
            NotFound: it is not registered.
            VersionConflict: `expected_version` is not its version.
            TenantInactive: it was deleted.
        """
        ...

    async def set_status(
        self,
        tenant: TenantId,
        status: TenantStatus,
        *,
        reason: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        """Suspend, resume or delete a tenant; one that has the status already stays as it is, and nothing is recorded.

        Raises:
            NotFound: it is not registered.
            VersionConflict: `expected_version` is not its version.
            TenantInactive: it was deleted, which is final.
        """
        ...

    def audit(self, tenant: TenantId) -> Audit:
        """Return the audit log of a tenant for the operator, whatever the tenant's status; a tenant that is not registered has an
        empty one.
        """
        ...
