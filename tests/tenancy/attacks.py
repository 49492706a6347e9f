"""Every public method that a tenant has, called with things that may be another tenant's.

A call gets the handle of whoever calls (a tenant, or a transaction of one) and the belongings to ask for. `methods()` derives what
must be here from the classes themselves. Those of the storages below the handles are in `storage_attacks`.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, get_type_hints

import msgspec
from tests.tenancy.belongings import EVENT_AT, FAR, VALID_FROM, Belongings, collected
from tests.tenancy.storage_attacks import OTHER_ID, STORAGE_ATTACKS

from llmspell.memory.state import StateScope
from llmspell.security.access_keys import _key_text
from llmspell.security.secrets import api_key_ref
from llmspell.spell import Concerns, Keys, Tenant, Transaction
from llmspell.storage.contracts.audit import AuditHead, NewAuditEntry
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution, RetentionPolicy
from llmspell.storage.contracts.jobs import JobQueue, LeasedJob
from llmspell.storage.contracts.memories import NewMemory

Attack: TypeAlias = Callable[[Any, Belongings], Awaitable[Any]]
OPERATORS_ALONE = {
    "queue.stats": "counts jobs of all tenants by kind, for the operator",
    "queue.tenants": "lists tenants, for the operator",
    "queue.tenants_with_pending": "lists tenants, for the operator",
}
"""Methods that belong to no tenant: they need the operator's role where a database isolates tenants."""
ONLY_ON_TENANTS = ("tenant.", "queue.", "spell.")


def public(kind: type) -> set[str]:
    """The public methods of a class and those above it."""
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def methods() -> set[str]:
    """What a tenant can call: its concerns, its own verbs, those of a transaction, the storages below, the queue and the door."""
    concerns = {**get_type_hints(Concerns), **get_type_hints(Keys)}
    found = {f"{name}.{verb}" for name, kind in concerns.items() for verb in public(kind)}
    for stem, contract in get_type_hints(Storages).items():
        if concerns.get(stem) is not contract:
            found |= {f"storages.{stem}.{verb}" for verb in public(contract)}
    found |= {f"tenant.{verb}" for verb in public(Tenant)}
    found |= {f"transaction.{verb}" for verb in public(Transaction)}
    found |= {f"queue.{verb}" for verb in public(JobQueue)}
    return found | {"spell.authenticate"}


def where(x: Belongings) -> dict[str, Any]:
    """A filter that names what is somebody's."""
    return {f"metadata.{x.metadata_key}": x.metadata_value}


async def own_session(t: Any) -> Any:
    """A session of the caller's own."""
    return (await t.sessions.create()).id


async def put_same_content(t: Any, x: Belongings) -> Any:
    """Whether a content is known already must not be seen: not in the artifact, not in what it takes."""
    made = await t.artifacts.put(await own_session(t), "mine", x.content)
    return (
        made,
        await t.artifacts.stats(session=made.session),
        await t.artifacts.read(made.id),
        await t.artifacts.delete(made.id),
    )


async def put_large_content(t: Any, x: Belongings) -> Any:
    """The same for a content of several chunks."""
    made = await t.artifacts.put(await own_session(t), "mine", x.large_content)
    return (
        await t.artifacts.verify(made.id),
        await t.artifacts.delete(made.id),
        await t.artifacts.verify(x.large_artifact_id),
    )


async def put_child(t: Any, x: Belongings) -> Any:
    return await t.artifacts.put(await own_session(t), "mine", b"mine", parent=x.artifact_id)


async def download(t: Any, x: Belongings) -> Any:
    into = io.BytesIO()
    return await t.artifacts.download(x.artifact_id, into), into.getvalue()


async def count_after_pending(t: Any, x: Belongings) -> Any:
    """A memory that waits for its embedding brings a job, whoever else has one that waits."""
    await t._storages.memories.add([NewMemory(id=OTHER_ID, content="mine", at=EVENT_AT)])
    return await t.jobs.counts()


async def delete_entity(t: Any, x: Belongings) -> Any:
    """With an entity go the beliefs about it, and those alone."""
    return (
        await t.graph.delete_entity(x.entity_id),
        await t.graph.facts(subject=x.entity, any_time=True),
        await t.graph.stats(),
    )


async def take_back(t: Any, x: Belongings) -> Any:
    """What a transaction itself has recorded is taken back without a trace."""
    for _ in range(2):
        await t.graph.assert_fact(x.entity, x.predicate, x.other_entity, confidence=0.5)
        await t.graph.upsert_entity(x.entity, properties={"mine": 1})
    retracted = await t.graph.retract(x.entity, x.predicate)
    return retracted, await t.graph.facts(subject=x.entity, any_time=True), await t.graph.entity_history(x.entity)


async def use_savepoint(t: Any, x: Belongings) -> Any:
    async with t.savepoint():
        await t.kv.set(x.kv_key, b"mine")
        return await t.kv.list_keys()


async def use_transaction(t: Any, x: Belongings) -> Any:
    async with t.transaction() as tx:
        await tx.kv.set(x.kv_key, b"mine")
        return await tx.kv.get_batch([x.kv_key, x.state_key]), await tx.memory.get(x.memory_id)


async def run_under(t: Any, key: str, x: Belongings) -> Any:
    async def work(tx: Transaction) -> str:
        await tx.kv.set("mine", b"mine")
        return "mine"

    return await t.run(work, idempotency_key=key)


async def question(t: Any, x: Belongings) -> Any:
    """A vector is of the words alone: what counts is whether there is one."""
    return type(await t.memory.question(x.word))


def leased(t: Any, x: Belongings) -> LeasedJob:
    """Somebody's job in the hands of the caller."""
    return msgspec.structs.replace(x.lease, tenant=t.id)


def queue(t: Any) -> Any:
    return t._backend.job_queue


def forged_key(t: Any, x: Belongings) -> str:
    """A key that says it is the caller's tenant's, with the id and the secret of another one."""
    return _key_text(t.id, x.access_key_id, x.access_key_secret)


def hook(x: Belongings, **given: Any) -> NewHookExecution:
    return NewHookExecution(hook_id=x.hook_id, hook_type=x.hook_type, triggering_component="mine", **given)


def scope(x: Belongings) -> StateScope:
    return StateScope.User(x.state_id)


KV: dict[str, list[Attack]] = {
    "kv.get": [lambda t, x: t.kv.get(x.kv_key)],
    "kv.set": [lambda t, x: t.kv.set(x.kv_key, b"mine")],
    "kv.delete": [lambda t, x: t.kv.delete(x.kv_key)],
    "kv.exists": [lambda t, x: t.kv.exists(x.kv_key)],
    "kv.list_keys": [
        lambda t, x: t.kv.list_keys(),
        lambda t, x: t.kv.list_keys(x.kv_key[:4]),
        lambda t, x: t.kv.list_keys(after=x.kv_key, limit=3),
    ],
    "kv.get_batch": [lambda t, x: t.kv.get_batch([x.kv_key, x.state_key])],
    "kv.set_batch": [lambda t, x: t.kv.set_batch({x.kv_key: b"mine"}, ttl_s=5)],
    "kv.delete_batch": [lambda t, x: t.kv.delete_batch([x.kv_key, x.state_key])],
    "kv.clear": [lambda t, x: t.kv.clear()],
    "kv.delete_expired": [lambda t, x: t.kv.delete_expired()],
    "kv.backend_type": [lambda t, x: answered(t.kv.backend_type())],
    "kv.characteristics": [lambda t, x: answered(t.kv.characteristics())],
    "state.get": [lambda t, x: t.state.get(scope(x), x.state_key)],
    "state.set": [lambda t, x: t.state.set(scope(x), x.state_key, "mine")],
    "state.get_many": [lambda t, x: t.state.get_many(scope(x), [x.state_key])],
    "state.set_many": [lambda t, x: t.state.set_many(scope(x), {x.state_key: "mine"})],
    "state.delete": [lambda t, x: t.state.delete(scope(x), x.state_key)],
    "state.list_keys": [lambda t, x: t.state.list_keys(scope(x))],
    "state.items": [
        lambda t, x: t.state.items(scope(x)),
        lambda t, x: t.state.items(StateScope.Custom(f"tenant:{x.tenant}")),
    ],
    "state.update": [lambda t, x: t.state.update(scope(x), x.state_key, lambda value: [value], default="none")],
    "state.initialize_scope": [lambda t, x: t.state.initialize_scope(scope(x), {x.state_key: "mine"})],
    "state.clear": [lambda t, x: t.state.clear(scope(x))],
}
MEMORY: dict[str, list[Attack]] = {
    "memory.add": [
        lambda t, x: t.memory.add("mine", id=x.memory_id, session=x.memory_session),
        lambda t, x: t.memory.add("mine", id=x.deleted_memory_id, embedding=x.memory_embedding),
    ],
    "memory.add_many": [lambda t, x: t.memory.add_many([{"text": "mine", "id": x.memory_id}], skip_existing=True)],
    "memory.search": [
        lambda t, x: t.memory.search(x.word, explain=True),
        lambda t, x: t.memory.search(x.word, embedding=x.memory_embedding, limit=50, filters=where(x)),
        lambda t, x: t.memory.search(x.word, session=x.memory_session, embedding=x.memory_embedding),
        lambda t, x: t.memory.search("said", filters={"role": x.role}),
        lambda t, x: t.memory.search("said", filters={"tenant_id": x.tenant}),
        lambda t, x: t.memory.search("said", filters={"metadata.tenant_id": x.tenant}),
    ],
    "memory.rank": [lambda t, x: t.memory.rank(x.word, session=x.memory_session)],
    "memory.question": [question],
    "memory.get": [lambda t, x: t.memory.get(x.memory_id), lambda t, x: t.memory.get(str(x.deleted_memory_id))],
    "memory.list": [
        lambda t, x: t.memory.list(session=x.memory_session),
        lambda t, x: t.memory.list(filters=where(x), order="created_at", descending=False, limit=1),
        lambda t, x: t.memory.list(limit=1, cursor=x.cursors["memory"]),
    ],
    "memory.list_paginated": [
        lambda t, x: t.memory.list_paginated(session=x.memory_session),
        lambda t, x: t.memory.list_paginated(filters=where(x)),
    ],
    "memory.iterate": [lambda t, x: collected(t.memory.iterate(session=x.memory_session, page_size=1))],
    "memory.count": [lambda t, x: t.memory.count(), lambda t, x: t.memory.count(filters=where(x))],
    "memory.update": [
        lambda t, x: t.memory.update(x.memory_id, text="mine"),
        lambda t, x: t.memory.update(x.memory_id, metadata={}, expected_version=1),
        lambda t, x: t.memory.update(x.memory_id, metadata={"a": 1}),
    ],
    "memory.delete": [lambda t, x, n=n: t.memory.delete(x.memory_id, expected_version=n) for n in (None, 1)],
    "memory.restore": [lambda t, x: t.memory.restore(x.deleted_memory_id)],
    "memory.forget": [lambda t, x: t.memory.forget(x.memory_id, reason="mine")],
    "memory.history": [lambda t, x: t.memory.history(x.memory_id)],
    "memory.delete_expired": [lambda t, x: t.memory.delete_expired()],
    "memory.embed_pending": [lambda t, x: t.memory.embed_pending()],
    "vectors.insert": [lambda t, x: t.vectors.insert({"id": x.vector_id, "embedding": x.embedding, "scope": x.scope})],
    "vectors.get": [lambda t, x: t.vectors.get(x.vector_id)],
    "vectors.search": [
        lambda t, x: t.vectors.search(x.embedding, include_embedding=True),
        lambda t, x: t.vectors.search(x.embedding, scope=x.scope),
        lambda t, x: t.vectors.search(x.embedding, filters=where(x), min_score=0.5),
        lambda t, x: t.vectors.search(x.embedding, scope=x.scope, filters={"metadata.tenant": x.tenant}),
    ],
    "vectors.update_metadata": [lambda t, x: t.vectors.update_metadata(x.vector_id, {"mine": 1})],
    "vectors.delete": [lambda t, x: t.vectors.delete(x.vector_id)],
    "vectors.delete_scope": [lambda t, x: t.vectors.delete_scope(x.scope)],
    "vectors.index_status": [lambda t, x: t.vectors.index_status()],
    "vectors.sample": [lambda t, x: t.vectors.sample("free-384")],
    "vectors.build_index": [lambda t, x: t.vectors.build_index(), lambda t, x: t.vectors.build_index(dimension=384)],
    "vectors.stats": [lambda t, x: t.vectors.stats(), lambda t, x: t.vectors.stats(scope=x.scope)],
}
GRAPH: dict[str, list[Attack]] = {
    "graph.declare": [
        lambda t, x: t.graph.declare(x.predicate, "many"),
        lambda t, x: t.graph.declare(x.single_predicate, "one"),
    ],
    "graph.predicates": [lambda t, x: t.graph.predicates()],
    "graph.upsert_entity": [lambda t, x: t.graph.upsert_entity(x.entity, properties={"mine": 1})],
    "graph.assert_fact": [
        lambda t, x: t.graph.assert_fact(x.entity, x.predicate, x.other_entity),
        lambda t, x: t.graph.assert_fact(x.entity, x.single_predicate, "mine"),
    ],
    "graph.correct": [
        lambda t, x: t.graph.correct(x.fact_id, object="mine"),
        lambda t, x: t.graph.correct(x.fact_id, confidence=0.5),
    ],
    "graph.retract": [
        lambda t, x: t.graph.retract(x.entity, x.predicate),
        lambda t, x: t.graph.retract(x.entity, x.single_predicate, x.other_entity),
        take_back,
    ],
    "graph.get_entity": [
        lambda t, x: t.graph.get_entity(x.entity),
        lambda t, x: t.graph.get_entity(x.entity_id),
        lambda t, x: t.graph.get_entity(x.entity_id, as_of=VALID_FROM, known_at=FAR),
    ],
    "graph.entity_history": [
        lambda t, x: t.graph.entity_history(x.entity_id),
        lambda t, x: t.graph.entity_history(x.entity),
    ],
    "graph.list_entities": [
        lambda t, x: t.graph.list_entities(),
        lambda t, x: t.graph.list_entities(type=x.entity_type),
    ],
    "graph.delete_entity": [
        lambda t, x: t.graph.delete_entity(x.entity),
        delete_entity,
    ],
    "graph.facts": [
        lambda t, x: t.graph.facts(),
        lambda t, x: t.graph.facts(subject=x.entity, predicate=x.predicate, any_time=True),
        lambda t, x: t.graph.facts(object=x.other_entity, known_at=FAR),
    ],
    "graph.history": [lambda t, x: t.graph.history(x.fact_id)],
    "graph.neighbours": [
        lambda t, x: t.graph.neighbours(x.entity),
        lambda t, x: t.graph.neighbours(x.entity_id, predicate=x.predicate, direction="out"),
        lambda t, x: t.graph.neighbours(x.other_entity, direction="in"),
    ],
    "graph.traverse": [
        lambda t, x: t.graph.traverse(x.entity),
        lambda t, x: t.graph.traverse(x.entity_id, max_depth=3),
    ],
    "graph.paths": [
        lambda t, x: t.graph.paths(x.entity, x.other_entity),
        lambda t, x: t.graph.paths(x.entity_id, x.entity_id),
    ],
    "graph.mentioned": [lambda t, x: t.graph.mentioned([x.entity, x.other_entity])],
    "graph.stats": [lambda t, x: t.graph.stats()],
    "graph.delete_before": [lambda t, x: t.graph.delete_before(FAR)],
}
STATES: dict[str, list[Attack]] = {
    "agent_state.save": [
        lambda t, x: t.agent_state.save(x.agent_id, {"mine": 1}),
        lambda t, x: t.agent_state.save(x.agent_id, {"mine": 1}, expected_version=1),
    ],
    "agent_state.get": [lambda t, x: t.agent_state.get(x.agent_id)],
    "agent_state.list": [
        lambda t, x: t.agent_state.list(),
        lambda t, x: t.agent_state.list(agent_type=x.agent_type),
        lambda t, x: t.agent_state.list(limit=1, cursor=x.cursors["agent_state"]),
    ],
    "agent_state.delete": [
        lambda t, x: t.agent_state.delete(x.agent_id),
        lambda t, x: t.agent_state.delete(x.agent_id, expected_version=1),
    ],
    "agent_state.verify": [
        lambda t, x: t.agent_state.verify(),
        lambda t, x: t.agent_state.verify(limit=1, cursor=x.cursors["verify"]),
    ],
    "workflow_state.create": [lambda t, x: t.workflow_state.create(x.workflow_id, {"mine": 1})],
    "workflow_state.save": [
        lambda t, x: t.workflow_state.save(x.workflow_id, {"mine": 1}),
        lambda t, x: t.workflow_state.save(x.workflow_id, {"mine": 1}, expected_version=1),
    ],
    "workflow_state.get": [lambda t, x: t.workflow_state.get(x.workflow_id)],
    "workflow_state.transition": [lambda t, x: t.workflow_state.transition(x.workflow_id, "running")],
    "workflow_state.advance": [lambda t, x: t.workflow_state.advance(x.running_workflow_id, 3)],
    "workflow_state.list": [
        lambda t, x: t.workflow_state.list(),
        lambda t, x: t.workflow_state.list(status="running"),
        lambda t, x: t.workflow_state.list(limit=1, cursor=x.cursors["workflow_state"]),
    ],
    "workflow_state.counts": [lambda t, x: t.workflow_state.counts()],
    "workflow_state.delete": [
        lambda t, x: t.workflow_state.delete(x.workflow_id),
        lambda t, x: t.workflow_state.delete(x.running_workflow_id, expected_version=1),
    ],
    "workflow_state.prune": [lambda t, x: t.workflow_state.prune(before=FAR)],
    "procedures.record": [lambda t, x: t.procedures.record(x.procedure_scope, x.procedure_key, x.procedure_value)],
    "procedures.record_transition": [
        lambda t, x: t.procedures.record_transition(x.procedure_scope, x.procedure_key, x.procedure_value, "mine")
    ],
    "procedures.get": [lambda t, x: t.procedures.get(x.procedure_scope, x.procedure_key, x.procedure_value)],
    "procedures.frequency": [
        lambda t, x: t.procedures.frequency(x.procedure_scope, x.procedure_key, x.procedure_value)
    ],
    "procedures.learned": [
        lambda t, x: t.procedures.learned(scope=x.procedure_scope, key=x.procedure_key, min_frequency=1),
        lambda t, x: t.procedures.learned(),
        lambda t, x: t.procedures.learned(limit=1, cursor=x.cursors["procedures"]),
    ],
    "procedures.predict": [lambda t, x: t.procedures.predict(x.procedure_scope, x.procedure_key)],
    "procedures.predict_next": [
        lambda t, x: t.procedures.predict_next(x.procedure_scope, x.procedure_key, x.procedure_value)
    ],
    "procedures.delete": [lambda t, x: t.procedures.delete(x.procedure_scope, x.procedure_key, x.procedure_value)],
    "procedures.forget": [
        lambda t, x: t.procedures.forget(x.procedure_scope),
        lambda t, x: t.procedures.forget(x.procedure_scope, x.procedure_key),
    ],
    "procedures.prune": [
        lambda t, x: t.procedures.prune(before=FAR),
        lambda t, x: t.procedures.prune(before=FAR, below_frequency=9),
    ],
}
SESSIONS: dict[str, list[Attack]] = {
    "sessions.create": [lambda t, x: t.sessions.create(id=x.session_id)],
    "sessions.get": [lambda t, x: t.sessions.get(x.session_id)],
    "sessions.update": [
        lambda t, x: t.sessions.update(x.session_id, data={"mine": 1}),
        lambda t, x: t.sessions.update(x.session_id, status="archived", expected_version=1),
        lambda t, x: t.sessions.update(x.session_id, ttl_s=None),
    ],
    "sessions.delete": [
        lambda t, x: t.sessions.delete(x.session_id),
        lambda t, x: t.sessions.delete(x.session_to_delete),
    ],
    "sessions.list": [
        lambda t, x: t.sessions.list(),
        lambda t, x: t.sessions.list(status="expired"),
        lambda t, x: t.sessions.list(status="active"),
        lambda t, x: t.sessions.list(limit=1, cursor=x.cursors["sessions"]),
    ],
    "sessions.count": [
        lambda t, x: t.sessions.count(),
        lambda t, x: t.sessions.count(status="expired"),
        lambda t, x: t.sessions.count(status="active"),
    ],
    "sessions.expire": [lambda t, x: t.sessions.expire()],
    "sessions.delete_expired": [lambda t, x: t.sessions.delete_expired()],
    "artifacts.put": [
        lambda t, x: t.artifacts.put(x.session_id, "mine", b"mine"),
        lambda t, x: t.artifacts.put(x.session_id, "mine", b"m" * 1_100_000),
        put_child,
        put_same_content,
        put_large_content,
    ],
    "artifacts.get": [lambda t, x: t.artifacts.get(x.artifact_id)],
    "artifacts.read": [lambda t, x: t.artifacts.read(x.artifact_id)],
    "artifacts.stream": [lambda t, x: collected(t.artifacts.stream(x.artifact_id))],
    "artifacts.download": [download],
    "artifacts.list": [
        lambda t, x: t.artifacts.list(),
        lambda t, x: t.artifacts.list(type="custom"),
        lambda t, x: t.artifacts.list(session=x.session_id),
        lambda t, x: t.artifacts.list(limit=1, cursor=x.cursors["artifacts"]),
    ],
    "artifacts.update": [
        lambda t, x: t.artifacts.update(x.artifact_id, name="mine"),
        lambda t, x: t.artifacts.update(x.artifact_id, tags=[], expected_revision=1),
    ],
    "artifacts.delete": [
        lambda t, x: t.artifacts.delete(x.artifact_id),
        lambda t, x: t.artifacts.delete(x.large_artifact_id),
    ],
    "artifacts.stats": [lambda t, x: t.artifacts.stats(), lambda t, x: t.artifacts.stats(session=x.session_id)],
    "artifacts.verify": [lambda t, x: t.artifacts.verify(x.artifact_id)],
    "artifacts.collect_garbage": [lambda t, x: t.artifacts.collect_garbage()],
}
LOGS: dict[str, list[Attack]] = {
    "event_log.append": [
        lambda t, x: t.event_log.append(
            x.event_type, {"mine": 1}, id=x.event_id, at=EVENT_AT, correlation_id=x.correlation_id
        )
    ],
    "event_log.append_many": [
        lambda t, x: t.event_log.append_many([NewEvent(type=x.event_type, id=x.event_id, at=EVENT_AT)])
    ],
    "event_log.get": [lambda t, x: t.event_log.get(x.event_id), lambda t, x: t.event_log.get(x.event_id, at=EVENT_AT)],
    "event_log.list": [
        lambda t, x: t.event_log.list(),
        lambda t, x: t.event_log.list(type=f"{x.event_type}.*", descending=False),
        lambda t, x: t.event_log.list(correlation_id=x.correlation_id, since=EVENT_AT, until=FAR),
        lambda t, x: t.event_log.list(limit=1, cursor=x.cursors["event_log"]),
    ],
    "event_log.tail": [
        lambda t, x: t.event_log.tail(),
        lambda t, x: t.event_log.tail(type=x.event_type, correlation_id=x.correlation_id),
    ],
    "event_log.count": [
        lambda t, x: t.event_log.count(),
        lambda t, x: t.event_log.count(type=x.event_type, correlation_id=x.correlation_id),
    ],
    "event_log.stats": [lambda t, x: t.event_log.stats()],
    "event_log.prune": [lambda t, x: t.event_log.prune(FAR)],
    "hook_history.record": [
        lambda t, x: t.hook_history.record(hook(x, id=x.execution_id, correlation_id=x.correlation_id))
    ],
    "hook_history.record_many": [lambda t, x: t.hook_history.record_many([hook(x, id=x.execution_id)])],
    "hook_history.get": [lambda t, x: t.hook_history.get(x.execution_id)],
    "hook_history.list": [
        lambda t, x: t.hook_history.list(include_context=True),
        lambda t, x: t.hook_history.list(hook_id=x.hook_id),
        lambda t, x: t.hook_history.list(hook_type=x.hook_type, correlation_id=x.correlation_id),
        lambda t, x: t.hook_history.list(limit=1, cursor=x.cursors["hook_history"]),
    ],
    "hook_history.delete": [lambda t, x: t.hook_history.delete(x.execution_id)],
    "hook_history.statistics": [
        lambda t, x: t.hook_history.statistics(),
        lambda t, x: t.hook_history.statistics(hook_id=x.hook_id),
    ],
    "hook_history.prune": [
        lambda t, x: t.hook_history.prune(before=FAR),
        lambda t, x: t.hook_history.prune(before=FAR, below_priority=9),
    ],
    "hook_history.apply_retention": [
        lambda t, x: t.hook_history.apply_retention(
            RetentionPolicy(max_age_days=0.0001, executions_min=0, priority_extra_days=0)
        ),
        lambda t, x: t.hook_history.apply_retention(RetentionPolicy(max_age_days=0.0001, executions_min=1)),
    ],
    "audit.record": [lambda t, x: t.audit.record(x.operation, principal=x.principal, resource=x.resource)],
    "audit.record_many": [
        lambda t, x: t.audit.record_many(
            [NewAuditEntry(operation=x.operation, principal=x.principal, resource=x.resource)]
        )
    ],
    "audit.get": [lambda t, x: t.audit.get(2)],
    "audit.list": [
        lambda t, x: t.audit.list(),
        lambda t, x: t.audit.list(operation=x.operation),
        lambda t, x: t.audit.list(principal=x.principal),
        lambda t, x: t.audit.list(decision="allow"),
        lambda t, x: t.audit.list(limit=1, cursor=x.cursors["audit"]),
    ],
    "audit.head": [lambda t, x: t.audit.head()],
    "audit.verify": [
        lambda t, x: t.audit.verify(),
        lambda t, x: t.audit.verify(anchor=AuditHead(sequence=1, entry_hash=x.audit_hash)),
    ],
}
JOBS: dict[str, list[Attack]] = {
    "jobs.enqueue": [
        lambda t, x: t.jobs.enqueue(x.job_kind, {"mine": 1}, dedupe_key=x.dedupe_key),
        lambda t, x: t.jobs.enqueue("mine", id=x.job_id),
        count_after_pending,
    ],
    "jobs.get": [lambda t, x: t.jobs.get(x.job_id), lambda t, x: t.jobs.get(x.lease.job.id)],
    "jobs.list": [
        lambda t, x: t.jobs.list(),
        lambda t, x: t.jobs.list(state="dead"),
        lambda t, x: t.jobs.list(kind=x.job_kind),
        lambda t, x: t.jobs.list(limit=1, cursor=x.cursors["jobs"]),
    ],
    "jobs.cancel": [lambda t, x: t.jobs.cancel(x.job_id), lambda t, x: t.jobs.cancel(x.lease.job.id)],
    "jobs.retry": [lambda t, x: t.jobs.retry(x.dead_job_id)],
    "jobs.counts": [lambda t, x: t.jobs.counts()],
    "jobs.prune": [lambda t, x: t.jobs.prune(FAR), lambda t, x: t.jobs.prune(FAR, dead=True)],
    "queue.of": [
        lambda t, x: queue(t).of(t.id).get(x.job_id),
        lambda t, x: queue(t).of(t.id).cancel(x.job_id),
        lambda t, x: queue(t).of(t.id).list(cursor=x.cursors["jobs"]),
    ],
    "queue.lease": [
        lambda t, x: queue(t).lease(worker="mine", tenants=[t.id], limit=50),
        lambda t, x: queue(t).lease(worker="mine", kinds=[x.job_kind], tenants=[t.id]),
    ],
    "queue.heartbeat": [lambda t, x: queue(t).heartbeat(leased(t, x), message="mine")],
    "queue.complete": [lambda t, x: queue(t).complete(leased(t, x), {"mine": 1})],
    "queue.fail": [lambda t, x: queue(t).fail(leased(t, x), "mine")],
    "queue.release": [lambda t, x: queue(t).release(leased(t, x))],
}
KEYS: dict[str, list[Attack]] = {
    "api_keys.set": [lambda t, x: t.api_keys.set(x.service, "mine")],
    "api_keys.rotate": [lambda t, x: t.api_keys.rotate(x.service, "mine")],
    "api_keys.get": [lambda t, x: t.api_keys.get(x.service)],
    "api_keys.find": [lambda t, x: t.api_keys.find(x.service)],
    "api_keys.get_secret": [lambda t, x: t.api_keys.get_secret(api_key_ref(x.service))],
    "api_keys.reveal": [lambda t, x: t.api_keys.reveal(x.service)],
    "api_keys.list": [
        lambda t, x: t.api_keys.list(),
        lambda t, x: t.api_keys.list(service=x.service),
        lambda t, x: t.api_keys.list(limit=1, cursor=x.cursors["api_keys"]),
    ],
    "api_keys.deactivate": [lambda t, x: t.api_keys.deactivate(x.service)],
    "api_keys.delete": [lambda t, x: t.api_keys.delete(x.service)],
    "api_keys.expire": [lambda t, x: t.api_keys.expire()],
    "api_keys.prune": [lambda t, x: t.api_keys.prune(before=FAR)],
    "api_keys.stats": [lambda t, x: t.api_keys.stats()],
    "api_keys.reseal_all": [
        lambda t, x: t.api_keys.reseal_all(),
        lambda t, x: t.api_keys.reseal_all(after=x.api_key_id),
    ],
    "access_keys.issue": [lambda t, x: t.access_keys.issue(name=x.principal, scopes=["read"])],
    "access_keys.get": [lambda t, x: t.access_keys.get(x.access_key_id)],
    "access_keys.list": [
        lambda t, x: t.access_keys.list(),
        lambda t, x: t.access_keys.list(status="active"),
        lambda t, x: t.access_keys.list(limit=1, cursor=x.cursors["access_keys"]),
    ],
    "access_keys.revoke": [lambda t, x: t.access_keys.revoke(x.access_key_id)],
    "access_keys.rotate": [lambda t, x: t.access_keys.rotate(x.access_key_id)],
    "access_keys.expire": [lambda t, x: t.access_keys.expire()],
    "access_keys.prune": [lambda t, x: t.access_keys.prune(before=FAR)],
    "spell.authenticate": [lambda t, x: t._spell.authenticate(forged_key(t, x))],
}
HANDLES: dict[str, list[Attack]] = {
    "tenant.context": [
        lambda t, x: t.context(f"{x.word} {x.entity}"),
        lambda t, x: t.context(x.entity, session=x.memory_session, filters=where(x), known_at=FAR),
    ],
    "tenant.transaction": [use_transaction],
    "tenant.run": [lambda t, x: run_under(t, x.run_key, x), lambda t, x: run_under(t, x.idempotency_key, x)],
    "tenant.once": [
        lambda t, x: t.once(x.idempotency_key).kv.set(x.kv_key, b"mine"),
        lambda t, x: t.once(x.run_key).memory.add("mine", id=x.memory_id),
    ],
    "transaction.savepoint": [use_savepoint],
}


async def answered(value: Any) -> Any:
    """What a method that waits for nothing gives."""
    return value


ATTACKS: dict[str, list[Attack]] = {
    **KV,
    **MEMORY,
    **GRAPH,
    **STATES,
    **SESSIONS,
    **LOGS,
    **JOBS,
    **KEYS,
    **HANDLES,
    **STORAGE_ATTACKS,
}
