"""Transfers that are given up: nobody waits for them afterwards, and nothing ends before the threads that work for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.transfer.stores import CLOCK, file_store

from llmspell.storage.sqlite.writer import Writer
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_, transfer
from llmspell.storage.transfer.streams import Input, Output
from llmspell.storage.transfer.threads import ahead, on_thread
from llmspell.tenant import TenantId

LIMIT_S = 20.0
"""Longer than any of these takes, and shorter than what a fault would wait for."""


async def pause() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_transfer_that_is_cancelled_while_it_waits_to_write_keeps_nobody_from_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, free = threading.Event(), threading.Event()
    begin = Writer._begin

    def held(writer: Writer) -> None:
        waits.set()
        free.wait(LIMIT_S)
        begin(writer)

    async with file_store(tmp_path / "a.db") as origin, file_store(tmp_path / "b.db") as target:
        monkeypatch.setattr(Writer, "_begin", held)
        given_up = asyncio.create_task(transfer(origin, target, clock=CLOCK))
        assert await asyncio.to_thread(waits.wait, LIMIT_S)
        given_up.cancel()
        await asyncio.wait([given_up])
        free.set()

        async with asyncio.timeout(LIMIT_S), target.transfer_target(TenantId("acme"), on_conflict="error") as opened:
            await opened.commit()
    assert given_up.cancelled()


@pytest.mark.skipif(os.name == "nt", reason="it cannot wait for a pipe")
@pytest.mark.parametrize(
    "begun", [b"", b'{"version": "1.0", "exported_at": "2026-01-01T00:00:00Z", "data": {"sessions": [']
)
async def test_an_import_from_who_never_writes_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    reads, writes = os.pipe()
    os.write(writes, begun)
    with os.fdopen(writes, "wb") as writer, os.fdopen(reads) as silent:
        monkeypatch.setattr(sys, "stdin", silent)
        async with file_store(tmp_path / "b.db") as target:
            given_up = asyncio.create_task(import_(Input("-"), target))
            await pause()
            given_up.cancel()
            ended, _ = await asyncio.wait([given_up], timeout=LIMIT_S)
            writer.close()  # what waits for it all the same ends now
            await asyncio.wait([given_up])
    assert ended == {given_up}
    assert given_up.cancelled()


@pytest.mark.skipif(os.name == "nt", reason="it has no named pipes")
async def test_what_waits_at_a_pipe_at_whose_other_end_is_nobody_can_be_cancelled(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with file_store(tmp_path / "a.db") as store:
        for waiting in (import_(Input(pipe), store), export(store, Output(pipe), clock=CLOCK)):
            given_up = asyncio.create_task(waiting)
            await pause()
            given_up.cancel()
            ended, _ = await asyncio.wait([given_up], timeout=LIMIT_S)
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # what waits for it all the same ends now
            await asyncio.wait([given_up])
            assert ended == {given_up}
            assert given_up.cancelled()


async def test_work_on_a_thread_is_over_before_who_asked_for_it_goes_on_however_often_that_is_cancelled() -> None:
    begun, free = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        free.wait(LIMIT_S)

    asked = asyncio.create_task(on_thread(work))
    assert await asyncio.to_thread(begun.wait, LIMIT_S)
    for _ in range(3):
        asked.cancel()
        await pause()
    early = asked.done()
    free.set()
    await asyncio.wait([asked])

    assert not early
    assert asked.cancelled()


async def test_what_reads_ahead_is_over_before_who_takes_it_goes_on_however_often_that_is_cancelled() -> None:
    begun, free = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def batches() -> AsyncIterator[int]:
        try:
            yield 1
            begun.set()
            await free.wait()
            yield 2
        finally:
            ended.append("closed")

    async def take() -> None:
        coming = ahead(batches())
        try:
            async for _ in coming:
                await begun.wait()
        finally:
            await coming.aclose()

    taking = asyncio.create_task(take())
    await begun.wait()
    for _ in range(3):
        taking.cancel()
        await pause()
    early = taking.done()
    free.set()
    await asyncio.wait([taking])

    assert (early, ended) == (False, ["closed"])
    assert taking.cancelled()
