"""Vectors: embeddings with metadata, searched by cosine similarity (VEC-01…13).

Not here: embeddings of memories, which belong to their memory and are found through `memories`; how an index works, and how hard a
search tries (`vector_index`).

Rule 1: a vector has 384, 768, 1536 or 3072 dimensions; NaN, infinity and zero are refused.
Rule 2: score = 1 - cosine distance, rounded to 1e-6; order is score descending, then id ascending.
Rule 3: a search returns min(limit, matching rows) hits, whatever other tenants hold. What was written is found when the write
returns, and what was deleted is not; an approximate index may put farther hits in the place of nearer ones, and nothing else.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from llmspell.codec import VectorLike
from llmspell.storage.contracts.filters import Field, Fields
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort, VectorIndexStatus

DEFAULT_SCOPE = "default"
INSERT_MAX = 10_000
SAMPLE_MAX = 20_000
"""Embeddings of one sample: 30 MB at 384 dimensions, 250 MB at 3072."""
SCORE_DECIMALS = 6
FREE_SPACE = "free"
"""The embedding space of vectors that own themselves: those inserted through this contract."""

FILTER_FIELDS = Fields({"scope": Field("text"), "created_at": Field("time"), "updated_at": Field("time")})


class VectorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A vector to insert. `embedding`: any sequence or float buffer of shape (384 | 768 | 1536 | 3072,)."""

    embedding: VectorLike
    id: UUID | None = None
    scope: str = DEFAULT_SCOPE
    metadata: Mapping[str, Any] = {}


class VectorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored vector. `embedding`: `array('f')` of shape (dimension,), float32, exactly as stored."""

    id: UUID
    embedding: array[float]
    scope: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class VectorHit(msgspec.Struct, frozen=True, kw_only=True):
    """A search result. `score` = 1 - cosine distance, in [-1, 1]."""

    id: UUID
    score: float
    scope: str
    metadata: dict[str, Any]
    embedding: array[float] | None = None

    @property
    def distance(self) -> float:
        """Cosine distance, in [0, 2]."""
        return round(1 - self.score, SCORE_DECIMALS)


class VectorStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant (or one of its scopes) holds; `storage_bytes` counts embeddings only."""

    total_vectors: int
    by_dimension: dict[int, int]
    scopes: int
    storage_bytes: int


class Vectors(Protocol):
    """A tenant's free vectors."""

    async def insert(self, entries: Sequence[VectorEntry]) -> list[UUID]:
        """Store all entries or none, and return their ids in order; at most 10,000. Searchable on return.

        Raises:
            InvalidVector, InvalidMetadata, InvalidKey: an entry is refused.
            AlreadyExists: an id is taken (also by a vector of another dimension).
        """
        ...

    async def get(self, id: UUID) -> VectorRecord | None:
        """Return the vector, or None."""
        ...

    async def search(
        self,
        embedding: VectorLike,
        *,
        limit: int = 10,
        scope: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        include_embedding: bool = False,
        effort: Effort = CONFIGURED,
    ) -> list[VectorHit]:
        """Return the nearest vectors of the same dimension, best first; `limit` 1 to 1,000 (VEC-07)."""
        ...

    async def update_metadata(self, id: UUID, metadata: Mapping[str, Any]) -> bool:
        """Replace the metadata of a vector, and say whether it exists."""
        ...

    async def delete(self, ids: Sequence[UUID]) -> int:
        """Delete vectors in one transaction, and return how many were there."""
        ...

    async def delete_scope(self, scope: str) -> int:
        """Delete every vector of a scope, and return how many were there."""
        ...

    async def stats(self, *, scope: str | None = None) -> VectorStats:
        """Count what is stored (VEC-08)."""
        ...

    async def sample(self, space_id: str, *, limit: int = 1_000) -> list[array[float]]:
        """Return up to 20,000 embeddings of a space, spread evenly over it in the order of their owners; none of an unknown one.

        Each is `array('f')` of shape (dimension,), exactly as stored. The spaces are those of `index_status`.
        """
        ...

    async def index_status(self) -> list[VectorIndexStatus]:
        """Say how each of the tenant's embedding spaces is searched, those of memories included, ordered by their ids."""
        ...

    async def build_index(self, *, dimension: int | None = None) -> list[VectorIndexStatus]:
        """Index now what is large enough to be indexed and is not yet, wait for it, and return the status of those spaces.

        Searches never need it: what is not indexed is compared one by one.
        """
        ...
