"""A part of a store: what was asked for, whole, and nothing that hangs in the air."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.fixtures.seeds import SEED
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store

from llmspell.errors import InvalidInput, TransferError
from llmspell.storage.contracts.transfer_tables import TABLES
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.subset import Subset
from llmspell.storage.transfer.verifier import verify
from llmspell.tenant import TenantId


def drawn() -> Drawn:
    return Drawn(SEED, ["acme", "globex"], each=6, vectors=6, artifact_bytes=1_200_000)


async def test_the_first_few_of_each_come_with_what_belongs_to_them_and_nothing_else(tmp_path: Path) -> None:
    rows = drawn()
    async with file_store(tmp_path / "a.db") as origin:
        await rows.load(origin)
        await export(origin, Output(tmp_path / "all.json"), clock=CLOCK)
        part = await export(origin, Output(tmp_path / "part.json"), clock=CLOCK, limit=5)
        counts = {}
        async with file_store(tmp_path / "b.db") as target:
            await import_(Input(tmp_path / "part.json"), target)
            counts["exported"] = await contents(target)
        async with file_store(tmp_path / "c.db") as target:
            report = await import_(Input(tmp_path / "all.json"), target, limit=5)
            counts["imported"] = await contents(target)
            assert (await verify(target, Input(tmp_path / "part.json"))).equal
        async with file_store(tmp_path / "d.db") as target:
            await transfer(origin, target, clock=CLOCK, limit=5)
            counts["transferred"] = await contents(target)

    assert counts["exported"] == counts["imported"] == counts["transferred"]
    found = counts["imported"]
    sessions = {
        row.session_id for row in sorted(rows.rows["sessions"], key=lambda row: (row.tenant_id, row.session_id))[:5]
    }  # type: ignore[attr-defined]
    kept = [row for row in rows.rows["artifacts"] if row.session_id in sessions]  # type: ignore[attr-defined]
    assert found["sessions"] == found["kv_store"] == found["memories"] == 5
    assert found["artifacts"] == len(kept)
    assert found["artifact_content"] == len({row.content_hash for row in kept})  # type: ignore[attr-defined]
    assert found["tenants"] == 2
    assert "audit_log" not in found
    assert any("artifacts" in note and "sessions" in note for note in report.notes)
    assert any("chain cannot be cut" in note for note in report.notes)
    assert report.digests_checked
    assert report.total == part.total == sum(found.values())


async def test_only_some_types_come_and_their_dependents_are_left_out_with_a_notice(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await drawn().load(origin)
        report = await transfer(origin, target, clock=CLOCK, only=["kv_store", "artifacts", "vector_embeddings.384"])
        found = await contents(target)

    assert set(found) == {
        "kv_store",
        "artifact_content",
        "artifact_chunks",
        "vector_embeddings_384",
        "embedding_spaces",
        "tenants",
    }
    assert any("artifacts" in note and "sessions" in note for note in report.notes)
    assert any("vector_embeddings.384" in note and "memories" in note for note in report.notes)


async def test_one_tenant_of_several_is_taken_out_of_a_file(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await drawn().load(origin)
        await export(origin, Output(tmp_path / "all.json"), clock=CLOCK)
        await import_(Input(tmp_path / "all.json"), target, tenant=TenantId("globex"))

        assert await contents(target) == await contents(target, "globex") == await contents(origin, "globex")
        assert (await verify(origin, target, tenant=TenantId("globex"))).equal


async def test_a_limit_on_a_stream_says_that_it_must_be_a_file(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        await drawn().load(origin)
        await export(origin, Output(tmp_path / "all.json"), clock=CLOCK)
        stream = io.BytesIO((tmp_path / "all.json").read_bytes())
        with pytest.raises(TransferError, match="cannot be read twice"):
            await import_(Input("-", stream=stream), target, limit=5)


def test_each_table_can_be_asked_for_by_its_place() -> None:
    for table in TABLES:
        assert Subset([table.shown]).has(table)


async def test_a_name_that_is_no_table_is_refused_with_those_that_are(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin:
        with pytest.raises(InvalidInput, match="kv_store"):
            await export(origin, Output(tmp_path / "a.json"), clock=CLOCK, only=["keys"])


async def test_what_differs_is_named_by_table_tenant_key_and_column(tmp_path: Path) -> None:
    rows = drawn()
    async with file_store(tmp_path / "a.db") as one, file_store(tmp_path / "b.db") as other:
        await rows.load(one)
        changed, missing, more = rows.rows["kv_store"][0], rows.rows["jobs"].pop(3), rows.add("predicates", "acme")
        changed.value = b"changed"  # type: ignore[attr-defined]
        rows.rows["predicates"].sort(key=lambda row: (row.tenant_id, row.predicate))  # type: ignore[attr-defined]
        await rows.load(other)

        found = await verify(one, other)

    assert not found.equal
    assert {(side.table, side.tenant) for side in found.differing} == {
        ("kv_store", changed.tenant_id),  # type: ignore[attr-defined]
        ("jobs", missing.tenant_id),  # type: ignore[attr-defined]
        ("predicates", "acme"),
    }
    named = {one.table: one for one in found.differences}
    assert named["kv_store"].columns == ("value",)
    assert named["kv_store"].key == {"key": changed.key}  # type: ignore[attr-defined]
    assert (named["jobs"].side, named["jobs"].key) == ("first", {"job_id": str(missing.job_id)})  # type: ignore[attr-defined]
    assert (named["predicates"].side, named["predicates"].key) == ("second", {"predicate": more.predicate})  # type: ignore[attr-defined]
