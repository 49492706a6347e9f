"""What a shared storage needs besides its unit of work, bound once when a store is opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.ids import IdSource
from llmspell.storage.contracts.capabilities import Characteristics
from llmspell.storage.contracts.filters import Node
from llmspell.storage.contracts.memories import Scored
from llmspell.storage.contracts.vector_index import Effort, VectorIndexStatus
from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Dialect, Executor, Statement, Unit
from llmspell.storage.relational.filters import FilterDialect
from llmspell.storage.text.analyser import Analyser


class SpaceCount(NamedTuple):
    """An embedding space of a tenant: its vectors, and those of them that the database's own approximate index holds."""

    id: str
    dimension: int
    vectors: int
    inside: int


class Neighbour(NamedTuple):
    """A free vector that was found; `scope` and `metadata` (as the dialect stores them) where the search has read them anyway."""

    id: UUID
    score: float
    scope: str | None = None
    metadata: Any = None


class TooMuch(Exception):
    """A search does not belong on the thread that asks."""


class NearestNeighbours(Protocol):
    """How a database finds the nearest vectors of one space: by its own index, or by ours in process.

    Both return scores = 1 - cosine distance rounded to 1e-6, best first, ties by id; always min(limit, matching) of them.
    """

    one_statement: bool
    """Whether an answer of `free` comes whole from one statement, however many were tried, so that it needs no common snapshot."""

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
    ) -> Sequence[Neighbour]:
        """Search free vectors of the query's dimension.

        Raises:
            TooMuch: `light` was asked for, and this thread would be kept for longer than some tenths of a millisecond.
        """
        ...

    async def memories(
        self, executor: Executor, *, space_id: str, query: bytes, limit: int, where: Node | None, now: object
    ) -> list[Scored]:
        """Search the embeddings of live memories; a memory with several windows counts by its best one.

        `now`: the instant, as the dialect's parameter, that decides which memories have expired.
        """
        ...

    async def index_status(self, unit: Unit, spaces: Sequence[SpaceCount]) -> list[VectorIndexStatus]:
        """Say how spaces are searched."""
        ...

    async def build_index(self, unit: Unit, space: SpaceCount) -> None:
        """Index what of a space is large enough to be indexed and is not yet; done when it returns."""
        ...

    async def inserted_rows(self, unit: Unit, *, space_id: str, dimension: int, count: int) -> None:
        """Take note of vectors that were inserted. Called after their unit of work, which may be part of a transaction."""
        ...

    async def forgotten(self, unit: Unit) -> None:
        """Let go what is kept outside of the database of embeddings of memories. Called when one was erased."""
        ...

    def close(self) -> None:
        """End what goes on behind the calls. Blocks."""
        ...

    def inserted(self, *, space_id: str, dimension: int) -> list[Statement]:
        """Return what must run before vectors are inserted into a space, in the same unit of work.

        A cache outside the database needs to know what it has missed; where there is none, nothing needs to run.
        """
        ...

    def deleted(self, *, space_id: str) -> list[Statement]:
        """Return what must run when vectors of a space were deleted."""
        ...

    def owners_deleted(self, *, dimension: int) -> list[Statement]:
        """Return what must run right after a statement that may have deleted embeddings of memories in any space."""
        ...

    def erased(self) -> list[Statement]:
        """Return what must run in the unit of work that erases a memory: no index outside of the database may go on holding it."""
        ...


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """The parts every shared storage is built on."""

    characteristics: Characteristics
    catalog: Catalog
    dialect: Dialect
    filters: FilterDialect
    nearest: NearestNeighbours
    clock: Clock
    ids: IdSource
    analyser: Analyser
    cursor_key: Callable[[], Awaitable[bytes]]
    """The store's key of page cursors; ask for it outside of a unit of work."""
