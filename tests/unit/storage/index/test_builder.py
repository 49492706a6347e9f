"""The builder: whatever happens around a build or in it costs speed, never an answer, and nobody waits for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.storage.index.table import Table, names

from llmspell.clock import ManualClock
from llmspell.errors import Unavailable
from llmspell.storage.contracts.vector_index import HnswConfig
from llmspell.storage.index import builder as module
from llmspell.storage.index import files, planner
from llmspell.storage.index import graph as graphs
from llmspell.storage.index.builder import Builder, Options
from llmspell.storage.index.cache import SpaceCache
from llmspell.storage.index.files import Name
from llmspell.storage.index.graph import Graph
from llmspell.storage.index.space import Source, Space

NAME = Name("acme", "free-8", 8)
WAIT_S = 60


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some dozens of rows are worth a graph, and a few behind it being taken in."""
    monkeypatch.setattr(planner, "SCAN_COMPONENTS", 8 * 40)
    monkeypatch.setattr(planner, "TAIL_ROWS", 10)


class Process:
    """A process with a cache and a builder over a table that others share."""

    def __init__(self, table: Table, folder: Path) -> None:
        self.table = table
        self.noted: list[tuple[int, str]] = []
        self.fails: dict[str, Exception] = {}
        self.cache = SpaceCache(2**31, begin=lambda _, space, source: self.builder.restore(NAME, space, source))
        self.builder = Builder(
            self.cache,
            Options(
                read=self._read,
                commit=self._commit,
                config=lambda name, count: HnswConfig(m=8, ef_construction=40),
                folder=folder,
                threads=1,
                clock=ManualClock(),
            ),
        )

    def _read(self, name: Name, work: Callable[[Source], Any]) -> Any:
        if "read" in self.fails:
            raise self.fails["read"]
        return work(self.table.source())

    def _commit(self, name: Name, change: int, token: str, known: str | None) -> bool:
        if "commit" in self.fails:
            raise self.fails["commit"]
        if self.table.token != known:
            return False
        self.noted.append((change, token))
        self.table.token = token
        return True

    def erase(self, name: object) -> None:
        """What a database does with a row that is erased: its index file does not count any more."""
        self.table.delete(name)
        self.table.token = "e" * 32
        self.builder.forget(NAME)

    def seen(self) -> list[str]:
        return names(self.cache.view(NAME, self.table.source())[0])

    @property
    def space(self) -> Space:
        found = self.cache.get(NAME)
        assert found is not None
        return found

    @property
    def indexed(self) -> int:
        return len(self.space.indexed.graph) if self.space.indexed is not None else 0

    def build(self) -> None:
        assert self.builder.schedule(NAME).wait(WAIT_S)


@pytest.fixture
def table() -> Table:
    made = Table()
    made.insert(*range(100))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


@pytest.fixture
def process(table: Table, folder: Path) -> Iterator[Process]:
    made = Process(table, folder)
    yield made
    made.builder.stop()


def everything(table: Table) -> list[str]:
    return sorted(id.lstrip(b"\0").decode() for id, _ in table.rows)


def test_a_build_is_taken_in_and_kept_in_a_file(process: Process, table: Table, folder: Path) -> None:
    assert process.seen() == everything(table)
    assert process.builder.is_wanted(NAME, process.space)

    process.build()

    assert (process.indexed, process.space.unindexed) == (100, 0)
    assert not process.builder.is_wanted(NAME, process.space)
    assert process.noted == [(table.change, table.token)]
    assert process.seen() == everything(table)
    table.read = 0
    other = Process(table, folder)
    assert (other.seen(), other.indexed, table.read) == (everything(table), 100, 0)


def test_a_second_build_takes_in_what_came_since_and_leaves_the_first_as_it_was(process: Process, table: Table) -> None:
    process.seen()
    process.build()
    first = process.space.indexed
    table.insert(*(f"n{n}" for n in range(30)))
    table.delete(*range(5))
    process.seen()

    process.build()

    assert process.indexed == 130
    assert first is not None
    assert len(first.graph) == 100
    assert process.seen() == everything(table)
    assert len(process.noted) == 2


def test_a_graph_of_which_much_is_gone_is_made_anew_without_it(process: Process, table: Table) -> None:
    process.seen()
    process.build()
    table.delete(*range(40))
    process.seen()
    assert process.builder.is_wanted(NAME, process.space)

    process.build()

    assert (process.indexed, process.space.dead) == (60, 0)
    assert process.seen() == everything(table)


def test_what_killed_writers_left_unfinished_is_removed_by_the_next_process(
    process: Process, table: Table, folder: Path
) -> None:
    process.seen()
    process.build()
    (folder / f"{NAME.file}abc.new").write_bytes(b"half")
    (folder / f"{Name('gone', 'free-8', 8).file}abc.new").write_bytes(b"half")

    other = Process(table, folder)
    other.seen()

    assert list(folder.glob("*.new")) == []
    assert other.indexed == 100


def test_nothing_is_built_that_is_not_wanted(process: Process, table: Table) -> None:
    table.delete(*range(90))
    process.seen()

    process.build()

    assert (process.indexed, process.noted) == (0, [])


class Held:
    """Holds a build between its rows and its end, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        measure = module.measure

        def held(*args: Any, **options: Any) -> Any:
            self.reached.set()
            assert self.go.wait(WAIT_S)
            return measure(*args, **options)

        monkeypatch.setattr(module, "measure", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def test_what_changes_during_a_build_is_there_after_it(process: Process, table: Table, held: Held) -> None:
    process.seen()
    ended = process.builder.schedule(NAME)
    assert held.reached.wait(WAIT_S)
    state = process.builder.state(NAME)
    assert state is not None
    assert state.total == 100
    table.delete(*range(10))
    table.insert(*(f"n{n}" for n in range(7)), 3)
    assert process.seen() == everything(table)

    held.go.set()

    assert ended.wait(WAIT_S)
    assert process.builder.state(NAME) is None
    assert (process.indexed, process.space.unindexed, process.space.dead) == (100, 8, 10)
    assert process.seen() == everything(table)


@pytest.mark.parametrize("how", ["forgotten", "restored", "evicted"])
def test_a_space_whose_positions_mean_other_rows_by_then_takes_nothing_in(
    process: Process, table: Table, held: Held, how: str
) -> None:
    process.seen()
    ended = process.builder.schedule(NAME)
    assert held.reached.wait(WAIT_S)
    table.delete(*range(20))
    table.insert(*(f"n{n}" for n in range(20)))  # as many rows as before, at other positions
    if how == "forgotten":
        with process.space.lock:
            process.space._forget()
    elif how == "restored":
        with process.space.lock:
            view = Space(8).view(table.source(), 2**40)
            assert view is not None
            process.space.restore(view.tail.each(np.copy), None, table.source().version)  # type: ignore[arg-type]
    else:
        process.cache.drop(NAME)
    assert process.seen() == everything(table)

    held.go.set()

    assert ended.wait(WAIT_S)
    assert process.indexed == 0
    assert process.seen() == everything(table)
    process.build()
    assert process.indexed > 0
    assert process.seen() == everything(table)


def test_a_build_that_is_stopped_leaves_all_as_it_was(
    process: Process, table: Table, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.seen()
    reached, real = threading.Event(), process.builder._going
    monkeypatch.setattr(graphs, "ADDED_AT_ONCE", 10)

    def going(done: int, total: int) -> bool:
        if done >= 30:
            reached.set()
            with process.builder._wake:
                process.builder._wake.wait_for(lambda: process.builder._stopped, WAIT_S)
        return real(done, total)

    monkeypatch.setattr(process.builder, "_going", going)
    ended, waiting = process.builder.schedule(NAME), process.builder.schedule(Name("acme", "other", 8))
    assert reached.wait(WAIT_S)

    process.builder.stop()

    assert ended.is_set()
    assert waiting.is_set()
    assert process.builder.schedule(NAME).is_set(), "after the end nobody waits"
    assert (process.indexed, process.noted) == (0, [])
    assert list(folder.glob("*.vectors")) == list(folder.glob("*.new")) == []
    assert process.seen() == everything(table)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Unavailable("The file is busy.")])
def test_a_file_that_cannot_be_kept_leaves_the_graph_in_memory(
    process: Process, table: Table, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    process.seen()
    if isinstance(error, OSError):

        def full(*args: object) -> None:
            raise error

        monkeypatch.setattr(files, "write", full)
    else:
        process.fails["commit"] = error

    process.build()

    assert process.indexed == 100
    assert process.seen() == everything(table)
    other = Process(table, folder)
    assert (other.seen(), other.indexed) == (everything(table), 0), (
        "a file that the database does not know is not taken"
    )


@pytest.mark.parametrize("what", ["a-file-in-its-place", "not-to-be-written"])
def test_without_a_folder_the_graph_lives_in_memory(
    process: Process, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "a-file-in-its-place":
        folder.write_bytes(b"")
    else:  # root may write anywhere, so the refusal is made
        folder.mkdir()
        real = Path.open

        def refuse(path: Path, *args: Any, **options: Any) -> Any:
            if path.suffix == ".lock":
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **options)

        monkeypatch.setattr(Path, "open", refuse)
    process.seen()

    process.build()

    assert (process.indexed, process.noted) == (100, [])


@pytest.mark.parametrize("error", [Unavailable("The file is busy."), KeyError("x"), AssertionError("unforeseen")])
def test_a_build_that_fails_is_told_and_the_thread_goes_on(
    process: Process, table: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    process.seen()
    process.fails["read"] = error

    with caplog.at_level(logging.WARNING):
        process.build()

    assert "could not be built" in caplog.text
    assert process.indexed == 0
    process.builder.consider(NAME, process.space)
    assert process.builder.state(NAME) is None, "it is not tried again at once"
    process.fails.clear()
    process.build()
    assert process.indexed == 100


def test_of_two_processes_one_builds_and_the_other_takes_it_over(
    process: Process, table: Table, folder: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[int] = []
    build = Graph.build

    def counted(rows: Any, **options: Any) -> Graph:
        builds.append(len(rows))
        return build(rows, **options)

    monkeypatch.setattr(Graph, "build", counted)
    other = Process(table, folder)
    process.seen()
    other.seen()
    ended = process.builder.schedule(NAME)
    assert held.reached.wait(WAIT_S)
    other.build()
    assert other.indexed == 0, "the right to build is the first one's"
    held.go.set()
    assert ended.wait(WAIT_S)
    table.delete(1)
    table.insert("n")
    other.seen()

    other.build()

    assert (process.indexed, other.indexed, builds) == (100, 100, [100])
    assert process.seen() == other.seen() == everything(table)
    other.builder.stop()


def test_a_file_that_is_newer_than_the_snapshot_is_not_taken(process: Process, table: Table, folder: Path) -> None:
    older = table.source()
    table.insert("n")
    process.seen()
    process.build()
    from dataclasses import replace

    other = Process(table, folder)

    view, _ = other.cache.view(NAME, replace(older, token=table.token))

    assert names(view) == sorted(map(str, range(100)))
    assert other.indexed == 0


# --- what had to be erased --------------------------------------------------------------------------------------------


def test_no_process_writes_into_a_file_what_another_had_erased(process: Process, table: Table, folder: Path) -> None:
    process.seen()
    process.build()
    assert owned(folder, table) == 100
    Process(table, folder).erase(7)
    assert not (folder / NAME.file).exists()
    table.insert(*(f"n{n}" for n in range(30)))
    process.seen()

    process.build()

    assert owned(folder, table) == 129, "the row that is gone is not among them"
    assert process.seen() == everything(table)


def owned(folder: Path, table: Table) -> int:
    """How many rows the index file has, there or not."""
    assert table.token is not None
    stored = files.read(folder / NAME.file, NAME, token=table.token)
    assert stored is not None
    return len(stored.base)


def test_what_is_written_while_another_process_erases_is_removed_again(
    process: Process, table: Table, folder: Path, held: Held
) -> None:
    process.seen()
    ended = process.builder.schedule(NAME)
    assert held.reached.wait(WAIT_S)
    Process(table, folder).erase(7)

    held.go.set()

    assert ended.wait(WAIT_S)
    assert not (folder / NAME.file).exists()
    assert process.seen() == everything(table)


def test_a_file_of_somebody_who_was_killed_before_it_was_noted_is_removed(
    process: Process, table: Table, folder: Path
) -> None:
    process.seen()
    process.build()
    process.erase(7)
    process.fails["commit"] = Unavailable("killed")
    process.seen()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process.builder, "_remove", lambda name: None)
        table.insert(*(f"n{n}" for n in range(30)))
        process.cache.drop(NAME)
        process.seen()
        process.build()
    assert (folder / NAME.file).exists()
    process.fails.clear()
    table.insert(*(f"m{n}" for n in range(30)))
    process.seen()

    process.build()

    assert owned(folder, table) == 159


def test_a_build_ends_when_its_space_has_to_forget(process: Process, table: Table, folder: Path, held: Held) -> None:
    process.seen()
    ended = process.builder.schedule(NAME)
    assert held.reached.wait(WAIT_S)
    process.erase(7)

    held.go.set()

    assert ended.wait(WAIT_S)
    assert process.indexed == 0
    assert list(folder.glob("*.vectors")) == process.noted == []
