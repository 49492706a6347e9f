"""Random programs over every verb of every stem: SQLite and PostgreSQL answer each step as the model in memory does, and hold what
it holds: that is looked at behind at most 25 calls, behind everything that was undone, and behind each restart.

Several tenants take turns in one program; there are transactions and savepoints that are kept and undone, pages that are walked,
arguments that may not be accepted, a clock that also goes back, tenants that are suspended, calls under idempotency keys, and
stores that are closed and opened again. A failure is shortened, and printed with the seed and the steps that replay it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tests.fixtures.backends import BACKENDS
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.property.drawn_programs import draw_program
from tests.property.drawn_values import Block, Step
from tests.property.drawn_verbs import NOT_DRAWN, VERBS
from tests.property.fresh_stores import FreshStores
from tests.property.lockstep import LOOK_EVERY, ORACLE, Diverged, Lockstep

from llmspell.clock import ManualClock
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.contracts.jobs import JobQueue
from llmspell.storage.contracts.tenants import Tenants

SEED = usual(4)
PROGRAM_CALLS = 1_000
CALLS = size(ci=20_000, soak=1_000_000)
OK_MIN = 0.6
"""The share of calls that must succeed: a program that is refused all the time proves little."""
EACH_OK_MIN = 5
EACH_TOLD_MIN = 1
"""How often each verb must succeed, and give something that is not empty."""
TELLS_NOTHING = {
    "kv.set", "kv.set_batch", "memories.ensure_space", "graph.declare", "idempotency.claim", "idempotency.record",
    "artifacts.collect_garbage", "tenants.take_embeddings",
}  # fmt: skip
"""Verbs that return nothing, or for which these programs leave nothing to do."""
SHORTENING_S = 120.0


def test_every_public_verb_of_every_stem_is_drawn_or_listed_with_a_reason() -> None:
    stems: dict[str, Any] = {**get_type_hints(Storages), "jobs_queue": JobQueue, "tenants": Tenants}
    public = {
        f"{stem}.{name}"
        for stem, protocol in stems.items()
        for name, member in inspect.getmembers(protocol)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    drawn = {f"{stem}.{verb}" for stem, verbs in VERBS.items() for verb in verbs}

    assert drawn | NOT_DRAWN.keys() == public
    assert not drawn & NOT_DRAWN.keys()


async def failure_of(stores: FreshStores, seed: int, steps: Sequence[Step]) -> tuple[int, str] | None:
    """Return the place of the step that diverged, and how; None when all agreed."""
    run, diverged = await run_of(stores, seed, steps)
    return None if diverged is None else (run.position, str(diverged))


async def run_of(stores: FreshStores, seed: int, steps: Sequence[Step]) -> tuple[Lockstep, Diverged | None]:
    """Run a program on stores that nobody has used."""
    clock = ManualClock()
    async with stores.opened(clock, seed=seed) as (spells, reopen):
        run = Lockstep(spells, clock, reopen)  # type: ignore[arg-type]
        try:
            await run.run(steps)
        except Diverged as error:
            return run, error
    return run, None


async def shortened(stores: FreshStores, seed: int, steps: list[Step], place: int) -> tuple[list[Step], str]:
    """Return a program from which no step can be left out, as far as the time goes, and how it fails."""
    until = time.monotonic() + SHORTENING_S
    steps = steps[: place + 1]
    told = await failure_of(stores, seed, steps)
    assert told is not None, "the same program did not fail again"
    while time.monotonic() < until:
        for shorter in shorter_ones(steps):
            found = await failure_of(stores, seed, shorter) if time.monotonic() < until else None
            if found is not None:
                steps, told = shorter[: found[0] + 1], found
                break
        else:
            break
    return steps, told[1]


def shorter_ones(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Yield programs with less in them: large parts left out first, from the beginning on; then parts of transactions."""
    chunk = len(steps) // 2
    while chunk:
        for start in range(0, len(steps) - 1, chunk):
            yield [*steps[:start], *steps[start + chunk :]]
        chunk //= 2
    for place, step in enumerate(steps):
        for inner in smaller(step):
            yield [*steps[:place], *inner, *steps[place + 1 :]]


def smaller(step: Step) -> Iterator[list[Step]]:
    """Yield what may stand in the place of a transaction: its steps alone, or it with a step less, or with a smaller one."""
    if not isinstance(step, Block):
        return
    yield step.steps
    for place, inner in enumerate(step.steps):
        before, after = step.steps[:place], step.steps[place + 1 :]
        yield [step._replace(steps=[*before, *after])]
        for less in smaller(inner):
            yield [step._replace(steps=[*before, *less, *after])]


def explained(seed: int, steps: Sequence[Step], told: str) -> str:
    """Return what somebody needs who is to mend it."""
    listed = "\n".join(f"  {step!r}," for step in steps)
    return f"LLMSPELL_TEST_SEED={seed} replays it. The shortest failing program found:\n[\n{listed}\n]\n{told}"


@pytest.mark.timeout(size(ci=900, soak=86_400))
def test_the_databases_do_as_the_model_does_whatever_is_asked(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if ORACLE not in BACKENDS or len(BACKENDS) < 2:
        pytest.skip("there is nothing to compare")
    ok, told, refused = Counter[str](), Counter[str](), Counter[str]()
    calls = restarts = rolled_back = savepoints = looks = 0
    stores = FreshStores(request, tmp_path)
    with asyncio.Runner() as loop:
        seed = SEED
        while calls < CALLS:
            steps = draw_program(seed, PROGRAM_CALLS)
            run, diverged = loop.run(run_of(stores, seed, steps))
            if diverged is not None:
                pytest.fail(explained(seed, *loop.run(shortened(stores, seed, steps, run.position))), pytrace=False)
            ok, told, refused = ok + run.ok, told + run.told, refused + run.refused
            calls, restarts, looks = calls + run.calls, restarts + run.restarts, looks + run.looks
            rolled_back, savepoints = rolled_back + run.rolled_back, savepoints + run.savepoints
            seed += 1

    succeeded = sum(ok.values()) - ok["once"]
    tell(operations=calls, observations=looks, restarts=restarts, rolled_back=rolled_back, savepoints=savepoints)
    verbs = [f"{stem}.{verb}" for stem, drawn in VERBS.items() for verb in drawn]
    assert succeeded / calls >= OK_MIN, (succeeded, calls, refused)
    assert {verb: ok[verb] for verb in verbs if ok[verb] < EACH_OK_MIN} == {}
    assert {verb: told[verb] for verb in verbs if told[verb] < EACH_TOLD_MIN and verb not in TELLS_NOTHING} == {}
    assert min(restarts, rolled_back, savepoints, ok["once"]) > EACH_OK_MIN
    assert looks >= calls // (2 * LOOK_EVERY) + rolled_back + restarts
    assert refused.keys() >= {
        "NotFound",
        "AlreadyExists",
        "VersionConflict",
        "TenantInactive",
        "InvalidCursor",
        "LeaseLost",
    }
