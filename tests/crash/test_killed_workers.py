"""Workers and writers that are killed with SIGKILL: no job is lost, and a job that was begun is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.crash.worker import KIND, settings_of
from tests.fixtures.stores import DATABASES, fresh_tenant, operator_url_of, url_of

import llmspell
from llmspell.clock import ManualClock, SystemClock
from llmspell.errors import LeaseLost
from llmspell.ops.worker import JobContext
from llmspell.storage.contracts.jobs import EMBED_KIND, LEASE_EXPIRED, LeasedJob

LIMIT_S = 60
HERE = Path(__file__).parent
ADDING = """
import asyncio, os, sys
import llmspell
from llmspell.errors import ProviderUnavailable
from llmspell.providers.hashing import HashingEmbedder
from llmspell.settings import Settings

async def fail(*arguments):
    raise ProviderUnavailable("The endpoint is down.")

async def main(url, tenant):
    HashingEmbedder.embed = fail
    async with llmspell.connect(url, settings=Settings(), embedder="hashing") as spell:
        await spell.tenant(tenant).memory.add("Kept while the provider was down.")
        os.write(1, b"kept\\n")
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:3]))
"""


def kill_after_its_word(command: list[str], word: str) -> None:
    """Run a process until it has said a word, then kill it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == word
        finally:
            os.kill(process.pid, signal.SIGKILL)
        assert process.wait(LIMIT_S) == -signal.SIGKILL


@pytest.mark.parametrize("backend", DATABASES)
async def test_a_job_whose_worker_was_killed_is_taken_over_and_completes(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, operator_url = url_of(backend, request, tmp_path), operator_url_of(backend, request) or ""
    settings = settings_of(operator_url)
    async with llmspell.connect(url, settings=settings, embedder="hashing") as spell:
        acme = await fresh_tenant(spell)
        job = await acme.jobs.enqueue(KIND)
        kill_after_its_word([sys.executable, str(HERE / "worker.py"), url, operator_url, acme.id], "begun")
        held = await acme.jobs.get(job.id)
        assert held is not None
        assert (held.state, held.attempt) == ("running", 1)
        assert await acme.kv.get("begun") == b"yes"

    tomorrow = ManualClock(SystemClock().now() + timedelta(days=1))
    async with llmspell.connect(url, settings=settings, embedder="hashing", clock=tomorrow) as spell:
        again = spell.tenant(acme.id)

        async def done(context: JobContext) -> dict[str, Any]:
            return {"attempt": context.attempt, "token": context.token}

        await spell.worker({KIND: done}, builtin=False, tenants=[acme.id]).run(until_idle=True)

        ended = await again.jobs.get(job.id)
        assert ended is not None
        assert (ended.state, ended.result) == ("succeeded", {"attempt": 2, "token": 2})
        stale = LeasedJob(tenant=acme.id, lease_id=job.id, token=1, job=held)
        with pytest.raises(LeaseLost):
            await spell._backend.job_queue.complete(stale, {"by": "a ghost"})


@pytest.mark.parametrize("backend", DATABASES)
async def test_a_memory_acknowledged_without_embedding_has_its_job_although_its_writer_was_killed(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, operator_url = url_of(backend, request, tmp_path), operator_url_of(backend, request) or ""
    async with llmspell.connect(url, settings=settings_of(operator_url), embedder="hashing") as spell:
        acme = await fresh_tenant(spell)
        kill_after_its_word([sys.executable, "-c", ADDING, url, acme.id], "kept")

        (record,) = (await acme.memory.list()).items
        (job,) = (await acme.jobs.list(kind=EMBED_KIND)).items
        assert (record.embedding_state, job.state) == ("pending", "queued")

        await spell.worker(tenants=[acme.id]).run(until_idle=True)
        assert [one.embedding_state for one in (await acme.memory.list()).items] == ["ready"]
        assert LEASE_EXPIRED not in {one.error_class for one in (await acme.jobs.list()).items}
