"""A disk whose syncs and writes fail: each of them in turn, once or from then on, while the real store goes on.

What was acknowledged is there afterwards, also when the power fails then and a sync that failed has forgotten what it was given;
what failed for certain is not there; what has an unknown outcome is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import apsw
import pytest
from tests.crash.power_cuts import Image, Losses
from tests.crash.power_images import Judge, judged
from tests.crash.power_workloads import TENANT, record, record_migration, settings
from tests.crash.recording_files import FILE, Fault, Kind, Recording, recorded
from tests.fixtures.soak import size, tell

import llmspell
from llmspell.errors import DiskFull, LlmspellError, OutcomeUnknown, StorageError

WORKLOAD = "few writes"
IMAGES_EACH = size(ci=4, soak=200)
OVERSHOOT = 4
LIMIT_S = 60
RUNS_LIMIT_S = 3_000
TRIED: dict[Kind, int] = {"sync": size(ci=40, soak=10_000), "write": size(ci=12, soak=10_000)}
TRIED_FOR_GOOD = size(ci=6, soak=10_000)
OPENINGS_TRIED = size(ci=8, soak=10_000)

Failure = tuple[Kind, int, int]
SYNC: Failure = ("sync", apsw.SQLITE_IOERR_FSYNC, errno.EIO)
FAILURES: dict[str, Failure] = {
    "a sync fails": SYNC,
    "a sync finds no space": ("sync", apsw.SQLITE_IOERR_FSYNC, errno.ENOSPC),
    "a write fails": ("write", apsw.SQLITE_IOERR_WRITE, errno.EIO),
    "a write finds no space": ("write", apsw.SQLITE_FULL, errno.ENOSPC),
}


async def count(kind: Kind, folder: Path) -> int:
    """How many operations of a kind the workload has."""
    folder.mkdir()
    fault = Fault(kind, apsw.SQLITE_IOERR)
    await record(WORKLOAD, folder, "count", fault=fault)
    return fault.seen


def spread(many: int, tried: int) -> list[int]:
    """Numbers from 1 to `many`, at most `tried` of them, the first and the last included."""
    if many <= tried:
        return list(range(1, many + 1))
    return sorted({1 + (many - 1) * place // (tried - 1) for place in range(tried)})


async def run(
    folder: Path, failure: Failure, at: int, *, lasting: bool
) -> tuple[Recording, list[LlmspellError]] | None:
    """Run the workload with a failure; None when it had fewer operations this time, since other writes shared a commit."""
    kind, code, system = failure
    folder.mkdir()
    fault = Fault(kind, code, system=system, at=at, lasting=lasting)
    async with asyncio.timeout(LIMIT_S):  # nobody is left waiting
        recording, errors = await record(WORKLOAD, folder, f"{kind} {at}", fault=fault)
    return (recording, errors) if fault.failed else None


def faults_of(recording: Recording, folder: Path, scratch: Path, seed: str) -> list[str]:
    """Name what is not as it was promised: in the file as it was left, and in what power cuts leave of it."""
    judge = Judge(recording, scratch)
    left = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}
    found = [f"as it was left: {fault}" for fault in judge.judge(Image(0, len(recording.operations), left, Losses()))]
    report = judged(recording, seed, range(1, IMAGES_EACH + 1))
    return found + ([f"seed {seed}: {report.faulty} images, such as {report.examples}"] if report.faulty else [])


@pytest.mark.timeout(RUNS_LIMIT_S)
@pytest.mark.parametrize("what", FAILURES)
async def test_after_one_failure_what_was_acknowledged_is_there_and_the_store_goes_on(
    what: str, tmp_path: Path
) -> None:
    failure = FAILURES[what]
    places = spread(await count(failure[0], tmp_path / "count"), TRIED[failure[0]])
    (tmp_path / "scratch").mkdir()
    failed, met, faults = 0, 0, list[str]()
    for at in places:
        folder = tmp_path / str(at)
        happened = await run(folder, failure, at, lasting=False)
        if happened is None:
            continue
        recording, errors = happened
        met += 1

        # A group of writes fails together; a failed checkpoint fails nobody: the log has it all.
        assert len(errors) <= 6
        failed += bool(errors)
        for error in errors:
            require_right(error, failure)
        faults += await asyncio.to_thread(faults_of, recording, folder, tmp_path / "scratch", f"{what} {at}")

    tell(disk_failures=met, power_cuts=met * IMAGES_EACH, faulty_after_power_cuts=len(faults))
    assert faults == []
    assert met >= len(places) - OVERSHOOT
    assert failed > met // 3, "the failures met no commit"


def require_right(error: LlmspellError, failure: Failure) -> None:
    """The error says what is known: nothing, after a sync that failed; that it is not there, when there was no space."""
    kind, code, _ = failure
    if kind == "sync":
        assert type(error) is OutcomeUnknown, error
    elif code == apsw.SQLITE_FULL:
        assert type(error) is DiskFull, error
    else:
        assert type(error) in (OutcomeUnknown, StorageError), error


@pytest.mark.timeout(RUNS_LIMIT_S)
@pytest.mark.parametrize("what", FAILURES)
async def test_a_disk_that_keeps_failing_gets_no_write_acknowledged_and_nobody_waits(what: str, tmp_path: Path) -> None:
    failure = FAILURES[what]
    places = spread(await count(failure[0], tmp_path / "count"), TRIED_FOR_GOOD)
    (tmp_path / "scratch").mkdir()
    failed, met, faults = 0, 0, list[str]()
    for at in places:
        folder = tmp_path / str(at)
        happened = await run(folder, failure, at, lasting=True)
        if happened is None:
            continue
        recording, errors = happened
        met += 1

        kinds = [operation.kind for operation in recording.operations]
        if failure[0] == "sync":
            first = kinds.index("failed sync")
            tried = next((place for place, kind in enumerate(kinds) if place > first and kind == "begin"), None)
            assert tried is None or "end" not in kinds[tried:], "acknowledged although no sync succeeds any more"
        failed += bool(errors)
        faults += await asyncio.to_thread(
            faults_of, recording, folder, tmp_path / "scratch", f"{what} for good from {at}"
        )

    tell(disk_failures=met, power_cuts=met * IMAGES_EACH, faulty_after_power_cuts=len(faults))
    assert faults == []
    assert met >= len(places) - OVERSHOOT
    assert failed >= met - 2, "only at the end may nothing be left that could fail"


@pytest.mark.timeout(RUNS_LIMIT_S)
@pytest.mark.parametrize("what", FAILURES)
async def test_an_opening_that_fails_says_so_and_the_next_one_completes_it(what: str, tmp_path: Path) -> None:
    kind, code, system = FAILURES[what]
    (tmp_path / "whole").mkdir()
    whole = await record_migration("new store", tmp_path / "whole")
    refused = 0
    places = spread(sum(one.kind == kind for one in whole.operations), OPENINGS_TRIED)
    for at in places:
        folder = tmp_path / str(at)
        folder.mkdir()
        url = f"sqlite:///{folder / FILE}"
        fault = Fault(kind, code, system=system, at=at)
        fault.armed = True
        with recorded("opening", folder, fault=fault):
            refused += await fails_to_open(url)

        async with llmspell.connect(url, settings=settings("FULL"), embedder="hashing") as spell:
            assert not (await spell.admin.migration_status()).pending
            await spell.tenant(TENANT).kv.set("k", b"v")
            assert await spell.tenant(TENANT).kv.get("k") == b"v"
    tell(disk_failures=len(places))
    assert refused > len(places) // 3


async def fails_to_open(url: str) -> bool:
    """Open a store and say whether that failed, with an error of ours."""
    try:
        async with asyncio.timeout(LIMIT_S), llmspell.connect(url, settings=settings("FULL"), embedder="hashing"):
            return False
    except (StorageError, OutcomeUnknown):
        return True
    except apsw.Error:
        return False  # from the end of a connection whose last checkpoint failed; without this layer the driver says nothing


async def test_readers_go_on_and_the_store_closes_while_its_disk_fails(tmp_path: Path) -> None:
    fault = Fault(*SYNC[:2], at=1, lasting=True)
    with recorded("readers", tmp_path, fault=fault) as layer:
        async with (
            asyncio.timeout(LIMIT_S),
            llmspell.connect(f"sqlite:///{tmp_path / FILE}", settings=settings("FULL"), embedder="hashing") as spell,
        ):
            tenant = spell.tenant(TENANT)
            await tenant.kv.set("k", b"v")
            layer.fail_below()
            fault.armed = True
            for _ in range(3):
                with pytest.raises(OutcomeUnknown):
                    await tenant.kv.set("k", b"another")
                assert await tenant.kv.get("k") == b"v"
            fault.armed = False
            await tenant.kv.set("k", b"written again")
            assert await tenant.kv.get("k") == b"written again"
    assert fault.failed >= 3
