"""Named queries as the server takes them: `$n` parameters, and values in the form that the server reads by itself.

Rule 1: a parameter has no declared type (but `tenant_id`): the server infers it from the query, so a query means the same with
every value, None included, and has one plan. What the server cannot infer is cast in the query (`:limit::bigint`).
Rule 2: values travel as text, which every type reads exactly; bytes and vectors travel in binary.
Rule 3: a text with NUL is refused here too: the protocol would cut it off silently.
"""

from __future__ import annotations

import array
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from llmspell.errors import InvalidText, StorageError
from llmspell.storage.relational.catalog import Query

STATEMENTS_MAX = 2_048
"""How many translated queries are kept; the catalogue has a few hundred, filtered texts come on top."""
TENANT_PARAMETER = "tenant_id"
UNKNOWN_TYPE, TEXT_TYPE = 0, 25
TEXT, BINARY = 0, 1
Encoded: TypeAlias = "tuple[bytes | None, int]"

_TOKEN = re.compile(
    r"""
    '(?:[^']|'')*'                      # a literal
  | "[^"]*"                             # a quoted identifier
  | --[^\n]*                            # a comment
  | ::                                  # a cast
  | (?<![:\w]):(?P<name>[a-z_][a-z0-9_]*)
    """,
    re.VERBOSE,
)
_WRITING = re.compile(
    r"\b(?:INSERT|UPDATE|DELETE|MERGE|TRUNCATE|CALL|DO|nextval|setval)\b|\bllmspell\s*\.\s*\w+\s*\(", re.IGNORECASE
)
"""What may change something. A function of ours is taken to: most do. Too much costs a read nothing but a cautious error."""


class Command(msgspec.Struct, frozen=True):
    """A statement ready to send. `names[n]` is the parameter `$n+1`; `writes`: its loss may leave an effect."""

    label: str
    sql: bytes
    names: tuple[str, ...]
    types: tuple[int, ...]
    writes: bool


class Bound(msgspec.Struct, frozen=True):
    """A command with its values."""

    command: Command
    values: tuple[bytes | None, ...] = ()
    formats: tuple[int, ...] = ()


class PackedVector(msgspec.Struct, frozen=True):
    """A vector as little-endian float32 bytes, on its way to a column of pgvector's type `vector`."""

    data: bytes


class BinaryArray(msgspec.Struct, frozen=True):
    """An array in the server's binary form (`binary_arrays`)."""

    data: bytes


def command(query: Query) -> Command:
    """Translate a query of the catalogue, once."""
    return _translated(query.label, query.sql)


@lru_cache(maxsize=STATEMENTS_MAX)
def _translated(label: str, sql: str) -> Command:
    names: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if name is None else f"${names.setdefault(name, len(names) + 1)}"

    text = _TOKEN.sub(numbered, sql)
    types = tuple(TEXT_TYPE if name == TENANT_PARAMETER else UNKNOWN_TYPE for name in names)
    return Command(label, text.encode(), tuple(names), types, _WRITING.search(text) is not None)


def fixed(label: str, sql: str, *, writes: bool = False) -> Command:
    """Make a command from SQL of the driver itself; its parameters, written `$1`, are texts."""
    count = len(set(re.findall(r"\$(\d+)", sql)))
    return Command(label, sql.encode(), tuple(f"p{n}" for n in range(count)), (TEXT_TYPE,) * count, writes)


def bind(statement: Command, tenant: bytes, params: Mapping[str, Any]) -> Bound:
    """Encode the values of a statement; `tenant_id` is `tenant`, whatever `params` says.

    Raises:
        StorageError: a parameter is missing, or its type cannot be stored: a programming error.
    """
    values: list[bytes | None] = []
    formats: list[int] = []
    for name in statement.names:
        if name == TENANT_PARAMETER:
            values.append(tenant)
            formats.append(TEXT)
            continue
        try:
            value, form = encode(params[name])
        except KeyError:
            raise StorageError("A query lacks a parameter.", query=statement.label, parameter=name) from None
        values.append(value)
        formats.append(form)
    return Bound(statement, tuple(values), tuple(formats))


def bind_texts(statement: Command, *values: bytes) -> Bound:
    """Bind ready texts to a fixed command."""
    return Bound(statement, values, (TEXT,) * len(values))


def encode(value: object) -> Encoded:
    """Return a value as the server reads it, and whether that is binary."""
    if value is None:
        return None, TEXT
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = next((known for kind, known in _ENCODERS.items() if isinstance(value, kind)), None)
        if encoder is None:
            raise StorageError("A value of this type cannot be stored.", type=type(value).__name__)
    return encoder(value)


def _encode_text(value: str) -> Encoded:
    if "\0" in value:
        raise InvalidText("text", "must not contain NUL (U+0000)", given=value)
    return value.encode(), TEXT


def _encode_instant(value: datetime) -> Encoded:
    if value.tzinfo is None:
        raise StorageError("An instant must say its offset from UTC.", given=value.isoformat())
    return value.isoformat().encode(), TEXT


def _encode_list(values: list[Any]) -> Encoded:
    return ("{" + ",".join(map(_element, values)) + "}").encode(), TEXT


def _element(value: object) -> str:
    """A member of an array literal: texts quoted, with `"` and the backslash escaped."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidText("text", "must not contain NUL (U+0000)", given=value)
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    encoded, form = encode(value)
    if encoded is None or form == BINARY:
        raise StorageError("A value of this type cannot stand in an array.", type=type(value).__name__)
    return '"' + encoded.decode() + '"' if isinstance(value, datetime) else encoded.decode()


def encode_vector(packed: bytes) -> bytes:
    """Return little-endian float32 bytes in pgvector's binary form."""
    components = _swapped(packed)
    return (len(components) // 4).to_bytes(2, "big") + b"\0\0" + components


def decode_vector(data: bytes | bytearray | memoryview) -> bytes:
    """Return pgvector's binary form (count, two unused bytes, big-endian float32) as little-endian float32 bytes."""
    return _swapped(bytes(data[4:]))


def _swapped(data: bytes) -> bytes:
    """Turn float32 bytes round, between the little end that we keep and the big end of the network."""
    components = array.array("f")
    components.frombytes(data)
    components.byteswap()
    return components.tobytes()


# bool stands before int, and str before its subclasses' parents: the search by isinstance takes the first that fits.
_ENCODERS: dict[type, Callable[[Any], Encoded]] = {
    str: _encode_text,
    bool: lambda value: (b"t" if value else b"f", TEXT),
    int: lambda value: (str(value).encode(), TEXT),
    float: lambda value: (repr(value).encode(), TEXT),
    UUID: lambda value: (str(value).encode(), TEXT),
    datetime: _encode_instant,
    bytes: lambda value: (value, BINARY),
    bytearray: lambda value: (bytes(value), BINARY),
    memoryview: lambda value: (bytes(value), BINARY),
    list: _encode_list,
    PackedVector: lambda value: (encode_vector(value.data), BINARY),
    BinaryArray: lambda value: (value.data, BINARY),
}
