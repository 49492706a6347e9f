"""Stores that nobody has used, one set for each program: memory, a copy of a migrated file, a copy of a migrated database.

A program asks questions about all tenants and all jobs, so it shares its stores with nobody.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from tests.fixtures.backends import BACKENDS
from tests.fixtures.postgres import PostgresDatabase, PostgresServer

from llmspell.clock import Clock, ManualClock
from llmspell.ids import IdSource
from llmspell.memory.embedding import Embedding
from llmspell.settings import PostgresSettings, Settings, SqliteSettings, StorageSettings, TenancySettings
from llmspell.spell import Spell
from llmspell.storage.open import open_backend

RANDOM_BITS = 62


class SeededIds(IdSource):
    """Ids whose random bits a seed decides."""

    def __init__(self, clock: Clock, seed: int) -> None:
        super().__init__(clock)
        self._bits = random.Random(seed)

    def new(self) -> UUID:
        ordered = super().new().int >> RANDOM_BITS << RANDOM_BITS
        return UUID(int=ordered | self._bits.getrandbits(RANDOM_BITS))


class FreshStores:
    """Makes sets of stores."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._template: Path | None = None
        self._numbers = itertools.count()

    @asynccontextmanager
    async def opened(
        self, clock: ManualClock, *, seed: int
    ) -> AsyncIterator[tuple[dict[str, Spell], Callable[..., object]]]:
        """Open a set, and give with it the function that closes one of them and opens it again."""
        async with AsyncExitStack() as stack:
            ids = {name: SeededIds(clock, seed) for name in BACKENDS}
            places = {name: await self._place(name, stack) for name in BACKENDS}
            spells = {name: await opened_at(*place, clock=clock, ids=ids[name]) for name, place in places.items()}

            async def reopen(name: str, spell: Spell) -> Spell:
                if name == "memory":  # it cannot be opened again; whose turn it is, an opened queue keeps for itself
                    spell._backend.job_queue._after = ""  # type: ignore[attr-defined]
                    return spell
                await spell.close()
                spells[name] = await opened_at(*places[name], clock=clock, ids=ids[name])
                return spells[name]

            try:
                yield spells, reopen
            finally:
                for spell in spells.values():
                    await spell.close()

    async def _place(self, name: str, stack: AsyncExitStack) -> tuple[str, str | None]:
        """Return the URL of a store that nobody has used, and that of its operator."""
        if name == "memory":
            return "memory://", None
        if name == "sqlite":
            path = self._folder / f"{next(self._numbers)}.db"
            shutil.copyfile(await self._migrated_file(), path)
            return f"sqlite:///{path}", None
        server: PostgresServer = self._request.getfixturevalue("postgres_cluster")
        template: PostgresDatabase = self._request.getfixturevalue("postgres_template")
        database = server.copy(template, "llmspell_program")
        stack.callback(server.drop, database)
        return database.app_url, database.operator_url

    async def _migrated_file(self) -> Path:
        if self._template is None:
            self._template = self._folder / "template.db"
            clock = ManualClock()
            spell = await opened_at(f"sqlite:///{self._template}", None, clock=clock, ids=IdSource(clock))
            await spell._backend.migrate()
            await spell.close()
        return self._template


async def opened_at(url: str, operator_url: str | None, *, clock: Clock, ids: IdSource) -> Spell:
    """Open a store whose tenants are registered in so many words, on every backend. Its file need not survive the machine."""
    settings = Settings(
        storage=StorageSettings(
            postgres=PostgresSettings(operator_url=operator_url, pool_size=4),
            sqlite=SqliteSettings(synchronous="NORMAL", readers=2),
        ),
        tenancy=TenancySettings(auto_create_tenants=False),
    )
    backend = await open_backend(url, settings=settings, clock=clock, ids=ids)

    def no_embedder() -> None:
        raise AssertionError("no step embeds anything")

    return Spell(backend, settings=settings, embedding=Embedding(no_embedder), clock=clock, ids=ids)  # type: ignore[arg-type]
