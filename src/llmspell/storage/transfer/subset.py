"""A part of a store: some of its tables, or the first few things of each, and what belongs to them.

Rule 1: what is kept is whole: a row stays only if what it belongs to stays. What was left out for that is said.
Rule 2: frames (spaces, predicates, clocks, numbers of events, tenants) go with what they are frames of.
Rule 3: an audit chain cannot be cut: it goes with `only`, and not with `limit`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

from llmspell.codec import require_limit
from llmspell.errors import InvalidInput
from llmspell.storage.contracts.transfer import Record, Table
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES

LIMIT_MAX: Final = 1_000_000
"""Of each thing; their names are kept in memory."""
FRAMES: Final = {
    "embedding_spaces": ("memories", "vector_embeddings"),
    "predicates": ("knowledge_graph",),
    "tenant_clocks": ("knowledge_graph",),
    "tenants": None,
}
"""Tables that go with types; None: always."""
NEEDS: Final[dict[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    "artifacts": (("sessions", ("tenant_id", "session_id")),),
    "artifact_chunks": (("artifact_content", ("tenant_id", "content_hash")),),
    "memory_versions": (("memories", ("tenant_id", "memory_id")),),
    "relationships": (("entities", ("tenant_id", "from_entity")), ("entities", ("tenant_id", "to_entity"))),
    **{table.name: (("memories", ("tenant_id", "owner_id")),) for table in TABLES if table.dimension is not None},
}
"""What rows belong to: a table, and the columns that name a thing in it."""
_CUT: Final = frozenset({"audit_heads", "audit_log"})
_CONTENTS: Final = "artifact_content"
_FREE: Final = "free-"
_NEEDED: Final = frozenset(parent for needs in NEEDS.values() for parent, _ in needs)
Rows = Callable[[Table], AsyncIterator[Sequence[Record]]]


class Subset:
    """Decides row by row; tables come in the order of the catalogue."""

    def __init__(self, only: Iterable[str] = (), limit: int | None = None) -> None:
        """Take names of tables or types, and how many things of each.

        Raises:
            InvalidInput: a name is none of them; `InvalidLimit`.
        """
        self.only = tuple(dict.fromkeys(only))
        self.limit = None if limit is None else require_limit(limit, maximum=LIMIT_MAX)
        self._chosen = _chosen(self.only)
        self._kept: dict[str, set[tuple[Any, ...]]] = {name: set() for name in _NEEDED}
        self._contents: set[tuple[Any, ...]] | None = None
        self._things: Counter[str] = Counter()
        self._last: dict[str, tuple[Any, ...]] = {}
        self._orphans: Counter[tuple[str, str]] = Counter()

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.only and self.limit is None

    @property
    def needs_artifacts_first(self) -> bool:
        """Whether sessions and artifacts must be looked at before: contents come before them, and only theirs are kept."""
        return self.limit is not None and "artifacts" in self._chosen

    def has(self, table: Table) -> bool:
        """Whether rows of a table may stay."""
        return table.name in self._chosen and not (self.limit is not None and table.name in _CUT)

    async def look(self, rows: Rows) -> None:
        """Find out which contents the artifacts that stay have. `rows` reads a table."""
        ahead = Subset(self.only, self.limit)
        contents: set[tuple[Any, ...]] = set()
        for name in ("sessions", "artifacts"):
            table = BY_NAME[name]
            async for batch in rows(table):
                for row in ahead.kept(table, batch):
                    if name == "artifacts":
                        contents.add((row.tenant_id, row.content_hash))  # type: ignore[attr-defined]
        self._contents = contents

    def kept(self, table: Table, rows: Sequence[Record]) -> Sequence[Record]:
        """Return the rows that stay."""
        if self.everything:
            return rows
        if not self.has(table):
            return ()
        found = [row for row in rows if self._stays(table, row)]
        if self.limit is not None and table.name in self._kept:
            self._kept[table.name].update(_thing(table, row) for row in found)
        return found

    def _stays(self, table: Table, row: Any) -> bool:
        if table.name in FRAMES or table.name == "event_sequences":
            return True
        if table.name == _CONTENTS:
            return self._contents is None or (row.tenant_id, row.content_hash) in self._contents
        needs = NEEDS.get(table.name, ())
        if table.dimension is not None and row.space_id.startswith(_FREE):
            needs = ()
        for parent, columns in needs:
            if parent == _CONTENTS and self._contents is not None:
                there = tuple(getattr(row, name) for name in columns) in self._contents
            elif not self.has(BY_NAME[parent]):
                there = False
            else:
                there = self.limit is None or tuple(getattr(row, name) for name in columns) in self._kept[parent]
            if not there:
                self._orphans[table.shown, BY_NAME[parent].shown] += 1
                return False
        return bool(needs) or self._within_limit(table, row)

    def _within_limit(self, table: Table, row: Any) -> bool:
        if self.limit is None:
            return True
        thing = _thing(table, row)
        if self._last.get(table.name) != thing:
            if self._things[table.name] >= self.limit:
                return False
            self._things[table.name] += 1
            self._last[table.name] = thing
        return True

    def notes(self) -> list[str]:
        """Say what was left out because what it belongs to was."""
        found = [
            f"{count:,} rows of `{table}` were left out: the `{parent}` that they belong to are not among those transferred."
            for (table, parent), count in sorted(self._orphans.items())
        ]
        if self.limit is not None and _CUT & self._chosen:
            found.append("The audit log was left out: its chain cannot be cut.")
        return found


def _thing(table: Table, row: Any) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in table.key[: table.thing])


def _chosen(only: Sequence[str]) -> set[str]:
    if not only:
        return {table.name for table in TABLES}
    chosen: set[str] = set()
    types: set[str] = set()
    for name in only:
        found = [table for table in TABLES if name in (table.name, table.shown, table.type)]
        if not found:
            known = ", ".join(dict.fromkeys(table.type for table in TABLES))
            raise InvalidInput("only", f"must name tables or types: {known}", given=name)
        chosen.update(table.name for table in found)
        types.update(table.type for table in found)
    chosen.update(name for name, of in FRAMES.items() if of is None or types & {*of})
    if "artifacts" in chosen:
        chosen |= {"artifact_content", "artifact_chunks"}
    if "event_log" in chosen:
        chosen.add("event_sequences")
    return chosen
