"""Stores with every table filled, drawn at random: the rows that a transfer must carry without a change.

Texts are awkward, numbers extreme, instants at both ends of the calendar. Rows are valid in every backend, and no more than that.
"""

from __future__ import annotations

import array
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from llmspell.codec import DIMENSIONS
from llmspell.storage.contracts.transfer import INFINITY, Column, Record, Table, Transferable, json_value, shown_instant
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
TEXTS = (
    "plain",
    "Ünïcode ☃",
    "👩‍👩‍👧 family",
    'quo"te \\ back/slash',
    "tab\tline\nfeed\r",
    "\x01\x1f\x7f",
    "\u2028\u2029",
    "עברית مرحبا",
    "e\u0301",
    "{}[],:",
    "null",
    "  ",
)
FLOATS = (0.1, 1.0, 1e16, 1e22, 1.7976931348623157e308, 5e-324, -2.5e-10, 123456789.123456789)
INTEGERS = (0, 1, -1, 2**31 - 1, 2**53 + 1, 2**63 - 1, -(2**63))
CHOICES: dict[str, tuple[Any, ...]] = {
    "sessions.status": ("active", "archived", "expired"),
    "memories.memory_type": ("conversation", "knowledge", "experience", "skill", "preference"),
    "memories.embedding_state": ("ready", "pending", "failed"),
    "memory_versions.operation": ("add", "update", "delete", "restore", "forget"),
    "memory_versions.memory_type": ("conversation", "knowledge"),
    "embedding_spaces.state": ("active", "building", "retired"),
    "predicates.cardinality": ("one", "many"),
    "workflow_states.status": ("pending", "running", "completed", "failed", "cancelled"),
    "audit_log.decision": ("allow", "deny", "allow_with_filters"),
    "tenants.status": ("active", "suspended"),
    "tenants.isolation_level": ("strict",),
    "relationships.confidence": (0.0, 0.1, 1.0, None),
    "audit_log.latency_ms": (0.0, 0.1, 1e22, 5e-324, 1.7976931348623157e308, None),
}
POOL = 20_000
"""Embeddings are windows of so many components: drawing each anew would take longer than the transfer."""
SMALL = frozenset(
    {
        "version",
        "schema_version",
        "data_version",
        "frequency",
        "revision",
        "duration_ms",
        "retention_priority",
        "context_size",
    }
    | {"priority", "attempt", "max_attempts", "token", "done", "total", "token_count", "current_step", "size_bytes"}
    | {"original_size_bytes", "artifact_sequence"}
)
BYTES = {"fingerprint": 32, "key_hash": 32, "prev_hash": 32, "entry_hash": 32}


class Drawn:
    """Rows of every table for some tenants."""

    def __init__(
        self,
        seed: int,
        tenants: Sequence[str],
        *,
        each: int = 5,
        vectors: int = 5,
        artifact_bytes: int = 3_000_000,
        plain: bool = False,
    ) -> None:
        """`plain`: without numbers that other programs round."""
        self.chance = random.Random(seed)
        self.pool = array.array("f", (self.chance.gauss(0, 1) for _ in range(POOL + max(DIMENSIONS))))
        self.tenants = sorted(tenants)
        self.plain = plain
        self.floats = (0.1, 1.5, -2.25) if plain else FLOATS
        self.integers = (0, 1, -1, 2**31 - 1) if plain else INTEGERS
        self.each, self.vectors, self.artifact_bytes = each, vectors, artifact_bytes
        self.rows: dict[str, list[Record]] = {table.name: [] for table in TABLES}
        for tenant in self.tenants:
            self._tenant(tenant)
        for table in TABLES:
            self.rows[table.name].sort(key=lambda row: tuple(getattr(row, name) for name in table.key))

    async def load(self, store: Transferable, tenant: str | None = None) -> None:
        """Write all rows into a store that is empty."""
        async with store.transfer_target(tenant, on_conflict="error") as target:  # type: ignore[arg-type]
            for table in TABLES:
                rows = [row for row in self.rows[table.name] if tenant is None or row.tenant_id == tenant]  # type: ignore[attr-defined]
                for start in range(0, len(rows), 100):
                    await target.write(table, rows[start : start + 100])
            await target.finish()
            await target.commit()

    # --- values -------------------------------------------------------------------------------------------------------

    def uuid(self) -> UUID:
        return UUID(int=self.chance.getrandbits(128))

    def text(self, maximum: int | None = None) -> str:
        parts = [self.chance.choice(TEXTS) for _ in range(self.chance.randint(1, 3))]
        return ("".join(parts) + str(self.chance.getrandbits(40)))[-(maximum or 400) :]

    def instant(self) -> datetime:
        kind = self.chance.random()
        if kind < 0.1:
            return FIRST
        if kind < 0.2:
            return LAST
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.chance.randint(-(10**15), 10**15))

    def json(self, depth: int = 3) -> Any:
        kind = self.chance.random()
        if depth and kind < 0.4:
            return {self.text(60): self.json(depth - 1) for _ in range(self.chance.randint(0, 3))}
        if depth and kind < 0.5:
            return [self.json(depth - 1) for _ in range(self.chance.randint(0, 3))]
        return self.chance.choice(
            (None, True, False, self.text(), self.chance.choice(self.floats), self.chance.choice(self.integers))
        )

    def vector(self, dimension: int) -> bytes:
        start = self.chance.randrange(POOL)
        values = self.pool[start : start + dimension]
        values[0], values[1], values[2] = -0.0, 1e-38, 1.5
        return values.tobytes()

    def value(self, table: Table, column: Column) -> Any:
        name = column.name
        given = CHOICES.get(f"{table.name}.{name}")
        if given is not None:
            return self.chance.choice(given[:2] if column.kind == "float" and self.plain else given)
        if column.null and self.chance.random() < 0.3:
            return None
        match column.kind:
            case "text":
                return self.text(column.max_characters)
            case "uuid":
                return self.uuid()
            case "integer":
                return (
                    self.chance.randint(1, 2**31 - 1) if name in SMALL else self.chance.randint(1, max(self.integers))
                )
            case "boolean":
                return self.chance.random() < 0.5
            case "json":
                return json_value({self.text(30): self.json(), "n": self.chance.choice(self.floats)})
            case "texts":
                return [self.text(30) for _ in range(self.chance.randint(0, 3))]
            case "bytes":
                return self.chance.randbytes(BYTES.get(name, self.chance.randint(0, 200)))
            case "instant":
                return self.instant()
            case "float":
                return self.chance.choice(self.floats)
            case "vector":
                return self.vector(table.dimension or 0)
        raise AssertionError(column)

    def add(self, name: str, tenant: str, **given: Any) -> Record:
        table = BY_NAME[name]
        values = {"tenant_id": tenant, **given}
        row = table.record(*(values[c.name] if c.name in values else self.value(table, c) for c in table.columns))
        self.rows[name].append(row)
        return row

    # --- tables -------------------------------------------------------------------------------------------------------

    def _tenant(self, tenant: str) -> None:
        self._artifacts(tenant)
        self._memories(tenant)
        self._graph(tenant)
        for _ in range(self.each):
            self.add("procedural_patterns", tenant, value=self.text(200))
            self.add("agent_states", tenant)
            self.add("kv_store", tenant, value=self.chance.randbytes(self.chance.choice((0, 10, 5000))))
            self.add("workflow_states", tenant)
            self.add("hook_history", tenant)
            self.add("idempotency_keys", tenant)
            self.add("access_keys", tenant, scopes=json_value(["read", "write"]))
            self._job(tenant)
        self._events(tenant)
        self._audit(tenant)
        self.add(
            "tenants",
            tenant,
            quotas=json_value(
                self.chance.choice(({}, {"max_documents": 10**6}, {"max_storage_mb": 10**5, "max_vectors": 10**6}))
            ),
        )

    def _artifacts(self, tenant: str) -> None:
        sessions = [self.uuid() for _ in range(self.each)]
        for session in sessions:
            self.add("sessions", tenant, session_id=session)
        hashes = [self.chance.randbytes(32).hex() for _ in range(max(1, self.each // 2))]
        for place, content in enumerate(hashes):
            size = self.artifact_bytes if place == 0 else self.chance.randint(0, 2_000)
            chunked = size >= 1024 * 1024
            data = None if chunked else self.chance.randbytes(size)
            self.add(
                "artifact_content", tenant, content_hash=content, storage_type="chunks" if chunked else "bytea",
                data=data, size_bytes=size, original_size_bytes=None,
            )  # fmt: skip
            for number in range(0, size if chunked else 0, 1024 * 1024):
                piece = self.chance.randbytes(min(1024 * 1024, size - number))
                self.add(
                    "artifact_chunks",
                    tenant,
                    content_hash=content,
                    chunk_no=number // 1024 // 1024,
                    data=piece,
                    checksum=b"\1" * 32,
                )
        for number in range(self.each * 2):
            self.add(
                "artifacts", tenant, artifact_id=f"{number}:{self.text(100)}", session_id=self.chance.choice(sessions),
                sequence=number, content_hash=self.chance.choice(hashes), parent_artifact_id=None,
            )  # fmt: skip

    def _memories(self, tenant: str) -> None:
        owned: list[UUID] = []
        for dimension in DIMENSIONS:
            self.add("embedding_spaces", tenant, space_id=f"model-{dimension}", dimension=dimension)
        for place in range(self.each * 2):
            memory = self.uuid()
            for version in range(1, self.chance.randint(2, 4)):
                self.add(
                    "memory_versions",
                    tenant,
                    memory_id=memory,
                    version=version,
                    operation="add" if version == 1 else "update",
                )
            if place % 4 == 3:  # deleted: only versions are left
                self.add("memory_versions", tenant, memory_id=memory, version=9, operation="delete", content=None)
            else:
                owned.append(memory)
                self.add(
                    "memories", tenant, memory_id=memory, content=f"Ada met {self.text()} in Zürich.", space_id=None
                )
        for dimension in DIMENSIONS:
            for place in range(self.vectors):
                identity = self.uuid()
                free = place % 3 != 0
                owner = identity if free else owned[place % len(owned)]
                space = f"free-{dimension}" if free else f"model-{dimension}"
                self.add(
                    f"vector_embeddings_{dimension}",
                    tenant,
                    id=identity,
                    owner_id=owner,
                    space_id=space,
                    part_no=place if not free else 0,
                )

    def _graph(self, tenant: str) -> None:
        entities = [self.uuid() for _ in range(self.each)]
        begin = datetime(2026, 1, 1, tzinfo=UTC)
        for entity in entities:
            self._versions("entities", tenant, begin, entity_id=entity, name_folded="x")
        for _ in range(self.each):
            ends = {"from_entity": self.chance.choice(entities), "to_entity": self.chance.choice(entities)}
            self._versions("relationships", tenant, begin, relationship_id=self.uuid(), **ends)
            self.add("predicates", tenant)
        self.add("tenant_clocks", tenant, last_recorded=begin + timedelta(days=400))

    def _versions(self, name: str, tenant: str, begin: datetime, **given: Any) -> None:
        """A thing that was corrected some times: closed on the recorded axis, and open at last; true from the first day."""
        starts = [
            begin + timedelta(days=n, microseconds=self.chance.randint(1, 10**6))
            for n in range(self.chance.randint(1, 4))
        ]
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            self.add(
                name, tenant, **given, valid_time_start=FIRST, valid_time_end=self.chance.choice((INFINITY, shown_instant(LAST))),
                transaction_time_start=start, transaction_time_end=INFINITY if end is None else shown_instant(end),
            )  # fmt: skip

    def _events(self, tenant: str) -> None:
        times = [self.instant() for _ in range(self.each * 3)]
        for number, at in enumerate(times, 1):
            self.add("event_log", tenant, timestamp=at, sequence=number)
        self.add("event_sequences", tenant, value=len(times) + 7, first_at=min(times), last_at=max(times))

    def _audit(self, tenant: str) -> None:
        last = None
        for number in range(1, self.each + 1):
            last = self.add("audit_log", tenant, sequence=number)
        self.add("audit_heads", tenant, sequence=self.each, entry_hash=last.entry_hash)  # type: ignore[union-attr]

    def _job(self, tenant: str) -> None:
        state = self.chance.choice(("queued", "running", "succeeded", "dead", "cancelled"))
        running, ended = state == "running", state not in ("queued", "running")
        self.add(
            "jobs", tenant, state=state, ready=state == "queued" and self.chance.random() < 0.5,
            lease_id=self.uuid() if running else None, leased_until=self.instant() if running else None,
            finished_at=self.instant() if ended else None,
        )  # fmt: skip


def same(left: Sequence[Record], right: Sequence[Record]) -> bool:
    """Whether rows are equal, to the bit."""
    return [msgspec.json.encode(row) for row in left] == [msgspec.json.encode(row) for row in right]
