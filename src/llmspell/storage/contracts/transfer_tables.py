"""The catalogue of what a store holds: every table is exported, made again, or left out with a reason.

`tests/migrations/test_transfer_tables.py` compares it with both schemas: a table or a column that nobody listed fails there.

Rule 1: tables stand in the order in which they are imported: what others refer to comes first.
Rule 2: tenants come last, for their quotas are counted from the rows when they are registered; before, nothing counts.
"""

from __future__ import annotations

from typing import Final

from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.transfer import Column, Table

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


def _text(name: str, maximum: int | None = None, *, null: bool = False) -> Column:
    return Column(name, "text", null, maximum)


def _id(name: str, *, null: bool = False) -> Column:
    return Column(name, "uuid", null)


def _int(name: str, *, null: bool = False) -> Column:
    return Column(name, "integer", null)


def _at(name: str, *, null: bool = False) -> Column:
    return Column(name, "instant", null)


def _json(name: str, *, null: bool = False) -> Column:
    return Column(name, "json", null)


def _flag(name: str) -> Column:
    return Column(name, "boolean")


def _bytes(name: str, *, null: bool = False) -> Column:
    return Column(name, "bytes", null)


_SESSIONS = Table(
    name="sessions",
    type="sessions",
    path=("sessions",),
    columns=(
        _TENANT,
        _id("session_id"),
        _json("session_data"),
        _text("status"),
        _at("created_at"),
        _at("last_accessed_at"),
        _at("expires_at", null=True),
        _at("updated_at"),
        _int("version"),
        _int("artifact_sequence"),
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
    columns=(
        _TENANT,
        _text("content_hash", 64),
        _text("storage_type"),
        _bytes("data", null=True),
        _int("size_bytes"),
        _flag("is_compressed"),
        _int("original_size_bytes", null=True),
        _at("created_at"),
        _at("last_accessed_at"),
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
    columns=(_TENANT, _text("content_hash", 64), _int("chunk_no"), _bytes("data"), _bytes("checksum")),
    key=("tenant_id", "content_hash", "chunk_no"),
    thing=2,
    belongs_to=(("artifact_content", ("tenant_id", "content_hash")),),
    large=True,
)
_ARTIFACTS = Table(
    name="artifacts",
    type="artifacts",
    path=("artifacts",),
    columns=(
        _TENANT,
        _text("artifact_id", 512),
        _id("session_id"),
        _int("sequence"),
        _text("content_hash", 64),
        _json("metadata"),
        _text("name", 255),
        _text("artifact_type", 50),
        _text("mime_type", 255),
        _int("size_bytes"),
        _at("created_at"),
        _text("created_by", 255, null=True),
        _int("version"),
        _text("parent_artifact_id", 512, null=True),
        Column("tags", "texts"),
        _at("stored_at"),
        _at("updated_at"),
        _int("revision"),
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
    columns=(
        _TENANT,
        _id("memory_id"),
        _text("session", null=True),
        _text("role", null=True),
        _text("memory_type"),
        _text("content"),
        _json("metadata"),
        _at("event_at"),
        _at("created_at"),
        _at("updated_at"),
        _at("last_accessed_at", null=True),
        _int("version"),
        _flag("processed"),
        _text("embedding_state"),
        _text("space_id", null=True),
        _int("token_count", null=True),
        _at("expires_at", null=True),
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
    columns=(
        _TENANT,
        _id("memory_id"),
        _int("version"),
        _text("operation"),
        _text("content", null=True),
        _json("metadata", null=True),
        _text("session", null=True),
        _text("role", null=True),
        _text("memory_type"),
        _at("event_at"),
        _at("recorded_at"),
        _text("actor", null=True),
        _text("reason", null=True),
        _at("expires_at", null=True),
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
    columns=(
        _TENANT,
        _text("space_id"),
        _text("model", 500),
        _int("dimension"),
        _text("state"),
        _at("created_at"),
        _at("updated_at"),
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
        columns=(
            _TENANT,
            _id("id"),
            _text("scope", 255),
            Column("embedding", "vector"),
            _json("metadata"),
            _at("created_at"),
            _at("updated_at"),
            _text("space_id"),
            _id("owner_id"),
            _int("part_no"),
        ),
        key=("tenant_id", "id"),
        thing=2,
        unique=(("tenant_id", "space_id", "owner_id", "part_no"),),
        belongs_to=(("memories", ("tenant_id", "owner_id")),),
        derived={"ann": "vectors are moved into the approximate index by a job", "seq": _CHANGES},
        dimension=dimension,
    )


_PERIODS = (
    _at("valid_time_start"),
    Column("valid_time_end", "open_instant"),
    _at("transaction_time_start"),
    Column("transaction_time_end", "open_instant"),
    _at("created_at"),
)
_ENTITIES = Table(
    name="entities",
    type="knowledge_graph",
    path=("knowledge_graph", "entities"),
    columns=(
        _TENANT,
        _id("entity_id"),
        _text("entity_type", 255),
        _text("name", 500),
        _json("properties"),
        *_PERIODS,
        _text("actor", null=True),
        _text("source", null=True),
        _text("name_folded"),
    ),
    key=("tenant_id", "entity_id", "transaction_time_start", "valid_time_start"),
    thing=2,
)
_RELATIONSHIPS = Table(
    name="relationships",
    type="knowledge_graph",
    path=("knowledge_graph", "relationships"),
    columns=(
        _TENANT,
        _id("relationship_id"),
        _id("from_entity"),
        _id("to_entity"),
        _text("relationship_type", 255),
        _json("properties"),
        *_PERIODS,
        Column("confidence", "float", null=True),
        _text("source", null=True),
        _text("actor", null=True),
    ),
    key=("tenant_id", "relationship_id", "transaction_time_start", "valid_time_start"),
    thing=2,
)
_PREDICATES = Table(
    name="predicates",
    type="predicates",
    path=("predicates",),
    columns=(_TENANT, _text("predicate", 255), _text("cardinality"), _at("created_at")),
    key=("tenant_id", "predicate"),
    thing=2,
    frame=True,
)
_CLOCKS = Table(
    name="tenant_clocks",
    type="tenant_clocks",
    path=("tenant_clocks",),
    columns=(_TENANT, _at("last_recorded")),
    key=("tenant_id",),
    thing=1,
    frame=True,
)
_PATTERNS = Table(
    name="procedural_patterns",
    type="procedural_memory",
    path=("procedural_memory",),
    columns=(
        _TENANT,
        _id("pattern_id"),
        _text("scope", 500),
        _text("key", 500),
        _text("value"),
        _int("frequency"),
        _at("first_seen"),
        _at("last_seen"),
        _at("created_at"),
        _at("updated_at"),
    ),
    key=("tenant_id", "pattern_id"),
    thing=2,
    unique=(("tenant_id", "scope", "key", "value"),),
)
_AGENTS = Table(
    name="agent_states",
    type="agent_state",
    path=("agent_state",),
    columns=(
        _TENANT,
        _id("state_id"),
        _text("agent_id", 255),
        _text("agent_type", 100),
        _json("state_data"),
        _int("schema_version"),
        _int("data_version"),
        _text("checksum", 64),
        _at("created_at"),
        _at("updated_at"),
        _int("version"),
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
    columns=(
        _TENANT,
        _id("kv_id"),
        _text("key", 1024),
        _bytes("value"),
        _json("metadata", null=True),
        _at("created_at"),
        _at("updated_at"),
        _at("expires_at", null=True),
    ),
    key=("tenant_id", "key"),
    thing=2,
    large=True,
)
_WORKFLOWS = Table(
    name="workflow_states",
    type="workflow_states",
    path=("workflow_states",),
    columns=(
        _TENANT,
        _text("workflow_id", 255),
        _text("workflow_name", 500, null=True),
        _json("state_data"),
        _int("current_step"),
        _text("status"),
        _at("started_at", null=True),
        _at("completed_at", null=True),
        _at("last_updated"),
        _at("created_at"),
        _int("version"),
    ),
    key=("tenant_id", "workflow_id"),
    thing=2,
    large=True,
)
_SEQUENCES = Table(
    name="event_sequences",
    type="event_log",
    path=("event_sequences",),
    columns=(_TENANT, _int("value"), _at("first_at", null=True), _at("last_at", null=True)),
    key=("tenant_id",),
    thing=1,
    frame=True,
)
_EVENTS = Table(
    name="event_log",
    type="event_log",
    path=("event_log",),
    columns=(
        _TENANT,
        _id("event_id"),
        _text("event_type", 255),
        _id("correlation_id"),
        _at("timestamp"),
        _int("sequence"),
        _text("language", 50),
        _json("payload"),
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
    columns=(
        _TENANT,
        _id("execution_id"),
        _text("hook_id", 255),
        _text("hook_type", 100),
        _id("correlation_id"),
        _bytes("hook_context"),
        _json("result_data"),
        _at("timestamp"),
        _int("duration_ms"),
        _text("triggering_component", 255),
        _text("component_id", 255),
        _flag("modified_operation"),
        Column("tags", "texts"),
        _int("retention_priority"),
        _int("context_size"),
        _flag("contains_sensitive_data"),
        _json("metadata"),
        _at("created_at"),
    ),
    key=("tenant_id", "execution_id"),
    thing=2,
    large=True,
)
_ONCE = Table(
    name="idempotency_keys",
    type="idempotency_keys",
    path=("idempotency_keys",),
    columns=(
        _TENANT,
        _text("idempotency_key", 255),
        _text("operation", 255),
        _bytes("fingerprint"),
        _bytes("result", null=True),
        _at("created_at"),
        _at("expires_at"),
    ),
    key=("tenant_id", "idempotency_key"),
    thing=2,
    large=True,
)
_JOBS = Table(
    name="jobs",
    type="jobs",
    path=("jobs",),
    columns=(
        _TENANT,
        _id("job_id"),
        _text("kind"),
        _json("payload"),
        _text("state"),
        _flag("ready"),
        _int("priority"),
        _text("dedupe_key", null=True),
        _int("attempt"),
        _int("max_attempts"),
        _at("run_at"),
        _int("token"),
        _id("lease_id", null=True),
        _at("leased_until", null=True),
        _text("worker", null=True),
        _flag("cancel_requested"),
        _int("done", null=True),
        _int("total", null=True),
        _text("message", null=True),
        _text("error_class", null=True),
        _text("error", null=True),
        _json("result", null=True),
        _at("created_at"),
        _at("updated_at"),
        _at("finished_at", null=True),
    ),
    key=("tenant_id", "job_id"),
    thing=2,
    large=True,
)
_ACCESS = Table(
    name="access_keys",
    type="access_keys",
    path=("access_keys",),
    columns=(
        _TENANT,
        _id("key_id"),
        _text("name", 500),
        _text("principal", 500),
        _json("scopes"),
        _bytes("key_hash"),
        _text("pepper", 32),
        _at("created_at"),
        _at("expires_at", null=True),
        _at("last_used_at", null=True),
        _at("revoked_at", null=True),
        _text("revoked_reason", null=True),
        _id("rotated_from", null=True),
        _id("rotated_to", null=True),
    ),
    key=("tenant_id", "key_id"),
    thing=2,
)
_HEADS = Table(
    name="audit_heads",
    type="audit",
    path=("audit_heads",),
    columns=(_TENANT, _int("sequence"), _bytes("entry_hash")),
    key=("tenant_id",),
    thing=1,
)
_AUDIT = Table(
    name="audit_log",
    type="audit",
    path=("audit_log",),
    columns=(
        _TENANT,
        _int("sequence"),
        _id("entry_id"),
        _at("at"),
        _text("operation", 128),
        _text("principal", 500),
        _text("resource"),
        _text("decision"),
        _text("reason", null=True),
        _json("details"),
        Column("latency_ms", "float", null=True),
        _bytes("prev_hash"),
        _bytes("entry_hash"),
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
    columns=(
        _TENANT,
        _text("name", 500),
        _text("status"),
        _text("isolation_level"),
        _json("quotas"),
        _at("created_at"),
        _at("updated_at"),
        _int("version"),
        _text("status_reason", null=True),
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
