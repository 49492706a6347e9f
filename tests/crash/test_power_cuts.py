"""Power cuts: the real store at its default setting loses nothing that it acknowledged, and nothing is half there.

What a disk may leave is written in `power_cuts`. A failure prints the command that judges its image anew.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import apsw
import msgspec
import pytest
from tests.crash.power_images import OPENED_EVERY, Report
from tests.crash.power_workloads import MIGRATIONS, record, record_migration
from tests.crash.recording_files import Recording
from tests.fixtures.soak import size, tell

from llmspell.storage.sqlite import pragmas

SEED = "power"
PROCESSES = 2
LIMIT_S = 3_000
# 10,200 images in all. A large store takes longer to rebuild, a small one has as many moments to be cut at.
IMAGES = {
    "small writes": size(ci=3_200, soak=300_000),
    "checkpoints": size(ci=3_000, soak=300_000),
    "transactions": size(ci=900, soak=100_000),
    "artifacts": size(ci=500, soak=60_000),
    "new store": size(ci=1_400, soak=140_000),
    "old store": size(ci=1_200, soak=100_000),
}
PREFIXES = size(ci=600, soak=50_000)
UNSYNCED = size(ci=200, soak=2_000)
ROOT = Path(__file__).parent.parent.parent


async def recording_of(name: str, folder: Path) -> Recording:
    folder.mkdir()
    if name in MIGRATIONS:
        return await record_migration(name, folder)
    return (await record(name, folder, SEED))[0]


def judge_in_processes(recording: Recording, file: Path, count: int, *options: str) -> Report:
    """Judge so many images, in as many processes as there are processors."""
    file.write_bytes(msgspec.msgpack.encode(recording))
    bounds = [count * part // PROCESSES for part in range(PROCESSES + 1)]
    command = [sys.executable, "-m", "tests.crash.power_images", str(file), SEED]
    running = [
        subprocess.Popen([*command, str(first), str(last), *options], stdout=subprocess.PIPE, cwd=ROOT)
        for first, last in pairwise(bounds)
    ]
    report = Report()
    for process in running:
        with process:
            output, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0
            report.add(msgspec.json.decode(output, type=Report))
    return report


def explained(recording: Recording, report: Report, file: Path) -> str:
    """The images that are wrong, and how to judge one of them alone."""
    command = f"python -m tests.crash.power_images {file} {SEED} N N+1"
    return "\n".join(
        [
            f"{recording.name}: {report.faulty} of {report.images} images are wrong; `{command}` judges one anew:",
            *report.examples,
        ]
    )


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("name", IMAGES)
async def test_a_power_cut_loses_nothing_acknowledged_and_leaves_nothing_half_done(name: str, tmp_path: Path) -> None:
    recording = await recording_of(name, tmp_path / "store")

    report = judge_in_processes(recording, tmp_path / "recording", IMAGES[name])

    tell(power_cuts=report.images, power_cuts_that_harmed=report.harmed, lost_writes=report.faulty)
    assert report.faulty == 0, explained(recording, report, tmp_path / "recording")
    assert report.images == IMAGES[name]
    assert report.opened >= IMAGES[name] // OPENED_EVERY
    # The cuts did harm: of what no sync had covered, something was lost, torn, or kept before what came earlier.
    assert report.harmed > IMAGES[name] // 3
    for kind in ("lost", "torn", "reordered", "sizes", "names"):
        assert report.losses.get(kind, 0) > 0, kind
    assert report.unacknowledged_kept > 0, "no cut came between a commit and its acknowledgement"


@pytest.mark.timeout(LIMIT_S)
async def test_without_a_sync_at_each_commit_the_latest_are_lost_but_never_one_before_another(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    recording, _ = await record("checkpoints", tmp_path / "store", SEED, synchronous="NORMAL")

    forgiving = judge_in_processes(recording, tmp_path / "recording", PREFIXES, "--any-prefix")
    strict = judge_in_processes(recording, tmp_path / "recording", PREFIXES)

    tell(power_cuts=2 * PREFIXES)
    assert forgiving.faulty == 0, explained(recording, forgiving, tmp_path / "recording")
    assert set(strict.faults) == {"an acknowledged write is lost"}, strict.examples
    assert strict.faulty > PREFIXES // 10


@pytest.mark.timeout(LIMIT_S)
async def test_a_store_that_does_not_sync_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_sync(connection: apsw.Connection, _synchronous: pragmas.Synchronous) -> None:
        connection.pragma("synchronous", "OFF")

    monkeypatch.setattr(pragmas, "durability", never_sync)
    (tmp_path / "store").mkdir()
    recording, _ = await record("checkpoints", tmp_path / "store", SEED)
    assert not [one for one in recording.operations[recording.begins_at :] if one.kind == "sync"]

    report = judge_in_processes(recording, tmp_path / "recording", UNSYNCED, "--any-prefix")

    assert report.faulty > UNSYNCED // 2
    assert {"the file is damaged", "it cannot be read"} & report.faults.keys()
    assert "an acknowledged write is lost" not in report.faults, "not asked for"


async def test_the_layer_records_the_store_as_it_is_in_production(tmp_path: Path) -> None:
    recording, _ = await record("small writes", tmp_path, SEED)

    counted = Counter(one.kind for one in recording.operations if one.kind != "sync" or one.file.endswith("-wal"))
    assert counted["begin"] == counted["end"] > 100
    assert counted["sync"] < counted["end"], "no group of writes shared a commit"
    assert counted["sync folder"] > 0
    assert not [one for one in recording.operations if one.file.endswith("-shm")]
