"""What `Audit` promises."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from typing import Any, get_type_hints

import msgspec
import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    Conflict,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    InvalidText,
    InvalidTime,
)
from llmspell.storage.contracts.audit import GENESIS, Audit, AuditEntry, AuditHead, NewAuditEntry
from llmspell.storage.contracts.backend import Backend
from llmspell.testing.contract import new_tenant, open_tenant, refused

CALLERS = 8
EACH = 50
ATTEMPTS_MAX = 100
HOSTILE = {
    "zero": 0.0,
    "large": 1e22,
    "largest": 1e308,
    "tiny": 5e-324,
    "int": 2**63 - 1,
    "deep": [{"a": [None, True]}],
}


def new(operation: str = "api_keys.create", **fields: Any) -> NewAuditEntry:
    """An entry with what must be given."""
    return NewAuditEntry(**{"operation": operation, "principal": "ada", "resource": "openai", **fields})


async def record(audit: Audit, operation: str = "api_keys.create", **fields: Any) -> AuditEntry:
    """Record one with what must be given."""
    return await audit.record(operation, **{"principal": "ada", "resource": "openai", **fields})


class AuditContract:
    """Subclass it in a test module; see the package."""

    async def test_an_entry_comes_back_as_it_was_recorded(self, backend: Backend, clock: ManualClock) -> None:
        """AUD-01."""
        audit = (await open_tenant(backend)).audit

        entry = await audit.record(
            "vector-searcher",
            principal="ada",
            resource="vectors/notes",
            decision="allow_with_filters",
            reason="only her own — ∞",
            details=HOSTILE,
            latency_ms=1.25,
        )

        assert await audit.get(entry.sequence) == entry
        assert (entry.operation, entry.principal, entry.resource) == ("vector-searcher", "ada", "vectors/notes")
        assert (entry.decision, entry.reason, entry.latency_ms) == ("allow_with_filters", "only her own — ∞", 1.25)
        assert entry.details == HOSTILE
        assert entry.at == clock.now()

    async def test_entries_are_numbered_without_gaps_and_each_follows_the_one_before(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        start = await audit.head()

        entries = [await record(audit, f"operation-{number}") for number in range(5)]

        numbers = range(start.sequence + 1, start.sequence + 6)
        assert [entry.sequence for entry in entries] == list(numbers)
        assert [entry.prev_hash for entry in entries] == [start.entry_hash, *(one.entry_hash for one in entries[:-1])]
        assert await audit.head() == AuditHead(sequence=numbers[-1], entry_hash=entries[-1].entry_hash)

    async def test_a_hash_can_be_computed_by_anybody_who_has_the_entry(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        entry = await record(backend.storages(tenant).audit, reason="é", details={"b": 1.5, "a": "ü"}, latency_ms=2)

        content = {
            "at": entry.at.isoformat(timespec="microseconds"),
            "id": str(entry.id),
            "tenant": tenant,
            **{name: getattr(entry, name) for name in ("sequence", "operation", "principal", "resource", "decision")},
            **{name: getattr(entry, name) for name in ("reason", "details", "latency_ms", "prev_hash")},
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

        assert entry.entry_hash == hashlib.sha256(b"llmspell.audit.v1\0" + text.encode()).hexdigest()

    async def test_several_entries_are_recorded_in_their_order(self, backend: Backend, clock: ManualClock) -> None:
        audit = (await open_tenant(backend)).audit
        earlier = clock.now() - timedelta(days=1)

        entries = await audit.record_many([new("b", at=earlier), new("a"), new("c")])

        assert [entry.operation for entry in entries] == ["b", "a", "c"]
        assert [entry.at for entry in entries] == [earlier, clock.now(), clock.now()]
        assert (await audit.verify()).intact
        assert await audit.record_many([]) == []

    async def test_of_several_entries_all_are_recorded_or_none(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        before = await audit.head()

        async with refused(InvalidKey, "principal"):
            await audit.record_many([new(), new(principal="")])

        assert await audit.head() == before

    async def test_a_chain_that_nobody_touched_is_intact(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        anchor = await audit.head()
        for number in range(3):
            await record(audit, f"operation-{number}", details={"n": number})
        middle = await audit.head()
        await record(audit)

        found = await audit.verify()

        assert (found.intact, found.problem, found.broken_at) == (True, None, None)
        assert found.head == await audit.head()
        assert found.checked == found.head.sequence
        assert await audit.verify(anchor=anchor) == await audit.verify(anchor=middle) == found

    async def test_an_anchor_that_the_chain_does_not_lead_through_is_noticed(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        entry = await record(audit)

        other = await audit.verify(anchor=AuditHead(sequence=entry.sequence, entry_hash="ab" * 32))
        later = await audit.verify(anchor=AuditHead(sequence=entry.sequence + 7, entry_hash="ab" * 32))

        assert (other.intact, other.problem, other.broken_at) == (False, "edited", entry.sequence)
        assert (later.intact, later.problem, later.broken_at) == (False, "cut", entry.sequence + 1)

    async def test_an_anchor_of_another_tenant_is_told_to_be_maybe_that(self, backend: Backend) -> None:
        ours, theirs = (await open_tenant(backend)).audit, (await open_tenant(backend)).audit
        await record(ours)
        elsewhere = await record(theirs)
        same = AuditHead(sequence=(await ours.head()).sequence, entry_hash=elsewhere.entry_hash)
        await record(theirs)

        for anchor in (same, await theirs.head()):
            found = await ours.verify(anchor=anchor)
            assert not found.intact
            assert (found.explanation or "").endswith("(Is it this tenant's anchor?)")

    async def test_eight_callers_make_one_unbroken_chain(self, backend: Backend) -> None:
        """G3, G4."""
        tenant = await new_tenant(backend)
        before = await backend.storages(tenant).audit.head()

        async def caller(name: int) -> None:
            audit = backend.storages(tenant).audit
            for number in range(EACH):
                await record(audit, f"caller-{name}", details={"n": number})

        await asyncio.gather(*(caller(name) for name in range(CALLERS)))

        found = await backend.storages(tenant).audit.verify()
        assert found.intact, found
        assert found.checked == before.sequence + CALLERS * EACH

    async def test_transactions_that_record_at_once_make_one_unbroken_chain(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        before = await backend.storages(tenant).audit.head()

        async def caller(name: int) -> None:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with backend.transaction(tenant) as storages:
                        await storages.kv.set(f"caller-{name}", b"")
                        await record(storages.audit, f"caller-{name}")
                        await record(storages.audit, f"caller-{name}")
                    return
                except Conflict:
                    continue
            raise AssertionError("the transaction never got through")

        await asyncio.gather(*(caller(name) for name in range(CALLERS)))

        audit = backend.storages(tenant).audit
        assert (await audit.verify()).checked == before.sequence + 2 * CALLERS
        operations = [entry.operation for entry in (await audit.list(limit=2 * CALLERS)).items]
        assert operations[::2] == operations[1::2], "the entries of one transaction follow each other"

    async def test_entries_are_listed_latest_first_in_pages(self, backend: Backend, clock: ManualClock) -> None:
        audit = (await open_tenant(backend)).audit
        since = clock.now() + timedelta(microseconds=1)
        clock.advance(seconds=1)
        recorded = []
        for number in range(7):
            recorded.append((await record(audit, f"operation-{number}")).sequence)
            clock.advance(seconds=number % 2)  # some share an instant

        listed, cursor = [], None
        while True:
            page = await audit.list(since=since, cursor=cursor, limit=3)
            listed += [entry.sequence for entry in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break

        assert listed == recorded[::-1]

    async def test_a_list_can_be_restricted_to_a_period(self, backend: Backend, clock: ManualClock) -> None:
        audit = (await open_tenant(backend)).audit
        clock.advance(days=1)
        times = []
        for _ in range(4):
            clock.advance(seconds=10)
            times.append((await record(audit)).at)

        page = await audit.list(since=times[1], until=times[3].isoformat())

        assert [entry.at for entry in page.items] == [times[2], times[1]]
        assert (await audit.list(since=times[3] + timedelta(microseconds=1))).items == []

    async def test_a_list_can_be_restricted_to_operations_principals_and_decisions(self, backend: Backend) -> None:
        """AUD-03: violation patterns are found by decision, operation and principal."""
        audit = (await open_tenant(backend)).audit
        await record(audit, "read", principal="ada")
        await record(audit, "read", principal="bob", decision="deny")
        await record(audit, "write", principal="bob")

        async def found(**conditions: Any) -> list[tuple[str, str]]:
            return [(entry.operation, entry.principal) for entry in (await audit.list(**conditions)).items]

        assert await found(operation="read") == [("read", "bob"), ("read", "ada")]
        assert await found(principal="bob") == [("write", "bob"), ("read", "bob")]
        assert await found(decision="deny") == [("read", "bob")]
        assert await found(operation="read", principal="ada", decision="allow") == [("read", "ada")]
        assert await found(operation="read", decision="allow_with_filters") == []

    async def test_a_cursor_belongs_to_its_tenant_and_its_query(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).audit, (await open_tenant(backend)).audit
        for audit in (mine, theirs):
            await audit.record_many([new(), new(), new()])
        cursor = (await mine.list(limit=1)).next_cursor

        async with refused(InvalidCursor, "cursor"):
            await theirs.list(limit=1, cursor=cursor)
        async with refused(InvalidCursor, "cursor"):
            await mine.list(limit=1, cursor=cursor, decision="deny")

    async def test_tenants_have_chains_of_their_own(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).audit, (await open_tenant(backend)).audit
        before = await theirs.head()

        entry = await record(mine, "mine")

        assert await theirs.head() == before
        assert await theirs.get(entry.sequence + 1) is None
        assert all(one.operation != "mine" for one in (await theirs.list()).items)
        assert (await mine.verify()).intact
        assert (await theirs.verify()).intact

    async def test_an_entry_that_is_not_there_is_none(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit

        assert await audit.get((await audit.head()).sequence + 1) is None
        assert await audit.get(2**63 - 1) is None

    async def test_what_is_rolled_back_leaves_no_entry(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        before = await backend.storages(tenant).audit.head()

        async def given_up() -> None:
            async with backend.transaction(tenant) as storages:
                await storages.kv.set("k", b"v")
                await record(storages.audit)
                raise LookupError

        with pytest.raises(LookupError):
            await given_up()

        assert await backend.storages(tenant).audit.head() == before
        assert await backend.storages(tenant).kv.get("k") is None

    async def test_an_action_and_its_entry_are_kept_together(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as storages:
            await storages.kv.set("k", b"v")
            first = await record(storages.audit)
            second = await record(storages.audit)
            assert (await storages.audit.verify()).intact

        audit = backend.storages(tenant).audit
        assert second.prev_hash == first.entry_hash
        assert (await audit.head()).entry_hash == second.entry_hash
        assert (await audit.verify()).intact

    async def test_an_action_whose_entry_is_refused_fails_as_a_whole(self, backend: Backend) -> None:
        """G4."""
        tenant = await new_tenant(backend)
        before = await backend.storages(tenant).audit.head()

        async def refused_at_the_end() -> None:
            async with backend.transaction(tenant) as storages:
                await storages.kv.set("k", b"v")
                await record(storages.audit, principal="")

        with pytest.raises(InvalidKey):
            await refused_at_the_end()

        assert await backend.storages(tenant).kv.get("k") is None
        assert await backend.storages(tenant).audit.head() == before

    async def test_an_entry_that_is_refused_inside_a_transaction_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as storages:
            await record(storages.audit, "first")
            async with refused(InvalidKey, "resource"):
                await record(storages.audit, resource="")
            await record(storages.audit, "second")

        found = await backend.storages(tenant).audit.list(limit=2)
        assert [entry.operation for entry in found.items] == ["second", "first"]
        assert (await backend.storages(tenant).audit.verify()).intact

    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("operation", "", InvalidKey),
            ("operation", "o" * 129, InvalidKey),
            ("operation", "a\0b", InvalidKey),
            ("operation", "\ud800", InvalidKey),
            ("principal", "", InvalidKey),
            ("principal", "é" * 251, InvalidKey),
            ("principal", None, InvalidKey),
            ("resource", "", InvalidKey),
            ("resource", "r" * 1_025, InvalidKey),
            ("decision", "maybe", InvalidInput),
            ("reason", "a\0b", InvalidText),
            ("reason", "r" * 4_097, InvalidText),
            ("details", [], InvalidMetadata),
            ("details.f", {"f": float("nan")}, InvalidMetadata),
            ("details.f", {"f": -0.0}, InvalidMetadata),
            ("details.f", {"f": 2**63}, InvalidMetadata),
            ("details", {"f": "x" * 16_384}, InvalidMetadata),
            ("latency_ms", -1, InvalidLimit),
            ("latency_ms", float("nan"), InvalidLimit),
            ("latency_ms", float("inf"), InvalidLimit),
            ("latency_ms", True, InvalidLimit),
        ],
    )
    async def test_what_cannot_be_kept_is_refused(
        self, backend: Backend, field: str, value: object, error: type[InvalidInput]
    ) -> None:
        audit = (await open_tenant(backend)).audit
        before = await audit.head()

        async with refused(error, field):
            given: dict[str, Any] = {"operation": "x", field.partition(".")[0]: value}
            await record(audit, **given)

        assert await audit.head() == before

    async def test_the_longest_values_are_kept(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        fields = {"operation": "😀" * 32, "principal": "é" * 250, "resource": "r" * 1_024, "reason": "r" * 4_096}

        entry = await record(audit, **fields, details={"f": "x" * (16_384 - 8)}, latency_ms=1e12)

        assert await audit.get(entry.sequence) == entry
        assert (await audit.verify()).intact

    async def test_a_negative_zero_of_latency_is_zero(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit

        entry = await record(audit, latency_ms=-0.0)

        assert str(entry.latency_ms) == "0.0"
        assert (await audit.verify()).intact

    async def test_limits_and_periods_are_checked(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit

        for limit in (0, 1_001, True):
            async with refused(InvalidLimit, "limit"):
                await audit.list(limit=limit)
        async with refused(InvalidTime, "since"):
            await audit.list(since="2026-01-01T00:00:00")
        async with refused(InvalidInput, "decision"):
            await audit.list(decision="maybe")  # type: ignore[arg-type]
        async with refused(InvalidLimit, "sequence"):
            await audit.get(0)
        async with refused(InvalidLimit, "entries"):
            await audit.record_many([new()] * 1_001)
        async with refused(InvalidInput, "anchor.entry_hash"):
            await audit.verify(anchor=AuditHead(sequence=1, entry_hash="AB" * 32))
        async with refused(InvalidInput, "anchor.entry_hash"):
            await audit.verify(anchor=AuditHead(sequence=0, entry_hash="ab" * 32))
        assert (await audit.verify(anchor=AuditHead(sequence=0, entry_hash=GENESIS))).intact

    async def test_what_recording_returns_can_be_kept_for_a_retry(self, backend: Backend) -> None:
        audit = (await open_tenant(backend)).audit
        entry = await record(audit, details=HOSTILE, latency_ms=0.1)
        kind = get_type_hints(Audit.record)["return"]

        assert msgspec.msgpack.decode(msgspec.msgpack.encode(entry), type=kind) == entry
