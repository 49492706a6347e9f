"""What a transfer needs of a machine: memory that does not grow with the store, and a disk that may be full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash.small_disk import small_disk
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store

from llmspell.errors import DiskFull
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Input, Output

GIGABYTES = size(ci=8, soak=200) / 100
MEMORY_MAX_MB = 200
GROWTH_MAX_MB = 90
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "transfer.py"


@pytest.mark.timeout(size(ci=300, soak=3_600))
def test_memory_does_not_grow_with_the_size_of_a_store() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--gigabytes", str(GIGABYTES)],
        capture_output=True,
        text=True,
        check=True,
    )
    memory = json.loads(done.stdout)["memory"]

    assert memory["file_bytes"] > GIGABYTES * 0.8e9
    for step in ("write", "import", "export"):
        tell(**{f"mb_of_{step}": round(memory[step]["peak_mb"])})
        assert memory[step]["peak_mb"] < MEMORY_MAX_MB
        assert memory[step]["peak_mb"] - memory[step]["started_with_mb"] < GROWTH_MAX_MB


async def test_an_export_onto_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin:
        await Drawn(SEED, ["acme"], each=2, vectors=50, artifact_bytes=3_000_000).load(origin)
        with small_disk(tmp_path / "small", "2m") as disk:
            with pytest.raises(DiskFull):
                await export(origin, Output(disk / "a.json"), clock=CLOCK)
            assert list(disk.iterdir()) == []


async def test_an_import_into_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    async with file_store(tmp_path / "a.db") as origin:
        await Drawn(SEED, ["acme"], each=2, vectors=50, artifact_bytes=6_000_000).load(origin)
        await export(origin, Output(tmp_path / "a.json"), clock=CLOCK)
    with small_disk(tmp_path / "small", "6m") as disk:
        async with file_store(disk / "target.db") as target:
            await Drawn(SEED, ["globex"], each=1, vectors=1, artifact_bytes=10).load(target)
            before = await contents(target)
            with pytest.raises(DiskFull) as caught:
                await import_(Input(tmp_path / "a.json"), target)
            assert await contents(target) == before
    tell(full_disks=1)
    assert "table" in caught.value.fields or "path" in caught.value.fields
