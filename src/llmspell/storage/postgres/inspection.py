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
_HEADER = re.compile(r"^-- section: ([a-z-]+)\n", re.MULTILINE)
_TERMINATE = """
SELECT pg_catalog.pg_terminate_backend(a.pid, %s) FROM pg_catalog.pg_stat_activity a
WHERE a.pid = %s AND a.backend_start = %s AND a.datname = current_database() AND a.backend_type = 'client backend'
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
            elif name != "connections":
                found[name] = _ask(connection, name)
        if "connections" in wanted:
            found["limits"] = _ask(connection, "limits")
            found["connections"] = _ask(connection, "connections")
            own = {connection.info.backend_pid}
    for url in urls[1:] if "connections" in wanted else ():
        with connected(url) as connection, translated(connection):
            roles.append(connection.info.user)
            own.add(connection.info.backend_pid)
            found["connections"] = _joined(found["connections"], _ask(connection, "connections"), own)
    return Observed(roles=tuple(roles), sections=found)


def _joined(known: Rows, seen: Rows, own: set[int]) -> Rows:
    """Put together what two roles see of the same sessions: a later look wins where it sees more."""
    before = {row["pid"]: row for row in known}
    return [
        row if row["state"] is not None or row["pid"] not in before else before[row["pid"]]
        for row in seen
        if row["pid"] not in own
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


def terminate(url: str, pid: int, started_at: datetime) -> bool:
    """End a session of this database, as the role of `url`; return whether it was there and has gone.

    Raises:
        AccessRefused: the role may not end the sessions of that one.
    """
    with connected(url) as connection, translated(connection):
        row = connection.execute(_TERMINATE, (TERMINATE_WAIT_MS, pid, started_at)).fetchone()
        return row is not None and bool(row[0])
