"""Does a store do what it promises, component by component? Proved by doing it, in transactions of which nothing stays (CLI-05).

Not here: making or migrating the store.

Rule 1: each proof is a transaction of its own, for a tenant that nobody has: it writes, reads what it wrote, deletes where that
can be deleted, writes again, and is rolled back. That nothing of it is left is looked up afterwards.
Rule 2: an error of one component is its result; the others are proved all the same.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias
from uuid import uuid4

import msgspec

from llmspell.clock import Clock
from llmspell.codec import pack_vector
from llmspell.errors import InvalidInput, LlmspellError
from llmspell.storage.contracts.access_keys import KeyHash, NewAccessKey
from llmspell.storage.contracts.api_keys import NewApiKey
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.hook_history import NewHookExecution
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryQuery, NewMemory
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.tenant import TenantId

COMPONENTS: Final = tuple(sorted(Storages.__struct_fields__))
"""What a store is made of; each has a proof below."""
NAME: Final = "llmspell-validate"
VALUE: Final = bytes(range(256))
DATA: Final = {"text": "ünïcode 😀", "numbers": [2**63 - 1, 0.1, -1e308], "nested": {"a": [None, True]}}
DIMENSION: Final = 384
SPACE: Final = EmbeddingSpace(space_id=f"{NAME}@{DIMENSION}", model=NAME, dimension=DIMENSION)
VECTOR: Final = (1.0, 0.5, *(0.0,) * (DIMENSION - 2))

Left: TypeAlias = Callable[[Storages], Awaitable[object]]
"""Looks whether anything of a proof can be seen: what it returns must be empty, zero, False or None."""
Proof: TypeAlias = Callable[[Storages, Clock], Awaitable[Left]]


class ComponentProof(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one component. `problem` is None when it was proved; `error` then is the code of what was raised, if any."""

    component: str
    proved: bool
    elapsed_ms: float
    problem: str | None = None
    error: str | None = None


class _Differs(Exception):
    """What was read is not what was written."""


class _Rollback(Exception):
    """Ends a transaction of which nothing shall stay."""

    def __init__(self, left: Left) -> None:
        super().__init__()
        self.left = left


def require_components(components: Sequence[str]) -> tuple[str, ...]:
    """Return the components to prove; none named means all (AMB-130).

    Raises:
        InvalidInput: names the one that does not exist, and those that do.
    """
    for name in components:
        if name not in COMPONENTS:
            raise InvalidInput("components", f"must be among {', '.join(COMPONENTS)}", given=name)
    return tuple(dict.fromkeys(components)) or COMPONENTS


async def prove(backend: Backend, component: str, *, clock: Clock) -> ComponentProof:
    """Prove one component of an opened store. Whatever the store raises is the result.

    Raises:
        InvalidInput: there is no such component.
    """
    (component,) = require_components([component])
    tenant = TenantId(f"{NAME}-{uuid4().hex}")
    started = time.perf_counter()
    problem, code = None, None
    try:
        left = await _rolled_back(backend, tenant, PROOFS[component], clock)
        if await left(backend.storages(tenant)):
            problem = "what was rolled back can still be seen"
    except _Differs as differs:
        problem = str(differs)
    except LlmspellError as error:
        problem, code = error.detail, error.code
    return ComponentProof(
        component=component,
        proved=problem is None,
        elapsed_ms=round((time.perf_counter() - started) * 1e3, 3),
        problem=problem,
        error=code,
    )


async def _rolled_back(backend: Backend, tenant: TenantId, proof: Proof, clock: Clock) -> Left:
    try:
        async with backend.transaction(tenant) as tx:
            raise _Rollback(await proof(tx, clock))
    except _Rollback as ended:
        return ended.left
    raise _Differs("the transaction ended as if nothing had been raised in it")


def _same(found: object, wrote: object, what: str) -> None:
    if found != wrote:
        raise _Differs(f"{what} came back as something else")


def _there(found: object, what: str) -> None:
    if not found:
        raise _Differs(f"{what} is not there after it was written")


def _gone(found: object, what: str) -> None:
    if found:
        raise _Differs(f"{what} is there after it was deleted")


async def _kv(tx: Storages, clock: Clock) -> Left:
    await tx.kv.set(NAME, VALUE)
    _same(await tx.kv.get(NAME), VALUE, "the value")
    await tx.kv.delete(NAME)
    _gone(await tx.kv.exists(NAME), "the key")
    await tx.kv.set(NAME, VALUE)
    return lambda after: after.kv.exists(NAME)


async def _vectors(tx: Storages, clock: Clock) -> Left:
    (id,) = await tx.vectors.insert([VectorEntry(embedding=VECTOR)])
    found = await tx.vectors.get(id)
    _same(found and tuple(found.embedding), VECTOR, "the vector")
    _same([hit.id for hit in await tx.vectors.search(VECTOR)], [id], "the nearest vector")
    _same(await tx.vectors.delete([id]), 1, "the number of deleted vectors")
    _gone(await tx.vectors.get(id), "the vector")
    (again,) = await tx.vectors.insert([VectorEntry(embedding=VECTOR)])
    return lambda after: after.vectors.get(again)


async def _memories(tx: Storages, clock: Clock) -> Left:
    await tx.memories.ensure_space(SPACE)
    embedding = pack_vector(VECTOR, dimension=DIMENSION)
    new = NewMemory(id=uuid4(), content="A lighthouse in the fog 😀", at=clock.now(), embeddings=(embedding,))
    await tx.memories.add([new], space_id=SPACE.space_id)
    found = await tx.memories.get(new.id)
    _same(found and found.content, new.content, "the memory")
    query = MemoryQuery(text="lighthouse", embedding=embedding, space_id=SPACE.space_id)
    ranked = await tx.memories.search(query)
    _same([hit.id for hit in ranked.text], [new.id], "the search by word")
    _same([hit.id for hit in ranked.dense], [new.id], "the search by meaning")
    await tx.memories.forget(new.id)
    _gone(await tx.memories.get(new.id), "the memory")
    other = NewMemory(id=uuid4(), content=new.content, at=clock.now(), embeddings=(embedding,))
    await tx.memories.add([other], space_id=SPACE.space_id)
    return lambda after: after.memories.get(other.id)


async def _graph(tx: Storages, clock: Clock) -> Left:
    fact = await tx.graph.assert_fact(NewFact(subject=NAME, predicate="proves", object="a store"), cardinality="many")
    _same([one.id for one in await tx.graph.facts(subject=NAME)], [fact.id], "the fact")
    await tx.graph.retract(NAME, "proves")
    _gone(await tx.graph.facts(subject=NAME), "the fact")
    await tx.graph.assert_fact(NewFact(subject=NAME, predicate="proves", object="a store"), cardinality="many")
    return lambda after: after.graph.facts(subject=NAME, any_time=True)


async def _procedures(tx: Storages, clock: Clock) -> Left:
    await tx.procedures.record(NAME, "key", "value")
    _same(await tx.procedures.frequency(NAME, "key", "value"), 1, "the frequency")
    await tx.procedures.delete(NAME, "key", "value")
    _gone(await tx.procedures.get(NAME, "key", "value"), "the pattern")
    await tx.procedures.record(NAME, "key", "value")
    return lambda after: after.procedures.get(NAME, "key", "value")


async def _agent_state(tx: Storages, clock: Clock) -> Left:
    await tx.agent_state.save(NAME, DATA)
    found = await tx.agent_state.get(NAME)
    _same(found and found.data, DATA, "the state")
    await tx.agent_state.delete(NAME)
    _gone(await tx.agent_state.get(NAME), "the state")
    await tx.agent_state.save(NAME, DATA)
    return lambda after: after.agent_state.get(NAME)


async def _workflow_state(tx: Storages, clock: Clock) -> Left:
    await tx.workflow_state.create(NAME, DATA)
    found = await tx.workflow_state.get(NAME)
    _same(found and found.data, DATA, "the workflow")
    await tx.workflow_state.delete(NAME)
    _gone(await tx.workflow_state.get(NAME), "the workflow")
    await tx.workflow_state.create(NAME, DATA)
    return lambda after: after.workflow_state.get(NAME)


async def _sessions(tx: Storages, clock: Clock) -> Left:
    session = await tx.sessions.create(data=DATA)
    found = await tx.sessions.get(session.id)
    _same(found and found.data, DATA, "the session")
    await tx.sessions.delete(session.id)
    _gone(await tx.sessions.get(session.id), "the session")
    again = await tx.sessions.create(data=DATA)
    return lambda after: after.sessions.get(again.id)


async def _artifacts(tx: Storages, clock: Clock) -> Left:
    session = await tx.sessions.create(data={})
    kept = await tx.artifacts.put(session.id, NAME, VALUE)
    _same(await tx.artifacts.read(kept.id), VALUE, "the content")
    await tx.artifacts.delete(kept.id)
    _gone(await tx.artifacts.get(kept.id), "the artifact")
    again = await tx.artifacts.put(session.id, NAME, VALUE)
    return lambda after: after.artifacts.get(again.id)


async def _event_log(tx: Storages, clock: Clock) -> Left:
    event = await tx.event_log.append("llmspell.validated", DATA)
    found = await tx.event_log.get(event.id)
    _same(found and found.payload, DATA, "the event")
    return lambda after: after.event_log.count()


async def _hook_history(tx: Storages, clock: Clock) -> Left:
    new = NewHookExecution(hook_id=NAME, hook_type="AgentError", triggering_component=NAME, context=DATA)
    kept = await tx.hook_history.record(new)
    found = await tx.hook_history.get(kept.id)
    _same(found and found.context, DATA, "the context")
    await tx.hook_history.delete(kept.id)
    _gone(await tx.hook_history.get(kept.id), "the execution")
    again = await tx.hook_history.record(new)
    return lambda after: after.hook_history.get(again.id)


async def _idempotency(tx: Storages, clock: Clock) -> Left:
    mark = bytes(32)
    _gone(await tx.idempotency.claim(NAME, operation=NAME, fingerprint=mark), "the key")
    await tx.idempotency.record(NAME, VALUE)
    _same(await tx.idempotency.find(NAME, operation=NAME, fingerprint=mark), VALUE, "the result")
    return lambda after: after.idempotency.find(NAME, operation=NAME, fingerprint=mark)


async def _jobs(tx: Storages, clock: Clock) -> Left:
    job = await tx.jobs.enqueue(NAME, DATA)
    found = await tx.jobs.get(job.id)
    _same(found and found.payload, DATA, "the job")
    _there(await tx.jobs.cancel(job.id), "the job")
    again = await tx.jobs.enqueue(NAME, DATA)
    return lambda after: after.jobs.get(again.id)


async def _audit(tx: Storages, clock: Clock) -> Left:
    entry = await tx.audit.record(NAME, principal=NAME, resource=NAME, details=DATA)
    _same(await tx.audit.get(entry.sequence), entry, "the entry")
    _there((await tx.audit.verify()).intact, "the chain of the audit log")
    return lambda after: after.audit.get(entry.sequence)


async def _api_keys(tx: Storages, clock: Clock) -> Left:
    await tx.api_keys.set(NewApiKey(key_id=uuid4(), service=NAME, sealed=VALUE))
    found = await tx.api_keys.find_sealed(NAME)
    _same(found and found.sealed, VALUE, "the sealed key")
    await tx.api_keys.delete(NAME)
    _gone(await tx.api_keys.get(NAME), "the key")
    await tx.api_keys.set(NewApiKey(key_id=uuid4(), service=NAME, sealed=VALUE))
    return lambda after: after.api_keys.get(NAME)


async def _access_keys(tx: Storages, clock: Clock) -> Left:
    hashed = KeyHash(key_hash=VALUE[:32], pepper="store")
    key = await tx.access_keys.add(
        NewAccessKey(key_id=uuid4(), name=NAME, principal=NAME, scopes=["read"], hashed=hashed)
    )
    _same(await tx.access_keys.get(key.key_id), key, "the key")
    revoked = await tx.access_keys.revoke(key.key_id)
    _there(revoked.revoked_at, "the revocation")
    return lambda after: after.access_keys.get(key.key_id)


PROOFS: Final[Mapping[str, Proof]] = {
    "access_keys": _access_keys,
    "agent_state": _agent_state,
    "api_keys": _api_keys,
    "artifacts": _artifacts,
    "audit": _audit,
    "event_log": _event_log,
    "graph": _graph,
    "hook_history": _hook_history,
    "idempotency": _idempotency,
    "jobs": _jobs,
    "kv": _kv,
    "memories": _memories,
    "procedures": _procedures,
    "sessions": _sessions,
    "vectors": _vectors,
    "workflow_state": _workflow_state,
}
