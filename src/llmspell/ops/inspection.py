"""What is wrong with a store's database, and what to do about it (MNT-05…11, ALR-09, ALR-10, ALR-12).

Not here: how the database is asked (`storage.postgres.inspection`, `storage.sqlite.inspection`).

Rule 1: what is judged is shown: a finding stands beside the rows it was made from.
Rule 2: what a role cannot see is said, never taken for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from llmspell.errors import InvalidSetting, Unsupported
from llmspell.ops.schema_status import is_file

if TYPE_CHECKING:
    from llmspell.settings import Settings

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Row]

DEAD_ROWS_MAX = 10_000
DEAD_PERCENT_MAX = 30.0
DEAD_ROWS_NOTICED = 1_000
"""Below this a share of dead rows says nothing: half of two rows is half too (ALR-12 asks for the rows and for the share)."""
VACUUM_WITHIN_S = 86_400.0
CACHE_HIT_PERCENT_MIN = 95.0
CACHE_READS_NOTICED = 10_000
USED_PERCENT_MAX = 80.0
IDLE_MAX_S = 600.0
RUNNING_MAX_S = 5.0
FREE_PERCENT_MAX = 25.0
WAL_BYTES_MAX = 256 * 1024 * 1024
DRIFT_MAX = 2.0
"""A table that has so many times as many rows as when it was analysed, or so many times fewer, is planned by old figures."""
DRIFT_ROWS_NOTICED = 1_000

SERVER_SECTIONS = (
    "bloat", "autovacuum", "unused-indexes", "missing-indexes", "invalid-indexes", "cache", "slow-queries", "locks",
    "connections", "sizes",
)  # fmt: skip
FILE_SECTIONS = ("file", "sizes", "indexes", "statistics", "integrity")
SECTIONS = tuple(dict.fromkeys(SERVER_SECTIONS + FILE_SECTIONS))


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: with what, how, and what to do."""

    subject: str
    problem: str
    advice: str


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One side of the database. `note`: what could not be seen, and who could."""

    name: str
    rows: Rows
    findings: list[Finding]
    note: str = ""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """All sides that were asked for. `roles`: who was asked."""

    backend: str
    roles: tuple[str, ...]
    sections: list[Section]

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """Every finding, with the name of its section."""
        return [(section.name, finding) for section in self.sections for finding in section.findings]


def inspect(
    settings: Settings,
    *,
    sections: Sequence[str] = (),
    idle_over_s: float = IDLE_MAX_S,
    running_over_s: float = RUNNING_MAX_S,
) -> Inspection:
    """Look at the database of a store, at some sections or all.

    Raises:
        Unsupported: the store is in memory.
        InvalidSetting: a section is not one of this backend.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: it cannot be asked.
    """
    if is_file(settings.storage.url):
        return _inspect_file(settings, _chosen(sections, FILE_SECTIONS, settings))
    if settings.storage.backend != "postgresql":
        raise Unsupported("A store in memory has nothing to inspect.", hint="Name a file or a server: --store …")
    from llmspell.storage.postgres.inspection import observe

    wanted = _chosen(sections, SERVER_SECTIONS, settings)
    observed = observe(urls_of(settings), wanted)
    judges: dict[str, Judge] = {
        **SERVER_JUDGES,
        "connections": lambda rows: sessions(rows, observed.sections["limits"], idle_over_s, running_over_s),
    }
    made = []
    for name in wanted:
        rows = observed.sections.get(name)
        note = _note(name, rows, observed.sections)
        shown = [dict(row) for row in rows or []]
        made.append(Section(name=name, rows=shown, findings=list(judges[name](shown)), note=note))
    return Inspection(backend="postgresql", roles=observed.roles, sections=made)


def urls_of(settings: Settings) -> list[str]:
    """Return the URLs of the roles that are configured, the owner's first: it owns what there is to look at."""
    server = settings.storage.postgres
    urls = (server.admin_url, server.operator_url, settings.storage.url)
    return list(dict.fromkeys(url for url in urls if url))


def _chosen(sections: Sequence[str], offered: tuple[str, ...], settings: Settings) -> list[str]:
    for name in sections:
        if name not in offered:
            raise InvalidSetting(
                f"This backend has no section {name!r}.",
                hint=f"It has: {', '.join(offered)}.",
                backend=settings.storage.backend,
            )
    return [name for name in offered if name in sections] if sections else list(offered)


def _note(name: str, rows: Rows | None, all_rows: dict[str, Rows]) -> str:
    if name == "slow-queries" and rows is None:
        return (
            "pg_stat_statements is not installed in this database. An administrator puts it into shared_preload_libraries, restarts"
            " the server, and runs: CREATE EXTENSION pg_stat_statements;"
        )
    if name == "slow-queries" and any(row["query"] == "<insufficient privilege>" for row in rows or []):
        return "Texts of other roles' statements are hidden. An administrator may run: GRANT pg_read_all_stats TO llmspell;"
    hidden = sum(1 for row in all_rows.get("connections", []) if row["state"] is None) if name == "connections" else 0
    if hidden:
        return (
            f"What {hidden} sessions of other roles do is hidden from these roles. Configure DATABASE_OPERATOR_URL too, or as an"
            " administrator run: GRANT pg_monitor TO llmspell;"
        )
    return ""


# --- a server ---------------------------------------------------------------------------------------------------------------

Judge: TypeAlias = Callable[[Rows], Iterator[Finding]]


def bloat(rows: Rows) -> Iterator[Finding]:
    """Tables with more than 10,000 dead rows, or more than 30 % of dead rows (ALR-12)."""
    for row in rows:
        dead, share = row["dead_rows"], row["dead_percent"]
        if dead > DEAD_ROWS_MAX or (share > DEAD_PERCENT_MAX and dead >= DEAD_ROWS_NOTICED):
            table = row["table"].partition(".")[2]
            advice = f"llmspell database vacuum {table}"
            if share > DEAD_PERCENT_MAX:
                advice += f"; to give the space back, off hours: llmspell database vacuum --full {table}"
            yield Finding(row["table"], f"{dead:,} dead rows, {share:g} % of all", advice)


def autovacuum(rows: Rows) -> Iterator[Finding]:
    """Tables that autovacuum should have visited within a day (ALR-12), or never visits, and old transaction ids."""
    for row in rows:
        if row["xid_age"] > row["xid_age_max"]:
            problem = f"its oldest transaction id is {row['xid_age']:,} transactions old"
            yield Finding(row["table"], problem, f"llmspell database vacuum {row['table'].partition('.')[2]}, at once")
        if not row["enabled"]:
            yield Finding(
                row["table"],
                "autovacuum is off",
                "ALTER SYSTEM SET autovacuum = on, or reset autovacuum_enabled of the table",
            )
        before = row["vacuumed_before_s"]
        if row["dead_rows"] > row["due_at_dead_rows"] and (before is None or before > VACUUM_WITHIN_S):
            when = "never vacuumed" if before is None else f"last vacuumed {before / 3_600:.0f} hours ago"
            yield Finding(
                row["table"],
                f"{when}, and due since {row['due_at_dead_rows']:,} dead rows; it has {row['dead_rows']:,}",
                "Look for long transactions (--section connections); llmspell database tune makes autovacuum come earlier",
            )


def unused_indexes(rows: Rows) -> Iterator[Finding]:
    """Indexes that nothing reads and that are not ours: ours are kept, for another workload may need them."""
    from llmspell.storage.postgres.inspection import own_indexes

    for row in rows:
        name = row["index"].partition(".")[2]
        row["own"] = name in own_indexes() or name.startswith("idx_vector_")
        if not row["own"]:
            yield Finding(
                row["index"],
                f"is not read, and takes {row['bytes']:,} bytes and a part of every write",
                f"If no replica reads it either: DROP INDEX CONCURRENTLY {row['index']}",
            )


def missing_indexes(rows: Rows) -> Iterator[Finding]:
    """Large tables that are read from end to end, and foreign keys that no index serves."""
    for row in rows:
        if row["columns"]:
            advice = f"CREATE INDEX CONCURRENTLY ON {row['table']} ({row['columns']})"
            yield Finding(row["table"], f"no index serves the foreign key ({row['columns']})", advice)
        else:
            yield Finding(
                row["table"],
                f"read from end to end {row['seq_scans']:,} times, {row['rows_per_scan']:,} rows each",
                "Find the statement (--section slow-queries), EXPLAIN (ANALYZE, BUFFERS) it, and create the index CONCURRENTLY;"
                " is one of llmspell's missing or invalid? llmspell database reindex",
            )


def invalid_indexes(rows: Rows) -> Iterator[Finding]:
    """Indexes that a failed build has left."""
    for row in rows:
        if not row["being_built"]:
            yield Finding(row["index"], "is invalid: a build has failed", "llmspell database reindex --invalid")


def cache(rows: Rows) -> Iterator[Finding]:
    """Too few pages found in the server's cache (ALR-10)."""
    for row in rows:
        seen = (row["hit"] or 0) + (row["read"] or 0)
        if seen >= CACHE_READS_NOTICED and row["hit_percent"] < CACHE_HIT_PERCENT_MIN:
            yield Finding(
                row["what"],
                f"{row['hit_percent']:g} % of pages were in the cache, and {CACHE_HIT_PERCENT_MIN:g} % should be",
                "Raise shared_buffers towards a quarter of the memory; look for scans of whole tables (--section missing-indexes)",
            )


def slow_queries(rows: Rows) -> Iterator[Finding]:
    """Statements that take more than 100 ms on average (MNT-07)."""
    for row in rows:
        yield Finding(
            row["query"][:100],
            f"{row['mean_ms']:,} ms on average, {row['calls']:,} times",
            "EXPLAIN (ANALYZE, BUFFERS) it as the serving role, with a tenant: docs/how-to/when-queries-are-slow.md",
        )


def locks(rows: Rows) -> Iterator[Finding]:
    """Who waits for whom."""
    for row in rows:
        yield Finding(
            f"session {row['waiting_pid']}",
            f"waits for session {row['blocking_pid']} ({row['blocking_role']}, {row['blocking_state'] or 'state hidden'})"
            + (f" on {row['relation']}" if row["relation"] else "")
            + (f", for {row['waited_s']:.0f} s" if row["waited_s"] is not None else ""),
            f"If it does not end by itself: llmspell database terminate {row['blocking_pid']}",
        )


def sessions(rows: Rows, limits: Rows, idle_over_s: float, running_over_s: float) -> Iterator[Finding]:
    """Connections that run out (ALR-09), sessions that hold a transaction or a connection for nothing, long statements (MNT-08)."""
    (limit,) = limits
    room = max(limit["max_connections"] - limit["reserved"], 1)
    used = 100.0 * limit["taken"] / room
    if used > USED_PERCENT_MAX:
        yield Finding(
            "connections",
            f"{limit['taken']:,} of {room:,} are taken, {used:.0f} %",
            "Use smaller pools or PgBouncer, or raise max_connections: llmspell database pool; end idle ones:"
            " llmspell database terminate --idle",
        )
    for row in rows:
        said = offence(row, idle_over_s, running_over_s)
        if said:
            who = f"session {row['pid']} ({row['role']}, {row['application'] or 'no name'}, {row['client']})"
            yield Finding(who, said, f"llmspell database terminate {row['pid']}")


def offence(row: Row, idle_over_s: float, running_over_s: float) -> str:
    """Say what a session does too long; nothing when it does not, cannot be seen, or is maintenance that takes its time."""
    state, since = row["state"] or "", row["in_state_s"] or 0.0
    if state.startswith("idle in transaction") and since > idle_over_s:
        return f"idle in a transaction for {since:.0f} s: what it has locked stays so, and no vacuum removes what it may still see"
    if state == "idle" and since > idle_over_s:
        return f"idle for {since:.0f} s"
    if state == "active" and not row["maintenance"] and (row["query_s"] or 0.0) > running_over_s:
        return f"runs one statement for {row['query_s']:.0f} s"
    return ""


def _nothing(rows: Rows) -> Iterator[Finding]:
    return iter(())


SERVER_JUDGES: dict[str, Judge] = {
    "bloat": bloat,
    "autovacuum": autovacuum,
    "unused-indexes": unused_indexes,
    "missing-indexes": missing_indexes,
    "invalid-indexes": invalid_indexes,
    "cache": cache,
    "slow-queries": slow_queries,
    "locks": locks,
    "sizes": _nothing,
}


# --- a file -----------------------------------------------------------------------------------------------------------------


def _inspect_file(settings: Settings, wanted: Sequence[str]) -> Inspection:
    from llmspell.storage.open import path_of
    from llmspell.storage.sqlite.inspection import observe

    found = observe(path_of(settings.storage.url), wanted)
    judges: dict[str, Judge] = {
        "file": file_state,
        "sizes": _nothing,
        "indexes": _nothing,
        "statistics": statistics,
        "integrity": integrity,
    }
    made = [Section(name=name, rows=rows, findings=list(judges[name](rows))) for name, rows in found.items()]
    return Inspection(backend="sqlite", roles=(), sections=made)


def file_state(rows: Rows) -> Iterator[Finding]:
    """A file that is largely empty, and a log that nobody has folded back."""
    (row,) = rows
    if row["free_percent"] > FREE_PERCENT_MAX:
        problem = f"{row['free_percent']:g} % of its pages are free, {row['free_bytes']:,} bytes"
        yield Finding(row["path"], problem, "llmspell database vacuum gives them back")
    if row["log_bytes"] > WAL_BYTES_MAX:
        yield Finding(
            f"{row['path']}-wal",
            f"the write-ahead log has grown to {row['log_bytes']:,} bytes",
            "A reader has kept a snapshot open for long; end it, then: llmspell database vacuum",
        )


def statistics(rows: Rows) -> Iterator[Finding]:
    """Tables that have changed much since they were analysed, or never were."""
    for row in rows:
        now, then = row["rows"], row["rows_when_analysed"]
        if now < DRIFT_ROWS_NOTICED:
            continue
        if then is None:
            yield Finding(row["table"], f"has {now:,} rows and was never analysed", "llmspell database vacuum")
        elif max(now, 1) / max(then, 1) > DRIFT_MAX or max(then, 1) / max(now, 1) > DRIFT_MAX:
            problem = f"had {then:,} rows when it was analysed, and has {now:,}"
            yield Finding(row["table"], problem, "llmspell database vacuum")


def integrity(rows: Rows) -> Iterator[Finding]:
    """What the check of all pages and indexes has found."""
    for row in rows:
        if row["result"] != "ok":
            yield Finding(
                "file", row["result"], "Stop writing, copy the file, and restore the last backup: llmspell backup list"
            )
