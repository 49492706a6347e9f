"""The query catalogue: named SQL read from `queries/<stem>.sql` of a dialect.

A query in a file:

    -- name: touch -> count
    -- Mark a session as used.
    UPDATE … WHERE tenant_id = :tenant_id AND …;

What several queries of a file share is written once and used as `{fact}`:

    -- fragment: fact
    r.relationship_id, r.from_entity, …;

Kinds: `rows`, `row`, `value`, `count`. Markers, each a comment line below the purpose: `-- cross-tenant: <reason>` for the few
queries that name no tenant, `-- only: <reason>` for a query that the other dialect does not need. `{dim}` in a name makes one query
per dimension, `{table}` one per exported table (`table_queries`); `{filters}` in the text is where a compiled filter goes.

Rule: a fragment put into a query holds identifiers and parameter names from our code, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Literal, TypeAlias, cast, get_args

import msgspec

from llmspell.codec import DIMENSIONS
from llmspell.storage.relational.table_queries import expand

Kind: TypeAlias = Literal["rows", "row", "value", "count"]
NO_FILTER = "TRUE"
FILTERED_QUERIES_MAX = 512
"""How many differently filtered texts of queries are kept, so that their prepared statements are found again."""
_HEADER = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_{}]*) -> (?P<kind>[a-z]+)$", re.MULTILINE)
_FRAGMENT = re.compile(r"^-- fragment: (?P<name>[a-z_]+)\n(?P<text>.+?);\n", re.MULTILINE | re.DOTALL)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_MARKER = re.compile(r"^-- (cross-tenant|only): (.+)$", re.MULTILINE)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One named query. `sql` names its parameters as `:name`."""

    stem: str
    name: str
    kind: Kind
    sql: str
    parameters: frozenset[str]
    cross_tenant: bool
    only_here: bool

    @property
    def label(self) -> str:
        """The name that logs, metrics and counters use."""
        return f"{self.stem}.{self.name}"

    def filtered(self, fragment: str = NO_FILTER) -> Query:
        """Return this query with `fragment` in place of `{filters}`."""
        return _filtered(self, fragment)


@lru_cache(maxsize=FILTERED_QUERIES_MAX)
def _filtered(query: Query, fragment: str) -> Query:
    return _query(query.stem, query.name, query.kind, query.sql.replace("{filters}", fragment), query)


class StemQueries:
    """The queries of one stem, as attributes: `queries.touch`, `queries.of("insert", 384)` for `insert_384`."""

    def __init__(self, stem: str, queries: dict[str, Query]) -> None:
        self._stem = stem
        self._queries = queries

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"no query {self._stem}.{name}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())

    def of(self, name: str, dimension: int) -> Query:
        """Return the query of that name for vectors of `dimension`."""
        return self._queries[f"{name}_{dimension}"]


class _TableQueries(StemQueries):
    """The queries of a file that is written once for all tables: put together when the first of them is asked for."""

    def __init__(self, stem: str, text: str) -> None:
        super().__init__(stem, {})
        self._text: str | None = text

    def __getattr__(self, name: str) -> Query:
        self._put_together()
        return super().__getattr__(name)

    def __iter__(self) -> Iterator[Query]:
        self._put_together()
        return super().__iter__()

    def _put_together(self) -> None:
        if self._text is not None:
            self._queries.update(parse(self._stem, expand(self._text)))
            self._text = None


class Catalog:
    """All queries of a dialect, by stem: `catalog.kv.get`."""

    def __init__(self, stems: dict[str, StemQueries]) -> None:
        self._stems = stems

    def __getattr__(self, stem: str) -> StemQueries:
        try:
            return self._stems[stem]
        except KeyError:
            raise AttributeError(f"no queries for {stem}") from None

    def __iter__(self) -> Iterator[Query]:
        for stem in self._stems.values():
            yield from stem


def load(package: str) -> Catalog:
    """Read every `queries/*.sql` of a dialect's package."""
    folder = files(package) / "queries"
    texts = {
        entry.name.removesuffix(".sql"): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }
    return Catalog({stem: _queries_of(stem, text) for stem, text in sorted(texts.items())})


def _queries_of(stem: str, text: str) -> StemQueries:
    return _TableQueries(stem, text) if "_{table} ->" in text else StemQueries(stem, parse(stem, text))


def parse(stem: str, text: str) -> dict[str, Query]:
    """Read the queries of one file.

    Raises:
        ValueError: a malformed or repeated query; the files are ours, so this is a programming error.
    """
    queries: dict[str, Query] = {}
    fragments = {match["name"]: match["text"] for match in _FRAGMENT.finditer(text)}
    text = _FRAGMENT.sub("", text)
    for name, fragment in fragments.items():
        text = text.replace(f"{{{name}}}", fragment)
    headers = list(_HEADER.finditer(text))
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        body = text[header.end() : following.start() if following else len(text)].strip()
        name, kind = header["name"], cast("Kind", header["kind"])
        if kind not in get_args(Kind) or not body.startswith("-- "):
            raise ValueError(f"{stem}.{name}: needs a kind of {get_args(Kind)} and a purpose line")
        for dimension in DIMENSIONS if "{dim}" in name else (None,):
            full = name if dimension is None else name.replace("{dim}", str(dimension))
            if full in queries:
                raise ValueError(f"{stem}.{full}: named twice")
            sql = body if dimension is None else body.replace("{dim}", str(dimension))
            queries[full] = _query(stem, full, kind, sql, None)
    return queries


def _query(stem: str, name: str, kind: Kind, sql: str, origin: Query | None) -> Query:
    markers = {match[1] for match in _MARKER.finditer(sql)}
    statement = "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip().rstrip(";")
    return Query(
        stem=stem,
        name=name,
        kind=kind,
        sql=statement,
        parameters=frozenset(_PARAMETER.findall(statement)),
        cross_tenant=origin.cross_tenant if origin else "cross-tenant" in markers,
        only_here=origin.only_here if origin else "only" in markers,
    )
