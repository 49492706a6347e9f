"""Workers that are stopped (SIGSTOP) while they hold a lease, for longer than the lease, and go on (SIGCONT) as if nothing had
happened: the job has been done by another, and nothing that they still do counts.

Nobody waits for the lease to pass: whoever takes the job over lives a day later, by its own clock.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.crash.paused_worker import KIND, do, settings_of
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import DATABASES, fresh_tenant, operator_url_of, url_of

import llmspell
from llmspell.clock import ManualClock, SystemClock
from llmspell.memory.state import StateScope
from llmspell.ops.worker import JobContext
from llmspell.spell import Tenant

PAUSES_EACH = size(ci=10, soak=250)  # on each of two databases
LEASE_S = 2.0  # so its first heartbeat comes after two thirds of a second
LIMIT_S = 60
SEED = usual(20_264)


class PausedWorker:
    """The worker process, told by lines what to do."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> None:
        """Stop it, and see that it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        stat = Path(f"/proc/{self.process.pid}/stat")
        if stat.exists():
            assert stat.read_text().rpartition(")")[2].split()[0] == "T"

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def paused_worker(*arguments: str) -> Iterator[PausedWorker]:
    command = [sys.executable, str(Path(__file__).parent / "paused_worker.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield PausedWorker(process)
        finally:
            process.send_signal(signal.SIGCONT)
            process.communicate("end\n", timeout=LIMIT_S)
            assert process.returncode == 0


@pytest.mark.timeout(size(ci=120, soak=1_800))
@pytest.mark.parametrize("backend", DATABASES)
async def test_a_worker_that_was_stopped_for_longer_than_its_lease_does_nothing_twice_and_writes_nothing_stale(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, operator_url = url_of(backend, request, tmp_path), operator_url_of(backend, request) or ""
    settings, choose = settings_of(operator_url, LEASE_S), random.Random(SEED)
    tomorrow = ManualClock(SystemClock().now() + timedelta(days=1))
    fenced = noticed = 0
    stale: list[object] = []
    async with llmspell.connect(url, settings=settings, embedder="hashing", clock=tomorrow) as spell:
        acme = await fresh_tenant(spell)
        with paused_worker(url, operator_url, acme.id, str(LEASE_S)) as worker:
            for pause in range(PAUSES_EACH):
                job = await acme.jobs.enqueue(KIND, run_at="2026-01-01T00:00:00Z")
                worker.tell("work")
                assert worker.heard() == "begun 1"
                worker.stop()

                resume = partial(back_to_work, worker, goes=pause == 0 or choose.random() < 0.8)
                # The other worker is in the middle of the job by then, or has ended it.
                words = await take_over(spell, acme, meanwhile=resume if pause % 2 else list) or resume()
                stale += [words] if words[-1] != "done 0 1" else []  # an end of a job that was another worker's
                fenced, noticed = fenced + ("fenced" in words), noticed + ("fenced" not in words)
                ended = await acme.jobs.get(job.id)
                assert ended is not None
                kept = (ended.state, ended.attempt, ended.result)
                stale += [kept] if kept != ("succeeded", 2, {"token": 2}) else []
                found = await acme.state.get_many(StateScope.Workflow(str(job.id)), ["keyed", "fenced", "token"])
                stale += [found] if found != {"keyed": 1, "fenced": 1, "token": 2} else []
    tell(paused_workers=PAUSES_EACH, stale_writes=len(stale))
    assert stale == [], f"seed {SEED}"
    assert fenced + noticed == PAUSES_EACH
    assert fenced > 0


def back_to_work(worker: PausedWorker, *, goes: bool) -> list[str]:
    """Let it go on; `goes`: it ends its handler before it can know, and otherwise its next heartbeat tells it."""
    worker.go_on()
    if goes:
        worker.tell("go")
    words = [worker.heard()]
    while not words[-1].startswith("done"):
        words.append(worker.heard())
    return words


async def take_over(spell: llmspell.Spell, acme: Tenant, *, meanwhile: Callable[[], list[str]]) -> list[str]:
    """Do the job as a worker for whom the lease has passed; return what happened before it is noted as done."""
    happened = list[str]()

    async def handle(context: JobContext) -> dict[str, Any]:
        assert context.token == 2
        assert await do(acme, context)
        happened.extend(meanwhile())
        return {"token": context.token}

    tally = await spell.worker({KIND: handle}, builtin=False, tenants=[acme.id]).run(until_idle=True)
    assert (tally.succeeded, tally.total) == (1, 1)
    return happened
