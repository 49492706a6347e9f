"""The tests are tested: each planted bug turns a test red, and without one the same tests are green."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.postgres import ADMIN_URL_VARIABLE, PostgresServer
from tests.fixtures.soak import tell
from tests.planted.bugs import BUGS
from tests.planted.planting import PACKAGE, edited, planted, run

BUGS_MIN = 20
TESTS_FAILED = 1
"""What pytest says when tests ran and failed; another code means that they could not run."""
BROKEN = ("SyntaxError", "ImportError", "MigrationFailed", "UndefinedColumn", "UndefinedFunction", "IndeterminateDatatype",
    "apsw.SQLError", "Timeout (>")  # fmt: skip
"""What a copy says that cannot run: red for that reason, a test has noticed nothing."""
QUICK = ("tests/contract/", "tests/unit/", "tests/migrations/", "tests/api/test_once.py")
"""That the others are green without a bug is seen where the whole suite runs."""


def test_there_are_twenty_bugs_and_each_still_fits_the_code() -> None:
    assert len(BUGS) >= BUGS_MIN
    for bug in BUGS.values():
        for file, text in edited(bug).items():
            assert text != (PACKAGE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.timeout(300)
def test_a_planted_bug_turns_a_test_red(name: str, postgres_cluster: PostgresServer) -> None:
    bug = BUGS[name]
    environment = {ADMIN_URL_VARIABLE: postgres_cluster.database("postgres").superuser_url}

    with planted(bug) as folder:
        done = run(folder, bug.caught_by, environment=environment)

    assert done.returncode == TESTS_FAILED, f"{bug.what}: no test noticed\n{done.stdout[-4_000:]}{done.stderr[-1_000:]}"
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    assert failed, f"{bug.what}: nothing failed by itself\n{done.stdout[-4_000:]}"
    broken = [word for word in BROKEN if word in done.stdout]
    assert not broken, f"{bug.what}: the copy cannot run, {broken}\n{done.stdout[-4_000:]}"
    tell(planted_bugs_caught=1)


@pytest.mark.timeout(600)
def test_without_a_bug_the_same_tests_are_green(postgres_cluster: PostgresServer) -> None:
    """They run on a copy too, so it is the bug that turns them red, and not the copy."""
    sharing = sorted({test for bug in BUGS.values() for test in bug.caught_by if test.startswith(QUICK)})

    with planted(None) as folder:
        done = run(
            folder, sharing, environment={ADMIN_URL_VARIABLE: postgres_cluster.database("postgres").superuser_url}
        )

    assert done.returncode == 0, done.stdout[-4_000:]


def test_the_tests_of_a_planted_run_have_the_copy(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "import os, llmspell\n\n\ndef test_it():\n    assert llmspell.__file__.startswith(os.environ['LLMSPELL_PLANTED'])\n"
    )

    with planted(None) as folder:
        done = run(folder, [str(probe), f"--rootdir={tmp_path}", "-c", "/dev/null"], environment={})

    assert done.returncode == 0, done.stdout
