"""Rows that come into a database from a transfer: what they meet there, and what is made again from them.

Not here: the transaction, and how rows are inserted (`transfer.py` of each dialect).

Rule 1: what a row is of decides: a memory with its versions, an entity with its versions, a tenant's audit chain. Either all of it
comes in, or none.
Rule 2: `skip` keeps what was there, with its parts; `replace` removes it, with its parts, before the new one comes. An audit chain
that is there is kept by both: nobody replaces entries.
Rule 3: frames (spaces, predicates, clocks, numbers of events, tenants, contents by their hash) are no conflict: they are united.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

from llmspell.codec import DIMENSIONS
from llmspell.errors import AlreadyExists, InvalidTenant, InvalidVector, LlmspellError
from llmspell.storage.contracts.memories import TEXT_COLLECTION
from llmspell.storage.contracts.transfer import Conflicting, OnConflict, Record, Table
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Executor
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.relational.transfer_rows import Forms, SourceQueries, TableRows
from llmspell.storage.text.memory_text import memory_text
from llmspell.tenant import TenantId

AUDIT = frozenset({"audit_heads", "audit_log"})
"""Entries that are there stay, whatever is asked for."""
UPDATED = frozenset({"sessions", "embedding_spaces", "tenants"})
"""Replaced where they are: others refer to them."""
_NOT_ITS_OWN = ", for only the operator changes them (llmspell tenants quota, suspend, resume)."
_PARENTS = frozenset(parent for table in TABLES for parent, _ in table.belongs_to)


class Hands(Protocol):
    """What a dialect does inside of the open transaction."""

    async def insert(self, query: Query, table: Table, records: Sequence[Record], computed: Sequence[Any]) -> None:
        """Store records; `computed` has the values of `table.computed`, one tuple for each record.

        Raises:
            LlmspellError: with the position of the record in the field `row`.
        """
        ...

    def executor(self, tenant: TenantId) -> Executor:
        """Return an executor that binds a tenant."""
        ...

    async def before_vectors(self, tenant: TenantId, space_id: str, dimension: int) -> None:
        """Take note that vectors come into a space, once for each."""
        ...

    async def vectors_removed(self, tenant: TenantId) -> None:
        """Take note that vectors of a tenant were removed."""
        ...


class RelationalImport:
    """`TransferTarget.write` and `finish`, over the hands of a dialect."""

    def __init__(
        self,
        hands: Hands,
        runtime: Runtime,
        forms: Forms,
        *,
        tenant: TenantId | None,
        on_conflict: OnConflict,
        operator: bool = True,
    ) -> None:
        """`operator`: whoever imports may change what a tenant is called, whether it is active, and what it may use."""
        self._operator = operator
        self._hands = hands
        self._runtime = runtime
        self._queries = runtime.catalog.transfer
        self._reads = SourceQueries(runtime.catalog, tenant)
        self._tenant = tenant
        self._on_conflict = on_conflict
        self._tables = {table.name: TableRows(table, forms) for table in TABLES}
        self._empty: dict[str, bool] = {}
        self._last: dict[str, tuple[tuple[Any, ...], bool]] = {}
        self._kept: dict[str, set[int]] = defaultdict(set)
        self._spaces: set[tuple[str, str]] = set()
        self._texts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.vectors: dict[tuple[str, str, int], int] = defaultdict(int)
        """How many vectors came into each space of each tenant, with its dimension."""
        self.notes: list[str] = []

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        self._require_tenant(table, rows)
        if not rows:
            return Conflicting(0)
        if table.frame:
            return await self._unite(table, rows)
        skipped = len(rows)
        rows = [row for row in rows if not self._is_part_of_kept(table, row)]
        skipped -= len(rows)
        going_on = self._going_on(table, rows)
        there = await self._there(table, rows)
        if not there:
            await self._insert(table, rows)
            return Conflicting(len(rows), skipped)
        if self._on_conflict == "error":
            self._refuse(table, rows, there)
        old = [row for row, taken in zip(rows, there, strict=True) if taken]
        if table.name == "audit_heads":
            self.notes += [
                f"Tenant `{row.tenant_id}` has an audit log in the target: it is kept, and that of the file left out."  # type: ignore[attr-defined]
                for row in old
            ]
        if self._on_conflict == "skip" or table.name in AUDIT:
            new = [row for row, taken in zip(rows, there, strict=True) if not taken]
            await self._insert(table, new)
            self._keep(table, old)
            return Conflicting(len(new), skipped + len(old))
        rows = await self._replace(table, rows, old, going_on=going_on)
        await self._insert(table, rows)
        return Conflicting(len(rows), skipped, len(old))

    async def finish(self) -> list[str]:
        """Count the texts of each tenant; the index of words came with the memories."""
        for tenant, (documents, terms) in sorted(self._texts.items()):
            await self._hands.executor(TenantId(tenant)).execute(
                self._runtime.catalog.postings.add_stats,
                collection=TEXT_COLLECTION,
                delta_id=self._runtime.dialect.id(self._runtime.ids.new()),
                documents=documents,
                terms=terms,
            )
        return self.notes

    # --- what is there ------------------------------------------------------------------------------------------------

    def _require_tenant(self, table: Table, rows: Sequence[Record]) -> None:
        if self._tenant is None:
            return
        for place, row in enumerate(rows):
            if row.tenant_id != self._tenant:  # type: ignore[attr-defined]
                error = InvalidTenant("tenant_id", f"must be {self._tenant!r}, which this import is for")
                error.fields.update(table=table.shown, row=place)
                raise error

    async def _there(self, table: Table, rows: Sequence[Record]) -> list[bool]:
        """Say of each row whether what it is of was there before; an empty list when nothing of it was."""
        if table.name not in self._empty:
            executor = self._executor()
            self._empty[table.name] = not await executor.rows(self._reads.page(table, None), limit=1)
        if self._empty[table.name] or not rows:
            return []
        _, taken_before = self._last.get(table.name, ((), False))
        # What the last batch began is there by now, but not from before.
        offset = self._going_on(table, rows)
        asked = rows[offset:]
        found: set[int] = set()
        if asked:
            query = getattr(self._queries, f"taken_{table.name}")
            positions = await self._executor().rows(query, things=self._tables[table.name].things(asked))
            found = {int(row[0]) for row in positions}
        there = [taken_before if place < offset else place - offset in found for place in range(len(rows))]
        self._last[table.name] = _thing(table, rows[-1]), there[-1]
        return there if any(there) else []

    def _going_on(self, table: Table, rows: Sequence[Record]) -> int:
        """Return how many of the first rows are of the thing that the last batch ended with."""
        before, _ = self._last.get(table.name, ((), False))
        return next((place for place, row in enumerate(rows) if _thing(table, row) != before), len(rows))

    def _executor(self) -> Executor:
        return self._hands.executor(self._tenant or TenantId(""))

    def _refuse(self, table: Table, rows: Sequence[Record], there: Sequence[bool]) -> None:
        place = there.index(True)
        key = {name: getattr(rows[place], name) for name in table.key[: table.thing]}
        if table.name in AUDIT:
            raise AlreadyExists(
                "The tenant has an audit log in the target, and two chains cannot be united.",
                hint="Import where the tenant is not registered yet: the import registers it. Or keep the chain of the target:"
                " --on-conflict skip.",
                table=table.shown,
                tenant=key["tenant_id"],
                row=place,
            )
        raise AlreadyExists(
            "What a record is of is in the target already.",
            hint="Import into an empty store, or say what shall happen: --on-conflict skip, or replace.",
            table=table.shown,
            key=", ".join(f"{name}={value}" for name, value in key.items()),
            row=place,
        )

    def _is_part_of_kept(self, table: Table, row: Record) -> bool:
        return any(
            hash(tuple(getattr(row, name) for name in columns)) in self._kept[parent]
            for parent, columns in table.belongs_to
            if parent in self._kept
        )

    def _keep(self, table: Table, rows: Iterable[Record]) -> None:
        if table.name in _PARENTS:
            for row in rows:
                self._kept[table.name].add(hash(tuple(getattr(row, name) for name in table.key[: table.thing])))

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _insert(self, table: Table, rows: Sequence[Record]) -> None:
        if not rows:
            return
        query = getattr(self._queries, f"insert_{table.name}")
        if table.name == "memories":
            await self._insert_memories(query, table, rows)
            return
        if table.dimension is not None:
            await self._note_vectors(table.dimension, rows)
        await self._hands.insert(query, table, rows, [()] * len(rows))

    async def _note_vectors(self, dimension: int, rows: Sequence[Any]) -> None:
        for row in rows:
            space = row.tenant_id, row.space_id
            if space not in self._spaces:
                self._spaces.add(space)
                await self._hands.before_vectors(TenantId(row.tenant_id), row.space_id, dimension)
            self.vectors[(*space, dimension)] += 1

    async def _insert_memories(self, query: Query, table: Table, rows: Sequence[Any]) -> None:
        counted = [
            self._runtime.analyser.counts(memory_text(row.content, row.role or "", row.event_at)) for row in rows
        ]
        lengths = [sum(counts.values()) for counts in counted]
        await self._hands.insert(query, table, rows, [(length,) for length in lengths])
        words: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row, counts, length in zip(rows, counted, lengths, strict=True):
            total = self._texts[row.tenant_id]
            total[0] += 1
            total[1] += length
            words[row.tenant_id] += [
                {"term": term, "owner": str(row.memory_id), "tf": tf, "length": length} for term, tf in counts.items()
            ]
        for tenant, records in words.items():
            if records:
                await self._hands.executor(TenantId(tenant)).execute(
                    self._runtime.catalog.postings.add,
                    collection=TEXT_COLLECTION,
                    rows=self._runtime.dialect.json(records),
                )

    async def _replace(
        self, table: Table, rows: Sequence[Record], old: Sequence[Record], *, going_on: int = 0
    ) -> Sequence[Record]:
        """Make room for rows that take the place of others, and return those that are still to be inserted.

        For the thing that the last batch ended with room was made then: `going_on` of the first rows are its, too.
        """
        if table.name in UPDATED:
            query = getattr(self._queries, f"update_{table.name}")
            await self._hands.insert(query, table, old, [()] * len(old))
            kept = set(map(id, old))
            return [row for row in rows if id(row) not in kept]
        begun = set(map(id, rows[:going_on]))
        new_things = [row for row in old if id(row) not in begun]
        if table.name == "memories":
            await self._remove_memories(new_things)
            await self._executor().execute(
                self._queries.remove_memory_versions, things=self._tables["memories"].things(new_things)
            )
        elif table.name == "memory_versions":
            await self._remove_ended(old)
        await self._remove(table, new_things)
        return rows

    async def _remove(self, table: Table, rows: Sequence[Record]) -> None:
        query = getattr(self._queries, f"remove_{table.name}")
        await self._executor().execute(query, things=self._tables[table.name].things(rows))
        if table.dimension is not None:
            await self._vectors_removed(rows)

    async def _vectors_removed(self, rows: Sequence[Any]) -> None:
        for tenant in sorted({row.tenant_id for row in rows}):
            await self._hands.vectors_removed(TenantId(tenant))
            self._spaces = {space for space in self._spaces if space[0] != tenant}

    async def _remove_memories(self, rows: Sequence[Any]) -> None:
        """Remove what belongs to memories, before they are removed themselves: words and embeddings."""
        things = self._tables["memories"].things(rows)
        executor = self._executor()
        for tenant, documents, terms in await executor.rows(self._queries.text_lengths, things=things):
            total = self._texts[tenant]
            total[0] -= int(documents)
            total[1] -= int(terms or 0)
        await executor.execute(self._queries.remove_text_postings, collection=TEXT_COLLECTION, things=things)
        for dimension in DIMENSIONS:
            await executor.execute(self._queries.of("remove_owned", dimension), things=things)
        await self._vectors_removed(rows)

    async def _remove_ended(self, versions: Sequence[Any]) -> None:
        """Remove memories of the target that ended in the file."""
        last: dict[tuple[str, UUID], Any] = {(row.tenant_id, row.memory_id): row for row in versions}
        ended = [row for row in last.values() if row.operation in ("delete", "forget")]
        if ended:
            await self._remove_memories(ended)
            await self._executor().execute(
                self._queries.remove_memories, things=self._tables["memory_versions"].things(ended)
            )

    # --- frames -------------------------------------------------------------------------------------------------------

    async def _unite(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        there = await self._there(table, rows) or [False] * len(rows)
        new = [row for row, taken in zip(rows, there, strict=True) if not taken]
        old = [row for row, taken in zip(rows, there, strict=True) if taken]
        await self._insert(table, new)
        if not old:
            return Conflicting(len(new))
        self._keep(table, old)
        if table.name in ("tenant_clocks", "event_sequences"):
            await self._merge(table, old)
            return Conflicting(len(new), len(old))
        if table.name == "embedding_spaces":
            await self._require_dimensions(old)
        kept = table.name == "artifact_content" or (table.name == "tenants" and not self._operator)
        if self._on_conflict != "replace" or kept:
            if table.name == "tenants":
                self.notes += [
                    f"Tenant `{row.tenant_id}` was registered before: its name, status and quotas are kept"  # type: ignore[attr-defined]
                    f"{_NOT_ITS_OWN if self._on_conflict == 'replace' else '.'}"
                    for row in old
                ]
            return Conflicting(len(new), len(old))
        for row in await self._replace(table, old, old):
            await self._insert(table, [row])
        return Conflicting(len(rows), 0, len(old))

    async def _merge(self, table: Table, rows: Sequence[Any]) -> None:
        query = getattr(self._queries, f"merge_{table.name}")
        dialect = self._runtime.dialect
        for row in rows:
            values = {name: getattr(row, name) for name in table.names if name != "tenant_id"}
            said = {
                name: dialect.instant(value) if value is not None and table.kinds[name] == "instant" else value
                for name, value in values.items()
            }
            await self._hands.executor(TenantId(row.tenant_id)).execute(query, **said)

    async def _require_dimensions(self, rows: Sequence[Any]) -> None:
        things = self._tables["embedding_spaces"].things(rows)
        for place, dimension in await self._executor().rows(self._queries.dimensions, things=things):
            row = rows[int(place)]
            if row.dimension != dimension:
                error = InvalidVector(
                    "dimension",
                    f"must be {dimension}, which space `{row.space_id}` of the target has",
                    given=row.dimension,
                    hint="Import into another tenant or store, or embed anew in a space of another name.",
                )
                error.fields.update(table=BY_NAME["embedding_spaces"].shown)
                raise error


def _thing(table: Table, row: Record) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in table.key[: table.thing])


def with_row(error: LlmspellError, place: int) -> LlmspellError:
    """Note in an error which row of the batch it is about."""
    error.fields["row"] = place
    return error
