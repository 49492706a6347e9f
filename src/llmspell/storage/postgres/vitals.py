"""What a server says of its own state: connections, transactions, logs, ages, slots. Asked on a connection that is there.

Not here: what of it is a reason to worry (`health`).

Rule: a role is asked only what it may know: what needs more is None, and who judges says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.storage.postgres.statements import bind_texts, fixed

if TYPE_CHECKING:
    from llmspell.storage.postgres.link import Link
    from llmspell.storage.postgres.statements import Command

_SERVER = fixed(
    "vitals.server",
    """
SELECT current_setting('max_connections')::int8
    - current_setting('superuser_reserved_connections')::int8
    - coalesce(current_setting('reserved_connections', true), '0')::int8,
  (SELECT count(*)::int8 FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
  pg_catalog.pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
  current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', current_setting('synchronous_commit')::text,
  current_setting('autovacuum') = 'on', current_setting('autovacuum_freeze_max_age')::int8,
  (SELECT greatest(pg_catalog.age(d.datfrozenxid), pg_catalog.mxid_age(d.datminmxid))::int8
   FROM pg_catalog.pg_database d WHERE d.datname = current_database()),
  pg_catalog.pg_size_bytes(current_setting('max_wal_size'))::int8,
  pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE'),
  pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE'),
  pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
  current_setting('archive_mode') <> 'off',
  (SELECT a.last_failed_time > coalesce(a.last_archived_time, '-infinity') FROM pg_catalog.pg_stat_archiver a),
  (SELECT a.failed_count::int8 FROM pg_catalog.pg_stat_archiver a)
""",
)
_SESSIONS = fixed(
    "vitals.sessions",
    """
SELECT a.pid::int8, coalesce(a.usename, '')::text, coalesce(a.state, 'hidden')::text,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8, extract(epoch FROM clock_timestamp() - a.state_change)::float8
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
ORDER BY a.xact_start NULLS LAST, a.pid
""",
)
_PREPARED = fixed(
    "vitals.prepared",
    "SELECT p.gid::text, extract(epoch FROM clock_timestamp() - p.prepared)::float8"
    " FROM pg_catalog.pg_prepared_xacts p WHERE p.database = current_database() ORDER BY p.prepared",
)
_SLOTS = fixed(
    "vitals.slots",
    """
SELECT s.slot_name::text, s.active, coalesce(s.wal_status, 'unknown')::text,
  CASE WHEN s.restart_lsn IS NULL THEN 0 ELSE pg_catalog.pg_wal_lsn_diff(
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,
    s.restart_lsn) END::int8
FROM pg_catalog.pg_replication_slots s ORDER BY s.slot_name
""",
)
_LOG_BYTES = fixed("vitals.log", "SELECT coalesce(sum(w.size), 0)::int8 FROM pg_catalog.pg_ls_waldir() w")
_DATA_DIRECTORY = fixed("vitals.directory", "SELECT current_setting('data_directory')")
_INDEXES = fixed(
    "vitals.indexes",
    """
SELECT format('%I.%I', n.nspname, c.relname)::text FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND NOT (i.indisvalid AND i.indisready)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)
ORDER BY 1
""",
)
_SIZES = fixed(
    "vitals.sizes",
    """
SELECT pg_catalog.pg_database_size(current_database())::int8,
  (SELECT coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)), 0)::int8
   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'r')
""",
)
_VECTOR_BYTES = fixed(
    "vitals.vectors",
    """
SELECT coalesce(sum(pg_catalog.pg_relation_size(c.oid)), 0)::int8
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'llmspell' AND c.relkind = 'r' AND c.relname ~ '^vector_embeddings_'
""",
)


class Server(msgspec.Struct, frozen=True):
    """The server as a whole. `connections_max` leaves out those kept for administrators; `oldest_age` counts transactions."""

    connections_max: int
    connections: int
    in_recovery: bool
    read_only: bool
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    autovacuum: bool
    freeze_max_age: int
    oldest_age: int
    log_max_bytes: int
    may_see_log: bool
    may_see_settings: bool
    may_see_sessions: bool
    archiving: bool
    archiving_fails: bool | None
    archive_failures: int


class SessionState(msgspec.Struct, frozen=True):
    """A connection of somebody to this database. Of roles that may not be looked at, the state is "hidden" and times are None."""

    process_id: int
    role: str
    state: str
    transaction_s: float | None
    state_s: float | None


class Slot(msgspec.Struct, frozen=True):
    """A replication slot, and how much of the log it keeps."""

    name: str
    active: bool
    log_status: str
    kept_bytes: int


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, from one moment. `prepared`: name and age in seconds of each prepared transaction."""

    server: Server
    sessions: tuple[SessionState, ...]
    prepared: tuple[tuple[str, float], ...]
    slots: tuple[Slot, ...]
    invalid_indexes: tuple[str, ...]
    log_bytes: int | None
    data_directory: str | None


async def read_vitals(link: Link) -> Vitals:
    """Ask everything that the role of a connection may know."""
    asked = (_SERVER, _SESSIONS, _PREPARED, _SLOTS, _INDEXES)
    results = await link.exchange(tuple(map(bind_texts, asked)), commits=False, name="vitals.read")
    server_rows, sessions, prepared, slots, indexes = (link.rows(result) for result in results)
    server = Server(*server_rows[0])
    return Vitals(
        server=server,
        sessions=tuple(SessionState(*row) for row in sessions),
        prepared=tuple((name, age) for name, age in prepared),
        slots=tuple(Slot(*row) for row in slots),
        invalid_indexes=tuple(name for (name,) in indexes),
        log_bytes=await _value(link, _LOG_BYTES) if server.may_see_log else None,
        data_directory=await _value(link, _DATA_DIRECTORY) if server.may_see_settings else None,
    )


async def read_sizes(link: Link) -> dict[str, int]:
    """Return the bytes of the database, of our tables with their indexes, and of what else is in it."""
    (result,) = await link.exchange((bind_texts(_SIZES),), commits=False, name=_SIZES.label)
    database, tables = link.rows(result)[0]
    return {"tables": tables, "rest": max(0, database - tables)}


async def vector_bytes(link: Link) -> int:
    """Return how much room the rows of vectors take, of all tenants: any role may know that."""
    return int(await _value(link, _VECTOR_BYTES))


async def _value(link: Link, asked: Command) -> Any:
    (result,) = await link.exchange((bind_texts(asked),), commits=False, name=asked.label)
    return link.rows(result)[0][0]
