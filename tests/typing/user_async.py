"""What a user writes with the async API, and what a strict type checker must know of it. Checked, never run."""

from __future__ import annotations

import io
from array import array
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import assert_type
from uuid import UUID

import llmspell
from llmspell import ManualClock, Settings, Spell, StateScope, Tenant, Transaction
from llmspell.memory.context import Context, ContextItem
from llmspell.memory.memory import MemoryHit
from llmspell.memory.memory_input import MemoryInput
from llmspell.retrieval.explanation import Explanation
from llmspell.storage.contracts.agent_state import AgentState, AgentStateSummary
from llmspell.storage.contracts.artifacts import ArtifactRecord, ArtifactStats, ArtifactSummary
from llmspell.storage.contracts.backend import MigrationStatus, PoolStatus
from llmspell.storage.contracts.capabilities import BackendType, Capability
from llmspell.storage.contracts.graph import Cardinality, Entity, Fact, GraphStats, Path, Reached
from llmspell.storage.contracts.memories import MemoryRecord, MemoryVersion
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.procedures import Pattern, Prediction
from llmspell.storage.contracts.sessions import SessionRecord
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.contracts.vectors import VectorEntry, VectorHit, VectorRecord, VectorStats
from llmspell.storage.contracts.workflow_state import WorkflowState


async def open_and_close() -> None:
    async with llmspell.connect("memory://", settings=Settings(), embedder="hashing", clock=ManualClock()) as spell:
        assert_type(spell, Spell)
        assert_type(spell.backend, BackendType)
        assert_type(spell.capabilities, frozenset[Capability])
        assert_type(spell.tenant("acme"), Tenant)
        assert_type(spell.tenant(), Tenant)
        assert_type(await spell.tenants.create("acme", exist_ok=True), TenantRecord)
        assert_type(await spell.tenants.get("acme"), TenantRecord | None)
        assert_type(await spell.admin.run_migrations(), MigrationStatus)
        assert_type(await spell.admin.migration_version(), int)
        assert_type(spell.admin.pool_status(), PoolStatus)
    later = await llmspell.connect()
    assert_type(later, Spell)
    await later.close()


async def memories(acme: Tenant) -> None:
    kept = await acme.memory.add(
        "Ada moved.", session="s1", role="user", kind="preference", at="2026-05-01", metadata={"topic": ["travel"]}
    )
    assert_type(kept, MemoryRecord)
    assert_type(kept.at, datetime)
    many = await acme.memory.add_many([{"text": "one"}, MemoryInput(text="two")], skip_existing=True, progress=print)
    assert_type(many, list[MemoryRecord])
    hits = await acme.memory.search("Ada", limit=5, filters={"metadata.topic": {"$contains": "travel"}}, explain=True)
    assert_type(hits, list[MemoryHit])
    assert_type(hits[0].explanation, Explanation | None)
    assert_type(hits[0].similarity, float | None)
    assert_type(hits[0].text, str)
    await acme.memory.search("Ada", k=5, embedding=array("f", [1.0] * 384), min_score=0.2)
    await acme.memory.search("Ada", top_k=5)
    assert_type(await acme.memory.get(kept.id), MemoryRecord | None)
    page = await acme.memory.list(session="s1", order="created_at", descending=False, limit=10)
    assert_type(page, Page[MemoryRecord])
    assert_type(page.items, list[MemoryRecord])
    assert_type(page.next_cursor, str | None)
    await acme.memory.list(cursor=page.next_cursor)
    assert_type(await acme.memory.list_paginated(limit=5, offset=5), tuple[list[MemoryRecord], int])
    assert_type(await acme.memory.count(), int)
    assert_type(await acme.memory.update(str(kept.id), text="Ada left.", role=None, expected_version=1), MemoryRecord)
    assert_type(await acme.memory.delete(kept.id, actor="me", reason="asked"), bool)
    assert_type(await acme.memory.restore(kept.id), MemoryRecord)
    assert_type(await acme.memory.history(kept.id), list[MemoryVersion])
    assert_type(await acme.memory.forget(kept.id), bool)
    assert_type(await acme.memory.embed_pending(), int)


async def sessions(acme: Tenant) -> None:
    session = await acme.sessions.create(data={"user": "ada"}, ttl_s=60)
    assert_type(session, SessionRecord)
    assert_type(await acme.sessions.get(str(session.id)), SessionRecord | None)
    assert_type(await acme.sessions.update(session.id, status="archived", ttl_s=None), SessionRecord)
    assert_type(await acme.sessions.list(status="archived"), Page[SessionRecord])
    put = await acme.artifacts.put(session.id, "n", io.BytesIO(b"x"), type="tool_result", tags=["t"])
    assert_type(put, ArtifactRecord)
    assert_type(await acme.artifacts.read(put.id), bytes | None)
    assert_type(acme.artifacts.stream(put.id), AsyncIterator[bytes])
    assert_type(acme.memory.iterate(session="s1"), AsyncIterator[MemoryRecord])
    assert_type(await acme.artifacts.download(put.id, io.BytesIO()), int)
    assert_type(await acme.artifacts.list(session=session.id), Page[ArtifactSummary])
    assert_type(await acme.artifacts.stats(), ArtifactStats)
    assert_type(await acme.artifacts.delete(put.id), bool)


async def facts(acme: Tenant) -> None:
    fact = await acme.graph.assert_fact(
        "Ada",
        "lives_in",
        "Zurich",
        valid_from="2026-05-01",
        valid_to=datetime(2027, 1, 1, tzinfo=UTC),
        cardinality="one",
    )
    assert_type(fact, Fact)
    assert_type(fact.valid_to, datetime | None)
    assert_type(await acme.graph.correct(fact.id, object="Bern", valid_to=None), Fact)
    assert_type(await acme.graph.retract("Ada", "lives_in"), int)
    await acme.graph.declare("lives_in", "one")
    assert_type(await acme.graph.predicates(), dict[str, Cardinality])
    assert_type(await acme.graph.neighbours("Ada", as_of="2026-04-01", known_at="2026-04-01T09:00Z"), list[Fact])
    assert_type(await acme.graph.facts(predicate="lives_in", any_time=True), list[Fact])
    assert_type(await acme.graph.traverse("Ada", max_depth=3), list[Reached])
    assert_type(await acme.graph.paths("Ada", "Zurich"), list[Path])
    assert_type(await acme.graph.history(fact.id), list[Fact])
    assert_type(await acme.graph.upsert_entity("Ada", type="person"), Entity)
    assert_type(await acme.graph.get_entity(fact.subject_id), Entity | None)
    assert_type(await acme.graph.list_entities(type="person"), list[Entity])
    assert_type(await acme.graph.stats(), GraphStats)


async def vectors_and_keys(acme: Tenant) -> None:
    ids = await acme.vectors.insert([VectorEntry(embedding=[1.0] * 384), {"embedding": [0.5] * 384, "scope": "s"}])
    assert_type(ids, list[UUID])
    assert_type(await acme.vectors.search([1.0] * 384, limit=3, include_embedding=True), list[VectorHit])
    assert_type(await acme.vectors.get(ids[0]), VectorRecord | None)
    assert_type(await acme.vectors.update_metadata(ids[0], {"a": 1}), bool)
    assert_type(await acme.vectors.delete(ids), int)
    assert_type(await acme.vectors.stats(), VectorStats)
    await acme.kv.set("k", b"v", ttl_s=1.5)
    assert_type(await acme.kv.get("k"), bytes | None)
    assert_type((await acme.audit.record("export", principal="ada", resource="memories")).sequence, int)
    assert_type((await acme.audit.verify(anchor=await acme.audit.head())).broken_at, int | None)
    assert_type(await acme.kv.get_batch(["k"]), dict[str, bytes])
    assert_type(await acme.kv.list_keys("k", limit=3), list[str])
    assert_type(await acme.procedures.record("s", "k", "v"), Pattern)
    assert_type(await acme.procedures.learned(scope="s"), Page[Pattern])
    assert_type(await acme.procedures.predict("s", "k"), list[Prediction])
    assert_type(await acme.agent_state.save("a", {"n": 1}, expected_version=0), AgentState)
    assert_type(await acme.agent_state.get("a"), AgentState | None)
    assert_type(await acme.agent_state.list(agent_type="llm"), Page[AgentStateSummary])
    assert_type(await acme.workflow_state.transition("w", "running"), WorkflowState)
    assert_type(await acme.workflow_state.counts(), dict[str, int])
    await acme.state.set(StateScope.User("ada"), "k", [1, None])
    assert_type(await acme.state.list_keys(StateScope.Global()), list[str])


async def whole(acme: Tenant) -> None:
    context = await acme.context("Ada?", max_tokens=500, as_of="2026-04-01")
    assert_type(context, Context)
    assert_type(context.items, list[ContextItem])
    assert_type(context.sections, dict[str, int])
    async with acme.transaction(timeout_s=5) as tx:
        assert_type(tx, Transaction)
        assert_type(await tx.memory.add("Ada moved."), MemoryRecord)
        assert_type(await tx.kv.get("k"), bytes | None)
