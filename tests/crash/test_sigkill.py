"""A writer killed in the middle of a write, thirty times: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from tests.crash.writer import TENANT, kind_of, memory_id, updated_id

import llmspell

KILLS = 30
LIVES_MAX = 60
WRITES_BEFORE_KILL = 40
MOMENT_MAX_S = 0.004  # about as long as a write takes
LIMIT_S = 60

# Each query finds what is half there: (what it is, rows that contradict each other).
TORN = {
    "a memory without the version that it is at": """
        SELECT count(*) FROM memories m WHERE NOT EXISTS (SELECT 1 FROM memory_versions v
            WHERE v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id AND v.version = m.version
              AND v.content = m.content)""",
    "versions of a memory that is not there, or a gap between them": """
        SELECT count(*) FROM (SELECT v.memory_id, count(*) AS many, max(v.version) AS last FROM memory_versions v
            GROUP BY v.memory_id) h LEFT JOIN memories m ON m.memory_id = h.memory_id
        WHERE m.version IS NULL OR h.many <> h.last OR h.last <> m.version""",
    "a memory whose terms are not as many as its row says": """
        SELECT count(*) FROM memories m WHERE m.text_length <> coalesce((SELECT sum(p.tf) FROM text_postings p
            WHERE p.tenant_id = m.tenant_id AND p.owner_id = m.memory_id AND p.length = m.text_length), 0)""",
    "terms without a memory": """
        SELECT count(*) FROM text_postings p
        WHERE NOT EXISTS (SELECT 1 FROM memories m WHERE m.memory_id = p.owner_id)""",
    "a memory without its vector": """
        SELECT count(*) FROM memories m WHERE m.embedding_state = 'ready' AND 1 <> (SELECT count(*)
            FROM vector_embeddings_384 e WHERE e.owner_id = m.memory_id AND e.space_id = m.space_id)""",
    "a vector without its memory": """
        SELECT count(*) FROM vector_embeddings_384 e
        WHERE NOT EXISTS (SELECT 1 FROM memories m WHERE m.memory_id = e.owner_id AND m.embedding_state = 'ready')""",
    "a vector that the cache would not hear of": """
        SELECT count(*) FROM vector_embeddings_384 e JOIN embedding_spaces s USING (tenant_id, space_id)
        WHERE e.seq > s.change_seq""",
    "statistics that count other memories": """
        SELECT (SELECT sum(documents) FROM text_stats) <> (SELECT count(*) FROM memories)""",
    "statistics that count other terms": """
        SELECT (SELECT sum(terms) FROM text_stats) <> (SELECT sum(text_length) FROM memories)""",
    "a transaction of which only a part is there": """
        SELECT m.many <> k.many OR m.many <> e.many
        FROM (SELECT count(*) AS many FROM memories WHERE session = 'tx') m,
            (SELECT count(*) AS many FROM kv_store WHERE key >= 'tx-' AND key < 'tx.') k,
            (SELECT count(*) AS many FROM entities WHERE name >= 'tx-' AND name < 'tx.') e""",
    "an entity without the fact that made it": """
        SELECT (SELECT count(*) FROM entities WHERE name <> 'Ada') <> (SELECT count(*) FROM relationships)""",
}


class Life:
    """What one writer said before it was killed."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.open: int | None = None
        self.exit_code: int | None = None

    def hear(self, line: str) -> None:
        word, *numbers = line.split()
        if word == "begin":
            self.open = int(numbers[1])
        elif word == "end":
            self.acknowledged.append(int(numbers[1]))
            self.open = None
        elif word == "dead":
            self.exit_code = int(numbers[0])


@contextmanager
def writer(url: str) -> Iterator[subprocess.Popen[str]]:
    """The process that forks writers; gone at the end."""
    command = [sys.executable, str(Path(__file__).parent / "writer.py"), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0


def live_and_die(process: subprocess.Popen[str], number: int, choose: random.Random) -> Life:
    """Let a writer begin so many writes, and kill it a random moment into one of them."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    life, pid = Life(), int(process.stdout.readline().split()[1])
    last = choose.randrange(1, WRITES_BEFORE_KILL)
    while life.open != last:
        life.hear(process.stdout.readline())
    moment = time.perf_counter() + choose.random() * MOMENT_MAX_S
    while time.perf_counter() < moment:  # no pause of the operating system's is this short
        pass
    os.kill(pid, signal.SIGKILL)
    while life.exit_code is None:
        life.hear(process.stdout.readline())
    return life


def torn(path: Path) -> list[str]:
    """What is half there in a file; the file's own check comes first."""
    with closing(apsw.Connection(str(path))) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchall()
        assert found == ("ok",)
        return [what for what, query in TORN.items() if connection.execute(query).fetchall() != [(0,)]]


async def test_thirty_kills_inside_a_write_lose_nothing_acknowledged_and_leave_nothing_half_done(
    tmp_path: Path,
) -> None:
    path, choose, lives = tmp_path / "store.db", random.Random(3), {}
    url = f"sqlite:///{path}"
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        await spell.tenant(TENANT).graph.assert_fact("Ada", "wrote", "nothing")
    with writer(url) as process:
        for number in range(LIVES_MAX):
            lives[number] = live_and_die(process, number, choose)
            assert lives[number].exit_code == -signal.SIGKILL
            if sum(life.open is not None for life in lives.values()) == KILLS:
                break

    inside = Counter(kind_of(life.open) for life in lives.values() if life.open is not None)
    assert inside.total() == KILLS, "too few kills landed inside a write"
    assert len(inside) == 5, inside
    assert torn(path) == []
    await require_every_acknowledged_write(url, lives)


async def require_every_acknowledged_write(url: str, lives: dict[int, Life]) -> None:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        keys = set(await tenant.kv.list_keys())
        wrote = {fact.object for fact in await tenant.graph.facts(subject="Ada", predicate="wrote", limit=1_000)}
        for number, life in lives.items():
            for write in life.acknowledged:
                name, kind = f"{number}-{write}", kind_of(write)
                if kind in ("transaction", "key"):
                    assert f"{'tx' if kind == 'transaction' else 'key'}-{name}" in keys
                if kind in ("transaction", "fact"):
                    assert f"{'tx' if kind == 'transaction' else 'fact'}-{name}" in wrote
                if kind in ("transaction", "memory"):
                    assert await tenant.memory.get(memory_id(number, write)) is not None
                if kind == "update":
                    history = await tenant.memory.history(updated_id(number, write))
                    assert f"Replaced in writing {name}, with other words than before." in {v.content for v in history}
        assert await tenant.memory.embed_pending() == 0


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        ("DELETE FROM text_postings", "a memory whose terms are not as many as its row says"),
        ("DELETE FROM memory_versions", "a memory without the version that it is at"),
        ("DELETE FROM vector_embeddings_384", "a memory without its vector"),
        ("DELETE FROM text_stats", "statistics that count other memories"),
        ("DELETE FROM kv_store WHERE key >= 'tx-'", "a transaction of which only a part is there"),
    ],
)
async def test_the_check_sees_what_is_half_there(tmp_path: Path, harm: str, what: str) -> None:
    path = tmp_path / "store.db"
    async with llmspell.connect(f"sqlite:///{path}", settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        await tenant.memory.add("one", session="tx")
        await tenant.kv.set("tx-1", b"v")
        await tenant.graph.assert_fact("Ada", "wrote", "tx-1")
    assert torn(path) == []
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(harm)

    assert what in torn(path)
