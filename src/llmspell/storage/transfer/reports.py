"""What a transfer tells when it is done."""

from __future__ import annotations

import msgspec

from llmspell.storage.contracts.transfer_tables import EXCLUDED, TABLES


class TableReport(msgspec.Struct, kw_only=True):
    """One table. `sha256` is the digest of the rows read, `tenants` their count by tenant."""

    read: int = 0
    inserted: int = 0
    skipped: int = 0
    """There before, and kept (`on_conflict="skip"`)."""
    replaced: int = 0
    """Of the inserted, those that took the place of others."""
    dropped: int = 0
    """Left out by `only` or `limit`, or because what they belong to was."""
    sha256: str = ""
    tenants: dict[str, int] = {}


class Report(msgspec.Struct, kw_only=True):
    """A whole transfer. Tables by their place in `data` (`knowledge_graph.entities`), in the order of the catalogue."""

    source_backend: str
    schema_version: int
    tenants: list[str] | None
    """The tenants asked for; None: all."""
    exported_at: str
    tables: dict[str, TableReport]
    notes: list[str]
    """What a user should know: what was dropped, kept or not checked, one sentence each."""
    excluded: dict[str, str] = msgspec.field(default_factory=EXCLUDED.copy)
    """Tables that are not transferred, each with the reason."""
    dry_run: bool = False
    digests_checked: bool = True
    """False: the file had no `summary`, so nothing says that it is whole but its end."""

    @property
    def total(self) -> int:
        """How many rows were read, without those left out."""
        return sum(table.read - table.dropped for table in self.tables.values())

    def statistics(self) -> dict[str, int]:
        """Return the counts of EXP-11, by what people call them, and `total`."""
        counts: dict[str, int] = {}
        for table in TABLES:
            found = self.tables.get(table.shown)
            counts[_SHOWN.get(table.shown, table.shown)] = 0 if found is None else found.read - found.dropped
        return {**counts, "total": self.total}


_SHOWN = {
    "vector_embeddings.384": "vectors (384 dimensions)",
    "vector_embeddings.768": "vectors (768 dimensions)",
    "vector_embeddings.1536": "vectors (1536 dimensions)",
    "vector_embeddings.3072": "vectors (3072 dimensions)",
    "knowledge_graph.entities": "entities",
    "knowledge_graph.relationships": "relationships",
    "procedural_memory": "procedural patterns",
    "agent_state": "agent states",
    "workflow_states": "workflow states",
    "kv_store": "key-value pairs",
    "event_log": "events",
    "hook_history": "hook executions",
}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One row that differs. `columns` is empty where the row is on one side only; `side` says on which: "first" or "second"."""

    table: str
    tenant: str
    key: dict[str, object]
    side: str | None
    columns: tuple[str, ...]


class SideDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a table and tenant, on both sides: counts and digests."""

    table: str
    tenant: str
    first_count: int
    second_count: int
    first_sha256: str
    second_sha256: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found."""

    tables: int
    rows: int
    """Rows of the first side."""
    differing: tuple[SideDifference, ...]
    """Tables and tenants whose count or digest differ."""
    differences: tuple[Difference, ...]
    """The first rows that differ."""

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return not self.differing
