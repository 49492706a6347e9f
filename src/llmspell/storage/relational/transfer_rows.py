"""Rows between a database and records: which query gives them, and how each kind of a value is said to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from llmspell.codec import encode_json
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.transfer import Kind, Record, Table
from llmspell.storage.relational.catalog import Catalog, Query
from llmspell.storage.relational.database import Row
from llmspell.storage.relational.table_queries import thing_columns
from llmspell.tenant import TenantId


class Forms(msgspec.Struct, frozen=True):
    """How a database says values. A kind that is missing travels as it is."""

    to_record: Mapping[Kind, Callable[[Any], Any]]
    """From a column to a record; None never comes here."""
    to_member: Mapping[Kind, Callable[[Any], Any]]
    """From a record to a member of a JSON list, in which keys are asked for."""
    damaged: Callable[[Table, Exception], LlmspellError]
    """Makes the error for a row that cannot be read."""


class TableRows:
    """One table of one database: raw rows to records, records to keys."""

    def __init__(self, table: Table, forms: Forms) -> None:
        self.table = table
        self._forms = forms
        self._converters = tuple(
            (place, forms.to_record[column.kind], column.null)
            for place, column in enumerate(table.columns)
            if column.kind in forms.to_record
        )
        self._key = tuple((name, forms.to_member.get(table.kinds[name])) for name in table.key)
        self._asked = tuple((name, forms.to_member.get(table.kinds[name])) for name in thing_columns(table))

    def records(self, rows: Sequence[Row]) -> list[Record]:
        """Return rows of the database as records.

        Raises:
            CorruptStore: a value cannot be read.
        """
        make: Callable[..., Record] = self.table.record
        converters = self._converters
        found: list[Record] = []
        try:
            for row in rows:
                values = list(row)
                for place, convert, null in converters:
                    value = values[place]
                    if not null or value is not None:
                        values[place] = convert(value)
                found.append(make(*values))
        except (ValueError, TypeError, OverflowError, RecursionError) as exc:
            raise self._forms.damaged(self.table, exc) from exc
        return found

    def key(self, record: Record) -> str:
        """Return the key of a record as the queries `next_…` take it."""
        return encode_json(_members(record, self._key))

    def things(self, records: Sequence[Record]) -> str:
        """Return what records are of, and their other keys, as `taken_…` and `remove_…` take them."""
        return encode_json([_members(record, self._asked) for record in records])


def _members(record: Record, columns: Sequence[tuple[str, Callable[[Any], Any] | None]]) -> list[Any]:
    return [getattr(record, name) if convert is None else convert(getattr(record, name)) for name, convert in columns]


class SourceQueries:
    """The queries that read a table, of one tenant or of all."""

    def __init__(self, catalog: Catalog, tenant: TenantId | None) -> None:
        self._queries = catalog.transfer
        self._of = "" if tenant is not None else "all_"

    def count(self, table: Table) -> Query:
        return self._named(f"count_{self._of}{table.name}")

    def page(self, table: Table, after: str | None) -> Query:
        return self._named(f"first_{self._of}{table.name}" if after is None else f"next_{self._of}{table.name}")

    def sizes(self, table: Table, after: str | None) -> Query:
        which = "first" if after is None else "next"
        return self._named(f"sizes_{which}_{self._of}{table.name}")

    def _named(self, name: str) -> Query:
        query: Query = getattr(self._queries, name)
        return query
