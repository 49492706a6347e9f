"""What `Tenants` promises."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, InvalidKey, InvalidTenant
from llmspell.storage.contracts.backend import Backend
from llmspell.tenant import TenantId
from llmspell.testing.contract import new_tenant, refused

CALLERS = 8


def unused() -> TenantId:
    """Return a tenant id that no other test knows."""
    return TenantId(f"tenant-{uuid4().hex}")


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
