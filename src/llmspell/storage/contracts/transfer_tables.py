"""The catalogue of what a store holds: every table is exported, made again, or left out with a reason.

`tests/migrations/test_transfer_tables.py` compares it with both schemas: a table or a column that nobody listed fails there.

Rule 1: tables stand in the order in which they are imported: what others refer to comes first.
Rule 2: tenants come last, for their quotas are counted from the rows when they are registered; before, nothing counts.
"""

from __future__ import annotations

from typing import Final, cast

from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.transfer import Column, Kind, Table

SCHEMA_VERSION: Final = 35
"""The newest migration that this catalogue describes."""
TYPES: Final = (
    "vector_embeddings",
    "knowledge_graph",
    "procedural_memory",
    "agent_state",
    "kv_store",
    "workflow_states",
    "sessions",
    "artifacts",
    "event_log",
    "hook_history",
)
"""The ten types of EXP-03, in its order; other tables are types of their own."""

_TENANT = Column("tenant_id", "text")
_COUNTED = "counted again while artifacts come in"
_CHANGES = "numbers that caches of one store catch up by"


def _columns(text: str) -> tuple[Column, ...]:
    """Read columns written as `name kind`, `kind?` where null is allowed, with the most characters of a text behind."""
    found = [_TENANT]
    for column in text.split(", "):
        name, kind, *limit = column.split(" ")
        null = kind.endswith("?")
        found.append(Column(name, cast("Kind", kind.removesuffix("?")), null, int(limit[0]) if limit else None))
    return tuple(found)


_SESSIONS = Table(
    name="sessions",
    type="sessions",
    path=("sessions",),
    columns=_columns(
        "session_id uuid, session_data json, status text, created_at instant, last_accessed_at instant, "
        "expires_at instant?, updated_at instant, version integer, artifact_sequence integer"
    ),
    key=("tenant_id", "session_id"),
    thing=2,
    derived={"artifact_count": _COUNTED},
    large=True,
)
_CONTENTS = Table(
    name="artifact_content",
    type="artifacts",
    path=("artifact_content",),
    columns=_columns(
        "content_hash text 64, storage_type text, data bytes?, size_bytes integer, is_compressed boolean, "
        "original_size_bytes integer?, created_at instant, last_accessed_at instant"
    ),
    key=("tenant_id", "content_hash"),
    thing=2,
    derived={"reference_count": _COUNTED},
    large=True,
    frame=True,
)
_CHUNKS = Table(
    name="artifact_chunks",
    type="artifacts",
    path=("artifact_chunks",),
    columns=_columns("content_hash text 64, chunk_no integer, data bytes, checksum bytes"),
    key=("tenant_id", "content_hash", "chunk_no"),
    thing=2,
    belongs_to=(("artifact_content", ("tenant_id", "content_hash")),),
    large=True,
)
_ARTIFACTS = Table(
    name="artifacts",
    type="artifacts",
    path=("artifacts",),
    columns=_columns(
        "artifact_id text 512, session_id uuid, sequence integer, content_hash text 64, metadata json, name "
        "text 255, artifact_type text 50, mime_type text 255, size_bytes integer, created_at instant, "
        "created_by text? 255, version integer, parent_artifact_id text? 512, tags texts, stored_at instant, "
        "updated_at instant, revision integer"
    ),
    key=("tenant_id", "artifact_id"),
    thing=2,
    unique=(("tenant_id", "session_id", "sequence"),),
    belongs_to=(("sessions", ("tenant_id", "session_id")),),
    large=True,
)
_MEMORIES = Table(
    name="memories",
    type="memories",
    path=("memories",),
    columns=_columns(
        "memory_id uuid, session text?, role text?, memory_type text, content text, metadata json, event_at "
        "instant, created_at instant, updated_at instant, last_accessed_at instant?, version integer, "
        "processed boolean, embedding_state text, space_id text?, token_count integer?, expires_at instant?"
    ),
    key=("tenant_id", "memory_id"),
    thing=2,
    derived={"text_length": "how many terms the analyser of the target finds in the text"},
    computed=(Column("text_length", "integer"),),
    large=True,
)
_VERSIONS = Table(
    name="memory_versions",
    type="memories",
    path=("memory_versions",),
    columns=_columns(
        "memory_id uuid, version integer, operation text, content text?, metadata json?, session text?, role "
        "text?, memory_type text, event_at instant, recorded_at instant, actor text?, reason text?, "
        "expires_at instant?"
    ),
    key=("tenant_id", "memory_id", "version"),
    thing=2,
    belongs_to=(("memories", ("tenant_id", "memory_id")),),
    large=True,
)
_SPACES = Table(
    name="embedding_spaces",
    type="embedding_spaces",
    path=("embedding_spaces",),
    columns=_columns(
        "space_id text, model text 500, dimension integer, state text, created_at instant, updated_at instant"
    ),
    key=("tenant_id", "space_id"),
    thing=2,
    derived={
        "ann_promoted": "vectors are moved into the approximate index by a job",
        "ann_vectors": "vectors are moved into the approximate index by a job",
        "change_seq": _CHANGES,
        "deleted_seq": _CHANGES,
        "logged_from": _CHANGES,
        "logged_rows": _CHANGES,
        "index_change": "names an index file beside one store",
        "index_token": "names an index file beside one store",
    },
    frame=True,
)


def _vectors(dimension: int) -> Table:
    return Table(
        name=f"vector_embeddings_{dimension}",
        type="vector_embeddings",
        path=("vector_embeddings", str(dimension)),
        columns=_columns(
            "id uuid, scope text 255, embedding vector, metadata json, created_at instant, updated_at instant, "
            "space_id text, owner_id uuid, part_no integer"
        ),
        key=("tenant_id", "id"),
        thing=2,
        unique=(("tenant_id", "space_id", "owner_id", "part_no"),),
        belongs_to=(("memories", ("tenant_id", "owner_id")),),
        derived={"ann": "vectors are moved into the approximate index by a job", "seq": _CHANGES},
        dimension=dimension,
    )


_ENTITIES = Table(
    name="entities",
    type="knowledge_graph",
    path=("knowledge_graph", "entities"),
    columns=_columns(
        "entity_id uuid, entity_type text 255, name text 500, properties json, valid_time_start instant, "
        "valid_time_end open_instant, transaction_time_start instant, transaction_time_end open_instant, "
        "created_at instant, actor text?, source text?, name_folded text"
    ),
    key=("tenant_id", "entity_id", "transaction_time_start", "valid_time_start"),
    thing=2,
)
_RELATIONSHIPS = Table(
    name="relationships",
    type="knowledge_graph",
    path=("knowledge_graph", "relationships"),
    columns=_columns(
        "relationship_id uuid, from_entity uuid, to_entity uuid, relationship_type text 255, properties json, "
        "valid_time_start instant, valid_time_end open_instant, transaction_time_start instant, "
        "transaction_time_end open_instant, created_at instant, confidence float?, source text?, actor text?"
    ),
    key=("tenant_id", "relationship_id", "transaction_time_start", "valid_time_start"),
    thing=2,
)
_PREDICATES = Table(
    name="predicates",
    type="predicates",
    path=("predicates",),
    columns=_columns("predicate text 255, cardinality text, created_at instant"),
    key=("tenant_id", "predicate"),
    thing=2,
    frame=True,
)
_CLOCKS = Table(
    name="tenant_clocks",
    type="tenant_clocks",
    path=("tenant_clocks",),
    columns=_columns("last_recorded instant"),
    key=("tenant_id",),
    thing=1,
    frame=True,
)
_PATTERNS = Table(
    name="procedural_patterns",
    type="procedural_memory",
    path=("procedural_memory",),
    columns=_columns(
        "pattern_id uuid, scope text 500, key text 500, value text, frequency integer, first_seen instant, "
        "last_seen instant, created_at instant, updated_at instant"
    ),
    key=("tenant_id", "pattern_id"),
    thing=2,
    unique=(("tenant_id", "scope", "key", "value"),),
)
_AGENTS = Table(
    name="agent_states",
    type="agent_state",
    path=("agent_state",),
    columns=_columns(
        "state_id uuid, agent_id text 255, agent_type text 100, state_data json, schema_version integer, "
        "data_version integer, checksum text 64, created_at instant, updated_at instant, version integer"
    ),
    key=("tenant_id", "state_id"),
    thing=2,
    unique=(("tenant_id", "agent_id"),),
    large=True,
)
_KEYS = Table(
    name="kv_store",
    type="kv_store",
    path=("kv_store",),
    columns=_columns(
        "kv_id uuid, key text 1024, value bytes, metadata json?, created_at instant, updated_at instant, "
        "expires_at instant?"
    ),
    key=("tenant_id", "key"),
    thing=2,
    large=True,
)
_WORKFLOWS = Table(
    name="workflow_states",
    type="workflow_states",
    path=("workflow_states",),
    columns=_columns(
        "workflow_id text 255, workflow_name text? 500, state_data json, current_step integer, status text, "
        "started_at instant?, completed_at instant?, last_updated instant, created_at instant, version "
        "integer"
    ),
    key=("tenant_id", "workflow_id"),
    thing=2,
    large=True,
)
_SEQUENCES = Table(
    name="event_sequences",
    type="event_log",
    path=("event_sequences",),
    columns=_columns("value integer, first_at instant?, last_at instant?"),
    key=("tenant_id",),
    thing=1,
    frame=True,
)
_EVENTS = Table(
    name="event_log",
    type="event_log",
    path=("event_log",),
    columns=_columns(
        "event_id uuid, event_type text 255, correlation_id uuid, timestamp instant, sequence integer, "
        "language text 50, payload json"
    ),
    key=("tenant_id", "timestamp", "event_id"),
    thing=3,
    unique=(("tenant_id", "sequence"),),
    large=True,
)
_HOOKS = Table(
    name="hook_history",
    type="hook_history",
    path=("hook_history",),
    columns=_columns(
        "execution_id uuid, hook_id text 255, hook_type text 100, correlation_id uuid, hook_context bytes, "
        "result_data json, timestamp instant, duration_ms integer, triggering_component text 255, "
        "component_id text 255, modified_operation boolean, tags texts, retention_priority integer, "
        "context_size integer, contains_sensitive_data boolean, metadata json, created_at instant"
    ),
    key=("tenant_id", "execution_id"),
    thing=2,
    large=True,
)
_ONCE = Table(
    name="idempotency_keys",
    type="idempotency_keys",
    path=("idempotency_keys",),
    columns=_columns(
        "idempotency_key text 255, operation text 255, fingerprint bytes, result bytes?, created_at instant, "
        "expires_at instant"
    ),
    key=("tenant_id", "idempotency_key"),
    thing=2,
    large=True,
)
_JOBS = Table(
    name="jobs",
    type="jobs",
    path=("jobs",),
    columns=_columns(
        "job_id uuid, kind text, payload json, state text, ready boolean, priority integer, dedupe_key text?, "
        "attempt integer, max_attempts integer, run_at instant, token integer, lease_id uuid?, leased_until "
        "instant?, worker text?, cancel_requested boolean, done integer?, total integer?, message text?, "
        "error_class text?, error text?, result json?, created_at instant, updated_at instant, finished_at "
        "instant?"
    ),
    key=("tenant_id", "job_id"),
    thing=2,
    large=True,
)
_ACCESS = Table(
    name="access_keys",
    type="access_keys",
    path=("access_keys",),
    columns=_columns(
        "key_id uuid, name text 500, principal text 500, scopes json, key_hash bytes, pepper text 32, "
        "created_at instant, expires_at instant?, last_used_at instant?, revoked_at instant?, revoked_reason "
        "text?, rotated_from uuid?, rotated_to uuid?"
    ),
    key=("tenant_id", "key_id"),
    thing=2,
)
_HEADS = Table(
    name="audit_heads",
    type="audit",
    path=("audit_heads",),
    columns=_columns("sequence integer, entry_hash bytes"),
    key=("tenant_id",),
    thing=1,
)
_AUDIT = Table(
    name="audit_log",
    type="audit",
    path=("audit_log",),
    columns=_columns(
        "sequence integer, entry_id uuid, at instant, operation text 128, principal text 500, resource text, "
        "decision text, reason text?, details json, latency_ms float?, prev_hash bytes, entry_hash bytes"
    ),
    key=("tenant_id", "sequence"),
    thing=1,
    belongs_to=(("audit_heads", ("tenant_id",)),),
    large=True,
)
_TENANTS = Table(
    name="tenants",
    type="tenants",
    path=("tenants",),
    columns=_columns(
        "name text 500, status text, isolation_level text, quotas json, created_at instant, updated_at "
        "instant, version integer, status_reason text?"
    ),
    key=("tenant_id",),
    thing=1,
    frame=True,
)

TABLES: Final = (
    *(_SESSIONS, _CONTENTS, _CHUNKS, _ARTIFACTS, _MEMORIES, _VERSIONS, _SPACES),
    *map(_vectors, DIMENSIONS),
    *(_ENTITIES, _RELATIONSHIPS, _PREDICATES, _CLOCKS, _PATTERNS, _AGENTS, _KEYS, _WORKFLOWS, _SEQUENCES, _EVENTS),
    *(_HOOKS, _ONCE, _JOBS, _ACCESS, _HEADS, _AUDIT, _TENANTS),
)
"""Every exported table, in the order of import."""
BY_NAME: Final = {table.name: table for table in TABLES}
BY_PATH: Final = {table.path: table for table in TABLES}

REBUILT: Final = {
    "text_postings": "made from the memories again, by the analyser of the target",
    "text_stats": "counted with the postings",
    "tenant_limits": "read from the quotas of the tenants",
    "tenant_usage": "counted from the rows when the tenants come in",
    "vector_changes": "the log that caches of one store catch up by; the import writes its own",
}
"""Tables that an import makes again from the exported ones."""
EXCLUDED: Final = {
    "api_keys": "secrets of providers are sealed for one store; set them again with `llmspell api-keys set`",
    "signing_keys": "secrets that sign tenants belong to one database",
    "signing_mode": "whether signatures are demanded belongs to one database",
    "schema_migrations": "the header names the migrations",
    "store_meta": "the id of a store and the key of its page cursors are its own",
    "tenant_embeddings": "what was embedded today counts toward a limit of the day in one store",
    "test_table": "holds nothing: a proof that tenants are kept apart",
}
"""Tables that no export has, each with the reason that the summary gives."""
