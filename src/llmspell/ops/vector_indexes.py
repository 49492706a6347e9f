"""The approximate indexes of a server, for the command line: which URL, and what its operator may do with them.

Not here: what is done to the database (`storage.postgres.vector_indexes`, `vector_partitions`), the index in process
(`storage.index`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmspell.errors import InvalidSetting
from llmspell.ops.named_store import require_owner_url

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.storage.postgres.vector_indexes import VectorIndex

__all__ = ["VectorIndex", "abandon", "admin_url_of", "listed", "operator_url_of", "partition", "rebuild"]


def admin_url_of(settings: Settings) -> str:
    """Return the URL of the role that owns the schema, which alone builds indexes.

    Raises:
        Unsupported: the store is not a server.
        InvalidSetting: no such URL is configured.
    """
    return require_owner_url(
        settings,
        without_server="This store has no index of its own: vectors are searched in process.",
        as_owner="Indexes are built",
    )


def operator_url_of(settings: Settings) -> str:
    """Return the URL of the role that sees the rows of all tenants.

    Raises:
        InvalidSetting: none is configured.
    """
    if settings.storage.postgres.operator_url is None:
        raise InvalidSetting(
            "Rows of all tenants are copied by the operator's role, and no URL of it is configured.",
            hint="Set DATABASE_OPERATOR_URL, or storage.postgres.operator_url.",
        )
    return settings.storage.postgres.operator_url


def listed(admin_url: str, *, dimension: int | None) -> list[VectorIndex]:
    """Return the indexes. Errors: as `storage.postgres.vector_indexes` says, also of the rebuild."""
    from llmspell.storage.postgres import vector_indexes

    return vector_indexes.listed(admin_url, dimension=dimension)


def rebuild(
    admin_url: str, *, dimension: int | None, memory: str | None, dry_run: bool, announce: Callable[[str], None]
) -> list[str]:
    """Build the indexes anew, and return the steps."""
    from llmspell.storage.postgres import vector_indexes

    return vector_indexes.rebuild(admin_url, dimension=dimension, memory=memory, dry_run=dry_run, announce=announce)


def partition(
    admin_url: str,
    operator_url: str,
    *,
    dimension: int,
    partitions: int,
    dry_run: bool,
    announce: Callable[[str], None],
) -> list[str]:
    """Move the vectors of a dimension into hash partitions by tenant, and return the steps."""
    from llmspell.storage.postgres import vector_partitions

    return vector_partitions.partition(
        admin_url, operator_url, dimension=dimension, partitions=partitions, dry_run=dry_run, announce=announce
    )


def abandon(admin_url: str, *, dimension: int) -> bool:
    """Give up a move that is not finished, and return whether there was one."""
    from llmspell.storage.postgres import vector_partitions

    return vector_partitions.abandon(admin_url, dimension=dimension)
