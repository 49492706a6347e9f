"""Records of a file: read, checked, and brought into the one form that their digest is of.

Rule 1: a file is not trusted. What no backend may hold is refused, whichever of them it is for: NUL and lone surrogates, numbers
beyond 64 bits, NaN, vectors of another dimension or without a direction, texts that are too long.
Rule 2: the layout does not count: spaces, the order of keys and the way a number is written are those of the canonical form before
anything is compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby, product
from operator import attrgetter
from typing import Any, Final

import msgspec

from llmspell.codec import decode_json, encode_json, require_json, require_packed
from llmspell.errors import InvalidInput
from llmspell.storage.contracts.transfer import (
    INFINITY,
    Record,
    Table,
    TableCount,
    TenantCount,
    read_open_instant,
    shown_instant,
)

ENCODER: Final = msgspec.json.Encoder()
JSON_DEPTH_MAX: Final = 64
REPEATED_BYTES_MAX: Final = 200
REPEATED_MAX: Final = 4_096
"""Metadata repeat: that of so many records is kept with its canonical form, which takes longer than all else of a small record."""
_canonical: dict[bytes, msgspec.Raw] = {}
_NULL: Final = msgspec.Raw(b"null")
"""The canonical form of a JSON null; `_fix_json` returns no other."""
_NUL: Final = b"\\u0000"


class RecordReader:
    """Reads the records of one table, as a schema of some version wrote them."""

    def __init__(self, table: Table, schema_version: int) -> None:
        self.table = table
        later = any(column.since > schema_version for column in table.columns)
        # A keyword-only twin of the Struct that rows of stores are, where some fields may be missing.
        found = table.record_of(schema_version) if later else table.record
        self._make = table.record if later else None
        self._decoder = msgspec.json.Decoder(found)
        self._decoder_of_many = msgspec.json.Decoder(list[found])  # type: ignore[valid-type]
        self._fixes = [(column.name, fix) for column in table.columns if (fix := _FIXES.get(column.kind)) is not None]
        self._json = [(column.name, column.null) for column in table.columns if column.kind == "json"]
        self._fields = attrgetter(*table.names)
        self._key = attrgetter(*table.key) if len(table.key) > 1 else None

    def read(self, raw: bytes) -> Record:
        """Return a record in the canonical form.

        Raises:
            ValueError, msgspec.MsgspecError, InvalidInput: it is none; the message says why.
        """
        return self._read([self._decoder.decode(raw)], raw)[0]

    def read_many(self, raw: bytes) -> list[Record]:
        """Return the records of a list, which has at least one, without its brackets.

        Raises:
            As `read`, whichever of them it is about.
        """
        return self._read(self._decoder_of_many.decode(b"[" + raw + b"]"), raw)

    def _read(self, records: list[Record], raw: bytes) -> list[Record]:
        """Bring records into the canonical form, column by column; what is wrong with the first of them is told."""
        if _NUL in raw:
            self._refuse_nul(records)
        for name, fix in self._fixes:
            for record, value in zip(records, map(attrgetter(name), records), strict=True):
                if value is not None:
                    fixed = fix(value, name, self.table)
                    if fixed is not value:
                        setattr(record, name, fixed)
        for name, null in self._json:
            for record, value in zip(records, map(attrgetter(name), records), strict=True):
                if value is _NULL:
                    if not null:
                        raise InvalidInput(name, "must not be null")
                    setattr(record, name, None)
        # The same fields, so the same bytes.
        return records if self._make is None else [self._make(*self._fields(record)) for record in records]

    def key(self, record: Record) -> tuple[Any, ...]:
        """Return the key, to be compared with others."""
        return (record.tenant_id,) if self._key is None else self._key(record)  # type: ignore[attr-defined]

    def _refuse_nul(self, records: list[Record]) -> None:
        for record, name in product(records, self.table.names):
            value = getattr(record, name)
            texts = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and "\0" in text for text in texts):
                raise InvalidInput(name, "must not contain NUL (U+0000)")


def _fix_json(value: msgspec.Raw, name: str, _table: Table) -> msgspec.Raw:
    raw = bytes(value)
    known = _canonical.get(raw)
    if known is not None:
        return known
    decoded = decode_json(raw)
    if decoded is None:
        return _NULL
    require_json(decoded, field=name, depth=JSON_DEPTH_MAX)
    canonical = msgspec.Raw(encode_json(decoded).encode())
    if len(raw) <= REPEATED_BYTES_MAX:
        if len(_canonical) >= REPEATED_MAX:
            _canonical.clear()
        _canonical[raw] = canonical
    return canonical


def _fix_instant(value: datetime, _name: str, _table: Table) -> datetime:
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def _fix_open_instant(value: str, name: str, _table: Table) -> str:
    if value == INFINITY:
        return value
    end = read_open_instant(value, field=name)
    return value if end is None else shown_instant(end)


def _fix_float(value: float, name: str, _table: Table) -> float:
    if not math.isfinite(value):
        raise InvalidInput(name, "must be finite", given=value)
    return value + 0.0  # negative zero is zero


def _fix_vector(value: bytes, name: str, table: Table) -> bytes:
    require_packed(value, field=name, dimension=table.dimension or 0)
    return value


_FIXES: Final[dict[str, Callable[[Any, str, Table], Any]]] = {
    "json": _fix_json,
    "instant": _fix_instant,
    "open_instant": _fix_open_instant,
    "float": _fix_float,
    "vector": _fix_vector,
}


_TENANT: Final = attrgetter("tenant_id")


class Digests:
    """Counts and digests of one table, as its records go by: tenant after tenant."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantCount] = {}
        self._tenant: str | None = None
        self._count = 0
        self._hash = hashlib.sha256()
        self.count = 0

    def add_rows(self, rows: Sequence[Record]) -> bytes:
        """Take the next records, and return them as they stand in a file, each with a line feed behind.

        Raises:
            ValueError: as `add`.
        """
        lines = []
        for tenant, group in groupby(rows, _TENANT):
            some = list(group)
            lines.append(ENCODER.encode_lines(some))
            self.add(tenant, lines[-1], len(some))
        return lines[0] if len(lines) == 1 else b"".join(lines)

    def add(self, tenant: str, lines: bytes, count: int = 1) -> None:
        """Take the next records of a tenant, each as it stands in a file, with a line feed behind.

        Raises:
            ValueError: the tenant was there before, and another one since.
        """
        if tenant != self._tenant:
            self._end()
            if tenant in self._tenants:
                raise ValueError(f"records of tenant {tenant!r} stand in two places")
            self._tenant = tenant
        self._hash.update(lines)
        self._count += count
        self.count += count

    def _end(self) -> None:
        if self._tenant is not None:
            self._tenants[self._tenant] = TenantCount(self._count, self._hash.hexdigest())
        self._tenant, self._count, self._hash = None, 0, hashlib.sha256()

    def result(self) -> TableCount:
        """Return what has gone by. The digest of a table is that of its tenants' counts and digests."""
        self._end()
        whole = hashlib.sha256()
        for tenant, one in sorted(self._tenants.items()):
            whole.update(ENCODER.encode([tenant, one.count, one.sha256]) + b"\n")
        return TableCount(self.count, whole.hexdigest(), self._tenants)
