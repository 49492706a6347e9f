"""What a file says of its own health: its pages, its tables, their statistics, whether it is whole.

Synchronous, on a connection of its own that only reads. Not here: what of it is bad (`ops.inspection`).

Rule: nothing is written, and no row of a tenant is read; `integrity` reads every page, which takes as long as reading the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw

from llmspell.errors import NotFound
from llmspell.storage.sqlite import pragmas
from llmspell.storage.sqlite.connection import open_reader, translate

Rows: TypeAlias = list[dict[str, Any]]
BUSY_TIMEOUT_S: Final = 10.0
_SIZES = """
SELECT s.name, coalesce(m.type, 'table') AS kind, m.tbl_name AS "table", s.pgsize AS bytes, s.pageno AS pages,
  round(100.0 * s.unused / max(s.pgsize, 1), 1) AS unused_percent
FROM dbstat AS s LEFT JOIN sqlite_schema AS m ON m.name = s.name
WHERE s.aggregate = TRUE ORDER BY s.pgsize DESC, s.name
"""
# A plan knows an index by its row in sqlite_stat1: how many rows it had, and how many of them share a key.
_INDEXES = """
SELECT m.name AS "index", m.tbl_name AS "table", t.stat AS statistics
FROM sqlite_schema AS m LEFT JOIN sqlite_stat1 AS t ON t.idx = m.name AND t.tbl = m.tbl_name
WHERE m.type = 'index' AND m.sql IS NOT NULL ORDER BY m.tbl_name, m.name
"""
_INDEXES_UNANALYSED = """
SELECT m.name AS "index", m.tbl_name AS "table", NULL AS statistics
FROM sqlite_schema AS m WHERE m.type = 'index' AND m.sql IS NOT NULL ORDER BY m.tbl_name, m.name
"""
# The cells of a table's leaves are its rows; those of a table without rowids lie in inner pages too.
_ROWS = """
SELECT m.name AS "table", coalesce(sum(s.ncell) FILTER (WHERE s.pagetype = 'leaf' OR i.wr), 0) AS rows
FROM sqlite_schema AS m JOIN pragma_table_list AS i ON i.name = m.name AND i.schema = 'main'
LEFT JOIN dbstat AS s ON s.name = m.name AND s.pagetype IN ('leaf', 'internal')
WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' GROUP BY m.name ORDER BY m.name
"""
_ANALYSED = "SELECT tbl, max(CAST(stat AS INTEGER)) FROM sqlite_stat1 GROUP BY tbl"
_HAS_STATISTICS = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'"


def observe(path: str, sections: Iterable[str]) -> dict[str, Rows]:
    """Ask a file about some sections, and return their rows.

    Raises:
        NotFound: there is no such file.
        NotADatabase: it is another program's.
        Unavailable, CorruptStore: it cannot be read.
    """
    if not Path(path).is_file():
        raise NotFound("There is no store yet.", hint="Run: llmspell database migrate", path=path)
    connection = open_reader(path, busy_timeout_s=BUSY_TIMEOUT_S)
    try:
        pragmas.require_ours(connection, path)
        asks = {
            "file": lambda: _file(connection, path),
            "sizes": lambda: _rows(connection, _SIZES),
            "indexes": lambda: _rows(connection, _INDEXES if _has_statistics(connection) else _INDEXES_UNANALYSED),
            "statistics": lambda: _statistics(connection),
            "integrity": lambda: [{"result": said} for (said,) in connection.execute("PRAGMA integrity_check(20)")],
        }
        return {name: asks[name]() for name in sections}
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()


def _rows(connection: apsw.Connection, query: str) -> Rows:
    cursor = connection.execute(query)
    found: Rows = []
    for row in cursor:
        names = [column[0] for column in cursor.get_description()]
        found.append(dict(zip(names, row, strict=True)))
    return found


def _file(connection: apsw.Connection, path: str) -> Rows:
    page, pages, free = (connection.pragma(name) for name in ("page_size", "page_count", "freelist_count"))
    log = Path(f"{path}-wal")
    return [
        {
            "path": path,
            "bytes": page * pages,
            "page_bytes": page,
            "pages": pages,
            "free_pages": free,
            "free_bytes": page * free,
            "free_percent": round(100.0 * free / max(pages, 1), 1),
            "log_bytes": log.stat().st_size if log.is_file() else 0,
            "journal_mode": connection.pragma("journal_mode"),
        }
    ]


def _has_statistics(connection: apsw.Connection) -> bool:
    return bool(connection.execute(_HAS_STATISTICS).get)


def _statistics(connection: apsw.Connection) -> Rows:
    found = connection.execute(_ANALYSED).fetchall() if _has_statistics(connection) else []
    analysed = {row[0]: row[1] for row in found}
    return [{**row, "rows_when_analysed": analysed.get(row["table"])} for row in _rows(connection, _ROWS)]
