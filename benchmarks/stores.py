"""Fresh stores for the benchmarks that measure storage: a file, or a temporary server that is gone afterwards.

The temporary server does not wait for the disk and lives in memory where there is room, so its figures are of work and
round trips, not of a disk; a file is written with `synchronous=FULL` where the system's temporary folder is.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

import llmspell
from llmspell.clock import Clock
from llmspell.spell import Spell

BACKENDS = ("memory", "sqlite", "postgres")
DATABASES = ("sqlite", "postgres")


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """An open store. The URLs are of the serving role, the owner, the operator and a superuser; empty without a server."""

    spell: Any
    url: str = ""
    owner_url: str = ""
    operator_url: str = ""
    superuser_url: str = ""


@asynccontextmanager
async def opened(backend: str, *, clock: Clock | None = None) -> AsyncIterator[Opened]:
    """Open a fresh store. No figure may rest on its embedder, which knows nothing of meaning."""
    if backend != "postgres":
        with tempfile.TemporaryDirectory() as folder:
            async with _connected(
                "memory://" if backend == "memory" else f"sqlite:///{folder}/bench.db", clock
            ) as spell:
                yield Opened(spell=spell)
        return
    from llmspell.ops.embedded_postgres import (
        APP_ROLE,
        DEV_DATABASE,
        OPERATOR_ROLE,
        OWNER_ROLE,
        SUPERUSER,
        EmbeddedCluster,
    )
    from llmspell.storage.postgres.migrate import migrate

    with EmbeddedCluster.temporary() as cluster:
        app, owner, operator, superuser = (
            cluster.url(role=role, database=DEV_DATABASE) for role in (APP_ROLE, OWNER_ROLE, OPERATOR_ROLE, SUPERUSER)
        )
        migrate(owner)
        async with _connected(app, clock) as spell:
            yield Opened(spell=spell, url=app, owner_url=owner, operator_url=operator, superuser_url=superuser)


@asynccontextmanager
async def _connected(url: str, clock: Clock | None) -> AsyncIterator[Spell]:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing", clock=clock) as spell:
        yield spell
