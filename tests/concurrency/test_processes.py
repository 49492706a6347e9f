"""Eight processes with one file, each writing everything through the public API: nothing is lost, nobody is told that the file is
busy, and one that is killed among them takes nothing of the others with it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from tests.concurrency.process_writer import COUNT, TENANT, call_of
from tests.crash.torn import torn_in_file
from tests.crash.writes import KINDS, NAMES
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

import llmspell
from llmspell.memory.state import StateScope
from llmspell.spell import Tenant

PROCESSES = 8
ROUNDS = size(ci=1, soak=50)
WRITES = ROUNDS * len(NAMES)
LIMIT_S = size(ci=120, soak=3_000)
SEED = usual(20_263)


class Said:
    """What a process has said."""

    def __init__(self, lines: list[str]) -> None:
        words = [line.split() for line in lines]
        self.acknowledged = {int(number) for word, number in words if word == "end"}
        self.open = {int(number) for word, number in words if word == "begin"} - self.acknowledged
        self.added = [int(number) for word, number in words if word == "added"]


def start(url: str, name: str) -> subprocess.Popen[str]:
    script = str(Path(__file__).parent / "process_writer.py")
    command = [sys.executable, script, url, name, str(ROUNDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


def kill_inside_of_a_write(process: subprocess.Popen[str], after: int) -> Said:
    """Kill a process inside of a write, after so many lines of it. It is stopped first, so that nobody has to guess where it is."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        lines += said_so_far(process.stdout)
        if Said(lines).open:
            break
        process.send_signal(signal.SIGCONT)
        lines.append(process.stdout.readline())
    process.kill()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGKILL
    return Said(lines)


def said_so_far(stream: IO[str]) -> list[str]:
    """The lines that have come, without waiting for more."""
    os.set_blocking(stream.fileno(), False)
    lines = list(iter(stream.readline, ""))
    os.set_blocking(stream.fileno(), True)
    return lines


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("killed", [False, True], ids=["all of them end", "one is killed"])
async def test_eight_processes_that_write_everything_lose_nothing_and_are_never_told_that_the_file_is_busy(
    killed: bool, tmp_path: Path
) -> None:
    url, choose = f"sqlite:///{tmp_path / 'store.db'}", random.Random(SEED)
    names = [f"p{number}" for number in range(PROCESSES)]
    started = {name: start(url, name) for name in names}
    said: dict[str, Said] = {}
    if killed:
        said["p0"] = kill_inside_of_a_write(started["p0"], choose.randrange(WRITES // 2, WRITES))
    for name, process in started.items():
        if name not in said:
            output, errors = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, errors
            said[name] = Said(output.splitlines())
            assert len(said[name].acknowledged) == WRITES

    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        lost = [gone for name, one in said.items() for gone in await missing(tenant, name, one)]
        acknowledged = sum(len(one.acknowledged) for one in said.values())
        tell(acknowledged_writes=acknowledged, lost_writes=len(lost), kills=int(killed))
        assert lost == [], f"seed {SEED}"
        await require_no_lost_update(tenant, list(said.values()))
        chain = await tenant.audit.verify()
        assert chain.intact, chain
        (hit, *_) = await tenant.memory.search("In writing p3-0 there is a memory.")
        assert "p3-0" in hit.text
    assert torn_in_file(tmp_path / "store.db") == []


async def missing(tenant: Tenant, name: str, said: Said) -> list[str]:
    """Name every acknowledged write that is not there, whole; one that was open is whole or absent, and has one effect under its
    key."""
    lost = []
    for number in sorted(said.acknowledged | said.open):
        kind, call = call_of(tenant, name, number)
        there = await KINDS[kind].trace(call)
        lost += [f"{kind} {call.name}"] if number in said.acknowledged and not there else []
        if number in said.open and call.key is not None:
            await KINDS[kind].act(call)
            assert await KINDS[kind].trace(call), (kind, call.name)
    return lost


async def require_no_lost_update(tenant: Tenant, said: list[Said]) -> None:
    """What all have added is the sum of what was acknowledged, and of at most what was open when somebody was killed."""
    total = await tenant.state.get(StateScope.Global(), COUNT) + int(await tenant.kv.get(COUNT) or b"0")
    acknowledged = sum(len(one.added) for one in said)
    maybe = sum(len(one.acknowledged) - len(one.added) for one in said)
    assert acknowledged <= total <= acknowledged + maybe
    assert maybe <= 2
