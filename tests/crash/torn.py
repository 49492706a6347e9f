"""What is half there in a store, found by queries that look at rows which must agree. The same on both databases."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import psycopg

# Each query counts the rows that contradict others. `{s}` is the schema.
TORN = {
    "a memory without the version that it is at": """
        SELECT count(*) FROM {s}memories m WHERE NOT EXISTS (SELECT 1 FROM {s}memory_versions v
            WHERE v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id AND v.version = m.version
              AND v.content = m.content)""",
    "versions with a gap between them": """
        SELECT count(*) FROM (SELECT count(*) AS many, max(version) AS last FROM {s}memory_versions
            GROUP BY tenant_id, memory_id) h WHERE h.many <> h.last""",
    "a memory that is not at its last version": """
        SELECT count(*) FROM {s}memories m WHERE m.version <> (SELECT max(v.version) FROM {s}memory_versions v
            WHERE v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id)""",
    "a memory that is gone although nothing says that it was deleted": """
        SELECT count(*) FROM {s}memory_versions v WHERE v.operation NOT IN ('delete', 'forget')
            AND NOT EXISTS (SELECT 1 FROM {s}memories m WHERE m.tenant_id = v.tenant_id AND m.memory_id = v.memory_id)
            AND v.version = (SELECT max(w.version) FROM {s}memory_versions w
                WHERE w.tenant_id = v.tenant_id AND w.memory_id = v.memory_id)""",
    "a memory that is there although it was deleted": """
        SELECT count(*) FROM {s}memories m JOIN {s}memory_versions v ON v.tenant_id = m.tenant_id
            AND v.memory_id = m.memory_id AND v.version = m.version WHERE v.operation IN ('delete', 'forget')""",
    "a memory whose terms are not as many as its row says": """
        SELECT count(*) FROM {s}memories m WHERE m.text_length <> coalesce((SELECT sum(p.tf) FROM {s}text_postings p
            WHERE p.tenant_id = m.tenant_id AND p.collection = 'memories' AND p.owner_id = m.memory_id
              AND p.length = m.text_length), 0)""",
    "terms without a memory": """
        SELECT count(*) FROM {s}text_postings p WHERE NOT EXISTS (SELECT 1 FROM {s}memories m
            WHERE m.tenant_id = p.tenant_id AND m.memory_id = p.owner_id)""",
    "a memory without its vector": """
        SELECT count(*) FROM {s}memories m WHERE m.embedding_state = 'ready' AND 1 <> (SELECT count(*)
            FROM {s}vector_embeddings_384 e
            WHERE e.tenant_id = m.tenant_id AND e.owner_id = m.memory_id AND e.space_id = m.space_id)""",
    "a vector without its memory": """
        SELECT count(*) FROM {s}vector_embeddings_384 e WHERE e.space_id NOT LIKE 'free-%' AND NOT EXISTS (
            SELECT 1 FROM {s}memories m
            WHERE m.tenant_id = e.tenant_id AND m.memory_id = e.owner_id AND m.embedding_state = 'ready')""",
    "a vector that the cache would not hear of": """
        SELECT count(*) FROM {s}vector_embeddings_384 e JOIN {s}embedding_spaces s USING (tenant_id, space_id)
        WHERE e.seq > s.change_seq""",
    "statistics that count other memories": """
        SELECT count(*) FROM {s}tenants t WHERE coalesce((SELECT sum(documents) FROM {s}text_stats s
            WHERE s.tenant_id = t.tenant_id), 0) <> (SELECT count(*) FROM {s}memories m WHERE m.tenant_id = t.tenant_id)""",
    "statistics that count other terms": """
        SELECT count(*) FROM {s}tenants t WHERE coalesce((SELECT sum(terms) FROM {s}text_stats s
            WHERE s.tenant_id = t.tenant_id), 0) <> coalesce((SELECT sum(text_length) FROM {s}memories m
            WHERE m.tenant_id = t.tenant_id), 0)""",
    "a transaction of which only a part is there": """
        SELECT count(*) FROM (SELECT (SELECT count(*) FROM {s}memories WHERE session = 'tx') AS memories,
            (SELECT count(*) FROM {s}kv_store WHERE key >= 'tx-' AND key < 'tx.') AS keys) c WHERE memories <> keys""",
    "a fact about an entity that is not there": """
        SELECT count(*) FROM {s}relationships r WHERE 2 > (SELECT count(DISTINCT e.entity_id) FROM {s}entities e
            WHERE e.tenant_id = r.tenant_id AND e.entity_id IN (r.from_entity, r.to_entity))""",
    "events whose numbers are not those that were given": """
        SELECT count(*) FROM {s}tenants t WHERE coalesce((SELECT max(value) FROM {s}event_sequences s
            WHERE s.tenant_id = t.tenant_id), 0) <> (SELECT count(*) FROM {s}event_log e WHERE e.tenant_id = t.tenant_id)
          OR (SELECT count(DISTINCT sequence) FROM {s}event_log e WHERE e.tenant_id = t.tenant_id)
             <> coalesce((SELECT max(sequence) FROM {s}event_log e WHERE e.tenant_id = t.tenant_id), 0)""",
    "an audit chain that does not end at its head": """
        SELECT count(*) FROM {s}audit_heads h WHERE h.sequence <> (SELECT count(*) FROM {s}audit_log a
            WHERE a.tenant_id = h.tenant_id) OR NOT EXISTS (SELECT 1 FROM {s}audit_log a
            WHERE a.tenant_id = h.tenant_id AND a.sequence = h.sequence AND a.entry_hash = h.entry_hash)""",
    "an audit entry that does not follow the one before it": """
        SELECT count(*) FROM {s}audit_log a WHERE a.prev_hash <> (SELECT b.entry_hash FROM {s}audit_log b
            WHERE b.tenant_id = a.tenant_id AND b.sequence = a.sequence - 1)""",
    "an audit entry without a head": """
        SELECT count(*) FROM {s}audit_log a
        WHERE NOT EXISTS (SELECT 1 FROM {s}audit_heads h WHERE h.tenant_id = a.tenant_id)""",
    "an idempotency key whose call has no answer": """
        SELECT count(*) FROM {s}idempotency_keys WHERE result IS NULL""",
    "a workflow that ended at no time": """
        SELECT count(*) FROM {s}workflow_states WHERE (status = 'completed') <> (completed_at IS NOT NULL)""",
    "a content without its chunks": """
        SELECT count(*) FROM {s}artifact_content c WHERE c.storage_type = 'chunks' AND c.size_bytes <> coalesce((
            SELECT sum(length(k.data)) FROM {s}artifact_chunks k
            WHERE k.tenant_id = c.tenant_id AND k.content_hash = c.content_hash), 0)""",
    "a tenant whose counter of memories says something else than its rows": """
        SELECT count(*) FROM {s}tenant_usage u WHERE u.documents <> (SELECT count(*) FROM {s}memories m
            WHERE m.tenant_id = u.tenant_id)""",
    "a tenant whose counter of bytes says something else than its rows": """
        SELECT count(*) FROM {s}tenant_usage u WHERE u.storage_bytes <>
            (SELECT coalesce(sum(octet_length(k.value)), 0) FROM {s}kv_store k WHERE k.tenant_id = u.tenant_id)
            + (SELECT coalesce(sum(octet_length(m.content)), 0) FROM {s}memories m WHERE m.tenant_id = u.tenant_id)
            + (SELECT coalesce(sum(c.size_bytes), 0) FROM {s}artifact_content c WHERE c.tenant_id = u.tenant_id)""",
    "a tenant whose counter of vectors says something else than its rows": """
        SELECT count(*) FROM {s}tenant_usage u WHERE u.vectors <>
            (SELECT count(*) FROM {s}vector_embeddings_384 v WHERE v.tenant_id = u.tenant_id)
            + (SELECT count(*) FROM {s}vector_embeddings_768 v WHERE v.tenant_id = u.tenant_id)
            + (SELECT count(*) FROM {s}vector_embeddings_1536 v WHERE v.tenant_id = u.tenant_id)
            + (SELECT count(*) FROM {s}vector_embeddings_3072 v WHERE v.tenant_id = u.tenant_id)""",
    "a content that nothing refers to": "SELECT count(*) FROM {s}artifact_content WHERE reference_count = 0",
    "references that are not those of the artifacts": """
        SELECT count(*) FROM {s}artifact_content c WHERE c.reference_count <> (SELECT count(*) FROM {s}artifacts a
            WHERE a.tenant_id = c.tenant_id AND a.content_hash = c.content_hash)""",
    "a session that counts other artifacts": """
        SELECT count(*) FROM {s}sessions s WHERE s.artifact_count <> (SELECT count(*) FROM {s}artifacts a
            WHERE a.tenant_id = s.tenant_id AND a.session_id = s.session_id)""",
    "a chunk of no content": """
        SELECT count(*) FROM {s}artifact_chunks k WHERE NOT EXISTS (SELECT 1 FROM {s}artifact_content c
            WHERE c.tenant_id = k.tenant_id AND c.content_hash = k.content_hash)""",
}


IN_FILE = {
    **{what: query.format(s="") for what, query in TORN.items()},
    "a reference to a row that is not there": "SELECT count(*) FROM pragma_foreign_key_check",
}


def contradictions(connection: apsw.Connection) -> list[str]:
    """What is half there, as a connection sees it."""
    return [what for what, query in IN_FILE.items() if connection.execute(query).get]


def torn_in_file(path: Path) -> list[str]:
    """What is half there in a file; the file's own check comes first."""
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        return contradictions(connection)


def torn_on_server(superuser_url: str) -> list[str]:
    """What is half there in a database, as its superuser sees it."""
    with psycopg.connect(superuser_url) as connection:
        found = {
            what: connection.execute(query.format(s="llmspell.").encode()).fetchone() for what, query in TORN.items()
        }
    return [what for what, row in found.items() if row is None or row[0]]
