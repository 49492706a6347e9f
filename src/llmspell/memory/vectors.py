"""Free vectors as a user has them: embeddings of the caller's own, with metadata."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from llmspell.codec import VectorLike
from llmspell.errors import InvalidInput
from llmspell.ids import parse_id
from llmspell.memory.limits import one_limit
from llmspell.storage.contracts.vector_index import VectorIndexStatus, require_effort
from llmspell.storage.contracts.vectors import VectorEntry, VectorHit, VectorRecord, Vectors, VectorStats


class VectorCollection:
    """A tenant's free vectors: `tenant.vectors`. Embeddings have shape (384 | 768 | 1536 | 3072,)."""

    def __init__(self, storage: Vectors) -> None:
        self._storage = storage

    async def insert(
        self, entries: VectorEntry | Mapping[str, Any] | Sequence[VectorEntry | Mapping[str, Any]]
    ) -> list[UUID]:
        """Store one entry or many (up to 10,000), all or none, and return their ids. They are found when this returns.

        An entry is a `VectorEntry` or a mapping of its fields: embedding, id, scope, metadata.

        Raises:
            InvalidInput: names the entry and the field.
            AlreadyExists: an id is taken.
        """
        many = [entries] if isinstance(entries, (VectorEntry, Mapping)) else entries
        return await self._storage.insert([_entry(entry, position) for position, entry in enumerate(many)])

    async def search(
        self,
        embedding: VectorLike,
        *,
        limit: int | None = None,
        k: int | None = None,
        top_k: int | None = None,
        scope: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        include_embedding: bool = False,
        recall: float | None = None,
        ef_search: int | None = None,
        exact: bool = False,
    ) -> list[VectorHit]:
        """Return the nearest vectors by cosine similarity, best first: `limit` (1 to 1,000, default 10; also `k`, `top_k`).

        At most one of these says how hard to try; without one the store's setting does:

        Args:
            recall: the share of the true nearest that should be found, 0.5 to 1. Where the index was calibrated, the least effort
                that reached it on the data itself is taken (`index_status()` reports what was measured).
            ef_search: candidates that the index keeps while it searches; raised to `limit` when it is less (AMB-014).
            exact: compare with every vector that matches.

        Raises:
            InvalidInput: an argument is refused; the error names it.
        """
        return await self._storage.search(
            embedding,
            limit=one_limit(limit, k, top_k),
            scope=scope,
            filters=filters,
            min_score=min_score,
            include_embedding=include_embedding,
            effort=require_effort(recall=recall, ef_search=ef_search, exact=exact),
        )

    async def get(self, id: UUID | str) -> VectorRecord | None:
        """Return a vector, or None."""
        return await self._storage.get(parse_id(id))

    async def update_metadata(self, id: UUID | str, metadata: Mapping[str, Any]) -> bool:
        """Replace the metadata of a vector, and say whether it exists."""
        return await self._storage.update_metadata(parse_id(id), metadata)

    async def delete(self, ids: UUID | str | Sequence[UUID | str]) -> int:
        """Delete one vector or several in one transaction, and return how many were there."""
        many = [ids] if isinstance(ids, (UUID, str)) else ids
        return await self._storage.delete([parse_id(id, field="ids") for id in many])

    async def delete_scope(self, scope: str) -> int:
        """Delete every vector of a scope, and return how many were there."""
        return await self._storage.delete_scope(scope)

    async def stats(self, *, scope: str | None = None) -> VectorStats:
        """Count what is stored."""
        return await self._storage.stats(scope=scope)

    async def sample(self, space_id: str, *, limit: int = 1_000) -> list[array[float]]:
        """Return up to `limit` (20,000 at most) embeddings of a space, spread evenly over it, to measure something on real data.

        Each is `array('f')` of shape (dimension,), exactly as stored. `index_status()` lists the spaces; an unknown one is empty.

        Raises:
            InvalidInput: an argument is refused; the error names it.
        """
        return await self._storage.sample(space_id, limit=limit)

    async def index_status(self) -> list[VectorIndexStatus]:
        """Say how each of the tenant's embedding spaces is searched, those of memories included, ordered by their ids."""
        return await self._storage.index_status()

    async def build_index(self, *, dimension: int | None = None) -> list[VectorIndexStatus]:
        """Index now what is large enough to be indexed and is not yet, wait for it, and return the status of those spaces.

        Searches never need it: what is not indexed is compared one by one. `dimension`: only spaces of this one.

        Raises:
            InvalidLimit: `dimension` is not one that is stored.
        """
        return await self._storage.build_index(dimension=dimension)


def _entry(entry: VectorEntry | Mapping[str, Any], position: int) -> VectorEntry:
    if isinstance(entry, VectorEntry):
        return entry
    known = VectorEntry.__struct_fields__
    if not isinstance(entry, Mapping) or "embedding" not in entry or set(entry) - set(known):
        raise InvalidInput(f"entries[{position}]", f"must be an object of {', '.join(known)}, with an embedding")
    return VectorEntry(**entry)
