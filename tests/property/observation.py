"""Everything that can be read of a store: what two stores must agree on whenever somebody looks.

It looks through the storages themselves, as an operator would, so that a suspended tenant is seen too where that is served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from tests.property.drawn_values import NAMES, VECTORS_OF, WORDS
from tests.property.drawn_verbs import SERVICES, WORKFLOWS

from llmspell.errors import LlmspellError
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.memories import MemoryQuery
from llmspell.storage.contracts.sessions import SESSION_STATUSES
from llmspell.testing.contract import packed

Told = Callable[..., Awaitable[Any]]
PAGE = 40
PAGES_MAX = 1_000


async def paged(page: Callable[[str | None], Awaitable[Any]]) -> list[Any]:
    """Return all items of a list."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        one = await page(cursor)
        found += one.items
        cursor = one.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the pages do not end")


class Notes(list[tuple[str, Any]]):
    """What was found, each part with its name."""

    async def __call__(self, label: str, answer: Callable[[], Awaitable[Any]]) -> Any:
        """Note an answer, or the kind of error that is given instead."""
        try:
            result = await answer()
        except LlmspellError as error:
            result = type(error).__name__
        self.append((label, result))
        return result


async def observed_inside(storages: Storages, tenant: str, stems: Collection[str]) -> Notes:
    """Return what a transaction of a tenant sees of these stems."""
    note = Notes()
    await _tenant(storages, tenant, note, stems)
    return note


async def observed(backend: Backend, tenants: Mapping[str, Collection[str]]) -> Notes:
    """Return what is there of these tenants, each with the stems to look at, and of the store."""
    note = Notes()
    stems = {stem for some in tenants.values() for stem in some}
    await note("tenants", lambda: paged(lambda cursor: backend.tenants.list(cursor=cursor, limit=2)))
    if stems & {"jobs", "jobs_queue"}:
        await note("queue", backend.job_queue.stats)
        await note("waiting", backend.job_queue.tenants_with_pending)
        await note("store jobs", lambda: paged(lambda cursor: backend.job_queue.store.list(cursor=cursor, limit=PAGE)))
    for tenant, some in tenants.items():
        record = await backend.tenants.get(tenant)  # type: ignore[arg-type]
        if record is None:
            continue
        await note(f"{tenant} usage", lambda tenant=tenant: backend.tenants.usage(tenant))  # type: ignore[misc]
        if stems & {"tenants", "audit", "api_keys", "access_keys"}:
            audit = backend.tenants.audit(tenant)  # type: ignore[arg-type]
            await note(f"{tenant} audit", lambda audit=audit: paged(lambda cursor: audit.list(cursor=cursor, limit=50)))  # type: ignore[misc]
            check = await note(f"{tenant} audit chain", audit.verify)
            assert check.intact, check
        if record.status == "active":
            await _tenant(backend.storages(tenant), tenant, note, some)  # type: ignore[arg-type]
    return note


async def _tenant(on: Storages, tenant: str, note: Notes, stems: Collection[str]) -> None:
    async def told(label: str, answer: Callable[[], Awaitable[Any]]) -> Any:
        return await note(f"{tenant} {label}", answer)

    for stem, look in LOOKS.items():
        if stem in stems:
            await look(on, told)


async def _kv(on: Storages, told: Told) -> None:
    keys = await told("keys", on.kv.list_keys)
    await told("values", lambda: on.kv.get_batch(keys))


async def _vectors(on: Storages, told: Told) -> None:
    await told("vectors", on.vectors.stats)
    for vector in (VECTORS_OF[384][0], VECTORS_OF[768][0]):
        await told("nearest", lambda vector=vector: on.vectors.search(vector, limit=100, include_embedding=True))  # type: ignore[misc]


async def _procedures(on: Storages, told: Told) -> None:
    await told(
        "learned", lambda: paged(lambda cursor: on.procedures.learned(min_frequency=1, cursor=cursor, limit=PAGE))
    )


async def _agent_state(on: Storages, told: Told) -> None:
    await told("agents", lambda: paged(lambda cursor: on.agent_state.list(cursor=cursor, limit=PAGE)))
    await told("damaged agents", on.agent_state.verify)


async def _workflow_state(on: Storages, told: Told) -> None:
    await told("workflows", lambda: paged(lambda cursor: on.workflow_state.list(cursor=cursor, limit=PAGE)))
    for workflow in WORKFLOWS:
        await told("workflow", lambda workflow=workflow: on.workflow_state.get(workflow))  # type: ignore[misc]


async def _event_log(on: Storages, told: Told) -> None:
    await told("events", lambda: paged(lambda cursor: on.event_log.list(cursor=cursor, limit=50)))
    await told("tail", lambda: on.event_log.tail(limit=1_000))
    await told("event types", on.event_log.stats)


async def _hook_history(on: Storages, told: Told) -> None:
    await told(
        "hooks", lambda: paged(lambda cursor: on.hook_history.list(cursor=cursor, limit=50, include_context=True))
    )
    await told("hook statistics", on.hook_history.statistics)


async def _jobs(on: Storages, told: Told) -> None:
    await told("jobs", lambda: paged(lambda cursor: on.jobs.list(cursor=cursor, limit=50)))


async def _api_keys(on: Storages, told: Told) -> None:
    await told("provider keys", lambda: paged(lambda cursor: on.api_keys.list(cursor=cursor, limit=50)))
    await told("sealed keys", lambda: on.api_keys.list_sealed(limit=100))
    await told("key statistics", on.api_keys.stats)
    for service in SERVICES:
        await told("sealed", lambda service=service: on.api_keys.find_sealed(service))  # type: ignore[misc]


async def _access_keys(on: Storages, told: Told) -> None:
    access = await told("access keys", lambda: paged(lambda cursor: on.access_keys.list(cursor=cursor, limit=50)))
    for key in access[:10]:
        await told("credential", lambda key=key: on.access_keys.find(key.key_id))  # type: ignore[misc]


async def _memories(on: Storages, told: Told) -> None:
    records = await told("memories", lambda: on.memories.list(limit=1_000))
    await told("memory pages", lambda: on.memories.list_paginated(limit=1_000))
    await told("pending", lambda: on.memories.pending(limit=1_000))
    await told("unprocessed", on.memories.unprocessed_sessions)
    await told("adjacent", lambda: on.memories.adjacent([one.id for one in records[:100]]))
    for one in records[:10]:
        await told("memory history", lambda one=one: on.memories.history(one.id))  # type: ignore[misc]
    for text in (WORDS[0], " ".join(WORDS[1:5])):
        query = MemoryQuery(text=text, embedding=packed(VECTORS_OF[384][1]), space_id="space-a", candidates=50)
        await told("found", lambda query=query: on.memories.search(query))  # type: ignore[misc]


async def _graph(on: Storages, told: Told) -> None:
    await told("graph", on.graph.stats)
    await told("predicates", on.graph.predicates)
    await told("entities", lambda: on.graph.list_entities(limit=1_000))
    for name in NAMES:
        await told("entity history", lambda name=name: on.graph.entity_history(name))  # type: ignore[misc]
        facts = await told("facts", lambda name=name: on.graph.facts(subject=name, any_time=True, limit=1_000))  # type: ignore[misc]
        for fact in facts[:2]:
            await told("fact history", lambda fact=fact: on.graph.history(fact.id))  # type: ignore[misc]


async def _sessions(on: Storages, told: Told) -> None:
    await told("sessions", lambda: paged(lambda cursor: on.sessions.list(cursor=cursor, limit=PAGE)))
    for status in SESSION_STATUSES:
        await told("sessions", lambda status=status: on.sessions.list(status=status))  # type: ignore[misc]


async def _artifacts(on: Storages, told: Told) -> None:
    artifacts = await told("artifacts", lambda: paged(lambda cursor: on.artifacts.list(cursor=cursor, limit=PAGE)))
    for one in artifacts[:20]:
        await told("artifact", lambda one=one: on.artifacts.get(one.id))  # type: ignore[misc]
        await told("content", lambda one=one: on.artifacts.read(one.id))  # type: ignore[misc]
    await told("artifact statistics", on.artifacts.stats)


LOOKS: dict[str, Callable[[Storages, Told], Awaitable[None]]] = {
    "kv": _kv,
    "vectors": _vectors,
    "memories": _memories,
    "graph": _graph,
    "procedures": _procedures,
    "agent_state": _agent_state,
    "workflow_state": _workflow_state,
    "event_log": _event_log,
    "hook_history": _hook_history,
    "jobs": _jobs,
    "sessions": _sessions,
    "artifacts": _artifacts,
    "api_keys": _api_keys,
    "access_keys": _access_keys,
}
"""What can be read of each stem. Of `audit`, the queue of jobs and the tenants themselves, `observed` looks at more."""
EVERYTHING = frozenset({*LOOKS, "jobs_queue", "tenants", "audit"})
ALSO = {"jobs_queue": ("jobs",), "sessions": ("artifacts",), "artifacts": ("sessions",)}
"""Stems whose verbs change what others keep."""
