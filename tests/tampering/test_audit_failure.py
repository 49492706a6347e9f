"""When the audit log cannot be written, what should have been recorded does not happen (G4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import apsw
import psycopg
import pytest
from tests.fixtures.backends import ALL, open_for_test, with_operator
from tests.fixtures.postgres import PostgresDatabase

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.ids import IdSource
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.tenants import QuotaLimits
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.inmemory.store import Table
from llmspell.storage.open import open_backend
from llmspell.tenant import TenantId

TENANT, OTHER = TenantId("acme"), TenantId("globex")
FILE_TRIGGER = "CREATE TRIGGER broken BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'broken'); END"
SERVER_TRIGGER = """
    CREATE FUNCTION llmspell.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
    GRANT EXECUTE ON FUNCTION llmspell.broken() TO PUBLIC;
    CREATE TRIGGER broken BEFORE INSERT ON llmspell.audit_log FOR EACH ROW EXECUTE FUNCTION llmspell.broken();
"""


class BrokenTable(Table[int, object]):
    """A table that cannot be written, and no layer above it either."""

    def merge(self) -> None:
        raise LlmspellError("broken")

    def put(self, key: int, row: object) -> None:
        raise LlmspellError("broken")


@pytest.fixture(params=ALL)
async def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    """A store with a tenant, in which no audit entry can be written any more."""
    clock = ManualClock()
    if request.param == "postgres":
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        backend = await open_backend(
            database.app_url,
            settings=with_operator(database.operator_url, tenant_key=database.tenant_key),
            clock=clock,
            ids=IdSource(clock),
        )
    else:
        backend = await open_for_test(request.param, request, clock=clock, folder=tmp_path)
    await backend.tenants.create(TENANT)
    if request.param == "postgres":
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute(SERVER_TRIGGER.encode())
    elif request.param == "sqlite":
        connection = apsw.Connection(str(tmp_path / "store.db"))
        connection.execute(FILE_TRIGGER)
        connection.close()
    else:
        state = cast("InMemoryBackend", backend).tenants._stores[TENANT].committed
        layer = type(state).layer

        def broken_layer(*arguments: object) -> object:
            made = layer(*arguments)  # type: ignore[arg-type]
            made.audit = BrokenTable(made.audit)  # type: ignore[assignment,arg-type]
            return made

        monkeypatch.setattr(type(state), "layer", broken_layer)
    yield backend
    await backend.close()


CHANGES: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "update": lambda backend: backend.tenants.update(TENANT, name="Other", quotas=QuotaLimits(max_vectors=1)),
    "suspend": lambda backend: backend.tenants.set_status(TENANT, "suspended"),
    "delete": lambda backend: backend.tenants.set_status(TENANT, "deleted"),
    "record": lambda backend: backend.storages(TENANT).audit.record("x", principal="ada", resource="r"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_cannot_be_recorded_does_not_happen(broken: Backend, change: str) -> None:
    audit = broken.storages(TENANT).audit
    before, head = await broken.tenants.get(TENANT), await audit.head()

    with pytest.raises(LlmspellError):
        await CHANGES[change](broken)

    assert await broken.tenants.get(TENANT) == before
    assert await audit.head() == head
    assert (await audit.verify()).checked == 1


async def test_a_transaction_that_cannot_be_recorded_keeps_nothing(broken: Backend) -> None:
    async def action() -> None:
        async with broken.transaction(TENANT) as storages:
            await storages.kv.set("k", b"v")
            await storages.audit.record("kv.set", principal="ada", resource="k")

    with pytest.raises(LlmspellError):
        await action()

    assert await broken.storages(TENANT).kv.get("k") is None


@pytest.mark.parametrize("broken", ["sqlite", "postgres"], indirect=True)
async def test_a_tenant_that_cannot_be_recorded_is_not_created(broken: Backend) -> None:
    with pytest.raises(LlmspellError):
        await broken.tenants.create(OTHER)

    assert await broken.tenants.get(OTHER) is None
