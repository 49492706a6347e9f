"""The processes of an embedded PostgreSQL: find them, stop them, and outlive a parent that was killed.

Not here: how a cluster is made and started (`embedded_postgres`).

Rule 1: a process is signalled only when it is a PostgreSQL program, works in this data folder and belongs to the
        folder's owner. A number in a pid file is a claim, and after a crash it may be anybody's.
Rule 2: only the standard library: this file is also run alone, as the watchdog of a temporary cluster.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.01
FAST_STOP_S = 30.0  # clients are disconnected and a checkpoint is written
IMMEDIATE_STOP_S = 5.0  # no checkpoint: the next start replays the log
KILL_S = 5.0
REAP_S = 1.0
WATCHDOG_ROUNDS = 20
PID_FILE_LINES = 8
PROGRAMS = frozenset({"postgres", "initdb"})
PROC = Path("/proc")


class Postmaster(NamedTuple):
    """What a running server writes into `postmaster.pid`."""

    pid: int
    port: int
    socket_dir: str
    listen: str
    """The TCP address, or an empty string."""
    ready: bool
    """True once it accepts connections."""


def read_postmaster(pgdata: Path) -> Postmaster | None:
    """Read `postmaster.pid`, or return `None` when it is absent or still being written.

    Raises:
        PermissionError: the folder belongs to another user.
    """
    try:
        lines = (pgdata / "postmaster.pid").read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    lines += [""] * (PID_FILE_LINES - len(lines))
    pid, port = lines[0].strip(), lines[3].strip()
    if not (pid.isdecimal() and port.isdecimal()):
        return None
    return Postmaster(int(pid), int(port), lines[4].strip(), lines[5].strip(), lines[7].strip() == "ready")


def server_processes(pgdata: Path) -> frozenset[int]:
    """The living PostgreSQL processes of this data folder: server, its workers, and an `initdb` at work on it.

    On systems without `/proc` only the server itself is found; its workers end with it.
    """
    if not pgdata.is_dir():
        return frozenset()
    if not PROC.joinpath("self").exists():
        return _server_by_ps(pgdata)
    owner = pgdata.stat().st_uid
    found = []
    for entry in PROC.iterdir():
        # A zombie has neither `cwd` nor `exe`, so whoever has ended is not counted.
        try:
            if (
                entry.name.isdecimal()
                and (entry / "cwd").readlink() == pgdata
                and (entry / "exe").readlink().name in PROGRAMS
                and entry.stat().st_uid == owner
            ):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return frozenset(found)


def _server_by_ps(pgdata: Path) -> frozenset[int]:
    postmaster = read_postmaster(pgdata)
    if postmaster is None:
        return frozenset()
    command = ["ps", "-ww", "-o", "command=", "-p", str(postmaster.pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    program = shown.partition(" -D ")
    ours = Path(program[0].strip()).name in PROGRAMS and program[2].startswith(str(pgdata))
    return frozenset({postmaster.pid} if ours else ())


def stop_server(pgdata: Path, *, immediate: bool = False) -> frozenset[int]:
    """Stop the server of `pgdata` and return the processes that are left: none, unless the kernel holds them.

    A fast stop first (unless `immediate`), then an immediate one, then SIGKILL; each step has its own time limit.
    """
    steps = [(signal.SIGQUIT, IMMEDIATE_STOP_S), (signal.SIGKILL, KILL_S)]
    if not immediate:
        steps.insert(0, (signal.SIGINT, FAST_STOP_S))
    left = server_processes(pgdata)
    for number, limit_s in steps:
        if not left:
            break
        _signal(pgdata, left, number)
        left = _wait_until_gone(pgdata, limit_s)
    return left


def _signal(pgdata: Path, processes: frozenset[int], number: signal.Signals) -> None:
    postmaster = read_postmaster(pgdata)
    leads = postmaster is not None and postmaster.pid in processes and number != signal.SIGKILL
    for pid in (postmaster.pid,) if postmaster is not None and leads else processes:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _wait_until_gone(pgdata: Path, limit_s: float) -> frozenset[int]:
    deadline = time.monotonic() + limit_s
    while (left := server_processes(pgdata)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def wait_until_reaped(pid: int) -> None:
    """Give init a moment to collect an ended process, so that `ps` no longer lists it; some containers never do."""
    deadline = time.monotonic() + REAP_S
    while PROC.joinpath(str(pid)).exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def watch(pgdata_folders: list[Path], remove: list[Path]) -> None:
    """Wait until standard input closes, then stop the servers and delete the folders in `remove`.

    Standard input is a pipe that only the owner of the cluster holds, and the kernel closes it however the owner
    ends. The owner may have died between two steps of a start, so this looks again until nothing is left.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    for _ in range(WATCHDOG_ROUNDS):
        for pgdata in pgdata_folders:
            stop_server(pgdata, immediate=True)
        for folder in remove:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.exists() for folder in remove):
            return
        time.sleep(POLL_S)


if __name__ == "__main__":  # python -I -S postgres_processes.py ROOT SOCKETS PGDATA [PGDATA ...]
    folders = [Path(argument) for argument in sys.argv[1:]]
    watch(folders[2:], folders[:2])
