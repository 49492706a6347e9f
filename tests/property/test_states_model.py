"""Random programs on procedures, agent states and workflow states give the same on the databases as in the in-memory model.

Every call of a program is made on each store, and its result, or the class of its error, is compared; so are all pages at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.workflow_state import STATUSES
from llmspell.tenant import TenantId

Call = tuple[str, str, tuple[Any, ...], dict[str, Any]]
SMALL = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXTS = st.sampled_from(["a", "b", "é", "～", "😀", 'a"', "a:b", "\x01"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0")
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN.filter(bool), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(PLAIN.filter(bool), JSON, max_size=3)
VERSIONS = st.none() | st.integers(0, 4)


def calls(storage: str, verb: str, *args: st.SearchStrategy[Any], **kwargs: st.SearchStrategy[Any]) -> Any:
    """Return a strategy of calls of one verb."""
    return st.tuples(st.just(storage), st.just(verb), st.tuples(*args), st.fixed_dictionaries(kwargs))


PROCEDURES = st.lists(
    st.one_of(
        calls("procedures", "record", TEXTS, TEXTS, TEXTS, count=st.integers(0, 4)),
        calls("procedures", "record", TEXTS, TEXTS, TEXTS, count=st.integers(1, 4)),
        calls("procedures", "record_transition", TEXTS, TEXTS, st.none() | TEXTS, TEXTS),
        calls("procedures", "frequency", TEXTS, TEXTS, TEXTS),
        calls("procedures", "predict", TEXTS, TEXTS, limit=st.integers(1, 3)),
        calls("procedures", "predict_next", TEXTS, TEXTS, st.none() | TEXTS),
        calls("procedures", "delete", TEXTS, TEXTS, TEXTS),
        calls("procedures", "forget", TEXTS, st.none() | TEXTS, limit=st.integers(1, 3)),
        calls("procedures", "prune", below_frequency=st.integers(1, 6), limit=st.integers(1, 3)),
    ),
    max_size=25,
)
AGENTS = st.lists(
    st.one_of(
        calls("agent_state", "save", TEXTS, OBJECTS, expected_version=VERSIONS),
        calls("agent_state", "save", TEXTS, OBJECTS, agent_type=st.none() | TEXTS, schema_version=st.none() | VERSIONS),
        calls("agent_state", "save", TEXTS, st.sampled_from([{}, {"n": 1}, {"n": 1.0}])),
        calls("agent_state", "get", TEXTS),
        calls("agent_state", "delete", TEXTS, expected_version=VERSIONS),
    ),
    max_size=15,
)
IDS = st.sampled_from(["v", "w", "é"])
STATUS = st.sampled_from(STATUSES)
WORKFLOWS = st.lists(
    st.one_of(
        calls("workflow_state", "create", IDS, OBJECTS, name=st.none() | TEXTS, current_step=st.integers(-1, 2)),
        calls(
            "workflow_state",
            "save",
            IDS,
            OBJECTS,
            current_step=st.none() | st.integers(0, 3),
            expected_version=VERSIONS,
        ),
        calls("workflow_state", "transition", IDS, STATUS, data=st.none() | OBJECTS, expected_version=VERSIONS),
        calls("workflow_state", "transition", IDS, STATUS),
        calls("workflow_state", "advance", IDS, st.integers(0, 3), data=st.none() | OBJECTS),
        calls("workflow_state", "get", IDS),
        calls("workflow_state", "counts"),
        calls("workflow_state", "delete", IDS, expected_version=VERSIONS),
        calls("workflow_state", "prune", limit=st.integers(1, 2)),
    ),
    max_size=25,
)


def comparable(value: Any) -> Any:
    """Return a result with the type of each number, without ids, which every store makes anew."""
    if isinstance(value, msgspec.Struct):
        fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return {name: comparable(inner) for name, inner in fields if not isinstance(inner, UUID)}
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    return type(value).__name__, value


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        return comparable(await call)
    except LlmspellError as error:
        return type(error).__name__, getattr(error, "field", None), error.fields.get("current")


async def paged(lists: Callable[..., Awaitable[Any]], **arguments: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    for _ in range(100):
        page = await lists(limit=2, cursor=cursor, **arguments)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return [comparable(one) for one in found]
    raise AssertionError("the pages do not end")


async def everything(storages: Storages) -> list[Any]:
    """Return all pages of everything that can be listed."""
    learned, agents, workflows = storages.procedures.learned, storages.agent_state.list, storages.workflow_state.list
    return [
        *[await paged(learned, min_frequency=least) for least in (1, 2, 3, 5)],
        *[await paged(learned, scope="a", key=key, min_frequency=1) for key in (None, "a", "é")],
        *[await paged(agents, agent_type=kind) for kind in (None, "agent", "a")],
        *[await paged(workflows, status=status) for status in (None, *STATUSES)],
        (await storages.agent_state.verify()).damaged,
    ]


def compare(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[Call], steps: list[int]
) -> None:
    async def example() -> None:
        tenant = TenantId(f"states-{uuid4().hex}")
        for backend in stores.values():
            await backend.tenants.create(tenant)
        bound = {name: backend.storages(tenant) for name, backend in stores.items()}
        for number, (storage, verb, args, kwargs) in enumerate(program):
            clock.advance(seconds=steps[number % len(steps)])
            given = {**kwargs, "before": clock.now() - timedelta(seconds=1)} if verb == "prune" else kwargs
            found = {
                name: await outcome(getattr(getattr(storages, storage), verb)(*args, **given))
                for name, storages in bound.items()
            }
            assert all(one == found["memory"] for one in found.values()), (verb, args, given, found)
        lists = {name: await everything(storages) for name, storages in bound.items()}
        assert all(one == lists["memory"] for one in lists.values()), lists

    loop.run(example())


STEPS = st.lists(st.sampled_from([0, 0, 1, 5]), min_size=1, max_size=5)


@given(program=PROCEDURES, steps=STEPS)
@SMALL
def test_procedures_do_as_the_model_does(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[Call], steps: list[int]
) -> None:
    compare(stores, loop, clock, program, steps)


@given(program=AGENTS, steps=STEPS)
@SMALL
def test_agent_states_do_as_the_model_does(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[Call], steps: list[int]
) -> None:
    """Every value that is accepted survives the round trip with its checksum, and is verified."""
    compare(stores, loop, clock, program, steps)


@given(program=WORKFLOWS, steps=STEPS)
@SMALL
def test_workflow_states_do_as_the_model_does(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[Call], steps: list[int]
) -> None:
    compare(stores, loop, clock, program, steps)
