"""What the registry of tenants takes, how a tenant may change, and what is recorded of that: pure, the same on every backend."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias, cast, get_args

import msgspec

from llmspell.clock import EPOCH
from llmspell.codec import NAME_MAX_BYTES, require_key, require_limit, require_text
from llmspell.errors import AlreadyExists, InvalidInput, NotFound, QuotaExceeded, TenantInactive, VersionConflict
from llmspell.storage.contracts.audit import REASON_MAX_BYTES, NewAuditEntry
from llmspell.storage.contracts.audit_checks import require_principal
from llmspell.storage.contracts.tenants import (
    MEGABYTE,
    NO_LIMITS,
    OPERATOR,
    QUOTA_MAX,
    IsolationLevel,
    QuotaLimits,
    QuotaName,
    QuotaUse,
    TenantRecord,
    TenantStatus,
    TenantUsage,
)
from llmspell.tenant import TenantId, tenant_id

VERSION_MAX = 2**31 - 1
DELETED = "The tenant was deleted, which is final."
NOT_REGISTERED = "The tenant is not registered."
Operation: TypeAlias = Literal["create", "update", "suspend", "resume", "delete"]
_OPERATIONS: dict[TenantStatus, Operation] = {"suspended": "suspend", "active": "resume", "deleted": "delete"}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it shall be, and what is recorded of that."""

    record: TenantRecord
    entry: NewAuditEntry


def new_tenant(
    tenant: TenantId,
    *,
    name: str | None,
    quotas: QuotaLimits | None,
    isolation_level: IsolationLevel,
    actor: str | None,
    now: datetime,
) -> Change:
    """Return a tenant to be registered.

    Raises:
        InvalidInput: names the argument.
    """
    id = tenant_id(tenant)
    record = TenantRecord(
        tenant_id=id,
        name=id if name is None else require_name(name),
        status="active",
        created_at=now,
        updated_at=now,
        quotas=NO_LIMITS if quotas is None else require_quotas(quotas),
        isolation_level=_require_isolation_level(isolation_level),
    )
    return Change(record=record, entry=_entry("create", record, actor, name=record.name))


def registered(known: TenantRecord, *, exist_ok: bool) -> TenantRecord:
    """Return a tenant that is registered already, where that is accepted. A deleted one never is: it serves nobody again.

    Raises:
        AlreadyExists: it is not accepted; `TenantInactive`: it would be, and the tenant was deleted.
    """
    if known.status == "deleted":
        kind = TenantInactive if exist_ok else AlreadyExists
        raise kind(DELETED, tenant=known.tenant_id, hint="Choose another id.")
    if not exist_ok:
        raise AlreadyExists(
            "The tenant exists already.", tenant=known.tenant_id, hint="Pass exist_ok=True to accept that."
        )
    return known


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to change a tenant's name or quotas."""

    name: str | None
    quotas: QuotaLimits | None
    expected_version: int | None
    actor: str

    def of(self, tenant: TenantId, known: TenantRecord | None, now: datetime) -> Change | TenantRecord:
        """Return the change, or the tenant as it is when nothing would change.

        Raises:
            NotFound, TenantInactive, VersionConflict.
        """
        record = _changeable(tenant, known, self.expected_version)
        fields = {"name": self.name or record.name, "quotas": self.quotas or record.quotas}
        details = {key: value for key, value in fields.items() if value != getattr(record, key)}
        if not details:
            return record
        changed = msgspec.structs.replace(record, **fields, updated_at=now, version=record.version + 1)
        return Change(record=changed, entry=_entry("update", changed, self.actor, **msgspec.to_builtins(details)))


class StatusUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to suspend, resume or delete a tenant."""

    status: TenantStatus
    reason: str | None
    expected_version: int | None
    actor: str

    def of(self, tenant: TenantId, known: TenantRecord | None, now: datetime) -> Change | TenantRecord:
        """Return the change, or the tenant as it is when it has the status already.

        Raises:
            NotFound, TenantInactive, VersionConflict.
        """
        if known is not None and known.status == self.status and self.expected_version in (None, known.version):
            return known
        record = _changeable(tenant, known, self.expected_version)
        kept = None if self.status == "active" else self.reason
        changed = msgspec.structs.replace(
            record, status=self.status, status_reason=kept, updated_at=now, version=record.version + 1
        )
        entry = _entry(_OPERATIONS[self.status], changed, self.actor, before=record.status)
        return Change(record=changed, entry=msgspec.structs.replace(entry, reason=self.reason))


def require_update(
    *, name: str | None, quotas: QuotaLimits | None, expected_version: int | None, actor: str | None
) -> Update:
    """Return a checked update.

    Raises:
        InvalidInput: names the argument.
    """
    return Update(
        name=None if name is None else require_name(name),
        quotas=None if quotas is None else require_quotas(quotas),
        expected_version=_require_version(expected_version),
        actor=require_actor(actor),
    )


def require_status_update(
    status: TenantStatus, *, reason: str | None, expected_version: int | None, actor: str | None
) -> StatusUpdate:
    """Return a checked change of status.

    Raises:
        InvalidInput: names the argument.
    """
    return StatusUpdate(
        status=require_status(status),
        reason=None if reason is None else require_text(reason, field="reason", max_bytes=REASON_MAX_BYTES),
        expected_version=_require_version(expected_version),
        actor=require_actor(actor),
    )


def require_name(value: object) -> str:
    """Return what people call a tenant.

    Raises:
        InvalidKey: not text of 1 to 500 bytes.
    """
    return require_key(value, field="name", max_bytes=NAME_MAX_BYTES)


def require_actor(value: str | None) -> str:
    """Return who asks for a change; without a name, the operator.

    Raises:
        InvalidKey: not text of 1 to 500 bytes.
    """
    return OPERATOR if value is None else require_principal(value, field="actor")


def require_status(value: TenantStatus) -> TenantStatus:
    """Return a status.

    Raises:
        InvalidInput: none of the three.
    """
    if value not in get_args(TenantStatus):
        raise InvalidInput("status", f"must be one of {', '.join(get_args(TenantStatus))}", given=value)
    return value


def require_quotas(value: QuotaLimits) -> QuotaLimits:
    """Return quotas: whole numbers from 0, or None for no limit.

    Raises:
        InvalidInput: not a QuotaLimits.
        InvalidLimit: names the quota.
    """
    if not isinstance(value, QuotaLimits):
        raise InvalidInput("quotas", "must be QuotaLimits", given=type(value).__name__)
    for name in value.__struct_fields__:
        if getattr(value, name) is not None:
            require_limit(getattr(value, name), field=f"quotas.{name}", maximum=QUOTA_MAX, minimum=0)
    return value


def require_quota_name(value: object, field: str = "op") -> QuotaName:
    """Return the name of what is counted.

    Raises:
        InvalidInput: none of the four.
    """
    if value not in get_args(QuotaName):
        raise InvalidInput(field, f"must be one of {', '.join(get_args(QuotaName))}", given=value)
    return cast("QuotaName", value)


def require_amount(value: object, field: str = "count") -> int:
    """Return how much is to be added to a use.

    Raises:
        InvalidLimit: no whole number from 0.
    """
    return require_limit(value, field=field, maximum=QUOTA_MAX, minimum=0)


_WORDS = {
    "max_documents": "memories",
    "max_storage_mb": "stored bytes",
    "max_vectors": "vectors",
    "max_embeddings_per_day": "texts embedded today",
}
QUOTA_OF: dict[QuotaName, str] = {
    "documents": "max_documents",
    "storage_bytes": "max_storage_mb",
    "vectors": "max_vectors",
    "embeddings": "max_embeddings_per_day",
}


def exceeded(quota: str, *, limit: int, used: int, asked: int) -> QuotaExceeded:
    """Return the refusal of what does not fit into a quota. `used` is without it; stored bytes are bytes, not megabytes."""
    what = _WORDS[quota]
    granted = f"{limit:,} {what}" + (f" ({limit // MEGABYTE:,} MB)" if quota == "max_storage_mb" else "")
    texts = quota == "max_embeddings_per_day"
    return QuotaExceeded(
        f"The tenant's quota is {granted}; {used:,} are used, and this would add {asked:,}."
        f" Nothing was {'embedded' if texts else 'written'}.",
        hint="Wait for the next UTC day, or have the quota raised." if texts else "",
        quota=quota,
        limit=limit,
        used=used,
        asked=asked,
    )


def unregistered(tenant: TenantId, *, asked: int) -> QuotaExceeded:
    """Return the refusal of texts to embed for a tenant that is not registered, where they are limited."""
    return QuotaExceeded(
        "Only a registered tenant has texts embedded where that is limited; its first write registers it.",
        tenant=tenant,
        quota="max_embeddings_per_day",
        limit=0,
        used=0,
        asked=asked,
    )


def require_room(usage: TenantUsage, quota: QuotaName, amount: int) -> None:
    """Refuse what does not fit into a quota now.

    Raises:
        QuotaExceeded.
    """
    use: QuotaUse = getattr(usage, quota)
    if use.limit is not None and not use.admits(amount):
        raise exceeded(QUOTA_OF[quota], limit=use.limit, used=use.used, asked=amount)


def read_refusal(text: str) -> QuotaExceeded | None:
    """Return the error that a database's counter spells as `quota limit used asked`; None when the text is something else."""
    quota, *numbers = text.split(" ")
    if quota not in _WORDS or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        return None
    limit, used, asked = map(int, numbers)
    return exceeded(quota, limit=limit, used=used, asked=asked)


def day_of(now: datetime) -> int:
    """Return the number of an instant's UTC day, counted from 1970-01-01."""
    return (now - EPOCH).days


def embedded_on(today: int, held: tuple[int, int]) -> tuple[int, int]:
    """Return the day that counts today, and how many texts were embedded on it, of what was counted last.

    The day that was counted last may be tomorrow: a clock that goes back a little opens no day again. One that lies further ahead
    was a wrong clock's, and binds nobody when the clock has been put right.
    """
    day, embeddings = held
    return (day, embeddings) if day - today in (0, 1) else (today, 0)


def _require_isolation_level(value: IsolationLevel) -> IsolationLevel:
    if value not in get_args(IsolationLevel):
        raise InvalidInput("isolation_level", f"must be one of {', '.join(get_args(IsolationLevel))}", given=value)
    return value


def _require_version(value: int | None) -> int | None:
    return None if value is None else require_limit(value, field="expected_version", maximum=VERSION_MAX)


def _changeable(tenant: TenantId, known: TenantRecord | None, expected_version: int | None) -> TenantRecord:
    if known is None:
        raise NotFound(NOT_REGISTERED, tenant=tenant)
    if expected_version not in (None, known.version):
        raise VersionConflict(tenant=tenant, expected=expected_version, current=known.version)
    if known.status == "deleted":
        raise TenantInactive(DELETED, tenant=tenant)
    return known


def _entry(operation: Operation, record: TenantRecord, actor: str | None, **details: Any) -> NewAuditEntry:
    return NewAuditEntry(
        operation=f"tenants.{operation}",
        principal=require_actor(actor),
        resource=record.namespace,
        details={"version": record.version, **details},
    )
