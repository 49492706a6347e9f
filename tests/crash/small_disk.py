"""A file system of a few mebibytes, and one that cannot be written: where the tests may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.services import require_service

ROOM = "256m"
LIMIT_S = 20


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of that size. That needs to be the superuser: a laptop skips it, and continuous integration fails."""
    folder.mkdir(parents=True, exist_ok=True)
    done = _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder))
    if done.returncode != 0:
        require_service("the right to mount a file system", done.stderr.strip())
    try:
        yield folder
    finally:
        assert _run("umount", "--lazy", str(folder)).returncode == 0


def make_room(folder: Path) -> None:
    """Let it be large."""
    assert _run("mount", "-o", f"remount,size={ROOM}", str(folder)).returncode == 0


def make_read_only(folder: Path) -> None:
    """Let nothing be written any more."""
    assert _run("mount", "-o", "remount,ro", str(folder)).returncode == 0


def make_writable(folder: Path) -> None:
    """Let it be written again."""
    assert _run("mount", "-o", "remount,rw", str(folder)).returncode == 0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except FileNotFoundError as exc:
        return subprocess.CompletedProcess(command, 127, "", str(exc))
