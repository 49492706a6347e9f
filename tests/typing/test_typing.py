"""Type checkers know the public API: typical code passes mypy --strict, and mistakes do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 240
MARK = re.compile(r"  # type: ignore\[([a-z-]+)\]")


def mypy(*files: Path) -> str:
    """Run mypy --strict, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_typical_code_of_both_kinds_is_accepted() -> None:
    said = mypy(HERE / "user_async.py", HERE / "user_blocking.py")

    assert said.startswith("Success"), said


def test_every_mistake_is_refused_for_its_reason(tmp_path: Path) -> None:
    text = (HERE / "refused.py").read_text(encoding="utf-8")
    unmarked = tmp_path / "mistakes_without_marks.py"
    unmarked.write_text(MARK.sub("", text), encoding="utf-8")
    expected = {(number, found[1]) for number, line in enumerate(text.splitlines(), 1) if (found := MARK.search(line))}

    said = mypy(unmarked)

    reported = {(int(line), code) for line, code in re.findall(r":(\d+): error: .*\[([a-z-]+)\]", said)}
    assert reported == expected, said
