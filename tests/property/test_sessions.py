"""Random programs over sessions and artifacts: both databases answer every step as the plain model in memory does.

What is compared after each step is what the call returned or refused; after the last, everything that can be listed, read and
summed up, and that nothing is left over which nobody refers to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.artifacts import ARTIFACT_TYPES
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.sessions import SESSION_STATUSES
from llmspell.tenant import TenantId

SESSIONS = 3
CONTENTS = (b"", b"a", b"b" * 20_000, bytes(1_048_576), b"c" * 3)
MODEL = "memory"
WHICH = st.integers(0, SESSIONS - 1)
OLDER = st.integers(0, 5)
MAYBE_OLDER = st.none() | OLDER
TTL = st.sampled_from([None, 1, 5])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), WHICH, TTL),
        st.tuples(st.just("create"), WHICH, TTL),
        st.tuples(st.just("get"), WHICH),
        st.tuples(st.just("update"), WHICH, st.sampled_from([{}, {"ttl_s": 2}, {"ttl_s": None}, {"data": {"n": 1.5}}])),
        st.tuples(st.just("update"), WHICH, st.sampled_from([{"status": one} for one in SESSION_STATUSES])),
        st.tuples(
            st.just("update"), WHICH, st.builds(lambda version: {"expected_version": version}, st.integers(1, 3))
        ),
        st.tuples(st.just("delete"), WHICH),
        st.tuples(st.just("list"), st.none() | st.sampled_from(SESSION_STATUSES), st.integers(1, 3)),
        st.tuples(st.just("expire"), st.integers(1, 2)),
        st.tuples(st.just("delete_expired"), st.integers(1, 2)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 1, 61])),
        st.tuples(st.just("put"), WHICH, st.sampled_from(CONTENTS), st.sampled_from(ARTIFACT_TYPES), MAYBE_OLDER),
        st.tuples(st.just("put"), WHICH, st.sampled_from(CONTENTS), st.sampled_from(ARTIFACT_TYPES), MAYBE_OLDER),
        st.tuples(st.just("put"), WHICH, st.sampled_from(CONTENTS), st.sampled_from(ARTIFACT_TYPES), MAYBE_OLDER),
        st.tuples(st.just("read"), OLDER),
        st.tuples(st.just("describe"), OLDER, st.none() | st.integers(1, 2)),
        st.tuples(st.just("drop"), OLDER),
        st.tuples(st.just("page"), st.none() | WHICH, st.none() | st.sampled_from(ARTIFACT_TYPES), st.integers(1, 3)),
        st.tuples(st.just("stats"), st.none() | WHICH),
    ),
    min_size=1,
    max_size=25,
)


class Program:
    """What a random program refers to: its sessions, and the artifacts that it has put so far."""

    def __init__(self) -> None:
        self.sessions = [uuid4() for _ in range(SESSIONS)]
        self.artifacts: list[str] = []

    def artifact(self, number: int | None) -> str | None:
        if number is None or not self.artifacts:
            return None
        return self.artifacts[-1 - number % len(self.artifacts)]

    def session(self, number: int | None) -> UUID | None:
        return None if number is None else self.sessions[number]


def call(program: Program, step: tuple[Any, ...]) -> Callable[[Storages], Awaitable[Any]]:
    """Return one step as a call; the arguments are chosen once for all stores."""
    kind, *rest = step
    if kind in ("read", "describe", "drop"):
        id = program.artifact(rest[0]) or f"{program.sessions[0]}:0:{'0' * 64}"
        if kind == "read":
            return lambda on: on.artifacts.read(id)
        if kind == "drop":
            return lambda on: on.artifacts.delete(id)
        return lambda on: on.artifacts.update(id, name="described", tags=["t"], expected_revision=rest[1])
    if kind == "put":
        number, content, type, parent = rest
        return lambda on: on.artifacts.put(
            program.sessions[number], "n", content, type=type, parent=program.artifact(parent)
        )
    if kind in ("page", "stats"):
        session = program.session(rest[0])
        if kind == "stats":
            return lambda on: on.artifacts.stats(session=session)
        return lambda on: pages(
            lambda cursor: on.artifacts.list(session=session, type=rest[1], limit=rest[2], cursor=cursor)
        )
    if kind == "list":
        return lambda on: pages(lambda cursor: on.sessions.list(status=rest[0], limit=rest[1], cursor=cursor))
    if kind in ("expire", "delete_expired"):
        return lambda on: getattr(on.sessions, kind)(limit=rest[0])  # type: ignore[no-any-return]
    id_of = program.sessions[rest[0]]
    if kind == "create":
        return lambda on: on.sessions.create(id=id_of, data={"who": rest[0]}, ttl_s=rest[1])
    if kind == "update":
        return lambda on: on.sessions.update(id_of, **rest[1])
    return lambda on: getattr(on.sessions, kind)(id_of)  # type: ignore[no-any-return]


async def pages(page: Callable[[str | None], Awaitable[Any]]) -> list[Any]:
    found, cursor = [], None
    while True:
        one = await page(cursor)
        found += one.items
        cursor = one.next_cursor
        if cursor is None:
            return found


async def outcome(made: Callable[[Storages], Awaitable[Any]], on: Storages) -> Any:
    """What a call returned, or which error it raised."""
    try:
        return await made(on)
    except LlmspellError as error:
        return type(error), error.fields.get("current")


async def everything(on: Storages) -> list[Any]:
    """All that a tenant can see in the end."""
    artifacts = await pages(lambda cursor: on.artifacts.list(cursor=cursor))
    return [
        *(await pages(lambda cursor: on.sessions.list(cursor=cursor))),
        *(await pages(lambda cursor: on.sessions.list(cursor=cursor, status="expired"))),
        *artifacts,
        *[await on.artifacts.get(one.id) for one in artifacts],
        *[await on.artifacts.read(one.id) for one in artifacts],
        *[await on.sessions.count(status=status) for status in (None, *SESSION_STATUSES)],
        await on.artifacts.stats(),
        await on.artifacts.collect_garbage(),
    ]


async def run(stores: dict[str, Backend], clock: ManualClock, steps: list[tuple[Any, ...]]) -> None:
    program, tenant = Program(), TenantId(f"tenant-{uuid4().hex}")
    for store in stores.values():
        await store.tenants.create(tenant)
    on = {name: store.storages(tenant) for name, store in stores.items()}
    for step in steps:
        if step[0] == "advance":
            clock.advance(seconds=step[1])
            continue
        made = call(program, step)
        answers = {name: await outcome(made, storages) for name, storages in on.items()}
        assert all(answer == answers[MODEL] for answer in answers.values()), (step, answers)
        if step[0] == "put" and hasattr(answers[MODEL], "content_hash"):
            program.artifacts.append(answers[MODEL].id)
    ends = {name: await everything(storages) for name, storages in on.items()}
    assert all(end == ends[MODEL] for end in ends.values()), ends
    for storages in on.values():
        for session in program.sessions:
            await storages.sessions.delete(session)
        assert (await storages.artifacts.stats()).contents == 0


@pytest.mark.timeout(600)
def test_the_databases_answer_random_programs_as_the_model_does(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock
) -> None:
    if len(stores) < 2 or MODEL not in stores:
        pytest.skip("there is nothing to compare")

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(STEPS)
    def holds(steps: list[tuple[Any, ...]]) -> None:
        loop.run(run(stores, clock, steps))

    holds()
