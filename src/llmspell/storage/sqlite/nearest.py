"""Nearest neighbours in process: which vectors a snapshot holds, and which of them count.

The search itself is `storage.index`; `vector_rows` has the queries that fill it.

Rule: a search sees exactly its snapshot. Where that may hold writes that can still be rolled back, nothing is cached.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.storage.contracts.filters import And, Compare, Node
from llmspell.storage.contracts.memories import Scored
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
from llmspell.storage.contracts.vectors import FILTER_FIELDS, FREE_SPACE
from llmspell.storage.relational import memories, vectors
from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Executor, Statement, Unit
from llmspell.storage.relational.filters import compile_filter
from llmspell.storage.relational.runtime import Neighbour, SpaceCount
from llmspell.storage.sqlite.database import ConnectionExecutor, Database, FileUnit, TransactionUnit
from llmspell.storage.sqlite.dialect import SqliteDialect, SqliteFilters
from llmspell.storage.sqlite.vector_rows import FLOAT32_BYTES, SpaceRows
from llmspell.tenant import TenantId

if TYPE_CHECKING:  # numpy is loaded by the first search, not by the first import
    from llmspell.storage.index.blocks import Positions
    from llmspell.storage.index.builder import Builder
    from llmspell.storage.index.cache import SpaceCache
    from llmspell.storage.index.exact import Found
    from llmspell.storage.index.files import Name
    from llmspell.storage.index.recall import Recall
    from llmspell.storage.index.space import Source, Space, View

VECTOR_CACHE_BYTES: Final = 512 * 1024 * 1024
"""Memory of a process for vectors by default: 380,000 of 384 dimensions with their graph."""
LIGHT_COMPONENTS: Final = 4_000_000
"""A space without a graph is compared on the calling thread up to so many components: some tenths of a millisecond."""
BEAMS_MAX: Final = 1_000
"""Numbers of candidates that are remembered, by what was asked for."""
BUILDS_MAX: Final = 8
"""Builds that one call waits for: while it waits, rows may come."""
SCOPE: Final = FILTER_FIELDS.by_name["scope"]
T = TypeVar("T")
Hits: TypeAlias = "list[tuple[bytes, float]]"


class IndexOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is configured of the search in process.

    `path`: the database file. `vector_index`, `memory_index`: the indexes over free vectors, and over embeddings of memories.
    `vector_path`: the folder of index files, None for the one beside the file. `indexes`: False never builds one.
    `vector_cache_bytes`: memory of this process for vectors. `index_threads`: threads that build.
    """

    path: str
    vector_index: IndexChoice = IndexChoice()
    memory_index: IndexChoice = IndexChoice()
    vector_path: str | None = None
    indexes: bool = True
    vector_cache_bytes: int = VECTOR_CACHE_BYTES
    index_threads: int = 1

    @property
    def folder(self) -> Path:
        """The folder of index files, absolute."""
        return Path(self.vector_path or f"{self.path}.vectors").expanduser().absolute()

    def choice(self, space_id: str) -> IndexChoice:
        """Return what is configured for a space."""
        return self.vector_index if space_id.startswith(f"{FREE_SPACE}-") else self.memory_index


class InProcessNeighbours:
    """`NearestNeighbours` by `storage.index` over cached vectors."""

    one_statement = False

    def __init__(
        self,
        catalog: Catalog,
        dialect: SqliteDialect,
        filters: SqliteFilters,
        clock: Clock,
        *,
        database: Database,
        options: IndexOptions,
    ) -> None:
        self._catalog = catalog
        self._dialect = dialect
        self._filters = filters
        self._clock = clock
        self._database = database
        self._options = options
        self._parts: tuple[SpaceCache, Builder] | None = None
        self._beams: dict[tuple[str, Effort, int], tuple[Recall, int]] = {}
        self._lock = threading.Lock()

    async def free(
        self, executor: Executor, *, query: bytes, limit: int, scope: str | None, where: Node | None, effort: Effort
    ) -> list[Neighbour]:
        if isinstance(executor, (FileUnit, TransactionUnit)):

            async def work(inner: Executor) -> list[Neighbour]:
                return await self.free(inner, query=query, limit=limit, scope=scope, where=where, effort=effort)

            return await executor.read(work, heavy=True)
        dimension = len(query) // FLOAT32_BYTES
        rows = self._rows(_synchronous(executor), vectors.free_space(dimension), dimension)
        wanted = None if scope is None else Compare(("scope",), SCOPE, "$eq", scope)
        node = And((wanted, where)) if wanted is not None and where is not None else wanted or where
        counted = Counted() if node is None else Counted(node, lambda: self._free_ids(rows, scope, where))
        found = self._search(rows, query, limit, effort, counted)
        return [Neighbour(UUID(bytes=id), score, *rows.payload.get(id, ())) for id, score in found]

    def _free_ids(self, rows: SpaceRows, scope: str | None, where: Node | None) -> list[bytes]:
        condition = compile_filter(where, vectors.COLUMNS, self._dialect, self._filters)
        name = "free" if scope is None else "free_in_scope"
        in_scope = {} if scope is None else {"scope": scope}
        return rows.matching(name, condition.fragment, **in_scope, **condition.parameters)

    async def memories(
        self, executor: Executor, *, space_id: str, query: bytes, limit: int, where: Node | None, now: object
    ) -> list[Scored]:
        if isinstance(executor, (FileUnit, TransactionUnit)):

            async def work(inner: Executor) -> list[Scored]:
                return await self.memories(inner, space_id=space_id, query=query, limit=limit, where=where, now=now)

            return await executor.read(work, heavy=True)
        rows = self._rows(_synchronous(executor), space_id, len(query) // FLOAT32_BYTES)
        if where is None:
            expired = [row[0] for row in await executor.rows(self._catalog.nearest.expired, now=now)]
            return _scored(self._search(rows, query, limit, CONFIGURED, Counted(without=expired)))
        condition = compile_filter(where, memories.COLUMNS, self._dialect, self._filters)
        found = self._catalog.nearest.memories.filtered(condition.fragment)
        live = [row[0] for row in await executor.rows(found, now=now, **condition.parameters)]
        return _scored(self._search(rows, query, limit, CONFIGURED, Counted(only=lambda: live)))

    def is_light(
        self, tenant: TenantId, space_id: str, dimension: int, *, scope: str | None, where: Node | None
    ) -> bool:
        """Say whether a search needs neither many rows nor long comparisons, so that it may run where it is asked."""
        if self._parts is None:
            return False
        space = self._parts[0].get(_name(tenant, space_id, dimension))
        if space is None or space.version is None or space.lock.locked() or where is not None or scope is not None:
            return False
        return space.indexed is not None or space.rows * dimension <= LIGHT_COMPONENTS

    def inserted(self, *, space_id: str, dimension: int) -> list[Statement]:
        """Return the statement that takes the next change number of the space, for the rows that follow."""
        now = self._dialect.instant(self._clock.now())
        parameters = {"space_id": space_id, "model": FREE_SPACE, "dimension": dimension, "now": now}
        return [(self._catalog.vectors.space_changed, parameters)]

    def deleted(self, *, space_id: str) -> list[Statement]:
        """Return the statement that takes the number under which triggers have noted a deletion."""
        return [(self._catalog.vectors.space_deleted, {"space_id": space_id})]

    def owners_deleted(self, *, dimension: int) -> list[Statement]:
        """Return the statement that does so in the spaces of a dimension, if the one before it deleted anything."""
        return [(self._catalog.vectors.owners_deleted, {"dimension": dimension})]

    # --- the index ----------------------------------------------------------------------------------------------------

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        return [self._status(_name(unit.tenant, space.id, space.dimension), space) for space in spaces]

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        if not self._options.indexes or unit.in_transaction:
            return
        name = _name(unit.tenant, space.id, space.dimension)
        cache, builder = self._index()
        for _ in range(BUILDS_MAX):
            await asyncio.to_thread(self._read, name, lambda source: cache.view(name, source))
            held = cache.get(name)
            if held is None or not builder.is_wanted(held):
                return
            await asyncio.to_thread(builder.schedule(name).wait)

    def close(self) -> None:
        """End what is being built. Blocks."""
        if self._parts is not None:
            self._parts[1].stop()

    def _status(self, name: Name, counted: SpaceCount) -> VectorIndexStatus:
        choice = self._options.choice(name.space_id)
        config = choice.config(counted.vectors)
        status = VectorIndexStatus(
            space_id=name.space_id,
            dimension=name.dimension,
            state="exact",
            vectors=counted.vectors,
            unindexed=counted.vectors,
            m=config.m,
            ef_construction=config.ef_construction,
            ef_search=config.ef_search,
            recall_target=choice.recall,
            estimated_bytes=counted.vectors * estimate_vector_bytes(name.dimension, m=config.m),
            overhead_bytes=estimate_overhead_bytes(counted.vectors, m=config.m),
        )
        space = None if self._parts is None else self._parts[0].get(name)
        if space is None or self._parts is None:
            return status
        with space.lock:
            return _with_index(status, space, self._parts[1], name, choice)

    def _index(self) -> tuple[SpaceCache, Builder]:
        from llmspell.storage.index import builder
        from llmspell.storage.index.cache import SpaceCache

        with self._lock:
            if self._parts is None:
                cache = SpaceCache(self._options.vector_cache_bytes, begin=self._begin)
                options = builder.Options(
                    read=self._read,
                    commit=self._commit,
                    config=self._config,
                    folder=self._options.folder,
                    threads=self._options.index_threads,
                    clock=self._clock,
                )
                self._parts = (cache, builder.Builder(cache, options))
            return self._parts

    def _config(self, name: Name, count: int) -> HnswConfig:
        return self._options.choice(name.space_id).config(count)

    def _begin(self, name: Any, space: Space, source: Source) -> None:
        if self._options.indexes:
            self._index()[1].restore(name, space, source)

    def _read(self, name: Name, work: Callable[[Source], T]) -> T | None:
        """Run work over one snapshot of a space, on this thread; None when there is no such space."""

        async def inside(executor: Executor) -> T | None:
            found = self._rows(_synchronous(executor), name.space_id, name.dimension).source()
            return None if found is None else work(found)

        return self._database.snapshot(TenantId(name.tenant), inside)

    def _commit(self, name: Name, change: int, token: str) -> None:
        """Note an index file, from a thread that has no event loop."""
        unit = FileUnit(self._database, TenantId(name.tenant))
        query = self._catalog.nearest.index_kept

        async def note() -> None:
            await unit.execute(query, space_id=name.space_id, change=change, token=token)

        asyncio.run(note())

    # --- one search ---------------------------------------------------------------------------------------------------

    def _rows(self, executor: ConnectionExecutor, space_id: str, dimension: int) -> SpaceRows:
        return SpaceRows(self._catalog, executor, space_id, dimension)

    def _search(self, rows: SpaceRows, query: bytes, limit: int, effort: Effort, counted: Counted) -> Hits:
        from llmspell.storage.index import exact
        from llmspell.storage.index.search import Question, search

        source = rows.source()
        if source is None:
            return []
        unit = exact.unit_vector(query)
        if rows.executor.uncommitted:
            return _page_by_page(rows, unit, limit, counted).pairs()
        cache, builder = self._index()
        name = _name(rows.executor.tenant, rows.id, rows.dimension)
        view, chosen = cache.view(name, source, partial(counted.choose, source=source))
        if view is None:
            return _page_by_page(rows, unit, limit, counted).pairs()
        question = Question(unit, limit, self._candidates(rows.id, effort, limit, view))
        answer = search(view, question, rows.embeddings, chosen=chosen)
        space = cache.get(name)
        if self._options.indexes and space is not None:
            builder.consider(name, space)
        return answer.found.pairs()

    def _candidates(self, space_id: str, effort: Effort, limit: int, view: View) -> int:
        from llmspell.storage.index.planner import candidates

        indexed = view.indexed
        if indexed is None:
            return 0
        known = self._beams.get((space_id, effort, limit))
        if known is not None and known[0] is indexed.recall:
            return known[1]
        choice = self._options.choice(space_id)
        ef_search = choice.config(len(view)).ef_search
        beam = candidates(effort, limit, indexed.recall, ef_search=ef_search, recall=choice.recall)
        if len(self._beams) >= BEAMS_MAX:
            self._beams.clear()
        self._beams[space_id, effort, limit] = (indexed.recall, beam)
        return beam


class Counted(NamedTuple):
    """Which rows of a space count: all; those that a filter accepts; those of owners, asked for when needed; all but some."""

    filters: Node | None = None
    only: Callable[[], list[bytes]] | None = None
    without: Sequence[bytes] = ()

    def choose(self, space: Space, view: View, *, source: Source) -> Positions | None:
        """Return the positions that count, ascending; None for all. The space's lock is held."""
        from llmspell.storage.index.columns import Columns
        from llmspell.storage.index.exact import owner_words

        found = None
        if self.filters is not None:
            found = space.matching(self.filters, source, lambda: Columns(FILTER_FIELDS))
        if found is None and self.only is not None:
            found = space.positions(owner_words(self.only()))
        if found is None and self.without:
            found = space.positions_but(owner_words(self.without))
        return None if found is None else found[found < len(view)]


def _page_by_page(rows: SpaceRows, unit: Any, limit: int, counted: Counted) -> Found:
    """Search without a cache: over one page of rows after the other."""
    from llmspell.storage.index import exact
    from llmspell.storage.index.pages import page_search

    only = None if counted.only is None else exact.owner_words(counted.only())
    without = exact.owner_words(counted.without) if counted.without else None
    return exact.merge([page_search(page, unit, limit, only=only, without=without) for page in rows.pages(-1)], limit)


def _scored(found: Hits) -> list[Scored]:
    return [Scored(UUID(bytes=id), score) for id, score in found]


def _with_index(
    status: VectorIndexStatus, space: Space, builder: Builder, name: Name, choice: IndexChoice
) -> VectorIndexStatus:
    """Add what this process knows of a space. Its lock is held."""
    state: IndexState = "exact"
    if builder.state(name) is not None:
        state = "building"
    elif space.indexed is not None:
        state = "behind" if builder.is_wanted(space) else "ready"
    known = msgspec.structs.replace(status, state=state, memory_bytes=space.size_bytes)
    if space.indexed is None:
        return known
    from llmspell.storage.index.planner import candidates

    indexed = space.indexed
    asked = candidates(
        CONFIGURED, 10, indexed.recall, ef_search=choice.config(space.rows).ef_search, recall=choice.recall
    )
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
        recall_by_ef=indexed.recall.by_hits.get(10, {}),
        file_bytes=indexed.file_bytes,
        built_at=indexed.built_at,
    )


def _name(tenant: TenantId, space_id: str, dimension: int) -> Name:
    from llmspell.storage.index.files import Name

    return Name(tenant, space_id, dimension)


def _synchronous(executor: Executor) -> ConnectionExecutor:
    if not isinstance(executor, ConnectionExecutor):
        raise TypeError("searches run inside a unit of work of this backend")
    return executor
