"""Whatever value is given, every backend gives the same verdict on it; and what is accepted comes back identical, to the last bit.

The tables of `llmspell.testing.contract.hostile_values` name the values that are known to be treated differently somewhere. Here
they are mixed at random: inside of each other, in every place that takes a value.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.soak import size, tell

from llmspell.clock import ManualClock
from llmspell.codec import DIMENSIONS
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.memories import NewMemory
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.tenant import TenantId

VALUES = size(ci=2_000, soak=20_000)
SOME = settings(
    max_examples=VALUES,
    deadline=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "\0",
            "a\0",
            "\ud800",
            "a\udfff",
            "\ufeff",
            "\u2028",
            "e\u0301",
            "é",
            "😀",
            "\x7f",
            "\\u0000",
            "1e22",
            "x" * 70,
        ]
    ),
    st.text(max_size=6),
)
NUMBERS = st.one_of(
    st.sampled_from(
        [
            0, -0.0, 0.0, 1, 1.0, True, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, 1e22, 1e16,
            1e308, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, 0.1, 1 / 3, math.nan, math.inf, -math.inf,
        ]
    ),
    st.just(5_000).map(lambda digits: 10**digits),  # longer than Python writes out
    st.integers(),
    st.floats(),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=2), st.just(object()))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(TEXTS | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def nested(levels: int, value: Any, *, in_lists: bool) -> Any:
    for _ in range(levels):
        value = [value] if in_lists else {"k": value}
    return value


OBJECTS = st.one_of(
    st.dictionaries(TEXTS, JSON, max_size=4),
    JSON,
    st.builds(nested, st.sampled_from([1, 14, 15, 16, 17, 62, 63, 64, 65, 200]), LEAVES, in_lists=st.booleans()).map(
        lambda inner: {"k": inner}
    ),
)
INSTANTS = st.one_of(
    st.sampled_from(
        [
            datetime(2026, 1, 1),  # noqa: DTZ001 - naive, which is refused
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30, seconds=1))),
            date(2026, 2, 28),
            "2026-01-01T23:59:60Z",
            "2026-12-31T23:59:60+00:00",
            "2026-01-01T24:00:00Z",
            "2024-02-29",
            "2026-02-29",
            "2026-01-01T00:00:00",
            "2038-01-19T03:14:08Z",
            "10000-01-01",
            "-0001-01-01",
            "2026-W01-1",
            "2026-01-01T00:00:00.0000005Z",
            1e308,
            10**400,
            None,
        ]
    ),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.text(max_size=12),
)
VECTORS = st.builds(
    lambda values, length: (values * length)[:length],
    st.lists(
        st.sampled_from(
            [
                0.0,
                -0.0,
                1.0,
                -1.0,
                1e-20,
                1e-45,
                1.5e-39,
                1e-15,
                1e18,
                3.4e38,
                3.5e38,
                1e308,
                math.nan,
                math.inf,
                10**400,
            ]
        )
        | st.floats(width=32),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0, 1, 383, *DIMENSIONS[:2], 385, 3_073]),
)


class Verdict(NamedTuple):
    """What became of a value: what came back, or who refused it and why."""

    kept: Any = None
    refused: tuple[Any, ...] | None = None


def exact(value: Any) -> str:
    """Return a value as a text that tells 1 from 1.0 and from True, and -0.0 from 0.0. The order of keys is not kept by anybody."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{exact(key)}:{exact(value[key])}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, (list, tuple)):  # a tuple is kept as a list
        return "[" + ",".join(map(exact, value)) + "]"
    return f"{type(value).__name__} {value!r}"


async def verdict(work: Awaitable[Any]) -> Verdict:
    try:
        return Verdict(kept=exact(await work))
    except LlmspellError as error:
        str(error)  # an error that cannot be shown is none
        return Verdict(refused=(type(error).__name__, getattr(error, "field", None), error.detail))


Place = Callable[[Storages, Any, ManualClock], Awaitable[Any]]


async def in_metadata_of_a_vector(on: Storages, value: Any, clock: ManualClock) -> Any:
    (id,) = await on.vectors.insert([VectorEntry(embedding=[1.0] * 384, metadata=value)])
    found = await on.vectors.get(id)
    return found and found.metadata


async def in_metadata_of_a_memory(on: Storages, value: Any, clock: ManualClock) -> Any:
    new = NewMemory(id=uuid4(), content="x", metadata=value, at=clock.now())
    await on.memories.add([new])
    found = await on.memories.get(new.id)
    return found and found.metadata


async def in_properties_of_an_entity(on: Storages, value: Any, clock: ManualClock) -> Any:
    name = uuid4().hex
    await on.graph.upsert_entity(name, properties=value)
    found = await on.graph.get_entity(name)
    return found and found.properties


async def in_the_state_of_an_agent(on: Storages, value: Any, clock: ManualClock) -> Any:
    name = uuid4().hex
    await on.agent_state.save(name, value)
    found = await on.agent_state.get(name)
    return found and found.data


async def in_the_data_of_a_session(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.sessions.create(data=value)
    found = await on.sessions.get(made.id)
    return found and found.data


async def in_the_payload_of_an_event(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.event_log.append("a.b", value)
    found = await on.event_log.get(made.id)
    return found and found.payload


async def in_the_payload_of_a_job(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.jobs.enqueue("hostile", value)
    found = await on.jobs.get(made.id)
    return found and found.payload


async def in_the_details_of_an_audit_entry(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.audit.record("o", principal="p", resource="r", details=value)
    found = await on.audit.get(made.sequence)
    return found and found.details


OF_OBJECTS: list[Place] = [
    in_metadata_of_a_vector,
    in_metadata_of_a_memory,
    in_properties_of_an_entity,
    in_the_state_of_an_agent,
    in_the_data_of_a_session,
    in_the_payload_of_an_event,
    in_the_payload_of_a_job,
    in_the_details_of_an_audit_entry,
]


async def as_a_key(on: Storages, value: Any, clock: ManualClock) -> Any:
    await on.kv.set(value, b"v")
    return value, await on.kv.list_keys(value)


async def as_a_content(on: Storages, value: Any, clock: ManualClock) -> Any:
    new = NewMemory(id=uuid4(), content=value, at=clock.now())
    await on.memories.add([new])
    found = await on.memories.get(new.id)
    return found and found.content


async def as_a_name(on: Storages, value: Any, clock: ManualClock) -> Any:
    fact = await on.graph.assert_fact(NewFact(subject=value, predicate="p", object="o"))
    return fact.subject, [one.subject for one in await on.graph.neighbours(value)]


async def as_a_time_to_live(on: Storages, value: Any, clock: ManualClock) -> Any:
    await on.kv.set("ttl", b"v", ttl_s=value)
    return await on.kv.get("ttl")


async def as_a_confidence(on: Storages, value: Any, clock: ManualClock) -> Any:
    return (
        await on.graph.assert_fact(NewFact(subject="c", predicate="p", object=uuid4().hex, confidence=value))
    ).confidence


async def as_a_limit(on: Storages, value: Any, clock: ManualClock) -> Any:
    return await on.kv.list_keys("ttl", limit=value)


async def as_a_latency(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.audit.record("o", principal="p", resource="r", latency_ms=value)
    found = await on.audit.get(made.sequence)
    return found and found.latency_ms


async def as_an_instant(on: Storages, value: Any, clock: ManualClock) -> Any:
    made = await on.event_log.append("a.b", at=value)
    found = await on.event_log.get(made.id)
    return value is None or (found and found.at.isoformat())


async def as_a_vector(on: Storages, value: Any, clock: ManualClock) -> Any:
    (id,) = await on.vectors.insert([VectorEntry(embedding=value)])
    found = await on.vectors.get(id)
    return found and [one.hex() for one in found.embedding]


@st.composite
def values(draw: st.DrawFn) -> tuple[Place, Any]:
    """Draw a place, and a value for it."""
    kind = draw(st.sampled_from(["object", "object", "object", "object", "text", "number", "instant", "vector"]))
    if kind == "object":
        return draw(st.sampled_from(OF_OBJECTS)), draw(OBJECTS)
    if kind == "text":
        return draw(st.sampled_from([as_a_key, as_a_content, as_a_name])), draw(TEXTS | LEAVES)
    if kind == "number":
        places = [as_a_time_to_live, as_a_confidence, as_a_limit, as_a_latency]
        return draw(st.sampled_from(places)), draw(NUMBERS | LEAVES)
    if kind == "instant":
        return as_an_instant, draw(INSTANTS)
    return as_a_vector, draw(VECTORS)


@pytest.mark.timeout(size(ci=600, soak=7_200))
def test_every_backend_gives_the_same_verdict_and_gives_back_what_it_accepts(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock
) -> None:
    tenant = TenantId(f"hostile-{uuid4().hex}")
    for backend in stores.values():
        loop.run(_registered(backend, tenant))
    on = {name: backend.storages(tenant) for name, backend in stores.items()}
    counted: Counter[str] = Counter()

    @SOME
    @given(values())
    def holds(drawn: tuple[Place, Any]) -> None:
        place, value = drawn
        said = {name: loop.run(verdict(place(storages, value, clock))) for name, storages in on.items()}
        first = next(iter(said.values()))
        assert all(one == first for one in said.values()), (place.__name__, said)
        counted["accepted" if first.refused is None else "refused"] += 1
        if first.refused is None and place in OF_OBJECTS:
            assert first.kept == exact({} if value is None else value)

    holds()
    tell(hostile_values=sum(counted.values()))
    assert min(counted["accepted"], counted["refused"]) > VALUES // 10, counted


async def _registered(backend: Backend, tenant: TenantId) -> None:
    await backend.tenants.create(tenant)
