"""Written by scripts/generate_blocking_stub.py: what type checkers know of the synchronous twin."""

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from types import TracebackType
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.codec import VectorLike
from llmspell.memory.context import Context
from llmspell.memory.knowledge import Instant, Unset
from llmspell.memory.memory import MemoryHit, MemoryInput, Ranked
from llmspell.ops.queue_health import QueueHealth
from llmspell.ops.worker import Handler, Tally
from llmspell.providers.embedder import Embedder
from llmspell.retrieval.fusion import CANDIDATES_PER_RANKER
from llmspell.settings import Settings
from llmspell.storage.contracts.backend import MigrationStatus, PoolStatus
from llmspell.storage.contracts.capabilities import BackendType, Capability, Characteristics
from llmspell.storage.contracts.graph import Cardinality, Direction, Entity, Fact, GraphStats, Path, Reached
from llmspell.storage.contracts.jobs import MAX_ATTEMPTS, Job, JobState, QueueStats
from llmspell.storage.contracts.memories import ListOrder, MemoryKind, MemoryRecord, MemoryVersion
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.contracts.vectors import VectorEntry, VectorHit, VectorRecord, VectorStats
from llmspell.tenant import DEFAULT_TENANT

def connect_blocking(
    url: str | None = None,
    *,
    settings: Settings | None = None,
    embedder: Embedder | str | None = None,
    clock: Clock | None = None,
) -> BlockingSpell:
    """Open a store: `with connect_blocking(url) as spell`, or `spell = connect_blocking(url)` and `spell.close()`."""

class BlockingKV:
    """A tenant's keys. Keys: 1 to 1,024 bytes of text. Values: up to 16 MiB of bytes."""
    def get(self, key: str) -> bytes | None:
        """Return the value, or None when the key is absent or expired."""
    def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store the value, replacing any; with `ttl_s` the key expires that many seconds from now."""
    def delete(self, key: str) -> bool:
        """Delete the key and say whether it was there (an expired key was not)."""
    def exists(self, key: str) -> bool:
        """Say whether `get` would return a value."""
    def list_keys(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> list[str]:
        """Return the keys that start with `prefix`, in byte order; with `limit`, at most so many beyond `after`."""
    def get_batch(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist; at most 10,000 keys."""
    def set_batch(self, items: Mapping[str, bytes], *, ttl_s: float | None = None) -> None:
        """Store all items or none; at most 10,000."""
    def delete_batch(self, keys: Sequence[str]) -> int:
        """Delete the keys, all in one transaction, and return how many were there; at most 10,000."""
    def clear(self) -> int:
        """Delete every key of this tenant, and return how many readers would have seen."""
    def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` keys whose time has passed, and return how many; call again while it returns `limit`."""
    def backend_type(self) -> BackendType:
        """Which backend this is (STO-10)."""
    def characteristics(self) -> Characteristics:
        """What this backend is good for (STO-11)."""

class BlockingJobs:
    """A tenant's jobs: `tenant.jobs`, and `tx.jobs` inside a transaction, with the data that they are for."""
    def enqueue(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        run_at: datetime | str | None = None,
        priority: int = 0,
        max_attempts: int = MAX_ATTEMPTS,
        dedupe_key: str | None = None,
        id: UUID | str | None = None,
    ) -> Job:
        """Keep a job to be run by a worker that knows its kind; with `dedupe_key`, return the live one that has it already."""
    def get(self, id: UUID | str) -> Job | None:
        """Return a job, or None."""
    def list(
        self, *, state: JobState | None = None, kind: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[Job]:
        """Return a page of jobs, the latest first."""
    def cancel(self, id: UUID | str) -> bool:
        """Cancel a queued job, or ask a running one to stop; say whether there was either."""
    def retry(self, id: UUID | str) -> Job:
        """Put a dead or cancelled job back into the queue, with all its attempts before it."""
    def counts(self) -> dict[str, int]:
        """Count the jobs of each state."""
    def prune(self, before: datetime | str, *, dead: bool = False, limit: int = 1000) -> int:
        """Delete at most `limit` jobs that succeeded or were cancelled before an instant (or that died: `dead`)."""

class BlockingVectorCollection:
    """A tenant's free vectors: `tenant.vectors`. Embeddings have shape (384 | 768 | 1536 | 3072,)."""
    def insert(
        self, entries: VectorEntry | Mapping[str, Any] | Sequence[VectorEntry | Mapping[str, Any]]
    ) -> list[UUID]:
        """Store one entry or many (up to 10,000), all or none, and return their ids. They are found when this returns."""
    def search(
        self,
        embedding: VectorLike,
        *,
        limit: int | None = None,
        k: int | None = None,
        top_k: int | None = None,
        scope: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        include_embedding: bool = False,
    ) -> list[VectorHit]:
        """Return the nearest vectors by cosine similarity, best first: `limit` (1 to 1,000, default 10; also `k`, `top_k`)."""
    def get(self, id: UUID | str) -> VectorRecord | None:
        """Return a vector, or None."""
    def update_metadata(self, id: UUID | str, metadata: Mapping[str, Any]) -> bool:
        """Replace the metadata of a vector, and say whether it exists."""
    def delete(self, ids: UUID | str | Sequence[UUID | str]) -> int:
        """Delete one vector or several in one transaction, and return how many were there."""
    def delete_scope(self, scope: str) -> int:
        """Delete every vector of a scope, and return how many were there."""
    def stats(self, *, scope: str | None = None) -> VectorStats:
        """Count what is stored."""

class BlockingKnowledgeGraph:
    """A tenant's knowledge graph: `tenant.graph`."""
    def assert_fact(
        self,
        subject: str,
        predicate: str,
        object: str,
        *,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        subject_type: str | None = None,
        object_type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        confidence: float | None = None,
        cardinality: Cardinality | None = None,
        source: str | None = None,
        actor: str | None = None,
    ) -> Fact:
        """Record that something is true from `valid_from` (default: now) until `valid_to` (default: open)."""
    def retract(
        self,
        subject: str,
        predicate: str,
        object: str | None = None,
        *,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        actor: str | None = None,
    ) -> int:
        """Stop believing facts, wholly or during a period, and return how many were touched."""
    def correct(
        self,
        fact_id: UUID | str,
        *,
        object: str | Unset = msgspec.UNSET,
        valid_from: Instant | Unset = msgspec.UNSET,
        valid_to: Instant | Unset | None = msgspec.UNSET,
        properties: Mapping[str, Any] | Unset = msgspec.UNSET,
        confidence: float | Unset | None = msgspec.UNSET,
        source: str | None = None,
        actor: str | None = None,
    ) -> Fact:
        """Say what was really so. What was believed before stays visible to `known_at`."""
    def declare(self, predicate: str, cardinality: Cardinality) -> None:
        """Declare whether a subject has one value of a predicate at a time, or many."""
    def predicates(self) -> dict[str, Cardinality]:
        """Return the declared predicates."""
    def facts(
        self,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        any_time: bool = False,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        """Return facts by any of their parts; `any_time=True` gives those of every time."""
    def neighbours(
        self,
        entity: str | UUID,
        *,
        predicate: str | None = None,
        direction: Direction = "both",
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        """Return the facts that touch an entity (a name or an id); empty when it is unknown."""
    def traverse(
        self,
        start: str | UUID,
        *,
        predicate: str | None = None,
        max_depth: int = 2,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 100,
    ) -> builtins.list[Reached]:
        """Return the entities within `max_depth` steps (1 to 6), nearest first."""
    def paths(
        self,
        start: str | UUID,
        end: str | UUID,
        *,
        max_depth: int = 4,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        limit: int = 10,
    ) -> builtins.list[Path]:
        """Return chains of facts between two entities, shortest first."""
    def history(self, fact_id: UUID | str) -> builtins.list[Fact]:
        """Return every version of a fact, in the order of recording."""
    def entity_history(self, entity: str | UUID) -> builtins.list[Entity]:
        """Return every version of an entity, in the order of recording."""
    def upsert_entity(
        self,
        name: str,
        *,
        type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        valid_from: Instant | None = None,
        valid_to: Instant | None = None,
        source: str | None = None,
        actor: str | None = None,
    ) -> Entity:
        """Create an entity, or record what is true of it for a period (default: from now on)."""
    def get_entity(
        self, entity: str | UUID, *, as_of: Instant | None = None, known_at: Instant | None = None
    ) -> Entity | None:
        """Return an entity as it was at `as_of`, as known at `known_at`, or None."""
    def list_entities(
        self,
        *,
        type: str | None = None,
        as_of: Instant | None = None,
        known_at: Instant | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> builtins.list[Entity]:
        """Return entities by name, beyond the name `after`."""
    def delete_entity(self, entity: str | UUID, *, actor: str | None = None) -> bool:
        """Stop believing in an entity and every fact about it; say whether it was believed. Its history stays."""
    def mentioned(
        self, names: Sequence[str], *, as_of: Instant | None = None, known_at: Instant | None = None, limit: int = 20
    ) -> builtins.list[Entity]:
        """Return entities that bear one of these names, whatever their case."""
    def stats(self) -> GraphStats:
        """Count entities, facts and versions."""
    def delete_before(self, instant: Instant, *, limit: int = 1000) -> int:
        """Prune versions whose belief ended before an instant; `known_at` answers from before it are lost."""

class BlockingMemory:
    """A tenant's memories: `tenant.memory`."""
    def add(
        self,
        text: str,
        *,
        session: str | None = None,
        role: str | None = None,
        kind: MemoryKind = "conversation",
        at: Instant | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: UUID | str | None = None,
        ttl_s: float | None = None,
        embedding: VectorLike | None = None,
        actor: str | None = None,
    ) -> MemoryRecord:
        """Keep a memory. It is durable and found by its words when this returns, and by meaning unless it is pending."""
    def add_many(
        self,
        items: Iterable[MemoryInput | Mapping[str, Any]],
        *,
        actor: str | None = None,
        skip_existing: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[MemoryRecord]:
        """Keep many memories, in order, and return them; all are checked before the first is kept."""
    def search(
        self,
        query: str,
        *,
        limit: int | None = None,
        k: int | None = None,
        top_k: int | None = None,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        embedding: VectorLike | None = None,
        explain: bool = False,
    ) -> list[MemoryHit]:
        """Find memories by meaning and by word, best first."""
    def rank(
        self,
        query: str,
        *,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        question: bytes | None = None,
        candidates: int = CANDIDATES_PER_RANKER,
    ) -> Ranked:
        """Return the whole fused ranking of a search; without a `question` (see there) the words have to do."""
    def question(self, query: str, embedding: VectorLike | None = None) -> bytes | None:
        """Embed a question before any connection is taken. None when the provider fails, and inside a transaction."""
    def get(self, id: UUID | str) -> MemoryRecord | None:
        """Return a memory, or None when it is absent, deleted or expired."""
    def list(
        self,
        *,
        filters: Mapping[str, Any] | None = None,
        session: str | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[MemoryRecord]:
        """Return a page of memories in the order of time (`at` or `created_at`), newest first unless told otherwise."""
    def list_paginated(self, *, limit: int = 100, offset: int = 0) -> tuple[builtins.list[MemoryRecord], int]:
        """Return an offset page, newest first by creation, and the total (PAG-01); prefer `list` for long walks."""
    def count(self, *, filters: Mapping[str, Any] | None = None) -> int:
        """Count memories."""
    def update(
        self,
        id: UUID | str,
        *,
        text: str | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        session: str | msgspec.UnsetType | None = msgspec.UNSET,
        role: str | msgspec.UnsetType | None = msgspec.UNSET,
        kind: MemoryKind | msgspec.UnsetType = msgspec.UNSET,
        at: Instant | msgspec.UnsetType = msgspec.UNSET,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> MemoryRecord:
        """Change what is given, as a new version, and return the memory."""
    def delete(
        self,
        id: UUID | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Delete a memory and say whether it was there. Its history stays until `forget`; `restore` brings it back."""
    def restore(self, id: UUID | str, *, actor: str | None = None, reason: str | None = None) -> MemoryRecord:
        """Bring a deleted memory back; its embedding is pending."""
    def forget(self, id: UUID | str, *, actor: str | None = None, reason: str | None = None) -> bool:
        """Erase a memory and its history, leaving a tombstone without content; say whether there was anything to erase."""
    def history(self, id: UUID | str) -> builtins.list[MemoryVersion]:
        """Return every version of a memory, oldest first."""
    def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` memories whose `ttl_s` has passed, and return how many; call again while it returns `limit`."""
    def embed_pending(self, *, limit: int = 1000, progress: Callable[[int], None] | None = None) -> int:
        """Embed up to `limit` memories that wait for it, or have none by the model in use, and return how many got one."""

class BlockingTenantRegistry:
    """Which tenants exist: `spell.tenants`."""
    def create(self, id: str, *, name: str | None = None, exist_ok: bool = False) -> TenantRecord:
        """Register a tenant."""
    def get(self, id: str) -> TenantRecord | None:
        """Return a tenant, or None."""

class BlockingJobAdmin:
    """The queue of all tenants: `spell.admin.jobs`. `tenant` None stands for the store's own jobs."""
    def stats(self) -> QueueStats:
        """Count what waits, runs, is stuck and is dead, by kind."""
    def health(self) -> QueueHealth:
        """Judge the queue: ok, degraded, or red when jobs are stuck or not served, with the reasons."""
    def list(
        self,
        tenant: str | None = None,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        """Return a page of a tenant's jobs, the latest first."""
    def get(self, id: UUID | str, *, tenant: str | None = None) -> Job | None:
        """Return a job, or None."""
    def cancel(self, id: UUID | str, *, tenant: str | None = None) -> bool:
        """Cancel a queued job, or ask a running one to stop; say whether there was either."""
    def retry(self, id: UUID | str, *, tenant: str | None = None) -> Job:
        """Put a dead or cancelled job back into the queue."""

class BlockingAdmin:
    """The operator's side of a store: `spell.admin`."""

    jobs: BlockingJobAdmin
    def run_migrations(self) -> MigrationStatus:
        """Apply pending migrations (STO-12)."""
    def migration_status(self) -> MigrationStatus:
        """Compare the store with this release."""
    def migration_version(self) -> int:
        """Return the number of the last applied migration (AMB-001)."""
    def check(self) -> None:
        """Answer a trivial query, or raise `Unavailable`."""
    def pool_status(self) -> PoolStatus:
        """Report connections (BKE-15)."""
    def promote(self, tenant: str, space_id: str, *, dimension: int) -> int:
        """Move a tenant's embedding space into the approximate index, and return how many vectors moved."""

class BlockingWorker:
    """Runs jobs until it is stopped, or until there are none."""
    def stop(self) -> None:
        """Begin nothing new and end: safe in a signal handler."""
    def run(self, *, until_idle: bool = False, max_jobs: int | None = None) -> Tally:
        """Work until `stop`, or until no job may run now (`until_idle`), or `max_jobs` have begun; return what was done."""

class BlockingTransaction:
    """One atomic unit of a tenant: the same concerns as on `Tenant`."""

    kv: BlockingKV
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    memory: BlockingMemory

class BlockingTenant:
    """Everything one tenant has: `memory`, `graph`, `vectors`, `kv`, `context(…)`, `transaction()`."""

    id: str
    kv: BlockingKV
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    memory: BlockingMemory
    def transaction(self, *, timeout_s: float | None = None) -> AbstractContextManager[BlockingTransaction]:
        """Open a transaction: everything written through it is kept together when the block ends, or nothing is."""
    def context(
        self,
        query: str,
        *,
        max_tokens: int | None = None,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        as_of: datetime | date | str | None = None,
        known_at: datetime | date | str | None = None,
    ) -> Context:
        """Assemble what an agent should read before it answers `query`, within `max_tokens` (default: the settings')."""

class BlockingSpell:
    """An open store. Made by `connect`; safe to share between tasks."""

    settings: Settings
    tenants: BlockingTenantRegistry
    admin: BlockingAdmin
    def tenant(self, id: str = DEFAULT_TENANT) -> BlockingTenant:
        """Return the handle of a tenant; without an id, of the tenant "default"."""
    def worker(
        self,
        handlers: Mapping[str, Handler] | None = None,
        *,
        builtin: bool = True,
        tenants: Sequence[str] | None = None,
        name: str | None = None,
        concurrency: int | None = None,
    ) -> BlockingWorker:
        """Return a worker: `await worker.run(until_idle=True)`, or `async with spell.worker(…)` to have one beside other work."""
    def close(self) -> None:
        """Finish pending work and release everything. Closing twice is allowed."""
    def __enter__(self) -> BlockingSpell: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def backend(self) -> BackendType:
        """Which backend this is."""
    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do."""
