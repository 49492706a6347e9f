"""Memory and files hold the same: what goes from one to the other and back is what it was, whoever made it."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.living_store import live_in
from tests.fixtures.seeds import SEED
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, file_store

import llmspell
from llmspell.settings import Settings
from llmspell.storage.contracts.transfer_tables import TABLES
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.verifier import verify

TENANTS = ("acme", "ünï-cødé")


def data_of(path: Path) -> bytes:
    """The bytes of `data` and of the summary."""
    return path.read_bytes().partition(b'"data"')[2]


async def test_every_table_goes_from_memory_to_a_file_store_and_back_without_a_change(tmp_path: Path) -> None:
    drawn = Drawn(SEED, list(TENANTS), each=5, vectors=5, artifact_bytes=2_500_000)
    first, second, third = (tmp_path / f"{name}.json" for name in ("first", "second", "third"))
    origin, back = InMemoryBackend(clock=CLOCK), InMemoryBackend(clock=CLOCK)
    async with file_store(tmp_path / "a.db") as store:
        await drawn.load(origin)
        exported = await export(origin, Output(first), clock=CLOCK)
        await import_(Input(first), store)
        await export(store, Output(second), clock=CLOCK)
        await import_(Input(second), back)
        await export(back, Output(third), clock=CLOCK)

        assert {name for name, rows in drawn.rows.items() if not rows} == set(), "a table was not filled"
        assert all(exported.tables[table.shown].read == len(drawn.rows[table.name]) for table in TABLES)
        assert exported.source_backend == "memory"
        assert data_of(first) == data_of(second) == data_of(third)
        assert (await verify(origin, store)).equal


async def test_a_store_that_was_lived_in_keeps_every_row_in_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'lived.db'}"
    await live_in(url, settings=Settings())
    memory = InMemoryBackend(clock=CLOCK)
    async with file_store(tmp_path / "lived.db") as origin:
        await transfer(origin, memory, clock=CLOCK)

        found = await verify(origin, memory)
    assert found.equal, found.differences


async def test_a_store_that_was_lived_in_in_memory_works_on_in_a_file(tmp_path: Path) -> None:
    async with llmspell.connect("memory://", settings=Settings(), embedder="hashing") as spell:
        acme = spell.tenant("acme")
        kept = await acme.memory.add("Ada moved to Zurich in May.", at="2026-05-03")
        await acme.graph.assert_fact("Ada", "lives_in", "Zurich", cardinality="one")
        session = await acme.sessions.create(data={"n": 1})
        report = await acme.artifacts.put(session.id, "report.md", b"a" * 2_000_000)
        await acme.event_log.append("agent.step", {"n": 1})
        await spell.admin.transfer_to(f"sqlite:///{tmp_path / 'a.db'}")
        assert (await spell.admin.verify(f"sqlite:///{tmp_path / 'a.db'}")).equal

    async with llmspell.connect(f"sqlite:///{tmp_path / 'a.db'}", settings=Settings(), embedder="hashing") as spell:
        acme = spell.tenant("acme")
        assert [hit.id for hit in await acme.memory.search("where does Ada live?", limit=1)] == [kept.id]
        assert await acme.artifacts.read(report.id) == b"a" * 2_000_000
        assert (await acme.audit.verify()).intact
        assert (await acme.event_log.append("agent.step", {"n": 2})).sequence == 2
        assert [fact.object for fact in await acme.graph.neighbours("Ada")] == ["Zurich"]
