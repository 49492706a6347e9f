"""Is vector search on a server faster than pgvector used plainly, on the same rows and at the same recall?

    python benchmarks/vectors_postgres.py [--json] [--rows 20000] [--questions 200] [--seed 1] [--sets easy hard]
        [--crowded] [--partitions 16]

A tenant of `--rows` vectors, 24 tenants of 1,000, and one of 50, all in one table of the embedded server; everything is asked as
`llmspell_app`, under row-level security. Ours is the public API: `tenant.vectors.search` and `insert`, with metadata and score. The
large tenant has been promoted into the approximate index, the others have not, as the jobs of a worker would have it; `--crowded`
promotes all of them, and gives the others as many rows as the large one; `--partitions` moves the vectors into hash partitions by
tenant first. Plain is one table with the same rows and policies, one HNSW index with the same parameters, and
`WHERE tenant_id = … ORDER BY embedding <=> … LIMIT 10` with an iterative scan in a transaction of psycopg.

Every answer is compared with the exact one (`vector_data.Exact`), every score with the true one. A side takes the least effort
with which its answers to all questions reach recall 0.99, or its greatest one; then both are asked in turns. The temporary server
does not wait for a disk, so inserts are work and round trips.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import numpy as np
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show
from llmspell.spell import Spell, Tenant
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import vector_indexes, vector_partitions
from machine import described
from stores import Opened, opened
from vector_data import FILTERS, SETS, TOLERANCE, Data, Exact, K, Question, described_set, make, true_score

ROWS = 20_000
OTHERS, OTHERS_ROWS, FEW = 24, 1_000, 50
LARGE, SMALL = 0, OTHERS + 1
BATCH = 500
RECALL = 0.99
SEARCH_MS, INSERT_MS = 1.5, 0.6
INSERTS = 200
OUR_EFFORTS: tuple[dict[str, Any], ...] = (
    {},
    {"recall": 0.99},
    {"ef_search": 400},
    {"ef_search": 1_000},
    {"exact": True},
)
PLAIN_EF = (40, 100, 200, 400, 1_000)
PLAIN_TABLE = """
CREATE TABLE llmspell.plain (
    tenant_id varchar(255) COLLATE "C" NOT NULL, id uuid NOT NULL, embedding public.vector(384) NOT NULL,
    metadata jsonb NOT NULL, PRIMARY KEY (tenant_id, id));
ALTER TABLE llmspell.plain ALTER COLUMN embedding SET STORAGE PLAIN;
SELECT llmspell.apply_tenant_rls('llmspell.plain');
GRANT SELECT, INSERT, DELETE ON llmspell.plain TO llmspell_app;
INSERT INTO llmspell.plain SELECT tenant_id, id, embedding, metadata FROM llmspell.vector_embeddings_384;
SET maintenance_work_mem = '256MB';
CREATE INDEX plain_hnsw ON llmspell.plain USING hnsw (embedding public.vector_cosine_ops) WITH (m = 16, ef_construction = 64);
"""
INDEX = "idx_vector_384_hnsw"
Answer = list[tuple[int, float]]
"""The rows of an answer, and their scores."""
Search = Callable[[int], Awaitable[Answer]]


def tenant_name(number: int) -> str:
    return f"tenant-{number}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Filled(msgspec.Struct, frozen=True):
    """A store with the rows of a set, and a plain table with the same."""

    store: Opened
    data: Data
    row_of: dict[UUID, int]
    build_seconds: float

    def tenant(self, number: int) -> Tenant:
        found: Tenant = self.store.spell.tenant(tenant_name(number))
        return found


def with_tenants(name: str, *, rows: int, questions: int, seed: int, crowded: bool) -> Data:
    """A set whose first rows are the large tenant's, the last the smallest one's."""
    others = rows if crowded else OTHERS_ROWS
    ends = [rows, *(rows + others * number for number in range(1, OTHERS + 1))]
    data = make(name, rows=ends[-1] + FEW, questions=questions, seed=seed)
    return msgspec.structs.replace(data, tenants=[0, *ends, ends[-1] + FEW])


async def fill(store: Opened, data: Data, *, crowded: bool, partitions: int) -> Filled:
    """Insert all rows through the public API, promote, and copy them into the plain table."""
    spell: Spell = store.spell
    row_of: dict[UUID, int] = {}
    for number in range(len(data.tenants) - 1):
        await spell.tenants.create(tenant_name(number))
        tenant, own = spell.tenant(tenant_name(number)), data.of(number)
        for start in range(own.start, own.stop, BATCH):
            rows = range(start, min(start + BATCH, own.stop))
            entries = [VectorEntry(embedding=data.vectors[row], metadata=data.metadata(row)) for row in rows]
            row_of |= zip(await tenant.vectors.insert(entries), rows, strict=True)
    say(f"{data.name}: {len(row_of):,} rows inserted")
    with psycopg.connect(store.superuser_url, autocommit=True) as superuser:
        # The index is built over what was promoted, which takes a tenth of the time of promoting into it.
        superuser.execute(f"DROP INDEX llmspell.{INDEX}".encode())
        started = time.perf_counter()
        for number in range(SMALL + 1) if crowded else [LARGE]:
            await spell.admin.promote(tenant_name(number), "free-384", dimension=384)
        if partitions:
            vector_partitions.partition(store.owner_url, store.operator_url, dimension=384, partitions=partitions)
        else:
            vector_indexes.rebuild(store.owner_url, dimension=384, memory="256MB")
        seconds = time.perf_counter() - started
        superuser.execute(PLAIN_TABLE.encode())
        superuser.execute("VACUUM ANALYZE")
    say(f"{data.name}: indexes built, ours in {seconds:.1f} s")
    return Filled(store, data, row_of, round(seconds, 2))


class Ours:
    """The public API."""

    name = "llmspell"

    def __init__(self, filled: Filled) -> None:
        self._filled = filled
        self.efforts: Sequence[Any] = OUR_EFFORTS

    def search(self, questions: Sequence[Question], effort: Any) -> Search:
        async def ask(number: int) -> Answer:
            asked = questions[number]
            filters = None if asked.where is None else {f"metadata.{asked.where[0]}": asked.where[1]}
            tenant = self._filled.tenant(asked.tenant)
            hits = await tenant.vectors.search(asked.vector, limit=K, filters=filters, **effort)
            return [(self._filled.row_of[hit.id], hit.score) for hit in hits]

        return ask

    async def insert(self, vector: Any) -> None:
        await self._filled.tenant(LARGE).vectors.insert([VectorEntry(embedding=vector, metadata={"n": 0})])


class Plain:
    """pgvector as its documentation shows it, under the same policies."""

    name = "plain pgvector"

    def __init__(self, filled: Filled, connection: psycopg.AsyncConnection[Any]) -> None:
        self._filled = filled
        self._connection = connection
        self._texts: dict[int, str] = {}
        self.efforts: Sequence[Any] = PLAIN_EF

    def _text(self, vector: Any) -> str:
        """A vector as text; made once, so that it costs the measured call nothing."""
        if id(vector) not in self._texts:
            self._texts[id(vector)] = "[" + ",".join(map(str, vector.tolist())) + "]"
        return self._texts[id(vector)]

    def search(self, questions: Sequence[Question], effort: Any) -> Search:
        for question in questions:
            self._text(question.vector)

        async def ask(number: int) -> Answer:
            asked = questions[number]
            tenant, text = tenant_name(asked.tenant), self._text(asked.vector)
            where = "" if asked.where is None else f" AND (metadata->>'{asked.where[0]}')::int = {asked.where[1]}"
            async with self._connection.transaction():
                await self._connection.execute(
                    "SELECT set_config('app.current_tenant_id', %s, true),"
                    " set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', %s, true)",
                    (tenant, str(effort)),
                )
                cursor = await self._connection.execute(
                    f"SELECT id, metadata, 1 - (embedding <=> %s::public.vector) FROM llmspell.plain"
                    f" WHERE tenant_id = %s{where} ORDER BY embedding <=> %s::public.vector LIMIT {K}".encode(),
                    (text, tenant, text),
                )
                rows = await cursor.fetchall()
            return [(self._filled.row_of[row[0]], row[2]) for row in rows]

        return ask

    async def insert(self, vector: Any) -> None:
        async with self._connection.transaction():
            await self._connection.execute(
                "SELECT set_config('app.current_tenant_id', %s, true)", (tenant_name(LARGE),)
            )
            await self._connection.execute(
                "INSERT INTO llmspell.plain VALUES (%s, %s, %s::public.vector, '{\"n\": 0}')",
                (tenant_name(LARGE), uuid4(), self._text(vector)),
            )


async def least_effort(side: Any, questions: Sequence[Question], exact: Exact) -> Any:
    """Return the first effort whose answers reach the recall, or the last."""
    for effort in side.efforts:
        ask = side.search(questions, effort)
        found = [exact.recall(number, [row for row, _ in await ask(number)]) for number in range(len(questions))]
        if np.mean(found) >= RECALL:
            return effort
    return side.efforts[-1]


async def race(sides: Sequence[Any], data: Data, wrong: list[str], *, name: str) -> list[dict[str, Any]]:
    """Ask both sides in turns, and return a row for each."""
    exact, questions = Exact(data), data.questions
    efforts = {side.name: await least_effort(side, questions, exact) for side in sides}
    asks = {side.name: side.search(questions, efforts[side.name]) for side in sides}
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    recalls: dict[str, list[float]] = {side.name: [] for side in sides}
    for number, question in enumerate(questions):
        for side in sides if number % 2 else reversed(sides):
            started = time.perf_counter()
            answer = await asks[side.name](number)
            seconds[side.name].append(time.perf_counter() - started)
            recalls[side.name].append(exact.recall(number, [row for row, _ in answer]))
            if any(abs(score - true_score(data, row, question)) > TOLERANCE for row, score in answer):
                wrong.append(f"{name}: {side.name} gave a wrong score to question {number}")
            if side.name == Ours.name and len(answer) != exact.wanted(number):
                wrong.append(f"{name}: {len(answer)} hits to question {number} instead of {exact.wanted(number)}")
    found = []
    for side in sides:
        recall = round(float(np.mean(recalls[side.name])), 4)
        if side.name == Ours.name and recall < RECALL:
            wrong.append(f"{name}: recall {recall} is below {RECALL}")
        effort = json.dumps(efforts[side.name])
        found.append(
            {"name": f"{name}, {side.name}", **quantiles(seconds[side.name]), "recall": recall, "effort": effort}
        )
        say(str(found[-1]))
    return found


async def inserts(sides: Sequence[Any], filled: Filled, wrong: list[str]) -> list[dict[str, Any]]:
    """Insert one vector at a time, in turns; each of ours is found by the next search."""
    fresh = make(filled.data.name, rows=INSERTS, questions=1, seed=99).vectors
    vectors = list(fresh)
    for side in sides:
        if isinstance(side, Plain):
            for vector in vectors:
                side._text(vector)
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for number, vector in enumerate(vectors):
        for side in sides if number % 2 else reversed(sides):
            started = time.perf_counter()
            await side.insert(vector)
            seconds[side.name].append(time.perf_counter() - started)
        (hit,) = await filled.tenant(LARGE).vectors.search(vector, limit=1)
        if hit.id in filled.row_of or hit.score < 1 - TOLERANCE:
            wrong.append(f"insert {number} was not found by the search that followed")
    return [{"name": f"insert, {side.name}", **quantiles(seconds[side.name]), "recall": 1.0} for side in sides]


async def on_a_set(
    name: str, *, rows: int, questions: int, seed: int, crowded: bool, partitions: int, wrong: list[str]
) -> list[dict[str, Any]]:
    """Fill a server with a set, and ask it everything."""
    data = with_tenants(name, rows=rows, questions=questions, seed=seed, crowded=crowded)
    found: list[dict[str, Any]] = []
    async with opened("postgres") as store:
        filled = await fill(store, data, crowded=crowded, partitions=partitions)
        async with await psycopg.AsyncConnection.connect(store.url, autocommit=True) as connection:
            sides = (Ours(filled), Plain(filled, connection))
            for case, kind in (("unfiltered", None), ("filter 10 %", "decile"), ("filter 1 %", "group")):
                asked = data.questions
                if kind is not None:
                    asked = [Question(one.vector, where=(kind, n % FILTERS[kind])) for n, one in enumerate(asked)]
                part = msgspec.structs.replace(data, questions=asked)
                found += await race(sides, part, wrong, name=f"{name}, {case}")
            few = [Question(one.vector, tenant=SMALL) for one in data.questions]
            part = msgspec.structs.replace(data, questions=few)
            found += await race(sides, part, wrong, name=f"{name}, tenant of {FEW}")
            if name == SETS[0]:
                found += await inserts(sides, filled, wrong)
    return found


def targets(found: Sequence[dict[str, Any]], *, rows: int) -> list[dict[str, Any]]:
    """Return figure, target, measured and verdict of what this run measured."""
    by_name = {row["name"]: row for row in found}
    table = []

    def add(figure: str, target: str, measured: str, met: bool) -> None:
        verdict = ("met" if met else "missed") if rows == ROWS else f"not judged at {rows:,} rows"
        table.append({"figure": f"PostgreSQL, {figure}", "target": target, "measured": measured, "verdict": verdict})

    for name, ours in by_name.items():
        case, _, side = name.rpartition(", ")
        if side != Ours.name:
            continue
        plain = by_name[f"{case}, {Plain.name}"]
        figures = f"{ours['p50_ms']} ms at {ours['recall']}, plain {plain['p50_ms']} ms at {plain['recall']}"
        if case == "insert":
            add(
                "insert, p50",
                f"<= {INSERT_MS} ms, found on return",
                f"{ours['p50_ms']} ms",
                ours["p50_ms"] <= INSERT_MS,
            )
            continue
        if case.endswith("unfiltered"):
            add(f"{case}, p50", f"<= {SEARCH_MS} ms", f"{ours['p50_ms']} ms", ours["p50_ms"] <= SEARCH_MS)
        met = ours["recall"] >= RECALL and (ours["p50_ms"] < plain["p50_ms"] or plain["recall"] < RECALL)
        add(case, f"recall >= {RECALL}, faster than plain pgvector at that", figures, met)
    return table


async def measure(
    *,
    rows: int = ROWS,
    questions: int = 200,
    seed: int = 1,
    sets: Sequence[str] = SETS,
    crowded: bool = False,
    partitions: int = 0,
) -> dict[str, Any]:
    """Measure, and return the rows, the targets, and what was wrong: an answer that no search may give."""
    wrong: list[str] = []
    found: list[dict[str, Any]] = []
    rows = min(rows, ROWS)
    for name in sets:
        found += await on_a_set(
            name, rows=rows, questions=questions, seed=seed, crowded=crowded, partitions=partitions, wrong=wrong
        )
    return {
        "tenant_rows": rows,
        "others": OTHERS,
        "crowded": crowded,
        "partitions": partitions,
        "rows": found,
        "targets": targets(found, rows=rows),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="vectors of the large tenant")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--crowded", action="store_true", help="promote every tenant, not the large one alone")
    parser.add_argument("--partitions", type=int, default=0, help="hash partitions by tenant; 0 for none")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args()
    found = asyncio.run(
        measure(
            rows=asked.rows,
            questions=asked.questions,
            seed=asked.seed,
            sets=asked.sets,
            crowded=asked.crowded,
            partitions=asked.partitions,
        )
    )
    about = {name: described_set(name) for name in asked.sets}
    document = {"benchmark": "vectors_postgres", "sets": about, "questions": asked.questions, **found, **described()}
    show(document, as_json=asked.json)
    if found["wrong"]:
        raise SystemExit(f"error: {len(found['wrong'])} answers were wrong, the first: {found['wrong'][0]}")


if __name__ == "__main__":
    main()
