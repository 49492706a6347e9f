"""The approximate indexes of a server, for its operator: what they are like, and building them anew (HNS-11, HNS-23, HNS-28).

Synchronous, as the role that owns the schema: for the CLI and tests. Not here: what is in them (`nearest`).

Rule 1: an index is built CONCURRENTLY: searches and writes go on, and without an index searches compare all vectors.
Rule 2: what a build that failed has left behind is invalid, and is dropped or built anew by the next one; a repetition mends.
Rule 3: one rebuild at a time on a database. Whoever comes second is refused at once: a session that waited inside of a statement
would keep the build, which waits for all statements that are older, from ending.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.codec import DIMENSIONS
from llmspell.errors import Conflict, InvalidLimit, InvalidSetting, SchemaOutdated
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.nearest import HALF_PRECISION_DIMENSION, PARAMETERS
from llmspell.storage.postgres.signing import refused

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

TURN = 0x6C6C_6D76_6563_7473
LOOK_S = 0.5
"""Between two looks at how far a build is."""
DEAD_SHARE_MAX = 0.1
"""Beyond this share of dead rows a rebuild is advised (HNS-23)."""
GROWTH_MAX = 1.5
"""An index this many times as large as its rows take is fragmented (HNS-28)."""
PAGE_BYTES, LINK_BYTES, ELEMENT_BYTES = 8_192, 6, 72
"""Of pgvector's pages: a link to a neighbour, and what an element and its list of neighbours take beside vector and links."""
_MEMORY = re.compile(r"[1-9][0-9]{0,5}(?:kB|MB|GB)")
_LISTED = """
SELECT i.relname::text, t.relname::text, regexp_replace(coalesce(p.relname, t.relname), '^vector_embeddings_', '')::int4,
  pg_catalog.pg_relation_size(i.oid), x.indisvalid AND x.indisready, greatest(i.reltuples, 0)::int8,
  greatest(t.reltuples, 0)::int8, greatest(coalesce(s.n_dead_tup, 0), 0)::int8,
  coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(i.reloptions) o WHERE o.option_name = 'm'), '16')::int4,
  coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(i.reloptions) o
    WHERE o.option_name = 'ef_construction'), '64')::int4
FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace JOIN pg_catalog.pg_am a ON a.oid = i.relam
LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = t.oid LEFT JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = t.oid
WHERE n.nspname = 'llmspell' AND a.amname = 'hnsw' AND t.relkind = 'r' AND i.relkind = 'i'
  AND coalesce(p.relname, t.relname) ~ '^vector_embeddings_(384|768|1536|3072)$'
ORDER BY 3, 2, 1
"""
_TABLES = """
SELECT t.relname::text FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = t.oid LEFT JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
WHERE n.nspname = 'llmspell' AND t.relkind = 'r' AND coalesce(p.relname, t.relname) = %s ORDER BY 1
"""
# Only one of them has a row for a session: what it does just now.
_PROGRESS = """
SELECT p.phase, p.tuples_done, p.tuples_total, p.blocks_done, p.blocks_total
FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = %(pid)s
UNION ALL SELECT p.phase, 0, 0, p.heap_blks_scanned, p.heap_blks_total
FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = %(pid)s
UNION ALL SELECT p.phase, 0, 0, p.heap_blks_scanned, p.heap_blks_total
FROM pg_catalog.pg_stat_progress_cluster p WHERE p.pid = %(pid)s
UNION ALL SELECT p.phase, 0, 0, p.sample_blks_scanned, p.sample_blks_total
FROM pg_catalog.pg_stat_progress_analyze p WHERE p.pid = %(pid)s
"""
_READY = "SELECT to_regclass('llmspell.vector_embeddings_3072') IS NOT NULL"

Announce = Callable[[str], None]


class VectorIndex(msgspec.Struct, frozen=True, kw_only=True):
    """One approximate index. The counts are the server's estimates, as of its last ANALYZE or VACUUM.

    `inside`: rows in the index; `outside`: rows of its table that are searched exactly; `dead_rows`: deleted or replaced rows that
    no vacuum has taken away yet. `growth`: its size, over what its rows take in a fresh one. `advice`: why a rebuild would help, or
    nothing.
    """

    name: str
    table: str
    dimension: int
    size_bytes: int
    valid: bool
    inside: int
    outside: int
    dead_rows: int
    m: int
    ef_construction: int
    growth: float
    advice: str


def listed(admin_url: str, *, dimension: int | None = None) -> list[VectorIndex]:
    """Return the approximate indexes, of one dimension or all, also what a failed build has left.

    Raises:
        InvalidLimit: the dimension is not one that is stored.
        Unavailable, StorageError, AccessRefused: the server cannot be asked as this role.
        SchemaOutdated: nothing is migrated.
    """
    wanted = _dimensions(dimension)
    with connected(admin_url) as connection, translated(connection):
        return _listed(connection, wanted)


def rebuild(
    admin_url: str,
    *,
    dimension: int | None = None,
    memory: str | None = None,
    dry_run: bool = False,
    announce: Announce = lambda _: None,
) -> list[str]:
    """Build the indexes anew without stopping anybody, drop what failed builds left, make what is missing; return the steps.

    Args:
        dimension: of one dimension alone.
        memory: `maintenance_work_mem` for this build, such as "1GB": a graph that fits is built several times as fast.
        dry_run: return the steps, and take none.
        announce: hears each step, and how far it is.

    Raises:
        Conflict: another rebuild is under way.
        InvalidSetting: `memory` is not a size.
        InvalidLimit, Unavailable, StorageError, AccessRefused, SchemaOutdated: as `listed`.
    """
    wanted = _dimensions(dimension)
    if memory is not None and _MEMORY.fullmatch(memory) is None:
        raise InvalidSetting("A size is a whole number with kB, MB or GB.", setting="memory", given=memory)
    with connected(admin_url) as connection, translated(connection):
        steps = _steps(connection, wanted)
        if dry_run:
            return [said for said, _ in steps]
        with turn(connection):
            if memory is not None:
                connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", (memory,))
            for said, statement in _steps(connection, wanted):
                announce(said)
                run_watched(connection, admin_url, statement, announce)
        return [said for said, _ in steps]


def definition(table: str, dimension: int, *, name: str, concurrently: bool = True) -> str:
    """Return the statement that makes the approximate index of a table with vectors of a dimension (HNS-11)."""
    m, ef_construction = PARAMETERS[dimension]
    column = "embedding public.vector_cosine_ops"
    if dimension == HALF_PRECISION_DIMENSION:
        # Brought to length 1 first: half precision has neither very small numbers nor large ones.
        column = f"(public.l2_normalize(embedding)::public.halfvec({dimension})) public.halfvec_cosine_ops"
    return (
        f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}{name} ON llmspell.{table} USING hnsw ({column})"
        f" WITH (m = {m}, ef_construction = {ef_construction}) WHERE ann"
    )


def _dimensions(dimension: int | None) -> tuple[int, ...]:
    if dimension is not None and dimension not in DIMENSIONS:
        raise InvalidLimit("dimension", f"must be one of {', '.join(map(str, DIMENSIONS))}", given=dimension)
    return DIMENSIONS if dimension is None else (dimension,)


def _listed(connection: psycopg.Connection[Any], dimensions: tuple[int, ...]) -> list[VectorIndex]:
    require_migrated(connection)
    rows = connection.execute(_LISTED).fetchall()
    return [_index(*row) for row in rows if row[2] in dimensions]


def require_migrated(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database without our tables.

    Raises:
        SchemaOutdated.
    """
    row = connection.execute(_READY).fetchone()
    if row is None or not row[0]:
        raise SchemaOutdated(hint="Run: llmspell database migrate (with DATABASE_ADMIN_URL).")


def _index(
    name: str, table: str, dimension: int, size: int, valid: bool, inside: int, live: int, dead: int, m: int, ef: int
) -> VectorIndex:
    growth = round(size / expected_bytes(inside, dimension, m), 2) if inside else 0.0
    share = dead / (live + dead) if live + dead else 0.0
    advice = ""
    if not valid:
        advice = "a build has failed"
    elif share > DEAD_SHARE_MAX:
        advice = f"{share:.0%} of the rows are dead"
    elif growth > GROWTH_MAX:
        advice = f"{growth} times as large as its rows take"
    return VectorIndex(
        name=name,
        table=table,
        dimension=dimension,
        size_bytes=size,
        valid=valid,
        inside=inside,
        outside=max(0, live - inside),
        dead_rows=dead,
        m=m,
        ef_construction=ef,
        growth=growth,
        advice=advice,
    )


def expected_bytes(rows: int, dimension: int, m: int) -> int:
    """Return about how many bytes a fresh index of so many rows takes on disk: pages of whole elements, and one for itself."""
    component = 2 if dimension == HALF_PRECISION_DIMENSION else 4
    element = dimension * component + (2 * m + 1) * LINK_BYTES + ELEMENT_BYTES
    each = max(1, PAGE_BYTES // element)
    return (1 + -(-rows // each)) * PAGE_BYTES


def _steps(connection: psycopg.Connection[Any], dimensions: tuple[int, ...]) -> list[tuple[str, str]]:
    """Return what there is to do: what each step is called, and its statement."""
    found = _listed(connection, dimensions)
    steps: list[tuple[str, str]] = []
    for dimension in dimensions:
        tables = [row[0] for row in connection.execute(_TABLES, (f"vector_embeddings_{dimension}",)).fetchall()]
        for table in tables:
            own = [index for index in found if index.table == table]
            # REINDEX CONCURRENTLY that failed leaves its copy beside the index, under the index's name with such an ending.
            left = [index for index in own if re.search(r"_cc(?:new|old)\d*$", index.name)]
            steps += [(f"drop {one.name}", f"DROP INDEX CONCURRENTLY llmspell.{one.name}") for one in left]
            kept = [index for index in own if index not in left]
            steps += [(f"rebuild {one.name}", f"REINDEX INDEX CONCURRENTLY llmspell.{one.name}") for one in kept]
            if not kept:
                name = index_name(table)
                steps.append((f"build {name}", definition(table, dimension, name=name)))
    return steps


def index_name(table: str) -> str:
    """Return the name of the approximate index of a table or partition."""
    return f"idx_{table.replace('vector_embeddings', 'vector')}_hnsw"


@contextmanager
def turn(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Hold the turn of whoever builds indexes or moves vectors.

    Raises:
        Conflict: somebody else has it.
    """
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (TURN,)).fetchone()
    if row is None or not row[0]:
        raise Conflict("Another rebuild or move of vectors is under way; nothing was changed.")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (TURN,))


def run_watched(
    connection: psycopg.Connection[Any], admin_url: str, statement: str | Composed, announce: Announce
) -> None:
    """Run a statement on a thread of its own, and say how far it is."""
    with ThreadPoolExecutor(max_workers=1) as thread, connected(admin_url) as watcher:
        running = thread.submit(connection.execute, statement.encode() if isinstance(statement, str) else statement)
        said = ""
        while True:
            try:
                running.result(timeout=LOOK_S)
                return
            except StillRunning:
                if running.done():
                    raise
            except BaseException:
                # Ctrl-C: the server ends the build too, and what it leaves is invalid until the next rebuild.
                connection.cancel_safe()
                raise
            now = _progress(watcher, connection.info.backend_pid)
            if now and now != said:
                announce(now)
                said = now


def _progress(watcher: psycopg.Connection[Any], pid: int) -> str:
    row = watcher.execute(_PROGRESS, {"pid": pid}).fetchone()
    if row is None:
        return ""
    phase, tuples_done, tuples_total, blocks_done, blocks_total = row
    done, total, unit = (tuples_done, tuples_total, "rows") if tuples_total else (blocks_done, blocks_total, "blocks")
    return f"  {phase}" + (f": {done:,} of {total:,} {unit}" if total else "")


@contextmanager
def translated(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    import psycopg

    try:
        yield
    except psycopg.Error as exc:
        raise refused(exc, connection.info.user) from exc
