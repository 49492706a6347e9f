"""How values and filters are said to PostgreSQL.

Rule 1: an open end is the server's own 'infinity', in both directions; the driver by itself would refuse to read it.
Rule 2: instants come back in UTC whatever the time zone of the session is.
Rule 3: JSON is compared as the contract says: by type first, numbers as numbers, texts by code points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import pq
from psycopg.adapt import Loader
from psycopg.types.numeric import NumericBinaryLoader

from llmspell.codec import encode_json
from llmspell.storage.contracts.filters import Compare
from llmspell.storage.postgres.statements import PackedVector, decode_vector

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import Buffer

    from llmspell.storage.relational.filters import FieldKind

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INFINITY = 2**63 - 1


class InstantLoader(Loader):
    """Reads `timestamptz`: microseconds since 2000; infinity is None."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> datetime | None:
        microseconds = int.from_bytes(data, "big", signed=True)
        return None if microseconds == _INFINITY else _EPOCH + timedelta(microseconds=microseconds)


class NumericLoader(NumericBinaryLoader):
    """Reads `numeric`, which only sums and averages of ours have: whole ones as `int`, others as `float`."""

    def load(self, data: Buffer) -> Any:
        value = super().load(data)
        whole = int(value)
        return whole if whole == value else float(value)


class VectorLoader(Loader):
    """Reads pgvector's `vector` as little-endian float32 bytes."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return decode_vector(data)


def adapt(connection: psycopg.AsyncConnection[Any], *, vector_oid: int | None) -> None:
    """Teach a connection to read our types; `vector_oid` is the number that its database gave to `vector`."""
    connection.adapters.register_loader("timestamptz", InstantLoader)
    connection.adapters.register_loader("numeric", NumericLoader)
    if vector_oid is not None:
        connection.adapters.register_loader(vector_oid, VectorLoader)


def _sorted(value: Any) -> Any:
    """Put keys into the order of canonical JSON; `jsonb` keeps them by length first."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


class PostgresDialect:
    """`Dialect`: most values travel as they are, and are encoded by `statements`."""

    def id(self, value: UUID) -> UUID:
        return value

    def to_id(self, raw: Any) -> UUID:
        found: UUID = raw
        return found

    def instant(self, value: datetime) -> datetime:
        return value

    def to_instant(self, raw: Any) -> datetime:
        found: datetime = raw
        return found

    def open_end(self, value: datetime | None) -> datetime | str:
        return "infinity" if value is None else value

    def to_open_end(self, raw: Any) -> datetime | None:
        found: datetime | None = raw
        return found

    def json(self, value: Any) -> str:
        return encode_json(value)

    def to_json(self, raw: Any) -> Any:
        return _sorted(raw)

    def array(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def vector(self, packed: bytes) -> PackedVector:
        return PackedVector(packed)

    def to_vector(self, raw: Any) -> bytes:
        packed: bytes = raw
        return packed


_TYPES: dict[str, str] = {"text": "text", "time": "timestamptz", "number": "numeric", "boolean": "boolean"}
_ORDERING = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class PostgresFilters:
    """`FilterDialect` on columns and `jsonb`.

    A path is walked key by key with `->`: unlike `#>` it does not take a number for the position in a list.
    """

    def typed(self, parameter: str, kind: FieldKind) -> str:
        return f":{parameter}::{_TYPES[kind]}"

    def member(self, column: str, parameter: str, kind: FieldKind) -> str:
        return f"({column} = ANY(:{parameter}::{_TYPES[kind]}[]))"

    def selective(self, condition: str) -> str:
        return condition  # the server has statistics

    def metadata(self, column: str, comparison: Compare, bind: Callable[[Any], str]) -> str:
        path, operator, operand = comparison.path, comparison.operator, comparison.operand
        value = "(" + " -> ".join([column, *(f":{bind(key)}::text" for key in path)]) + ")"
        if operator == "$exists":
            return f"({value} IS NOT NULL)" if operand else f"({value} IS NULL)"
        if operator in ("$in", "$nin"):
            members = f":{bind([encode_json(member) for member in operand])}::jsonb[]"
            if operator == "$in":
                return f"({value} = ANY({members}))"
            return f"({value} IS NOT NULL AND {value} <> ALL({members}))"
        if operator == "$contains":
            # CASE, because the server may evaluate the parts of an AND in any order, and taking a text apart fails.
            items = f"jsonb_array_elements(CASE WHEN jsonb_typeof({value}) = 'array' THEN {value} ELSE '[]'::jsonb END)"
            return (
                f"EXISTS (SELECT FROM {items} AS item (value) WHERE item.value = :{bind(encode_json(operand))}::jsonb)"
            )
        if operator in _ORDERING:
            symbol = _ORDERING[operator]
            if isinstance(operand, str):
                text = f"({value} #>> '{{}}') COLLATE \"C\" {symbol} :{bind(operand)}::text"
                return f"(jsonb_typeof({value}) = 'string' AND {text})"
            number = f"{value} {symbol} :{bind(encode_json(operand))}::jsonb"
            return f"(jsonb_typeof({value}) = 'number' AND {number})"
        return f"({value} {'=' if operator == '$eq' else '<>'} :{bind(encode_json(operand))}::jsonb)"
