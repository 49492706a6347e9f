from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.cli.conftest import Shell

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import ProviderUnavailable
from llmspell.providers.hashing import HashingEmbedder
from llmspell.settings import Settings

PROCESS_LIMIT_S = 60


@pytest.fixture
def waiting(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Three memories that were kept while the embedder was down, and so have a job."""

    async def fail(*arguments: object) -> NoReturn:
        raise ProviderUnavailable("The endpoint is down.")

    with monkeypatch.context() as down:
        down.setattr(HashingEmbedder, "embed", fail)
        for number in range(3):
            assert shell("add", f"Tea number {number}.").code == 0
    return shell


def listed(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    done = shell("jobs", "list", *arguments, "--json")
    assert done.code == 0
    items: list[dict[str, Any]] = done.document["items"]
    return items


def test_a_memory_without_embedding_has_a_job_and_a_worker_runs_it(waiting: Shell) -> None:
    (job,) = listed(waiting, "--state", "queued")
    assert (job["kind"], job["state"]) == ("memories.embed", "queued")

    done = waiting("jobs", "run", "--until-idle", "--json")

    assert done.code == 0
    assert done.document["failed"] == 0
    shown = waiting("jobs", "show", job["id"], "--json").document
    assert (shown["state"], shown["result"]) == ("succeeded", {"embedded": 3})
    assert waiting("search", "tea", "--json").document[0]["similarity"] is not None


def test_a_worker_serves_a_named_tenant_alone(waiting: Shell) -> None:
    waiting("jobs", "run", "--until-idle", "--only", "somebody-else", "--json")
    assert len(listed(waiting, "--state", "queued", "--kind", "memories.embed")) == 1

    waiting("jobs", "run", "--until-idle", "--only", "default", "--json")

    assert listed(waiting, "--state", "queued") == []


def test_a_failure_is_an_exit_code_and_can_be_looked_at(waiting: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object) -> NoReturn:
        raise ProviderUnavailable("The endpoint is down.")

    with monkeypatch.context() as down:
        down.setattr(HashingEmbedder, "embed", fail)
        done = waiting("jobs", "run", "--until-idle", "--json")

    assert done.code == 1
    assert done.document["failed"] == 1
    line = next(line for line in waiting("jobs", "list").lines if "memories.embed" in line)
    assert "1/5" in line
    assert "The endpoint is down." in line


def test_a_job_is_cancelled_and_put_back(waiting: Shell) -> None:
    (job,) = listed(waiting)

    assert waiting("jobs", "cancel", job["id"]).code == 0
    assert waiting("jobs", "cancel", job["id"]).code == 1
    assert waiting("jobs", "retry", job["id"], "--json").document["state"] == "queued"
    assert waiting("jobs", "retry", job["id"]).code == 5


def test_an_unknown_job_is_not_found(shell: Shell) -> None:
    shell("add", "one")

    done = shell("jobs", "show", "00000000-0000-7000-8000-000000000000")

    assert done.code == 1
    assert "no such job" in done.err


def test_the_stores_own_jobs_are_listed_apart(waiting: Shell) -> None:
    waiting("jobs", "run", "--until-idle")

    kinds = {job["kind"] for job in listed(waiting, "--of-store")}

    assert {"expire", "memories.embed_sweep"} <= kinds
    assert {job["kind"] for job in listed(waiting)} == {"memories.embed"}


def test_a_stuck_queue_is_red(shell: Shell) -> None:
    shell("add", "one")
    assert shell("jobs", "stats", "--json").document["status"] == "ok"
    asyncio.run(leave_a_job_to_its_lease(shell.file))

    done = shell("jobs", "stats", "--json")

    assert done.code == 1
    assert done.document["status"] == "red"
    assert "stuck" in done.document["reasons"][0]
    assert shell("jobs", "stats").lines[0].startswith("red:")


async def leave_a_job_to_its_lease(file: Path) -> None:
    """A worker that died long ago."""
    clock = ManualClock("2026-01-01T00:00:00Z")
    async with llmspell.connect(f"sqlite:///{file}", settings=Settings(), clock=clock) as spell:
        await spell.tenant().jobs.enqueue("send")
        assert len(await spell._backend.job_queue.lease(worker="w", kinds=["send"])) == 1


@contextlib.contextmanager
def silent_endpoint() -> Iterator[tuple[str, socket.socket]]:
    """An endpoint on this machine that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PROCESS_LIMIT_S)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", server


def test_a_worker_that_is_asked_to_end_gives_its_job_back(waiting: Shell) -> None:
    """As a service manager ends it: SIGTERM, while a job waits for a provider that does not answer."""
    with silent_endpoint() as (url, server):
        environment = {
            **os.environ,
            "LLMSPELL_EMBEDDING__PROVIDER": "openai",
            "LLMSPELL_EMBEDDING__BASE_URL": url,
            "LLMSPELL_EMBEDDING__API_KEY": "none",
            "LLMSPELL_JOBS__GRACE_S": "0",
        }
        command = [sys.executable, "-m", "llmspell", "jobs", "run", "--only", "default", "--json"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(PROCESS_LIMIT_S)
                    assert connection.recv(4), "the handler asks its provider"
                    process.send_signal(signal.SIGTERM)
                    out, err = process.communicate(timeout=PROCESS_LIMIT_S)
            finally:
                process.kill()

    assert process.returncode == 0, err
    tally = json.loads(out)
    assert tally["given_back"] >= 1
    assert (tally["failed"], tally["lost"]) == (0, 0)
    (job,) = listed(waiting, "--kind", "memories.embed")
    assert (job["state"], job["attempt"], job["worker"]) == ("queued", 0, None)
