"""Every query of a file that names its tenant is run without that condition, one at a time, and something turns red (C9).

There is no row-level security in a file: the condition is all that keeps tenants apart there. Two tenants have rows of the same
names in every stem; one of them, and a third that has nothing, make all calls of `attacks` that run the query: in transactions that
are rolled back, and, where that shows nothing, by themselves on a copy of the file. Triggers refuse a change of the first one's
rows. A query whose condition is missed by none of these calls is a hole in the tests, unless `HARMLESS` says why it is none.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from blake3 import blake3
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import SOAK, tell
from tests.tenancy.attacks import ATTACKS, ONLY_ON_TENANTS
from tests.tenancy.belongings import LATER_S, Belongings, Marks, fill, invented, same_ids
from tests.tenancy.observation import TENANT_COLUMN, told
from tests.tenancy.test_foreign_things import in_transaction

import llmspell
from llmspell.clock import ManualClock
from llmspell.security.keyring import new_master_key
from llmspell.settings import SecuritySettings, Settings, SqliteSettings, StorageSettings
from llmspell.spell import Spell
from llmspell.storage.contracts.memories import EmbeddingSpace
from llmspell.storage.relational.catalog import Query
from llmspell.storage.sqlite import transfer
from llmspell.storage.sqlite.backend import queries

"""Printed with every failure; set it here to replay one."""
THEIRS, MINE, NONE = "a-tenant", "b-tenant", "c-tenant"
CASES = ((NONE, THEIRS), (MINE, MINE), (MINE, THEIRS))
"""Who calls, and whose names they give."""
CONDITION = re.compile(r"(?:\b\w+\.)?tenant_id = (?::tenant_id|\(SELECT :tenant_id\))")
OUTSIDE_MAX = 12
"""Calls by themselves that are tried for one query."""
DIMENSION = re.compile(r"_(384|768|1536|3072)$")
HINT = re.compile(r" INDEXED BY \w+")
TOUCHED = "a row of another tenant was touched"
HARMLESS = {
    **dict.fromkeys(
        ["artifacts.lock_contents", "artifacts.lock_sessions", "sessions.lock"],
        "reads rows to lock them, which a file does not do; what it returns is used by no one or looked up again",
    ),
    **dict.fromkeys(
        ["artifacts.chunk", "artifacts.content_is_there"],
        "asked by the hash of a content that was found under the tenant: what has this hash is the same content",
    ),
    "artifacts.drop_content": "deletes what nothing refers to: of another tenant that is garbage, and nobody's loss",
    "artifacts.keep_content": "keeps a content for a session whose number `take_number` has given, or has refused to give, before",
    **dict.fromkeys(
        ["nearest.embeddings_{dim}", "nearest.embeddings_at_{dim}", "nearest.payloads_of_{dim}"],
        "completes ids that the search has found with the tenant",
    ),
    "nearest.changes": "names owners that went; what is not among the rows of the tenant is passed over",
    "nearest.payloads_{dim}": "makes a column; unless there are as many as the tenant has rows, the database answers the filter",
    "nearest.index_files": "names spaces whose files are removed: a file is found by its tenant, so nobody else's is touched",
    "nearest.index_kept": "notes the token of a file: another space that has it finds no such file, and builds one",
    "audit.successor": "asked of a chain that is broken, by a hash: hashes cover the tenant, so nobody else's entry follows it",
    **dict.fromkeys(
        ["event_log.taken", "hook_history.taken"],
        "asked after the unique key, which begins with the tenant, has refused an id: names the id that was given",
    ),
    "event_log.append_many": "takes numbers from the counter's row that the statement before it has locked, by its primary key",
    **dict.fromkeys(
        ["graph.undo_entity", "graph.undo_fact"],
        "deletes what has this very transaction's recorded instant, of which a tenant has one at a time",
    ),
    **dict.fromkeys(
        ["memories.said_before", "memories.past_expiry"],
        "names ids that `current` looks up again, with the tenant, before anything is done to them",
    ),
    "graph.believed_about": "names beliefs that `close_fact` then closes, with the tenant",
    "memories.exists": "asked after a change found nothing, to tell an error from another; both are about the id that was given",
    **dict.fromkeys(
        ["nearest.free_{dim}", "nearest.free_in_scope_{dim}", "nearest.memories", "nearest.expired"],
        "names ids to choose from, or to leave out, among the vectors that `load` has read with the tenant",
    ),
    "nearest.present_{dim}": "names which of the vectors that `load` has read with the tenant are still there",
    "nearest.state": "says how new a space is: an answer about another's makes a cache read more than it must, or search without",
    "vectors.hydrate_{dim}": "completes ids that the search has found with the tenant",
    **dict.fromkeys(
        ["postings.deltas", "postings.drop_deltas"],
        "a tidying by chance, in one of 64 writes, of rows whose ids are new; test_folding.py forces it",
    ),
    "tenants.take_embeddings": "asked of a tenant with a limit, as nobody here: the contract counts the texts of two that have one",
    **dict.fromkeys(
        ["tenants.get", "tenants.change", "tenants.lock"],
        "the registry itself, asked by the tenant's own key: tests/api/test_tenant_registry.py changes one of several",
    ),
}
"""Queries whose missing condition nothing here notices, each with the reason. Where two conditions guard one answer, losing one
shows nothing: the other one is tried by itself as well."""


CROWDED_BY = {"nearest.load_{dim}"}
"""What another tenant has may take a place among the nearest before it is dropped: noticed where it happens to be near.
That it takes none is what test_crowding.py asks, which fills the neighbourhood."""


READS_OF_MOVES = re.compile(r"[.](count_|first_|next_|holdings|spaces$)")
CHUNKED_BYTES = 2_100_000
MOVES = ("transfer.", "store.holdings", "store.spaces")
"""Queries of exports, imports and counts, which belong to no call of a tenant: they are tried by moves."""


class Call(msgspec.Struct, frozen=True):
    """One call of an attack: by whom, and whose names they give."""

    label: str
    number: int
    by: str
    whose: str

    @property
    def in_transaction(self) -> bool:
        return not self.label.startswith(ONLY_ON_TENANTS)


class Pair(msgspec.Struct):
    """A file in which two tenants have rows of the same names."""

    path: Path
    clock: ManualClock
    master: Any
    things: dict[str, Belongings]

    @asynccontextmanager
    async def opened(self, path: Path | None = None) -> AsyncIterator[Spell]:
        settings = Settings(
            security=SecuritySettings(master_keys=self.master),
            storage=StorageSettings(sqlite=SqliteSettings(readers=1)),
        )
        url = f"sqlite:///{path or self.path}"
        async with llmspell.connect(url, settings=settings, embedder="hashing", clock=self.clock) as spell:
            yield spell

    async def outcome(self, spell: Spell, call: Call, *, inside: bool) -> tuple[str, set[str]]:
        """What the call comes to, and the queries that it ran."""
        attack = ATTACKS[call.label][call.number]
        if inside:
            attack = in_transaction(attack)
        one = await told(attack, spell.tenant(call.by), self.things[call.whose], me=call.by)
        # Which of two rows was read shows in the marks, so they stay as they are.
        return f"{one.outcome} {one.lines} lines", {name for name, _ in one.queries}


@pytest.fixture
async def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path / "pair.db", ManualClock(), new_master_key(), {})
    names = invented(SEED, Marks(SEED))
    async with made.opened() as spell:
        for number, tenant in enumerate((THEIRS, MINE)):
            await spell.tenants.create(tenant)
            named = msgspec.structs.replace(names, tenant=tenant)
            with same_ids(spell, SEED) as again:  # the other has more of everything
                marks = Marks(SEED + 1 + number)
                made.things[tenant] = await fill(spell, named, marks, rows=3 - number, same_again=again)
        await spell.tenants.create(NONE)
    made.clock.advance(seconds=LATER_S)
    guard(made.path)
    return made


def guard(path: Path) -> None:
    """Refuse every change of the other tenant's rows, whoever makes it."""
    connection = sqlite3.connect(path)
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        if TENANT_COLUMN not in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
            continue
        for verb, row in (("INSERT", "new"), ("UPDATE", "old"), ("DELETE", "old")):
            connection.execute(
                f"CREATE TRIGGER guard_{table}_{verb} BEFORE {verb} ON {table} WHEN {row}.tenant_id = '{THEIRS}'"
                f" BEGIN SELECT RAISE(ABORT, '{TOUCHED}'); END"
            )
    connection.commit()
    connection.close()


def without_condition(query: Query) -> Query | None:
    """Return a query that asks for rows of any tenant; None where it has no such condition."""
    sql, conditions = CONDITION.subn(lambda found: f"({found[0]} OR TRUE)", HINT.sub("", query.sql))
    return msgspec.structs.replace(query, sql=sql) if conditions else None


@contextmanager
def replaced(query: Query) -> Iterator[None]:
    """Let the store run this query in place of the one of its name."""
    stem = queries()._stems[query.stem]._queries
    original = stem[query.name]
    stem[query.name] = query
    try:
        yield
    finally:
        stem[query.name] = original


def test_every_query_that_names_its_tenant_has_a_condition_or_inserts() -> None:
    without = [query for query in queries() if "tenant_id" in query.parameters and without_condition(query) is None]

    assert [query.label for query in without if not query.sql.startswith("INSERT")] == []


def test_the_queries_without_condition_are_still_queries(pair: Pair) -> None:
    """A mutant that the database refuses would turn everything red, and prove nothing."""
    connection = apsw.Connection(str(pair.path))
    for query in queries():
        mutant = without_condition(query)
        if mutant is not None:
            filled = mutant.filtered()
            connection.execute(f"EXPLAIN {filled.sql}", dict.fromkeys(filled.parameters)).fetchall()
    connection.close()


@pytest.mark.timeout(300)
async def test_no_query_can_lose_its_tenant_unnoticed(pair: Pair, tmp_path: Path) -> None:
    calls = [
        Call(label, number, by, whose)
        for label, attacks in ATTACKS.items()
        for number in range(len(attacks))
        for by, whose in CASES
    ]
    inside = [call for call in calls if call.in_transaction]
    async with pair.opened() as spell:
        for tenant in (MINE, NONE):
            await spell.tenant(tenant).kv.get("a")  # the gate knows it from now on
        expected, by_query = await baseline(pair, spell, inside)
        unseen = set()
        for query in mutants():
            with replaced(query):
                if not await noticed(pair, spell, by_query[query.label], expected):
                    unseen.add(query.label)
    outside = Outside(pair, tmp_path)
    found = await outside.by_query(calls)
    unseen = {
        query.label
        for query in mutants()
        if query.label in unseen and not await outside.noticed(query, found[query.label])
    }

    # A text that is written once for all dimensions has one condition: what notices one of them notices it.
    caught = {family(query.label) for query in mutants() if query.label not in unseen}
    unnoticed = {family(label) for label in unseen} - caught
    tell(
        queries_without_tenant=len(mutants()),
        queries_without_tenant_noticed=sum(family(query.label) in caught for query in mutants()),
    )
    missed = sorted(one for one in unnoticed - set(HARMLESS) - CROWDED_BY if not one.startswith(MOVES))
    assert not missed, f"seed {SEED}: nothing notices that these lose their tenant: {' '.join(missed)}"
    assert not SOAK or sorted(set(HARMLESS) - unnoticed) == []


def family(label: str) -> str:
    """The name of a query as it is written."""
    return DIMENSION.sub("_{dim}", label)


def mutants() -> list[Query]:
    return [mutant for query in queries() if (mutant := without_condition(query)) is not None]


async def baseline(pair: Pair, spell: Spell, calls: list[Call]) -> tuple[dict[Call, str], dict[str, list[Call]]]:
    """What each call comes to as things are, twice the same, and which calls run a query."""
    expected: dict[Call, str] = {}
    by_query: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        expected[call], ran = await pair.outcome(spell, call, inside=True)
        again, _ = await pair.outcome(spell, call, inside=True)
        assert again == expected[call], call
        for label in ran:
            by_query[label].append(call)
    return expected, by_query


async def noticed(pair: Pair, spell: Spell, calls: list[Call], expected: dict[Call, str]) -> bool:
    for call in calls:
        if await outcome_or_error(pair, spell, call, inside=True) != expected[call]:
            return True
    return False


async def outcome_or_error(pair: Pair, spell: Spell, call: Call, *, inside: bool) -> str:
    """What a call comes to, also when a store without conditions runs into something impossible within itself."""
    try:
        outcome, _ = await pair.outcome(spell, call, inside=inside)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is noticed
        return f"failed within: {type(error).__name__}"
    return outcome


class Outside:
    """Calls by themselves, each on a copy of the file."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self._pair = pair
        self._folder = folder
        self._expected: dict[Call, str] = {}
        self._copies = 0

    def copy(self) -> Path:
        """A file as it was made."""
        self._copies += 1
        path = self._folder / f"copy-{self._copies}.db"
        shutil.copy(self._pair.path, path)
        return path

    async def by_query(self, calls: list[Call]) -> dict[str, list[Call]]:
        """Which calls run a query, as far as one copy lasts for all of them."""
        found: dict[str, list[Call]] = defaultdict(list)
        async with self._pair.opened(self.copy()) as spell:
            for call in calls:
                if not call.label.startswith("transaction."):
                    _, ran = await self._pair.outcome(spell, call, inside=False)
                    for label in ran:
                        found[label].append(call)
        return found

    async def outcome(self, call: Call) -> str:
        """What a call comes to on a copy of its own, and what its caller sees of its effect."""
        path = self.copy()
        async with self._pair.opened(path) as spell:
            outcome = await outcome_or_error(self._pair, spell, call, inside=False)
        path.unlink()
        return outcome

    async def noticed(self, query: Query, calls: list[Call]) -> bool:
        """Say whether a query without its condition changes what a call comes to."""
        for call in calls[:OUTSIDE_MAX]:
            if call not in self._expected:
                self._expected[call] = await self.outcome(call)
            with replaced(query):
                if await self.outcome(call) != self._expected[call]:
                    return True
        return False


async def test_no_query_of_a_move_can_lose_its_tenant_unnoticed(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_ROWS", 1)  # so that each table has a first page and a next one
    outside = Outside(pair, tmp_path)
    original = outside.copy().with_suffix(".json")
    async with pair.opened() as spell:
        source = random.Random(SEED)
        contents = sorted((source.randbytes(CHUNKED_BYTES) for _ in range(2)), key=lambda one: blake3(one).digest())
        for tenant, content in zip((MINE, NONE), contents, strict=True):  # kept in chunks, under their hashes
            session = await spell.tenant(tenant).sessions.create()
            await spell.tenant(tenant).artifacts.put(session.id, "large", content)
        other = spell.tenant(NONE)  # has what sorts behind everything of the others
        await other._storages.memories.ensure_space(EmbeddingSpace(space_id="~", model="~", dimension=384))
        await other.graph.declare("~", "one")
        await spell.admin.export(original, tenant=MINE)
    expected = await moved(pair, outside.copy(), original)
    assert await moved(pair, outside.copy(), original) == expected

    unnoticed = set()
    tried = {family(query.label): query for query in mutants() if query.label.startswith(MOVES)}
    for label, query in tried.items():
        path = outside.copy()
        with replaced(query):
            found = await moved(pair, path, None if READS_OF_MOVES.search(label) else original)
        if found == expected[: len(found)]:
            unnoticed.add(label)
        path.unlink()

    tell(queries_of_moves_without_tenant=len(tried))
    assert unnoticed == set(), f"seed {SEED}: {sorted(unnoticed)}"


async def moved(pair: Pair, path: Path, original: Path | None) -> tuple[object, ...]:
    """What exports and counts of a tenant come to, and then the import of `original`."""
    told: list[object] = []
    try:
        async with pair.opened(path) as spell:
            file = path.with_suffix(".json")
            for tenant in (THEIRS, MINE):  # of one that sorts before another, and of one that sorts behind it
                await spell.admin.export(file, tenant=tenant)
                exported = json.loads(file.read_bytes())
                told += [exported["data"], exported["counts"], await spell.admin.holdings(tenant)]
            if original is None:
                return tuple(told)
            report = await spell.admin.import_(original, tenant=MINE, on_conflict="replace")
            told += [report.tables, await spell.admin.holdings(MINE), await spell.admin.holdings(THEIRS)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is noticed
        told.append(f"failed within: {type(error).__name__}")
    return tuple(told)
