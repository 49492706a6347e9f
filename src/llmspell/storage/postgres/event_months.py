"""The months of the event log for an operator: listed, made, compared, dropped, and brought back (EVT-03, EVT-14…16).

Synchronous, on connections of its own: for the CLI and tests. Not here: what a store does with its months while it is open
(`partitions`), the files that archived months are dumped to (`ops.event_archive`).

Rule 1: an archived month is detached, in the schema `llmspell_archive`, where tenants have no way in (AMB-073).
Rule 2: bringing a month back is one transaction: whoever is killed in it has changed nothing.
Rule 3: nothing is dropped whose rows are not those that were dumped and read back: they are compared under a lock that
keeps writers out.
Rule 4: one at a time on a database: whoever comes second is refused at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llmspell.errors import Conflict, CorruptStore, NotFound
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.vector_indexes import require_migrated, translated

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

    Connection = psycopg.Connection[Any]

Announce = Callable[[str], None]
TURN = 0x6C6C_6D65_7665_6E74
LOCK_TIMEOUT = "5s"
MONTH = re.compile(r"event_log_(\d{4})_(\d\d)(?:_\d+)?")
RECORD = re.compile(r"llmspell: dumped and verified; content ([0-9a-f]{64}); file ([0-9a-f]{64})")
_LISTED = """
SELECT c.relname::text,
  CASE WHEN n.nspname = 'llmspell_archive' THEN 'archived' WHEN b.found IS NULL THEN 'default' ELSE 'attached' END,
  b.found[1]::timestamptz, b.found[2]::timestamptz, greatest(c.reltuples, 0)::int8, pg_catalog.pg_total_relation_size(c.oid),
  c.relrowsecurity AND c.relforcerowsecurity
    AND (SELECT count(*) FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname LIKE 'tenant_isolation_%') = 4
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(c.relacl) g LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
      WHERE g.grantee = 0 OR r.rolname = 'llmspell_app'),
  coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'llmspell.event_log'::pg_catalog.regclass
CROSS JOIN LATERAL (SELECT pg_catalog.regexp_match(
  pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''(.+)''\\) TO \\(''(.+)''\\)')) AS b (found)
WHERE c.relkind = 'r' AND (i.inhparent IS NOT NULL
  OR n.nspname = 'llmspell_archive' AND c.relname ~ '^event_log_\\d{4}_\\d\\d(_\\d+)?$')
ORDER BY n.nspname = 'llmspell_archive', b.found[1]::timestamptz NULLS LAST, c.relname
"""
_MISSING = """
SELECT to_char(m, 'YYYY_MM'), m::date::text, (m + interval '1 month')::date::text,
  to_regclass('llmspell.event_log_' || to_char(m, 'YYYY_MM')) IS NULL
FROM generate_series(0, 3) AS ahead (months),
  LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + months * interval '1 month') AS month (m)
ORDER BY m
"""
_ENSURE = "SELECT line FROM llmspell.ensure_future_event_log_partitions() AS done (line)"
_DETACH = "SELECT line FROM llmspell.cleanup_old_event_log_partitions(%s) AS done (line)"
_DETACHABLE = """
SELECT DISTINCT 'event_log_' || to_char(month, 'YYYY_MM'), month
FROM (
  SELECT (pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid),
    'FROM \\(''(.+)''\\) TO'))[1]::timestamptz AT TIME ZONE 'UTC' AS month
  FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'llmspell.event_log'::pg_catalog.regclass
  UNION
  SELECT date_trunc('month', d.timestamp AT TIME ZONE 'UTC') FROM llmspell.event_log_default AS d
) AS months
WHERE (month + interval '1 month') AT TIME ZONE 'UTC' <= %s
ORDER BY month
"""
_COLUMNS = """
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = 'llmspell.event_log'::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_MONTHS_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('llmspell.event_log partitions', 0))"
# Bounds may be too wide, never too narrow: they are widened before the rows are there. An open bound (NULL) stays open.
_WIDEN = """
INSERT INTO llmspell.event_sequences AS s (tenant_id, value, first_at, last_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant_id) DO UPDATE SET value = greatest(s.value, excluded.value),
  first_at = CASE WHEN s.first_at IS NULL THEN NULL ELSE least(s.first_at, excluded.first_at) END,
  last_at = CASE WHEN s.last_at IS NULL THEN NULL ELSE greatest(s.last_at, excluded.last_at) END
"""


class EventMonth(msgspec.Struct, frozen=True, kw_only=True):
    """Where events of one month are. `rows` is the server's estimate. `isolated`: row-level security is forced, and tenants have
    no way in by its name. `dump`: SHA-256 of its content and of its file, when a dump of it was verified.
    """

    name: str
    state: Literal["attached", "archived", "default"]
    starts_at: datetime | None
    ends_at: datetime | None
    rows: int
    size_bytes: int
    isolated: bool
    dump: tuple[str, str] | None


class Content(msgspec.Struct, frozen=True):
    """The rows of a month: how many, and SHA-256 of them in order of their key."""

    rows: int
    sha256: str


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """What bringing a month back has done: `rows` came back; `merged` into a month that was attached already, or with `strays` that
    had waited in the default partition.
    """

    name: str
    rows: int
    strays: int
    merged: bool


def bounds_of(name: str) -> tuple[datetime, datetime]:
    """Return the first instant of a month and that of the next, by the name of its table.

    Raises:
        NotFound: it is not the name of a month.
    """
    match = MONTH.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= 12:
        raise NotFound("A month is named event_log_YYYY_MM.", hint="Run: llmspell database partitions list", name=name)
    year, month = int(match[1]), int(match[2])
    following = (year + month // 12, month % 12 + 1)
    return datetime(year, month, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)


def listed(url: str) -> list[EventMonth]:
    """Return the months that are attached, the earliest first, the default partition, and what is archived. As any role.

    Raises:
        Unavailable, StorageError, SchemaOutdated: the server cannot be asked, or nothing is migrated.
    """
    with connected(url) as connection, translated(connection):
        require_migrated(connection)
        return [_month(*row) for row in connection.execute(_LISTED).fetchall()]


def _month(
    name: str, state: Literal["attached", "archived", "default"], starts_at: datetime | None, ends_at: datetime | None,
    *rest: Any,
) -> EventMonth:  # fmt: skip
    rows, size, isolated, comment = rest
    if state == "archived":
        starts_at, ends_at = bounds_of(name)
    record = RECORD.match(comment)
    return EventMonth(
        name=name,
        state=state,
        starts_at=starts_at,
        ends_at=ends_at,
        rows=rows,
        size_bytes=size,
        isolated=isolated,
        dump=(record[1], record[2]) if record else None,
    )


def ensure(url: str, *, dry_run: bool = False) -> list[str]:
    """Make the current month and the next three; a line for each, CREATED or SKIPPED. As any role that serves, or the owner.

    Raises:
        Unavailable, StorageError, SchemaOutdated.
    """
    with connected(url) as connection, translated(connection):
        require_migrated(connection)
        if dry_run:
            found = connection.execute(_MISSING).fetchall()
            return [
                f"{'WOULD CREATE' if missing else 'SKIPPED'}: event_log_{name} ({start} to {end})"
                for name, start, end, missing in found
            ]
        return [line for (line,) in connection.execute(_ENSURE).fetchall()]


def detachable(operator_url: str, *, before: datetime) -> list[str]:
    """Return the names of the months that `detach` would archive."""
    with connected(operator_url) as connection, translated(connection):
        require_migrated(connection)
        return [name for name, _ in connection.execute(_DETACHABLE, (before,)).fetchall()]


def detach(operator_url: str, *, before: datetime) -> list[str]:
    """Take the months that ended by `before` out of the log into the archive; a line for each. Nothing is dropped."""
    with connected(operator_url) as connection, translated(connection):
        require_migrated(connection)
        return [line for (line,) in connection.execute(_DETACH, (before,)).fetchall()]


@contextmanager
def turn(admin_url: str) -> Iterator[Connection]:
    """Hold the turn of whoever dumps, drops or brings back months, on a connection as the owner.

    Raises:
        Conflict: somebody else has it.
    """
    with connected(admin_url) as owner, translated(owner):
        require_migrated(owner)
        row = owner.execute("SELECT pg_try_advisory_lock(%s)", (TURN,)).fetchone()
        if row is None or not row[0]:
            raise Conflict("Another command archives or restores events here; nothing was changed.")
        yield owner


def columns(connection: Connection) -> tuple[str, ...]:
    """Return the columns of an event."""
    return tuple(name for (name,) in connection.execute(_COLUMNS).fetchall())


def content(operator_url: str, name: str, *, of: Sequence[str]) -> Content:
    """Read an archived month through, as the role that sees the rows of all tenants.

    Raises:
        StorageError, AccessRefused: it is not there, or this is not that role.
    """
    with connected(operator_url) as operator, translated(operator):
        return _content(operator, _archived(name), of)


def _content(connection: Connection, table: Composed, of: Sequence[str]) -> Content:
    from psycopg import sql

    ordered = sql.SQL("COPY (SELECT {} FROM {} ORDER BY tenant_id, timestamp, event_id) TO STDOUT")
    digest, rows = hashlib.sha256(), 0
    with connection.transaction():
        for setting, value in (("TimeZone", "UTC"), ("DateStyle", "ISO, YMD"), ("row_security", "on")):
            connection.execute("SELECT set_config(%s, %s, true)", (setting, value))
        with connection.cursor() as cursor, cursor.copy(ordered.format(_names(of), table)) as copy:
            for block in copy:
                digest.update(block)
                rows += bytes(block).count(b"\n")  # a line end within a value is written in two characters
    return Content(rows, digest.hexdigest())


def record(owner: Connection, name: str, *, content_sha256: str, file_sha256: str) -> None:
    """Note on an archived month that a dump of it was verified. Nothing in it tells how many rows there are, nor whose."""
    from psycopg import sql

    said = f"llmspell: dumped and verified; content {content_sha256}; file {file_sha256}"
    with translated(owner):
        owner.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(_archived(name), sql.Literal(said)))


def read_back(owner: Connection, blocks: Iterable[bytes], *, of: Sequence[str]) -> Content:
    """Load the rows of a dump into a table that nobody else ever sees, and return what they are. Nothing of it stays.

    The table is made in a transaction that is rolled back, and is not logged, so it costs the space of a second copy and no more.
    """
    with translated(owner), owner.transaction(force_rollback=True):
        return _loaded(owner, _archived("event_log_read_back"), blocks, of, logged=False)


def _loaded(owner: Connection, table: Composed, blocks: Iterable[bytes], of: Sequence[str], *, logged: bool) -> Content:
    from psycopg import sql

    made = "CREATE {} {} (LIKE llmspell.event_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES)"
    owner.execute(sql.SQL(made).format(sql.SQL("TABLE" if logged else "UNLOGGED TABLE"), table))
    with owner.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, _names(of))) as copy:
            for block in blocks:
                copy.write(block)
        owner.execute(sql.SQL("ANALYZE {}").format(table))
    return _content(owner, table, of)


def drop(owner: Connection, operator_url: str, name: str, *, of: Sequence[str], expected: str | None) -> int:
    """Drop an archived month, and return how many rows it had. `expected`: SHA-256 of the content that a dump holds; None asks
    for nothing.

    Raises:
        CorruptStore: its rows are not those of the dump; nothing was dropped.
        NotFound: there is no such month.
    """
    from psycopg import sql

    _require_archived(owner, name)
    with translated(owner), owner.transaction():
        _patience(owner)
        owner.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(_archived(name)))  # no writer until it is dropped
        found = content(operator_url, name, of=of)
        if expected is not None and found.sha256 != expected:
            raise CorruptStore(
                "The rows of the archived month are not those that were dumped; nothing was dropped.",
                hint=f"Dump it again: llmspell database partitions archive; then drop {name}.",
                month=name,
            )
        owner.execute(sql.SQL("DROP TABLE {}").format(_archived(name)))
        return found.rows


def attach(owner: Connection, operator_url: str, name: str, *, of: Sequence[str]) -> Returned:
    """Bring an archived month back into the log, with its own bounds and its own walls, in one transaction.

    When late events have made the month anew, the archived rows join them. A row that is there already is not doubled; one that is
    there with other values refuses the whole.

    Raises:
        NotFound: there is no such month.
        Conflict: a lock was not given, or rows of one key differ; nothing was changed.
    """
    from psycopg import sql

    _require_archived(owner, name)
    with translated(owner), owner.transaction():
        _patience(owner)
        owner.execute(_MONTHS_TURN)
        owner.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(_archived(name)))
        with connected(operator_url) as operator, translated(operator):
            before = _content(operator, _archived(name), of)
            _widen(operator, _extents(operator, _archived(name)))
        return _attached(owner, name, before.rows, of)


def load(
    owner: Connection, operator_url: str, name: str, blocks: Iterable[bytes], *, of: Sequence[str], expected: Content
) -> Returned:
    """Bring a month back from the rows of its dump, in one transaction, as `attach` does.

    Raises:
        CorruptStore: the rows of the dump are not those that were dumped; nothing was changed.
        Conflict: as `attach`.
    """

    kept = f"{name}_returning"
    with translated(owner), owner.transaction():
        _patience(owner)
        owner.execute(_MONTHS_TURN)
        found = _loaded(owner, _archived(kept), blocks, of, logged=True)
        if found != expected:
            raise CorruptStore(
                "The file holds other rows than were dumped; nothing was changed.",
                month=name,
                rows=found.rows,
                expected=expected.rows,
            )
        extents = _extents(owner, _archived(kept))
        owner.execute("SELECT llmspell.apply_tenant_rls(%s::text::regclass)", (f"llmspell_archive.{kept}",))
        with connected(operator_url) as operator, translated(operator):
            _widen(operator, extents)
        return _attached(owner, kept, found.rows, of, month=name)


def _attached(owner: Connection, name: str, rows: int, of: Sequence[str], *, month: str | None = None) -> Returned:
    """Make an archived table the month that its name says, or a part of it, in the transaction that is open."""
    from psycopg import sql

    starts_at, ends_at = bounds_of(month or name)
    final = f"event_log_{starts_at:%Y_%m}"
    target, source, default = (
        sql.Identifier("llmspell", final),
        _archived(name),
        sql.Identifier("llmspell", "event_log_default"),
    )
    there = owner.execute("SELECT to_regclass(%s) IS NOT NULL", (f"llmspell.{final}",)).fetchone()
    if there is not None and there[0]:
        with _unforced(owner, target, source):
            _merge(owner, source, target, of)
        owner.execute(sql.SQL("DROP TABLE {}").format(source))
        return Returned(name=final, rows=rows, strays=0, merged=True)
    # Attaching is refused while the default partition holds events of this month: they came after it was archived.
    moved = sql.SQL(
        "WITH moved AS (DELETE FROM {default} WHERE timestamp >= %s AND timestamp < %s RETURNING {names})"
        " INSERT INTO {source} ({names}) SELECT {names} FROM moved"
    ).format(default=default, source=source, names=_names(of))
    with _unforced(owner, default, source):
        strays = owner.execute(moved, (starts_at, ends_at)).rowcount
    for change in (
        "ALTER TABLE {source} SET SCHEMA llmspell",
        "ALTER TABLE {moved} RENAME TO {final}" if name != final else "",
        "ALTER TABLE {target} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.01)",
        "REVOKE ALL ON {target} FROM PUBLIC, llmspell_app",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {target} TO llmspell_operator",
        "COMMENT ON TABLE {target} IS NULL",
        "SELECT llmspell.apply_tenant_rls({text}::regclass)",
        "ALTER TABLE llmspell.event_log ATTACH PARTITION {target} FOR VALUES FROM ({starts}) TO ({ends})",
    ):
        if change:
            owner.execute(
                sql.SQL(change).format(
                    source=source,
                    moved=sql.Identifier("llmspell", name),
                    final=sql.Identifier(final),
                    target=target,
                    text=sql.Literal(f"llmspell.{final}"),
                    starts=sql.Literal(f"{starts_at:%Y-%m-%d} 00:00:00+00"),
                    ends=sql.Literal(f"{ends_at:%Y-%m-%d} 00:00:00+00"),
                )
            )
    return Returned(name=final, rows=rows, strays=strays, merged=False)


def _merge(owner: Connection, source: Composed, target: Any, of: Sequence[str]) -> None:
    from psycopg import sql

    insert = "INSERT INTO {target} ({names}) SELECT {names} FROM {source} ON CONFLICT (tenant_id, timestamp, event_id) DO NOTHING"
    lost = "SELECT count(*) FROM (SELECT {names} FROM {source} EXCEPT SELECT {names} FROM {target}) AS lost"
    parts = {"source": source, "target": target, "names": _names(of)}
    owner.execute(sql.SQL(insert).format(**parts))
    row = owner.execute(sql.SQL(lost).format(**parts)).fetchone()
    if row is None or row[0]:
        raise Conflict(
            "The log holds other events under keys of the archived month; nothing was changed.",
            events=None if row is None else row[0],
        )


@contextmanager
def _unforced(owner: Connection, *tables: Any) -> Iterator[None]:
    """Let the owner see the rows of tables for a moment, within the transaction that is open and under the lock that this takes."""
    from psycopg import sql

    for table in tables:
        owner.execute(sql.SQL("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY").format(table))
    yield
    for table in tables:
        owner.execute(sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table))


def _extents(connection: Connection, table: Composed) -> list[tuple[Any, ...]]:
    from psycopg import sql

    asked = (
        "SELECT tenant_id, max(sequence), min(timestamp), max(timestamp) FROM {} GROUP BY tenant_id ORDER BY tenant_id"
    )
    return connection.execute(sql.SQL(asked).format(table)).fetchall()


def _widen(operator: Connection, extents: list[tuple[Any, ...]]) -> None:
    with operator.transaction(), operator.cursor() as cursor:
        cursor.executemany(_WIDEN, extents)


def _patience(owner: Connection) -> None:
    owner.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))


def _require_archived(owner: Connection, name: str) -> None:
    bounds_of(name)
    row = owner.execute("SELECT to_regclass(%s) IS NOT NULL", (f"llmspell_archive.{name}",)).fetchone()
    if row is None or not row[0]:
        raise NotFound("No such month is archived here.", hint="Run: llmspell database partitions list", name=name)


def _archived(name: str) -> Composed:
    from psycopg import sql

    return sql.SQL("{}").format(sql.Identifier("llmspell_archive", name))


def _names(of: Sequence[str]) -> Composed:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Identifier, of))
