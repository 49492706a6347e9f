"""What a server says of its own health, asked as the roles that are configured (MNT-05…11).

Synchronous, on connections of its own: for the CLI and tests. Not here: what of it is bad, and what to do (`ops.inspection`).

Rule 1: nothing is written, and no row of a tenant is read. One thing is done: a session is ended that was named by its number and
by when it began, so that the number of another process is never meant.
Rule 2: a role sees its own sessions in full, and of others only that they are there; so each configured role is asked, and what
none of them sees is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.vector_indexes import require_migrated, translated

if TYPE_CHECKING:
    import psycopg

Rows: TypeAlias = list[dict[str, Any]]
TERMINATE_WAIT_MS = 5_000
HIDDEN = "<insufficient privilege>"
SHARED = {"locks": ("waiting_pid", "blocking_pid"), "connections": ("pid",)}
"""Sections that are about sessions, and what tells their rows apart."""
_HEADER = re.compile(r"^-- section: ([a-z-]+)\n", re.MULTILINE)
_TERMINATE = """
SELECT pg_catalog.pg_terminate_backend(a.pid, %s) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %s AND a.backend_start IS NOT DISTINCT FROM %s::timestamptz AND a.datname = current_database()
  AND coalesce(a.backend_type, 'client backend') = 'client backend'
"""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says. `roles`: who was asked. `sections`: rows by the name of their section."""

    roles: tuple[str, ...]
    sections: dict[str, Rows]


@lru_cache(maxsize=1)
def queries() -> dict[str, str]:
    """Return the query of each section."""
    text = (files("llmspell.storage.postgres") / "inspection.sql").read_text(encoding="utf-8")
    parts = _HEADER.split(text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@lru_cache(maxsize=1)
def own_indexes() -> frozenset[str]:
    """Return the names of the indexes that come with the schema."""
    schema = (files("llmspell.storage.postgres") / "schema.sql").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", schema, re.MULTILINE))


def observe(urls: Sequence[str], sections: Iterable[str]) -> Observed:
    """Ask a server about some sections, as the roles of `urls`; all but sessions as the first of them.

    A section whose source is not there (`slow-queries` without pg_stat_statements) is left out.

    Raises:
        Unavailable, StorageError, AccessRefused: the server cannot be asked as one of the roles.
        SchemaOutdated: nothing is migrated.
    """
    wanted = list(sections)
    found: dict[str, Rows] = {}
    roles = []
    with connected(urls[0]) as connection, translated(connection):
        require_migrated(connection)
        roles.append(connection.info.user)
        for name in wanted:
            if name == "slow-queries":
                statements = _ask(connection, "statements")
                if statements:
                    found[name] = _slow(connection, statements[0]["schema"])
            elif name not in SHARED:
                found[name] = _ask(connection, name)
        if "connections" in wanted:
            found["limits"] = _ask(connection, "limits")
        shared = [name for name in SHARED if name in wanted]
        found |= {name: _ask(connection, name) for name in shared}
        own = {connection.info.backend_pid}
    for url in urls[1:] if shared else ():
        with connected(url) as connection, translated(connection):
            roles.append(connection.info.user)
            own.add(connection.info.backend_pid)
            for name in shared:
                found[name] = _joined(found[name], _ask(connection, name), own, SHARED[name])
    return Observed(roles=tuple(roles), sections=found)


def _joined(known: Rows, seen: Rows, own: set[int], key: tuple[str, ...]) -> Rows:
    """Put together what two roles see of the same sessions: what the later look sees, and what only the earlier one saw."""
    before = {tuple(row[name] for name in key): row for row in known}
    return [
        {name: value if value not in (None, HIDDEN) else before.get(at, row)[name] for name, value in row.items()}
        for row in seen
        if not own & set(at := tuple(row[name] for name in key))
    ]


def _ask(connection: psycopg.Connection[Any], name: str) -> Rows:
    return _rows(connection, queries()[name].encode())


def _slow(connection: psycopg.Connection[Any], schema: str) -> Rows:
    from psycopg import sql

    before, after = queries()["slow-queries"].split("{statements}")
    view = sql.Identifier(schema, "pg_stat_statements")
    return _rows(connection, sql.SQL("").join([sql.SQL(before), view, sql.SQL(after)]))


def _rows(connection: psycopg.Connection[Any], query: Any) -> Rows:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def terminate(url: str, pid: int, started_at: datetime | None) -> bool:
    """End a session of this database, as the role of `url`; return whether that role saw it there, and it has gone.

    `started_at` is what was seen: None when the role that looked may not see it.

    Raises:
        AccessRefused: the role may not end the sessions of that one.
    """
    with connected(url) as connection, translated(connection):
        row = connection.execute(_TERMINATE, (TERMINATE_WAIT_MS, pid, started_at)).fetchone()
        return row is not None and bool(row[0])
