"""Queries that are alike for every exported table: written once in each dialect, and put together from the catalogue of tables.

In a file:

    -- form: select json
    {column}::text AS {column};

    -- name: first_{table} -> rows
    -- The first rows of a tenant.
    SELECT {selected} FROM llmspell.{table} WHERE tenant_id = :tenant_id{only} ORDER BY {key} LIMIT :limit;

A form says how a kind of column is written in a place: `select`, `value`, `row`, `assign` and `size` with `{column}`, `member` with
`{source}` and `{n}`, a JSON list and a position in it. Forms with the name of a table, or `vector` for tables of embeddings, add to
a query: `only` to conditions, `more_columns` and `more_values` to an insert. What goes in are identifiers from the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from llmspell.storage.contracts.transfer import Column, Table
from llmspell.storage.contracts.transfer_tables import TABLES

_FORM: Final = re.compile(
    r"^-- form: (?P<place>[a-z_]+) (?P<kind>[a-z_0-9]+)\n(?P<text>.*?);\n", re.MULTILINE | re.DOTALL
)
_QUERY: Final = re.compile(r"^-- name: .*?(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
TENANT_PARAMETER: Final = "tenant"
"""Rows that are inserted carry their tenants; `:tenant_id` would be the executor's."""
Forms = dict[tuple[str, str], str]


def thing_columns(table: Table) -> tuple[str, ...]:
    """Return the columns that `taken_…` and `remove_…` are asked with, in the order of each member of `:things`."""
    names = [*table.key[: table.thing], *(name for unique in table.unique for name in unique)]
    return tuple(dict.fromkeys(names))


def expand(text: str) -> str:
    """Return the text of a query file with each query of `{table}` written out for every table."""
    forms: Forms = {(form["place"], form["kind"]): form["text"] for form in _FORM.finditer(text)}
    text = _FORM.sub("", text)
    start = text.find("-- name: ")
    blocks = [match[0] for match in _QUERY.finditer(text, max(start, 0))]
    return "".join(one for block in blocks for one in _expanded(block, forms))


def _expanded(block: str, forms: Forms) -> Iterator[str]:
    if "{table}" not in block.partition("\n")[0]:
        yield block
        return
    for table in TABLES:
        filled = block
        for name, value in _values(table, forms).items():
            filled = filled.replace(f"{{{name}}}", value)
        yield filled


def _values(table: Table, forms: Forms) -> dict[str, str]:
    """Return what stands in the queries of a table for each placeholder."""

    def form(place: str, column: Column) -> str:
        text = forms.get((place, column.kind)) or forms[(place, "any")]
        return text.replace("{column}", column.name).replace("{parameter}", _parameter(column.name))

    def members(names: Sequence[str], order: Sequence[str], source: str) -> str:
        return ", ".join(_member(table, forms, name, order.index(name), source) for name in names)

    def extra(place: str) -> str:
        kind = table.name if table.dimension is None else "vector"
        return forms.get((place, kind), "").replace("{dim}", str(table.dimension or ""))

    columns = (*table.columns, *table.computed)
    key = table.key
    rest = key[1:] or key
    asked = thing_columns(table)
    keys = (key[: table.thing], *table.unique)
    updated = [column for column in table.columns if column.name not in key]
    sized = [column for column in table.columns if column.kind in ("text", "json", "bytes", "vector", "texts")]
    return {
        "table": table.name,
        "selected": ", ".join(form("select", column) for column in table.columns),
        "columns": ", ".join(column.name for column in columns),
        "values": ", ".join(form("value", column) for column in columns),
        "exported": ", ".join(table.names),
        "exported_values": ", ".join(form("value", column) for column in table.columns),
        "rows": ", ".join(form("row", column) for column in columns),
        "assigned": ", ".join(f"{column.name} = {form('assign', column)}" for column in updated),
        "same_key": " AND ".join(f"t.{name} = {form('assign', _column(table, name))}" for name in key),
        "size": " + ".join(form("size", column) for column in sized),
        "key": ", ".join(key),
        "after": members(key, key, ":after"),
        "rest": ", ".join(rest),
        "rest_after": members(rest, key, ":after"),
        "exists": _either(table, forms, keys, asked),
        "listed": " OR ".join(
            forms["listed", "any"]
            .replace("{names}", ", ".join(names))
            .replace("{members}", members(names, asked, "g.value"))
            for names in keys
        ),
        "only": extra("only"),
        "more_columns": extra("more_columns"),
        "more_values": extra("more_values"),
    }


def _either(table: Table, forms: Forms, keys: Sequence[Sequence[str]], asked: Sequence[str]) -> str:
    """Say that a row has one of the keys that a member of `:things` names."""
    conditions = []
    for names in keys:
        same = " AND ".join(f"t.{name} = {_member(table, forms, name, asked.index(name), 'g.value')}" for name in names)
        conditions.append(forms[("exists", "any")].replace("{table}", table.name).replace("{same}", same))
    return " OR ".join(conditions)


def _member(table: Table, forms: Forms, name: str, position: int, source: str) -> str:
    text = forms.get(("member", table.kinds[name])) or forms[("member", "any")]
    return text.replace("{n}", str(position)).replace("{source}", source)


def _column(table: Table, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)


def _parameter(name: str) -> str:
    return TENANT_PARAMETER if name == "tenant_id" else name
