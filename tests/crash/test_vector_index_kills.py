"""Writers killed while their index is built or its file is written, files torn between lives, stores and files restored from older
copies: every answer is that of exact search over the rows, always, and nothing unfinished is left for good."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import apsw
import numpy as np
import pytest
from tests.crash import index_writer
from tests.crash.index_writer import DIMENSION, OTHER, TENANT, deleted, inserted, make_small, vector
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

from llmspell.storage.contracts.vector_index import Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.index import planner, recall
from llmspell.storage.index.files import Name
from llmspell.storage.sqlite.backend import SqliteBackend, open_sqlite

LIVES = size(ci=24, soak=600)
SEED = usual(20_265)
LIMIT_S = 60
PHASES = ("build", "file", "note", "begin")
"""What a life is killed in: making a graph, writing its file, noting it in the database, writing vectors."""
ROWS_MAX = 2_500
QUESTIONS = 6
FOUND = {
    "build": "made",
    "file": "its file was written",
    "note": "noted",
    "begin": "vectors were written",
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sizes in this process, until the end of the test."""
    for module, names in (
        (planner, ("SCAN_COMPONENTS", "TAIL_ROWS", "TAIL_SHARE", "BEAM")),
        (recall, ("QUESTIONS", "BEAMS")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    make_small()


class Life:
    """What a writer said before it was killed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.acknowledged = 0
        self.open: int | None = None
        self.at = "idle"
        self.heard: Counter[str] = Counter()
        self.exit_code: int | None = None

    def hear(self, line: str) -> None:
        word, *numbers = line.split()
        self.heard[word] += 1
        if word == "begin":
            self.open = int(numbers[0])
        elif word == "end":
            self.acknowledged, self.open = int(numbers[0]) + 1, None
        elif word == "dead":
            self.exit_code = int(numbers[0])
        else:
            self.at = word

    @property
    def died_in(self) -> set[str]:
        return {phase for phase in (self.at, "begin" if self.open is not None else "") if phase in PHASES}


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, index_writer.__file__, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0


def live_and_die(process: subprocess.Popen[str], number: int, *, doomed: str, choose: random.Random) -> Life:
    """Let a writer live until it has begun with what it is to die in, for the first time or the third."""
    assert process.stdin is not None
    assert process.stdout is not None
    life = Life(number)
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    pid = int(process.stdout.readline().split()[1])
    lead = choose.choice((1, 1, 2, 3))
    while life.heard[doomed] < lead and life.exit_code is None:
        life.hear(process.stdout.readline())
    moment = time.perf_counter() + choose.random() * 0.004
    while time.perf_counter() < moment:  # no pause of the operating system's is this short
        pass
    os.kill(pid, signal.SIGKILL)
    while life.exit_code is None:
        life.hear(process.stdout.readline())
    assert life.exit_code == -signal.SIGKILL, "the writer ended by itself"
    return life


class Store:
    """The file, what must be in it, and copies of earlier."""

    def __init__(self, folder: Path, choose: random.Random) -> None:
        self.path = folder / "store.db"
        self.files = Path(f"{self.path}.vectors")
        self.index = self.files / Name(TENANT, f"free-{DIMENSION}", DIMENSION).file
        self.other = self.files / Name(OTHER, f"free-{DIMENSION}", DIMENSION).file
        self.expected: set[int] = set()
        self.done: Counter[str] = Counter()
        self._choose = choose
        self._copies = folder / "copies"
        self._copied: tuple[set[int], bool] | None = None

    def lived(self, life: Life) -> None:
        """Note what is there now: all that was acknowledged, and of the write that was open all or nothing."""
        for write in range(life.acknowledged):
            self._wrote(life.number, write)
        with closing(apsw.Connection(str(self.path))) as connection:
            rows = connection.execute(
                f"SELECT owner_id FROM vector_embeddings_{DIMENSION} WHERE tenant_id = ?", (TENANT,)
            ).fetchall()
        there = {int.from_bytes(row[0], "big") for row in rows}
        if life.open is not None and there != self.expected:
            self._wrote(life.number, life.open)
        assert there == self.expected

    def _wrote(self, life: int, write: int) -> None:
        self.expected.update(inserted(life, write))
        self.expected.difference_update(deleted(life, write))

    def truth(self) -> tuple[np.ndarray, list[UUID]]:  # type: ignore[type-arg]
        """Unit vectors of what is there, in float64, in the order of their ids."""
        ids = sorted(self.expected)
        rows = np.array([vector(n) for n in ids], np.float64).reshape(-1, DIMENSION)
        return rows / np.linalg.norm(rows, axis=1)[:, None], [UUID(int=n) for n in ids]

    # --- what happens between two lives -------------------------------------------------------------------------------

    def harm(self) -> str:
        """Do one of the things that happen to files."""
        harms = [self.nothing, self.flip, self.cut, self.empty, self.foreign, self.remove]
        if self._copied is not None:
            harms += [self.older_index, self.older_store, self.older_both]
        chosen = self._choose.choice(harms)
        if chosen != self.nothing and not (self.index.exists() and self.index.stat().st_size):
            chosen = self.nothing
        chosen()
        self.done[chosen.__name__] += 1
        return chosen.__name__

    def nothing(self) -> None:
        pass

    def flip(self) -> None:
        raw = bytearray(self.index.read_bytes())
        for _ in range(self._choose.choice((1, 1, 20))):
            raw[self._choose.randrange(len(raw))] ^= 1 << self._choose.randrange(8)
        self.index.write_bytes(raw)

    def cut(self) -> None:
        raw = self.index.read_bytes()
        self.index.write_bytes(raw[: self._choose.randrange(len(raw))])

    def empty(self) -> None:
        self.index.write_bytes(b"")

    def foreign(self) -> None:
        shutil.copy(self.other, self.index)

    def remove(self) -> None:
        self.index.unlink()

    def copy(self) -> None:
        """Keep a copy of store and index as they are; no process has the store open."""
        shutil.rmtree(self._copies, ignore_errors=True)
        self._copies.mkdir()
        for file in self._parts():
            shutil.copy(file, self._copies / file.name)
        if self.index.exists():
            shutil.copy(self.index, self._copies / "index")
        self._copied = set(self.expected), self.index.exists()

    def _parts(self) -> list[Path]:
        return [file for file in (self.path, Path(f"{self.path}-wal")) if file.exists()]

    def older_index(self) -> None:
        assert self._copied is not None
        if self._copied[1]:
            shutil.copy(self._copies / "index", self.index)

    def older_store(self) -> None:
        assert self._copied is not None
        for file in (*self._parts(), Path(f"{self.path}-shm")):
            file.unlink(missing_ok=True)
        for file in self._copies.glob(f"{self.path.name}*"):
            shutil.copy(file, self.path.parent / file.name)
        self.expected = set(self._copied[0])

    def older_both(self) -> None:
        self.older_store()
        self.older_index()


async def check(store: Store, *, build: bool) -> list[float]:
    """Require that every answer is right; return the recall of those that may be approximate."""
    backend = await open_sqlite(store.path)
    try:
        vectors = backend.storages(TENANT).vectors
        shares = await compare(backend, store)
        if build:
            await vectors.build_index()
            shares += await compare(backend, store)
            assert list(store.files.glob(f"{store.index.name}*.new")) == []
        status = {one.space_id: one for one in await vectors.index_status()}
        store.done["reopened with a graph"] += status[f"free-{DIMENSION}"].indexed > 0 if status else 0
    finally:
        await backend.close()
    return shares


async def compare(backend: SqliteBackend, store: Store) -> list[float]:
    vectors, shares = backend.storages(TENANT).vectors, []
    rows, ids = store.truth()
    for number in random.sample(range(10_000), QUESTIONS):
        question = np.array(vector(number), np.float64)
        scores = np.rint(rows @ (question / np.linalg.norm(question)) * 1e6) / 1e6 if ids else np.empty(0)
        order = np.argsort(-scores, kind="stable")[:10]
        exact = [(hit.id, hit.score) for hit in await vectors.search(question, limit=10, effort=Effort(exact=True))]
        assert [id for id, _ in exact] == [ids[n] for n in order]
        assert [score for _, score in exact] == pytest.approx(scores[order], abs=2e-6)
        known = dict(zip(ids, scores, strict=True))
        found = [(hit.id, hit.score) for hit in await vectors.search(question, limit=10)]
        assert len(found) == len(order)
        assert all(known[id] == pytest.approx(score, abs=2e-6) for id, score in found)
        shares.append(len(dict(found).keys() & dict(exact).keys()) / max(1, len(exact)))
        store.done["answers compared"] += 2
    return shares


@pytest.mark.timeout(size(ci=300, soak=3_600))
async def test_killed_builders_and_torn_files_never_change_an_answer(tmp_path: Path) -> None:
    choose = random.Random(SEED)
    store, died, shares = Store(tmp_path, choose), Counter[str](), list[float]()
    unfinished = 0
    await _begin(store)
    with writer(store.path) as process:
        for number in range(1, LIVES + 1):
            doomed = min(PHASES, key=lambda phase: died[phase])
            life = live_and_die(process, number, doomed=doomed, choose=choose)
            died.update(life.died_in)
            unfinished += len(list(store.files.glob("*.new")))
            store.lived(life)
            harmed = store.harm()
            try:
                shares += await check(store, build=choose.random() < 0.5)
            except BaseException as error:
                error.add_note(f"seed {SEED}, life {number}, died in {life.died_in}, then {harmed}")
                raise
            if choose.random() < 0.25 or number == 3:
                store.copy()
            if len(store.expected) > ROWS_MAX:
                await _clear(store)
    shares += await check(store, build=True)

    mean = sum(shares) / len(shares)
    tell(
        index_lives=LIVES,
        index_files_left_unfinished=unfinished,
        index_answers_wrong=0,
        index_recall_in_millionths=round(mean * 1e6),
        **{f"index_killed_while_{FOUND[phase].replace(' ', '_')}": died[phase] for phase in PHASES},
        **{f"index_{name.replace(' ', '_')}": count for name, count in store.done.items()},
    )
    assert all(died[phase] >= LIVES // 12 for phase in PHASES), died
    assert unfinished > 0, "no kill landed inside of the writing of a file"
    assert store.done["reopened with a graph"] > 0
    assert mean >= 0.99


async def _begin(store: Store) -> None:
    """Another tenant has an index of its own in the same folder."""
    backend = await open_sqlite(store.path)
    entries = [VectorEntry(id=UUID(int=n), embedding=vector(n)) for n in range(1, 300)]
    await backend.storages(OTHER).vectors.insert(entries)
    await backend.storages(OTHER).vectors.build_index()
    await backend.close()
    assert store.other.exists()


async def _clear(store: Store) -> None:
    """Begin with an empty space again, so that a long run stays as quick as a short one."""
    backend = await open_sqlite(store.path)
    await backend.storages(TENANT).vectors.delete_scope("default")
    store.expected.clear()
    await backend.close()
