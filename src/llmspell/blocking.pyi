"""Written by scripts/generate_blocking_stub.py: what type checkers know of the synchronous twin."""

import builtins
from array import array
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from os import PathLike
from types import TracebackType
from typing import Any, BinaryIO, Literal, TypeVar
from uuid import UUID

import msgspec

from llmspell.clock import Clock
from llmspell.codec import VectorLike
from llmspell.memory.context import Context
from llmspell.memory.knowledge import Instant, Unset
from llmspell.memory.memory import MemoryHit, Ranked
from llmspell.memory.memory_input import MemoryInput
from llmspell.memory.state import StateScope
from llmspell.ops.health import TIMEOUT_S, HealthReport
from llmspell.ops.moving import Compression
from llmspell.ops.queue_health import QueueHealth
from llmspell.ops.validation import ComponentProof
from llmspell.ops.worker import Handler, Tally
from llmspell.providers.embedder import Embedder
from llmspell.retrieval.fusion import CANDIDATES_PER_RANKER
from llmspell.security.access_keys import IssuedKey, Principal
from llmspell.security.api_keys import ResealReport
from llmspell.security.secrets import SecretRef
from llmspell.settings import Secret, Settings
from llmspell.spell import TransactionOutcome
from llmspell.storage.contracts.access_keys import AccessKey, AccessKeyStatus
from llmspell.storage.contracts.agent_state import VERIFY_MAX, AgentState, AgentStateSummary, StateCheck
from llmspell.storage.contracts.api_keys import ApiKeyInfo, ApiKeyStats
from llmspell.storage.contracts.artifacts import ArtifactRecord, ArtifactStats, ArtifactSummary, ArtifactType
from llmspell.storage.contracts.audit import AuditEntry, AuditHead, AuditVerification, Decision, NewAuditEntry
from llmspell.storage.contracts.backend import MigrationStatus, PoolStatus
from llmspell.storage.contracts.capabilities import BackendType, Capability, Characteristics
from llmspell.storage.contracts.event_log import EventPartition, EventRecord, EventStats, Language, NewEvent
from llmspell.storage.contracts.graph import Cardinality, Direction, Entity, Fact, GraphStats, Path, Reached
from llmspell.storage.contracts.health import HealthCheck
from llmspell.storage.contracts.holdings import Holdings, StoreSize
from llmspell.storage.contracts.hook_history import HookExecution, HookStatistics, NewHookExecution, RetentionPolicy
from llmspell.storage.contracts.jobs import MAX_ATTEMPTS, Job, JobState, QueueStats
from llmspell.storage.contracts.memories import ListOrder, MemoryKind, MemoryRecord, MemoryVersion
from llmspell.storage.contracts.pages import Page
from llmspell.storage.contracts.procedures import LEARNED_FROM, Pattern, Prediction
from llmspell.storage.contracts.sessions import SessionRecord, SessionStatus
from llmspell.storage.contracts.tenants import (
    IsolationLevel,
    QuotaLimits,
    QuotaName,
    TenantRecord,
    TenantStatus,
    TenantUsage,
)
from llmspell.storage.contracts.transfer import OnConflict, OnProgress
from llmspell.storage.contracts.vector_index import VectorIndexStatus
from llmspell.storage.contracts.vectors import VectorEntry, VectorHit, VectorRecord, VectorStats
from llmspell.storage.contracts.workflow_state import WorkflowState, WorkflowStatus, WorkflowSummary
from llmspell.storage.transfer.reports import Report, Verification
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
    def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` keys whose time has passed, and return how many; call again while it returns `limit`."""
    def backend_type(self) -> BackendType:
        """Which backend this is (STO-10)."""
    def characteristics(self) -> Characteristics:
        """What this backend is good for (STO-11)."""

class BlockingAudit:
    """A tenant's audit log."""
    def record(
        self,
        operation: str,
        *,
        principal: str,
        resource: str,
        decision: Decision = "allow",
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        latency_ms: float | None = None,
    ) -> AuditEntry:
        """Add an entry to the chain, and return it with its number and its hash. In a transaction it stands or falls with it."""
    def record_many(self, entries: Sequence[NewAuditEntry]) -> builtins.list[AuditEntry]:
        """Add entries in their order, all or none; at most 1,000."""
    def get(self, sequence: int) -> AuditEntry | None:
        """Return the entry of that number, or None."""
    def list(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        operation: str | None = None,
        principal: str | None = None,
        decision: Decision | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[AuditEntry]:
        """Return entries, latest first: from `since` on and before `until`, of an operation, a principal, a decision."""
    def head(self) -> AuditHead:
        """Return the end of the chain, to be noted outside of the store."""
    def verify(self, *, anchor: AuditHead | None = None) -> AuditVerification:
        """Read the whole chain and check every hash; with an earlier `head()`, also that the chain still leads through it."""

class BlockingApiKeys:
    """A tenant's provider keys: `tenant.api_keys`."""
    def set(
        self,
        service: str,
        key: str | Secret,
        *,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        metadata: dict[str, Any] | None = None,
        actor: str | None = None,
    ) -> ApiKeyInfo:
        """Keep a provider's key as the active one of `service`; one that was active is retired, and kept until it is pruned."""
    def rotate(
        self,
        service: str,
        new_key: str | Secret,
        *,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        metadata: dict[str, Any] | None = None,
        actor: str | None = None,
    ) -> ApiKeyInfo:
        """Replace the active key of `service`. Without `metadata`, those of the key before it go on."""
    def reveal(self, service: str) -> Secret | None:
        """Return the active key of `service`, unless it has expired, and count the use."""
    def find(self, provider: str) -> Secret | None:
        """Return a provider's key from wherever it is: `<PROVIDER>_API_KEY`, mounted secrets, this tenant's keys (SCR-01)."""
    def get_secret(self, ref: SecretRef) -> Secret | None:
        """Return what `llmspell/<provider>/api_key` refers to, as a `SecretStore` does; None for any other reference."""
    def get(self, service: str) -> ApiKeyInfo | None:
        """Return what is known of the active key of `service`, or None."""
    def list(self, *, service: str | None = None, cursor: str | None = None, limit: int = 100) -> Page[ApiKeyInfo]:
        """Return what is known of keys, newest first, retired ones too; of one service or of all."""
    def deactivate(self, service: str, *, actor: str | None = None) -> ApiKeyInfo:
        """Retire the active key of `service` without another."""
    def delete(self, service: str, *, actor: str | None = None) -> int:
        """Delete every key of `service`, retired ones too, and return how many."""
    def expire(self, *, limit: int = 1000) -> int:
        """Deactivate at most `limit` keys that have expired, and return how many (SCR-06)."""
    def prune(self, *, before: datetime | str, limit: int = 1000) -> int:
        """Delete at most `limit` keys that were deactivated before an instant, and return how many."""
    def stats(self) -> ApiKeyStats:
        """Count keys and their uses."""
    def reseal_all(
        self, *, after: UUID | str | None = None, limit: int = 1000, dry_run: bool = False, actor: str | None = None
    ) -> ResealReport:
        """Seal keys that lie under an older master key anew under the active one."""

class BlockingAccessKeys:
    """A tenant's access keys: `tenant.access_keys`."""
    def issue(
        self,
        *,
        name: str,
        scopes: Iterable[str],
        principal: str | None = None,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        actor: str | None = None,
    ) -> IssuedKey:
        """Make a key, keep its hash, and return it: this is the only time that it is seen."""
    def rotate(
        self,
        key_id: UUID | str,
        *,
        overlap_s: float = 0,
        ttl_s: float | None = None,
        expires_at: datetime | date | str | None = None,
        actor: str | None = None,
    ) -> IssuedKey:
        """Make the successor of a key, with its name, principal and scopes; the key itself is accepted for `overlap_s` more."""
    def revoke(self, key_id: UUID | str, *, reason: str | None = None, actor: str | None = None) -> AccessKey:
        """Refuse a key from now on. One that was revoked before stays as it is."""
    def get(self, key_id: UUID | str) -> AccessKey | None:
        """Return what is known of a key, or None."""
    def list(
        self, *, status: AccessKeyStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[AccessKey]:
        """Return what is known of keys, newest first; of one status or of all."""
    def expire(self, *, limit: int = 1000) -> int:
        """Revoke at most `limit` keys that have expired, for the reason "expired", and return how many."""
    def prune(self, *, before: datetime | str, limit: int = 1000) -> int:
        """Delete at most `limit` keys that were revoked before an instant, and return how many."""

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
        recall: float | None = None,
        ef_search: int | None = None,
        exact: bool = False,
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
    def sample(self, space_id: str, *, limit: int = 1000) -> list[array[float]]:
        """Return up to `limit` (20,000 at most) embeddings of a space, spread evenly over it, to measure something on real data."""
    def index_status(self) -> list[VectorIndexStatus]:
        """Say how each of the tenant's embedding spaces is searched, those of memories included, ordered by their ids."""
    def build_index(self, *, dimension: int | None = None) -> list[VectorIndexStatus]:
        """Index now what is large enough to be indexed and is not yet, wait for it, and return the status of those spaces."""

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

class BlockingEventLog:
    """A tenant's events. Types are dotted names (`agent.state_changed`); a payload is an object of at most 256 KiB."""
    def append(
        self,
        event_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        correlation_id: UUID | str | None = None,
        at: datetime | date | str | None = None,
        language: Language = "python",
        id: UUID | str | None = None,
    ) -> EventRecord:
        """Append one event and return it with its number."""
    def append_many(self, events: Sequence[NewEvent]) -> int:
        """Append at most 10,000 events in one statement, numbered in the order given, and return how many."""
    def get(self, id: UUID | str, *, at: datetime | date | str | None = None) -> EventRecord | None:
        """Return an event, or None. Say when it happened and one month is looked at; else the latest of that id comes."""
    def list(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        descending: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[EventRecord]:
        """Return a page of the events from `since` until before `until`, latest first unless `descending` is False."""
    def tail(
        self,
        *,
        after_sequence: int = 0,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
        limit: int = 100,
    ) -> builtins.list[EventRecord]:
        """Return the next events beyond a number, in the order of their commits: how a consumer follows the log."""
    def count(
        self,
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        type: str | None = None,
        correlation_id: UUID | str | None = None,
    ) -> int:
        """Return how many events there are, chosen as in `list`."""
    def stats(
        self, *, since: datetime | date | str | None = None, until: datetime | date | str | None = None
    ) -> EventStats:
        """Count the events of a time range by type. It reads all of them."""
    def prune(self, before: datetime | date | str, *, limit: int = 1000) -> int:
        """Delete at most `limit` (to 10,000) of the earliest events before an instant, and return how many."""

class BlockingHookHistory:
    """A tenant's hook executions."""
    def record(self, execution: NewHookExecution) -> HookExecution:
        """Record one execution and return it."""
    def record_many(self, executions: Sequence[NewHookExecution]) -> int:
        """Record at most 1,000 executions, all or none, in one round trip, and return how many."""
    def get(self, id: UUID | str) -> HookExecution | None:
        """Return an execution with its context, or None."""
    def list(
        self,
        *,
        hook_id: str | None = None,
        hook_type: str | None = None,
        correlation_id: UUID | str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        include_context: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[HookExecution]:
        """Return a page of executions from `since` until before `until`, latest first; with contexts at most 100 at a time."""
    def delete(self, id: UUID | str) -> bool:
        """Delete an execution, and say whether it was there."""
    def statistics(
        self,
        *,
        hook_id: str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
    ) -> HookStatistics:
        """Sum up executions: counts by result, durations with percentiles, sizes. It reads all of them."""
    def prune(self, *, before: datetime | date | str, below_priority: int | None = None, limit: int = 1000) -> int:
        """Delete at most `limit` (to 10,000) of the earliest executions before an instant, and return how many."""
    def apply_retention(self, policy: RetentionPolicy | None = None, *, limit: int = 1000) -> int:
        """Delete at most `limit` (to 10,000) executions that a policy keeps no longer, earliest first, and return how many."""

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
        """Embed a question before any connection is taken. None when there is no embedding to be had, and inside a transaction."""
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
    def list_paginated(
        self, *, session: str | None = None, filters: Mapping[str, Any] | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[builtins.list[MemoryRecord], int]:
        """Return an offset page, newest first by creation, and the total (PAG-01); prefer `list` for long walks."""
    def iterate(
        self,
        *,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        page_size: int = 100,
    ) -> Iterator[MemoryRecord]:
        """Yield memories in the order of `list`, fetching a page at a time; nothing is held between two pages."""
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

class BlockingSessions:
    """A tenant's sessions."""
    def create(
        self, *, id: UUID | str | None = None, data: Mapping[str, Any] | None = None, ttl_s: float | None = None
    ) -> SessionRecord:
        """Begin a session, active, and return it; with `ttl_s` it expires that many seconds from now."""
    def get(self, id: UUID | str) -> SessionRecord | None:
        """Return the session, or None when it is absent or expired."""
    def update(
        self,
        id: UUID | str,
        *,
        data: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        status: SessionStatus | msgspec.UnsetType = msgspec.UNSET,
        ttl_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        expected_version: int | None = None,
    ) -> SessionRecord:
        """Replace what is given, as a new version, and return the session."""
    def delete(self, id: UUID | str) -> bool:
        """Delete a session with its artifacts, and say whether it was there (an expired one was not, and is deleted too)."""
    def list(
        self, *, status: SessionStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[SessionRecord]:
        """Return a page of sessions, newest first: those that have not expired, or those of a status; `limit` 1 to 100."""
    def count(self, *, status: SessionStatus | None = None) -> int:
        """Count the sessions that `list` would show."""
    def expire(self, *, limit: int = 1000) -> int:
        """Mark at most `limit` sessions whose time has passed as expired, and return how many."""
    def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` sessions that have expired, with their artifacts; call again while it returns `limit`."""

class BlockingArtifacts:
    """A tenant's artifacts."""
    def put(
        self,
        session: UUID | str,
        name: str,
        data: bytes | bytearray | memoryview | BinaryIO | AsyncIterable[bytes],
        *,
        type: ArtifactType = "custom",
        mime_type: str = "application/octet-stream",
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        created_by: str | None = None,
        parent: str | None = None,
    ) -> ArtifactRecord:
        """Store a content as an artifact of a session, and return the artifact."""
    def get(self, id: str) -> ArtifactRecord | None:
        """Return an artifact without its content, or None when it is absent."""
    def read(self, id: str) -> bytes | None:
        """Return the content of an artifact, verified, or None when it is absent."""
    def stream(self, id: str) -> Iterator[bytes]:
        """Yield the content in pieces of at most 1 MiB, each fetched and verified by itself; nothing is held in between."""
    def download(self, id: str, into: BinaryIO) -> int:
        """Write the content into a binary file, as `stream` gives it, and return how many bytes those were."""
    def list(
        self,
        *,
        session: UUID | str | None = None,
        type: ArtifactType | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[ArtifactSummary]:
        """Return a page of summaries, newest first; of a session, of a type, or of all."""
    def update(
        self,
        id: str,
        *,
        name: str | msgspec.UnsetType = msgspec.UNSET,
        tags: Sequence[str] | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        expected_revision: int | None = None,
    ) -> ArtifactRecord:
        """Replace what is given, as a new revision, and return the artifact; its content and version stay."""
    def delete(self, id: str) -> bool:
        """Delete an artifact, and its content when nothing else refers to it; say whether it was there."""
    def stats(self, *, session: UUID | str | None = None) -> ArtifactStats:
        """Sum up what is stored for the tenant or one session, expired ones included until they are deleted."""
    def verify(self, id: str) -> bool:
        """Read the whole content, and say whether it is what was stored."""
    def collect_garbage(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` contents that nothing refers to, and return how many."""

class BlockingTenantRegistry:
    """Which tenants exist, and who of them is served: `spell.tenants`."""
    def audit(self, id: str) -> BlockingAudit:
        """Return the audit log of a tenant for the operator: also of one that is suspended or deleted."""
    def create(
        self,
        id: str,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        isolation_level: IsolationLevel | None = None,
        exist_ok: bool = False,
        actor: str | None = None,
    ) -> TenantRecord:
        """Register a tenant, with the settings' quotas unless it gets its own."""
    def get(self, id: str) -> TenantRecord | None:
        """Return a tenant, or None."""
    def usage(self, id: str) -> TenantUsage:
        """Return what a tenant uses of its quotas, and what it may use."""
    def list(
        self, *, status: TenantStatus | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[TenantRecord]:
        """Return tenants by id, in byte order, in pages; all, or those of a status."""
    def update(
        self,
        id: str,
        *,
        name: str | None = None,
        quotas: QuotaLimits | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> TenantRecord:
        """Change the name or the quotas of a tenant; what is None stays."""
    def suspend(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Refuse every call of a tenant from now on (elsewhere within a second); its data stays as it is."""
    def resume(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Serve a suspended tenant again."""
    def delete(
        self, id: str, *, reason: str | None = None, expected_version: int | None = None, actor: str | None = None
    ) -> TenantRecord:
        """Mark a tenant as deleted: every call is refused for good, and its id stays taken. Its data is not erased by that."""

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
    def health(self, *, timeout_s: float = TIMEOUT_S, more: Sequence[HealthCheck] = ()) -> HealthReport:
        """Look at everything that this store can say of its health, each check with a time limit (HLT-01…03)."""
    def holdings(self, tenant: str) -> Holdings:
        """Count what a tenant has: rows by concern, vectors by space. Of one that is not known, nothing."""
    def size(self) -> StoreSize:
        """Return how many bytes the store takes on disks, by part."""
    def validate(self, *components: str) -> list[ComponentProof]:
        """Prove components of the store, all of them unless some are named, by writing, reading and deleting (CLI-05, AMB-130)."""
    def export(
        self,
        file: str | PathLike[str],
        *,
        tenant: str | None = None,
        only: Sequence[str] = (),
        limit: int | None = None,
        compress: Compression | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Write everything into a file, from one snapshot, and return what it holds (EXP-01…06)."""
    def import_(
        self,
        file: str | PathLike[str],
        *,
        tenant: str | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        only: Sequence[str] = (),
        limit: int | None = None,
        compress: Compression | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Take what a file holds into this store, in one transaction, and return what became of it (EXP-04, EXP-07)."""
    def transfer_to(
        self,
        url: str,
        *,
        operator_url: str | None = None,
        tenant: str | None = None,
        on_conflict: OnConflict = "error",
        dry_run: bool = False,
        only: Sequence[str] = (),
        limit: int | None = None,
        progress: OnProgress | None = None,
    ) -> Report:
        """Take everything into the store of another URL, without a file; the promises are those of `export` and `import_`."""
    def verify(
        self,
        other: str | PathLike[str],
        *,
        operator_url: str | None = None,
        tenant: str | None = None,
        differences: int = 10,
        progress: OnProgress | None = None,
    ) -> Verification:
        """Compare this store with another one (a URL) or a file, by count and digest of each table and tenant."""
    def pool_status(self) -> PoolStatus:
        """Report connections (BKE-15)."""
    def promote(self, tenant: str, space_id: str, *, dimension: int) -> int:
        """Move a tenant's embedding space into the approximate index, and return how many vectors moved."""
    def event_partitions(self) -> list[EventPartition]:
        """Return the months that events are kept in, the earliest first, and last what keeps all others."""
    def ensure_event_partitions(self) -> list[str]:
        """Make the current month and the next three, where they are missing; one line for each (EVT-03)."""
    def archive_event_partitions(self, before: datetime | date | str, *, dry_run: bool = False) -> list[str]:
        """Take the months that ended by `before` out of the log into an archive, one line for each (EVT-14, EVT-15)."""

class BlockingWorker:
    """Runs jobs until it is stopped, or until there are none."""
    def __enter__(self) -> BlockingWorker: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def stop(self) -> None:
        """Begin nothing new and end: safe in a signal handler."""
    def run(self, *, until_idle: bool = False, max_jobs: int | None = None) -> Tally:
        """Work until `stop`, or until no job may run now (`until_idle`), or `max_jobs` have begun; return what was done."""

class _Concerns:
    """What one tenant has, by concern: on its handle, inside of a transaction, and under an idempotency key."""

    kv: BlockingKV
    audit: BlockingAudit
    state: BlockingScopedState
    procedures: BlockingProcedures
    agent_state: BlockingAgentStates
    workflow_state: BlockingWorkflowStates
    jobs: BlockingJobs
    vectors: BlockingVectorCollection
    graph: BlockingKnowledgeGraph
    event_log: BlockingEventLog
    hook_history: BlockingHookHistory
    memory: BlockingMemory
    sessions: BlockingSessions
    artifacts: BlockingArtifacts

class _WithKeys(_Concerns):
    """The keys of a tenant. They are no `Concerns`: a call of theirs is not recorded to be repeated, for it has a secret in it."""

    api_keys: BlockingApiKeys
    access_keys: BlockingAccessKeys

class BlockingTransaction(_WithKeys):
    """One atomic unit of a tenant: the same concerns as on `Tenant`."""
    def savepoint(self) -> AbstractContextManager[None]:
        """Open a block of which nothing stays when an exception leaves it, while the transaction goes on. Blocks nest."""
    @property
    def outcome(self) -> TransactionOutcome:
        """What became of it: "open" inside of its block, then "committed", "rolled_back", or "unknown"."""

class BlockingOnce(_Concerns):
    """A tenant's verbs under one idempotency key: `tenant.once(key)`."""

class BlockingTenant(_WithKeys):
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
    def usage(self) -> TenantUsage:
        """Return what the tenant uses of its quotas, and what it may use."""
    def check_quota(self, op: QuotaName, amount: int = 1) -> TenantUsage:
        """Return the use of all quotas when so much more of `op` would be accepted now (TEN-01). It reserves nothing."""
    def record_usage(self, op: Literal["embeddings"], amount: int = 1) -> None:
        """Count texts that you have embedded elsewhere, before you keep their vectors (TEN-01), where embeddings are limited."""

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
    def authenticate(self, key: str | Secret) -> Principal | None:
        """Return whom an access key stands for, in its tenant; None for every key that is not accepted, for whatever reason."""
