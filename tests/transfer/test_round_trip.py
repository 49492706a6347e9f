"""From a file to a server and back: nothing is lost and nothing is changed, whatever is in a store."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.seeds import SEED
from tests.fixtures.services import require_service
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, file_store, server_store

from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.transfer import Progress
from llmspell.storage.contracts.transfer_tables import TABLES, TYPES
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.streams import Compress, Input, Output
from llmspell.storage.transfer.verifier import verify
from llmspell.tenant import TenantId

VECTORS = 500
ARTIFACT_BYTES = 20_000_000


def data_of(path: Path) -> bytes:
    """The bytes of `data` and of the summary."""
    return path.read_bytes().partition(b'"data"')[2]


async def test_a_store_with_every_table_filled_goes_to_a_server_and_back_without_a_change(
    tmp_path: Path, postgres_database: PostgresDatabase
) -> None:
    drawn = Drawn(SEED, ["acme"], vectors=VECTORS, artifact_bytes=ARTIFACT_BYTES)
    first, second, third = (tmp_path / f"{name}.json" for name in ("first", "second", "third"))
    async with (
        file_store(tmp_path / "a.db") as origin,
        server_store(postgres_database) as server,
        file_store(tmp_path / "b.db") as back,
    ):
        await drawn.load(origin)
        exported = await export(origin, Output(first), clock=CLOCK)
        await import_(Input(first), server)
        await export(server, Output(second), clock=CLOCK)
        await import_(Input(second), back)
        await export(back, Output(third), clock=CLOCK)

        assert {name for name, rows in drawn.rows.items() if not rows} == set(), "a table was not filled"
        assert all(exported.tables[table.shown].read == len(drawn.rows[table.name]) for table in TABLES)
        assert all(exported.tables[f"vector_embeddings.{dimension}"].read == VECTORS for dimension in DIMENSIONS)
        assert data_of(first) == data_of(second) == data_of(third)
        for one, other in ((origin, server), (server, back), (origin, Input(third))):
            found = await verify(one, other)
            assert found.equal, found.differing
            assert found.rows == exported.total


async def test_a_store_of_several_tenants_is_transferred_without_a_file_both_ways(
    tmp_path: Path, postgres_database: PostgresDatabase
) -> None:
    drawn = Drawn(SEED, ["acme", "globex", "ünï-cødé"], each=3, vectors=3)
    async with (
        file_store(tmp_path / "a.db") as origin,
        server_store(postgres_database) as server,
        file_store(tmp_path / "b.db") as back,
    ):
        await drawn.load(origin)
        there = await transfer(origin, server, clock=CLOCK)
        again = await transfer(server, back, clock=CLOCK)

        assert there.total == again.total == sum(map(len, drawn.rows.values()))
        assert {name: one.sha256 for name, one in there.tables.items()} == {
            name: one.sha256 for name, one in again.tables.items()
        }
        assert (await verify(origin, back)).equal


@pytest.mark.parametrize("strict", [False, True], ids=["plain", "strict"])
async def test_one_tenant_is_exported_and_imported_by_the_serving_role_alone(
    strict: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database: PostgresDatabase = request.getfixturevalue("postgres_strict_database" if strict else "postgres_database")
    drawn = Drawn(SEED, ["acme", "globex"], each=3, vectors=3)
    one = tmp_path / "one.json"
    async with file_store(tmp_path / "a.db") as origin, server_store(database, operator=False) as server:
        await drawn.load(origin)
        await export(origin, Output(one), clock=CLOCK, tenant=TenantId("acme"))
        await import_(Input(one), server)
        await transfer(origin, server, clock=CLOCK, tenant=TenantId("globex"))
        again = await export(server, Output(tmp_path / "again.json"), clock=CLOCK, tenant=TenantId("acme"))

        assert again.tenants == ["acme"]
        assert data_of(one) == data_of(tmp_path / "again.json")
        assert (await verify(origin, server, tenant=TenantId("globex"))).equal


@pytest.mark.parametrize("compress", ["gz", "zst"])
async def test_a_packed_export_is_read_whatever_it_is_called(compress: Compress, tmp_path: Path) -> None:
    drawn = Drawn(SEED, ["acme"], each=2, vectors=2, artifact_bytes=2_000_000)
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await drawn.load(origin)
        await export(origin, Output(tmp_path / "plain.json"), clock=CLOCK)
        await export(origin, Output(tmp_path / f"packed.json.{compress}"), clock=CLOCK)
        await export(origin, Output(tmp_path / "packed", compress=compress), clock=CLOCK)

        assert (tmp_path / f"packed.json.{compress}").read_bytes() == (tmp_path / "packed").read_bytes()
        assert (tmp_path / "packed").stat().st_size < (tmp_path / "plain.json").stat().st_size
        await import_(Input(tmp_path / "packed"), target)
        assert (await verify(target, Input(tmp_path / "plain.json"))).equal


@pytest.mark.parametrize("layout", [["."], ["-c", "."], ["-S", "."], ["--tab", "."]], ids=lambda options: options[0])
async def test_an_export_that_jq_laid_out_anew_is_imported(layout: list[str], tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        require_service("jq", "install it")
    drawn = Drawn(SEED, ["acme", "globex"], each=2, vectors=2, artifact_bytes=1_500_000, plain=True)
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await drawn.load(origin)
        await export(origin, Output(tmp_path / "made.json"), clock=CLOCK)
        with (tmp_path / "laid-out.json").open("wb") as out:
            subprocess.run(["jq", *layout, str(tmp_path / "made.json")], stdout=out, check=True)

        report = await import_(Input(tmp_path / "laid-out.json"), target)

        assert report.digests_checked
        assert (await verify(origin, target)).equal


async def test_an_export_says_what_it_is_and_ends_with_its_summary(tmp_path: Path) -> None:
    drawn = Drawn(SEED, ["acme"], each=2, vectors=1, artifact_bytes=100)
    told: list[Progress] = []
    async with file_store(tmp_path / "a.db") as origin:
        await drawn.load(origin)
        report = await export(origin, Output(tmp_path / "a.json"), clock=CLOCK, progress=told.append)

    text = (tmp_path / "a.json").read_text("utf-8")
    found = json.loads(text)
    assert text[-1] == "}"
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600
    assert list(found)[:4] == ["version", "exported_at", "source_backend", "migrations"]
    assert (found["version"], found["source_backend"]) == ("1.0", "sqlite")
    assert found["migrations"][2:13:10] == ["V3", "V13"]
    assert set(TYPES) <= set(found["data"])
    assert list(found)[-1] == "summary"
    assert found["summary"]["total"] == report.total == report.statistics()["total"]
    assert found["counts"] == {name: table["count"] for name, table in found["summary"]["tables"].items()}
    assert "api_keys" in found["excluded"]
    assert "api_keys" in report.excluded
    ended = [one for one in told if one.ended]
    assert [one.table for one in ended] == [table.shown for table in TABLES]
    assert all(one.done == one.total for one in ended)


async def test_an_export_is_one_snapshot_of_a_store_that_goes_on(tmp_path: Path) -> None:
    drawn = Drawn(SEED, ["acme"], each=3, vectors=3, artifact_bytes=100)
    async with file_store(tmp_path / "a.db") as origin:
        await drawn.load(origin)
        keys = origin.storages(TenantId("acme")).kv
        async with origin.transfer_source(None) as snapshot:
            before = [await snapshot.count(table) for table in TABLES]
            await keys.set("written meanwhile", b"x")
            seen = [sum([len(batch) async for batch in snapshot.rows(table)]) for table in TABLES]

        assert seen == before
        assert await keys.get("written meanwhile") == b"x"
