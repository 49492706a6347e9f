"""Transfers out of and into memory: the records of all tenants as rows, and back.

Not here: what a row is made of (`rows` and `load` of each concern), the list of tables (`contracts.transfer_tables`).

Rule 1: a source is a copy of what was committed when it was opened; nobody waits for it.
Rule 2: a target holds the writer's lock of each tenant that it has rows of, and makes a new state of all rows, old and new, beside
the old one. `commit` puts it in the place of the old one; until then nobody sees anything.
Rule 3: one target of all tenants is open at a time: it takes the locks of several tenants, in no order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from llmspell.errors import AlreadyExists, Conflict, InvalidInput, InvalidTenant, InvalidVector
from llmspell.storage.contracts.tenants import QuotaLimits, TenantRecord
from llmspell.storage.contracts.transfer import (
    BATCH_BYTES,
    BATCH_ROWS,
    Conflicting,
    OnConflict,
    Record,
    Table,
    json_value,
    open_instant,
    read_json,
    read_open_instant,
)
from llmspell.storage.contracts.transfer_tables import BY_NAME, SCHEMA_VERSION, TABLES
from llmspell.storage.inmemory import (
    access_keys,
    agent_state,
    artifacts,
    audit,
    event_log,
    graph_versions,
    hook_history,
    idempotency,
    jobs,
    kv,
    memory_rows,
    procedures,
    sessions,
    usage,
    vectors,
    workflow_state,
)
from llmspell.storage.inmemory.store import Row, State, TenantStore, WriterLock
from llmspell.storage.inmemory.tenants import InMemoryTenants, Snapshot
from llmspell.storage.text.analyser import Analyser
from llmspell.tenant import STORE_TENANT, TenantId, tenant_id

Key: TypeAlias = "tuple[Any, ...]"
Rows: TypeAlias = "dict[str, dict[Key, Record]]"
"""The rows of one tenant: by table and key."""

ROWS: dict[str, Callable[[State], Iterator[Row]]] = {
    "sessions": sessions.rows,
    "artifact_content": artifacts.content_rows,
    "artifact_chunks": artifacts.chunk_rows,
    "artifacts": artifacts.rows,
    "memories": memory_rows.rows,
    "memory_versions": memory_rows.version_rows,
    "embedding_spaces": memory_rows.space_rows,
    "entities": graph_versions.entity_rows,
    "relationships": graph_versions.fact_rows,
    "predicates": graph_versions.predicate_rows,
    "tenant_clocks": graph_versions.clock_rows,
    "procedural_patterns": procedures.rows,
    "agent_states": agent_state.rows,
    "kv_store": kv.rows,
    "workflow_states": workflow_state.rows,
    "event_sequences": event_log.sequence_rows,
    "event_log": event_log.rows,
    "hook_history": hook_history.rows,
    "idempotency_keys": idempotency.rows,
    "jobs": jobs.rows,
    "access_keys": access_keys.rows,
    "audit_heads": audit.head_rows,
    "audit_log": audit.rows,
    **{one.name: partial(vectors.rows, dimension=one.dimension) for one in TABLES if one.dimension is not None},
}
"""What tells the rows of each table; those of `tenants` are told by the registry."""
LOADERS: dict[str, Callable[[State, Row], None]] = {
    "sessions": sessions.load,
    "artifacts": artifacts.load,
    "memory_versions": memory_rows.load_version,
    "embedding_spaces": memory_rows.load_space,
    "entities": graph_versions.load_entity,
    "predicates": graph_versions.load_predicate,
    "tenant_clocks": graph_versions.load_clock,
    "procedural_patterns": procedures.load,
    "agent_states": agent_state.load,
    "kv_store": kv.load,
    "workflow_states": workflow_state.load,
    "event_sequences": event_log.load_sequence,
    "event_log": event_log.load,
    "hook_history": hook_history.load,
    "idempotency_keys": idempotency.load,
    "jobs": jobs.load,
    "access_keys": access_keys.load,
    "audit_heads": audit.load_head,
    "audit_log": audit.load,
}
"""What takes a row of each table by itself; the others need rows of several tables (`_state_of`)."""


class InMemorySource:
    """`TransferSource` over copies of states."""

    backend = "memory"
    migrations: tuple[str, ...] = ()
    schema_version = SCHEMA_VERSION

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots

    async def count(self, table: Table) -> int:
        return sum(sum(1 for _ in _rows(table, one)) for one in self._snapshots)

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Record]]:
        of_key = _key_of(table)
        batch: list[Record] = []
        size = 0
        for one in self._snapshots:  # the key begins with the tenant, and they are in its order
            for record in sorted(_records(table, one), key=of_key):
                batch.append(record)
                size += _size(record) if table.large else 0
                if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch


MEMORY_PARTS = [(table, columns) for table in TABLES for parent, columns in table.belongs_to if parent == "memories"]
"""What goes with a memory; other things are replaced where they are, and keep their parts."""
ENDED = frozenset({"delete", "forget"})
AUDIT = frozenset({"audit_heads", "audit_log"})
"""Entries that are there stay, whatever is asked for."""
UNITED = frozenset({"tenant_clocks", "event_sequences"})
"""Neither of two is replaced by the other."""


class _Taken:
    """What a target knows of one tenant: its store, whose writer it is, and all rows that it will have."""

    def __init__(self, tenant: TenantId, store: TenantStore, snapshot: Snapshot) -> None:
        self.tenant = tenant
        self.store = store
        self.rows: Rows = {table.name: _by_key(table, snapshot) for table in TABLES}
        self.things = {table.name: {key[: table.thing] for key in self.rows[table.name]} for table in TABLES}
        """What was there before, by table."""
        self.skipped: dict[str, set[Key]] = {table.name: set() for table in TABLES}
        self.unique = {
            (table.name, columns): {_named(row, columns): key for key, row in self.rows[table.name].items()}
            for table in TABLES
            for columns in table.unique
        }

    def put(self, table: Table, key: Key, record: Record) -> None:
        """Keep a row.

        Raises:
            AlreadyExists: another row has its key, or one of its unique keys.
        """
        if key in self.rows[table.name]:
            raise _twice(table, table.key, key)
        for columns in table.unique:
            named = _named(record, columns)
            if named in self.unique[table.name, columns]:
                raise _twice(table, columns, named)
            self.unique[table.name, columns][named] = key
        self.rows[table.name][key] = record

    def remove(self, table: Table, key: Key) -> None:
        """Let go of a row."""
        record = self.rows[table.name].pop(key)
        for columns in table.unique:
            self.unique[table.name, columns].pop(_named(record, columns))

    def remove_thing(self, table: Table, thing: Key) -> int:
        """Let go of all rows of a thing that was there before, and return how many there were; of a memory with its parts."""
        gone = [key for key in self.rows[table.name] if key[: table.thing] == thing]
        for key in gone:
            self.remove(table, key)
        self.things[table.name].discard(thing)
        for part, columns in MEMORY_PARTS if table.name == "memories" else ():
            parts = [key for key, row in self.rows[part.name].items() if _named(row, columns) == thing]
            for key in parts:
                self.remove(part, key)
                self.things[part.name].discard(key[: part.thing])
        return len(gone)

    def remove_ended(self) -> None:
        """Let go of memories that were there before, and have ended by the versions that took the place of theirs."""
        last: dict[Key, Any] = {}
        for _, version in sorted(self.rows["memory_versions"].items()):
            last[_named(version, ("tenant_id", "memory_id"))] = version
        for thing in [*self.things["memories"]]:
            ended = last.get(thing)
            if ended is not None and ended.operation in ENDED:
                versions = {key: row for key, row in self.rows["memory_versions"].items() if key[:2] == thing}
                self.remove_thing(BY_NAME["memories"], thing)
                self.rows["memory_versions"].update(versions)


class InMemoryTarget:
    """`TransferTarget` that makes new states beside the old ones."""

    def __init__(
        self, tenants: InMemoryTenants, tenant: TenantId | None, *, on_conflict: OnConflict, analyser: Analyser
    ) -> None:
        self._tenants = tenants
        self._tenant = tenant
        self._on_conflict = on_conflict
        self._analyser = analyser
        self._taken: dict[TenantId, _Taken] = {}
        self._states: dict[TenantId, State] = {}
        self._locks = AsyncExitStack()
        self._notes: list[str] = []

    async def write(self, table: Table, rows: Sequence[Record]) -> Conflicting:
        inserted = skipped = replaced = 0
        of_key = _key_of(table)
        for position, record in enumerate(rows):
            try:
                taken = await self._take(record)
                key = of_key(record)
                outcome = self._merged if table.frame else self._written
                there = outcome(taken, table, key, record)
            except (AlreadyExists, InvalidInput) as error:
                error.fields["row"] = position
                raise
            if there is None:
                skipped += 1
            else:
                inserted += 1
                replaced += there
        return Conflicting(inserted=inserted, skipped=skipped, replaced=replaced)

    def _written(self, taken: _Taken, table: Table, key: Key, record: Record) -> bool | None:
        """Keep a row, and say whether it took the place of another; None when it was skipped."""
        for parent, columns in table.belongs_to:
            if _named(record, columns) in taken.skipped[parent]:
                return None
        thing, replaced = key[: table.thing], False
        if thing in taken.skipped[table.name]:
            return None
        if thing in taken.things[table.name]:
            if self._on_conflict == "error":
                raise _twice(table, table.key[: table.thing], thing)
            if self._on_conflict == "skip" or table.name in AUDIT:
                taken.skipped[table.name].add(thing)
                return None
            replaced = taken.remove_thing(table, thing) > 0
        taken.put(table, key, record)
        return replaced

    def _merged(self, taken: _Taken, table: Table, key: Key, record: Record) -> bool | None:
        """Keep a row that says how others are to be read; what is there stays, unless it shall be replaced.

        Raises:
            InvalidVector: an embedding space has another dimension here.
        """
        there = taken.rows[table.name].get(key)
        if there is None:
            taken.put(table, key, record)
            return False
        taken.skipped[table.name].add(key[: table.thing])
        merged = _merge(table, there, record, replace=self._on_conflict == "replace")
        taken.rows[table.name][key] = merged
        if merged is record and table.name not in UNITED:
            return True
        if table.name == "tenants":
            self._notes.append(f"Tenant `{taken.tenant}` was registered before: its name, status and quotas are kept.")
        return None

    async def _take(self, record: Any) -> _Taken:
        """Become the writer of the tenant of a row, unless this is it already."""
        tenant = record.tenant_id if record.tenant_id == STORE_TENANT else tenant_id(record.tenant_id)
        if self._tenant is not None and tenant != self._tenant:
            raise InvalidTenant("tenant_id", f"must be {self._tenant!r}, which this import is for", given=tenant)
        if tenant not in self._taken:
            store = self._tenants.stored(tenant)
            await store.writer.acquire()
            self._locks.callback(store.writer.release)
            self._taken[tenant] = _Taken(tenant, store, self._tenants.snapshot(tenant))
        return self._taken[tenant]

    async def finish(self) -> list[str]:
        for tenant, taken in self._taken.items():
            taken.remove_ended()
            self._states[tenant] = _state_of(taken, self._analyser)
        return self._notes

    async def commit(self) -> None:
        changed = []
        for tenant, state in self._states.items():
            (row,) = self._taken[tenant].rows["tenants"].values() or (None,)
            changed.append((self._taken[tenant].store, state, None if row is None else _tenant(row)))
        self._tenants.replace(changed)

    async def end(self) -> None:
        """Let go of everything."""
        await self._locks.aclose()


@asynccontextmanager
async def source(tenants: InMemoryTenants, tenant: TenantId | None) -> AsyncIterator[InMemorySource]:
    """Open a source."""
    wanted = tenants.all_with_stores() if tenant is None else [tenant_id(tenant)]
    yield InMemorySource([tenants.snapshot(one) for one in wanted])


@asynccontextmanager
async def target(
    tenants: InMemoryTenants, tenant: TenantId | None, *, on_conflict: OnConflict, analyser: Analyser, alone: WriterLock
) -> AsyncIterator[InMemoryTarget]:
    """Open a target; `alone` is the lock of those of all tenants."""
    async with AsyncExitStack() as held:
        if tenant is None:
            await alone.acquire()
            held.callback(alone.release)
        opened = InMemoryTarget(
            tenants, None if tenant is None else tenant_id(tenant), on_conflict=on_conflict, analyser=analyser
        )
        held.push_async_callback(opened.end)
        yield opened


def _rows(table: Table, one: Snapshot) -> Iterator[Row]:
    if table.name != "tenants":
        return ROWS[table.name](one.state)
    if one.record is None:
        return iter(())
    row = {name: getattr(one.record, name) for name in table.names}
    return iter([row | {"quotas": msgspec.to_builtins(one.record.quotas)}])


def _records(table: Table, one: Snapshot) -> Iterator[Record]:
    """Yield the rows of a table. A column that came from elsewhere otherwise than it would be told is told as it came, until
    what is told of it changes."""
    make: Callable[..., Record] = table.record
    of_key = _key_of(table)
    for record in _plain_records(table, one):
        otherwise = one.state.otherwise.get((table.name, of_key(record))) or {}
        changes = {name: came for name, (told, came) in otherwise.items() if _same(getattr(record, name), told)}
        yield make(*(changes.get(name, getattr(record, name)) for name in table.names)) if changes else record


def _plain_records(table: Table, one: Snapshot) -> Iterator[Record]:
    make: Callable[..., Record] = table.record
    for row in _rows(table, one):
        row["tenant_id"] = one.tenant
        yield make(*(_shown(kind, row[name]) for name, kind in table.kinds.items()))


def _same(left: object, right: object) -> bool:
    """Compare two values of a column: JSON by its text, and no other value is a `Raw`."""
    if isinstance(left, msgspec.Raw) and isinstance(right, msgspec.Raw):
        return bytes(left) == bytes(right)
    return left == right


def _note_otherwise(snapshot: Snapshot, rows: Rows) -> None:
    """Note what the state would tell otherwise than it came."""
    for table in TABLES:
        told_by_key = {_key_of(table)(record): record for record in _plain_records(table, snapshot)}
        for key, came in rows[table.name].items():
            told = told_by_key.get(key)
            if told is None:
                raise Conflict("A row cannot be kept in memory.", table=table.shown, key=", ".join(map(str, key)))
            pairs = {name: (getattr(told, name), getattr(came, name)) for name in table.names}
            differing = {name: pair for name, pair in pairs.items() if not _same(*pair)}
            if differing:
                snapshot.state.otherwise.put((table.name, key), differing)


def _by_key(table: Table, one: Snapshot) -> dict[Key, Record]:
    of_key = _key_of(table)
    return {of_key(record): record for record in _records(table, one)}


def _row(table: Table, record: Record) -> Row:
    return {name: _read(kind, getattr(record, name), name) for name, kind in table.kinds.items()}


def _shown(kind: str, value: Any) -> Any:
    if kind == "open_instant":
        return open_instant(value)
    return json_value(value) if kind == "json" and value is not None else value


def _read(kind: str, value: Any, name: str) -> Any:
    if kind == "open_instant":
        return read_open_instant(value, field=name)
    return read_json(value) if kind == "json" and value is not None else value


def _key_of(table: Table) -> Callable[[Record], Key]:
    return partial(_named, columns=table.key)


def _named(record: Record, columns: Sequence[str]) -> Key:
    return tuple(getattr(record, name) for name in columns)


def _size(record: Record) -> int:
    values = (getattr(record, name) for name in record.__struct_fields__)
    return sum(len(bytes(one)) if isinstance(one, msgspec.Raw) else len(one) for one in values if _has_size(one))


def _has_size(value: object) -> bool:
    return isinstance(value, (bytes, str, msgspec.Raw))


def _twice(table: Table, columns: Sequence[str], key: Key) -> AlreadyExists:
    named = {name: str(value) for name, value in zip(columns, key, strict=True)}
    return AlreadyExists(f"There is one in {table.shown} already.", **named)


def _merge(table: Table, there: Any, came: Any, *, replace: bool) -> Any:
    """Return what becomes of two rows that say how others are to be read."""
    if table.name == "tenant_clocks":
        return came if came.last_recorded > there.last_recorded else there
    if table.name == "event_sequences":
        first = [one for one in (there.first_at, came.first_at) if one is not None]
        last = [one for one in (there.last_at, came.last_at) if one is not None]
        return msgspec.structs.replace(
            there,
            value=max(there.value, came.value),
            first_at=min(first, default=None),
            last_at=max(last, default=None),
        )
    if table.name == "embedding_spaces" and came.dimension != there.dimension:
        raise InvalidVector(
            "dimension",
            f"must be {there.dimension}, which space `{came.space_id}` of the target has",
            given=came.dimension,
            hint="Import into another tenant or store, or embed anew in a space of another name.",
        )
    return came if replace and table.name != "artifact_content" else there


def _state_of(taken: _Taken, analyser: Analyser) -> State:
    """Return the state that all rows of a tenant make, with what the old one has and no transfer moves."""
    rows = {name: [_row(BY_NAME[name], one) for one in found.values()] for name, found in taken.rows.items()}
    state = State(tenant=taken.tenant, api_keys=taken.store.committed.api_keys)
    for name, load in LOADERS.items():
        for row in rows[name]:
            load(state, row)
    _load_contents(state, rows)
    _load_memories(state, rows, analyser)
    names = {entity.id: entity.name for entity in state.entities.rows()}
    for row in rows["relationships"]:
        unnamed = {id: str(id) for id in (row["from_entity"], row["to_entity"])}
        graph_versions.load_fact(state, row, unnamed | names)
    usage.recount(state)
    (tenant,) = taken.rows["tenants"].values() or (None,)
    record = None if tenant is None else _tenant(tenant)
    _note_otherwise(Snapshot(taken.tenant, record, state), taken.rows)
    return state


def _load_contents(state: State, rows: Mapping[str, Sequence[Row]]) -> None:
    chunks: dict[str, list[tuple[int, bytes]]] = {}
    for row in rows["artifact_chunks"]:
        chunks.setdefault(row["content_hash"], []).append((row["chunk_no"], row["data"]))
    for row in rows["artifact_content"]:
        if row["data"] is None:
            row["data"] = b"".join(data for _, data in sorted(chunks.get(row["content_hash"], ())))
        artifacts.load_content(state, row)


def _load_memories(state: State, rows: Mapping[str, Sequence[Row]], analyser: Analyser) -> None:
    """Keep memories with their windows, and free vectors."""
    windows: dict[UUID, dict[str, dict[int, vectors.Window]]] = {}
    for table in TABLES:
        for row in rows[table.name] if table.dimension is not None else ():
            if row["space_id"] == vectors.free_space(table.dimension or 0):
                vectors.load(state, row)
            else:
                spaces = windows.setdefault(row["owner_id"], {})
                spaces.setdefault(row["space_id"], {})[row["part_no"]] = vectors.window_of(row)
    for row in rows["memories"]:
        memory_rows.load(state, row, analyser=analyser, windows=windows.get(row["memory_id"], {}))


def _tenant(record: Record) -> TenantRecord:
    row = _row(BY_NAME["tenants"], record)
    return TenantRecord(**row | {"quotas": msgspec.convert(row["quotas"], QuotaLimits)})
