"""Builds graphs behind the writes and searches of a process, on one thread, and keeps them in files.

What is to be indexed are rows that every search finds already, one by one; nobody waits for this thread but who asks to.

Rule 1: a build reads one snapshot, and what it made is taken in only if the space's positions still mean the same rows.
Rule 2: of several processes on one machine one builds a file; the others take it over.
Rule 3: whatever fails here costs speed, never an answer: it is logged, and tried again when there is more to do.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
import numpy as np

from llmspell.clock import Clock
from llmspell.errors import LlmspellError
from llmspell.observe import notify_index
from llmspell.storage.contracts.vector_index import HnswConfig
from llmspell.storage.index import files, planner
from llmspell.storage.index.blocks import Block, Positions, joined
from llmspell.storage.index.cache import SpaceCache
from llmspell.storage.index.files import Header, Name
from llmspell.storage.index.graph import LIBRARY, Asked, Graph, Stopped
from llmspell.storage.index.recall import Recall, held_out, measure
from llmspell.storage.index.space import Indexed, Source, Space, View

_log = logging.getLogger(__name__)
RETRY_S: Final = 5.0
"""A build that failed, or that another process had, is not tried again before."""
OTHERS_MAX_S: Final = 600.0
"""How long who asks for an index waits for the process that builds it: a million rows take some minutes."""
LOOK_AGAIN_S: Final = 0.05


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a builder needs of its surroundings.

    `read` runs work over one snapshot of a space; `commit` notes the token of a file and the change it goes up to, unless another
    token than the known one was noted meanwhile, and says whether it did. `config` gives the parameters for so many rows. `folder`:
    where files are kept. `mapped`: they are mapped, not read.
    """

    read: Callable[[Name, Callable[[Source], Any]], Any]
    commit: Callable[[Name, int, str, str | None], bool]
    config: Callable[[Name, int], HnswConfig]
    folder: Path
    threads: int
    mapped: bool = False
    clock: Clock


class _Seen(NamedTuple):
    """The space and its rows to be indexed, what their positions mean, and the newest file that the database knows."""

    space: Space
    view: View
    epoch: int
    token: str | None


class Work(msgspec.Struct):
    """One build: what to index, and how far it is."""

    name: Name
    done: int = 0
    total: int = 0
    forgotten: int = 0
    """How often the space had had to forget when it began."""


class Builder:
    """See the module."""

    def __init__(self, cache: SpaceCache, options: Options) -> None:
        self._cache = cache
        self._options = options
        self._queue: OrderedDict[Name, threading.Event] = OrderedDict()
        self._working: Work | None = None
        self._not_before: dict[Name, float] = {}
        self._forgotten: dict[Name, int] = {}
        """How often a space had to forget: what was read before must not be written after."""
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._cleared = False

    # --- asked from outside -------------------------------------------------------------------------------------------

    def consider(self, name: Name, space: Space) -> None:
        """Build when there is enough to do. Called after each search, so it is cheap: what was not worth a build is not looked at
        again before it changes."""
        if space.considered is space.version:
            return
        if space.indexed is not None and not planner.wants_graph(space.rows - space.dead, space.dimension):
            self._shrink(name, space)
        elif not self.is_wanted(name, space):
            space.considered = space.version
        elif time.monotonic() >= self._not_before.get(name, 0.0):
            self.schedule(name)

    def _shrink(self, name: Name, space: Space) -> None:
        """Let the graph of a space go that has become small and is mostly gone, and its file."""
        if space.dead <= space.rows - space.dead or not space.lock.acquire(blocking=False):
            return
        try:
            space.shrink()
        finally:
            space.lock.release()
        self._remove(name)

    def is_wanted(self, name: Name, space: Space) -> bool:
        """Say whether a space has outgrown its graph, has one of other parameters, or has none and is large."""
        if not planner.wants_graph(space.rows - space.dead, space.dimension):
            return False
        indexed = space.indexed
        if indexed is None or not _fits(indexed, self._options.config(name, space.rows)):
            return True
        return planner.wants_more(len(indexed.graph), space.unindexed, space.dead)

    def schedule(self, name: Name) -> threading.Event:
        """Queue a build, unless it waits already; the event is set when it has ended, in whatever way."""
        with self._wake:
            if self._stopped:
                ended = threading.Event()
                ended.set()
                return ended
            if self._thread is None:
                # A daemon: a program that ends without closing its store does not wait for an index.
                self._thread = threading.Thread(target=self._run, name="llmspell-index", daemon=True)
                self._thread.start()
            ended = self._queue.setdefault(name, threading.Event())
            self._wake.notify()
        return ended

    def wait_for_others(self, name: Name) -> None:
        """Wait while another process builds the file of a space: what it makes is taken over then. Blocks."""
        give_up = time.monotonic() + OTHERS_MAX_S
        while not self._stopped and time.monotonic() < give_up:
            try:
                with files.building(self._path(name)) as free:
                    if free:
                        return
            except OSError:  # nobody keeps files here
                return
            with self._wake:
                self._wake.wait(LOOK_AGAIN_S)

    def state(self, name: Name) -> Work | None:
        """Return the build of a space that waits or goes on."""
        working = self._working
        if working is not None and working.name == name:
            return working
        return Work(name) if name in self._queue else None

    def stop(self) -> None:
        """Give up what goes on and what waits. Blocks until the thread has ended."""
        with self._wake:
            self._stopped = True
            for ended in self._queue.values():
                ended.set()
            self._queue.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def forget(self, name: Name) -> None:
        """Remove the file of a space, and end what is being built here. Another process that is at it finds that its file does not
        count (`Options.commit`), and removes it."""
        with self._wake:
            self._forgotten[name] = self._forgotten.get(name, 0) + 1
        self._remove(name)

    def _remove(self, name: Name) -> None:
        with contextlib.suppress(OSError):  # one that cannot be removed does not count either
            self._path(name).unlink()

    def _stored(self, name: Name, token: str | None) -> files.Stored | None:
        """Return what the file that the database knows holds; None when there is none, or none that can be believed."""
        return None if token is None else files.read(self._path(name), name, token=token, mapped=self._options.mapped)

    def restore(self, name: Name, space: Space, source: Source) -> None:
        """Fill a space from its file, if there is one that agrees with the database. The space's lock is held."""
        if not self._cleared:
            self._cleared = True
            files.clear(self._options.folder)
        stored = self._stored(name, source.token)
        if stored is not None and stored.header.change <= source.version.change:
            space.restore(stored.base, stored.indexed, source.version._replace(change=stored.header.change))
            _tell(name, space)

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stopped:
                    self._wake.wait()
                if self._stopped:
                    return
                name = next(iter(self._queue))
                self._working = Work(name, forgotten=self._forgotten.get(name, 0))
                ended = self._queue.pop(name)
            try:
                self._build(name)
            except Stopped:
                pass
            except Exception as exc:  # noqa: BLE001 - the edge of a thread: if it ended, nobody would be told, and callers would wait
                self._not_before[name] = time.monotonic() + RETRY_S
                _log.warning("The index of a space could not be built; it is searched without: %s", exc)
            finally:
                self._working = None
                ended.set()

    def _going(self, done: int, total: int) -> bool:
        """Note how far the build is, and say whether it is still wanted."""
        if self._working is not None:
            self._working.done, self._working.total = done, total
        return self._is_going()

    def _is_going(self) -> bool:
        working = self._working
        forgets = working is not None and self._forgotten.get(working.name, 0) != working.forgotten
        return not forgets and not self._stopped

    def _path(self, name: Name) -> Path:
        return self._options.folder / name.file

    def _build(self, name: Name) -> None:
        path: Path | None = self._path(name)
        with contextlib.ExitStack() as held:
            try:
                mine = held.enter_context(files.building(self._path(name)))
            except OSError as exc:
                _log.warning("Index files cannot be written, so an index lives as long as its process: %s", exc)
                path = None
            else:
                if not mine:
                    self._not_before[name] = time.monotonic() + RETRY_S
                    return
            self._build_and_keep(name, path)

    def _build_and_keep(self, name: Name, path: Path | None) -> None:
        seen: _Seen | None = self._options.read(name, lambda source: self._seen(name, source))
        if seen is None or not self.is_wanted(name, seen.space):
            return
        space, view, epoch = seen.space, seen.view, seen.epoch
        stored = self._stored(name, seen.token) if path is not None else None
        if stored is not None and self._takes_over(name, space, stored):
            return
        if path is not None and stored is None:
            self._remove(name)  # the database does not know it: somebody was killed, or had to erase what it holds
        indexed_before = len(view.indexed.graph) if view.indexed is not None else 0
        alive = view.alive
        dead = len(view) - view.count
        kept: Positions | None = None
        # When something was erased the database has the token of a file that never was: this process may still keep the row.
        erased = path is not None and seen.token is not None and stored is None
        if alive is not None and (erased or planner.wants_anew(indexed_before, len(view) - indexed_before, dead)):
            kept = np.flatnonzero(alive)
        base = joined(view.base, view.tail) if kept is None else joined(view.base, view.tail).at(kept)
        config = self._options.config(name, len(base))
        graph, recall = self._graph(base, view, config, anew=kept is not None)
        if not self._is_going():
            return
        indexed = Indexed(graph, recall, config.m, config.ef_construction, self._options.clock.now())
        if path is not None:
            base, indexed = self._kept(name, path, seen, base, indexed)
        if not self._is_going() and not self._stopped:
            self._remove(name)
            return
        with space.lock:
            if space.epoch == epoch and space.version is not None:
                space.install(base, indexed, len(view), kept)
                _tell(name, space)

    def _seen(self, name: Name, source: Source) -> _Seen | None:
        seen: list[_Seen] = []

        def note(space: Space, view: View) -> None:
            seen.append(_Seen(space, view, space.epoch, source.token))

        self._cache.view(name, source, note)
        return seen[0] if seen else None

    def _takes_over(self, name: Name, space: Space, stored: files.Stored) -> bool:
        """Take over what another process has built since, when that is more than this one has."""
        with space.lock:
            have = len(space.indexed.graph) if space.indexed is not None else 0
            version = space.version
            if version is None or len(stored.indexed.graph) <= have or stored.header.change > version.change:
                return False
            space.restore(stored.base, stored.indexed, version._replace(change=stored.header.change))
            _tell(name, space)
        return True

    def _graph(self, base: Block, view: View, config: HnswConfig, *, anew: bool) -> tuple[Graph, Recall]:
        """Make a graph over all rows, and measure it by rows before they are added."""
        known = None if anew or view.indexed is None or not _fits(view.indexed, config) else view.indexed.graph
        questions = held_out(0 if known is None else len(known), len(base))
        found: list[Recall] = []

        def ask(graph: Graph) -> None:
            found.append(measure(graph, base.halves, held_out=questions, going=self._is_going))

        asked = None if questions is None else Asked(questions, ask)
        graph = self._made(base, known, config, asked)
        return graph, found[0] if found else measure(graph, base.halves, going=self._is_going)

    def _made(self, base: Block, known: Graph | None, config: HnswConfig, asked: Asked | None) -> Graph:
        threads, effort = self._options.threads, config.ef_construction
        if known is None:
            return Graph.build(
                base.halves, m=config.m, ef_construction=effort, threads=threads, going=self._going, asked=asked
            )
        more = base.halves[len(known) :]
        return known.extended(more, ef_construction=effort, threads=threads, going=self._going, asked=asked)

    def _kept(self, name: Name, path: Path, seen: _Seen, base: Block, indexed: Indexed) -> tuple[Block, Indexed]:
        """Write the file and return what it holds; without one what was built stays as it is."""
        token = uuid4().hex
        header = Header(
            name=name,
            library=LIBRARY,
            change=seen.view.change,
            token=token,
            m=indexed.m,
            ef_construction=indexed.ef_construction,
            recall=indexed.recall,
            built_at=indexed.built_at,
            arrays={},
            size_bytes=0,
            digest="",
        )
        try:
            files.write(path, header, base, indexed.graph)
            noted = self._options.commit(name, header.change, token, seen.token)
        except (OSError, LlmspellError) as exc:
            _log.warning("An index file could not be kept, so the index lives as long as its process: %s", exc)
            noted = False
        if not noted:
            self._remove(name)
        stored = self._stored(name, token)
        return (stored.base, stored.indexed) if stored is not None else (base, indexed)


def _fits(indexed: Indexed, config: HnswConfig) -> bool:
    """Say whether a graph was made with these parameters: a changed setting makes another one."""
    return (indexed.m, indexed.ef_construction) == (config.m, config.ef_construction)


def _tell(name: Name, space: Space) -> None:
    """Tell observers what a space takes that has got an index. Its lock is held."""
    file_bytes = space.indexed.file_bytes if space.indexed is not None else None
    notify_index(name.tenant, name.space_id, file_bytes or 0, space.size_bytes)
