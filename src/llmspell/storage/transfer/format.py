"""The object that an export is: its keys, and what stands in its header and its summary.

{"version": "1.0", "exported_at": …, "source_backend": …, "migrations": […], "schema_version": …, "tenants": …, "excluded": {…},
 "data": {"sessions": [ …one record a line… ], …, "knowledge_graph": {"entities": […], …}, …},
 "summary": {"total": …, "tables": {"sessions": {"count": …, "sha256": …, "tenants": {…}}, …}}}
"""

from __future__ import annotations

from typing import Final

import msgspec

from llmspell.errors import ExportTooNew, TransferError
from llmspell.storage.contracts.transfer import Table, TableCount
from llmspell.storage.contracts.transfer_tables import SCHEMA_VERSION

VERSION: Final = "1.0"
READABLE: Final = frozenset({"1.0"})
DATA: Final = "data"
SUMMARY: Final = "summary"
HEADER_BYTES_MAX: Final = 1024 * 1024


class Header(msgspec.Struct, kw_only=True):
    """What stands before `data`. `tenants`: those asked for; None: all. `only`, `limit`: of a subset."""

    version: str
    exported_at: str
    source_backend: str
    migrations: list[str] = []
    schema_version: int = 0
    tenants: list[str] | None = None
    only: list[str] | None = None
    limit: int | None = None
    counts: dict[str, int] | None = None
    """How many rows each table has, where nothing was left out; for progress, `summary` is what counts."""
    excluded: dict[str, str] = {}
    rebuilt: dict[str, str] = {}


class TenantSummary(msgspec.Struct, frozen=True):
    """Rows of a tenant in a table."""

    count: int
    sha256: str


class TableSummary(msgspec.Struct, frozen=True):
    """Rows of a table."""

    count: int
    sha256: str
    tenants: dict[str, TenantSummary] = {}


class Summary(msgspec.Struct, frozen=True):
    """The last key of the object."""

    total: int
    tables: dict[str, TableSummary]


def summary_of(counts: dict[str, TableCount]) -> Summary:
    """Return the summary of what was written."""
    tables = {
        name: TableSummary(
            one.count,
            one.sha256,
            {tenant: TenantSummary(each.count, each.sha256) for tenant, each in sorted(one.tenants.items())},
        )
        for name, one in counts.items()
    }
    return Summary(sum(one.count for one in counts.values()), tables)


def require_readable(header: Header) -> None:
    """Refuse a file of another format, or of a newer schema than this release knows.

    Raises:
        ExportTooNew, TransferError.
    """
    if header.version not in READABLE:
        newer = _numbers(header.version) > _numbers(VERSION)
        kind = ExportTooNew if newer else TransferError
        raise kind(f"The format of the export is {header.version!r}; this llmspell reads {VERSION}.")
    if header.schema_version > SCHEMA_VERSION:
        raise ExportTooNew(
            f"The schema of the export is V{header.schema_version:03}; this llmspell knows V{SCHEMA_VERSION:03}."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def nested(tables: tuple[Table, ...]) -> list[tuple[Table, bool, bool]]:
    """Return tables with whether each opens, and closes, the object that it shares with its neighbours."""
    found = []
    for place, table in enumerate(tables):
        group = table.path[0] if len(table.path) > 1 else None
        before = tables[place - 1].path[0] if place and len(tables[place - 1].path) > 1 else None
        after = tables[place + 1].path[0] if place + 1 < len(tables) and len(tables[place + 1].path) > 1 else None
        found.append((table, group is not None and group != before, group is not None and group != after))
    return found
