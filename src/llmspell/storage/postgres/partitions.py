"""The months of the event log: listed, made ahead, archived (EVT-02…04, EVT-14, EVT-15).

Not here: what makes and archives them; those are functions of the schema (V011), which run as its owner.

Rule: an event is kept whatever the months are, for the default partition takes those that have none; so a store opens also
when the months cannot be made just now.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from llmspell.clock import parse_instant
from llmspell.errors import Conflict, StorageError
from llmspell.observe import logger
from llmspell.storage.contracts.event_log import EventPartition

if TYPE_CHECKING:
    from llmspell.storage.relational.catalog import Catalog
    from llmspell.storage.relational.database import Unit


async def listed(unit: Unit, catalog: Catalog) -> list[EventPartition]:
    """Return every attached month, the earliest first, and the default partition."""
    return [
        EventPartition(name=name, starts_at=starts_at, ends_at=ends_at, rows=rows, size_bytes=size_bytes)
        for name, starts_at, ends_at, rows, size_bytes in await unit.rows(catalog.event_log.partitions)
    ]


async def ensure(unit: Unit, catalog: Catalog) -> list[str]:
    """Make the current month and the next three; one line for each."""
    return [line for (line,) in await unit.rows(catalog.event_log.ensure_partitions)]


async def ensure_at_start(unit: Unit, catalog: Catalog) -> None:
    """Make the months when one is missing (AMB-097, AMB-119). What keeps it from that is logged: no event is lost by it."""
    try:
        if await unit.value(catalog.event_log.missing_partitions):
            await ensure(unit, catalog)
    except (Conflict, StorageError) as error:
        logger.warning(
            "The months of the event log could not be made ahead; their events wait in one partition: %s", error
        )


async def archive(operator: Unit, catalog: Catalog, *, before: datetime, dry_run: bool) -> list[str]:
    """Detach the months that ended by `before`, also those whose events wait in the default partition."""
    instant = parse_instant(before, field="before")
    query = catalog.event_log.archivable_partitions if dry_run else catalog.event_log.archive_partitions
    return [line for (line,) in await operator.rows(query, before=instant)]
