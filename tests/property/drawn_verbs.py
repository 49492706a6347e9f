"""Every verb of every stem, with how its arguments are drawn and what later steps may refer to afterwards.

`VERBS[stem][verb]` is a function from a `Draw` to arguments. A test compares the table with the Protocols, so that a new verb is
drawn, or stands in `NOT_DRAWN` with the reason.
"""

from __future__ import annotations

from typing import Any

from tests.property.drawn_knowledge import GRAPH, MEMORIES
from tests.property.drawn_values import (
    FIXED_IDS,
    Content,
    Draw,
    Drawn,
    Now,
    Ref,
    TenantNumber,
    given,
)

from llmspell.storage.contracts.access_keys import KeyHash, NewAccessKey, Successor
from llmspell.storage.contracts.api_keys import NewApiKey, ResealedApiKey
from llmspell.storage.contracts.artifacts import ARTIFACT_TYPES
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution, RetentionPolicy
from llmspell.storage.contracts.jobs import EMBED_KIND, JOB_STATES
from llmspell.storage.contracts.sessions import SESSION_STATUSES
from llmspell.storage.contracts.tenants import QuotaLimits
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.contracts.workflow_state import STATUSES

NOT_DRAWN = {
    "kv.backend_type": "the name of the backend, which is what differs",
    "kv.characteristics": "what the backend is good for, which is what differs",
    "vectors.index_status": "how vectors are searched, which is what differs; searches themselves are drawn",
    "vectors.build_index": "changes no answer but by the recall of an index; searches themselves are drawn",
    "jobs_queue.store": "no verb: the jobs of the store, whose verbs are drawn through it",
    "jobs_queue.of": "no verb: the jobs of a tenant, whose verbs are drawn through it",
    "tenants.audit": "no verb: the audit log of a tenant, whose verbs are drawn through it",
}
SCOPES = ["default", "a", "é"]
SERVICES = ["openai", "a", "b"]
KINDS = ["send", "fetch", EMBED_KIND]
HOOKS = ["h1", "h2"]
TYPES = ["a.b", "a.bc", "b.c", "A.b"]
PATTERNS = ["*", "a.b", "a.*", "a.b*", "z.*"]
WORKFLOWS = ["w1", "w2", "é"]
AGENTS = ["ada", "bo", "é"]
PATTERN_KEYS = ["a", "a", "a", "b", "é"]


# --- what is kept under keys ----------------------------------------------------------------------------------------------

KV: dict[str, Drawn] = {
    "get": lambda d: given(d.key()),
    "set": lambda d: given(d.key(), d.blob(), ttl_s=d.maybe(d.ttl, 0.3)),
    "delete": lambda d: given(d.key()),
    "exists": lambda d: given(d.key()),
    "list_keys": lambda d: given(
        d.pick(["", "a", "a:", "é", "k%", "zz"]), after=d.maybe(d.key, 0.3), limit=d.maybe(d.limit)
    ),
    "get_batch": lambda d: given([d.key() for _ in range(d.number(0, 4))]),
    "set_batch": lambda d: given({d.key(): d.blob() for _ in range(d.number(0, 4))}, ttl_s=d.maybe(d.ttl, 0.3)),
    "delete_batch": lambda d: given([d.key() for _ in range(d.number(0, 2))]),
    "clear": lambda d: given(),
    "delete_expired": lambda d: given(limit=d.limit()),
}
VECTORS: dict[str, Drawn] = {
    "insert": lambda d: given(
        [
            VectorEntry(embedding=d.vector(), id=d.new_id(), scope=d.pick(SCOPES), metadata=d.object())
            for _ in range(d.number(0, 3))
        ]
    ),
    "get": lambda d: given(d.id("vector")),
    "search": lambda d: given(
        d.vector(),
        limit=d.maybe(d.limit),
        scope=d.maybe(lambda: d.pick(SCOPES)),
        filters=d.maybe(d.filters, 0.3),
        min_score=d.maybe(lambda: d.pick([-0.5, 0.0, 0.5]), 0.2),
        include_embedding=d.maybe(lambda: d.chance(0.5), 0.2),
    ),
    "update_metadata": lambda d: given(d.id("vector"), d.object()),
    "delete": lambda d: given(d.ids("vector")),
    "delete_scope": lambda d: given(d.pick(SCOPES)),
    "stats": lambda d: given(scope=d.maybe(lambda: d.pick(SCOPES))),
    "sample": lambda d: given(d.pick(["free-384", "free-768", "a"]), limit=d.maybe(lambda: d.number(1, 5))),
}
PROCEDURES: dict[str, Drawn] = {
    "record": lambda d: given(
        d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), count=d.maybe(lambda: d.number(1, 4))
    ),
    "record_transition": lambda d: given(
        d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick([None, "a", 'q"']), d.pick(PATTERN_KEYS)
    ),
    "get": lambda d: given(d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS)),
    "frequency": lambda d: given(d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS)),
    "learned": lambda d: given(
        scope=d.maybe(lambda: d.pick(PATTERN_KEYS), 0.5), min_frequency=d.maybe(lambda: d.number(1, 4)), limit=d.limit()
    ),
    "predict": lambda d: given(d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), limit=d.maybe(d.limit)),
    "predict_next": lambda d: given(d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick([None, "a", 'q"'])),
    "delete": lambda d: given(d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS), d.pick(PATTERN_KEYS)),
    "forget": lambda d: given(d.pick(PATTERN_KEYS), d.maybe(lambda: d.pick(PATTERN_KEYS), 0.7, None), limit=d.limit()),
    "prune": lambda d: given(before=d.near(), below_frequency=d.maybe(lambda: d.number(1, 4)), limit=d.limit()),
}
AGENT_STATE: dict[str, Drawn] = {
    "save": lambda d: given(
        d.pick(AGENTS),
        d.object(),
        agent_type=d.maybe(lambda: d.pick(["agent", "bot"]), 0.2),
        schema_version=d.maybe(lambda: d.number(1, 3), 0.2),
        expected_version=d.version(),
    ),
    "get": lambda d: given(d.pick(AGENTS)),
    "list": lambda d: given(agent_type=d.maybe(lambda: d.pick(["agent", "bot"]), 0.3), limit=d.limit()),
    "delete": lambda d: given(d.pick(AGENTS), expected_version=d.version()),
    "verify": lambda d: given(limit=d.limit()),
}
WORKFLOW_STATE: dict[str, Drawn] = {
    "create": lambda d: given(
        d.pick(WORKFLOWS), d.object(), name=d.maybe(d.text), current_step=d.maybe(lambda: 1, 0.2)
    ),
    "save": lambda d: given(
        d.pick(WORKFLOWS), d.object(), current_step=d.maybe(lambda: d.number(0, 3), 0.3), expected_version=d.version()
    ),
    "get": lambda d: given(d.pick(WORKFLOWS)),
    "transition": lambda d: given(
        d.pick(WORKFLOWS),
        d.pick([*STATUSES, *["running"] * 8, "failed", "failed"]),
        data=d.maybe(d.object, 0.2),
        expected_version=d.version(),
    ),
    "advance": lambda d: given(d.pick(WORKFLOWS), d.number(1, 9), data=d.maybe(d.object, 0.2)),
    "list": lambda d: given(status=d.maybe(lambda: d.pick(STATUSES), 0.3), limit=d.limit()),
    "counts": lambda d: given(),
    "delete": lambda d: given(d.pick(WORKFLOWS), expected_version=d.version()),
    "prune": lambda d: given(before=d.near(), limit=d.limit()),
}
IDEMPOTENCY: dict[str, Drawn] = {
    "find": lambda d: given(d.key(), operation="kv.set", fingerprint=d.pick([b"f" * 32, b"g" * 32])),
    "claim": lambda d: given(
        d.key(), operation="kv.set", fingerprint=d.pick([b"f" * 32, b"f" * 32, b"g" * 32]), ttl_s=d.maybe(d.ttl, 0.3)
    ),
    "record": lambda d: given(d.key(), d.blob()),
    "expire": lambda d: given(limit=d.limit()),
}

# --- sessions and artifacts -----------------------------------------------------------------------------------------------


def _content(d: Draw) -> Content:
    data = d.pick([b"", b"a", b"b" * 3_000, bytes(range(256)) * 8, b"c" * 3])
    return Content(d.pick(["bytes", "bytes", "file", "pieces"]), data)


def _session_change(d: Draw) -> dict[str, Any]:
    return {
        "data": d.maybe(d.object),
        "status": d.maybe(lambda: d.pick([*SESSION_STATUSES, "active", "archived"]), 0.3),
        "ttl_s": d.maybe(lambda: d.pick([None, 5, 600]), 0.3),
        "expected_version": d.version(),
    }


def _session(d: Draw) -> Any:
    return d.id("session", fixed=0.3)


def _artifact(d: Draw) -> Any:
    missing = f"{FIXED_IDS[0]}:7:{'0' * 64}"
    return missing if d.chance(0.04) else Ref("artifact", d.number(0, 4), foreign=d.chance(0.05))


SESSIONS_VERBS: dict[str, Drawn] = {
    "create": lambda d: given(id=d.new_id(), data=d.maybe(d.object), ttl_s=d.maybe(d.ttl, 0.3)),
    "get": lambda d: given(_session(d)),
    "update": lambda d: given(_session(d), **_session_change(d)),
    "delete": lambda d: given(_session(d)),
    "list": lambda d: given(status=d.maybe(lambda: d.pick(SESSION_STATUSES), 0.3), limit=d.limit()),
    "count": lambda d: given(status=d.maybe(lambda: d.pick(SESSION_STATUSES), 0.3)),
    "expire": lambda d: given(limit=d.limit()),
    "delete_expired": lambda d: given(limit=d.limit()),
}
ARTIFACTS: dict[str, Drawn] = {
    "put": lambda d: given(
        _session(d),
        d.text(),
        _content(d),
        type=d.maybe(lambda: d.pick(ARTIFACT_TYPES)),
        metadata=d.maybe(d.object, 0.3),
        tags=d.maybe(lambda: ["t", "é"], 0.2),
        created_by=d.maybe(d.text, 0.2),
        parent=d.maybe(lambda: _artifact(d), 0.2),
    ),
    "get": lambda d: given(_artifact(d)),
    "read": lambda d: given(_artifact(d)),
    "stream": lambda d: given(_artifact(d)),
    "download": lambda d: given(_artifact(d)),
    "list": lambda d: given(
        session=d.maybe(lambda: _session(d)), type=d.maybe(lambda: d.pick(ARTIFACT_TYPES), 0.2), limit=d.limit()
    ),
    "update": lambda d: given(
        _artifact(d), name=d.maybe(d.text), tags=d.maybe(lambda: ["u"]), expected_revision=d.version()
    ),
    "delete": lambda d: given(_artifact(d)),
    "stats": lambda d: given(session=d.maybe(lambda: _session(d))),
    "verify": lambda d: given(_artifact(d)),
    "collect_garbage": lambda d: given(limit=d.limit()),
}

# --- logs -----------------------------------------------------------------------------------------------------------------


def _event(d: Draw) -> NewEvent:
    return NewEvent(
        type=d.pick(TYPES),
        payload=d.maybe(d.object, 0.5, None),
        correlation_id=d.pick([None, *FIXED_IDS[:2]]),
        at=d.maybe(lambda: Now(d.pick([-86_400 * 31, -1, 0])), 0.3, None),
        id=d.new_id(),
    )


def _event_choice(d: Draw) -> dict[str, Any]:
    return {
        "type": d.maybe(lambda: d.pick(PATTERNS)),
        "correlation_id": d.maybe(lambda: d.pick(FIXED_IDS[:2]), 0.2),
    }


EVENT_LOG: dict[str, Drawn] = {
    "append": lambda d: given(
        d.pick(TYPES),
        d.maybe(d.object, 0.5, None),
        correlation_id=d.maybe(lambda: d.pick(FIXED_IDS[:2]), 0.3),
        at=d.maybe(lambda: Now(d.pick([-86_400 * 31, -1, 0])), 0.2),
        id=d.maybe(lambda: d.pick(FIXED_IDS), 0.2),
    ),
    "append_many": lambda d: given([_event(d) for _ in range(d.number(0, 3))]),
    "get": lambda d: given(d.id("event"), at=d.maybe(lambda: Now(0), 0.05)),
    "list": lambda d: given(
        **d.period(), **_event_choice(d), descending=d.maybe(lambda: d.chance(0.5)), limit=d.limit()
    ),
    "tail": lambda d: given(after_sequence=d.number(0, 5), **_event_choice(d), limit=d.limit()),
    "count": lambda d: given(**d.period(), **_event_choice(d)),
    "stats": lambda d: given(**d.period()),
    "prune": lambda d: given(d.near(), limit=d.limit()),
}


def _execution(d: Draw) -> NewHookExecution:
    result, data = d.pick(
        [
            ("continue", None),
            ("modified", {"a": 1}),
            ("retry", {"delay_ms": 5, "max_attempts": 2}),
            ("cache", {"key": "k", "ttl_s": 5}),
            ("cancel", {"reason": "no"}),
            ("skipped", None),
        ]
    )
    return NewHookExecution(
        hook_id=d.pick(HOOKS),
        hook_type=d.pick(["before", "after"]),
        triggering_component=d.pick(["agent", "tool"]),
        component_id=d.pick([None, "c1"]),
        context=d.pick([b"", b"raw" * 200, {"a": "x" * 400}, {"a": 1.0}]),
        result=result,
        result_data=data,
        duration_ms=d.pick([0, 1, 5, 250]),
        correlation_id=d.pick([None, *FIXED_IDS[:2]]),
        at=d.maybe(d.near, 0.3, None),
        tags=d.pick([(), ("t",)]),
        retention_priority=d.pick([0, 0, 5, 9]),
        contains_sensitive_data=d.chance(0.3),
        metadata=d.object(),
        id=d.new_id(),
    )


HOOK_HISTORY: dict[str, Drawn] = {
    "record": lambda d: given(_execution(d)),
    "record_many": lambda d: given([_execution(d) for _ in range(d.number(0, 3))]),
    "get": lambda d: given(d.id("execution")),
    "list": lambda d: given(
        hook_id=d.maybe(lambda: d.pick(HOOKS)),
        hook_type=d.maybe(lambda: "before", 0.2),
        correlation_id=d.maybe(lambda: d.pick(FIXED_IDS[:2]), 0.2),
        include_context=d.maybe(lambda: True, 0.3),
        limit=d.limit(),
        **d.period(),
    ),
    "delete": lambda d: given(d.id("execution")),
    "statistics": lambda d: given(hook_id=d.maybe(lambda: d.pick(HOOKS)), **d.period()),
    "prune": lambda d: given(before=d.near(), below_priority=d.maybe(lambda: d.pick([1, 5])), limit=d.limit()),
    "apply_retention": lambda d: given(
        d.maybe(lambda: RetentionPolicy(max_age_days=0.001, executions_min=d.number(0, 5)), 0.7, None), limit=d.limit()
    ),
}


def _entry(d: Draw) -> NewAuditEntry:
    return NewAuditEntry(
        operation=d.pick(["read", "write"]),
        principal=d.pick(["ann", "bo"]),
        resource=d.text(),
        decision=d.pick(["allow", "deny", "allow_with_filters"]),
        reason=d.maybe(d.text, 0.3, None),
        details=d.object(),
        latency_ms=d.pick([None, 0, 1.5]),
        at=d.maybe(d.near, 0.3, None),
    )


AUDIT: dict[str, Drawn] = {
    "record": lambda d: given(
        d.pick(["read", "write"]),
        principal=d.pick(["ann", "bo"]),
        resource=d.text(),
        decision=d.maybe(lambda: d.pick(["allow", "deny"])),
        details=d.maybe(d.object),
        latency_ms=d.maybe(lambda: 1.5, 0.2),
    ),
    "record_many": lambda d: given([_entry(d) for _ in range(d.number(0, 3))]),
    "get": lambda d: given(d.number(1, 8)),
    "list": lambda d: given(
        operation=d.maybe(lambda: d.pick(["read", "write", "create"])),
        principal=d.maybe(lambda: d.pick(["ann", "operator"]), 0.2),
        decision=d.maybe(lambda: "deny", 0.2),
        limit=d.limit(),
        **d.period(),
    ),
    "head": lambda d: given(),
    "verify": lambda d: given(anchor=d.maybe(lambda: Ref("head", d.number(0, 3)))),
}

# --- jobs -----------------------------------------------------------------------------------------------------------------


def _lease(d: Draw) -> Any:
    return Ref("lease", d.number(0, 2))


JOBS: dict[str, Drawn] = {
    "enqueue": lambda d: given(
        d.pick(KINDS[:2]),
        d.maybe(d.object),
        run_at=d.maybe(lambda: Now(d.pick([-5, 0, 5])), 0.3),
        priority=d.maybe(lambda: d.number(-1, 1), 0.3),
        max_attempts=d.maybe(lambda: d.number(1, 2)),
        dedupe_key=d.maybe(lambda: d.pick("xy"), 0.2),
        id=d.maybe(lambda: d.pick(FIXED_IDS), 0.15),
    ),
    "get": lambda d: given(d.id("job")),
    "list": lambda d: given(
        state=d.maybe(lambda: d.pick(JOB_STATES), 0.3), kind=d.maybe(lambda: d.pick(KINDS), 0.3), limit=d.limit()
    ),
    "cancel": lambda d: given(d.id("job")),
    "retry": lambda d: given(Ref("ended_job", d.number(0, 2)) if d.chance(0.8) else d.id("job")),
    "counts": lambda d: given(),
    "prune": lambda d: given(d.near(), dead=d.maybe(lambda: d.chance(0.5)), limit=d.limit()),
}
QUEUE: dict[str, Drawn] = {
    "lease": lambda d: given(
        worker=d.pick(["w1", "w2"]),
        kinds=d.maybe(lambda: d.source.sample(KINDS, 2), 0.3),
        limit=d.number(1, 3),
        lease_s=d.pick([5, 30]),
        tenants=d.maybe(lambda: [TenantNumber(n) for n in d.source.sample(range(3), 2)], 0.3),
    ),
    "heartbeat": lambda d: given(
        _lease(d),
        lease_s=d.pick([5, 30]),
        **({"done": d.number(0, 3), "total": 3, "message": d.text()} if d.chance(0.5) else {}),
    ),
    "complete": lambda d: given(_lease(d), d.maybe(d.object, 0.5, None)),
    "fail": lambda d: given(
        _lease(d),
        d.text(),
        error_class=d.maybe(lambda: "Oops"),
        retryable=d.maybe(lambda: d.chance(0.5)),
        delay_s=float(d.pick([0, 5])),
    ),
    "release": lambda d: given(_lease(d), delay_s=d.maybe(lambda: 5.0)),
    "stats": lambda d: given(),
    "tenants": lambda d: given(limit=d.maybe(d.limit)),
    "tenants_with_pending": lambda d: given(limit=d.maybe(d.limit)),
}

# --- keys and tenants -----------------------------------------------------------------------------------------------------


def _hashed(d: Draw) -> KeyHash:
    return KeyHash(key_hash=bytes([d.number(0, 255)]) * 32, pepper=d.pick(["store", "k1"]))


def _api_key(d: Draw) -> NewApiKey:
    return NewApiKey(
        key_id=d.pick(FIXED_IDS) if d.chance(0.1) else Ref("fresh", d.source.randrange(2**31)),  # type: ignore[arg-type]
        service=d.pick(SERVICES),
        sealed=d.pick([b"s1", b"s2", b"s3"]),
        expires_at=d.maybe(lambda: Now(d.pick([-1, 5, 600])), 0.4, None),
        metadata=d.maybe(d.object, 0.5, None),
    )


API_KEYS: dict[str, Drawn] = {
    "set": lambda d: given(_api_key(d), actor=d.actor()),
    "rotate": lambda d: given(_api_key(d), actor=d.actor()),
    "get": lambda d: given(d.pick(SERVICES)),
    "list": lambda d: given(service=d.maybe(lambda: d.pick(SERVICES), 0.3), limit=d.limit()),
    "find_sealed": lambda d: given(d.pick(SERVICES)),
    "note_use": lambda d: given(d.id("api_key", fixed=0.1), uses=d.maybe(lambda: d.number(1, 3))),
    "deactivate": lambda d: given(d.pick(SERVICES), actor=d.actor()),
    "delete": lambda d: given(d.pick(SERVICES), actor=d.actor()),
    "expire": lambda d: given(limit=d.limit()),
    "prune": lambda d: given(before=d.near(), limit=d.limit()),
    "stats": lambda d: given(),
    "list_sealed": lambda d: given(after=d.maybe(lambda: d.id("api_key"), 0.3), limit=d.limit()),
    "reseal": lambda d: given(
        [
            ResealedApiKey(key_id=d.id("api_key", fixed=0.1), expected=d.pick([b"s1", b"s2"]), sealed=b"s2")
            for _ in range(d.number(0, 2))
        ],
        actor=d.actor(),
    ),
}
ACCESS_KEYS: dict[str, Drawn] = {
    "pepper": lambda d: given(),
    "add": lambda d: given(
        NewAccessKey(
            key_id=d.pick(FIXED_IDS) if d.chance(0.1) else Ref("fresh", d.source.randrange(2**31)),  # type: ignore[arg-type]
            name=d.text(),
            principal=d.pick(["ann", "bo"]),
            scopes=d.pick([["read"], ["write", "read"], ["kv:get"]]),
            hashed=_hashed(d),
            expires_at=d.maybe(lambda: Now(d.pick([-1, 5, 600])), 0.4, None),
        ),
        actor=d.actor(),
    ),
    "find": lambda d: given(d.id("access_key", fixed=0.1)),
    "get": lambda d: given(d.id("access_key", fixed=0.1)),
    "list": lambda d: given(status=d.maybe(lambda: d.pick(["active", "expired", "revoked"]), 0.3), limit=d.limit()),
    "note_use": lambda d: given(d.id("access_key", fixed=0.1)),
    "rehash": lambda d: given(d.id("access_key", fixed=0.1), _hashed(d), expected_pepper=d.pick(["store", "k1"])),
    "revoke": lambda d: given(d.id("access_key", fixed=0.05), reason=d.maybe(d.text), actor=d.actor()),
    "rotate": lambda d: given(
        Ref("access_key", d.number(0, 1)),
        Successor(
            key_id=Ref("fresh", d.source.randrange(2**31)),  # type: ignore[arg-type]
            hashed=_hashed(d),
            expires_at=d.maybe(lambda: Now(600), 0.3, None),
        ),
        overlap_s=d.maybe(lambda: float(d.pick([0, 5])), 0.5),
        actor=d.actor(),
    ),
    "expire": lambda d: given(limit=d.limit()),
    "prune": lambda d: given(before=d.near(), limit=d.limit()),
}


def _some_tenant(d: Draw) -> TenantNumber:
    return TenantNumber(d.pick([0, 1, 2, 3, 4, 4, 4]))


TENANTS_VERBS: dict[str, Drawn] = {
    "create": lambda d: given(
        _some_tenant(d),
        name=d.maybe(d.text),
        quotas=d.maybe(lambda: QuotaLimits(max_vectors=d.number(0, 9)), 0.3),
        exist_ok=d.maybe(lambda: True, 0.7),
        actor=d.actor(),
    ),
    "get": lambda d: given(_some_tenant(d)),
    "list": lambda d: given(status=d.maybe(lambda: d.pick(["active", "suspended", "deleted"]), 0.3), limit=d.limit()),
    "update": lambda d: given(
        _some_tenant(d),
        name=d.maybe(d.text),
        quotas=d.maybe(lambda: QuotaLimits(max_documents=d.number(0, 9)), 0.3),
        expected_version=d.version(),
        actor=d.actor(),
    ),
    "usage": lambda d: given(_some_tenant(d)),
    "take_embeddings": lambda d: given(_some_tenant(d), d.number(0, 3)),
    "set_status": lambda d: given(
        TenantNumber(d.pick([3, 4])), d.pick(["suspended", "active", "active"]), reason=d.maybe(d.text), actor=d.actor()
    ),
}

VERBS: dict[str, dict[str, Drawn]] = {
    "kv": KV,
    "vectors": VECTORS,
    "memories": MEMORIES,
    "graph": GRAPH,
    "audit": AUDIT,
    "api_keys": API_KEYS,
    "access_keys": ACCESS_KEYS,
    "procedures": PROCEDURES,
    "agent_state": AGENT_STATE,
    "workflow_state": WORKFLOW_STATE,
    "event_log": EVENT_LOG,
    "hook_history": HOOK_HISTORY,
    "idempotency": IDEMPOTENCY,
    "sessions": SESSIONS_VERBS,
    "artifacts": ARTIFACTS,
    "jobs": JOBS,
    "jobs_queue": QUEUE,
    "tenants": TENANTS_VERBS,
}
