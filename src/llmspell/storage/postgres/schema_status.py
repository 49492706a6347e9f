"""Which migrations a server has and lacks, asked on a connection that is there already, as any role.

Not here: applying them, and asking on a connection of its own (`migrate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.postgres import migrate as migrator
from llmspell.storage.postgres.statements import bind_texts, fixed
from llmspell.storage.relational.migrations import Applied, load, plan

if TYPE_CHECKING:
    from llmspell.storage.postgres.link import Link

_TABLE_EXISTS = fixed("driver.schema", migrator.TABLE_EXISTS)
_APPLIED = fixed("driver.schema", migrator.APPLIED)


async def read_status(link: Link) -> MigrationStatus:
    """Compare the database with the migrations of this release.

    Raises:
        MigrationModified, SchemaTooNew, MigrationError: what is applied does not fit this release.
        StorageError: it cannot be asked.
    """
    migrations = load(migrator.PACKAGE)
    (exists,) = await link.exchange((bind_texts(_TABLE_EXISTS),), commits=False, name=_TABLE_EXISTS.label)
    applied: list[Applied] = []
    if link.rows(exists)[0][0]:
        (rows,) = await link.exchange((bind_texts(_APPLIED),), commits=False, name=_APPLIED.label)
        applied = [Applied(*row) for row in link.rows(rows)]
    return migrator.summary(migrations, plan(migrations, applied))
