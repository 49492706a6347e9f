"""Stores as users open them, on every backend, and a way to suspend a tenant behind their back."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import msgspec
import pytest

import llmspell
from llmspell import ManualClock, Settings, Spell
from llmspell.settings import TenancySettings
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.tenant import TenantId

Status = Literal["active", "suspended", "deleted"]
SUSPEND_FILE = "UPDATE tenants SET status = ? WHERE tenant_id = ?"
SUSPEND_SERVER = "UPDATE llmspell.tenants SET status = %s WHERE tenant_id = %s"


class Store(msgspec.Struct, frozen=True):
    """Where a test's store is, and how an operator changes the status of a tenant in it."""

    url: str
    superuser_url: str = ""

    def set_status(self, spell: Spell, tenant: str, status: Status) -> None:
        """Change it past the handles, as another process would."""
        backend = spell._backend
        if isinstance(backend, InMemoryBackend):
            records = backend.tenants._records
            records[TenantId(tenant)] = msgspec.structs.replace(records[TenantId(tenant)], status=status)
        elif self.superuser_url:
            import psycopg

            with psycopg.connect(self.superuser_url) as connection:
                connection.execute(SUSPEND_SERVER, (status, tenant))
        else:
            with sqlite3.connect(self.url.removeprefix("sqlite:///")) as connection:
                connection.execute(SUSPEND_FILE, (status, tenant))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "server":
        database = request.getfixturevalue("postgres_database")
        return Store(database.app_url, database.superuser_url)
    return Store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'api.db'}")


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Settings of no machine: only whether tenants are created by their first write differs."""

    def make(*, auto_create: bool | None = True) -> Settings:
        return Settings(tenancy=TenancySettings(auto_create_tenants=auto_create))

    return make


@pytest.fixture
async def spell(store: Store, settings: Callable[..., Settings], clock: ManualClock) -> AsyncIterator[Spell]:
    async with llmspell.connect(store.url, settings=settings(), embedder="hashing", clock=clock) as opened:
        yield opened
