"""Nearest neighbours by pgvector.

New vectors are searched exactly through a partial btree; the vectors of a promoted space are in the partial HNSW index, but for new
ones, and a search is the union of both, in one statement. `plan_scan` chooses between that and comparing every vector, by our own
count of what a space has in the index (V035): the serving role cannot read the server's statistics.

Rule 1: whether the index is used is our choice and never the planner's, which takes a tenant for an average one and sorts all of
its rows (measured 23 ms against 1.4 at 20,000). The settings for that are local to the transaction, and set back within it.
Rule 2: an approximate scan may stop early among the vectors of other tenants. When it gave fewer candidates than asked for, and the
space has more, the space is searched exactly: so an answer always has min(limit, matching) hits, and the exact part, however many
hits it has, never stands in for nearer ones in the index.
Rule 3: what is remembered of a space decides how it is searched, and never what is found: each way alone is right at any moment.
Rule 4: no cache of vectors exists outside the database, so writers have nothing to note.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.codec import DIMENSIONS, require_limit
from llmspell.errors import InvalidLimit, NotFound
from llmspell.observe import notify_search, searches_observed
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
    from llmspell.storage.relational.catalog import Catalog, Query
    from llmspell.storage.relational.database import Dialect, Executor, Row, Statement, Unit
    from llmspell.storage.relational.runtime import SpaceCount
    from llmspell.tenant import TenantId

EXACT_BELOW = 4_000
"""A space with at most so many vectors in the index is compared one by one all the same. That takes about as long as a scan where
the tenant has the index for itself, and a fraction where others have vectors in it (measured at 2,000 of 50,000: 2 ms against 14),
and misses nothing. More than CANDIDATES candidates move the bound in proportion: each costs about ten comparisons."""
CANDIDATES = 400
SCOPE_EXACT_BELOW = 2_000
"""A scope with at most so many vectors is compared one by one: an index finds them (measured 1 ms)."""
PARAMETERS = {384: (16, 64), 768: (16, 128), 1536: (24, 256), 3072: (24, 256)}
"""`m` and `ef_construction` of the index of a dimension (HNS-11, set by migrations); that of 3,072 has half precision (AMB-020)."""
EF_SEARCH = 100
"""Candidates of a search that asks for no effort, where the database is not set to another number than pgvector's own 40 (HNS-15,
HNS-16)."""
OVERSAMPLE = 2
"""Candidates per hit, within what the first step of a scan looks at anyway: other tenants' vectors lie in between."""
OVERSAMPLE_WINDOWS = 4
"""Several windows may belong to one memory, and half precision may swap neighbours."""
OVERSAMPLE_FILTERED = 8
"""Where a filter drops most candidates, the scan goes on in steps, and the nearest that it gave are not the nearest yet: a filter
that lets 10 % of 20,000 pass had recall 0.947 with 1, 0.988 with 4, 0.999 with 8."""
SCAN_SHARE = 2
"""A scan compares at most half as many vectors as the space has, whosever they are. Each costs about as much as in an exact search,
so a scan that gives too little adds half to the exact search that follows; and what it gives at its limit is of low quality: with a
tenth as the limit the recall of a filter that lets 10 % pass fell from 0.999 to 0.962."""
SCAN_TUPLES_MIN = 1_000
LOOKED_AT = 100
"""Nearest vectors on which a filter is tried first: one that lets few pass there makes a scan longer than a comparison with all."""
HALF_PRECISION_DIMENSION = 3072
PROMOTED_MAX = 10_000
"""Promoted spaces that are remembered."""
PROMOTE_BATCH = 500
"""Vectors per transaction of a promotion: at 18 ms each in the index, a batch holds its locks for some seconds."""
PROMOTE_BATCHES_MAX = 1_000_000
THRESHOLD_MAX = 100_000_000


# What the row without an id says, beside the number of vectors in the index plus 1: none was ever moved there, or go another way.
_OUTSIDE, _STARVED = 0.0, -1.0


class _Kind(msgspec.Struct, frozen=True):
    """The names of the queries that find one kind of vectors."""

    tail: str
    union: str
    half: str
    exact: str
    share: str | None
    oversample: int


_FREE = _Kind("free", "free_union", "free_half", "free_exact", "free_share", OVERSAMPLE)
_MEMORIES = _Kind("memories", "memories_union", "memories_half", "memories_exact", None, OVERSAMPLE_WINDOWS)


class _Asked(msgspec.Struct, frozen=True):
    """One search: which vectors, how many of them at most, which of them match, and how hard to try."""

    kind: _Kind
    dimension: int
    limit: int
    fragment: str
    parameters: dict[str, Any]
    effort: Effort
    filtered: bool

    @property
    def half(self) -> bool:
        return self.dimension == HALF_PRECISION_DIMENSION

    @property
    def oversample(self) -> int:
        least = OVERSAMPLE_WINDOWS if self.half else self.kind.oversample
        return max(least, OVERSAMPLE_FILTERED) if self.filtered else least


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """How the index is scanned. `ef_search`: what was asked for, or None for what is usual; at least `least` in any case."""

    candidates: int
    least: int
    ef_search: int | None
    max_scan_tuples: int

    def settings(self) -> dict[str, int | None]:
        """The parameters of `scan_by_index`."""
        return {
            "least": self.least,
            "ef_search": self.ef_search,
            "usual": EF_SEARCH,
            "max_scan_tuples": self.max_scan_tuples,
        }


LOOK = Scan(candidates=LOOKED_AT, least=LOOKED_AT, ef_search=LOOKED_AT, max_scan_tuples=SCAN_TUPLES_MIN)


def plan_scan(effort: Effort, *, limit: int, oversample: int, inside: int) -> Scan | None:
    """Choose how to search a space with `inside` vectors in the index; None: compare all of them.

    `ef_search` is at least `limit` (AMB-014), and without an effort at least the candidates: a large answer takes a large scan
    (HNS-16). A recall of 1 is what only a comparison with all can promise.
    """
    if effort.exact or (effort.recall is not None and effort.recall >= 1):
        return None
    candidates = limit * oversample
    if inside <= EXACT_BELOW * max(1.0, candidates / CANDIDATES):
        return None
    wanted = effort.ef_search if effort.recall is None else ef_for_recall(effort.recall)
    return Scan(
        candidates=candidates,
        least=min(EF_SEARCH_MAX, candidates if wanted is None else limit),
        ef_search=wanted,
        max_scan_tuples=max(SCAN_TUPLES_MIN, inside // SCAN_SHARE),
    )


def worth_scanning(scan: Scan, *, matching: int, inside: int) -> bool:
    """Say whether a scan that is filtered takes less than comparing all, when `matching` of the first LOOKED_AT vectors match.

    A candidate costs about ten comparisons; that is the bound of `plan_scan` with as many candidates as have to be looked at.
    """
    return inside > EXACT_BELOW * scan.candidates * LOOKED_AT / max(matching, 0.5) / CANDIDATES


class PgvectorNeighbours:
    """`NearestNeighbours` by the queries of `nearest.sql`."""

    one_statement = True

    def __init__(self, catalog: Catalog, dialect: Dialect, filters: FilterDialect, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._queries = catalog.nearest
        self._dialect = dialect
        self._filters = filters
        # How many vectors of a promoted space are in the index: a hint, told anew by each answer. A missing entry costs one more
        # round trip, once.
        self._inside: OrderedDict[tuple[TenantId, str], int] = OrderedDict()

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
        compiled = compile_filter(where, vectors.COLUMNS, self._dialect, self._filters)
        dimension = len(query) // FLOAT32_BYTES
        parameters = {"space_id": free_space(dimension), "scope": scope, **compiled.parameters}
        parameters |= {"query": self._dialect.vector(query), "limit": limit}
        filtered = scope is not None or where is not None
        asked = _Asked(_FREE, dimension, limit, compiled.fragment, parameters, effort, filtered)
        return [Neighbour(*row) for row in await self._search(executor, asked)]

    async def memories(
        self, executor: Executor, *, space_id: str, query: bytes, limit: int, where: Node | None, now: object
    ) -> list[Scored]:
        compiled = compile_filter(where, memories.COLUMNS, self._dialect, self._filters)
        dimension = len(query) // FLOAT32_BYTES
        parameters = {"space_id": space_id, "now": now, **compiled.parameters}
        parameters |= {"query": self._dialect.vector(query), "limit": limit}
        asked = _Asked(_MEMORIES, dimension, limit, compiled.fragment, parameters, CONFIGURED, where is not None)
        return [Scored(id, score) for id, score in await self._search(executor, asked)]

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        return [_status(space) for space in spaces]

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        if space.vectors > EXACT_BELOW:
            await promote(unit, self._catalog, space_id=space.id, dimension=space.dimension, clock=self._clock)

    async def inserted_rows(self, unit: Unit, *, space_id: str, dimension: int, count: int) -> None:
        """Nothing needs to run: a job finds what has outgrown exact search."""

    async def forgotten(self, unit: Unit) -> None:
        """Nothing is kept outside of the database."""

    def close(self) -> None:
        """Nothing goes on here."""

    def inserted(self, *, space_id: str, dimension: int) -> list[Statement]:
        return []

    def deleted(self, *, space_id: str) -> list[Statement]:
        return []

    def owners_deleted(self, *, dimension: int) -> list[Statement]:
        return []

    def erased(self) -> list[Statement]:
        return []

    async def _search(self, executor: Executor, asked: _Asked) -> list[Row]:
        if not searches_observed():
            return _ranked((await self._answer(executor, asked))[0])
        started = time.perf_counter()
        found, candidates = await self._answer(executor, asked)
        path = "exact" if candidates is None else "ann"
        notify_search(path, time.perf_counter() - started, len(found) if candidates is None else candidates)
        return _ranked(found)

    async def _answer(self, executor: Executor, asked: _Asked) -> tuple[list[Row], int | None]:
        """Return the hits, and how many candidates the index was asked for; None where all that counts were compared."""
        space = (executor.tenant, asked.parameters["space_id"])
        inside = self._inside.get(space)
        if inside is None and not asked.effort.exact:
            state, found = _read(await executor.rows(self._query(asked.kind.tail, asked), **asked.parameters))
            if state == _OUTSIDE:
                return found, None
            inside = self._remember(space, state)
        scan = plan_scan(asked.effort, limit=asked.limit, oversample=asked.oversample, inside=inside or 0)
        answer = None if scan is None else await self._scan(executor, asked, scan, inside or 0)
        if answer is not None:
            return answer
        state, found = _read(await executor.rows(self._query(asked.kind.exact, asked), **asked.parameters))
        if state != _OUTSIDE:
            self._remember(space, state)
        return found, None

    async def _scan(
        self, executor: Executor, asked: _Asked, scan: Scan, inside: int
    ) -> tuple[list[Row], int | None] | None:
        """Search through the index, or one scope that is small; None where comparing all is quicker, or the only right way."""
        parameters = asked.parameters
        if parameters.get("scope") is not None:
            few = self._query("free_scope", asked)
            state, found = _read(await executor.rows(few, exact_below=SCOPE_EXACT_BELOW, **parameters))
            if state != _STARVED:
                return found, None
        if asked.filtered and asked.kind.share is not None and not asked.half:
            first = (self._queries.scan_by_index, LOOK.settings())
            share = self._query(asked.kind.share, asked)
            ((matching,),) = await executor.rows_after([first], share, candidates=LOOK.candidates, **parameters)
            if not worth_scanning(scan, matching=matching, inside=inside):
                return None
        first = (self._queries.scan_by_index, scan.settings())
        union = self._query(asked.kind.half if asked.half else asked.kind.union, asked)
        rows = await executor.rows_after([first], union, candidates=scan.candidates, **parameters)
        state, found = _read(rows)
        if state == _STARVED:
            return None
        self._remember((executor.tenant, parameters["space_id"]), state)
        return found, scan.candidates

    def _query(self, name: str, asked: _Asked) -> Query:
        return self._queries.of(name, asked.dimension).filtered(asked.fragment)

    def _remember(self, space: tuple[TenantId, str], state: float) -> int:
        inside = self._inside[space] = max(0, int(state) - 1)
        self._inside.move_to_end(space)
        if len(self._inside) > PROMOTED_MAX:
            self._inside.popitem(last=False)
        return inside


def _read(rows: list[Row]) -> tuple[float, list[Row]]:
    """Take apart what a search gave: the state of the space, and the hits."""
    (state,) = (row[1] for row in rows if row[0] is None)
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
        ef_search=EF_SEARCH,
        estimated_bytes=space.vectors * estimate_vector_bytes(space.dimension, m=m),
        overhead_bytes=estimate_overhead_bytes(space.vectors, m=m),
    )


def _ranked(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row[1], row[0]))


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
        count = await unit.value(
            catalog.nearest.of("promote", dimension), space_id=space_id, limit=require_limit(batch)
        )
        moved += count
        if count < batch or moved == limit:
            break

    async def recount(executor: Executor) -> None:
        # Two statements: the second sees what a promotion has committed while the first one waited for it.
        await executor.value(catalog.nearest.lock_space, space_id=space_id)
        await executor.execute(catalog.nearest.of("recount", dimension), space_id=space_id)

    await unit.write(recount)
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
