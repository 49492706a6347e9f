"""`llmspell jobs`: run a worker, and look after the queue.

Not here: what the built-in jobs do (`chores`), when the queue is well (`ops.queue_health`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import click

from llmspell.cli.output import async_command, current_output, group, plain, plain_lines, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings, open_spell
from llmspell.errors import NotFound
from llmspell.storage.contracts.jobs import JOB_STATES

if TYPE_CHECKING:
    from uuid import UUID

    from llmspell.ops.queue_health import QueueHealth
    from llmspell.ops.worker import Worker
    from llmspell.storage.contracts.jobs import Job, JobState
    from llmspell.storage.contracts.pages import Page

STORE_OPTION = click.option(
    "--of-store", is_flag=True, help="The store's own jobs instead of the tenant's (the operator's right)."
)


@group()
def jobs() -> None:
    """Run jobs, and look after the queue.

    Memories that wait for their embedding, what has expired, and large vector spaces are taken care of by jobs. They run
    where `llmspell jobs run` runs.
    """


@jobs.command()
@click.option("--until-idle", is_flag=True, help="End when no job may run now.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="End after so many jobs.")
@click.option("--only", "only", multiple=True, metavar="TENANT", help="Serve this tenant alone; may be repeated.")
@click.option("--concurrency", type=click.IntRange(1, 100), help="Jobs at once; default: jobs.concurrency.")
@async_command
async def run(until_idle: bool, max_jobs: int | None, only: tuple[str, ...], concurrency: int | None) -> ExitCode:
    """Run jobs until stopped (Ctrl-C or SIGTERM): what runs then ends, or is given back.

    Serving all tenants needs the operator's role on a server (DATABASE_OPERATOR_URL); --only serves named tenants
    without it. Exit code 1 when an attempt failed.
    """
    output = current_output()
    async with open_spell() as spell:
        worker = spell.worker(tenants=only or None, concurrency=concurrency)
        output.note(f"worker {worker.name}: Ctrl-C stops it")
        with _stopped_by_signals(worker):
            tally = await worker.run(until_idle=until_idle, max_jobs=max_jobs)
    said = (
        f"{tally.succeeded:,} succeeded, {tally.failed:,} failed, {tally.given_back:,} given back, {tally.lost:,} lost"
    )
    output.emit(tally, lines=lambda: [said])
    return ExitCode.FAILED if tally.failed else ExitCode.OK


@contextlib.contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end the worker in good order; a second one ends the process as always."""
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []

    def stop() -> None:
        worker.stop()
        release()

    def release() -> None:
        while handled:
            loop.remove_signal_handler(handled.pop())

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(
            NotImplementedError, RuntimeError
        ):  # Windows, or not the main thread: the default stays
            loop.add_signal_handler(number, stop)
            handled.append(number)
    try:
        yield
    finally:
        release()


class _Kept(Protocol):
    """A tenant's jobs, or the store's, as these commands use them."""

    async def list(
        self, *, state: JobState | None = None, kind: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[Job]: ...

    async def get(self, id: UUID | str) -> Job | None: ...

    async def cancel(self, id: UUID | str) -> bool: ...

    async def retry(self, id: UUID | str) -> Job: ...


@asynccontextmanager
async def _open_jobs(of_store: bool) -> AsyncIterator[_Kept]:
    async with open_spell() as spell:
        yield spell.admin.jobs if of_store else spell.tenant(current_settings().tenant_id).jobs


@jobs.command(name="list")
@click.option("--state", type=click.Choice(JOB_STATES), help="Only jobs in this state.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many at most, 1 to 1,000.")
@click.option("--cursor", help="The `next_cursor` of the page before.")
@STORE_OPTION
@async_command
async def list_(state: JobState | None, kind: str | None, limit: int, cursor: str | None, of_store: bool) -> None:
    """List the tenant's jobs, the latest first.

    In a pipe each job is a line: id, state, kind, attempts of how many, progress, error or message, parted by tabs.
    """
    async with _open_jobs(of_store) as kept:
        page = await kept.list(state=state, kind=kind, cursor=cursor, limit=limit)
    document = {"items": page.items, "next_cursor": page.next_cursor}
    current_output().emit(document, lines=lambda: map(_line, page.items), columns=COLUMNS)


COLUMNS = ("id", "state", "kind", "attempts", "done", "said")


def _line(job: Job) -> str:
    done = "" if job.progress is None else f"{job.progress:.0%}"
    cells = (
        str(job.id),
        job.state,
        job.kind,
        f"{job.attempt}/{job.max_attempts}",
        done,
        job.error or job.message or "",
    )
    return "\t".join(map(printable, cells))


@jobs.command()
@click.argument("id_", metavar="ID")
@STORE_OPTION
@async_command
async def show(id_: str, of_store: bool) -> None:
    """Show a job. Exit code 1 when there is none."""
    async with _open_jobs(of_store) as kept:
        job = await kept.get(id_)
    if job is None:
        raise NotFound("There is no such job.", id=id_)
    current_output().emit(job, lines=lambda: _lines(job))


@jobs.command()
@click.argument("id_", metavar="ID")
@STORE_OPTION
@async_command
async def retry(id_: str, of_store: bool) -> None:
    """Put a dead or cancelled job back into the queue."""
    async with _open_jobs(of_store) as kept:
        job = await kept.retry(id_)
    current_output().emit(job, lines=lambda: _lines(job))


@jobs.command()
@click.argument("id_", metavar="ID")
@STORE_OPTION
@async_command
async def cancel(id_: str, of_store: bool) -> ExitCode:
    """Cancel a queued job, or ask a running one to stop. Exit code 1 when there is neither."""
    async with _open_jobs(of_store) as kept:
        done = await kept.cancel(id_)
    said = "cancelled, or asked to stop" if done else "there is no such job that could be stopped"
    current_output().emit({"id": id_, "cancelled": done}, lines=lambda: [said])
    return ExitCode.OK if done else ExitCode.FAILED


@jobs.command()
@async_command
async def stats() -> ExitCode:
    """Judge the queue of all tenants: ok, degraded or red, with the reasons. Exit code 1 when it is red.

    The first line is the verdict with its counts, then comes a line for each reason, and then one for each kind of job: kind,
    waiting, scheduled, running, stuck, dead, parted by tabs. On a server this needs the operator's role
    (DATABASE_OPERATOR_URL).
    """
    async with open_spell() as spell:
        health = await spell.admin.jobs.health()
    current_output().emit(health, lines=lambda: _health_lines(health))
    return ExitCode.FAILED if health.status == "red" else ExitCode.OK


def _health_lines(health: QueueHealth) -> Iterable[str]:
    yield f"{health.status}: {health.waiting:,} waiting, {health.running:,} running, {health.dead:,} dead"
    yield from map(printable, health.reasons)
    for kind in health.kinds:
        parts = (
            *(f"{kind.waiting:,} waiting", f"{kind.scheduled:,} scheduled", f"{kind.running:,} running"),
            *(f"{kind.stuck:,} stuck", f"{kind.dead:,} dead"),
        )
        yield "\t".join((printable(kind.kind), *parts))


def _lines(job: Job) -> Iterable[str]:
    return plain_lines(plain(job))
