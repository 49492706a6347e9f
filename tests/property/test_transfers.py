"""Random programs, and what they leave moved to another database and back: whatever can be asked of the copy is answered as before.

The programs are those of `test_every_stem.py`. Rows are compared by their digests, and answers by what users see: searches by word
and by meaning, pages, statistics, usage, audit chains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fixtures.backends import BACKENDS
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.property.drawn_programs import draw_program
from tests.property.fresh_stores import FreshStores
from tests.property.lockstep import Lockstep
from tests.property.observation import EVERYTHING, observed

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.transfer.importer import transfer
from llmspell.storage.transfer.verifier import verify

SEED = usual(17)
PROGRAMS, CALLS = size(ci=2, soak=200), 300
NOT_MOVED = frozenset({"api_keys"})
DATABASES = [name for name in BACKENDS if name in ("sqlite", "postgres")]


async def answers(store: Backend, tenants: Iterable[str]) -> list[tuple[str, Any]]:
    """Everything that can be asked of a store, without what is not moved: keys of providers, and what was embedded today."""
    found = await observed(store, dict.fromkeys(tenants, EVERYTHING - NOT_MOVED))
    return [
        (label, msgspec.structs.replace(answer, embeddings=None) if label.endswith(" usage") else answer)
        for label, answer in found
    ]


async def moved(stores: FreshStores, seed: int) -> int:
    """Run a program, move what it leaves, and compare; return how many answers were."""
    clock, compared = ManualClock(), 0
    async with stores.opened(clock, seed=seed) as (spells, reopen):
        run = Lockstep(spells, clock, reopen)  # type: ignore[arg-type]
        await run.run(draw_program(seed, CALLS))
        async with stores.opened(clock, seed=seed + 1) as (others, _):
            for here, there in zip(DATABASES, [*DATABASES[1:], DATABASES[0]], strict=True):
                origin, copy = run.spells[here]._backend, others[there]._backend
                report = await transfer(origin, copy, clock=clock)
                assert report.total > 0
                found = await verify(origin, copy)
                assert found.equal, (seed, here, there, found.differing, found.differences)
                before, after = await answers(origin, run.tenants), await answers(copy, run.tenants)
                assert [label for label, _ in before] == [label for label, _ in after]
                for (label, one), (_, other) in zip(before, after, strict=True):
                    assert one == other, f"seed {seed}, {here} to {there}: {label}"
                compared += len(before)
    return compared


@pytest.mark.timeout(size(ci=300, soak=36_000))
def test_whatever_programs_leave_is_answered_by_a_copy_as_before(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    stores = FreshStores(request, tmp_path)
    with asyncio.Runner() as runner:
        compared = sum(runner.run(moved(stores, SEED + 100 * number)) for number in range(PROGRAMS))
    tell(moved_programs=PROGRAMS, compared_answers=compared)
