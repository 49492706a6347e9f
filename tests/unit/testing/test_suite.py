"""A backend of somebody else's proves itself with one import and one fixture, or is found out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.meta.source import PACKAGE

from llmspell.testing import suite

LIMIT_S = 240
MODULE = """
import pytest
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.testing.suite import *


class TheirBackend(InMemoryBackend):
    pass


{defect}


@pytest.fixture
async def backend(clock):
    opened = TheirBackend(clock=clock)
    yield opened
    await opened.close()
"""
FORGETFUL = """
from llmspell.storage.inmemory.kv import InMemoryKV

async def forget(self, keys):
    return len(keys)  # says that it did, and did not

InMemoryKV.delete_batch = forget
"""


def run_suite(folder: Path, *options: str, defect: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(MODULE.format(defect=defect), "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "llmspell.testing.plugin",
        "-o",
        "asyncio_mode=auto",
        *options,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_every_contract_is_in_the_suite() -> None:
    modules = {path.stem for path in (PACKAGE / "testing/contract").glob("*.py")} - {
        "__init__",
        "quotas_walk",
    }  # a walk that `quotas` takes
    classes = {getattr(suite, name).__mro__[1] for name in suite.__all__}

    assert {kind.__module__.rpartition(".")[2] for kind in classes} == modules


def test_a_backend_of_somebody_else_passes_with_one_import_and_one_fixture(tmp_path: Path) -> None:
    done = run_suite(tmp_path)

    assert done.returncode == 0, done.stdout[-4_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 500


def test_a_backend_that_does_not_do_what_it_says_is_found_out(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "-k", "TestKv", defect=FORGETFUL)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "FAILED test_theirs.py::TestKv::test_a_batch_delete_counts_what_was_there" in done.stdout
