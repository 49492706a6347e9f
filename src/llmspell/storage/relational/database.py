"""The seam between the shared storages and a database: executors, units of work, the dialect.

Rule 1: every statement of an executor runs for one tenant; `:tenant_id` is bound by the executor, never by a storage.
Rule 2: a `work` function awaits nothing but its executor: it may run on a thread that has no event loop.
Rule 3: driver errors are translated into `llmspell.errors` behind this seam, so no storage sees a driver's exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar
from uuid import UUID

from llmspell.storage.relational.catalog import Query
from llmspell.tenant import TenantId

T = TypeVar("T")
Row: TypeAlias = "tuple[Any, ...]"
Params: TypeAlias = "Mapping[str, Any]"
Statement: TypeAlias = "tuple[Query, Params | Sequence[Params]]"
"""A query with its parameters; a sequence of parameters runs it once for each."""


class Executor(Protocol):
    """Runs named queries for one tenant."""

    @property
    def tenant(self) -> TenantId:
        """The tenant that every statement is bound to."""
        ...

    async def rows(self, query: Query, /, **params: Any) -> list[Row]:
        """Run a query and return all of its rows."""
        ...

    async def row(self, query: Query, /, **params: Any) -> Row | None:
        """Run a query and return its first row, or None."""
        ...

    async def value(self, query: Query, /, **params: Any) -> Any:
        """Run a query and return the first column of its first row, or None."""
        ...

    async def execute(self, query: Query, /, **params: Any) -> int:
        """Run a statement and return how many rows it changed."""
        ...

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        """Run statements that need nothing of each other, atomically and in one round trip; return rows changed by each."""
        ...

    async def rows_after(self, statements: Sequence[Statement], query: Query, /, **params: Any) -> list[Row]:
        """Run statements and then a query that sees their effect, as `batch` does; return all rows of the query."""
        ...


class Unit(Executor, Protocol):
    """An executor whose calls are units of work: each call commits by itself, or is part of the transaction it belongs to."""

    @property
    def in_transaction(self) -> bool:
        """Whether the calls belong to a transaction that somebody else ends."""
        ...

    @property
    def undone_blocks(self) -> int:
        """How many blocks of the transaction were undone so far: what was written before may be gone when this has risen."""
        ...

    async def read(self, work: Callable[[Executor], Awaitable[T]], *, heavy: bool = False) -> T:
        """Run `work` over one snapshot. `heavy`: it may take longer than a few pages, so keep it off the caller's thread."""
        ...

    async def write(self, work: Callable[[Executor], Awaitable[T]], *, large: bool = False) -> T:
        """Run `work` atomically: all of its effect is durable when this returns, or none of it (inside a transaction: a
        savepoint). `large`: it writes many megabytes, so it shares a commit with nobody."""
        ...


class Dialect(Protocol):
    """How values travel to a database and back. None stays None, but for the open end of a period."""

    def id(self, value: UUID) -> Any:
        """A UUID as a parameter."""
        ...

    def to_id(self, raw: Any) -> UUID:
        """A UUID from a column."""
        ...

    def instant(self, value: datetime) -> Any:
        """An instant as a parameter."""
        ...

    def to_instant(self, raw: Any) -> datetime:
        """An instant from a column."""
        ...

    def open_end(self, value: datetime | None) -> Any:
        """The end of a period as a parameter; None is infinity."""
        ...

    def to_open_end(self, raw: Any) -> datetime | None:
        """The end of a period from a column; infinity is None."""
        ...

    def json(self, value: Any) -> Any:
        """A JSON value (also a list of records for a set-based insert) as a parameter."""
        ...

    def to_json(self, raw: Any) -> Any:
        """A JSON value from a column."""
        ...

    def array(self, values: Sequence[Any]) -> Any:
        """A list of UUIDs, texts, numbers or instants as one parameter."""
        ...

    def vector(self, packed: bytes) -> Any:
        """A little-endian float32 vector as a parameter; a column gives the same bytes back through `to_vector`."""
        ...

    def to_vector(self, raw: Any) -> bytes:
        """A vector column as little-endian float32 bytes."""
        ...
