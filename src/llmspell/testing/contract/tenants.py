"""What `Tenants` promises."""

from __future__ import annotations

import asyncio
from typing import Any, get_type_hints
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidTenant,
    InvalidText,
    NotFound,
    TenantInactive,
    VersionConflict,
)
from llmspell.storage.contracts.audit import AuditEntry
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.tenants import NO_LIMITS, OPERATOR, QuotaLimits, TenantRecord, Tenants
from llmspell.tenant import TenantId
from llmspell.testing.contract import new_tenant, refused

CALLERS = 8


def unused() -> TenantId:
    """Return a tenant id that no other test knows."""
    return TenantId(f"tenant-{uuid4().hex}")


async def log_of(backend: Backend, tenant: TenantId) -> list[AuditEntry]:
    """Return the audit log of an active tenant, latest first, after its hashes were checked."""
    audit = backend.storages(tenant).audit
    assert (await audit.verify()).intact
    return (await audit.list()).items


class TenantsContract:
    """Subclass it in a test module; see the package."""

    async def test_a_tenant_is_there_once_it_was_created(self, backend: Backend, clock: ManualClock) -> None:
        tenant = unused()

        created = await backend.tenants.create(tenant, name="Acme")

        assert (created.tenant_id, created.name, created.status) == (tenant, "Acme", "active")
        assert created.created_at == clock.now()
        assert await backend.tenants.get(tenant) == created

    async def test_the_name_of_a_tenant_is_its_id_unless_it_has_one(self, backend: Backend) -> None:
        tenant = unused()

        assert (await backend.tenants.create(tenant)).name == tenant

    async def test_a_tenant_that_was_never_created_is_none(self, backend: Backend) -> None:
        assert await backend.tenants.get(unused()) is None

    async def test_creating_a_tenant_twice_is_refused(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        with pytest.raises(AlreadyExists):
            await backend.tenants.create(tenant)

    async def test_creating_a_tenant_again_can_be_accepted_and_changes_nothing(self, backend: Backend) -> None:
        tenant = unused()
        first = await backend.tenants.create(tenant, name="first")

        again = await backend.tenants.create(tenant, name="second", exist_ok=True)

        assert again == first

    async def test_of_callers_that_create_one_tenant_at_once_one_succeeds(self, backend: Backend) -> None:
        tenant = unused()

        outcomes = await asyncio.gather(
            *(backend.tenants.create(tenant) for _ in range(CALLERS)), return_exceptions=True
        )

        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == CALLERS - 1
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1

    async def test_a_tenant_id_that_none_can_have_is_refused(self, backend: Backend) -> None:
        async with refused(InvalidTenant, "tenant"):
            await backend.tenants.create(TenantId(""))

    async def test_a_name_that_is_too_long_is_refused_and_nothing_is_created(self, backend: Backend) -> None:
        tenant = unused()

        async with refused(InvalidKey, "name"):
            await backend.tenants.create(tenant, name="n" * 501)

        assert await backend.tenants.get(tenant) is None

    async def test_a_tenant_has_no_quotas_unless_it_gets_some(self, backend: Backend) -> None:
        assert (await backend.tenants.create(unused())).quotas == NO_LIMITS

    async def test_quotas_that_are_given_without_numbers_are_those_of_the_requirements(self, backend: Backend) -> None:
        """TEN-02, TEN-03, TEN-04, TEN-05."""
        tenant = unused()

        record = await backend.tenants.create(tenant, quotas=QuotaLimits())

        assert record.quotas == QuotaLimits(
            max_documents=10_000,
            max_storage_mb=1_024,
            max_vectors=1_000_000,
            max_api_calls_per_minute=100,
            max_embeddings_per_day=50_000,
        )
        assert (record.isolation_level, record.version, record.status_reason) == ("strict", 1, None)
        assert record.namespace == f"tenant:{tenant}"
        assert await backend.tenants.get(tenant) == record

    async def test_quotas_given_at_creation_are_kept(self, backend: Backend) -> None:
        tenant = unused()
        quotas = QuotaLimits(max_documents=0, max_vectors=2**53 - 1)

        await backend.tenants.create(tenant, quotas=quotas)

        assert (await found(backend, tenant)).quotas == quotas

    async def test_an_update_changes_what_it_names_and_raises_the_version(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        first = await found(backend, tenant)
        clock.advance(seconds=5)
        quotas = replace(first.quotas, max_vectors=5)

        named = await backend.tenants.update(tenant, name="Acme")
        granted = await backend.tenants.update(tenant, quotas=quotas, expected_version=2)

        assert named == replace(first, name="Acme", version=2, updated_at=clock.now())
        assert granted == replace(named, quotas=quotas, version=3)
        assert await found(backend, tenant) == granted

    async def test_an_update_that_changes_nothing_is_no_change(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        first = await found(backend, tenant)

        assert await backend.tenants.update(tenant) == first
        assert await backend.tenants.update(tenant, name=first.name, quotas=first.quotas) == first
        assert len(await log_of(backend, tenant)) == 1

    async def test_a_change_of_another_version_is_refused(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        await backend.tenants.update(tenant, name="first")

        for change in (
            backend.tenants.update(tenant, name="second", expected_version=1),
            backend.tenants.set_status(tenant, "suspended", expected_version=1),
            backend.tenants.set_status(tenant, "active", expected_version=1),
        ):
            with pytest.raises(VersionConflict) as caught:
                await change
            assert (caught.value.fields["expected"], caught.value.fields["current"]) == (1, 2)

        assert (await found(backend, tenant)).name == "first"
        assert len(await log_of(backend, tenant)) == 2

    async def test_of_callers_that_change_one_version_at_once_one_succeeds(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        outcomes = await asyncio.gather(
            *(backend.tenants.update(tenant, name=f"name-{n}", expected_version=1) for n in range(CALLERS)),
            return_exceptions=True,
        )

        assert sum(isinstance(outcome, VersionConflict) for outcome in outcomes) == CALLERS - 1
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, TenantRecord)]
        assert await found(backend, tenant) == winner
        assert len(await log_of(backend, tenant)) == 2

    async def test_a_tenant_is_suspended_and_resumed(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        first = await found(backend, tenant)
        clock.advance(seconds=1)

        suspended = await backend.tenants.set_status(tenant, "suspended", reason="unpaid")
        again = await backend.tenants.set_status(tenant, "suspended", reason="still unpaid")
        resumed = await backend.tenants.set_status(tenant, "active", reason="paid")

        assert suspended == replace(
            first, status="suspended", status_reason="unpaid", version=2, updated_at=clock.now()
        )
        assert again == suspended
        assert resumed == replace(first, version=3, updated_at=clock.now())
        assert await found(backend, tenant) == resumed

    async def test_a_deleted_tenant_stays_deleted_and_its_id_taken(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        deleted = await backend.tenants.set_status(tenant, "deleted", reason="left")

        assert (deleted.status, deleted.status_reason) == ("deleted", "left")
        assert await backend.tenants.set_status(tenant, "deleted") == deleted
        for change in (
            backend.tenants.set_status(tenant, "active"),
            backend.tenants.set_status(tenant, "suspended"),
            backend.tenants.update(tenant, name="again"),
        ):
            with pytest.raises(TenantInactive):
                await change
        text = f"The tenant was deleted, which is final. (tenant='{tenant}') Choose another id."
        with pytest.raises(AlreadyExists) as taken:
            await backend.tenants.create(tenant)
        with pytest.raises(TenantInactive) as refused:
            await backend.tenants.create(tenant, exist_ok=True)
        assert str(taken.value) == str(refused.value) == text

    async def test_what_is_not_registered_cannot_be_changed(self, backend: Backend) -> None:
        tenant = unused()

        for change in (backend.tenants.update(tenant, name="x"), backend.tenants.set_status(tenant, "deleted")):
            with pytest.raises(NotFound):
                await change

        assert await backend.tenants.get(tenant) is None

    async def test_every_change_is_recorded_in_the_log_of_its_tenant(self, backend: Backend) -> None:
        """Invariant 14."""
        tenant = unused()
        await backend.tenants.create(tenant, name="Acme", actor="ada")
        await backend.tenants.create(tenant, exist_ok=True, actor="nobody")
        await backend.tenants.update(tenant, quotas=QuotaLimits(max_vectors=7), actor="bob")
        await backend.tenants.set_status(tenant, "suspended", reason="unpaid", actor="bob")
        await backend.tenants.set_status(tenant, "active")

        entries = (await log_of(backend, tenant))[::-1]

        assert [(entry.operation, entry.principal, entry.reason) for entry in entries] == [
            ("tenants.create", "ada", None),
            ("tenants.update", "bob", None),
            ("tenants.suspend", "bob", "unpaid"),
            ("tenants.resume", OPERATOR, None),
        ]
        assert {entry.resource for entry in entries} == {f"tenant:{tenant}"}
        assert [entry.details["version"] for entry in entries] == [1, 2, 3, 4]
        assert entries[1].details["quotas"]["max_vectors"] == 7

    async def test_tenants_are_listed_by_id_in_pages(self, backend: Backend) -> None:
        prefix = f"list-{uuid4().hex}"
        ids = [TenantId(f"{prefix}-{name}") for name in ("é", "b", "A", "a", "Z")]
        for id in ids:
            await backend.tenants.create(id)
        await backend.tenants.set_status(ids[1], "suspended")

        listed, cursor = [], None
        while True:
            page = await backend.tenants.list(cursor=cursor, limit=50)
            listed += [record.tenant_id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        mine = [id for id in listed if id.startswith(prefix)]

        assert mine == sorted(ids, key=str.encode)
        assert listed == sorted(set(listed), key=str.encode)

    async def test_tenants_are_listed_by_status(self, backend: Backend) -> None:
        suspended, active = await new_tenant(backend), await new_tenant(backend)
        await backend.tenants.set_status(suspended, "suspended", reason="x")

        pages = {status: await everyone(backend, status=status) for status in ("suspended", "active")}

        assert [record.status_reason for record in pages["suspended"] if record.tenant_id == suspended] == ["x"]
        assert active in {record.tenant_id for record in pages["active"]}
        assert suspended not in {record.tenant_id for record in pages["active"]}

    async def test_a_cursor_belongs_to_its_list(self, backend: Backend) -> None:
        for _ in range(2):
            await new_tenant(backend)
        cursor = (await backend.tenants.list(limit=1)).next_cursor

        async with refused(InvalidCursor, "cursor"):
            await backend.tenants.list(limit=1, status="active", cursor=cursor)

    @pytest.mark.parametrize(
        ("field", "given", "error"),
        [
            ("name", {"name": ""}, InvalidKey),
            ("name", {"name": "a\0b"}, InvalidKey),
            ("name", {"name": "n" * 501}, InvalidKey),
            ("quotas", {"quotas": {"max_vectors": 1}}, InvalidInput),
            ("quotas.max_vectors", {"quotas": QuotaLimits(max_vectors=-1)}, InvalidLimit),
            ("quotas.max_storage_mb", {"quotas": QuotaLimits(max_storage_mb=2**53)}, InvalidLimit),
            ("quotas.max_documents", {"quotas": QuotaLimits(max_documents=True)}, InvalidLimit),
            ("quotas.max_documents", {"quotas": QuotaLimits(max_documents=1.5)}, InvalidLimit),  # type: ignore[arg-type]
            ("expected_version", {"expected_version": 0}, InvalidLimit),
            ("actor", {"actor": ""}, InvalidKey),
        ],
    )
    async def test_an_update_that_cannot_be_kept_is_refused(
        self, backend: Backend, field: str, given: dict[str, Any], error: type[InvalidInput]
    ) -> None:
        tenant = await new_tenant(backend)
        before = await found(backend, tenant)

        async with refused(error, field):
            await backend.tenants.update(tenant, **given)

        assert await found(backend, tenant) == before

    async def test_a_status_or_level_that_none_can_have_is_refused(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with refused(InvalidInput, "status"):
            await backend.tenants.set_status(tenant, "paused")  # type: ignore[arg-type]
        async with refused(InvalidInput, "status"):
            await backend.tenants.list(status="paused")  # type: ignore[arg-type]
        async with refused(InvalidText, "reason"):
            await backend.tenants.set_status(tenant, "suspended", reason="r" * 4_097)
        async with refused(InvalidInput, "isolation_level"):
            await backend.tenants.create(unused(), isolation_level="loose")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "limit"):
            await backend.tenants.list(limit=0)

        assert (await found(backend, tenant)).status == "active"

    async def test_a_tenant_whose_creation_cannot_be_recorded_is_not_created(self, backend: Backend) -> None:
        """G4."""
        tenant = unused()

        async with refused(InvalidKey, "actor"):
            await backend.tenants.create(tenant, actor="a\0b")

        assert await backend.tenants.get(tenant) is None

    async def test_what_a_change_returns_can_be_kept_for_a_retry(self, backend: Backend) -> None:
        record = await found(backend, await new_tenant(backend))
        kind = get_type_hints(Tenants.update)["return"]

        assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=kind) == record


async def found(backend: Backend, tenant: TenantId) -> TenantRecord:
    """Return a tenant that is there."""
    record = await backend.tenants.get(tenant)
    assert record is not None
    return record


async def everyone(backend: Backend, **conditions: Any) -> list[TenantRecord]:
    """Return all tenants of the store that match."""
    records, cursor = [], None
    while True:
        page = await backend.tenants.list(cursor=cursor, limit=1_000, **conditions)
        records += page.items
        cursor = page.next_cursor
        if cursor is None:
            return records
