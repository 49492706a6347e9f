"""Moving whole stores: the form in which a row travels between backends and files, and what gives and takes such rows.

Not here: the list of tables (`transfer_tables`), the file (`storage.transfer`).

Rule 1: a row travels as a record: a Struct whose fields are the exported columns in the order of the catalogue, each in the one
form of its kind. Equal rows of any two backends are equal records, and equal records are equal bytes in a file.
Rule 2: a source is one snapshot. It gives the rows of a table in the order of their keys, compared by bytes, in bounded batches.
Rule 3: a target is one transaction: all that was written is there after `commit`, and otherwise nothing of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from llmspell.clock import parse_instant
from llmspell.codec import decode_json, encode_json
from llmspell.errors import InvalidInput
from llmspell.tenant import TenantId

Kind: TypeAlias = Literal[
    "text", "uuid", "integer", "float", "boolean", "json", "texts", "bytes", "instant", "open_instant", "vector"
]
"""How a value travels, in a record, and in JSON:

text          str                                                 a string
uuid          UUID                                                a string with hyphens, lower case
integer       int of 64 bits                                      a number
float         float                                               a number, by shortest round trip
boolean       bool                                                true or false
json          msgspec.Raw, canonical JSON (`json_value`)          the value itself
texts         list[str]                                           a list of strings
bytes         bytes                                               a string, base64
instant       datetime, UTC                                       a string, ISO 8601 with Z, microseconds where there are any
open_instant  str: the same text, or "infinity"                   the same
vector        bytes, float32, little-endian                       a string, base64
"""
OnConflict: TypeAlias = Literal["error", "skip", "replace"]
Record: TypeAlias = msgspec.Struct
"""A row: an instance of its table's `Table.record`."""
RecordType: TypeAlias = "type[msgspec.Struct]"

INFINITY = "infinity"
"""The open end of a period, as it travels."""
BATCH_ROWS = 500
BATCH_BYTES = 4 * 1024 * 1024
"""A batch ends with the row that reaches either: what a transfer holds in memory does not depend on the size of a store."""
TRANSFER_TIMEOUT_S = 86_400.0
"""How long one import or export may take."""
_Aware: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
_PYTHON: dict[str, Any] = {
    "text": str,
    "uuid": UUID,
    "integer": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    "float": float,
    "boolean": bool,
    "json": msgspec.Raw,
    "texts": list[str],
    "bytes": bytes,
    "instant": _Aware,
    "open_instant": str,
    "vector": bytes,
}


class Column(msgspec.Struct, frozen=True):
    """An exported column. `since` is the schema version that brought it: files of older schemas have `default` instead."""

    name: str
    kind: Kind
    null: bool = False
    max_characters: int | None = None
    since: int = 0
    default: Any = None


class Table(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An exported table.

    `path`: its place in `data`. `key`: the primary key; it begins with the tenant. `thing`: how many columns of the key name what
    the rows are of, for versions of one entity come and go together. `unique`: further keys that rows may not share.
    `belongs_to`: the table of what the rows are part of, and the columns that name it here, the tenant first; what is skipped takes
    its parts with it. `derived`: columns that are made again on import, each with the reason, and
    `computed` those of them that the import hands over with a row. `large`: rows differ in size, so that
    batches are cut by bytes. `dimension`: of embeddings. `frame`: rows that say how others are to be read, one for each tenant or
    name, and are merged with what is there.
    """

    name: str
    type: str
    path: tuple[str, ...]
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    thing: int
    unique: tuple[tuple[str, ...], ...] = ()
    belongs_to: tuple[tuple[str, tuple[str, ...]], ...] = ()
    derived: dict[str, str] = {}
    computed: tuple[Column, ...] = ()
    large: bool = False
    frame: bool = False
    dimension: int | None = None
    since: int = 0

    @property
    def shown(self) -> str:
        """The place of the table in `data`, as messages and digests name it: `knowledge_graph.entities`."""
        return ".".join(self.path)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the exported columns."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each exported column."""
        return {column.name: column.kind for column in self.columns}

    @cached_property
    def record(self) -> RecordType:
        """The Struct of a row; it takes the columns in order."""
        return self.record_of(None)

    def record_of(self, schema_version: int | None) -> RecordType:
        """Return the Struct that reads rows of a schema: columns that came later may be missing, and have their default then."""
        fields: list[Any] = []
        for column in self.columns:
            kind = _PYTHON[column.kind]
            if column.max_characters is not None:
                kind = Annotated[kind, msgspec.Meta(max_length=column.max_characters)]
            # `Raw` takes null too: the reader makes None of it.
            if column.null and column.kind != "json":
                kind = kind | None
            later = schema_version is not None and column.since > schema_version
            fields.append((column.name, kind, column.default) if later else (column.name, kind))
        # Keyword-only fields may have a default anywhere; rows of this schema are made by position.
        return msgspec.defstruct(
            f"Row_{self.name}", fields, kw_only=schema_version is not None, forbid_unknown_fields=True, gc=False
        )


def json_value(value: object) -> msgspec.Raw:
    """Return a JSON value as it travels. It must have passed `codec.require_json`, as everything stored has."""
    return msgspec.Raw(encode_json(value).encode())


def read_json(raw: msgspec.Raw) -> Any:
    """Return the value of a column of kind `json`."""
    return decode_json(bytes(raw))


def open_instant(end: datetime | None) -> str:
    """Return the end of a period as it travels; None is infinity."""
    return INFINITY if end is None else shown_instant(end)


def read_open_instant(text: str, *, field: str) -> datetime | None:
    """Return the end of a period; None is infinity.

    Raises:
        InvalidTime: it is neither an instant nor "infinity".
    """
    return None if text == INFINITY else parse_instant(text, field=field)


def shown_instant(instant: datetime) -> str:
    """Return an instant as it stands in a file: as msgspec writes those of the kind `instant`."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


class Conflicting(msgspec.Struct, frozen=True):
    """What a target did with a batch."""

    inserted: int
    skipped: int = 0
    replaced: int = 0
    """How many of the inserted rows took the place of others."""


class TransferSource(Protocol):
    """One snapshot of a store, or of one tenant in it."""

    backend: str
    """As the header of a file names it: the scheme of the store's URL, without its dialects."""
    migrations: tuple[str, ...]
    """The migrations that the store has, as their files are called: V001__initial_setup, …"""
    schema_version: int

    async def count(self, table: Table) -> int:
        """Return how many rows of a table there are."""
        ...

    def rows(self, table: Table) -> AsyncIterator[Sequence[Record]]:
        """Yield the rows of a table in the order of its key, in batches."""
        ...


class TransferTarget(Protocol):
    """One transaction that takes a store, or one tenant's part of one.

    Tables come in the order of `transfer_tables.TABLES`. Rows of one thing follow each other.
    """

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        """Write rows of a table.

        Raises:
            AlreadyExists: a row, or what it is of, was in the target before, and conflicts are errors.
            QuotaExceeded, StorageError: the target refuses a row. `row` among the fields of the error is its place in the batch.
        """
        ...

    async def finish(self) -> list[str]:
        """Make again what is derived from the rows, and return notes for the user. No rows come after it."""
        ...

    async def commit(self) -> None:
        """Keep all of it. Without this call nothing is kept when the block ends.

        Raises:
            OutcomeUnknown: the answer was lost; it happened completely or not at all.
        """
        ...


class Transferable(Protocol):
    """What a store offers for this: every `Backend` does."""

    def transfer_source(self, tenant: TenantId | None) -> AbstractAsyncContextManager[TransferSource]:
        """Open a snapshot; None: of all tenants.

        Raises:
            InvalidSetting: all tenants are the operator's, and the store was opened without its role.
        """
        ...

    def transfer_target(
        self, tenant: TenantId | None, *, on_conflict: OnConflict
    ) -> AbstractAsyncContextManager[TransferTarget]:
        """Open a transaction that only takes rows of `tenant`; None: of all tenants.

        Raises:
            InvalidSetting: as above.
        """
        ...


class Progress(msgspec.Struct, frozen=True):
    """How far a table is. `total` is None where it is not known before the end, as when a stream is read."""

    table: str
    done: int
    total: int | None
    ended: bool = False


OnProgress: TypeAlias = "Callable[[Progress], None]"


class TableCount(msgspec.Struct, frozen=True):
    """How many rows of a table a file or a store has, and their digest; the same for each tenant."""

    count: int
    sha256: str
    tenants: dict[str, TenantCount]


class TenantCount(msgspec.Struct, frozen=True):
    """Rows of one tenant in one table. `sha256` is that of its records as they stand in a file, each with a line feed behind."""

    count: int
    sha256: str


def require_on_conflict(value: object) -> OnConflict:
    """Return the answer to rows that exist.

    Raises:
        InvalidInput: it is not "error", "skip" or "replace".
    """
    if value not in ("error", "skip", "replace"):
        raise InvalidInput("on_conflict", "must be `error`, `skip` or `replace`", given=value)
    return value
