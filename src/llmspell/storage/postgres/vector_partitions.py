"""The vectors of a dimension, moved into hash partitions by tenant: so a large tenant shares its approximate index with few others.

Synchronous, as the role that owns the schema, and for the copy as the operator's, which sees the rows of all tenants: for the CLI
and tests. Not here: the indexes of a partition (`vector_indexes`).

How: a partitioned table is made beside the old one, with the same columns, checks, policies and rights; from then on a trigger
repeats each write in it. The rows are copied in batches, the indexes are built, both are counted in one snapshot, and one short
transaction puts the new table in the place of the old.

Rule 1: reads and writes go on until that last transaction, and see one of the two tables, whole.
Rule 2: a row is locked while it is copied: whoever changes or deletes it does so after, and the trigger repeats it.
Rule 3: it may be stopped anywhere, and goes on from there when it is called again; or is given up, and the old table stays.
Rule 4: a partition has the policies of every table of tenants, and the serving role no right to it: it goes by the parent (RLS-13).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmspell.codec import DIMENSIONS, require_limit
from llmspell.errors import Conflict, InvalidLimit, InvalidSetting, StorageError
from llmspell.storage.postgres import vector_indexes
from llmspell.storage.postgres.migrate import connected
from llmspell.storage.postgres.signing import LOCK_ATTEMPTS, LOCK_PAUSE_S, LOCK_TIMEOUT

if TYPE_CHECKING:
    import psycopg

PARTITIONS_MIN, PARTITIONS_MAX = 2, 256
BATCH = 1_000
"""Rows that one transaction of the copy takes: their writers wait for some tens of milliseconds."""
BATCHES_MAX = 10_000_000
REPORT_EVERY = 20
_BUSY = frozenset({"55P03", "40P01"})
_KIND = """
SELECT c.relkind::text, (SELECT count(*) FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)::int4,
  to_regclass('llmspell.' || %(table)s || '_parted') IS NOT NULL,
  (SELECT count(*) FROM pg_catalog.pg_inherits h WHERE h.inhparent = to_regclass('llmspell.' || %(table)s || '_parted'))::int4,
  greatest(c.reltuples, 0)::int8
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'llmspell' AND c.relname = %(table)s
"""
_INDEXES = """
SELECT i.relname::text FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_index x ON x.indrelid = t.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
WHERE n.nspname = 'llmspell' AND t.relname = %(table)s
UNION ALL
SELECT i.relname::text FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class t ON t.oid = h.inhrelid
JOIN pg_catalog.pg_index x ON x.indrelid = t.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
WHERE h.inhparent = to_regclass('llmspell.' || %(table)s)
  AND EXISTS (SELECT FROM pg_catalog.pg_inherits a WHERE a.inhrelid = i.oid)
"""
_PREPARE = """
CREATE FUNCTION llmspell.{table}_repeat() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM llmspell.{table}_parted AS p WHERE p.tenant_id = OLD.tenant_id AND p.id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO llmspell.{table}_parted SELECT NEW.*;
    END IF;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION llmspell.{table}_repeat() FROM PUBLIC;
CREATE TABLE llmspell.{table}_parted (LIKE llmspell.{table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)
    PARTITION BY HASH (tenant_id);
ALTER TABLE llmspell.{table}_parted ADD CONSTRAINT {table}_parted_pkey PRIMARY KEY (tenant_id, id);
ALTER TABLE llmspell.{table}_parted
    ADD CONSTRAINT unique_{short}_part_parted UNIQUE (tenant_id, space_id, owner_id, part_no);
CREATE INDEX idx_{short}_scope_parted ON llmspell.{table}_parted (tenant_id, space_id, scope);
CREATE INDEX idx_{short}_created_parted ON llmspell.{table}_parted (tenant_id, created_at);
CREATE INDEX idx_{short}_exact_parted ON llmspell.{table}_parted (tenant_id, space_id) WHERE NOT ann;
SELECT llmspell.apply_tenant_rls('llmspell.{table}_parted');
CREATE TRIGGER {table}_repeat AFTER INSERT OR UPDATE OR DELETE ON llmspell.{table}
    FOR EACH ROW EXECUTE FUNCTION llmspell.{table}_repeat();
"""
_PARTITION = """
CREATE TABLE llmspell.{partition} PARTITION OF llmspell.{table}_parted
    FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number});
SELECT llmspell.apply_tenant_rls('llmspell.{partition}');
REVOKE ALL ON llmspell.{partition} FROM llmspell_app;
"""
_COPY = """
WITH batch AS (
  SELECT * FROM llmspell.{table} WHERE (tenant_id, id) > (%s, %s::uuid) ORDER BY tenant_id, id LIMIT {batch} FOR SHARE
),
copied AS (INSERT INTO llmspell.{table}_parted SELECT * FROM batch ON CONFLICT DO NOTHING)
SELECT b.tenant_id, b.id::text, (SELECT count(*) FROM batch) FROM batch b ORDER BY b.tenant_id DESC, b.id DESC LIMIT 1
"""
_COUNTS = "SELECT (SELECT count(*) FROM llmspell.{table}), (SELECT count(*) FROM llmspell.{table}_parted)"
_COUNTING = """
SELECT coalesce(bool_or(g.tgenabled <> 'D'), false) FROM pg_catalog.pg_trigger g
WHERE g.tgrelid = 'llmspell.{table}'::regclass AND g.tgname = '{table}_usage_insert'
"""
_SWAP = """
DROP TRIGGER {table}_repeat ON llmspell.{table};
DROP FUNCTION llmspell.{table}_repeat();
DROP TABLE llmspell.{table};
ALTER TABLE llmspell.{table}_parted RENAME TO {table};
ALTER TABLE llmspell.{table} RENAME CONSTRAINT {table}_parted_pkey TO {table}_pkey;
ALTER TABLE llmspell.{table} RENAME CONSTRAINT unique_{short}_part_parted TO unique_{short}_part;
ALTER INDEX llmspell.idx_{short}_scope_parted RENAME TO idx_{short}_scope;
ALTER INDEX llmspell.idx_{short}_created_parted RENAME TO idx_{short}_created;
ALTER INDEX llmspell.idx_{short}_exact_parted RENAME TO idx_{short}_exact;
ALTER INDEX llmspell.idx_{short}_hnsw_parted RENAME TO idx_{short}_hnsw;
CREATE TRIGGER {table}_usage_insert AFTER INSERT ON llmspell.{table}
    FOR EACH ROW EXECUTE FUNCTION llmspell.count_inserted('vector');
CREATE TRIGGER {table}_usage_delete AFTER DELETE ON llmspell.{table} REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION llmspell.count_deleted('vector');
"""
_DISABLE = "ALTER TABLE llmspell.{table} DISABLE TRIGGER {table}_usage_insert, DISABLE TRIGGER {table}_usage_delete"
_ABANDON = """
DROP TRIGGER IF EXISTS {table}_repeat ON llmspell.{table};
DROP FUNCTION IF EXISTS llmspell.{table}_repeat();
DROP TABLE IF EXISTS llmspell.{table}_parted;
"""

Announce = Callable[[str], None]


def partition(
    admin_url: str,
    operator_url: str,
    *,
    dimension: int,
    partitions: int,
    dry_run: bool = False,
    announce: Announce = lambda _: None,
) -> list[str]:
    """Move the vectors of a dimension into partitions while reads and writes go on, and return the steps.

    Args:
        partitions: 2 to 256. Tenants share a partition by the hash of their id; a tenant is never in two.
        dry_run: return the steps, and take none.
        announce: hears each step, and how far it is.

    Raises:
        InvalidLimit: the dimension is not one that is stored, or the number of partitions is out of bounds.
        Conflict: the table is in another number of partitions, another rebuild or move is under way, or the table is in use for too
            long; what was done is kept, and a repetition goes on.
        StorageError: the two tables do not hold the same number of rows (the old one stays), or the server refuses.
        Unavailable, AccessRefused: the server cannot be asked as these roles.
        SchemaOutdated: nothing is migrated.
    """
    _require(dimension)
    require_limit(partitions, field="partitions", minimum=PARTITIONS_MIN, maximum=PARTITIONS_MAX)
    table = f"vector_embeddings_{dimension}"
    with connected(admin_url) as owner, vector_indexes.translated(owner):
        vector_indexes.require_migrated(owner)
        done, under_way, rows = _state(owner, table, partitions)
        steps = [] if done else _steps(table, partitions, rows, under_way=under_way)
        if dry_run or done:
            return steps
        with vector_indexes.turn(owner):
            announce(steps[0])
            if not under_way:
                _patiently(owner, lambda: _prepare(owner, table, partitions))
            announce(steps[1])
            with connected(operator_url) as operator, vector_indexes.translated(operator):
                _copy(operator, table, rows, announce)
                announce(steps[2])
                _index(owner, admin_url, table, dimension, partitions, announce)
                announce(steps[3])
                _require_whole(operator, table)
            _patiently(owner, lambda: _swap(owner, table))
            owner.execute(_sql("ANALYZE llmspell.{table}", table))
    return steps


def abandon(admin_url: str, *, dimension: int) -> bool:
    """Give up a move that is not finished: what was copied is dropped. Return whether there was one.

    Raises:
        Conflict, InvalidLimit, Unavailable, StorageError, AccessRefused: as `partition` says.
    """
    _require(dimension)
    table = f"vector_embeddings_{dimension}"
    with connected(admin_url) as owner, vector_indexes.translated(owner), vector_indexes.turn(owner):
        row = owner.execute(_KIND, {"table": table}).fetchone()
        if row is None or not row[2]:
            return False

        def give_up() -> None:
            with owner.transaction():
                owner.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
                owner.execute(_sql(_ABANDON, table))

        _patiently(owner, give_up)
    return True


def _require(dimension: int) -> None:
    if dimension not in DIMENSIONS:
        raise InvalidLimit("dimension", f"must be one of {', '.join(map(str, DIMENSIONS))}", given=dimension)


def _state(owner: psycopg.Connection[Any], table: str, partitions: int) -> tuple[bool, bool, int]:
    """Return whether the move is done, whether it is under way, and about how many rows there are."""
    row = owner.execute(_KIND, {"table": table}).fetchone()
    if row is None:
        raise InvalidSetting("The table of these vectors is not there.", setting="dimension", given=table)
    kind, there, under_way, begun, rows = row
    other = there if kind == "p" else begun
    if (kind == "p" or under_way) and other != partitions:
        raise Conflict(
            f"The vectors are {'in' if kind == 'p' else 'on their way into'} {other} partitions already.",
            hint="" if kind == "p" else f"Go on with --partitions {other}, or give it up with --abandon.",
        )
    return kind == "p", under_way, rows


def _steps(table: str, partitions: int, rows: int, *, under_way: bool) -> list[str]:
    return [
        f"{'go on with' if under_way else 'make'} {table}_parted with {partitions} partitions",
        f"copy about {rows:,} rows in batches of {BATCH:,}",
        f"build {partitions} approximate indexes",
        f"put it in the place of {table}",
    ]


def _sql(text: str, table: str, **values: object) -> bytes:
    """Fill in names: of ours, made of a dimension, never a caller's."""
    return text.format(table=table, short=table.replace("vector_embeddings", "vector"), batch=BATCH, **values).encode()


def _partition_name(table: str, number: int) -> str:
    return f"{table}_p{number:03d}"


def _prepare(owner: psycopg.Connection[Any], table: str, partitions: int) -> None:
    with owner.transaction():
        owner.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        owner.execute(_sql(_PREPARE, table))
        for number in range(partitions):
            name = _partition_name(table, number)
            owner.execute(_sql(_PARTITION, table, partition=name, partitions=partitions, number=number))


def _copy(operator: psycopg.Connection[Any], table: str, rows: int, announce: Announce) -> None:
    tenant, id, copied = "", "00000000-0000-0000-0000-000000000000", 0
    for batch in range(1, BATCHES_MAX + 1):
        row = operator.execute(_sql(_COPY, table), (tenant, id)).fetchone()
        if row is None:
            return
        tenant, id, count = row
        copied += count
        if batch % REPORT_EVERY == 0:
            announce(f"  {copied:,} of about {max(rows, copied):,} rows")


def _index(
    owner: psycopg.Connection[Any], admin_url: str, table: str, dimension: int, partitions: int, announce: Announce
) -> None:
    parent = f"{vector_indexes.index_name(table)}_parted"
    found = {row[0] for row in owner.execute(_INDEXES, {"table": f"{table}_parted"}).fetchall()}
    if parent not in found:
        statement = vector_indexes.definition(f"{table}_parted", dimension, name=parent, concurrently=False)
        owner.execute(statement.replace(" ON llmspell.", " ON ONLY llmspell.").encode())
    for number in range(partitions):
        part = _partition_name(table, number)
        name = vector_indexes.index_name(part)
        if name in found:
            continue
        # What a failed build has left is invalid, and in the way.
        owner.execute(f"DROP INDEX IF EXISTS llmspell.{name}".encode())
        statement = vector_indexes.definition(part, dimension, name=name)
        vector_indexes.run_watched(owner, admin_url, statement, announce)
        owner.execute(f"ALTER INDEX llmspell.{parent} ATTACH PARTITION llmspell.{name}".encode())
        announce(f"  {number + 1} of {partitions} partitions")


def _require_whole(operator: psycopg.Connection[Any], table: str) -> None:
    """Count both tables in one snapshot: a write is in both of them, or in none."""
    row = operator.execute(_sql(_COUNTS, table)).fetchone()
    if row is None or row[0] != row[1]:
        raise StorageError("The partitions do not hold what the table holds; the table stays in use.", table=table)


def _swap(owner: psycopg.Connection[Any], table: str) -> None:
    with owner.transaction():
        owner.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        owner.execute(_sql("LOCK TABLE llmspell.{table}, llmspell.{table}_parted IN ACCESS EXCLUSIVE MODE", table))
        counting = owner.execute(_sql(_COUNTING, table)).fetchone()
        owner.execute(_sql(_SWAP, table))
        if counting is None or not counting[0]:
            owner.execute(_sql(_DISABLE, table))


def _patiently(owner: psycopg.Connection[Any], change: Callable[[], None]) -> None:
    """Try a change that waits but shortly for a lock, a bounded number of times: nobody queues behind it for long."""
    import psycopg

    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            change()
            return
        except psycopg.Error as exc:
            if exc.sqlstate not in _BUSY:
                raise
        if attempt < LOCK_ATTEMPTS:
            time.sleep(LOCK_PAUSE_S)
    raise Conflict(
        "The table of the vectors has been in use for too long; what was done so far is kept.",
        hint="Call it again when long transactions have ended (pg_stat_activity shows them).",
    )
