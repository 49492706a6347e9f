"""The conformance suite: what every backend promises, as tests that know nothing of any backend.

A backend is tested by a module that names the classes, and two fixtures:

    from llmspell.testing.contract.kv import KvContract

    class TestKv(KvContract):
        pass

    @pytest.fixture
    async def backend(clock) -> AsyncIterator[Backend]: ...   # opened, migrated, with `clock`

    @pytest.fixture
    def clock() -> ManualClock: ...

and by `pytest_plugins = ["llmspell.testing.plugin"]`, with pytest-asyncio in auto mode.

Rule 1: a test uses `backend`, `clock` and the public contracts, and makes a tenant of its own: it never meets another.
Rule 2: a test that needs a capability says so with `needs`; it is then not applicable to a backend that declares it missing.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.codec import pack_vector
from llmspell.errors import InvalidInput
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryRecord, NewMemory
from llmspell.tenant import TenantId

DAY = timedelta(days=1)
SPACE = EmbeddingSpace(space_id="space-a", model="model-a", dimension=384)
OTHER_SPACE = EmbeddingSpace(space_id="space-b", model="model-b", dimension=768)


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Mark a test as applicable only to backends with these capabilities."""
    return pytest.mark.needs(*capabilities)


async def new_tenant(backend: Backend) -> TenantId:
    """Register a tenant that no other test knows."""
    tenant = TenantId(f"tenant-{uuid4().hex}")
    await backend.tenants.create(tenant)
    return tenant


async def open_tenant(backend: Backend) -> Storages:
    """Return the storages of a new tenant."""
    return backend.storages(await new_tenant(backend))


def random_vector(seed: int, dimension: int = 384) -> list[float]:
    """Return a vector that the seed alone decides."""
    source = random.Random(seed)  # noqa: S311 - test data
    return [source.gauss(0, 1) for _ in range(dimension)]


def turned_vector(degrees: float, dimension: int = 384) -> list[float]:
    """Return a unit vector at an angle to `turned_vector(0)`: its similarity to it is the cosine of the angle."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), *[0.0] * (dimension - 2)]


def packed(values: Sequence[float]) -> bytes:
    """Return a vector as memories take it."""
    return pack_vector(values, dimension=len(values))


def memory(clock: ManualClock, content: str, **fields: Any) -> NewMemory:
    """Return a memory said now, with an id of its own."""
    return NewMemory(**{"id": uuid4(), "content": content, "at": clock.now(), **fields})


async def add_one(storages: Storages, new: NewMemory, *, space_id: str | None = None) -> MemoryRecord:
    """Store one memory, and return it."""
    return (await storages.memories.add([new], space_id=space_id))[0]


def day(number: int) -> datetime:
    """Return the first instant of a day of 2026, counted from 1 January."""
    return datetime.fromisoformat("2026-01-01T00:00:00+00:00") + (number - 1) * DAY


@asynccontextmanager
async def refused(error: type[InvalidInput], field: str) -> AsyncIterator[None]:
    """Expect that a block raises exactly `error`, naming `field`."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    assert caught.value.field == field


def ids_of(rows: Sequence[Any]) -> list[UUID]:
    """Return the ids of records or hits, in order."""
    return [row.id for row in rows]
