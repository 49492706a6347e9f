"""A state that was changed behind the store's back is named and never served, on every backend (AGS-03)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import apsw
import psycopg
import pytest
from msgspec.structs import replace
from tests.fixtures.backends import COMPARED, open_for_test

from llmspell.clock import ManualClock
from llmspell.errors import CorruptStore
from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.tenant import TenantId
from llmspell.testing.contract import new_tenant

Tamper = Callable[[TenantId, str], Awaitable[None]]
"""Replaces the data of the agent "victim" by this JSON, and leaves everything else as it is."""


@pytest.fixture(params=COMPARED)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Backend, Tamper]]:
    backend = await open_for_test(request.param, request, clock=ManualClock(), folder=tmp_path)

    async def in_memory(tenant: TenantId, data: str) -> None:
        assert isinstance(backend, InMemoryBackend)
        agents = backend.tenants.store(tenant, writing=True, auto_create=False).committed.agents
        stored = agents.get("victim")
        assert stored is not None
        agents.put("victim", replace(stored, encoded=data))

    async def in_file(tenant: TenantId, data: str) -> None:
        with apsw.Connection(str(tmp_path / "store.db")) as connection:
            connection.execute(
                "UPDATE agent_states SET state_data = ? WHERE tenant_id = ? AND agent_id = 'victim'", (data, tenant)
            )
        connection.close()

    async def on_server(tenant: TenantId, data: str) -> None:
        database = request.getfixturevalue("postgres_shared_database")
        with psycopg.connect(database.superuser_url) as connection:
            done = connection.execute(
                "UPDATE llmspell.agent_states SET state_data = %s WHERE tenant_id = %s AND agent_id = 'victim'",
                (data, tenant),
            )
            assert done.rowcount == 1

    yield backend, {"memory": in_memory, "sqlite": in_file, "postgres": on_server}[request.param]
    await backend.close()


async def victim(backend: Backend) -> tuple[TenantId, AgentStates]:
    tenant = await new_tenant(backend)
    agents = backend.storages(tenant).agent_state
    await agents.save("victim", {"balance": 1})
    await agents.save("witness", {"balance": 2})
    return tenant, agents


@pytest.mark.parametrize(
    "data", ['{"balance":2}', '{"balance":1.0}', '{"balance":"1"}', '{"balance":1,"more":null}', "{}", "[]", "null"]
)
async def test_a_state_that_was_changed_is_named_and_not_served(store: tuple[Backend, Tamper], data: str) -> None:
    backend, tamper = store
    tenant, agents = await victim(backend)

    await tamper(tenant, data)

    with pytest.raises(CorruptStore) as caught:
        await agents.get("victim")
    assert caught.value.fields["agent_id"] == "victim"
    assert "balance" not in str(caught.value)
    check = await agents.verify()
    assert (check.checked, check.damaged) == (2, ["victim"])
    witness = await agents.get("witness")
    assert witness is not None
    assert witness.data == {"balance": 2}


async def test_a_number_beyond_all_floats_is_damage_and_no_crash(store: tuple[Backend, Tamper]) -> None:
    backend, tamper = store
    tenant, agents = await victim(backend)

    await tamper(tenant, '{"balance":1e999}')

    with pytest.raises(CorruptStore):
        await agents.get("victim")
    assert (await agents.verify()).damaged == ["victim"]


async def test_another_way_to_write_the_same_json_is_no_change(store: tuple[Backend, Tamper]) -> None:
    backend, tamper = store
    tenant, agents = await victim(backend)

    await tamper(tenant, '{ "balance" : 1 }')

    found = await agents.get("victim")
    assert found is not None
    assert found.data == {"balance": 1}


async def test_a_damaged_state_can_be_listed_saved_anew_and_deleted(store: tuple[Backend, Tamper]) -> None:
    backend, tamper = store
    tenant, agents = await victim(backend)
    await tamper(tenant, '{"balance":1000}')
    assert [one.agent_id for one in (await agents.list()).items] == ["witness", "victim"]

    repaired = await agents.save("victim", {"balance": 1})

    assert await agents.get("victim") == repaired
    await tamper(tenant, '{"balance":1000}')
    assert await agents.delete("victim")
    assert (await agents.verify()).damaged == []


async def test_every_answer_of_a_repair_is_what_is_read_afterwards(store: tuple[Backend, Tamper]) -> None:
    """A save of the data that the checksum was made of replaces other data: its version is told as it is kept."""
    backend, tamper = store
    tenant, agents = await victim(backend)
    await tamper(tenant, '{"balance":1000}')
    before = (await agents.list()).items[1]

    repaired = await agents.save("victim", {"balance": 1}, expected_version=before.version)

    assert repaired.version == before.version + 1
    assert repaired.data_version == before.data_version + 1
    assert await agents.get("victim") == repaired
