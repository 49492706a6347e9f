"""SQL, paths and patterns in the place of every text that a caller may give: they are texts, and nothing else (C6).

Each payload takes the place of names, keys, filters, paths, orders and cursors of all calls of `attacks`, and what comes of it on
the databases is, to the letter, what comes of it on the in-memory model, which knows no SQL. Beside the caller somebody else has
rows with marks: none is told, and all tables are as they were.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import DATABASES, operator_url_of, url_of
from tests.tenancy.attacks import ATTACKS, ONLY_ON_TENANTS, Attack
from tests.tenancy.belongings import Belongings, Marks, fill, invented
from tests.tenancy.observation import digests, told
from tests.tenancy.test_foreign_things import in_transaction

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import InvalidInput
from llmspell.security.keyring import new_master_key
from llmspell.settings import PostgresSettings, SecuritySettings, Settings, SqliteSettings, StorageSettings
from llmspell.spell import Spell

"""Printed with every failure; set it here to replay one."""
PAYLOADS = 500
SQL = (
    *(
        "' OR '1'='1",
        "' OR 1=1 --",
        "'; DROP TABLE memories; --",
        '"; DROP TABLE memories; --',
        "') OR ('a'='a",
        "\\' OR 1=1 --",
    ),
    *("' UNION SELECT tenant_id FROM kv_store --", "1; DELETE FROM llmspell.kv_store", "' OR tenant_id = tenant_id --"),
    *(
        "' || (SELECT string_agg(value::text, ',') FROM llmspell.kv_store) || '",
        "tenant_id = tenant_id",
        "0 OR tenant_id IS NOT NULL",
    ),
    *(
        "'; SELECT set_config('app.current_tenant_id', '{theirs}', false); --",
        "' AND 1=(SELECT set_config('a.b','c',true)::int) --",
    ),
    *(
        "$$; DROP TABLE kv_store; $$",
        "$1",
        "$2",
        "%s",
        "%(tenant_id)s",
        ":tenant_id",
        ":now",
        "@tenant_id",
        "?",
        "?1",
        "{filters}",
    ),
    *(
        "{tenant}",
        "{0}",
        "{x.__class__}",
        "%",
        "_",
        "%%",
        "a%' --",
        "\\",
        "\\\\",
        "\\'",
        "''",
        '""',
        "``",
        "[tenant_id]",
        "/* */ --",
    ),
    *(
        "'/**/OR/**/1=1",
        "; ATTACH DATABASE '/nowhere' AS a; --",
        "'; PRAGMA writable_schema=ON; --",
        "x' AND load_extension('a') --",
    ),
    *(
        "ʼ OR 1=1 --",
        "＇ OR 1=1 --",
        "‘ OR ’1’=’1",
        "\u2019; DROP TABLE kv_store",
        "%27 OR 1=1",
        "\\u0027 OR 1=1",
        "&#39; OR 1=1",
    ),
    *("a\u202eb' OR 1=1", "\ufeff' --", "a\u0000' OR 1=1", "\ud800' OR 1=1", "\x1a' OR 1=1", "a\nb'; --", "a\r\n--"),
    *(
        "E'\\x27'",
        "U&'\\0027'",
        "x'27'",
        "0x27",
        "CAST('{theirs}' AS text)",
        "NULL",
        "null",
        "true",
        "1e309",
        "-0.0",
        "NaN",
    ),
)
PATHS = (
    *(
        "$",
        "$.a",
        "$.*",
        "$..*",
        "a.b.c",
        "a[0]",
        "a[*]",
        "a.#",
        "#-1",
        '$."a"',
        '"a"',
        "a'b",
        "a->>b",
        "a}b",
        "{a,b}",
        "a.b'; --",
        "*",
        "@",
    ),
    *(
        "metadata.a' OR '1'='1",
        "metadata.tenant_id",
        "metadata.$",
        "metadata.$[0]",
        "metadata.a.b'||'c",
        'metadata.a"b',
        "metadata.a\\b",
    ),
    *(
        "tenant_id",
        "rowid",
        "m.tenant_id",
        "session' OR '1'='1",
        "metadata.",
        "metadata..",
        "metadata.a..b",
        "metadata.__proto__",
    ),
)
TEXT_FIELDS = [name for name, kind in Belongings.__annotations__.items() if kind == "str"]
OF_THE_STORE = {"kv.backend_type", "kv.characteristics", "storages.access_keys.pepper"}
"""Calls that answer what two stores do not share, and take nothing."""


def payloads(seed: int, theirs: str) -> list[str]:
    """Return so many different texts: those above, and what comes of putting pieces of them together."""
    chance = random.Random(seed)
    whole = [text.replace("{theirs}", theirs) for text in (*SQL, *PATHS)]
    while len(whole) < PAYLOADS:
        parts = [chance.choice((*SQL, *PATHS)).replace("{theirs}", theirs) for _ in range(chance.randint(2, 3))]
        cut = chance.randint(1, max(1, len(parts[0])))
        whole.append(chance.choice(["", "mk", "'", " "]) + parts[0][:cut] + "".join(parts[1:]))
    return list(dict.fromkeys(whole))


FILTERED: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "memory.list": lambda t, given: t.memory.list(filters=given),
    "memory.count": lambda t, given: t.memory.count(filters=given),
    "memory.search": lambda t, given: t.memory.search("said", filters=given),
    "memory.list_paginated": lambda t, given: t.memory.list_paginated(filters=given),
    "vectors.search": lambda t, given: t.vectors.search([1.0] * 384, filters=given),
    "context": lambda t, given: t._storages.memories.adjacent([UUID(int=7)], filters=given),
}
"""Whatever takes a filter."""


def filters_of(payload: str) -> Iterator[dict[str, Any]]:
    """A payload as a field, in a path, as a value, in a list, and as an operator."""
    yield {payload: "x"}
    yield {f"metadata.{payload}": "x"}
    yield {f"metadata.a.{payload}.b": {"$exists": False}}
    yield {"metadata.a": payload}
    yield {"session": {"$ne": payload}}
    yield {"metadata.a": {"$in": [payload, {payload: payload}]}}
    yield {"metadata.a": {payload: 1}}
    yield {"metadata.a": {"$contains": payload}}
    yield {"role": {"$gt": payload}, "$or": [{f"metadata.{payload}": {"$gte": payload}}, {"kind": payload}]}


def named(names: Belongings, payload: str, *, only: str | None = None) -> Belongings:
    """Names of which every text (or one) is a payload; ids stay as they are."""
    fields = [name for name in TEXT_FIELDS if name != "tenant" and (only is None or name == only)]
    cursors = dict.fromkeys(names.cursors, payload)
    return msgspec.structs.replace(names, **dict.fromkeys(fields, payload), **({} if only else {"cursors": cursors}))


class Beside(msgspec.Struct):
    """A model and a database: in each the same caller, beside somebody else."""

    model: Spell
    database: Spell
    me: str
    mine: Belongings
    theirs: str
    marks: Marks
    inspection_url: str

    def digests(self) -> dict[str, str]:
        return digests(self.database, self.theirs, url=self.inspection_url)


@asynccontextmanager
async def beside(backend: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Beside]:
    clock, master = ManualClock(), new_master_key()
    marks, mine = Marks(SEED), invented(SEED + 1, Marks(SEED + 1))
    theirs = invented(SEED + 2, marks)
    test = f"{zlib.crc32(request.node.name.encode()):08x}"  # tests share a server
    me = f"caller-{mine.tenant}-{test}"
    other = msgspec.structs.replace(theirs, tenant=f"{theirs.tenant}-{test}")
    settings = Settings(
        security=SecuritySettings(master_keys=master),
        storage=StorageSettings(
            postgres=PostgresSettings(pool_size=2, operator_url=operator_url_of(backend, request)),
            sqlite=SqliteSettings(readers=1),
        ),
    )
    url = url_of(backend, request, folder)
    inspection = (
        str(request.getfixturevalue("postgres_shared_database").superuser_url) if backend == "postgres" else url
    )
    async with AsyncExitStack() as stack:
        opened = []
        for where in ("memory://", url):
            spell = await stack.enter_async_context(
                llmspell.connect(where, settings=settings, embedder="hashing", clock=clock)
            )
            await spell.tenants.create(other.tenant)
            await fill(spell, other, marks, rows=2)
            await spell.tenants.create(me)
            await few_rows(spell, me)
            opened.append(spell)
        yield Beside(*opened, me, mine, other.tenant, marks, inspection)


async def few_rows(spell: Spell, me: str) -> None:
    """Enough for a filter that is always true to be noticed."""
    tenant = spell.tenant(me)
    for number, metadata in enumerate(({"a": "x"}, {"a": 1, "b": {"c": "x"}}, {"tenant_id": "x", "a": ["x", "y"]}, {})):
        id = UUID(int=0x0190_0000_0000 << 80 | 0x7 << 76 | 0b10 << 62 | number)
        await tenant.memory.add(f"Said {number}", id=id, session=f"s{number}", role="user", metadata=metadata)
        await tenant.vectors.insert({"id": id, "embedding": [1.0, float(number + 1)] * 192, "metadata": metadata})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", DATABASES)
async def test_a_payload_in_a_filter_finds_what_it_finds_in_the_model(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    asked = 0
    async with beside(backend, request, tmp_path) as at:
        before = at.digests()
        chance = random.Random(SEED)
        for payload in payloads(SEED, at.theirs):
            everything = [(verb, given) for verb in FILTERED for given in filters_of(payload)]
            for verb, given in chance.sample(everything, size(ci=3, soak=len(everything))):
                asked += 1

                async def attack(tenant: Any, names: Any, verb: str = verb, given: dict[str, Any] = given) -> Any:
                    return await FILTERED[verb](tenant, given)

                wrong += await compare(at, f"{verb} {given!r}", attack, at.mine)
        assert at.digests() == before
    tell(probes=asked, leaks=len(wrong))
    assert not wrong, "\n".join([f"seed {SEED}", *wrong[:20]])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", DATABASES)
async def test_a_payload_in_any_text_of_any_method_does_what_it_does_in_the_model(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each payload in the place of all texts of some calls, so that all calls are made with many payloads."""
    wrong: list[str] = []
    asked = 0
    inside = [
        (label, attack)
        for label, attacks in ATTACKS.items()
        for attack in attacks
        if not label.startswith(ONLY_ON_TENANTS) and label not in OF_THE_STORE
    ]
    chance = random.Random(SEED)
    async with beside(backend, request, tmp_path) as at:
        before = at.digests()
        for payload in payloads(SEED, at.theirs):
            for label, attack in chance.sample(inside, size(ci=3, soak=60)):
                asked += 1
                # All texts at once, or one of them: a call that refuses the first would not come to the second.
                names = named(at.mine, payload, only=chance.choice([None, *TEXT_FIELDS]))
                wrong += await compare(at, f"{label} {payload!r}", in_transaction(attack), names)
        assert at.digests() == before
        assert await at.database.tenant(at.me).memory.count() == 4
    tell(probes=asked, leaks=len(wrong))
    assert not wrong, "\n".join([f"seed {SEED}", *wrong[:20]])


@pytest.mark.parametrize("backend", DATABASES)
async def test_a_payload_in_the_order_or_the_position_of_a_page_is_refused_or_a_text(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong: list[str] = []
    async with beside(backend, request, tmp_path) as at:
        for payload in payloads(SEED, at.theirs)[: size(ci=150, soak=PAYLOADS)]:
            calls: list[Attack] = [
                lambda t, x, p=payload: t.memory.list(order=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.memory.list(cursor=p),  # type: ignore[misc]
                lambda t, x, p=payload: t._storages.memories.list(order=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.kv.list_keys(p, after=p, limit=3),  # type: ignore[misc]
                lambda t, x, p=payload: t.graph.list_entities(after=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.vectors.search([1.0] * 384, scope=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.workflow_state.list(status=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.jobs.list(state=p, kind=p),  # type: ignore[misc]
                lambda t, x, p=payload: t.graph.neighbours("x", direction=p),  # type: ignore[misc]
            ]
            for number, call in enumerate(calls):
                wrong += await compare(at, f"call {number} with {payload!r}", call, at.mine)
    assert not wrong, "\n".join([f"seed {SEED}", *wrong[:20]])


SCORE = re.compile(r"score=-?[\d.]+(?:e-?\d+)?|VectorIndexStatus\([^()]*\)")
"""Databases compute in single precision, so the sixth place may differ. Which records come, and in which order, may not. How a
space is searched is what differs."""


async def compare(at: Beside, what: str, attack: Attack, names: Belongings) -> list[str]:
    """Call the model and the database, and say what differs, and what was told of somebody else."""
    model = await told(attack, at.model.tenant(at.me), names, me=at.me)
    database = await told(attack, at.database.tenant(at.me), names, me=at.me)
    found = []
    if model.error is not None and not isinstance(model.error, InvalidInput):
        same_error = database.error is not None and (model.error.code, type(model.error)) == (
            database.error.code,
            type(database.error),
        )
        if not same_error:
            found.append(f"{what}: the model raises {model.error!r}, of the database comes {database.outcome[:200]}")
    elif SCORE.sub("", model.outcome) != SCORE.sub("", database.outcome):
        same = next(
            (n for n, pair in enumerate(zip(model.outcome, database.outcome, strict=False)) if len({*pair}) > 1), 0
        )
        shown = [one.outcome[max(0, same - 60) : same + 140] for one in (model, database)]
        found.append(f"{what}: the model says {shown[0]!r}, the database {shown[1]!r}")
    if revealed := at.marks.found_in(database.everything) - at.marks.found_in(at.theirs):
        found.append(f"{what} reveals {revealed}")
    return found


def test_there_are_so_many_different_payloads() -> None:
    assert len(payloads(SEED, "x")) >= PAYLOADS * 0.95
