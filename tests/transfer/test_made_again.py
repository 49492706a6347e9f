"""What is not in an export because an import makes it again: it must equal what was there."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store

import llmspell
from llmspell.storage.contracts.tenants import QuotaLimits
from llmspell.storage.contracts.transfer import Column, Table, json_value
from llmspell.storage.contracts.transfer_tables import BY_NAME, SCHEMA_VERSION
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.records import RecordReader
from llmspell.storage.transfer.streams import Input, Output

QUOTAS = QuotaLimits(max_documents=100, max_storage_mb=10, max_vectors=100)
MADE_AGAIN = (
    "SELECT tenant_id, collection, term, owner_id, tf, length FROM text_postings ORDER BY 1, 2, 3, 4",
    "SELECT tenant_id, collection, sum(documents), sum(terms) FROM text_stats GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT tenant_id, memory_id, text_length FROM memories ORDER BY 1, 2",
    "SELECT tenant_id, session_id, artifact_count FROM sessions ORDER BY 1, 2",
    "SELECT tenant_id, content_hash, reference_count FROM artifact_content ORDER BY 1, 2",
    "SELECT * FROM tenant_limits ORDER BY 1",
    "SELECT * FROM tenant_usage ORDER BY 1",
)


async def test_words_counts_and_usage_are_those_of_the_store_that_was_exported(tmp_path: Path) -> None:
    async with llmspell.connect(
        f"sqlite:///{tmp_path}/a.db", settings=llmspell.Settings(), embedder="hashing"
    ) as spell:
        for name in ("acme", "globex"):
            await spell.tenants.create(name, quotas=QUOTAS)
            tenant = spell.tenant(name)
            memories = [await tenant.memory.add(f"{name} number {n} walks to the harbour, ☃ {n}.") for n in range(12)]
            await tenant.memory.delete(memories[3].id)
            await tenant.kv.set("key", b"value")
            session = await tenant.sessions.create(data={"topic": "ships"})
            for number in range(3):
                await tenant.artifacts.put(session.id, f"{number}.txt", b"the same content")
        async with file_store(tmp_path / "b.db") as copy:
            await transfer(spell._backend, copy, clock=CLOCK)

    with apsw.Connection(f"{tmp_path}/a.db") as one, apsw.Connection(f"{tmp_path}/b.db") as other:
        for query in MADE_AGAIN:
            before, after = one.execute(query).fetchall(), other.execute(query).fetchall()
            assert before, query
            assert before == after, query


async def test_a_search_in_another_process_s_cache_sees_vectors_that_came_and_went_by_an_import(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/b.db"
    async with (
        llmspell.connect(f"sqlite:///{tmp_path}/a.db", settings=llmspell.Settings(), embedder="hashing") as spell,
        llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as reader,
    ):
        vectors, seen = spell.tenant("acme").vectors, reader.tenant("acme").vectors
        first, second = [1.0] + [0.0] * 383, [0.0, 1.0] + [0.0] * 382
        (one,) = await vectors.insert([{"embedding": first}])
        assert await seen.search(first, limit=5) == []
        async with file_store(tmp_path / "b.db") as other:
            await transfer(spell._backend, other, clock=CLOCK)
            assert [(hit.id, hit.score) for hit in await seen.search(first, limit=5)] == [(one, 1.0)]

            (two,) = await vectors.insert([{"embedding": second}])
            await transfer(spell._backend, other, clock=CLOCK, on_conflict="replace")

        assert [hit.id for hit in await seen.search(second, limit=1)] == [two]
        assert {hit.id for hit in await seen.search(first, limit=5)} == {one, two}


def later(table: Table) -> Table:
    """The table as a later schema has it: with a column more."""
    column = Column("later", "text", default="as it was before", since=SCHEMA_VERSION + 1)
    return Table(
        name=table.name, type=table.type, path=table.path, columns=(*table.columns, column), key=table.key, thing=table.thing
    )  # fmt: skip


def test_a_record_of_an_older_schema_has_the_default_of_a_column_that_came_later() -> None:
    table = later(BY_NAME["tenant_clocks"])
    old = b'{"tenant_id":"acme","last_recorded":"2026-05-01T00:00:00Z"}'
    new = old[:-1] + b',"later":"said"}'

    assert RecordReader(table, SCHEMA_VERSION).read(old).later == "as it was before"  # type: ignore[attr-defined]
    assert RecordReader(table, SCHEMA_VERSION + 1).read(new).later == "said"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="missing required field"):
        RecordReader(table, SCHEMA_VERSION + 1).read(old)


def test_a_record_is_the_same_whatever_its_layout() -> None:
    table = BY_NAME["kv_store"]
    canonical = (
        b'{"tenant_id":"acme","kv_id":"00000000-0000-7000-8000-000000000001","key":"k","value":"AAE=","metadata":{"a":1,"b":[1.5]},'
        b'"created_at":"2026-05-01T00:00:00Z","updated_at":"2026-05-01T00:00:00.000001Z","expires_at":null}'
    )
    other = (
        b'{ "key": "\\u006b", "value": "AAE=", "metadata": { "b": [1.50], "a": 1 }, "expires_at": null, "tenant_id": "acme",'
        b' "kv_id": "00000000-0000-7000-8000-000000000001",\n"created_at": "2026-05-01T02:00:00+02:00",'
        b' "updated_at": "2026-05-01T00:00:00.000001Z" }'
    )
    reader = RecordReader(table, SCHEMA_VERSION)

    assert reader.read(canonical) == reader.read(other)
    assert bytes(reader.read(other).metadata) == b'{"a":1,"b":[1.5]}'  # type: ignore[attr-defined]
    assert json_value({"b": [1.5], "a": 1}) == reader.read(canonical).metadata  # type: ignore[attr-defined]


async def test_rows_that_have_expired_or_ended_are_carried_too(tmp_path: Path) -> None:
    rows = Drawn(5, ["acme"], each=12, vectors=1, artifact_bytes=10)
    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as copy:
        await rows.load(origin)
        await export(origin, Output(tmp_path / "a.json"), clock=CLOCK)
        await import_(Input(tmp_path / "a.json"), copy)

        assert await contents(copy) == {name: len(found) for name, found in rows.rows.items() if found}
        assert any(row.expires_at is not None and row.expires_at < CLOCK.now() for row in rows.rows["kv_store"])  # type: ignore[attr-defined]
        assert any(row.operation == "delete" for row in rows.rows["memory_versions"])  # type: ignore[attr-defined]
