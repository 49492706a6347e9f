"""Large requests that run out of memory: each fails by one error or is done, and the process and the other tenants live."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash.torn import torn_in_file
from tests.fixtures.soak import size, tell

STEPS = size(ci=10, soak=30)
LIMIT_S = size(ci=120, soak=600)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the limit on memory is not kept")
@pytest.mark.timeout(LIMIT_S + 60)
def test_a_request_that_runs_out_of_memory_fails_alone_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, str(Path(__file__).parent / "short_of_memory.py"), str(path), str(STEPS)]

    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)

    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    # A put needs little memory, whatever its size, so it seldom fails.
    assert said["failed"].keys() >= {"read", "vectors"}, f"the memory never ran out: {said}"
    assert sum(said["failed"].values()) >= STEPS // 2, said
    assert said["done"].keys() == {"put", "read", "vectors", "overwrite"}
    assert set(said["errors"]) <= {"MemoryError", "RuntimeError", "StorageError", "Unavailable"}, said
    assert torn_in_file(path) == []
    tell(requests_short_of_memory=sum(said["failed"].values()))
