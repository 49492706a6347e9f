"""Whatever is done to a chain behind our back is found, and named, at every position (G3): edited, removed, moved, cut off.

Somebody with all rights writes the tables directly: the superuser of a server, whoever can write a file, whoever holds the memory.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import apsw
import psycopg
import pytest
from msgspec.structs import replace
from tests.fixtures.backends import DISTINCT, open_for_test

from llmspell.clock import ManualClock
from llmspell.storage.contracts.audit import Audit, AuditHead, AuditVerification, NewAuditEntry
from llmspell.storage.contracts.audit_checks import entry_hash
from llmspell.storage.inmemory.audit import HEAD
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.inmemory.store import State
from llmspell.tenant import TenantId
from llmspell.testing.contract import new_tenant

LAST = 204
POSITIONS = range(1, LAST + 1)
FORGED = bytes.fromhex("ab" * 32)
FAR = 10**9
"""A number that no entry has."""


class Intruder(Protocol):
    """Somebody with all rights."""

    def forge(self, sequence: int, field: str) -> None:
        """Change a field of an entry."""

    def forge_hash(self, sequence: int, hashed: str) -> None:
        """Give an entry another hash."""

    def remove(self, first: int, last: int) -> None:
        """Remove entries."""

    def renumber(self, sequence: int, to: int) -> None:
        """Give an entry another number."""

    def move_head(self, sequence: int, hashed: str) -> None:
        """Rewrite the head."""

    def remove_head(self) -> None:
        """Remove the head."""

    def restore(self) -> None:
        """Make everything as it was."""


class SqlIntruder:
    """The intruder of both databases."""

    def __init__(
        self, run: Callable[[str, tuple[Any, ...]], Any], tenant: str, *, table: str, values: dict[str, Any]
    ) -> None:
        self._run = run
        self._tenant = tenant
        self._log, self._heads = f"{table}audit_log", f"{table}audit_heads"
        self._values = values
        for name in (self._log, self._heads):
            run(f"CREATE TABLE {name}_copy AS SELECT * FROM {name} WHERE tenant_id = %s", (tenant,))

    def forge(self, sequence: int, field: str) -> None:
        column, value = ("entry_id" if field == "id" else field), self._values[field]
        self._run(
            f"UPDATE {self._log} SET {column} = %s WHERE tenant_id = %s AND sequence = %s",
            (value, self._tenant, sequence),
        )

    def forge_hash(self, sequence: int, hashed: str) -> None:
        self._run(
            f"UPDATE {self._log} SET entry_hash = %s WHERE tenant_id = %s AND sequence = %s",
            (bytes.fromhex(hashed), self._tenant, sequence),
        )

    def remove(self, first: int, last: int) -> None:
        self._run(
            f"DELETE FROM {self._log} WHERE tenant_id = %s AND sequence BETWEEN %s AND %s", (self._tenant, first, last)
        )

    def renumber(self, sequence: int, to: int) -> None:
        self._run(
            f"UPDATE {self._log} SET sequence = %s WHERE tenant_id = %s AND sequence = %s", (to, self._tenant, sequence)
        )

    def move_head(self, sequence: int, hashed: str) -> None:
        self._run(
            f"UPDATE {self._heads} SET sequence = %s, entry_hash = %s WHERE tenant_id = %s",
            (sequence, bytes.fromhex(hashed), self._tenant),
        )

    def remove_head(self) -> None:
        self._run(f"DELETE FROM {self._heads} WHERE tenant_id = %s", (self._tenant,))

    def restore(self) -> None:
        for name in (self._log, self._heads):
            self._run(f"DELETE FROM {name} WHERE tenant_id = %s", (self._tenant,))
            self._run(f"INSERT INTO {name} SELECT * FROM {name}_copy WHERE tenant_id = %s", (self._tenant,))


class MemoryIntruder:
    """The intruder of the model."""

    def __init__(self, state: State, values: dict[str, Any]) -> None:
        self._state = state
        self._values = values
        self._entries, self._head = state.audit.items(), state.audit_heads.get(HEAD)

    def forge(self, sequence: int, field: str) -> None:
        entry = self._state.audit.get(sequence)
        assert entry is not None
        self._state.audit.put(sequence, replace(entry, **{field: self._values[field]}))

    def forge_hash(self, sequence: int, hashed: str) -> None:
        entry = self._state.audit.get(sequence)
        assert entry is not None
        self._state.audit.put(sequence, replace(entry, entry_hash=hashed))

    def remove(self, first: int, last: int) -> None:
        for sequence in range(first, last + 1):
            self._state.audit.remove(sequence)

    def renumber(self, sequence: int, to: int) -> None:
        entry = self._state.audit.get(sequence)
        assert entry is not None
        self._state.audit.remove(sequence)
        self._state.audit.put(to, replace(entry, sequence=to))

    def move_head(self, sequence: int, hashed: str) -> None:
        self._state.audit_heads.put(HEAD, AuditHead(sequence=sequence, entry_hash=hashed))

    def remove_head(self) -> None:
        self._state.audit_heads.remove(HEAD)

    def restore(self) -> None:
        for sequence, _ in self._state.audit.items():
            self._state.audit.remove(sequence)
        for sequence, entry in self._entries:
            self._state.audit.put(sequence, entry)
        assert self._head is not None
        self._state.audit_heads.put(HEAD, self._head)


OTHER: dict[str, Any] = {
    "operation": "forged",
    "principal": "nobody",
    "resource": "forged",
    "decision": "deny",
    "reason": "forged",
    "details": json.dumps({"n": -1}),
    "latency_ms": 1.5,
}


@contextmanager
def superuser(url: str, tenant: str) -> Iterator[Intruder]:
    with psycopg.connect(url, autocommit=True) as connection:
        values = {**OTHER, "at": "2020-01-01T00:00:00Z", "id": "00000000-0000-7000-8000-000000000001"}
        values |= dict.fromkeys(("prev_hash", "entry_hash"), FORGED)
        yield SqlIntruder(
            lambda query, given: connection.execute(query.encode(), given), tenant, table="llmspell.", values=values
        )
        connection.execute("DROP TABLE llmspell.audit_log_copy, llmspell.audit_heads_copy")


@contextmanager
def writer_of_the_file(path: Path, tenant: str) -> Iterator[Intruder]:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA synchronous = OFF")
    values = {**OTHER, "at": 0, "id": bytes(16), **dict.fromkeys(("prev_hash", "entry_hash"), FORGED)}
    yield SqlIntruder(
        lambda query, given: list(connection.execute(query.replace("%s", "?"), given)), tenant, table="", values=values
    )
    connection.close()


class Case:
    """A chain of `LAST` entries, and somebody who tampers with it."""

    def __init__(self, tenant: TenantId, audit: Audit, intruder: Intruder) -> None:
        self.tenant = tenant
        self.audit = audit
        self.intruder = intruder

    async def after(self, tamper: Callable[[Intruder], None], *, anchor: AuditHead | None = None) -> AuditVerification:
        """Tamper, verify, and make it as it was."""
        tamper(self.intruder)
        try:
            return await self.audit.verify(anchor=anchor)
        finally:
            self.intruder.restore()


@pytest.fixture(params=DISTINCT)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    clock = ManualClock()
    backend = await open_for_test(request.param, request, clock=clock, folder=tmp_path)
    tenant = await new_tenant(backend)
    audit = backend.storages(tenant).audit
    made = (await audit.head()).sequence
    entries = [
        NewAuditEntry(
            operation=f"operation-{n % 3}", principal="ada", resource="r", reason="why", details={"n": n}, latency_ms=n
        )
        for n in range(made, LAST)
    ]
    await audit.record_many(entries)
    if request.param == "memory":
        state = cast("InMemoryBackend", backend).tenants._stores[tenant].committed
        values = {**OTHER, "details": {"n": -1}, "at": clock.now().replace(year=2020), "id": UUID(int=1)}
        values |= dict.fromkeys(("prev_hash", "entry_hash"), FORGED.hex())
        yield Case(tenant, audit, MemoryIntruder(state, values))
    elif request.param == "sqlite":
        with writer_of_the_file(tmp_path / "store.db", tenant) as intruder:
            yield Case(tenant, audit, intruder)
    else:
        url = request.getfixturevalue("postgres_shared_database").superuser_url
        with superuser(url, tenant) as intruder:
            yield Case(tenant, audit, intruder)
    await backend.close()


FIELDS = (*OTHER, "at", "id", "prev_hash", "entry_hash")


async def unnoticed(
    case: Case, tampers: dict[int, Callable[[Intruder], None]], expected: dict[int, tuple[str, int]]
) -> list[str]:
    """Tamper at each position, and return where the outcome was not the expected problem at the expected number."""
    wrong = []
    for position, tamper in tampers.items():
        found = await case.after(tamper)
        if found.intact or (found.problem, found.broken_at) != expected[position]:
            wrong.append(f"{position}: {found}")
    assert (await case.audit.verify()).intact, "the test did not restore what it tampered with"
    return wrong


async def test_an_edited_entry_is_found_at_every_position(case: Case) -> None:
    def edit(position: int) -> Callable[[Intruder], None]:
        return lambda intruder: intruder.forge(position, FIELDS[position % len(FIELDS)])

    tampers = {position: edit(position) for position in POSITIONS}

    assert await unnoticed(case, tampers, {n: ("edited", n) for n in POSITIONS}) == []


async def test_a_removed_entry_is_found_at_every_position(case: Case) -> None:
    def remove(position: int) -> Callable[[Intruder], None]:
        return lambda intruder: intruder.remove(position, position)

    tampers = {position: remove(position) for position in POSITIONS}

    assert await unnoticed(case, tampers, {n: ("cut" if n == LAST else "missing", n) for n in POSITIONS}) == []


async def test_entries_that_changed_places_are_found_at_every_position(case: Case) -> None:
    def swap(one: int, other: int) -> Callable[[Intruder], None]:
        def tamper(intruder: Intruder) -> None:
            intruder.renumber(one, FAR)
            intruder.renumber(other, one)
            intruder.renumber(FAR, other)

        return tamper

    pairs = {n: (n, n % LAST + 1 if n % 2 else (n * 7) % LAST + 1) for n in POSITIONS}
    pairs = {n: (one, other if one != other else other % LAST + 1) for n, (one, other) in pairs.items()}
    tampers = {position: swap(*pair) for position, pair in pairs.items()}

    assert await unnoticed(case, tampers, {n: ("reordered", min(pair)) for n, pair in pairs.items()}) == []


async def test_a_tail_that_was_cut_off_is_found_at_every_position(case: Case) -> None:
    def cut(position: int) -> Callable[[Intruder], None]:
        return lambda intruder: intruder.remove(position, LAST)

    tampers = {position: cut(position) for position in POSITIONS}

    assert await unnoticed(case, tampers, {n: ("cut", n) for n in POSITIONS}) == []


async def test_a_tail_that_was_cut_off_with_its_head_is_found_by_an_anchor(case: Case) -> None:
    anchor = await case.audit.head()
    for position in range(1, LAST, 20):
        kept = await case.audit.get(position)
        assert kept is not None

        def cut(intruder: Intruder, position: int = position, hashed: str = kept.entry_hash) -> None:
            intruder.remove(position + 1, LAST)
            intruder.move_head(position, hashed)

        assert (await case.after(cut)).intact, "without an anchor a rewritten head cannot be told from an old one"
        found = await case.after(cut, anchor=anchor)
        assert (found.problem, found.broken_at) == ("cut", position + 1)


async def test_a_rewritten_head_is_found(case: Case) -> None:
    head = await case.audit.head()

    other = await case.after(lambda intruder: intruder.move_head(head.sequence, FORGED.hex()))
    earlier = await case.after(lambda intruder: intruder.move_head(head.sequence - 5, head.entry_hash))
    gone = await case.after(lambda intruder: intruder.remove_head())

    assert (other.problem, other.broken_at) == ("edited", LAST)
    assert (earlier.problem, earlier.broken_at) == ("head", LAST - 4)
    assert (gone.problem, gone.broken_at) == ("head", LAST)


async def test_a_chain_that_is_gone_altogether_is_found_by_an_anchor(case: Case) -> None:
    anchor = await case.audit.head()

    def erase(intruder: Intruder) -> None:
        intruder.remove(1, LAST)
        intruder.remove_head()

    found = await case.after(erase, anchor=anchor)

    assert (found.problem, found.broken_at, found.checked) == ("cut", 1, 0)


@pytest.mark.parametrize("position", [1, 2, 100, LAST - 1, LAST])
async def test_an_entry_that_was_rewritten_with_a_hash_that_fits_it_is_found(case: Case, position: int) -> None:
    entry = await case.audit.get(position)
    assert entry is not None
    forged = replace(entry, operation="forged")
    hashed = entry_hash(case.tenant, forged, entry.prev_hash)

    def rewrite(intruder: Intruder) -> None:
        intruder.forge(position, "operation")
        intruder.forge_hash(position, hashed)

    found = await case.after(rewrite)

    assert (found.problem, found.broken_at) == ("edited", position)


UNREADABLE = {
    "an instant beyond the calendar": ("at", 2**63 - 1),
    "no JSON": ("details", "{"),
    "JSON nested without end": ("details", "[" * 200_000 + "]" * 200_000),
    "a number that JSON has not": ("details", '{"n": 1e999}'),
    "half a character": ("details", r'{"n": "\ud800"}'),
    "no object": ("details", "[]"),
    "an id of another length": ("entry_id", b"\0"),
    "a hash of another length": ("entry_hash", b""),
}


@pytest.mark.parametrize("content", UNREADABLE)
async def test_an_entry_that_cannot_be_read_any_more_is_found(
    request: pytest.FixtureRequest, tmp_path: Path, content: str
) -> None:
    backend = await open_for_test("sqlite", request, clock=ManualClock(), folder=tmp_path)
    audit = backend.storages(await new_tenant(backend)).audit
    for _ in range(3):
        await audit.record("export", principal="ada", resource="memories")
    column, value = UNREADABLE[content]
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute(f"UPDATE audit_log SET {column} = ? WHERE sequence = 3", (value,))
    connection.close()

    found = await audit.verify()
    await backend.close()

    assert (found.problem, found.broken_at, found.checked) == ("edited", 3, 2)
