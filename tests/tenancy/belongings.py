"""What a tenant has, by the names under which somebody else could ask for it.

`invented(random)` are names that nobody has; `fill(tenant, names, marks)` makes them a tenant's: rows in every stem, in every field
of which stands a mark of its own. `Marks` knows all that it gave, so that any of them can be looked for in what others are told.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from llmspell.clock import ManualClock
from llmspell.memory.state import StateScope
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution
from llmspell.storage.contracts.jobs import Job, LeasedJob

MARK = re.compile(r"mk[0-9a-f]{14}")
EVENT_AT = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
VALID_FROM = datetime(2025, 6, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)
"""Beyond everything: what is pruned before it is everything that may be pruned."""
EXPIRING_S = 60.0
LATER_S = 600.0
"""After this, what lives for `EXPIRING_S` has expired."""
FINGERPRINT = b"f" * 32
UNNAMED = ("artifact_id", "large_artifact_id", "content_hash", "large_content", "pepper", "sealed")
"""What stands as it is where answers are compared: it is made of other names, or is nothing that can be told apart."""
CURSORS = (
    *("sessions", "artifacts", "audit", "procedures", "agent_state", "workflow_state", "event_log", "hook_history"),
    *("memory", "jobs", "api_keys", "access_keys", "verify"),
)


class Marks:
    """Makes marks, each once, and finds them again."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.given: set[str] = set()

    def __call__(self) -> str:
        mark = f"mk{self._random.getrandbits(56):014x}"
        self.given.add(mark)
        return mark

    def found_in(self, text: str) -> set[str]:
        """Return the marks that stand in a text."""
        return set(MARK.findall(text)) & self.given


class Belongings(msgspec.Struct, kw_only=True):
    """Names, ids and secrets of what a tenant has. Those of `invented` have the same shapes, and belong to nobody."""

    tenant: str
    kv_key: str
    state_id: str
    state_key: str
    memory_id: UUID
    deleted_memory_id: UUID
    memory_session: str
    role: str
    word: str
    vector_id: UUID
    scope: str
    embedding: list[float]
    memory_embedding: list[float]
    entity: str
    other_entity: str
    entity_type: str
    predicate: str
    single_predicate: str
    entity_id: UUID
    fact_id: UUID
    agent_id: str
    agent_type: str
    workflow_id: str
    running_workflow_id: str
    session_id: UUID
    session_to_delete: UUID
    artifact_id: str
    content: bytes
    content_hash: str
    large_content: bytes
    large_artifact_id: str
    event_id: UUID
    event_type: str
    correlation_id: UUID
    execution_id: UUID
    hook_id: str
    hook_type: str
    idempotency_key: str
    run_key: str
    job_id: UUID
    dead_job_id: UUID
    job_kind: str
    dedupe_key: str
    lease: LeasedJob
    service: str
    api_key_id: UUID
    access_key_id: UUID
    access_key_secret: bytes
    pepper: str
    sealed: bytes
    principal: str
    operation: str
    resource: str
    audit_hash: str
    procedure_scope: str
    procedure_key: str
    procedure_value: str
    metadata_key: str
    metadata_value: str
    cursors: dict[str, str]

    def told(self) -> dict[str, str]:
        """Every name as a text, longest first, with what to call it where two answers are compared."""
        texts: dict[str, str] = {}
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, dict):
                texts |= {text: f"<{field}.{name}>" for name, text in value.items()}
            elif isinstance(value, LeasedJob):
                texts |= {str(value.lease_id): "<lease>"}
            elif field in UNNAMED:
                continue
            elif isinstance(value, (str, UUID)):
                texts[str(value)] = f"<{field}>"
            elif isinstance(value, bytes):
                texts[value.decode("latin-1")] = f"<{field}>"
        shortened = {text[:80]: name for text, name in texts.items() if len(text) > 80}
        return dict(sorted((texts | shortened).items(), key=lambda item: -len(item[0])))


def invented(seed: int, marks: Marks) -> Belongings:
    """Return names that nobody has."""
    chance = random.Random(seed)

    def an_id() -> UUID:
        """Of version 7, long ago, so that it is no name of anything that is made now."""
        return UUID(int=0x0190_0000_0000 << 80 | 0x7 << 76 | 0b10 << 62 | chance.getrandbits(62))

    def a_vector(size: int) -> list[float]:
        return [chance.uniform(-1, 1) for _ in range(size)]

    session, content_hash = an_id(), f"{chance.getrandbits(256):064x}"
    texts = {
        name: marks()
        for name, kind in Belongings.__annotations__.items()
        if kind == "str"
        and name
        not in (
            "tenant",
            "artifact_id",
            "large_artifact_id",
            "content_hash",
            "audit_hash",
            "word",
            "event_type",
            "pepper",
        )
    }
    ids = {name: an_id() for name, kind in Belongings.__annotations__.items() if kind == "UUID"} | {
        "session_id": session
    }
    return Belongings(
        tenant=f"tenant-{marks()}",
        **texts,
        **ids,
        word=marks(),
        event_type=f"type.{marks()}",
        embedding=a_vector(384),
        memory_embedding=a_vector(384),
        artifact_id=f"{session}:0:{content_hash}",
        large_content=marks().encode() * 80_000,  # large enough for chunks
        large_artifact_id=f"{session}:2:{content_hash}",
        content=f"content of {marks()}".encode(),
        content_hash=content_hash,
        audit_hash=f"{chance.getrandbits(256):064x}",
        access_key_secret=chance.randbytes(32),
        pepper="store",
        sealed=chance.randbytes(60),
        lease=_lease(an_id(), an_id()),
        cursors={name: base64.urlsafe_b64encode(chance.randbytes(80)).decode().rstrip("=") for name in CURSORS},
    )


def _lease(job_id: UUID, lease_id: UUID) -> LeasedJob:
    fields: dict[str, Any] = dict.fromkeys(Job.__struct_fields__)
    job = Job(
        **fields
        | {
            "id": job_id,
            "kind": "work",
            "payload": {},
            "state": "running",
            "priority": 0,
            "attempt": 1,
            "max_attempts": 5,
        }
        | {"run_at": EVENT_AT, "cancel_requested": False, "created_at": EVENT_AT, "updated_at": EVENT_AT}
    )
    return LeasedJob(tenant="", lease_id=lease_id, token=1, job=job)  # type: ignore[arg-type]


async def fill(
    spell: Spell, names: Belongings, marks: Marks, *, rows: int = 2, same_again: Callable[[], None] = lambda: None
) -> Belongings:
    """Give a tenant rows of these names in every stem, and return the names with the ids that the store made up.

    Cursors are of pages of one, so that there is more behind each. Some rows expire after `EXPIRING_S`. `same_again` is called
    before each stem: what `same_ids` gives lets tenants of different numbers of rows have the same first ones.
    """
    tenant = spell.tenant(names.tenant)
    await tenant.kv.set(names.kv_key, marks().encode())
    made: dict[str, Any] = {}
    same_again()
    await _fill_memories(tenant, names, marks, rows)
    same_again()
    made |= await _fill_graph(tenant, names, marks, rows)
    same_again()
    await _fill_states(tenant, names, marks, rows)
    same_again()
    made |= await _fill_sessions(tenant, names, marks, rows)
    same_again()
    await _fill_logs(tenant, names, marks, rows)
    same_again()
    made |= await _fill_jobs(spell, tenant, names, marks, rows)
    same_again()
    made |= await _fill_keys(tenant, names, marks, rows)
    filled = msgspec.structs.replace(names, **made)
    return msgspec.structs.replace(filled, cursors=await cursors_of(tenant, filled))


async def _fill_memories(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> None:
    given: dict[str, Any] = {"embedding": names.memory_embedding, "at": EVENT_AT}
    for number, id in enumerate((names.memory_id, names.deleted_memory_id, *[None] * rows)):
        await tenant.memory.add(
            f"{names.word} said {marks()}",
            id=id,
            session=names.memory_session if number < 3 else marks(),
            role=names.role if number < 3 else marks(),
            metadata={names.metadata_key: names.metadata_value, marks(): [marks(), {marks(): marks()}]},
            actor=marks(),
            ttl_s=EXPIRING_S if number > 2 else None,
            **given,
        )
    await tenant.memory.update(names.memory_id, text=f"{names.word} has said {marks()}", actor=marks(), reason=marks())
    await tenant.memory.delete(names.deleted_memory_id, actor=marks(), reason=marks())
    await tenant.memory.add(f"Embedded by the model: {marks()}", session=names.memory_session)
    async with tenant.transaction() as tx:
        await tx.memory.add(f"Pending: {marks()}", session=names.memory_session)
    await tenant.vectors.insert(
        [
            {
                "id": id,
                "embedding": names.embedding,
                "scope": names.scope if number < 2 else marks(),
                "metadata": {names.metadata_key: names.metadata_value, marks(): marks()},
            }
            for number, id in enumerate((names.vector_id, *[None] * rows))
        ]
    )
    for dimension in (768, 1536, 3072):
        await tenant.vectors.insert(
            {
                "id": UUID(int=names.vector_id.int + dimension),
                "embedding": names.embedding * (dimension // 384),
                "scope": names.scope,
                "metadata": {names.metadata_key: names.metadata_value, marks(): marks()},
            }
        )
        for _ in range(rows):
            await tenant.vectors.insert({"embedding": names.embedding * (dimension // 384), "scope": marks()})


async def _fill_graph(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> dict[str, Any]:
    graph = tenant.graph
    said: dict[str, Any] = {"valid_from": VALID_FROM}
    await graph.declare(names.single_predicate, "one")
    entity = await graph.upsert_entity(
        names.entity, type=names.entity_type, properties={marks(): marks()}, source=marks(), actor=marks(), **said
    )
    await graph.upsert_entity(names.entity, properties={marks(): marks()}, actor=marks(), **said)
    fact = await graph.assert_fact(
        *(names.entity, names.predicate, names.other_entity),
        properties={marks(): marks()},
        source=marks(),
        actor=marks(),
        **said,
    )
    await graph.assert_fact(
        names.entity, names.single_predicate, names.other_entity, source=marks(), actor=marks(), **said
    )
    await graph.correct(fact.id, properties={marks(): marks()}, source=marks(), actor=marks())
    for _ in range(rows):
        await graph.assert_fact(names.entity, names.predicate, marks(), source=marks(), actor=marks(), **said)
        await graph.assert_fact(
            names.entity, names.single_predicate, marks(), valid_from=VALID_FROM + timedelta(days=9)
        )
        await graph.assert_fact(marks(), marks(), names.other_entity, subject_type=marks(), object_type=marks(), **said)
    return {"entity_id": entity.id, "fact_id": fact.id}


async def _fill_states(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> None:
    scope = StateScope.User(names.state_id)
    await tenant.state.set(scope, names.state_key, {marks(): marks()})
    await tenant.kv.set_batch({marks(): marks().encode() for _ in range(rows)}, ttl_s=EXPIRING_S)
    await tenant.state.set_many(scope, {marks(): marks() for _ in range(rows)})
    for id in (names.agent_id, *(marks() for _ in range(rows))):
        await tenant.agent_state.save(id, {marks(): marks()}, agent_type=names.agent_type)
    for id in (names.workflow_id, names.running_workflow_id, *(marks() for _ in range(rows))):
        await tenant.workflow_state.create(id, {marks(): marks()}, name=marks())
    await tenant.workflow_state.transition(names.running_workflow_id, "running")
    ended = marks()
    await tenant.workflow_state.create(ended, {marks(): marks()})
    await tenant.workflow_state.transition(ended, "cancelled")
    for value in (names.procedure_value, *(marks() for _ in range(rows))):
        await tenant.procedures.record(names.procedure_scope, names.procedure_key, value, count=5)
        await tenant.procedures.record_transition(
            names.procedure_scope, names.procedure_key, names.procedure_value, value
        )
    await tenant.procedures.record(names.procedure_scope, marks(), marks())


async def _fill_sessions(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> dict[str, Any]:
    for id in (names.session_id, names.session_to_delete, *[None] * rows):
        ttl_s = EXPIRING_S if id is None else None
        session = await tenant.sessions.create(id=id, data={marks(): marks()}, ttl_s=ttl_s)
        for number in range(2):
            first = number == 0 and id == names.session_id
            artifact = await tenant.artifacts.put(
                session.id,
                marks(),
                names.content if first else f"content {marks()}".encode(),
                mime_type=f"text/{marks()}",
                metadata={marks(): marks()},
                tags=[marks()],
                created_by=marks(),
            )
            if first:
                made = {"artifact_id": artifact.id, "content_hash": artifact.content_hash}
    large = await tenant.artifacts.put(names.session_id, marks(), names.large_content, parent=made["artifact_id"])
    return made | {"large_artifact_id": large.id}


async def _fill_logs(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> None:
    more = [
        NewEvent(type=f"{names.event_type}.{marks()}", payload={marks(): marks()}, correlation_id=names.correlation_id)
        for _ in range(rows)
    ]
    await tenant.event_log.append(
        names.event_type, {marks(): marks()}, id=names.event_id, at=EVENT_AT, correlation_id=names.correlation_id
    )
    await tenant.event_log.append_many(more)
    for id in (names.execution_id, *[None] * rows):
        await tenant.hook_history.record(
            NewHookExecution(
                id=id,
                hook_id=names.hook_id,
                hook_type=names.hook_type,
                triggering_component=marks(),
                component_id=marks(),
                context={marks(): marks()},
                result_data={marks(): marks()},
                correlation_id=names.correlation_id,
                tags=[marks()],
                metadata={marks(): marks()},
                at=EVENT_AT,
            )
        )
    for _ in range(rows + 1):
        await tenant.audit.record(
            names.operation,
            principal=names.principal,
            resource=names.resource,
            reason=marks(),
            details={marks(): marks()},
        )


async def _fill_jobs(spell: Spell, tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> dict[str, Any]:
    queue = spell._backend.job_queue
    leased: list[LeasedJob] = []
    for number in range(2):  # of `memories.embed`, which the pending memory needs, is one already
        kind = marks() if number == 0 else "work"
        id = names.dead_job_id if number == 0 else None
        await tenant.jobs.enqueue(kind, {marks(): marks()}, id=id, max_attempts=1)
        leased += await queue.lease(worker=marks(), kinds=[kind], tenants=[tenant.id])  # type: ignore[list-item]
    await queue.heartbeat(leased[1], message=marks(), done=1, total=2)
    await queue.fail(leased[0], f"it failed: {marks()}", error_class=marks(), retryable=False)
    await tenant.jobs.enqueue(names.job_kind, {marks(): marks()}, id=names.job_id, dedupe_key=names.dedupe_key)
    for _ in range(rows):
        done = await tenant.jobs.enqueue(names.job_kind, {marks(): marks()}, dedupe_key=marks())
        await tenant.jobs.cancel(done.id)
    ended = await tenant.jobs.enqueue(marks(), {})
    (lease,) = await queue.lease(worker=marks(), kinds=[ended.kind], tenants=[tenant.id])  # type: ignore[list-item]
    await queue.complete(lease, {marks(): marks()})

    async def work(tx: Transaction) -> str:
        await tx.kv.set(marks(), marks().encode())
        return marks()

    async with tenant.transaction() as tx:
        for _ in range(2):
            keys, key = tx._storages.idempotency, marks()
            await keys.claim(key, operation="mine", fingerprint=FINGERPRINT, ttl_s=EXPIRING_S)
            await keys.record(key, marks().encode())
    await tenant.once(names.idempotency_key).kv.set(marks(), marks().encode())
    await tenant.run(work, idempotency_key=names.run_key)
    return {"lease": leased[1]}


async def _fill_keys(tenant: Tenant, names: Belongings, marks: Marks, rows: int) -> dict[str, Any]:
    from llmspell.security.access_keys import _from_base32

    issued = await tenant.access_keys.issue(name=marks(), principal=names.principal, scopes=["read"], actor=marks())
    info = await tenant.api_keys.set(names.service, marks(), metadata={marks(): marks()}, actor=marks())
    for number in range(rows + 1):
        ttl_s = EXPIRING_S if number == 0 else None
        await tenant.api_keys.set(marks(), marks(), metadata={marks(): marks()}, actor=marks(), ttl_s=ttl_s)
    retired = marks()
    await tenant.api_keys.set(retired, marks())
    await tenant.api_keys.deactivate(retired)
    for number in range(rows):
        given = {"ttl_s": EXPIRING_S} if number == 0 else {}
        other = await tenant.access_keys.issue(name=marks(), principal=marks(), scopes=["kv:read"], **given)  # type: ignore[arg-type]
        if number:
            await tenant.access_keys.revoke(other.info.key_id, reason=marks(), actor=marks())
    secret = _from_base32(issued.key.reveal().split("_")[3])[:32]
    head = await tenant.audit.head()
    return {
        "api_key_id": info.key_id,
        "access_key_id": issued.info.key_id,
        "access_key_secret": secret,
        "pepper": issued.info.pepper,
        "sealed": sealed.sealed if (sealed := await tenant._storages.api_keys.find_sealed(names.service)) else b"",
        "audit_hash": head.entry_hash,
    }


async def cursors_of(tenant: Tenant, names: Belongings) -> dict[str, str]:
    """Return a cursor of every list that a tenant has, as signed for that tenant."""
    pages: dict[str, Any] = {
        "sessions": tenant.sessions.list(limit=1),
        "artifacts": tenant.artifacts.list(limit=1),
        "audit": tenant.audit.list(limit=1),
        "procedures": tenant.procedures.learned(limit=1),
        "agent_state": tenant.agent_state.list(limit=1),
        "workflow_state": tenant.workflow_state.list(limit=1),
        "event_log": tenant.event_log.list(limit=1),
        "hook_history": tenant.hook_history.list(limit=1),
        "memory": tenant.memory.list(limit=1),
        "jobs": tenant.jobs.list(limit=1),
        "api_keys": tenant.api_keys.list(limit=1),
        "access_keys": tenant.access_keys.list(limit=1),
        "verify": tenant.agent_state.verify(limit=1),
    }
    return {name: (await page).next_cursor for name, page in pages.items()}


@contextmanager
def same_ids(spell: Spell, seed: int) -> Iterator[Callable[[], None]]:
    """Let the store make up the same ids as in any other such block: tenants that do the same have the same.

    What is yielded begins anew with the same ids.
    """
    with pytest.MonkeyPatch.context() as patch:

        def same_again() -> None:
            patch.setattr("llmspell.ids.secrets.token_bytes", random.Random(seed).randbytes)
            patch.setattr(spell._ids, "_tick", 0)

        same_again()
        yield same_again


async def filled_tenant(spell: Spell, clock: ManualClock, seed: int, *, rows: int) -> tuple[Belongings, Marks]:
    """Register a tenant, fill it, and let the time pass after which a part of it has expired."""
    marks = Marks(seed)
    names = invented(seed, marks)
    await spell.tenants.create(names.tenant)
    filled = await fill(spell, names, marks, rows=rows)
    clock.advance(seconds=LATER_S)
    return filled, marks


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    """Return all that an iterator gives."""
    return [item async for item in items]
