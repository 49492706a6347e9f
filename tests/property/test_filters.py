"""Random filters over random metadata select the same ids on every backend."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.drawn_filters import ROWS, filters

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.memories import NewMemory
from llmspell.tenant import TenantId

FEW = ("s1", "s2", "", "S1")
BUILT_IN = [
    (field, {operator: operand})
    for field, operand in [("session", "s1"), ("session", None), ("version", 1), ("processed", False), ("role", "s2")]
    for operator in ("$eq", "$ne")
]


@given(data=st.data(), rows=ROWS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_filter_selects_the_same_rows_everywhere(
    stores: dict[str, Backend],
    loop: asyncio.Runner,
    clock: ManualClock,
    data: st.DataObject,
    rows: list[dict[str, Any]],
) -> None:
    tenant = TenantId(f"filters-{uuid4().hex}")
    memories = [
        NewMemory(
            id=uuid4(),
            content="x",
            metadata=row,
            session=FEW[number % 3] or None,
            role=FEW[number % 2],
            at=clock.now() + timedelta(days=number),
        )
        for number, row in enumerate(rows)
    ]
    questions = [data.draw(filters(rows, BUILT_IN)) for _ in range(12)]

    async def answers(backend: Backend) -> list[list[int]]:
        await backend.tenants.create(tenant)
        storage = backend.storages(tenant).memories
        await storage.add(memories)
        found = [await storage.list(filters=question, descending=False) for question in questions]
        order = [one.id for one in memories]
        return [[order.index(one.id) for one in page] for page in found]

    given_by = {name: loop.run(answers(backend)) for name, backend in stores.items()}

    for number, question in enumerate(questions):
        selected = {name: answer[number] for name, answer in given_by.items()}
        assert len(set(map(tuple, selected.values()))) == 1, (question, selected)
