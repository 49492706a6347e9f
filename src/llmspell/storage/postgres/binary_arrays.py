"""Columns of rows as arrays in the server's binary form, for `INSERT … SELECT … FROM unnest(…)`.

COPY is refused under row-level security, and this is what comes next: one statement for many rows, and no text to be parsed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from llmspell.codec import encode_json
from llmspell.storage.contracts.transfer import INFINITY, Kind, read_open_instant
from llmspell.storage.postgres.statements import BinaryArray, encode_vector

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_INFINITY: Final = (2**63 - 1).to_bytes(8, "big")
_NULL: Final = (-1).to_bytes(4, "big", signed=True)
_HEADER: Final = struct.Struct(">iiIii")
_LENGTH: Final = struct.Struct(">i")
_INTEGER: Final = struct.Struct(">q")
_FLOAT: Final = struct.Struct(">d")
_VECTOR: Final = "vector"
_TYPES: Final[dict[Kind, int]] = {
    "text": 25,
    "uuid": 2950,
    "integer": 20,
    "float": 701,
    "boolean": 16,
    "json": 3802,
    "texts": 3802,
    "bytes": 17,
    "instant": 1184,
    "open_instant": 1184,
}
"""The numbers of the built-in types, which are the same in every database."""


def column(kind: Kind, values: Sequence[Any], *, vector_type: int) -> BinaryArray:
    """Return a column of rows as one array. `vector_type`: the number that the database gave to pgvector's type."""
    encode = _ENCODERS[kind]
    parts = [_HEADER.pack(1, 1, vector_type if kind == _VECTOR else _TYPES[kind], len(values), 1)]
    length = _LENGTH.pack
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            encoded = encode(value)
            parts += (length(len(encoded)), encoded)
    return BinaryArray(b"".join(parts))


def _instant(value: datetime) -> bytes:
    return _INTEGER.pack((value - _EPOCH) // _MICROSECOND)


def _open_instant(value: str) -> bytes:
    end = None if value == INFINITY else read_open_instant(value, field="instant")
    return _INFINITY if end is None else _instant(end)


def _uuid(value: UUID) -> bytes:
    return value.bytes


_ENCODERS: Final[dict[Kind, Callable[[Any], bytes]]] = {
    "text": str.encode,
    "uuid": _uuid,
    "integer": _INTEGER.pack,
    "float": _FLOAT.pack,
    "boolean": lambda value: b"\1" if value else b"\0",
    "json": lambda value: b"\1" + bytes(value),
    "texts": lambda value: b"\1" + encode_json(value).encode(),
    "bytes": bytes,
    "instant": _instant,
    "open_instant": _open_instant,
    "vector": encode_vector,
}
