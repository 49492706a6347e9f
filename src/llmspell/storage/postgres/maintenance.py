"""The upkeep of a server's tables and indexes: vacuum, reindex, and how early autovacuum comes (MNT-01…04, MNT-06).

Synchronous, as the role that owns the schema: for the CLI and tests. Not here: the approximate indexes of vectors, which have a
rebuild of their own (`vector_indexes`), and when all of this runs (`deploy/`).

Rule 1: nothing is said to be done that the server only warned about: a warning makes a step one that was refused.
Rule 2: what another session locks is left out and named; the next run does it.
Rule 3: what stops others, says so before it begins, waits only shortly for its lock, and is done only where it wins something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.errors import NotFound
from llmspell.storage.contracts.maintenance import Announce, Result, Step
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.vector_indexes import require_migrated, run_watched, translated, turn

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed


DAILY = ("event_log", "sessions", "artifacts")
"""What is vacuumed when no table is named (MNT-03)."""
WEEKLY = ("procedural_patterns", "hook_history")
"""What is rewritten when no table is named (MNT-04)."""
FULL_FROM_DEAD_SHARE = 0.3
"""A table is rewritten from this share of dead rows on (AMB-109): below it, others would be stopped for little."""
FULL_LOCK_TIMEOUT = "10s"
"""Whoever comes behind us in the queue for the lock waits too."""
HIGH_WRITE = (
    "sessions", "artifacts", "kv_store", "agent_states", "workflow_states", "hook_history", "procedural_patterns", "memories",
    "entities", "relationships", "jobs", "vector_embeddings_384", "vector_embeddings_768", "vector_embeddings_1536",
    "vector_embeddings_3072",
)  # fmt: skip
# MNT-01, with the pace of AMB-089: the source's delay of 10 with a limit of 1,000 is the default pace under another name.
PACE = {"autovacuum_vacuum_cost_delay": "2", "autovacuum_vacuum_cost_limit": "1000"}
EARLY = {"autovacuum_vacuum_scale_factor": "0.05", "autovacuum_analyze_scale_factor": "0.02", **PACE}
PARTITIONS_EARLY = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.01", **PACE}
"""MNT-02. A partitioned table refuses such options, so each partition has them (AMB-088)."""
_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, coalesce(p.relname, c.relname)::text AS root,
  pg_catalog.pg_total_relation_size(c.oid) AS bytes, greatest(s.n_live_tup, 0) AS live, greatest(s.n_dead_tup, 0) AS dead,
  coalesce(c.reloptions, '{}') AS options, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS ours
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind = 'r' ORDER BY n.nspname, c.relname
"""
_INDEXES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, t.relname::text AS "table", coalesce(p.relname, t.relname)::text AS root,
  pg_catalog.pg_relation_size(c.oid) AS bytes, x.indisvalid AND x.indisready AS valid, x.indisexclusion AS exclusion,
  a.amname = 'hnsw' AS approximate, c.relname ~ '_cc(new|old)[0-9]*$' AS leftover,
  EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index g WHERE g.index_relid = c.oid) AS being_built
FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.oid LEFT JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
WHERE n.nspname = 'llmspell' AND c.relkind = 'i' ORDER BY t.relname, c.relname
"""
_SIZE = "SELECT coalesce(pg_catalog.pg_total_relation_size(to_regclass(%s)), 0)"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table that holds rows: one that is partitioned stands here by its partitions, which name it as their root."""

    schema: str
    name: str
    root: str
    bytes: int
    live: int
    dead: int
    options: tuple[str, ...]
    ours: bool

    @property
    def dead_share(self) -> float:
        """Dead rows among all."""
        return self.dead / max(self.live + self.dead, 1)

    @property
    def full_name(self) -> str:
        """With its schema."""
        return f"{self.schema}.{self.name}"


def vacuum(
    admin_url: str, *, tables: Sequence[str] = (), analyze: bool = True, dry_run: bool = False, announce: Announce
) -> list[Step]:
    """Take dead rows away while others read and write, and renew the planner's statistics; each partition of a partitioned table.

    Args:
        tables: names, by default those of `DAILY`.

    Raises:
        NotFound: there is no such table.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: the server cannot be asked as this role.
    """
    with connected(admin_url) as connection, translated(connection):
        names = tuple(map(_bare, tables)) or DAILY
        chosen = _chosen(_tables(connection), names)
        roots = [table.root for table in chosen if table.root != table.name and table.root in names]
        steps = [_Plan("VACUUM (ANALYZE)" if analyze else "VACUUM", table) for table in chosen]
        # The statistics of the whole, which no vacuum of a partition renews (AMB-088).
        whole = [_Plan("ANALYZE", _whole(root)) for root in dict.fromkeys(roots)] if analyze else []
        return [_taken(connection, admin_url, step, dry_run, announce) for step in (*steps, *whole)]


def rewrite(
    admin_url: str, *, tables: Sequence[str] = (), force: bool = False, dry_run: bool = False, announce: Announce
) -> list[Step]:
    """Rewrite tables (VACUUM FULL), so that their space goes back to the disk. Nobody reads or writes a table meanwhile.

    A table with less than 30 % of dead rows is left out, unless `force`. There must be room for a second copy.

    Args:
        tables: names, by default those of `WEEKLY`.

    Raises: as `vacuum`.
    """
    with connected(admin_url) as connection, translated(connection):
        steps = []
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (FULL_LOCK_TIMEOUT,))
        for table in _chosen(_tables(connection), tuple(map(_bare, tables)) or WEEKLY):
            action = "VACUUM (FULL, ANALYZE)"
            if table.dead_share < FULL_FROM_DEAD_SHARE and not force:
                why = f"{table.dead_share:.0%} of its rows are dead; from {FULL_FROM_DEAD_SHARE:.0%} on it is rewritten"
                steps.append(_step(action, table, "skipped", why))
                continue
            announce(f"{table.full_name}: ACCESS EXCLUSIVE lock, nobody reads or writes it until it is rewritten")
            steps.append(_taken(connection, admin_url, _Plan(action, table), dry_run, announce))
        return steps


def analyse(admin_url: str, *, tables: Sequence[str] = (), dry_run: bool = False, announce: Announce) -> list[Step]:
    """Renew the planner's statistics of some tables, or all, partitioned ones as a whole. Raises: as `vacuum`."""
    with connected(admin_url) as connection, translated(connection):
        known = _tables(connection)
        names = tuple(map(_bare, tables))
        chosen = _chosen(known, names or sorted({table.root for table in known if table.schema == "llmspell"}))
        roots = dict.fromkeys(table.root for table in chosen if table.root != table.name)
        plans = [_Plan("ANALYZE", table) for table in chosen if table.root == table.name or table.name in names]
        plans += [_Plan("ANALYZE", _whole(root)) for root in roots if not names or root in names]
        return [_taken(connection, admin_url, plan, dry_run, announce) for plan in plans]


def reindex(
    admin_url: str,
    *,
    names: Sequence[str] = (),
    invalid_only: bool = False,
    concurrently: bool = True,
    dry_run: bool = False,
    announce: Announce,
) -> list[Step]:
    """Build indexes anew, by default while others read and write, and drop what failed builds have left.

    Each index is a step, those of partitions too, so that an interrupted run has done something. The approximate indexes of vectors
    are left to their own rebuild, unless they are named or invalid.

    Args:
        names: of indexes or tables; all by default.
        invalid_only: only what a failed build has left.

    Raises:
        NotFound: there is no such index or table.
        Conflict: another rebuild is under way.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: as `vacuum`.
    """
    with connected(admin_url) as connection, translated(connection):
        require_migrated(connection)
        found = [Index(**row) for row in _dicts(connection, _INDEXES)]
        unknown = [name for name in map(_bare, names) if not any(name in one.names for one in found)]
        if unknown:
            raise NotFound("There is no such index or table.", name=unknown[0])
        chosen = [one for one in found if not one.being_built and (not one.valid or _wanted(one, names, invalid_only))]
        if dry_run:
            return [_reindexed(connection, admin_url, one, concurrently, dry_run, announce) for one in chosen]
        with turn(connection):
            return [_reindexed(connection, admin_url, one, concurrently, dry_run, announce) for one in chosen]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An index that holds entries. `leftover`: what a concurrent build has left beside the index that it was to replace."""

    schema: str
    name: str
    table: str
    root: str
    bytes: int
    valid: bool
    exclusion: bool
    approximate: bool
    leftover: bool
    being_built: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be asked for by."""
        return (self.name, self.table, self.root)


def _wanted(index: Index, names: Sequence[str], invalid_only: bool) -> bool:
    if invalid_only:
        return False
    asked = [_bare(name) for name in names]
    return (not names and not index.approximate) or any(name in index.names for name in asked)


def _reindexed(
    connection: psycopg.Connection[Any],
    admin_url: str,
    index: Index,
    concurrently: bool,
    dry_run: bool,
    announce: Announce,
) -> Step:
    from psycopg import sql

    named = sql.Identifier(index.schema, index.name)
    table = Table(
        schema=index.schema, name=index.name, root="", bytes=index.bytes, live=0, dead=0, options=(), ours=True
    )
    if index.leftover and not index.valid:
        drop = sql.SQL("DROP INDEX CONCURRENTLY {}").format(named)
        return _taken(connection, admin_url, _Plan("DROP INDEX CONCURRENTLY", table, drop), dry_run, announce)
    if index.exclusion and concurrently:
        return _step("REINDEX INDEX CONCURRENTLY", table, "skipped", "it enforces an exclusion: --blocking rebuilds it")
    action = f"REINDEX INDEX{' CONCURRENTLY' if concurrently else ''}"
    statement = sql.SQL("REINDEX INDEX CONCURRENTLY {}" if concurrently else "REINDEX INDEX {}").format(named)
    return _taken(connection, admin_url, _Plan(action, table, statement), dry_run, announce)


def tune(admin_url: str, *, overwrite: bool = False, dry_run: bool = False, announce: Announce) -> list[Step]:
    """Have autovacuum come earlier, and work faster, on tables with many writes and on the months of events (MNT-01, MNT-02).

    What somebody has set is kept, unless `overwrite`. It takes a lock that stops no reader and no writer. Raises: as `vacuum`.
    """
    from psycopg import sql

    with connected(admin_url) as connection, translated(connection):
        steps = []
        for table in _tables(connection):
            if table.schema != "llmspell" or table.root not in (*HIGH_WRITE, "event_log"):
                continue
            wanted = PARTITIONS_EARLY if table.root == "event_log" else EARLY
            present = dict(option.split("=", 1) for option in table.options)
            changed = {name: value for name, value in wanted.items() if name not in present}
            if overwrite:
                changed = {name: value for name, value in wanted.items() if present.get(name) != value}
            kept = {name: present[name] for name in wanted if name in present and name not in changed}
            differing = {name: value for name, value in kept.items() if value != wanted[name]}
            why = "" if not differing else f"kept: {_options(differing)}"
            if not changed:
                steps.append(_step("SET", table, "skipped", why or "it is so already"))
                continue
            pairs = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL(value)) for name, value in changed.items()
            )
            statement = sql.SQL("ALTER TABLE {} SET ({})").format(sql.Identifier(table.schema, table.name), pairs)
            steps.append(
                _taken(connection, admin_url, _Plan(f"SET {_options(changed)}", table, statement), dry_run, announce)
            )
        return steps


def _options(options: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


# --- steps ------------------------------------------------------------------------------------------------------------------


class _Plan(msgspec.Struct, frozen=True):
    action: str
    table: Table
    statement: Any = None

    def composed(self) -> Composed:
        from psycopg import sql

        if self.statement is not None:
            return self.statement  # type: ignore[no-any-return]
        target = sql.Identifier(self.table.schema, self.table.name)
        return sql.SQL("{} {}").format(sql.SQL(self.action), target)


def _taken(connection: psycopg.Connection[Any], admin_url: str, plan: _Plan, dry_run: bool, announce: Announce) -> Step:
    import psycopg

    if not plan.table.ours:
        return _step(plan.action, plan.table, "refused", "it belongs to another role, who must do it")
    if dry_run:
        return _step(plan.action, plan.table, "planned")
    warnings: list[str] = []

    def noted(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(noted)
    announce(f"{plan.action} {plan.table.full_name}")
    try:
        run_watched(connection, admin_url, plan.composed(), announce)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return _step(plan.action, plan.table, "busy", "another session has locked it; run this again later")
    finally:
        connection.remove_notice_handler(noted)
    if warnings:
        return _step(plan.action, plan.table, "refused", "; ".join(warnings))
    row = connection.execute(_SIZE, (plan.table.full_name,)).fetchone()
    return _step(plan.action, plan.table, "done", after=row[0] if row else 0)


def _step(action: str, table: Table, result: Result, why: str = "", *, after: int | None = None) -> Step:
    return Step(
        action=action,
        target=table.full_name,
        result=result,
        why=why,
        bytes_before=table.bytes,
        bytes_after=table.bytes if after is None else after,
    )


def _tables(connection: psycopg.Connection[Any]) -> list[Table]:
    require_migrated(connection)
    return [Table(**{**row, "options": tuple(row["options"])}) for row in _dicts(connection, _TABLES)]


def _chosen(known: list[Table], names: Sequence[str]) -> list[Table]:
    chosen: dict[str, Table] = {}
    for name in names:
        found = [table for table in known if name in (table.name, table.full_name, table.root)]
        if not found:
            raise NotFound(
                "There is no such table of llmspell.", hint="Run: llmspell database inspect --section sizes", table=name
            )
        chosen |= {table.full_name: table for table in found}
    return list(chosen.values())


def _whole(root: str) -> Table:
    return Table(schema="llmspell", name=root, root=root, bytes=0, live=0, dead=0, options=(), ours=True)


def _bare(name: str) -> str:
    return re.sub(r"^llmspell\.", "", name)


def _dicts(connection: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
