"""The search over `storage.index`, and what is known and done of its indexes: loaded with the first search, because numpy is.

Rule: a search sees exactly its snapshot. Where that may hold writes that can still be rolled back, nothing is cached.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from llmspell.clock import Clock
from llmspell.observe import notify_index, notify_search, searches_observed
from llmspell.storage.contracts.filters import Node
from llmspell.storage.contracts.vector_index import (
    CONFIGURED,
    Effort,
    HnswConfig,
    IndexChoice,
    IndexState,
    VectorIndexStatus,
    estimate_overhead_bytes,
    estimate_vector_bytes,
)
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index import builder as builders
from llmspell.storage.index import exact
from llmspell.storage.index.blocks import Positions
from llmspell.storage.index.cache import SpaceCache
from llmspell.storage.index.columns import Columns
from llmspell.storage.index.files import Name
from llmspell.storage.index.pages import page_search
from llmspell.storage.index.planner import candidates
from llmspell.storage.index.recall import Recall
from llmspell.storage.index.search import Harmed, Question, search
from llmspell.storage.index.space import Heavy, Source, Space, View
from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Executor, Unit
from llmspell.storage.relational.runtime import SpaceCount, TooMuch
from llmspell.storage.sqlite.database import ConnectionExecutor, Database, FileUnit
from llmspell.storage.sqlite.index_options import IndexOptions
from llmspell.storage.sqlite.vector_rows import SpaceRows
from llmspell.tenant import TenantId

WORTH_BUILDING: Final = 8_000_000
"""Insertions of so many components (20,833 rows of 384) wake the builder, which decides (`index.planner`)."""
BACKLOG_COMPONENTS: Final = 200_000_000
"""Insertions of so many components (520,000 rows of 384) while a build goes on wait: what is not indexed costs each search."""
BEAMS_MAX: Final = 1_000
"""Numbers of candidates that are remembered, by what was asked for."""
BUILDS_MAX: Final = 8
"""Builds that one call waits for: while it waits, rows may come."""
STATUS_HITS: Final = 10
"""The number of hits for which a status reports recall."""
T = TypeVar("T")
_log = logging.getLogger(__name__)
Hits: TypeAlias = "list[tuple[bytes, float]]"


class Counted(NamedTuple):
    """Which rows of a space count: all; those that a filter accepts; those of owners, asked for when needed; all but some."""

    filters: Node | None = None
    only: Callable[[], list[bytes]] | None = None
    without: Sequence[bytes] = ()

    def choose(self, space: Space, view: View, *, source: Source, light: bool = False) -> Positions | None:
        """Return the positions that count, ascending; None for all. The space's lock is held."""
        found = None
        if light and self.filters is not None and not space.holds(self.filters):
            raise Heavy
        if self.filters is not None:
            found = space.matching(self.filters, source, lambda: Columns(FILTER_FIELDS))
        if found is None and self.only is not None:
            found = space.positions(exact.owner_words(self.only()))
        if found is None and self.without:
            found = space.positions_but(exact.owner_words(self.without))
        if found is None or not len(found) or found[-1] < len(view):
            return found
        return found[found < len(view)]


class VectorSearch:
    """The spaces of one store in this process, and their builder."""

    def __init__(self, catalog: Catalog, clock: Clock, database: Database, options: IndexOptions) -> None:
        self._catalog = catalog
        self._database = database
        self._options = options
        self._beams: dict[tuple[Name, Effort, int], tuple[Recall, int]] = {}
        self._configs: dict[IndexChoice, HnswConfig] = {}
        self._inserted: dict[Name, int] = {}
        """Components that this process has inserted into a space since the builder was told of it."""
        self._cache = SpaceCache(options.vector_cache_bytes, begin=self._begin, gone=self._let_go)
        self._builder = builders.Builder(
            self._cache,
            builders.Options(
                read=self._read,
                commit=self._commit,
                config=self._config,
                folder=options.folder,
                threads=options.index_threads,
                mapped=options.vector_mmap,
                clock=clock,
            ),
        )

    # --- one search ---------------------------------------------------------------------------------------------------

    def search(
        self,
        rows: SpaceRows,
        query: bytes,
        limit: int,
        *,
        effort: Effort = CONFIGURED,
        filters: Node | None = None,
        only: Callable[[], list[bytes]] | None = None,
        without: Sequence[bytes] = (),
        light: bool = False,
    ) -> Hits:
        """Return the best owners and their scores, in order, as the snapshot of `rows` sees them.

        Those count that `filters` accept (`only` says which where columns cannot), or that `only` names, or all `without` some.

        Raises:
            TooMuch: `light` was asked for, and it would take longer than some tenths of a millisecond.
        """
        counted = Counted(filters, only, without)
        started = time.perf_counter()
        try:
            hits, path = self._answer(rows, query, limit, effort, counted, light=light)
        except Heavy:
            raise TooMuch from None
        except Harmed:
            _log.warning("What was kept of a space in memory is not what the database has; it is read anew.")
            self._cache.drop(Name(rows.executor.tenant, rows.id, rows.dimension))
            hits, path = _page_by_page(rows, exact.unit_vector(query), limit, counted).pairs(), "exact"
        if searches_observed():
            notify_search(path, time.perf_counter() - started, len(rows.payload))
        return hits

    def _answer(
        self, rows: SpaceRows, query: bytes, limit: int, effort: Effort, counted: Counted, *, light: bool
    ) -> tuple[Hits, Literal["exact", "ann"]]:
        """Return the hits, and whether every row that counts was compared or an index was asked."""
        source = rows.source()
        if source is None:
            return [], "exact"
        unit = exact.unit_vector(query)
        name = Name(rows.executor.tenant, rows.id, rows.dimension)
        view, chosen = None, None
        if not rows.executor.uncommitted:
            choose = partial(counted.choose, source=source, light=light)
            view, chosen = self._cache.view(name, source, choose, light=light)
        if view is None and light:
            raise Heavy
        if view is None:
            return _page_by_page(rows, unit, limit, counted).pairs(), "exact"
        question = Question(unit, limit, self._candidates(name, effort, limit, view), light)
        answer = search(view, question, rows.embeddings, chosen=chosen)
        if self._options.indexes and (space := self._cache.get(name)) is not None:
            self._builder.consider(name, space)
        return answer.found.pairs(), "exact" if answer.plan.exact else "ann"

    def _candidates(self, name: Name, effort: Effort, limit: int, view: View) -> int:
        indexed = view.indexed
        if indexed is None:
            return 0
        known = self._beams.get((name, effort, limit))
        if known is not None and known[0] is indexed.recall:
            return known[1]
        beam = self._beam(name, effort, limit, indexed.recall, len(view))
        if len(self._beams) >= BEAMS_MAX:
            self._beams.clear()
        self._beams[name, effort, limit] = (indexed.recall, beam)
        return beam

    def _beam(self, name: Name, effort: Effort, limit: int, measured: Recall, count: int) -> int:
        ef_search, recall = self._config(name, count).ef_search, self._options.choice(name.space_id).recall
        return candidates(effort, limit, measured, ef_search=ef_search, recall=recall)

    # --- the indexes --------------------------------------------------------------------------------------------------

    async def inserted_rows(self, unit: Unit, space_id: str, dimension: int, count: int) -> None:
        """Let the index catch up when much was inserted, and wait for it when far too much was."""
        name = Name(unit.tenant, space_id, dimension)
        inserted = self._inserted[name] = self._inserted.get(name, 0) + count * dimension
        goes_on = self._builder.state(name) is not None
        if inserted <= (BACKLOG_COMPONENTS if goes_on else WORTH_BUILDING):
            return
        ended = self._builder.schedule(name)
        if goes_on:
            await asyncio.to_thread(ended.wait)
        self._inserted[name] = 0

    async def forget(self, tenant: TenantId, space_id: str, dimension: int) -> None:
        """Drop the index of a space and its file: they hold what was erased."""
        name = Name(tenant, space_id, dimension)
        self._cache.drop(name)
        await asyncio.to_thread(self._builder.forget, name)

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        """Build until there is nothing left to do. Blocks a thread, not the loop."""
        name = Name(unit.tenant, space.id, space.dimension)
        for _ in range(BUILDS_MAX):
            await asyncio.to_thread(self._read, name, lambda source: self._cache.view(name, source))
            held = self._cache.get(name)
            if held is None or not self._builder.is_wanted(name, held):
                return
            await asyncio.to_thread(self._builder.wait_for_others, name)
            await asyncio.to_thread(self._builder.schedule(name).wait)

    async def status(self, unit: Unit, counted: SpaceCount) -> VectorIndexStatus:
        """Say how a space is searched, as far as this process knows; it looks at an index file that is there."""
        name = Name(unit.tenant, counted.id, counted.dimension)
        if self._options.indexes and not unit.in_transaction:
            await asyncio.to_thread(self._take_over, name)
        status = self._configured(name, counted)
        space = self._cache.get(name)
        if space is None:
            return status
        with space.lock:
            return self._measured(status, space, name)

    def _take_over(self, name: Name) -> None:
        """Open the index file of a space that this process has not looked at yet, if there is one."""
        held = self._cache.get(name)
        if (held is None or held.version is None) and (self._options.folder / name.file).exists():
            self._read(name, lambda source: self._cache.view(name, source))

    def _configured(self, name: Name, counted: SpaceCount) -> VectorIndexStatus:
        """Return what is known of a space without looking at its index."""
        config = self._config(name, counted.vectors)
        return VectorIndexStatus(
            space_id=counted.id,
            dimension=counted.dimension,
            state="exact",
            vectors=counted.vectors,
            unindexed=counted.vectors,
            m=config.m,
            ef_construction=config.ef_construction,
            ef_search=config.ef_search,
            recall_target=self._options.choice(name.space_id).recall,
            estimated_bytes=counted.vectors * estimate_vector_bytes(counted.dimension, m=config.m),
            overhead_bytes=estimate_overhead_bytes(counted.vectors, m=config.m),
        )

    def _measured(self, status: VectorIndexStatus, space: Space, name: Name) -> VectorIndexStatus:
        indexed, work = space.indexed, self._builder.state(name)
        state: IndexState = "exact"
        if work is not None:
            state = "building"
        elif indexed is not None:
            state = "behind" if self._builder.is_wanted(name, space) else "ready"
        building = 0 if work is None else work.done
        known = msgspec.structs.replace(status, state=state, building=building, memory_bytes=space.size_bytes)
        if indexed is None:
            return known
        asked = self._beam(name, CONFIGURED, STATUS_HITS, indexed.recall, space.rows)
        live = len(indexed.graph) - space.dead_indexed
        return msgspec.structs.replace(
            known,
            indexed=live,
            unindexed=status.vectors - live,
            deleted=space.dead_indexed,
            m=indexed.m,
            ef_construction=indexed.ef_construction,
            ef_search=asked or None,
            recall=indexed.recall.at(asked) if asked else 1.0,
            recall_by_ef=indexed.recall.by_hits.get(STATUS_HITS, {}),
            file_bytes=indexed.file_bytes,
            built_at=indexed.built_at,
        )

    def close(self) -> None:
        """End what is being built. Blocks."""
        self._builder.stop()

    def _let_go(self, name: Any) -> None:
        self._inserted.pop(name, None)
        notify_index(name.tenant, name.space_id, 0, 0)

    def _config(self, name: Name, count: int) -> HnswConfig:
        choice = self._options.choice(name.space_id)
        if choice.preset == "auto":  # the only one that looks at the number
            return choice.config(count)
        if choice not in self._configs:
            self._configs[choice] = choice.config(count)
        return self._configs[choice]

    def _begin(self, name: Any, space: Space, source: Source) -> None:
        if self._options.indexes:
            self._builder.restore(name, space, source)

    def _read(self, name: Name, work: Callable[[Source], T]) -> T | None:
        """Run work over one snapshot of a space, on this thread; None when there is no such space."""

        async def inside(executor: Executor) -> T | None:
            if not isinstance(executor, ConnectionExecutor):
                raise TypeError("a snapshot of this backend runs on a connection")
            source = SpaceRows(self._catalog, executor, name.space_id, name.dimension).source()
            return None if source is None else work(source)

        return self._database.snapshot(TenantId(name.tenant), inside)

    def _commit(self, name: Name, change: int, token: str, known: str | None) -> bool:
        """Note an index file, from a thread that has no event loop; False when another one, or an erasure, was noted meanwhile."""
        unit = FileUnit(self._database, TenantId(name.tenant))
        query = self._catalog.nearest.index_kept

        async def note() -> int:
            return await unit.execute(query, space_id=name.space_id, change=change, token=token, known=known)

        return asyncio.run(note()) > 0


def _page_by_page(rows: SpaceRows, unit: exact.Doubles, limit: int, counted: Counted) -> exact.Found:
    """Search without a cache: over one page of rows after the other."""
    only = None if counted.only is None else exact.owner_words(counted.only())
    without = exact.owner_words(counted.without) if counted.without else None
    return exact.merge([page_search(page, unit, limit, only=only, without=without) for page in rows.pages(-1)], limit)
