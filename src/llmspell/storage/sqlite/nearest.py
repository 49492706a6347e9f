"""Nearest neighbours in process: which vectors a snapshot holds, and which of them count.

The search itself is `storage.index`; here are the queries that fill its cache and answer filters.

Rule: a search sees exactly its snapshot. Where that may hold writes that can still be rolled back, nothing is cached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from llmspell.clock import Clock
from llmspell.storage.contracts.filters import Node
from llmspell.storage.contracts.memories import Scored
from llmspell.storage.contracts.vector_index import Effort, VectorIndexStatus
from llmspell.storage.contracts.vectors import FREE_SPACE
from llmspell.storage.relational import memories, vectors
from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Executor, Row, Statement, Unit
from llmspell.storage.relational.filters import compile_filter
from llmspell.storage.relational.runtime import SpaceCount
from llmspell.storage.sqlite.connection import drive
from llmspell.storage.sqlite.database import ConnectionExecutor, FileUnit, TransactionUnit
from llmspell.storage.sqlite.dialect import SqliteDialect, SqliteFilters

if TYPE_CHECKING:  # numpy is loaded by the first search, not by the first import
    from llmspell.storage.index.cache import SpaceCache, View
    from llmspell.storage.index.exact import Rows

PAGE_BYTES: Final = 16 * 1024 * 1024
"""Vectors read from the file at a time."""
_FLOAT32_BYTES: Final = 4
_BEYOND: Final = 2**63 - 1


class InProcessNeighbours:
    """`NearestNeighbours` by exact search over cached vectors."""

    def __init__(
        self,
        catalog: Catalog,
        dialect: SqliteDialect,
        filters: SqliteFilters,
        clock: Clock,
        *,
        cache_max_bytes: int | None = None,
    ) -> None:
        """`cache_max_bytes`: vectors kept in memory; None is the default of `storage.index`."""
        self._catalog = catalog
        self._dialect = dialect
        self._filters = filters
        self._clock = clock
        self._cache_max_bytes = cache_max_bytes
        self._cache: SpaceCache | None = None
        self._lock = threading.Lock()

    async def free(
        self, executor: Executor, *, query: bytes, limit: int, scope: str | None, where: Node | None, effort: Effort
    ) -> list[Scored]:
        if isinstance(executor, (FileUnit, TransactionUnit)):

            async def work(inner: Executor) -> list[Scored]:
                return await self.free(inner, query=query, limit=limit, scope=scope, where=where, effort=effort)

            return await executor.read(work, heavy=True)
        dimension = len(query) // _FLOAT32_BYTES
        space = _Space(self._catalog, _synchronous(executor), vectors.free_space(dimension), dimension)
        only: list[bytes] | None = None
        if scope is not None or where is not None:
            condition = compile_filter(where, vectors.COLUMNS, self._dialect, self._filters)
            name = "free" if scope is None else "free_in_scope"
            found = self._catalog.nearest.of(name, dimension).filtered(condition.fragment)
            in_scope = {} if scope is None else {"scope": scope}
            rows = await executor.rows(found, space_id=space.id, **in_scope, **condition.parameters)
            only = [row[0] for row in rows]
        return self._search(space, query, limit, only=only, without=[])

    async def memories(
        self, executor: Executor, *, space_id: str, query: bytes, limit: int, where: Node | None, now: object
    ) -> list[Scored]:
        if isinstance(executor, (FileUnit, TransactionUnit)):

            async def work(inner: Executor) -> list[Scored]:
                return await self.memories(inner, space_id=space_id, query=query, limit=limit, where=where, now=now)

            return await executor.read(work, heavy=True)
        space = _Space(self._catalog, _synchronous(executor), space_id, len(query) // _FLOAT32_BYTES)
        if where is None:
            expired = await executor.rows(self._catalog.nearest.expired, now=now)
            return self._search(space, query, limit, only=None, without=[row[0] for row in expired])
        condition = compile_filter(where, memories.COLUMNS, self._dialect, self._filters)
        found = self._catalog.nearest.memories.filtered(condition.fragment)
        rows = await executor.rows(found, now=now, **condition.parameters)
        return self._search(space, query, limit, only=[row[0] for row in rows], without=[])

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        return [
            VectorIndexStatus(
                space_id=space.id,
                dimension=space.dimension,
                state="exact",
                vectors=space.vectors,
                unindexed=space.vectors,
            )
            for space in spaces
        ]

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        """Every space is compared one by one."""

    def inserted(self, *, space_id: str, dimension: int) -> list[Statement]:
        """Return the statement that takes the next change number of the space, for the rows that follow."""
        now = self._dialect.instant(self._clock.now())
        parameters = {"space_id": space_id, "model": FREE_SPACE, "dimension": dimension, "now": now}
        return [(self._catalog.vectors.space_changed, parameters)]

    def deleted(self, *, space_id: str) -> list[Statement]:
        """Return the statement that notes a deletion: caches look again at which rows are left."""
        return [(self._catalog.vectors.space_deleted, {"space_id": space_id})]

    def owners_deleted(self, *, dimension: int) -> list[Statement]:
        """Return the statement that notes a deletion in the spaces of a dimension, if the one before it deleted anything."""
        return [(self._catalog.vectors.owners_deleted, {"dimension": dimension})]

    def _search(
        self, space: _Space, query: bytes, limit: int, *, only: list[bytes] | None, without: list[bytes]
    ) -> list[Scored]:
        from llmspell.storage.index import exact
        from llmspell.storage.index.cache import Source, Version, View

        state = space.state()
        if state is None or only == []:
            return []
        unit = exact.unit_vector(query)
        view = None
        if not space.executor.uncommitted:
            source = Source(Version(*state), space.pages, space.present)
            view = self._spaces().view((space.executor.tenant, space.id, space.dimension), source)
        # Without a cached view the same search goes over one page of rows after the other.
        views: Iterator[View] = map(View, space.pages(-1)) if view is None else iter([view])
        found = exact.merge([_search_view(each, unit, limit, only, without) for each in views], limit)
        return [Scored(UUID(bytes=id), score) for id, score in found.pairs()]

    def _spaces(self) -> SpaceCache:
        from llmspell.storage.index.cache import CACHE_MAX_BYTES, SpaceCache

        with self._lock:
            if self._cache is None:
                self._cache = SpaceCache(self._cache_max_bytes or CACHE_MAX_BYTES)
            return self._cache


def _search_view(view: View, unit: Any, limit: int, only: list[bytes] | None, without: list[bytes]) -> Any:
    from llmspell.storage.index import exact

    chosen = None
    if only is not None:
        chosen = view.positions(exact.owner_words(only))
    elif without:
        chosen = view.positions_but(exact.owner_words(without))
    return exact.nearest(view.rows, unit, limit=limit, windows=view.windows, chosen=chosen)


def _synchronous(executor: Executor) -> ConnectionExecutor:
    if not isinstance(executor, ConnectionExecutor):
        raise TypeError("searches run inside a unit of work of this backend")
    return executor


class _Space:
    """One space as one snapshot sees it."""

    def __init__(self, catalog: Catalog, executor: ConnectionExecutor, id: str, dimension: int) -> None:
        self._queries = catalog.nearest
        self.executor = executor
        self.id = id
        self.dimension = dimension

    def state(self) -> tuple[int, int] | None:
        """Return (last change, last deletion), or None when there is no such space."""
        rows = drive(self.executor.rows(self._queries.state, space_id=self.id))
        return (rows[0][0], rows[0][1]) if rows else None

    def pages(self, after: int) -> Iterator[Rows]:
        """Yield the rows of changes after `after`, in order."""
        from llmspell.storage.index.exact import make_rows

        most = max(1, PAGE_BYTES // (self.dimension * _FLOAT32_BYTES))
        query = self._queries.of("load", self.dimension)
        seq, row = after, _BEYOND
        while True:
            page: list[Row] = drive(self.executor.rows(query, space_id=self.id, seq=seq, row=row, limit=most))
            if page:
                seqs, rowids, owners, parts, embeddings = zip(*page, strict=True)
                seq, row = seqs[-1], rowids[-1]
                yield make_rows(embeddings, dimension=self.dimension, owners=owners, parts=parts, seqs=seqs)
            if len(page) < most:
                return

    def present(self) -> tuple[Any, Any]:
        """Return owners and parts of all rows."""
        from llmspell.storage.index.exact import owner_words, part_numbers

        rows = drive(self.executor.rows(self._queries.of("present", self.dimension), space_id=self.id))
        return owner_words([row[0] for row in rows]), part_numbers([row[1] for row in rows])
