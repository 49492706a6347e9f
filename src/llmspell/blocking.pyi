"""Written by scripts/generate_blocking_stub.py: what type checkers know of the synchronous twin."""

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.codec import VectorLike
from llmspell.memory.context import Context
from llmspell.memory.knowledge import Instant, Unset
from llmspell.memory.memory import MemoryHit, MemoryInput, Ranked
from llmspell.memory.state import StateScope
from llmspell.providers.embedder import Embedder
from llmspell.retrieval.fusion import CANDIDATES_PER_RANKER
from llmspell.settings import Settings
from llmspell.spell import TransactionOutcome
from llmspell.storage.contracts.agent_state import VERIFY_MAX, AgentState, AgentStateSummary, StateCheck
from llmspell.storage.contracts.backend import MigrationStatus, PoolStatus
from llmspell.storage.contracts.capabilities import BackendType, Capability, Characteristics
from llmspell.storage.contracts.graph import Cardinality, Direction, Entity, Fact, GraphStats, Path, Reached
from llmspell.storage.contracts.memories import ListOrder, MemoryKind, MemoryRecord, MemoryVersion
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.procedures import LEARNED_FROM, Pattern, Prediction
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.contracts.vectors import VectorEntry, VectorHit, VectorRecord, VectorStats
from llmspell.storage.contracts.workflow_state import WorkflowState, WorkflowStatus, WorkflowSummary
from llmspell.tenant import DEFAULT_TENANT

T = TypeVar("T")

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
    def backend_type(self) -> BackendType:
        """Which backend this is (STO-10)."""
    def characteristics(self) -> Characteristics:
        """What this backend is good for (STO-11)."""

class BlockingScopedState:
    """A tenant's state (STA-01, STA-02). Values are JSON of at most 4 MiB; keys, with their scopes, of 1,024 bytes."""
    def get(self, scope: StateScope, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` when the key is absent or expired."""
    def get_many(self, scope: StateScope, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of the keys that exist, as they were at one moment; at most 10,000 keys."""
    def set(self, scope: StateScope, key: str, value: Any, *, ttl_s: float | None = None) -> None:
        """Store a value, replacing any; with `ttl_s` it expires that many seconds from now."""
    def set_many(self, scope: StateScope, values: Mapping[str, Any], *, ttl_s: float | None = None) -> None:
        """Store all values or none; at most 10,000."""
    def update(
        self,
        scope: StateScope,
        key: str,
        change: Callable[[Any], Any],
        *,
        default: Any = None,
        ttl_s: float | None = None,
    ) -> Any:
        """Replace a value by `change(value)` without losing anybody else's update, and return the new one."""
    def initialize_scope(self, scope: StateScope, values: Mapping[str, Any]) -> list[str]:
        """Store the values whose keys are absent, all or none, and return those keys in byte order (STA-01)."""
    def delete(self, scope: StateScope, key: str) -> bool:
        """Delete a key and say whether it was there (an expired key was not)."""
    def list_keys(
        self, scope: StateScope, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[str]:
        """Return at most `limit` keys of a scope that start with `prefix` and lie beyond `after`, in byte order."""
    def items(
        self, scope: StateScope, prefix: str = "", *, after: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """Return the keys of `list_keys` with their values; a key that has gone meanwhile is left out."""
    def clear(self, scope: StateScope) -> int:
        """Delete every key of one scope, 10,000 in each step, and return how many there were; no other scope loses any."""

class BlockingProcedures:
    """A tenant's patterns. Scopes and keys: 1 to 500 bytes of text. Values: 1 to 1,024 bytes."""
    def record(self, scope: str, key: str, value: str, *, count: int = 1) -> Pattern:
        """Count `count` more occurrences of a value, and return the pattern with its new frequency."""
    def record_transition(self, scope: str, key: str, from_value: str | None, to_value: str) -> Pattern:
        """Count one more step from a value to another; None is a beginning without one (PRO-04)."""
    def get(self, scope: str, key: str, value: str) -> Pattern | None:
        """Return a pattern, or None when it was never seen."""
    def frequency(self, scope: str, key: str, value: str) -> int:
        """Return how often a value was seen: 0 when never."""
    def learned(
        self,
        *,
        scope: str | None = None,
        key: str | None = None,
        min_frequency: int = LEARNED_FROM,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Pattern]:
        """Return a page of the patterns seen at least `min_frequency` times; `key` needs a `scope`."""
    def predict(self, scope: str, key: str, *, limit: int = 10) -> list[Prediction]:
        """Return the most frequent values of a key with their shares, most frequent first, then in byte order."""
    def predict_next(self, scope: str, key: str, from_value: str | None, *, limit: int = 10) -> list[Prediction]:
        """Return where the transitions from a value led, as `predict` does; their values are the ends alone."""
    def delete(self, scope: str, key: str, value: str) -> bool:
        """Forget one pattern, and say whether it was there."""
    def forget(self, scope: str, key: str | None = None, *, limit: int = 1000) -> int:
        """Forget at most `limit` patterns of a scope, or of one key in it, and return how many; call again while it is `limit`."""
    def prune(self, *, before: datetime, below_frequency: int = LEARNED_FROM, limit: int = 1000) -> int:
        """Forget at most `limit` patterns seen fewer than `below_frequency` times and last before an instant; return how many."""

class BlockingAgentStates:
    """A tenant's agents. Ids: 1 to 255 bytes. Data: a JSON object of at most 4 MiB."""
    def save(
        self,
        agent_id: str,
        data: Mapping[str, Any],
        *,
        agent_type: str | None = None,
        schema_version: int | None = None,
        expected_version: int | None = None,
    ) -> AgentState:
        """Store an agent's state, replacing any; `expected_version` 0 means that there must be none yet."""
    def get(self, agent_id: str) -> AgentState | None:
        """Return the state of an agent, verified, or None."""
    def list(
        self, *, agent_type: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AgentStateSummary]:
        """Return a page of states without their data, the newest agent first."""
    def delete(self, agent_id: str, *, expected_version: int | None = None) -> bool:
        """Delete an agent's state, damaged or not, and say whether there was one."""
    def verify(self, *, cursor: str | None = None, limit: int = VERIFY_MAX) -> StateCheck:
        """Compare at most `limit` states with their checksums, in the order of agent ids."""

class BlockingWorkflowStates:
    """A tenant's workflows. Ids: 1 to 255 bytes. Data: a JSON object of at most 4 MiB."""
    def create(
        self, workflow_id: str, data: Mapping[str, Any], *, name: str | None = None, current_step: int = 0
    ) -> WorkflowState:
        """Keep a new workflow, pending."""
    def save(
        self,
        workflow_id: str,
        data: Mapping[str, Any],
        *,
        name: str | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        """Replace a workflow's data in whatever status it is, or keep a new one, pending; name and step stay unless given."""
    def get(self, workflow_id: str) -> WorkflowState | None:
        """Return a workflow, or None."""
    def transition(
        self,
        workflow_id: str,
        status: WorkflowStatus,
        *,
        data: Mapping[str, Any] | None = None,
        current_step: int | None = None,
        expected_version: int | None = None,
    ) -> WorkflowState:
        """Move a workflow on to another status; data and step stay as they are unless given."""
    def advance(
        self, workflow_id: str, step: int, *, data: Mapping[str, Any] | None = None, expected_version: int | None = None
    ) -> WorkflowState:
        """Note that a running workflow has reached a step; steps never go back."""
    def list(
        self, *, status: WorkflowStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkflowSummary]:
        """Return a page of workflows without their data, the newest first."""
    def counts(self) -> dict[str, int]:
        """Return how many workflows there are of each of the five statuses."""
    def delete(self, workflow_id: str, *, expected_version: int | None = None) -> bool:
        """Delete a workflow in whatever status it is, and say whether it was there."""
    def prune(self, *, before: datetime, limit: int = 1000) -> int:
        """Delete at most `limit` workflows that ended, the longest untouched first and all before an instant; return how many."""

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

class BlockingAdmin:
    """The operator's side of a store: `spell.admin`."""
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

class _Concerns:
    """What one tenant has, by concern: on its handle, inside of a transaction, and under an idempotency key."""

    kv: BlockingKV
    state: BlockingScopedState
    procedures: BlockingProcedures
    agent_state: BlockingAgentStates
    workflow_state: BlockingWorkflowStates
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    memory: BlockingMemory

class BlockingTransaction(_Concerns):
    """One atomic unit of a tenant: the same concerns as on `Tenant`."""
    def savepoint(self) -> AbstractContextManager[None]:
        """Open a block of which nothing stays when an exception leaves it, while the transaction goes on. Blocks nest."""
    @property
    def outcome(self) -> TransactionOutcome:
        """What became of it: "open" inside of its block, then "committed", "rolled_back", or "unknown"."""

class BlockingOnce(_Concerns):
    """A tenant's verbs under one idempotency key: `tenant.once(key)`."""

class BlockingTenant(_Concerns):
    """Everything one tenant has: its concerns, `context(…)`, `transaction()`, `run(…)` and `once(…)`."""

    id: str
    def once(self, idempotency_key: str) -> BlockingOnce:
        """Return the tenant's verbs with the promise that the call has its effect at most once."""
    def run(
        self,
        work: Callable[[BlockingTransaction], T],
        *,
        attempts: int | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> T:
        """Run `work(tx)` in a transaction, again from the beginning while another one was first, and return what it returns."""
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
