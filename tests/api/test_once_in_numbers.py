"""Every mutation that takes a key, sent by several at once and again, about a thousand times: one effect, and one answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.api.test_once import CASES, everything
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import STORES, fresh_tenants, opened

from llmspell.clock import ManualClock
from llmspell.spell import Tenant
from llmspell.storage.contracts.audit import AuditHead

AT_ONCE = 3
ROUNDS = size(ci=5, soak=100)  # of 70 mutations, on each of three backends
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.mark.timeout(size(ci=180, soak=3_600))
@pytest.mark.parametrize("backend", STORES)
async def test_every_mutation_sent_by_several_at_once_and_again_has_one_effect_and_one_answer(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    alone: dict[str, Any] = {}
    wrong: list[str] = []
    async with opened(backend, request, tmp_path, connections=8, clock=ManualClock()) as spell:
        for number in range(ROUNDS):
            for mutation in sorted(CASES):
                if mutation not in alone:
                    (tenant,) = await fresh_tenants(spell, 1)
                    await (await prepared(tenant, mutation))("key")
                    alone[mutation] = shape(await everything(tenant))
                (tenant,) = await fresh_tenants(spell, 1)
                if not await one_answer_to_several(tenant, mutation):
                    wrong.append(f"{mutation} gave two answers in round {number}")
                if shape(await everything(tenant)) != alone[mutation]:
                    wrong.append(f"{mutation} had two effects in round {number}")
    tell(keyed_mutations=ROUNDS * len(CASES), doubled_effects=len(wrong))
    assert wrong == []


async def one_answer_to_several(tenant: Tenant, mutation: str) -> bool:
    """Send a call by several at once, and again when they have been answered; say whether all had the same answer."""
    send = await prepared(tenant, mutation)
    first, *others = await asyncio.gather(*(send("key") for _ in range(AT_ONCE)))
    return all(other == first and type(other) is type(first) for other in [*others, await send("key")])


async def prepared(tenant: Tenant, mutation: str) -> Callable[[str], Awaitable[Any]]:
    """Let what the call needs be there; return what sends the call under a key."""
    concern, _, verb = mutation.partition(".")
    args, kwargs = await CASES[mutation](tenant)

    async def send(key: str) -> Any:
        return await getattr(getattr(tenant.once(key), concern), verb)(*args, **kwargs)

    return send


def shape(value: Any) -> Any:
    """What two tenants have in common that did the same at the same instant: everything but their names and ids."""
    if isinstance(value, AuditHead):
        return value.sequence
    if isinstance(value, (list, tuple)):
        return [shape(one) for one in value]
    plain = msgspec.to_builtins(value, order="deterministic")
    return UUID.sub("id", repr(plain))
