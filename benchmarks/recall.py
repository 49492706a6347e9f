"""Does memory find the evidence? Recall, ranking and context coverage on conversations with known answers.

    python benchmarks/recall.py dialogues.json --backend sqlite

Each conversation becomes a tenant, each turn a memory with its speaker, session and time. For every question that has an answer
in the conversation (adversarial ones have none), the turns that hold the answer are looked for among the first 5, 10 and 20 hits,
and in a context of 1,000 and of 2,000 tokens.

Figures: recall@k is the share of a question's evidence among the first k hits, nDCG@10 its binary form, coverage the share of
evidence that the context contains; all are means over questions. Latencies are per call, with the embedder's share taken out as
well. `ids_digest` is a digest of the ids of the first ten hits of every question: equal digests mean equal answers.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn
from uuid import NAMESPACE_URL, uuid5

import llmspell
from llmspell.memory.memory import MemoryInput
from llmspell.spell import Spell, Tenant

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import described

CUTS = (5, 10, 20)
BUDGETS = (1_000, 2_000)
SEARCH_LIMIT = 20
FLOORS = {"recall@10": 0.57, "coverage@2000": 0.75}
OTHER_TENANTS, OTHER_TURNS = 20, 20


@asynccontextmanager
async def opened(backend: str) -> AsyncIterator[tuple[Spell, Callable[[], object] | None]]:
    """Open a fresh store of a backend with the real embedder, and without its cache.

    On a server comes what its autovacuum would do within a minute: gathering statistics of new rows.
    """
    settings = llmspell.Settings()
    if backend == "postgres":
        from llmspell.ops.embedded_postgres import APP_ROLE, DEV_DATABASE, OWNER_ROLE, EmbeddedCluster
        from llmspell.storage.postgres.migrate import migrate

        with EmbeddedCluster.temporary() as cluster:
            migrate(cluster.url(role=OWNER_ROLE, database=DEV_DATABASE))
            url = cluster.url(role=APP_ROLE, database=DEV_DATABASE)
            async with llmspell.connect(url, settings=settings, embedder="local") as spell:
                yield spell, lambda: cluster.run_sql("ANALYZE", database=DEV_DATABASE)
        return
    with tempfile.TemporaryDirectory() as folder:
        url = "memory://" if backend == "memory" else f"sqlite:///{folder}/recall.db"
        async with llmspell.connect(url, settings=settings, embedder="local") as spell:
            yield spell, None


async def ingest(tenant: Tenant, conversation: dict[str, Any]) -> dict[str, str]:
    """Keep every turn as a memory, and return the turn behind each memory id."""
    items, turns = [], {}
    for turn in conversation["turns"]:
        # Ids in the order of the conversation, the same on every backend: ties are then broken alike.
        digest = uuid5(NAMESPACE_URL, f"{conversation['id']}/{turn['id']}").int & (2**80 - 1)
        id = f"{turn['seq']:012x}{digest:020x}"
        turns[id] = turn["id"]
        items.append(
            MemoryInput(id=id, text=turn["text"], session=turn["session"], role=turn["speaker"], at=turn["at"])
        )
    await tenant.memory.add_many(items)
    return turns


async def crowd(spell: Spell, conversation: dict[str, Any]) -> None:
    """Put other tenants into the tables: a latency that was taken without them would mean nothing."""
    for number in range(OTHER_TENANTS):
        await spell.tenants.create(f"other-{number}")
        turns = conversation["turns"][number : number + OTHER_TURNS]
        items = [MemoryInput(text=turn["text"], session=turn["session"], role=turn["speaker"]) for turn in turns]
        await spell.tenant(f"other-{number}").memory.add_many(items)


class Figures:
    """Collects the figures of all questions."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.digest = hashlib.sha256()

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def mean(self, name: str) -> float:
        return round(statistics.fmean(self.values[name]), 4)

    def percentile(self, name: str, share: float) -> float:
        ordered = sorted(self.values[name])
        return round(ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))], 3)


async def measure(tenant: Tenant, question: dict[str, Any], turns: dict[str, str], figures: Figures) -> None:
    """Ask one question."""
    evidence = set(question["evidence"])
    started = time.perf_counter()
    vector = await tenant.memory.question(question["text"])
    embedded = time.perf_counter()
    await tenant.memory.rank(question["text"], question=vector)
    ranked = time.perf_counter()
    figures.add("embed_ms", (embedded - started) * 1e3)
    figures.add("search_ms_without_embedder", (ranked - embedded) * 1e3)
    figures.add("search_ms", (ranked - started) * 1e3)
    hits = [turns[hit.id.hex] for hit in await tenant.memory.search(question["text"], limit=SEARCH_LIMIT)]
    figures.digest.update(json.dumps([question["id"], hits[:10]]).encode())
    for cut in CUTS:
        figures.add(f"recall@{cut}", len(evidence.intersection(hits[:cut])) / len(evidence))
    gains = [1 / math.log2(place + 2) for place, turn in enumerate(hits[:10]) if turn in evidence]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(evidence))))
    figures.add("ndcg@10", sum(gains) / ideal)
    for budget in BUDGETS:
        context = await tenant.context(question["text"], max_tokens=budget)
        assert context.tokens_used <= budget, "a context is over its budget"
        held = {turns[item.id.hex] for item in context.items}
        figures.add(f"coverage@{budget}", len(evidence & held) / len(evidence))
        figures.add("context_ms_without_embedder", context.took_ms)
        figures.add("context_ms", context.took_ms + context.embedding_ms)


async def run(data: list[dict[str, Any]], backend: str) -> dict[str, Any]:
    """Ingest and ask everything, and return one document."""
    figures = Figures()
    memories, asked, spent = 0, 0, 0.0
    async with opened(backend) as (spell, gather_statistics):
        if gather_statistics is not None:
            await crowd(spell, data[0])
        for conversation in data:
            await spell.tenants.create(conversation["id"], exist_ok=True)
            tenant = spell.tenant(conversation["id"])
            started = time.perf_counter()
            turns = await ingest(tenant, conversation)
            spent += time.perf_counter() - started
            memories += await tenant.memory.count()
            if gather_statistics is not None:
                gather_statistics()
            for question in conversation["questions"]:
                if question["evidence"] and question["kind"] != "adversarial":
                    await measure(tenant, question, turns, figures)
                    asked += 1
    if memories != sum(len(conversation["turns"]) for conversation in data):
        raise SystemExit("error: not every turn became a memory")
    names = [f"recall@{cut}" for cut in CUTS] + ["ndcg@10"] + [f"coverage@{budget}" for budget in BUDGETS]
    timed = ("embed_ms", "search_ms", "search_ms_without_embedder", "context_ms", "context_ms_without_embedder")
    return {
        "benchmark": "recall",
        "backend": backend,
        "embedder": "all-MiniLM-L6-v2",
        "memories": memories,
        "questions": asked,
        **{name: figures.mean(name) for name in names},
        **{name: {"p50": figures.percentile(name, 0.5), "p95": figures.percentile(name, 0.95)} for name in timed},
        "ingest_per_s": round(memories / spent, 1),
        "ids_digest": figures.digest.hexdigest()[:16],
        **described(),
    }


def _refuse(problem: str) -> NoReturn:
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(2)


def read(file: Path) -> list[dict[str, Any]]:
    """Read the conversations, or end the program with one line that says why they cannot be used."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except OSError as error:
        _refuse(f"{file} cannot be read: {error.strerror}")
    except ValueError as error:
        _refuse(f"{file} is not JSON: {error}")
    fields = {"id", "turns", "questions"}
    if not isinstance(data, list) or not data or not all(isinstance(one, dict) and fields <= set(one) for one in data):
        _refuse(f"{file} must be a list of conversations, each with id, turns and questions")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="conversations with turns and questions")
    parser.add_argument("--backend", choices=["memory", "sqlite", "postgres"], default="sqlite")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    document = asyncio.run(run(read(arguments.file), arguments.backend))
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        for name, value in document.items():
            print(f"{name:30} {value}")
    missed = [name for name, floor in FLOORS.items() if document[name] < floor]
    if missed:
        raise SystemExit(f"error: below the floor: {', '.join(missed)}")


if __name__ == "__main__":
    main()
