"""Nearest neighbours in process: which vectors a snapshot holds, and which of them count.

The search itself is in `vector_search`, loaded when the first one comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from llmspell.clock import Clock
from llmspell.errors import LlmspellError
from llmspell.ids import id_of
from llmspell.storage.contracts.filters import And, Compare, Node
from llmspell.storage.contracts.memories import Scored
from llmspell.storage.contracts.vector_index import Effort, VectorIndexStatus
from llmspell.storage.contracts.vectors import FILTER_FIELDS, FREE_SPACE
from llmspell.storage.relational import memories, vectors
from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Executor, Statement, Unit
from llmspell.storage.relational.filters import compile_filter
from llmspell.storage.relational.runtime import Neighbour, SpaceCount, TooMuch
from llmspell.storage.sqlite.database import ConnectionExecutor, Database, FileUnit, TransactionUnit
from llmspell.storage.sqlite.dialect import SqliteDialect, SqliteFilters
from llmspell.storage.sqlite.index_options import IndexOptions
from llmspell.storage.sqlite.vector_rows import FLOAT32_BYTES, SpaceRows

if TYPE_CHECKING:
    from llmspell.storage.sqlite.vector_search import Hits, VectorSearch

_log = logging.getLogger(__name__)
_NOT_NOW: Final = (MemoryError, OSError, RuntimeError, LlmspellError)
"""What ends in no index: no memory, no thread."""
SCOPE: Final = FILTER_FIELDS.by_name["scope"]


class InProcessNeighbours:
    """`NearestNeighbours` by `storage.index`."""

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
        self._loaded: VectorSearch | None = None
        self._lock = threading.Lock()

    def search_in_process(self) -> VectorSearch:
        """Return the search, loaded when it is needed for the first time."""
        if self._loaded is None:
            from llmspell.storage.sqlite.vector_search import VectorSearch

            with self._lock:
                if self._loaded is None:
                    self._loaded = VectorSearch(self._catalog, self._clock, self._database, self._options)
        return self._loaded

    async def free(
        self,
        executor: Executor,
        *,
        query: bytes,
        limit: int,
        scope: str | None,
        where: Node | None,
        effort: Effort,
        light: bool = False,
    ) -> list[Neighbour]:
        if isinstance(executor, (FileUnit, TransactionUnit)):

            async def work(inner: Executor) -> list[Neighbour]:
                return await self.free(inner, query=query, limit=limit, scope=scope, where=where, effort=effort)

            return await executor.read(work, heavy=True)
        dimension = len(query) // FLOAT32_BYTES
        rows = self._rows(executor, vectors.free_space(dimension), dimension)
        if light and self._loaded is None:
            raise TooMuch
        node = _restriction(scope, where)
        only = None if node is None else partial(self._free_ids, rows, scope, where)
        engine = self.search_in_process()
        found = engine.search(rows, query, limit, effort=effort, filters=node, only=only, light=light)
        return [Neighbour(id_of(id), score, *rows.payload.get(id, ())) for id, score in found]

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
        rows = self._rows(executor, space_id, len(query) // FLOAT32_BYTES)
        engine = self.search_in_process()
        if where is None:
            expired = [row[0] for row in await executor.rows(self._catalog.nearest.expired, now=now)]
            return _scored(engine.search(rows, query, limit, without=expired))
        condition = compile_filter(where, memories.COLUMNS, self._dialect, self._filters)
        matching = self._catalog.nearest.memories.filtered(condition.fragment)
        live = [row[0] for row in await executor.rows(matching, now=now, **condition.parameters)]
        return _scored(engine.search(rows, query, limit, only=lambda: live))

    def _rows(self, executor: Executor, space_id: str, dimension: int) -> SpaceRows:
        if not isinstance(executor, ConnectionExecutor):
            raise TypeError("searches run inside a unit of work of this backend")
        return SpaceRows(self._catalog, executor, space_id, dimension)

    # --- the indexes --------------------------------------------------------------------------------------------------

    async def inserted_rows(self, unit: Unit, *, space_id: str, dimension: int, count: int) -> None:
        # A process that only writes loads no array library, and builds nothing: whoever searches does.
        if self._loaded is None or not self._options.indexes or unit.in_transaction:
            return
        try:
            await self._loaded.inserted_rows(unit, space_id, dimension, count)
        except _NOT_NOW as exc:  # the rows are there: that nothing is built behind them is no failure of theirs
            _log.warning("The index of a space is not built behind insertions: %s", exc)

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        engine = self.search_in_process()
        return [await engine.status(unit, space) for space in spaces]

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        if self._options.indexes and not unit.in_transaction:
            await self.search_in_process().build_index(unit, space)

    async def forgotten(self, unit: Unit) -> None:
        for space_id, dimension in await unit.rows(self._catalog.nearest.index_files):
            if space_id != vectors.free_space(dimension):
                await self.search_in_process().forget(unit.tenant, space_id, dimension)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    # --- what every write notes ---------------------------------------------------------------------------------------

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

    def erased(self) -> list[Statement]:
        """Return the statement after which no index file of memories counts, nor one that is being made."""
        return [(self._catalog.nearest.index_erased, {"token": uuid4().hex})]


def _restriction(scope: str | None, where: Node | None) -> Node | None:
    """Return what a scope and a filter ask for together."""
    wanted = None if scope is None else Compare(("scope",), SCOPE, "$eq", scope)
    return And((wanted, where)) if wanted is not None and where is not None else wanted or where


def _scored(found: Hits) -> list[Scored]:
    return [Scored(id_of(id), score) for id, score in found]
