"""Nearest neighbours by pgvector.

New vectors are searched exactly through a partial btree; the vectors of a promoted space are in the partial HNSW index, but for new
ones, and a search is the union of both, in one statement.

Rule 1: the settings of the index scan are local to the transaction that searches.
Rule 2: an approximate scan may stop early among the vectors of other tenants. When it gave fewer candidates than asked for, and the
space has more, the space is searched exactly: so an answer always has min(limit, matching) hits, and the exact part, however many
hits it has, never stands in for nearer ones in the index.
Rule 3: no cache exists outside the database, so writers have nothing to note.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.codec import DIMENSIONS, require_limit
from llmspell.errors import InvalidLimit, NotFound
from llmspell.storage.contracts.backend import Promotable
from llmspell.storage.contracts.memories import Scored
from llmspell.storage.contracts.vector_index import (
    CONFIGURED,
    EF_SEARCH_MAX,
    Effort,
    IndexState,
    VectorIndexStatus,
    ef_for_recall,
    estimate_overhead_bytes,
    estimate_vector_bytes,
)
from llmspell.storage.contracts.vectors import FREE_SPACE
from llmspell.storage.relational import memories, vectors
from llmspell.storage.relational.filters import FilterDialect, compile_filter
from llmspell.storage.relational.runtime import Neighbour
from llmspell.storage.relational.vectors import FLOAT32_BYTES, free_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmspell.clock import Clock
    from llmspell.storage.contracts.filters import Node
    from llmspell.storage.relational.catalog import Catalog
    from llmspell.storage.relational.database import Dialect, Executor, Row, Statement, Unit
    from llmspell.storage.relational.runtime import SpaceCount
    from llmspell.tenant import TenantId

EXACT_BELOW = 1_000
"""A space with at most so many vectors in the index is compared one by one all the same: that takes about a millisecond and misses
nothing, while the index, which all tenants share, may miss some."""
PARAMETERS = {384: (16, 64), 768: (16, 128), 1536: (24, 256), 3072: (24, 256)}
"""`m` and `ef_construction` of the index of a dimension (HNS-11, set by migrations); that of 3,072 has half precision (AMB-020)."""
EF_SEARCH_MIN = 100
OVERSAMPLE = 4
"""Candidates per hit: several windows may belong to one memory, and half precision may swap neighbours."""
SCAN_TUPLES_MAX = 20_000
"""Vectors that one scan of the index looks at, of all tenants (pgvector's own default, whatever the server is set to)."""
HALF_PRECISION_DIMENSION = 3072
PROMOTED_MAX = 10_000
"""Promoted spaces that are remembered."""
PROMOTE_BATCH = 500
"""Vectors per transaction of a promotion: at 18 ms each in the index, a batch holds its locks for some seconds."""
PROMOTE_BATCHES_MAX = 1_000_000
THRESHOLD_MAX = 100_000_000


# What the row without an id says: nothing of the space is in the index (0), much is (1), or little is or
# the scan gave too little of it (2): then all are compared.
_OUTSIDE, _STARVED = 0.0, 2.0


class _Kind(msgspec.Struct, frozen=True):
    """The names of the queries that find one kind of vectors."""

    tail: str
    union: str
    half: str
    exact: str
    one_vector_each: bool


_FREE = _Kind("free", "free_union", "free_half", "free_exact", one_vector_each=True)
_MEMORIES = _Kind("memories", "memories_union", "memories_half", "memories_exact", one_vector_each=False)


class PgvectorNeighbours:
    """`NearestNeighbours` by the queries of `nearest.sql`."""

    def __init__(self, catalog: Catalog, dialect: Dialect, filters: FilterDialect, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._queries = catalog.nearest
        self._dialect = dialect
        self._filters = filters
        # A hint: a space in it is searched through the index as well. A missing entry costs one more round trip, once.
        self._promoted: OrderedDict[tuple[TenantId, str], None] = OrderedDict()

    async def free(
        self, executor: Executor, *, query: bytes, limit: int, scope: str | None, where: Node | None, effort: Effort
    ) -> list[Neighbour]:
        compiled = compile_filter(where, vectors.COLUMNS, self._dialect, self._filters)
        dimension = len(query) // FLOAT32_BYTES
        parameters = {"space_id": free_space(dimension), "scope": scope, **compiled.parameters}
        if effort.exact:
            exact = self._queries.of(_FREE.exact, dimension).filtered(compiled.fragment)
            found = _ranked(await executor.rows(exact, query=self._dialect.vector(query), limit=limit, **parameters))
        else:
            found = await self._search(
                executor, _FREE, query, limit, fragment=compiled.fragment, parameters=parameters, effort=effort
            )
        return [Neighbour(one.id, one.score) for one in found]

    async def memories(
        self, executor: Executor, *, space_id: str, query: bytes, limit: int, where: Node | None, now: object
    ) -> list[Scored]:
        compiled = compile_filter(where, memories.COLUMNS, self._dialect, self._filters)
        parameters = {"space_id": space_id, "now": now, **compiled.parameters}
        return await self._search(
            executor, _MEMORIES, query, limit, fragment=compiled.fragment, parameters=parameters, effort=CONFIGURED
        )

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        return [_status(space) for space in spaces]

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        if space.vectors > EXACT_BELOW:
            await promote(unit, self._catalog, space_id=space.id, dimension=space.dimension, clock=self._clock)

    async def inserted_rows(self, unit: Unit, *, space_id: str, dimension: int, count: int) -> None:
        """Nothing needs to run: a job finds what has outgrown exact search."""

    async def forgotten(self, unit: Unit) -> None:
        """Nothing is kept outside of the database."""

    def is_light(
        self, tenant: TenantId, space_id: str, dimension: int, *, scope: str | None, where: Node | None
    ) -> bool:
        return True

    def close(self) -> None:
        """Nothing goes on here."""

    def inserted(self, *, space_id: str, dimension: int) -> list[Statement]:
        return []

    def deleted(self, *, space_id: str) -> list[Statement]:
        return []

    def owners_deleted(self, *, dimension: int) -> list[Statement]:
        return []

    async def _search(
        self,
        executor: Executor,
        kind: _Kind,
        query: bytes,
        limit: int,
        *,
        fragment: str,
        parameters: dict[str, Any],
        effort: Effort,
    ) -> list[Scored]:
        dimension = len(query) // FLOAT32_BYTES
        parameters = {**parameters, "query": self._dialect.vector(query), "limit": limit}
        space = (executor.tenant, parameters["space_id"])
        if space not in self._promoted:
            tail = self._queries.of(kind.tail, dimension).filtered(fragment)
            state, found = _read(await executor.rows(tail, **parameters))
            if state == _OUTSIDE:
                return _ranked(found)
            self._remember(space)
        half = dimension == HALF_PRECISION_DIMENSION
        candidates = limit if kind.one_vector_each and not half else limit * OVERSAMPLE
        union = getattr(self._queries, kind.half) if half else self._queries.of(kind.union, dimension)
        ef_search = str(min(EF_SEARCH_MAX, max(_wanted(effort), candidates)))
        settings = {"candidates": candidates, "ef_search": ef_search, "max_scan_tuples": str(SCAN_TUPLES_MAX)}
        settings["exact_below"] = EXACT_BELOW
        state, found = _read(await executor.rows(union.filtered(fragment), **settings, **parameters))
        if state == _STARVED:
            found = await executor.rows(self._queries.of(kind.exact, dimension).filtered(fragment), **parameters)
        return _ranked(found)

    def _remember(self, space: tuple[TenantId, str]) -> None:
        self._promoted[space] = None
        if len(self._promoted) > PROMOTED_MAX:
            self._promoted.popitem(last=False)


def _wanted(effort: Effort) -> int:
    """Return how many candidates an effort asks for (HNS-14)."""
    if effort.ef_search is not None:
        return effort.ef_search
    return EF_SEARCH_MIN if effort.recall is None else ef_for_recall(effort.recall)


def _read(rows: list[Row]) -> tuple[float, list[Row]]:
    """Take apart what a search gave: the state of the space, and the hits."""
    (state,) = (score for id, score in rows if id is None)
    return state, [row for row in rows if row[0] is not None]


def _status(space: SpaceCount) -> VectorIndexStatus:
    outside = space.vectors - space.inside
    state: IndexState = "exact" if space.vectors <= EXACT_BELOW else "behind" if outside > EXACT_BELOW else "ready"
    m, ef_construction = PARAMETERS[space.dimension]
    return VectorIndexStatus(
        space_id=space.id,
        dimension=space.dimension,
        state=state,
        vectors=space.vectors,
        indexed=space.inside,
        unindexed=outside,
        m=m,
        ef_construction=ef_construction,
        ef_search=EF_SEARCH_MIN,
        estimated_bytes=space.vectors * estimate_vector_bytes(space.dimension, m=m),
        overhead_bytes=estimate_overhead_bytes(space.vectors, m=m),
    )


def _ranked(rows: list[Row]) -> list[Scored]:
    return [Scored(id, score) for id, score in sorted(rows, key=lambda row: (-row[1], row[0]))]


async def promote(
    unit: Unit, catalog: Catalog, *, space_id: str, dimension: int, clock: Clock, limit: int | None = None
) -> int:
    """Move the vectors of a space into the approximate index, in bounded batches, and return how many moved: at most `limit`.

    The space is marked first: until a vector has moved, the exact part of a search finds it, so nothing is ever missed.

    Raises:
        NotFound: the tenant has no such space.
        InvalidLimit: the dimension is not one that is stored, or not the space's.
    """
    if dimension not in DIMENSIONS:
        raise InvalidLimit("dimension", f"must be one of {', '.join(map(str, DIMENSIONS))}", given=dimension)
    registered = await unit.row(catalog.vectors.space, space_id=space_id)
    if registered is None and space_id != free_space(dimension):
        raise NotFound("The tenant has no such embedding space.", space_id=space_id)
    if registered is not None and registered[1] != dimension:
        raise InvalidLimit("dimension", f"must be the one of the space, {registered[1]}", given=dimension)
    model = FREE_SPACE if registered is None else registered[0]
    await unit.execute(
        catalog.nearest.mark_promoted, space_id=space_id, model=model, dimension=dimension, now=clock.now()
    )
    moved = 0
    for _ in range(PROMOTE_BATCHES_MAX):
        batch = PROMOTE_BATCH if limit is None else min(PROMOTE_BATCH, limit - moved)
        count = await unit.execute(
            catalog.nearest.of("promote", dimension), space_id=space_id, limit=require_limit(batch)
        )
        moved += count
        if count < batch or moved == limit:
            break
    return moved


async def promotable(
    unit: Unit, catalog: Catalog, *, threshold: int, after: tuple[TenantId, str] | None, limit: int
) -> list[Promotable]:
    """Return spaces of all tenants, beyond `after`, with more than `threshold` vectors that are not in the approximate index."""
    require_limit(threshold, field="threshold", maximum=THRESHOLD_MAX)
    tenant, space_id = after or ("", "")
    rows = await unit.rows(
        catalog.nearest.promotable,
        tenant=tenant,
        space_id=space_id,
        threshold=threshold,
        limit=require_limit(limit),
    )
    return [Promotable(tenant=owner, space_id=space, dimension=dimension) for owner, space, dimension in rows]
