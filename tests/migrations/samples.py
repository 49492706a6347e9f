"""One valid row for any tenant table, made from its catalogue entry, so that a new table joins the tests by existing."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]

ID = UUID("00000000-0000-7000-8000-000000000001")
HASH = "a" * 64
REFERRED_TO = ("sessions", "artifact_content")
BY_TYPE: dict[str, object] = {
    "uuid": ID,
    "varchar": "x",
    "text": "x",
    "jsonb": "{}",
    "bytea": b"x",
    "int4": 1,
    "int8": 1,
    "timestamptz": "2026-01-01T00:00:00Z",
}
BY_COLUMN: dict[str, object] = {
    "dimension": 384,
    "cardinality": "one",
    "operation": "add",
    "storage_type": "bytea",
    "data": b"x",
    "content_hash": HASH,
    "fingerprint": bytes(32),
    "memory_type": "conversation",
}
COLUMNS = """
    SELECT a.attname, y.typname, a.atttypmod, a.attname = 'data' OR NOT a.atthasdef AND a.attnotnull AS needed
    FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
    WHERE a.attrelid = format('llmspell.%%I', %s::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
TENANT_TABLES = """
    SELECT c.relname FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relnamespace = 'llmspell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


def bind(connection: Connection, tenant: str | None) -> None:
    """Bind the tenant for the transaction; None leaves it without one."""
    if tenant is not None:
        connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", (tenant,))


def tenant_tables(connection: Connection) -> list[str]:
    """Every table with tenants, those that others refer to first; partitions are reached through their parent."""
    names = [row[0] for row in connection.execute(TENANT_TABLES).fetchall()]
    return sorted(names, key=lambda name: (name not in REFERRED_TO, name))


def insert_sample(connection: Connection, table: str, tenant: str, **given: object) -> None:
    """Insert the sample row of `table` for `tenant`, in the caller's transaction and with the caller's rights."""
    values: dict[str, object] = {}
    for name, kind, modifier, needed in connection.execute(COLUMNS, (table,)).fetchall():
        if name == "tenant_id":
            values[name] = tenant
        elif name in given:
            values[name] = given[name]
        elif needed:
            default = str([1.0] + [0.0] * (modifier - 1)) if kind == "vector" else BY_TYPE[kind]
            values[name] = BY_COLUMN.get(name, default)
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier("llmspell", table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        ),
        list(values.values()),
    )
