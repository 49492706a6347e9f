"""`spell.tenants`: what a change of a tenant means for whoever uses its handle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from tests.fixtures.stores import DATABASES, STORES, fresh_tenant, opened, operator_url_of, url_of

import llmspell
from llmspell import ManualClock, Settings, Spell, Tenant
from llmspell.errors import InvalidSetting, NotFound, TenantInactive, VersionConflict
from llmspell.gate import GATE_TTL_S
from llmspell.settings import MultiTenantSettings, PostgresSettings, StorageSettings, TenancySettings
from llmspell.storage.contracts.tenants import OPERATOR, SYSTEM, QuotaLimits


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def spell(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Spell]:
    async with opened(backend, request, tmp_path, clock=clock) as found:
        yield found


@pytest.fixture
async def acme(spell: Spell) -> Tenant:
    """The handle of a tenant that was used, so that it knows that the tenant is active."""
    tenant = await fresh_tenant(spell)
    await tenant.kv.set("k", b"v")
    return tenant


@pytest.mark.parametrize("verb", ["suspend", "delete"])
async def test_a_tenant_that_is_shut_off_here_is_refused_at_once(spell: Spell, acme: Tenant, verb: str) -> None:
    await getattr(spell.tenants, verb)(acme.id, reason="unpaid")

    with pytest.raises(TenantInactive):
        await acme.kv.get("k")
    with pytest.raises(TenantInactive):
        async with acme.transaction():
            pass


async def test_a_resumed_tenant_has_its_data(spell: Spell, acme: Tenant) -> None:
    await spell.tenants.suspend(acme.id)
    await spell.tenants.resume(acme.id)

    assert await acme.kv.get("k") == b"v"


@pytest.mark.parametrize("backend", DATABASES)  # nothing else can open a store in memory
async def test_a_handle_elsewhere_is_refused_within_a_second(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, spell: Spell, acme: Tenant, clock: ManualClock
) -> None:
    async with opened(backend, request, tmp_path) as other:
        await other.tenants.suspend(acme.id)

    clock.advance(seconds=GATE_TTL_S)
    with pytest.raises(TenantInactive):
        await acme.kv.get("k")


async def test_a_deleted_tenant_keeps_its_data_and_its_log_for_the_operator(spell: Spell, acme: Tenant) -> None:
    deleted = await spell.tenants.delete(acme.id, reason="left", actor="ada")

    assert (deleted.status, deleted.status_reason) == ("deleted", "left")

    log = spell.tenants.audit(acme.id)
    latest = (await log.list(limit=1)).items[0]
    assert (latest.operation, latest.principal, latest.reason) == ("tenants.delete", "ada", "left")
    assert (await log.verify()).intact


async def test_the_operator_may_record_in_the_log_of_a_suspended_tenant(spell: Spell, acme: Tenant) -> None:
    await spell.tenants.suspend(acme.id)
    log = spell.tenants.audit(acme.id)

    entry = await log.record("backup.create", principal="ada", resource="store")

    assert await log.get(entry.sequence) == entry
    assert (await log.verify()).intact


async def test_new_tenants_get_the_quotas_of_the_settings(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """TEN-12."""
    settings = Settings(
        storage=StorageSettings(postgres=PostgresSettings(operator_url=operator_url_of(backend, request))),
        tenancy=TenancySettings(auto_create_tenants=True),
        multi_tenant=MultiTenantSettings(
            default_quota_documents=1,
            default_quota_storage_mb=2,
            default_quota_vectors=3,
            default_quota_api_calls=4,
            default_quota_embeddings_per_day=5,
        ),
    )
    granted = QuotaLimits(
        max_documents=1,
        max_storage_mb=2,
        max_vectors=3,
        max_api_calls_per_minute=None,
        max_api_calls_per_day=4,
        max_embeddings_per_day=5,
    )
    async with llmspell.connect(url_of(backend, request, tmp_path), settings=settings, embedder="hashing") as spell:
        acme = await fresh_tenant(spell)
        written = spell.tenant(f"{acme.id}-written")
        await written.kv.set("k", b"v")

        for tenant in (acme, written):
            record = await spell.tenants.get(tenant.id)
            assert record is not None
            assert record.quotas == granted
        created = [(await tenant.audit.list()).items[-1].principal for tenant in (acme, written)]
        assert created == [OPERATOR, SYSTEM]
        own = await spell.tenants.create(f"{acme.id}-own", quotas=QuotaLimits(max_vectors=9))
        assert own.quotas == QuotaLimits(max_vectors=9)


async def test_quotas_are_changed_by_whoever_saw_the_latest(spell: Spell, acme: Tenant) -> None:
    record = await spell.tenants.get(acme.id)
    assert record is not None
    more = msgspec.structs.replace(record.quotas, max_vectors=2_000_000)

    changed = await spell.tenants.update(acme.id, quotas=more, expected_version=record.version)

    assert changed.quotas.max_vectors == 2_000_000
    with pytest.raises(VersionConflict):
        await spell.tenants.update(acme.id, quotas=record.quotas, expected_version=record.version)
    assert await acme.kv.get("k") == b"v"


async def test_a_tenant_that_is_not_registered_cannot_be_changed(spell: Spell) -> None:
    for change in (spell.tenants.suspend, spell.tenants.resume, spell.tenants.delete, spell.tenants.update):
        with pytest.raises(NotFound):
            await change("nobody-of-that-name")


OPERATORS_WORK: dict[str, Callable[[Spell, str], object]] = {
    "list": lambda spell, id: spell.tenants.list(),
    "update": lambda spell, id: spell.tenants.update(id, name="x"),
    "suspend": lambda spell, id: spell.tenants.suspend(id),
    "resume": lambda spell, id: spell.tenants.resume(id),
    "delete": lambda spell, id: spell.tenants.delete(id),
    "audit": lambda spell, id: spell.tenants.audit(id).head(),
}


@pytest.mark.parametrize("work", OPERATORS_WORK)
async def test_the_operators_work_is_refused_to_the_serving_role(
    request: pytest.FixtureRequest, tmp_path: Path, work: str
) -> None:
    async with llmspell.connect(
        url_of("postgres", request, tmp_path), settings=Settings(), embedder="hashing"
    ) as spell:
        acme = await fresh_tenant(spell)

        with pytest.raises(InvalidSetting, match="DATABASE_OPERATOR_URL"):
            await OPERATORS_WORK[work](spell, acme.id)  # type: ignore[misc]

        record = await spell.tenants.get(acme.id)
        assert record is not None
        assert (record.status, record.version) == ("active", 1)


def test_the_blocking_twin_does_the_same(tmp_path: Path) -> None:
    with llmspell.connect_blocking(f"sqlite:///{tmp_path}/store.db", embedder="hashing") as spell:
        spell.tenants.create("acme", actor="ada")
        acme = spell.tenant("acme")
        acme.audit.record("export", principal="bob", resource="memories")
        spell.tenants.suspend("acme")

        assert [entry.principal for entry in spell.tenants.audit("acme").list().items] == [OPERATOR, "bob", "ada"]
        assert [record.tenant_id for record in spell.tenants.list(status="suspended").items] == ["acme"]
        with pytest.raises(TenantInactive):
            acme.audit.head()
