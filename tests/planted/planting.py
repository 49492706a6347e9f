"""Plants one bug into a copy of the package, and runs tests against that copy.

    python -m tests.planted.planting                                     the bugs by name
    python -m tests.planted.planting tenant_bound_to_the_session         its tests, which must turn red
    python -m tests.planted.planting owner_not_forced -k isolation -x    other tests, with pytest's own options

Rule: nothing in the package itself can be switched to wrong. The copy comes first on the path, so that every process that a test
starts has the bug too, and SQL can be wrong as well as Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.planted.bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "llmspell"
LIMIT_S = 240


class Stale(Exception):
    """The code no longer has what a bug changes."""


@contextmanager
def planted(bug: Bug | None) -> Iterator[Path]:
    """Yield a folder with a copy of the package that has the bug; without one the copy is right."""
    with tempfile.TemporaryDirectory(prefix="llmspell-planted-") as folder:
        copy = Path(folder) / "llmspell"
        shutil.copytree(PACKAGE, copy)
        for file, text in (edited(bug) if bug else {}).items():
            (copy / file).write_text(text, encoding="utf-8")
        yield Path(folder)


def edited(bug: Bug) -> dict[str, str]:
    """Return the files of a bug as it leaves them.

    Raises:
        Stale: the code no longer has what it changes.
    """
    texts: dict[str, str] = {}
    for edit in bug.edits:
        text = texts.get(edit.file) or (PACKAGE / edit.file).read_text(encoding="utf-8")
        if edit.old not in text:
            raise Stale(f"{edit.file} has no {edit.old!r}")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def run(folder: Path, arguments: Sequence[str], *, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest on a copy of the package."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    # Of the run that this is part of nothing may be left: it may be a worker of several.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SOAK"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "-p", "no:cacheprovider", "--tb=short", *arguments],
        cwd=ROOT,
        env={**inherited, **environment, "PYTHONPATH": path, "LLMSPELL_PLANTED": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def main(arguments: Sequence[str]) -> int:
    """Plant the bug that is named first, and run its tests, or those that follow."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(*(f"{name:<42}{bug.what}" for name, bug in BUGS.items()), sep="\n")
        return 0
    name, *rest = arguments
    if name not in BUGS:
        print(f"There is no bug {name!r}; without an argument all are listed.", file=sys.stderr)
        return 2
    with planted(BUGS[name]) as folder:
        done = run(folder, rest or BUGS[name].caught_by, environment={})
    print(done.stdout, done.stderr, sep="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
