"""Is the schema of a server the one that its migrations make? Asked of the catalogues, as any role; nothing is changed.

Not here: how two schemas are compared (`schema_text`), what can be put right (`schema_repair`).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from llmspell.storage.contracts.schema import Difference
from llmspell.storage.postgres.migrate import PACKAGE, TABLE_EXISTS, connected
from llmspell.storage.postgres.schema_text import compare
from llmspell.storage.postgres.vector_indexes import translated
from llmspell.storage.relational.migrations import Recorded

if TYPE_CHECKING:
    import psycopg

TEXT_VERSION: Final = 18
"""The major version that wrote `schema.sql`; others write some definitions in other words."""
_RECORDED = (
    "SELECT version::int8, name::text, sha256::text, applied_at FROM llmspell.schema_migrations ORDER BY version"
)
_SIGNED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'llmspell' AND p.polname = 'tenant_signature')
"""
_INVALID = """
SELECT format('%I.%I', n.nspname, c.relname)::text FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND NOT (i.indisvalid AND i.indisready) AND c.relkind = 'i'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)
ORDER BY 1
"""


@lru_cache(maxsize=1)
def shipped() -> str:
    """Return the schema of this release as text."""
    return (files(PACKAGE) / "schema.sql").read_text(encoding="utf-8")


def recorded(url: str) -> list[Recorded]:
    """Return the rows of `schema_migrations`, whatever they say; none where there is no such table. Any role may ask.

    Raises:
        Unavailable, StorageError, AccessRefused: the server cannot be asked.
    """
    with connected(url) as connection, translated(connection):
        exists = connection.execute(TABLE_EXISTS).fetchone()
        rows = connection.execute(_RECORDED).fetchall() if exists is not None and exists[0] else []
    return [Recorded(*row) for row in rows]


def differences(url: str) -> list[Difference]:
    """Compare the schema with that of this release, which must be wholly applied; indexes that are not finished come last.

    Raises:
        Unavailable, StorageError, AccessRefused: the server cannot be asked.
    """
    with connected(url) as connection, translated(connection):
        return found_differences(connection)


def found_differences(connection: psycopg.Connection[Any]) -> list[Difference]:
    """Compare as `differences` does, on a connection that is there."""
    with connection.transaction():
        text = read_text(connection)
        signed = _first(connection.execute(_SIGNED).fetchone())
        invalid = connection.execute(_INVALID).fetchall()
    same_server = connection.info.server_version // 10_000 == TEXT_VERSION
    found = compare(shipped(), text, signed=bool(signed), same_server=same_server)
    broken = {name for (name,) in invalid}
    found = [one for one in found if not (one.kind == "index" and one.departure == "extra" and one.name in broken)]
    return [*found, *(Difference(kind="index", name=name, departure="invalid") for (name,) in invalid)]


def read_text(connection: psycopg.Connection[Any]) -> str:
    """Return the schema of a database as text, in the open transaction or one of its own. Names are qualified, instants in UTC."""
    query = (files(PACKAGE) / "schema_catalogue.sql").read_bytes()
    with connection.transaction():
        connection.execute("SELECT set_config('search_path', '', true), set_config('timezone', 'UTC', true)")
        rows = connection.execute(query).fetchall()
    return "".join(f"{row[0]}\n" for row in rows)


def _first(row: tuple[Any, ...] | None) -> Any:
    return None if row is None else row[0]
