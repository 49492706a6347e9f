"""Every public method of a tenant, called with another tenant's ids, names, cursors, hashes, keys and leases (C4, C7, C9).

What somebody is told of another's thing is, to the letter, what they are told of a thing that nobody has; nothing of the other's
changes, and none of a thousand marks in the other's rows is ever said. The methods come from the classes: one that is added fails
here until `attacks` has a call of it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import tell
from tests.fixtures.stores import STORES, operator_url_of, url_of
from tests.tenancy.attacks import ATTACKS, ONLY_ON_TENANTS, OPERATORS_ALONE, methods
from tests.tenancy.belongings import Belongings, Marks, filled_tenant, invented
from tests.tenancy.observation import TENANT_COLUMN, Told, digests, told

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import InvalidCursor, LlmspellError, TenantInactive, TenantUnknown
from llmspell.security.keyring import new_master_key
from llmspell.settings import (
    PostgresSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
    TenancySettings,
)
from llmspell.spell import Spell

"""Printed with every failure; set it here to replay one."""
MARKS = 1_000
ROWS = 16
SHOWN_MAX = 40
LAST_OF_ITS_CONCERN = {label.rpartition(".")[0]: label for label in ATTACKS}.values()
BY_CHANCE = frozenset({"postings.deltas", "postings.drop_deltas", "postings.add_stats"})
"""Queries of a tidying that one write in 64 does: whether it does is told by nothing but a new id."""
WRITES_FIRST = "storages.memories.search"
"""A call that registers an embedding space, and so its tenant, before it reads."""
ANSWERS_WITHOUT_A_TENANT = {"kv.backend_type", "kv.characteristics", "memory.question", "spell.authenticate"}
"""What is the same for everybody, and asks no store."""


NOTHING_SAID = {
    # ids, hashes, checksums and numbers that the store makes
    *(
        "artifact_id",
        "checksum",
        "content_hash",
        "correlation_id",
        "delta_id",
        "entity_id",
        "entry_hash",
        "entry_id",
        "event_id",
    ),
    *(
        "execution_id",
        "fingerprint",
        "from_entity",
        "id",
        "index_token",
        "job_id",
        "key_hash",
        "key_id",
        "kv_id",
        "lease_id",
        "memory_id",
    ),
    *("owner_id", "parent_artifact_id", "pattern_id", "prev_hash", "relationship_id", "rotated_from", "rotated_to"),
    *("session_id", "state_id", "to_entity"),
    # one of a few words
    *(
        "artifact_type",
        "cardinality",
        "collection",
        "decision",
        "embedding_state",
        "language",
        "memory_type",
        "operation",
    ),
    *("scopes", "state", "status", "storage_type", "pepper"),
    # of the embedder; numbers; what is encrypted or compressed; metadata of keys, which nothing writes
    *("model", "space_id", "embedding", "encrypted_key", "data", "kv_store.metadata"),
}
"""Columns, by their name alone, that hold nothing that somebody said."""


class Scene(msgspec.Struct):
    """A store in which `names` are somebody's, and `nobodys` are nobody's."""

    spell: Spell
    names: Belongings
    nobodys: Belongings
    marks: Marks
    inspection_url: str
    seed: int

    def caller(self, who: str, number: int = 0) -> str:
        """The id of a tenant that asks."""
        return f"caller-{self.seed}-{who}-{number:04d}"

    def digests(self) -> dict[str, str]:
        return digests(self.spell, self.names.tenant, url=self.inspection_url)

    def revealed(self, one: Told) -> set[str]:
        """The marks of the owner that stand in what was said, and that the caller did not give."""
        return self.marks.found_in(one.everything) - one.asked


@asynccontextmanager
async def scene(
    backend: str, request: pytest.FixtureRequest, folder: Path, *, auto_create: bool = False
) -> AsyncIterator[Scene]:
    clock = ManualClock()
    settings = Settings(
        security=SecuritySettings(master_keys=new_master_key()),
        tenancy=TenancySettings(auto_create_tenants=auto_create),
        storage=StorageSettings(postgres=PostgresSettings(pool_size=2, operator_url=operator_url_of(backend, request))),
    )
    url = url_of(backend, request, folder)
    inspection = (
        str(request.getfixturevalue("postgres_shared_database").superuser_url) if backend == "postgres" else url
    )
    async with llmspell.connect(url, settings=settings, embedder="hashing", clock=clock) as spell:
        seed = SEED ^ zlib.crc32(request.node.name.encode())  # of its own, for tests share a server
        names, marks = await filled_tenant(spell, clock, seed, rows=ROWS)
        assert len(marks.given) >= MARKS
        nobodys = invented(seed + 1, Marks(seed + 1))
        await spell.tenants.create(f"warm-{names.tenant}")
        warm = spell.tenant(f"warm-{names.tenant}")
        await warm.access_keys.issue(name="warm", scopes=["read"])  # what the store itself reads once is read by now
        await warm.sessions.list()
        yield Scene(spell, names, nobodys, marks, inspection, seed)


async def test_the_marks_stand_in_every_column_that_holds_what_somebody_says(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """So a column that is added, and not filled in `belongings`, is noticed: nothing could be seen to leak from it."""
    async with scene("sqlite", request, tmp_path) as at:
        empty = unmarked_columns(at)

    said = [name for name in empty if name not in NOTHING_SAID and name.partition(".")[2] not in NOTHING_SAID]
    assert sorted(said) == [], "fill it in tests/tenancy/belongings.py, or say why in NOTHING_SAID"
    assert sorted(NOTHING_SAID - empty - {name.partition(".")[2] for name in empty}) == []


def unmarked_columns(at: Scene) -> set[str]:
    """The columns of texts, JSON and bytes in which no row of the owner has a mark."""
    found = set()
    connection = sqlite3.connect(at.inspection_url.removeprefix("sqlite:///"))
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'tenants'"
    ).fetchall():
        columns = {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
        texts = [name for name, kind in columns.items() if kind in ("TEXT", "BLOB") and name != TENANT_COLUMN]
        for name in texts if TENANT_COLUMN in columns else ():
            rows = connection.execute(f"SELECT {name} FROM {table} WHERE tenant_id = ?", (at.names.tenant,)).fetchall()
            if not at.marks.found_in(repr(rows)):
                found.add(f"{table}.{name}")
    connection.close()
    return found


def test_every_public_method_has_a_call() -> None:
    assert sorted(methods() - set(ATTACKS) - set(OPERATORS_ALONE)) == [], (
        "write a call of it in tests/tenancy/attacks.py"
    )
    assert sorted(set(ATTACKS) - methods()) == [], "no such method any more"


def shown(wrong: list[str]) -> str:
    """What is wrong, a line for each, and how to see it again."""
    return "\n".join([f"seed {SEED}, {len(wrong)} findings", *wrong[:SHOWN_MAX]])


def difference(label: str, foreign: Told, absent: Told) -> str | None:
    """Say how an answer about another's thing differs from one about nobody's."""
    if foreign.outcome != absent.outcome:
        same = next(
            (n for n, pair in enumerate(zip(foreign.outcome, absent.outcome, strict=False)) if len({*pair}) > 1), 0
        )
        told_of = [one.outcome[max(0, same - 80) : same + 120] for one in (foreign, absent)]
        return f"{label}: told {told_of[0]!r}, and of what nobody has {told_of[1]!r}"
    costs = [
        Counter({query: n for query, n in one.queries.items() if query[0] not in BY_CHANCE})
        for one in (foreign, absent)
    ]
    if costs[0] != costs[1]:
        return f"{label}: queries {costs[0] - costs[1]}, and for what nobody has {costs[1] - costs[0]}"
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", STORES)
async def test_anothers_thing_is_answered_as_one_that_nobody_has_and_stays_as_it_is(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    calls = 0
    async with scene(backend, request, tmp_path) as at:
        before = at.digests()
        for label, attacks in ATTACKS.items():
            for number, attack in enumerate(attacks if not label.startswith("transaction.") else ()):
                calls += 1
                answers = []
                for who, names in (("f", at.names), ("n", at.nobodys)):
                    me = at.caller(who, calls)
                    await at.spell.tenants.create(me)
                    answers.append(await told(attack, at.spell.tenant(me), names, me=me))
                    if revealed := at.revealed(answers[-1]):
                        wrong.append(f"{label}[{number}] reveals {revealed}")
                wrong += filter(None, [difference(f"{label}[{number}]", *answers)])
            if label in LAST_OF_ITS_CONCERN:
                after = at.digests()
                wrong += [f"up to {label}: {table} changed" for table in before if after[table] != before[table]]
                before = after

    tell(probes=calls, leaks=len(wrong))
    assert not wrong, shown(wrong)
    assert calls > len(ATTACKS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", STORES)
async def test_a_transaction_is_told_no_more_than_a_call_by_itself(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    calls = 0
    async with scene(backend, request, tmp_path) as at:
        before = at.digests()
        callers = [at.caller(who) for who in ("f", "n")]
        for me in callers:
            await at.spell.tenants.create(me)
            await at.spell.tenant(me).kv.get("a")  # the gate knows it by now
        for label, attacks in ATTACKS.items():
            if label.startswith(ONLY_ON_TENANTS):
                continue
            for number, attack in enumerate(attacks):
                calls += 1
                answers = []
                for me, names in zip(callers, (at.names, at.nobodys), strict=True):
                    answers.append(await told(in_transaction(attack), at.spell.tenant(me), names, me=me))
                    if revealed := at.revealed(answers[-1]):
                        wrong.append(f"{label}[{number}] reveals {revealed}")
                wrong += filter(None, [difference(f"{label}[{number}]", *answers)])
        after = at.digests()

    tell(probes=calls, leaks=len(wrong))
    assert after == before
    assert not wrong, shown(wrong)


class _RolledBackError(Exception):
    """Ends a transaction that must leave nothing behind."""


def in_transaction(attack: Any) -> Any:
    """The same call inside of a transaction that is rolled back."""

    async def call(tenant: Any, names: Any) -> Any:
        try:
            async with tenant.transaction() as tx:
                result = await attack(tx, names)
                raise _RolledBackError
        except _RolledBackError:
            return result

    return call


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", STORES)
async def test_who_is_not_served_is_refused_by_every_method_whatever_they_ask_for(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    async with scene(backend, request, tmp_path) as at:
        before = at.digests()
        for status in ("unregistered", "suspended", "deleted"):
            me = at.caller(status)
            await be(at.spell, me, status)
            refusal: type[LlmspellError] = TenantUnknown if status == "unregistered" else TenantInactive
            for label, attacks in ATTACKS.items():
                if label.startswith(
                    ("transaction.", "queue.")
                ):  # the queue is the operator's, who may work for anybody
                    continue
                for number, attack in enumerate(attacks):
                    answers = [
                        await told(attack, at.spell.tenant(me), names, me=me) for names in (at.names, at.nobodys)
                    ]
                    wrong += [f"{label}[{number}] reveals {found}" for one in answers if (found := at.revealed(one))]
                    wrong += filter(None, [difference(f"{status}: {label}[{number}]", *answers)])
                    # A cursor is refused before anybody is asked: its signature names the tenant.
                    refused = isinstance(answers[0].error, (refusal, InvalidCursor))
                    if label not in ANSWERS_WITHOUT_A_TENANT and not refused:
                        wrong.append(f"{label}[{number}] is not refused when {status}: {answers[0].outcome[:200]}")
        assert at.digests() == before
    tell(leaks=len(wrong))
    assert not wrong, shown(wrong)


async def be(spell: Spell, me: str, status: str) -> None:
    if status != "unregistered":
        await spell.tenants.create(me)
        await spell.tenant(me).kv.set("mine", b"mine")
        await (spell.tenants.suspend(me) if status == "suspended" else spell.tenants.delete(me))


@pytest.mark.parametrize("backend", STORES)
async def test_an_unregistered_reader_is_told_nothing_where_writes_register(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Reads of somebody who is not there yet pass the gate: they find nothing, and make nobody."""
    from llmspell.gate import READS

    wrong: list[str] = []
    async with scene(backend, request, tmp_path, auto_create=True) as at:
        me = at.caller("n")
        for label, attacks in ATTACKS.items():
            if label.rpartition(".")[2] not in READS or label.startswith(("transaction.", "queue.", WRITES_FIRST)):
                continue
            for number, attack in enumerate(attacks):
                answers = [await told(attack, at.spell.tenant(me), names, me=me) for names in (at.names, at.nobodys)]
                wrong += [f"{label}[{number}] reveals {found}" for one in answers if (found := at.revealed(one))]
                wrong += filter(None, [difference(f"{label}[{number}]", *answers)])
    assert not wrong, shown(wrong)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", STORES)
async def test_after_a_tenant_was_deleted_its_things_are_as_foreign_as_before(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    async with scene(backend, request, tmp_path) as at:
        await at.spell.tenants.delete(at.names.tenant)
        before = at.digests()
        callers = [at.caller(who) for who in ("f", "n")]
        for me in callers:
            await at.spell.tenants.create(me)
            await at.spell.tenant(me).kv.get("a")
        for label, attacks in ATTACKS.items():
            if label.startswith(ONLY_ON_TENANTS):
                continue
            for number, attack in enumerate(attacks):
                answers = []
                for me, names in zip(callers, (at.names, at.nobodys), strict=True):
                    answers.append(await told(in_transaction(attack), at.spell.tenant(me), names, me=me))
                    wrong += [f"{label}[{number}] reveals {found}" for found in [at.revealed(answers[-1])] if found]
                wrong += filter(None, [difference(f"{label}[{number}]", *answers)])
        assert at.digests() == before
    assert not wrong, shown(wrong)
