"""What a tenant has, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspell.storage.contracts.holdings import Holdings, SpaceHoldings

if TYPE_CHECKING:
    from llmspell.storage.relational.catalog import Catalog
    from llmspell.storage.relational.database import Executor, Unit


async def holdings(unit: Unit, catalog: Catalog) -> Holdings:
    """Count what the tenant of a unit of work has, over one snapshot."""

    async def work(executor: Executor) -> Holdings:
        records: dict[str, int] = dict(await executor.rows(catalog.store.holdings))
        spaces = [
            SpaceHoldings(space_id=space_id, dimension=dimension, vectors=vectors)
            for space_id, dimension, vectors in await executor.rows(catalog.store.spaces)
        ]
        return Holdings(tenant=unit.tenant, records=records, spaces=spaces)

    return await unit.read(work, heavy=True)
