"""Every kind of write of every concern, each with a way to tell afterwards whether it is there, whole.

    call = Call(tenant, "3-17", key=None)
    await kind.prepare(call)          what the write needs to be there, acknowledged before it begins
    await kind.act(call)              the write itself
    await kind.trace(call)            True: all of it is there, once. False: nothing is. Anything else raises

A write is told from all others by its name, which is in whatever it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from blake3 import blake3

from llmspell.memory.state import StateScope
from llmspell.spell import Concerns, Tenant, Transaction
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution
from llmspell.storage.contracts.jobs import LeasedJob

VECTOR = [1.0] + [0.0] * 383
VALUE = b"v" * 200
SHARED = [hashlib.sha256(bytes([number])).digest() * 40 for number in range(4)]
"""Contents that many artifacts have, so that their references are counted up and down."""
LARGE = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(40_000))
"""More than a mebibyte that does not compress: kept in chunks."""
LEASE_S = 3_600.0


class Call:
    """One write: whose, its name, and the key under which it is sent, if any."""

    def __init__(self, tenant: Tenant, name: str, key: str | None = None) -> None:
        self.tenant = tenant
        self.name = name
        self.key = key
        self.held: LeasedJob | None = None

    @property
    def on(self) -> Concerns:
        """The verbs that the write is sent through."""
        return self.tenant if self.key is None else self.tenant.once(self.key)

    def id(self, what: str = "") -> UUID:
        """An id of this write's own."""
        return uuid5(NAMESPACE_URL, f"{self.name}/{what}")

    @property
    def shared(self) -> bytes:
        """A content that others have too."""
        return SHARED[self.id().int % len(SHARED)]


Step: TypeAlias = Callable[[Call], Awaitable[Any]]


async def nothing(_: Call) -> None:
    """Nothing has to be there."""


class Kind(msgspec.Struct, frozen=True):
    """One kind of write."""

    act: Step
    trace: Callable[[Call], Awaitable[bool]]
    prepare: Step = nothing
    keyed: bool = True
    """Whether it can be sent under an idempotency key."""


class HalfThere(AssertionError):
    """A part of a write is there, or more of it than was written."""


def whole(parts: Iterable[bool]) -> bool:
    """All parts are there, or none is."""
    found = list(parts)
    if len(set(found)) != 1:
        raise HalfThere(found)
    return found[0]


def once_or_never(count: int, each: int = 1) -> bool:
    """The write left so many records, or none."""
    if count not in (0, each):
        raise HalfThere(count)
    return count == each


def one_of(found: Any, *, before: Any, after: Any) -> bool:
    """What is found is what was there before the write, or what it makes of that."""
    if found != before and found != after:
        raise HalfThere(found)
    return bool(found == after)


# --- memories ---------------------------------------------------------------------------------------------------------

FIRST = "In writing {} there is a memory."
SECOND = "Replaced in writing {}, with other words than before."


async def add(c: Call) -> None:
    await c.on.memory.add(FIRST.format(c.name), id=c.id(), session="added")


async def added(c: Call) -> None:
    await c.tenant.memory.add(FIRST.format(c.name), id=c.id(), session="prepared")


async def add_two(c: Call) -> None:
    await c.on.memory.add_many([{"text": f"{FIRST.format(c.name)} {part}", "id": c.id(part)} for part in "ab"])


async def update(c: Call) -> None:
    await c.on.memory.update(c.id(), text=SECOND.format(c.name))


async def updated(c: Call) -> bool:
    record = await c.tenant.memory.get(c.id())
    assert record is not None
    there = one_of(record.content, before=FIRST.format(c.name), after=SECOND.format(c.name))
    assert [version.version for version in await c.tenant.memory.history(c.id())] in ([1], [1, 2], [2, 1])
    return whole([there, record.version == 2])


async def has_memory(c: Call, what: str = "") -> bool:
    record = await c.tenant.memory.get(c.id(what))
    return record is not None and record.embedding_state == "ready"


async def has_two_memories(c: Call) -> bool:
    return whole([await has_memory(c, part) for part in "ab"])


async def forgotten(c: Call) -> bool:
    texts = [version.content for version in await c.tenant.memory.history(c.id())]
    return whole([not await has_memory(c), FIRST.format(c.name) not in texts])


async def deleted(c: Call) -> None:
    await added(c)
    await c.tenant.memory.delete(c.id())


async def restored(c: Call) -> bool:
    return await c.tenant.memory.get(c.id()) is not None


# --- keys, state and vectors ------------------------------------------------------------------------------------------


async def set_three(c: Call) -> None:
    await c.on.kv.set_batch({f"{c.name}-{part}": VALUE for part in "abc"})


async def three_set(c: Call) -> None:
    await c.tenant.kv.set_batch({f"{c.name}-{part}": VALUE for part in "abc"})


async def has_three(c: Call) -> bool:
    found = await c.tenant.kv.get_batch([f"{c.name}-{part}" for part in "abc"])
    return whole([found.get(f"{c.name}-{part}") == VALUE for part in "abc"])


async def has_none(c: Call) -> bool:
    return not await has_three(c)


def next_number(number: int) -> int:
    return number + 1


async def counted(c: Call) -> bool:
    return one_of(await c.tenant.state.get(StateScope.User(c.name), "n"), before=0, after=1)


async def vectors_in(c: Call) -> None:
    await c.tenant.vectors.insert([{"embedding": VECTOR, "scope": c.name, "id": c.id(part)} for part in "ab"])


async def insert_vectors(c: Call) -> None:
    await c.on.vectors.insert([{"embedding": VECTOR, "scope": c.name, "id": c.id(part)} for part in "ab"])


async def has_vectors(c: Call) -> bool:
    return whole([await c.tenant.vectors.get(c.id(part)) is not None for part in "ab"])


async def has_no_vectors(c: Call) -> bool:
    return not await has_vectors(c)


async def vector_noted(c: Call) -> bool:
    record = await c.tenant.vectors.get(c.id("a"))
    assert record is not None
    return one_of(dict(record.metadata), before={}, after={"n": 1})


# --- the graph --------------------------------------------------------------------------------------------------------


async def fact(c: Call) -> None:
    await c.tenant.graph.assert_fact(c.name, "lives_in", "Zurich", valid_from="2020-01-01", cardinality="one")


async def lives_in(c: Call) -> list[str]:
    """What is believed now of every time: a fact that was ended by another stands beside it."""
    facts = await c.tenant.graph.facts(subject=c.name, predicate="lives_in", any_time=True)
    return sorted(f"{one.object} {one.valid_to is None}" for one in facts)


async def assert_next(c: Call) -> None:
    await c.on.graph.assert_fact(c.name, "lives_in", "Bern", valid_from="2021-01-01", cardinality="one")


async def moved(c: Call) -> bool:
    return one_of(await lives_in(c), before=["Zurich True"], after=["Bern True", "Zurich False"])


async def correct(c: Call) -> None:
    (one,) = await c.tenant.graph.facts(subject=c.name, predicate="lives_in", any_time=True)
    await c.on.graph.correct(one.id, object="Basel")


async def corrected(c: Call) -> bool:
    return one_of(await lives_in(c), before=["Zurich True"], after=["Basel True"])


async def retracted(c: Call) -> bool:
    return one_of(await lives_in(c), before=["Zurich True"], after=[])


async def knows(c: Call) -> bool:
    return once_or_never(len(await c.tenant.graph.facts(subject=c.name, predicate="knows")))


async def has_entity(c: Call) -> bool:
    return await c.tenant.graph.get_entity(c.name) is not None


async def has_no_entity(c: Call) -> bool:
    return not await has_entity(c)


# --- sessions and artifacts -------------------------------------------------------------------------------------------


async def session(c: Call) -> None:
    await c.tenant.sessions.create(id=c.id("session"), data={"n": 1})


async def has_session(c: Call) -> bool:
    return await c.tenant.sessions.get(c.id("session")) is not None


async def session_changed(c: Call) -> bool:
    record = await c.tenant.sessions.get(c.id("session"))
    assert record is not None
    return whole([one_of(record.data["n"], before=1, after=2), record.version == 2])


async def two_artifacts(c: Call) -> None:
    """In a session, artifacts whose contents others have too."""
    await session(c)
    for content in (c.shared, SHARED[0]):
        await c.tenant.artifacts.put(c.id("session"), c.name, content)


async def session_gone(c: Call) -> bool:
    gone = not await has_session(c)
    ids = [artifact_id(c, c.shared), artifact_id(c, SHARED[0], 1)]
    return whole([gone, *[await c.tenant.artifacts.get(id) is None for id in ids]])


def artifact_id(c: Call, content: bytes, number: int = 0) -> str:
    """The id that the artifact of that number has: nobody had to be told it."""
    return f"{c.id('session')}:{number}:{blake3(content).hexdigest()}"


async def has_artifact(c: Call, content: bytes, count: int = 1) -> bool:
    found = (await c.tenant.artifacts.list(session=c.id("session"))).items
    there = once_or_never(len(found), count)
    for one in found:
        assert await c.tenant.artifacts.read(one.id) == content
    return there


async def one_artifact(c: Call) -> None:
    await session(c)
    await c.tenant.artifacts.put(c.id("session"), c.name, c.shared)


async def artifact_noted(c: Call) -> bool:
    record = await c.tenant.artifacts.get(artifact_id(c, c.shared))
    assert record is not None
    return whole([one_of(record.tags, before=[], after=["b"]), record.revision == 2])


# --- what happened ----------------------------------------------------------------------------------------------------


async def events(c: Call, each: int) -> bool:
    return once_or_never(await c.tenant.event_log.count(correlation_id=c.id()), each)


def execution(c: Call) -> NewHookExecution:
    context = b"\0\xff" * 50
    return NewHookExecution(
        hook_id="h", hook_type="AgentError", triggering_component="c", context=context, correlation_id=c.id()
    )


async def executions(c: Call, each: int) -> bool:
    return once_or_never(len((await c.tenant.hook_history.list(correlation_id=c.id())).items), each)


async def entries(c: Call, each: int) -> bool:
    return once_or_never(len((await c.tenant.audit.list(principal=c.name)).items), each)


# --- states, workflows and jobs ---------------------------------------------------------------------------------------


async def saved(c: Call) -> None:
    await c.tenant.agent_state.save(c.name, {"n": 1})


async def agent_has(c: Call, before: int | None, after: int | None) -> bool:
    state = await c.tenant.agent_state.get(c.name)
    return one_of(None if state is None else state.data["n"], before=before, after=after)


async def begun(c: Call) -> None:
    await c.tenant.workflow_state.create(c.name, {"n": 1})


async def running(c: Call) -> None:
    await begun(c)
    await c.tenant.workflow_state.transition(c.name, "running")


async def workflow_is(c: Call, before: Any, after: Any) -> bool:
    state = await c.tenant.workflow_state.get(c.name)
    return one_of(
        None if state is None else (state.status, state.current_step, state.data["n"]), before=before, after=after
    )


async def queued(c: Call) -> None:
    await c.tenant.jobs.enqueue(f"kind-{c.name}", {"n": 1}, id=c.id())


async def job_is(c: Call, before: str | None, after: str) -> bool:
    job = await c.tenant.jobs.get(c.id())
    return one_of(None if job is None else job.state, before=before, after=after)


async def lease(c: Call) -> None:
    queue = c.tenant._spell._backend.job_queue
    (c.held,) = await queue.lease(worker="w", kinds=[f"kind-{c.name}"], lease_s=LEASE_S, tenants=[c.tenant.id])


async def leased(c: Call) -> None:
    await queued(c)
    await lease(c)


async def complete(c: Call) -> None:
    assert c.held is not None
    await c.tenant._spell._backend.job_queue.complete(c.held, {"n": 1})


async def cancelled(c: Call) -> None:
    await queued(c)
    await c.tenant.jobs.cancel(c.id())


# --- several concerns at once -----------------------------------------------------------------------------------------


async def write_all(c: Call, tx: Transaction) -> int:
    await tx.kv.set(f"tx-{c.name}", VALUE)
    await tx.memory.add(FIRST.format(c.name), id=c.id(), embedding=VECTOR, session="tx")
    await tx.graph.assert_fact(c.name, "knows", "Bob")
    await tx.sessions.create(id=c.id("session"))
    await tx.artifacts.put(c.id("session"), c.name, c.shared)
    await tx.event_log.append("test.event", correlation_id=c.id())
    await tx.jobs.enqueue("never", id=c.id())
    await tx.audit.record("export", principal=c.name, resource="memories")
    return await tx.state.update(StateScope.Agent(c.name), "n", next_number, default=0)  # type: ignore[no-any-return]


async def in_transaction(c: Call) -> None:
    async with c.tenant.transaction() as tx:
        await write_all(c, tx)


async def in_run(c: Call) -> int:
    async def work(tx: Transaction) -> int:
        return await write_all(c, tx)

    return await c.tenant.run(work, idempotency_key=c.key)


async def has_all(c: Call) -> bool:
    return whole(
        [
            await c.tenant.kv.get(f"tx-{c.name}") == VALUE,
            await has_memory(c),
            await knows(c),
            await has_artifact(c, c.shared),
            await events(c, 1),
            await c.tenant.jobs.get(c.id()) is not None,
            await entries(c, 1),
            await c.tenant.state.get(StateScope.Agent(c.name), "n") == 1,
        ]
    )


async def gone(c: Call, what: Callable[[], Awaitable[Any]]) -> bool:
    return await what() is None


KINDS: dict[str, Kind] = {
    "memory.add": Kind(add, has_memory),
    "memory.add_many": Kind(add_two, has_two_memories),
    "memory.update": Kind(update, updated, added),
    "memory.delete": Kind(
        lambda c: c.on.memory.delete(c.id()), lambda c: gone(c, lambda: c.tenant.memory.get(c.id())), added
    ),
    "memory.restore": Kind(lambda c: c.on.memory.restore(c.id()), restored, deleted),
    "memory.forget": Kind(lambda c: c.on.memory.forget(c.id()), forgotten, added),
    "kv.set_batch": Kind(set_three, has_three),
    "kv.delete_batch": Kind(lambda c: c.on.kv.delete_batch([f"{c.name}-{p}" for p in "abc"]), has_none, three_set),
    "state.update": Kind(
        lambda c: c.on.state.update(StateScope.User(c.name), "n", next_number, default=0),
        counted,
        lambda c: c.tenant.state.set(StateScope.User(c.name), "n", 0),
    ),
    "vectors.insert": Kind(insert_vectors, has_vectors),
    "vectors.update_metadata": Kind(
        lambda c: c.on.vectors.update_metadata(c.id("a"), {"n": 1}), vector_noted, vectors_in
    ),
    "vectors.delete": Kind(lambda c: c.on.vectors.delete([c.id("a"), c.id("b")]), has_no_vectors, vectors_in),
    "graph.assert_fact": Kind(lambda c: c.on.graph.assert_fact(c.name, "knows", "Bob"), knows),
    "graph.assert_fact/one": Kind(assert_next, moved, fact),
    "graph.correct": Kind(correct, corrected, fact),
    "graph.retract": Kind(lambda c: c.on.graph.retract(c.name, "lives_in"), retracted, fact),
    "graph.upsert_entity": Kind(lambda c: c.on.graph.upsert_entity(c.name, properties={"age": 36}), has_entity),
    "graph.delete_entity": Kind(lambda c: c.on.graph.delete_entity(c.name), has_no_entity, fact),
    "sessions.create": Kind(lambda c: c.on.sessions.create(id=c.id("session"), data={"n": 1}), has_session),
    "sessions.update": Kind(
        lambda c: c.on.sessions.update(c.id("session"), data={"n": 2}, expected_version=1), session_changed, session
    ),
    "sessions.delete": Kind(lambda c: c.on.sessions.delete(c.id("session")), session_gone, two_artifacts),
    "artifacts.put": Kind(
        lambda c: c.on.artifacts.put(c.id("session"), c.name, c.shared), lambda c: has_artifact(c, c.shared), session
    ),
    "artifacts.put/large": Kind(
        lambda c: c.on.artifacts.put(c.id("session"), c.name, LARGE), lambda c: has_artifact(c, LARGE), session
    ),
    "artifacts.update": Kind(
        lambda c: c.on.artifacts.update(artifact_id(c, c.shared), tags=["b"], expected_revision=1),
        artifact_noted,
        one_artifact,
    ),
    "artifacts.delete": Kind(
        lambda c: c.on.artifacts.delete(artifact_id(c, c.shared)),
        lambda c: gone(c, lambda: c.tenant.artifacts.get(artifact_id(c, c.shared))),
        one_artifact,
    ),
    "event_log.append": Kind(
        lambda c: c.on.event_log.append("test.event", {"n": 1}, correlation_id=c.id()), lambda c: events(c, 1)
    ),
    "event_log.append_many": Kind(
        lambda c: c.on.event_log.append_many([NewEvent(type="test.event", correlation_id=c.id())] * 3),
        lambda c: events(c, 3),
    ),
    "hook_history.record": Kind(lambda c: c.on.hook_history.record(execution(c)), lambda c: executions(c, 1)),
    "hook_history.record_many": Kind(
        lambda c: c.on.hook_history.record_many([execution(c)] * 2), lambda c: executions(c, 2)
    ),
    "procedures.record": Kind(
        lambda c: c.on.procedures.record(c.name, "k", "v", count=2),
        lambda c: frequency(c),
    ),
    "agent_state.save": Kind(
        lambda c: c.on.agent_state.save(c.name, {"n": 2}, expected_version=1), lambda c: agent_has(c, 1, 2), saved
    ),
    "agent_state.delete": Kind(lambda c: c.on.agent_state.delete(c.name), lambda c: agent_has(c, 1, None), saved),
    "workflow_state.create": Kind(
        lambda c: c.on.workflow_state.create(c.name, {"n": 1}), lambda c: workflow_is(c, None, ("pending", 0, 1))
    ),
    "workflow_state.transition": Kind(
        lambda c: c.on.workflow_state.transition(c.name, "completed", data={"n": 2}),
        lambda c: workflow_is(c, ("running", 0, 1), ("completed", 0, 2)),
        running,
    ),
    "workflow_state.advance": Kind(
        lambda c: c.on.workflow_state.advance(c.name, 3, data={"n": 2}),
        lambda c: workflow_is(c, ("running", 0, 1), ("running", 3, 2)),
        running,
    ),
    "jobs.enqueue": Kind(
        lambda c: c.on.jobs.enqueue("never", {"n": 1}, id=c.id()), lambda c: job_is(c, None, "queued")
    ),
    "jobs.cancel": Kind(lambda c: c.on.jobs.cancel(c.id()), lambda c: job_is(c, "queued", "cancelled"), queued),
    "jobs.retry": Kind(lambda c: c.on.jobs.retry(c.id()), lambda c: job_is(c, "cancelled", "queued"), cancelled),
    "jobs.lease": Kind(lease, lambda c: job_is(c, "queued", "running"), queued, keyed=False),
    "jobs.complete": Kind(complete, lambda c: job_is(c, "running", "succeeded"), leased, keyed=False),
    "audit.record": Kind(
        lambda c: c.on.audit.record("export", principal=c.name, resource="memories"), lambda c: entries(c, 1)
    ),
    "audit.record_many": Kind(
        lambda c: c.on.audit.record_many(
            [NewAuditEntry(operation="export", principal=c.name, resource=part) for part in "ab"]
        ),
        lambda c: entries(c, 2),
    ),
    "transaction": Kind(in_transaction, has_all, keyed=False),
    "run": Kind(in_run, has_all),
}
NAMES = tuple(KINDS)


async def frequency(c: Call) -> bool:
    return one_of(await c.tenant.procedures.frequency(c.name, "k", "v"), before=0, after=2)


def kind_of(start: int, number: int) -> str:
    """The kind of a writer's write: it goes through all of them, from one on."""
    return NAMES[(start + number) % len(NAMES)]


def key_of(life: int, number: int, kind: str) -> str | None:
    """The key of a writer's write: every second one has one, where there can be one."""
    return f"key-{life}-{number}" if KINDS[kind].keyed and (life + number) % 2 else None
