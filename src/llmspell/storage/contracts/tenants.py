"""The registry of tenants: who may be served, and how much each was granted (TEN-01 to TEN-05).

Not here: what a tenant id may be (`tenant`).

Rule 1: what changes a tenant is the operator's work, and is recorded in the tenant's audit log in the same transaction; so is its
creation. When the entry cannot be written, nothing is changed.
Rule 2: a tenant that is not active is refused in every call. Its data stays: deleting a tenant marks it.
Rule 3: what is limited is counted in the transaction of the write, whatever writes, and never exceeds its limit by any
interleaving. A write that would exceed one raises `QuotaExceeded` and leaves nothing; deleting gives back, rolling back too.
Rule 4: a limit below the use refuses what adds, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Protocol, Self, TypeAlias, get_args

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


QuotaName: TypeAlias = Literal["documents", "storage_bytes", "vectors", "embeddings"]
"""What is counted: memories, stored bytes, vectors, and texts embedded on the present UTC day."""
MEGABYTE = 1_048_576
"""What a quota calls a megabyte."""
MEGABYTES_MAX = 2**43 - 1
"""More megabytes than this are no more bytes: a counter holds 63 bits."""


class QuotaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant was granted (TEN-03): 0 is nothing, None is no limit.

    `max_api_calls_…` are recorded for the server, and refuse nothing here.
    """

    max_documents: int | None = 10_000
    """Memories; one that has expired counts until it is deleted."""
    max_storage_mb: int | None = 1_024
    """Mebibytes (1,048,576 bytes) of memories' texts, values of keys and contents of artifacts as they are stored."""
    max_vectors: int | None = 1_000_000
    """Free vectors, and windows of embedded memories, in all spaces."""
    max_api_calls_per_minute: int | None = 100
    max_api_calls_per_day: int | None = 10_000
    max_embeddings_per_day: int | None = 50_000
    """Texts and windows that the embedder is asked for, per UTC day of the store's clock."""

    @classmethod
    def only(
        cls,
        *,
        max_documents: int | None = None,
        max_storage_mb: int | None = None,
        max_vectors: int | None = None,
        max_embeddings_per_day: int | None = None,
    ) -> Self:
        """Return quotas that limit what is named, and nothing else."""
        return cls(
            max_documents=max_documents,
            max_storage_mb=max_storage_mb,
            max_vectors=max_vectors,
            max_api_calls_per_minute=None,
            max_api_calls_per_day=None,
            max_embeddings_per_day=max_embeddings_per_day,
        )

    def limit_of(self, quota: QuotaName) -> int | None:
        """Return the limit of what is counted, in its unit."""
        if quota != "storage_bytes":
            return {"documents": self.max_documents, "vectors": self.max_vectors}.get(
                quota, self.max_embeddings_per_day
            )
        return None if self.max_storage_mb is None else min(self.max_storage_mb, MEGABYTES_MAX) * MEGABYTE


NO_LIMITS = QuotaLimits.only()
"""Nothing is limited, and nothing is counted."""


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a quota is used."""

    used: int
    limit: int | None
    """None: no limit."""

    @property
    def remaining(self) -> int | None:
        """What is left, 0 where the use is above the limit; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used)

    def admits(self, amount: int) -> bool:
        """Whether so much more would be accepted."""
        return self.limit is None or amount <= 0 or self.used + amount <= self.limit


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant uses of its quotas, as one snapshot shows it."""

    documents: QuotaUse
    """Memories."""
    storage_bytes: QuotaUse
    """Bytes of memories' texts, values of keys, and contents of artifacts as they are stored."""
    vectors: QuotaUse
    """Free vectors and windows of memories, in all spaces."""
    embeddings: QuotaUse
    """Texts that the embedder was asked for on the present UTC day; counted only while they are limited."""

    @classmethod
    def of(cls, quotas: QuotaLimits, used: Mapping[QuotaName, int]) -> Self:
        """Return the use of quotas; what is not named is not used."""
        uses = {name: QuotaUse(used=used.get(name, 0), limit=quotas.limit_of(name)) for name in get_args(QuotaName)}
        return cls(**uses)


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

    async def usage(self, tenant: TenantId) -> TenantUsage:
        """Return what the tenant uses, and may use; whatever its status is.

        Raises:
            NotFound: it is not registered.
        """
        ...

    async def take_embeddings(self, tenant: TenantId, count: int) -> None:
        """Count texts that are about to be embedded today. They count whatever becomes of what is made of them.

        A store that serves many clients has a clock of its own for that: none of them opens a day by being ahead.

        Raises:
            NotFound: the tenant is not registered; nothing was counted.
            QuotaExceeded: they would be more than the tenant may have embedded today; nothing was counted.
        """
        ...

    def audit(self, tenant: TenantId) -> Audit:
        """Return the audit log of a tenant for the operator, whatever the tenant's status; a tenant that is not registered has an
        empty one.
        """
        ...
