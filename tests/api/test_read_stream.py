"""Reads in the audit log: off unless asked for, never in the way, and honest about what they could not keep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import get_type_hints

import pytest
from tests.api.conftest import Status, Store

import llmspell
from llmspell import ManualClock, Settings, Spell, read_stream
from llmspell.errors import LlmspellError, NotFound, Unavailable
from llmspell.gate import READS
from llmspell.settings import SecuritySettings, TenancySettings
from llmspell.storage.contracts.audit import AuditEntry
from llmspell.storage.contracts.backend import Storages


def settings(*, enabled: bool = True, reads: bool = True) -> Settings:
    return Settings(
        tenancy=TenancySettings(auto_create_tenants=True),
        security=SecuritySettings(audit_enabled=enabled, audit_reads=reads),
    )


@pytest.fixture
async def watched(store: Store, clock: ManualClock) -> AsyncIterator[Spell]:
    async with llmspell.connect(store.url, settings=settings(), embedder="hashing", clock=clock) as opened:
        yield opened


async def flushed(spell: Spell) -> list[AuditEntry]:
    """Write what waits, and return the reads that were recorded, in the order of the chain."""
    assert spell._reads is not None
    await spell._reads.flush()
    log = spell._backend.storages(spell.tenant("acme").id).audit
    assert (await log.verify()).intact
    return [entry for entry in reversed((await log.list(limit=1_000)).items) if entry.principal == "application"]


async def test_reads_are_recorded_behind_the_calls(watched: Spell, clock: ManualClock) -> None:
    """TEN-17, AUD-01."""
    acme = watched.tenant("acme")
    await acme.kv.set("a secret key", b"v")
    await acme.kv.get("a secret key")
    await acme.memory.search("a personal question")
    async with acme.transaction() as tx:
        await tx.kv.exists("k")

    entries = await flushed(watched)

    operations = [entry.operation for entry in entries]
    assert operations[0] == "kv.get"
    assert operations[-1] == "kv.exists"
    assert any(operation.startswith("memories.") for operation in operations)
    assert all((entry.decision, entry.at, entry.latency_ms) == ("allow", clock.now(), 0.0) for entry in entries)
    assert "secret" not in repr(entries)
    assert "personal" not in repr(entries)


async def test_a_read_that_fails_is_recorded_with_what_went_wrong(watched: Spell) -> None:
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")
    with pytest.raises(llmspell.errors.InvalidKey):
        await acme.kv.get("")

    (entry,) = await flushed(watched)

    assert (entry.operation, entry.reason) == ("kv.get", "InvalidKey")


@pytest.mark.parametrize(("enabled", "reads"), [(True, False), (False, True), (False, False)])
async def test_reads_are_not_recorded_unless_both_settings_say_so(
    store: Store, clock: ManualClock, enabled: bool, reads: bool
) -> None:
    """AUD-04: privileged actions are recorded whatever the settings say."""
    chosen = settings(enabled=enabled, reads=reads)
    async with llmspell.connect(store.url, settings=chosen, embedder="hashing", clock=clock) as spell:
        acme = spell.tenant("acme")
        await acme.kv.set("k", b"v")
        await acme.kv.get("k")

        assert spell._reads is None
        assert [entry.operation for entry in (await acme.audit.list()).items] == ["tenants.create"]


async def test_what_waits_is_written_when_the_store_is_closed(clock: ManualClock, tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with llmspell.connect(url, settings=settings(), embedder="hashing", clock=clock) as spell:
        await spell.tenant("acme").kv.set("k", b"v")
        await spell.tenant("acme").kv.get("k")

    async with llmspell.connect(url, settings=settings(reads=False), embedder="hashing", clock=clock) as spell:
        listed = (await spell.tenant("acme").audit.list()).items
    assert [entry.operation for entry in listed] == ["kv.get", "tenants.create"]


async def test_what_does_not_fit_is_dropped_and_counted(watched: Spell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_stream, "HELD_MAX", 3)
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")
    for _ in range(5):
        await acme.kv.get("k")

    entries = await flushed(watched)

    assert [entry.operation for entry in entries] == ["kv.get", "kv.get", "kv.get", "audit.dropped"]
    assert entries[-1].details == {"reads": 2}
    assert watched._reads is not None
    assert watched._reads.dropped == 2


async def test_a_log_that_cannot_be_written_fails_no_read(
    watched: Spell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, logger="llmspell"):
        patched.setattr(type(watched._backend.storages(acme.id).audit), "record_many", broken_record)
        assert await acme.kv.get("k") == b"v"
        assert watched._reads is not None
        await watched._reads.flush()

    assert "1 reads were not recorded: Unavailable" in caplog.text
    assert [entry.details for entry in await flushed(watched)] == [{"reads": 1}]


async def broken_record(*arguments: object) -> None:
    raise Unavailable("broken")


async def test_many_reads_are_written_in_batches(watched: Spell) -> None:
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")
    for _ in range(2_345):
        await acme.kv.get("k")
    assert watched._reads is not None
    await watched._reads.flush()

    assert (await watched._backend.storages(acme.id).audit.head()).sequence == 2_346


async def test_every_read_of_every_concern_is_noted(watched: Spell) -> None:
    """Called without arguments most of them fail, and that is noted too."""
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")
    assert watched._reads is not None
    storages = watched._reads.watched(watched._backend.storages(acme.id), acme.id)
    expected = []
    for concern, kind in get_type_hints(Storages).items():
        for verb in sorted(READS & vars(kind).keys()):
            expected.append(f"{concern}.{verb}")
            asked = getattr(getattr(storages, concern), verb)()
            with contextlib.suppress(TypeError, LlmspellError):
                if hasattr(asked, "__aiter__"):
                    await anext(asked)
                else:
                    await asked

    assert "artifacts.stream" in expected
    assert [entry.operation for entry in await flushed(watched)] == expected


async def test_a_stream_is_noted_when_it_ends_however_it_ends(watched: Spell) -> None:
    acme = watched.tenant("acme")
    session = await acme.sessions.create()
    put = await acme.artifacts.put(session.id, "n", bytes(3 * 1_048_576))

    assert len([piece async for piece in acme.artifacts.stream(put.id)]) == 3
    left = acme.artifacts.stream(put.id)
    await anext(left)
    assert [entry.operation for entry in await flushed(watched)] == ["artifacts.stream"]
    await left.aclose()  # type: ignore[attr-defined]
    del left
    assert watched._reads is not None
    while not watched._reads._held:  # what the gate had in its hands is closed by the event loop, in its next turns
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await anext(acme.artifacts.stream(f"{session.id}:7:{'a' * 64}"))
    async with acme.transaction() as tx:
        assert len([piece async for piece in tx.artifacts.stream(put.id)]) == 3

    noted = [(entry.operation, entry.reason) for entry in await flushed(watched)]
    assert noted == [("artifacts.stream", reason) for reason in (None, None, "NotFound", None)]


async def test_a_read_of_a_tenant_that_is_not_registered_writes_nothing(watched: Spell) -> None:
    ghost = watched.tenant("ghost")
    assert await ghost.kv.get("k") is None
    assert watched._reads is not None

    await watched._reads.flush()

    assert await watched._backend.tenants.get(ghost.id) is None
    assert (await watched._backend.storages(ghost.id).audit.head()).sequence == 0
    assert watched._reads.dropped == 0
    await ghost.kv.set("k", b"v")
    assert [entry.operation for entry in (await ghost.audit.list()).items] == ["tenants.create"]


@pytest.mark.parametrize("status", ["suspended", "deleted"])
async def test_a_tenant_that_was_shut_off_after_a_read_is_not_written_for(
    store: Store, watched: Spell, caplog: pytest.LogCaptureFixture, status: Status
) -> None:
    acme = watched.tenant("acme")
    await acme.kv.set("k", b"v")
    await acme.kv.get("k")
    store.set_status(watched, "acme", status)
    assert watched._reads is not None

    with caplog.at_level(logging.WARNING, logger="llmspell"):
        await watched._reads.flush()
        await watched._reads.flush()

    assert caplog.messages == ["1 reads were not recorded: TenantInactive"]
    assert watched._reads.dropped == 1
    store.set_status(watched, "acme", "active")
    assert (await watched._backend.storages(acme.id).audit.head()).sequence == 1


@pytest.mark.parametrize("writing", [False, True])
async def test_what_cannot_be_written_in_time_is_counted_when_the_store_is_closed(
    watched: Spell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, writing: bool
) -> None:
    acme, reads = watched.tenant("acme"), watched._reads
    assert reads is not None
    await acme.kv.set("k", b"v")
    monkeypatch.setattr(read_stream, "LAST_FLUSH_S", 0.01)
    monkeypatch.setattr(read_stream, "FLUSH_AFTER_S", 0.0 if writing else 60.0)
    begun = asyncio.Event()

    async def record(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, logger="llmspell"):
        patched.setattr(type(watched._backend.storages(acme.id).audit), "record_many", record)
        for _ in range(1_500):
            await acme.kv.get("k")
        if writing:
            await begun.wait()  # some are in its hands, the rest comes behind it
            await acme.kv.get("k")
        await reads.close()

    assert reads.dropped == 1_500 + writing
    assert caplog.messages[-1] == f"{1_500 + writing} reads were not recorded before the store was closed."
    assert reads._writing is not None
    assert reads._writing.done()
    await acme.kv.get("k")
    assert reads.dropped == 1_501 + writing
