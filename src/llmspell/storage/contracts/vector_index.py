"""Approximate search of vectors: its parameters, how hard one search tries, and what is known of an index (HNS-01…28).

Not here: the search itself (`storage.index` in process, or the database's own), and what a search promises (`vectors`).

Three layers, for which the sources give different numbers (AMB-012): named presets for the index in process; a policy by the number
of vectors (`configure_hnsw_for_scale`, preset "auto"); and the parameters of a server's index, set by migrations (HNS-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from llmspell.codec import DIMENSIONS, require_limit
from llmspell.errors import InvalidInput, InvalidLimit

Preset: TypeAlias = Literal["speed", "balanced", "accuracy", "auto"]
PRESETS: Final[tuple[Preset, ...]] = get_args(Preset)
IndexState: TypeAlias = Literal["exact", "ready", "behind", "building"]

M_MIN, M_MAX = 2, 100
EF_CONSTRUCTION_MAX = 1_000
EF_SEARCH_MAX = 1_000
"""The limit of the server's index, held on every backend."""
RECALL_MIN = 0.5
RECALL_TARGET = 0.99
EF_BY_RECALL: Final = ((0.90, 20), (0.95, 40), (0.98, 100), (1.0, 200))
"""Candidates by the recall wanted, where the data were not asked (HNS-14): "99 %+" needs 200."""
M_BY_DIMENSION: Final[Mapping[int, tuple[int, int]]] = {384: (8, 12), 768: (16, 16), 1536: (24, 24)}
"""The recommended range of `m` (HNS-12); nothing is recommended for 3,072."""


class HnswConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a Hierarchical Navigable Small World graph (Malkov and Yashunin, 2016).

    `m`: links of a node; the lowest layer has twice as many. `ef_construction`, `ef_search`: candidates kept while a vector is
    inserted, and while one is searched. `max_elements`: vectors that one index is made for; nothing is refused beyond it.
    `max_neighbors`, `batch_size`, `shards` and `replicas` are what the policy of HNS-06 names, for other stores to read: the graph
    in process keeps twice `m` in its lowest layer, and one process has one shard and no replica (decision 0007).
    """

    m: int = 16
    ef_construction: int = 200
    ef_search: int = 50
    max_elements: int = 1_000_000
    max_neighbors: int = 32
    batch_size: int = 1_000
    shards: int = 1
    replicas: int = 1

    def __post_init__(self) -> None:
        require_limit(self.m, field="m", minimum=M_MIN, maximum=M_MAX)
        require_limit(self.ef_construction, field="ef_construction", minimum=4, maximum=EF_CONSTRUCTION_MAX)
        require_limit(self.ef_search, field="ef_search", maximum=EF_SEARCH_MAX)
        require_limit(self.max_elements, field="max_elements", maximum=2**32 - 1)
        require_limit(self.max_neighbors, field="max_neighbors", maximum=2 * M_MAX)
        require_limit(self.batch_size, field="batch_size", maximum=1_000_000)
        require_limit(self.shards, field="shards", maximum=1_000)
        require_limit(self.replicas, field="replicas", maximum=1_000)

    @classmethod
    def memory_optimized(cls) -> HnswConfig:
        """Up to 10,000 vectors (HNS-07)."""
        return cls(m=8, ef_construction=100, ef_search=50, max_neighbors=16)

    @classmethod
    def balanced(cls) -> HnswConfig:
        """Up to 100,000 vectors (HNS-08)."""
        return cls(m=16, ef_construction=200, ef_search=100, max_neighbors=32)

    @classmethod
    def performance(cls) -> HnswConfig:
        """Up to a million vectors (HNS-09)."""
        return cls(m=32, ef_construction=400, ef_search=200, max_neighbors=64, batch_size=1_000)

    @classmethod
    def distributed(cls) -> HnswConfig:
        """Beyond a million vectors (HNS-10)."""
        return cls(m=48, ef_construction=500, ef_search=300, max_neighbors=96, shards=8, replicas=3)

    def with_m(self, m: int) -> HnswConfig:
        return self._with(m=m)

    def with_ef_construction(self, ef_construction: int) -> HnswConfig:
        return self._with(ef_construction=ef_construction)

    def with_ef_search(self, ef_search: int) -> HnswConfig:
        return self._with(ef_search=ef_search)

    def with_max_neighbors(self, max_neighbors: int) -> HnswConfig:
        return self._with(max_neighbors=max_neighbors)

    def with_batch_size(self, batch_size: int) -> HnswConfig:
        return self._with(batch_size=batch_size)

    def with_shards(self, shards: int) -> HnswConfig:
        return self._with(shards=shards)

    def with_replicas(self, replicas: int) -> HnswConfig:
        return self._with(replicas=replicas)

    def _with(self, **changes: Any) -> HnswConfig:
        return msgspec.structs.replace(self, **changes)


SPEED: Final = HnswConfig(m=8, ef_construction=50, ef_search=25, max_neighbors=16)  # HNS-01
BALANCED: Final = HnswConfig()  # HNS-02
ACCURACY: Final = HnswConfig(m=48, ef_construction=500, ef_search=300, max_neighbors=96)  # HNS-03


def configure_hnsw_for_scale(num_vectors: int) -> HnswConfig:
    """Return the parameters for so many vectors (HNS-06…10).

    Raises:
        InvalidLimit: `num_vectors` is negative or no whole number.
    """
    require_limit(num_vectors, field="num_vectors", minimum=0, maximum=2**63 - 1)
    if num_vectors <= 10_000:
        return HnswConfig.memory_optimized()
    if num_vectors <= 100_000:
        return HnswConfig.balanced()
    if num_vectors <= 1_000_000:
        return HnswConfig.performance()
    return HnswConfig.distributed()


class IndexChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is configured of an index: a preset, keys that override it one by one, and the recall that searches aim at.

    `recall`: a search takes at least as many candidates as were measured to reach it on the data; None leaves `ef_search` alone.
    """

    preset: Preset = "balanced"
    m: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_elements: int | None = None
    recall: float | None = RECALL_TARGET

    def config(self, num_vectors: int) -> HnswConfig:
        """Return the parameters for an index of so many vectors; only the preset "auto" looks at how many."""
        named = {"speed": SPEED, "balanced": BALANCED, "accuracy": ACCURACY}
        preset = configure_hnsw_for_scale(num_vectors) if self.preset == "auto" else named[self.preset]
        explicit = {
            "m": self.m,
            "ef_construction": self.ef_construction,
            "ef_search": self.ef_search,
            "max_elements": self.max_elements,
        }
        return msgspec.structs.replace(preset, **{key: value for key, value in explicit.items() if value is not None})


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How hard one search tries; at most one field is set, and none leaves it to what is configured."""

    recall: float | None = None
    ef_search: int | None = None
    exact: bool = False


CONFIGURED: Final = Effort()


def require_effort(*, recall: object = None, ef_search: object = None, exact: object = False) -> Effort:
    """Check how hard a search shall try.

    Raises:
        InvalidLimit: `recall` is not from 0.5 to 1, or `ef_search` not from 1 to 1,000.
        InvalidInput: `exact` is no boolean, or more than one was given.
    """
    if recall is None and ef_search is None and exact is False:
        return CONFIGURED
    given = [
        name
        for name, value in (("recall", recall), ("ef_search", ef_search), ("exact", exact or None))
        if value is not None
    ]
    if len(given) > 1:
        raise InvalidInput(given[0], f"cannot be given together with `{given[1]}`", hint="Give one of them.")
    if not isinstance(exact, bool):
        raise InvalidInput("exact", "must be True or False", given=exact)
    wanted: float | None = None
    if recall is not None:
        if isinstance(recall, bool) or not isinstance(recall, (int, float)) or not RECALL_MIN <= recall <= 1:
            raise InvalidLimit("recall", f"must be a number from {RECALL_MIN} to 1", given=recall)
        wanted = float(recall)
    candidates = None if ef_search is None else require_limit(ef_search, field="ef_search", maximum=EF_SEARCH_MAX)
    return Effort(recall=wanted, ef_search=candidates, exact=exact)


def require_dimension(value: object) -> int | None:
    """Return a dimension that is stored, or None for all.

    Raises:
        InvalidLimit: anything else.
    """
    if value is None or (value in DIMENSIONS and isinstance(value, int)):
        return value
    raise InvalidLimit("dimension", f"must be one of {', '.join(map(str, DIMENSIONS))}", given=value)


def ef_for_recall(recall: float) -> int:
    """Return how many candidates the table of HNS-14 gives for a recall: for an index that was not measured on its data."""
    return next(ef for least, ef in EF_BY_RECALL if recall <= least)


def estimate_vector_bytes(dimension: int, *, m: int = 16) -> int:
    """Estimate what one vector takes in an index, in bytes: (2 m) links of 4 bytes and the dimension in float32 (HNS-19)."""
    return (m * 2) * 4 + dimension * 4


def estimate_overhead_bytes(vectors: int, *, m: int = 16) -> int:
    """Estimate what the links of an index take beside its vectors, in bytes: 16 m for each (HNS-20). AMB-015: both are offered."""
    return 16 * m * vectors


class VectorIndexStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one embedding space is searched.

    `state`: "exact" - every vector is compared; "ready" - the index holds all but a small tail; "behind" - there is more to index
    than that; "building" - it is being done. Until then what is not indexed is compared one by one: no answer waits.
    `building`: rows that the build under way has taken in so far; they count as unindexed until it ends.
    `deleted`: rows still in the index that are gone, which searches step over. `recall`: measured on the data, with `ef_search`
    candidates and against exact search, when the index was built; `recall_by_ef` has the other points of that measurement.
    `estimated_bytes` is HNS-19's estimate; `memory_bytes` and `file_bytes` are what is really taken, where this process knows.
    """

    space_id: str
    dimension: int
    state: IndexState
    vectors: int
    indexed: int = 0
    unindexed: int = 0
    building: int = 0
    deleted: int = 0
    m: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    recall_target: float | None = None
    recall: float | None = None
    recall_by_ef: dict[int, float] = {}
    estimated_bytes: int = 0
    overhead_bytes: int = 0
    memory_bytes: int | None = None
    file_bytes: int | None = None
    built_at: datetime | None = None

    @property
    def fragmentation(self) -> float:
        """The share of the index that is deleted or missing, from 0 to 1 (HNS-28): what a rebuild would mend."""
        whole = self.indexed + self.deleted + self.unindexed
        return 0.0 if self.indexed + self.deleted == 0 else (self.deleted + self.unindexed) / whole
