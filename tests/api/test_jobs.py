"""Jobs through the handles, on every backend: what is enqueued with the data runs, and what recurs is enqueued once."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import msgspec
import pytest
from tests.fixtures.stores import STORES, fresh_tenant, fresh_tenants, opened, url_of

import llmspell
from llmspell import chores
from llmspell.chores import EMBED_SWEEP_KIND, EXPIRE_KIND, PROMOTE_KIND, PROMOTE_SWEEP_KIND
from llmspell.clock import ManualClock
from llmspell.errors import IllegalTransition, InvalidInput, InvalidSetting, ProviderUnavailable, TenantUnknown
from llmspell.ops.backup import Backups
from llmspell.ops.worker import JobContext, Worker, WorkerOptions
from llmspell.providers.hashing import HashingEmbedder
from llmspell.settings import BackupSettings, JobsSettings, PostgresSettings, Settings, StorageSettings
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.jobs import EMBED_KIND
from llmspell.tenant import STORE_TENANT

LIMIT_S = 60
DAY_S = 86_400


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The provider is down until `undo()`."""

    async def fail(*arguments: object) -> NoReturn:
        raise ProviderUnavailable("The endpoint is down.")

    monkeypatch.setattr(HashingEmbedder, "embed", fail)
    return monkeypatch


async def test_a_job_enqueued_with_its_data_runs_after_both_are_committed(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seen: list[Any] = []
    async with opened(backend, request, tmp_path) as spell:
        acme = await fresh_tenant(spell)

        async def send(context: JobContext) -> dict[str, Any]:
            seen.append(await spell.tenant(context.tenant).kv.get("mail"))
            return {"sent": True}

        worker = spell.worker({"mail.send": send}, builtin=False, tenants=[acme.id])
        async with acme.transaction() as tx:
            await tx.kv.set("mail", b"Dear Ada")
            job = await tx.jobs.enqueue("mail.send")
        await worker.run(until_idle=True)

        done = await acme.jobs.get(job.id)
        assert done is not None
        assert (done.state, done.result, seen) == ("succeeded", {"sent": True}, [b"Dear Ada"])


async def test_memories_kept_while_the_provider_was_down_are_embedded_by_their_job(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, failing: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await fresh_tenant(spell)
        for number in range(3):
            await acme.memory.add(f"Tea number {number}.")
        worker = spell.worker(tenants=[acme.id])
        await worker.run(until_idle=True)
        (job,) = (await acme.jobs.list(kind=EMBED_KIND)).items
        assert (job.state, job.attempt, job.error_class) == ("queued", 1, "ProviderUnavailable")

        failing.undo()
        clock.set(job.run_at)
        await worker.run(until_idle=True)

        done = await acme.jobs.get(job.id)
        assert done is not None
        assert (done.state, done.result, done.done) == ("succeeded", {"embedded": 3}, 3)
        assert {one.embedding_state for one in (await acme.memory.list()).items} == {"ready"}


async def test_memories_whose_job_is_dead_are_found_by_the_sweep(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, failing: pytest.MonkeyPatch
) -> None:
    async with opened(backend, request, tmp_path, clock=ManualClock()) as spell:
        acme = await fresh_tenant(spell)
        await acme.memory.add("Tea.")
        for job in (await acme.jobs.list()).items:
            await acme.jobs.cancel(job.id)
        failing.undo()

        await run_store_job(spell, EMBED_SWEEP_KIND)
        await spell.worker(tenants=[acme.id]).run(until_idle=True)

        assert [one.embedding_state for one in (await acme.memory.list()).items] == ["ready"]


async def run_store_job(spell: llmspell.Spell, kind: str) -> dict[str, Any]:
    """Enqueue one of the store's own jobs and run it, leaving all others alone: a server's database is shared by tests."""
    queue = spell._backend.job_queue
    for old in (await queue.store.list(state="queued", kind=kind)).items:
        await queue.store.cancel(old.id)
    job = await queue.store.enqueue(kind)
    leases = await queue.lease(worker="test", kinds=[kind], tenants=[STORE_TENANT])
    assert [lease.job.id for lease in leases] == [job.id]
    await queue.release(leases[0])
    handlers = {kind: chores.handlers(spell, spell._backend, spell._clock)[kind]}
    worker = Worker(queue, handlers, clock=spell._clock, options=WorkerOptions(tenants=(STORE_TENANT,)))
    async with asyncio.timeout(LIMIT_S):
        await worker.run(until_idle=True)
    done = await queue.store.get(job.id)
    assert done is not None
    assert done.state == "succeeded", done.error
    return done.result or {}


async def test_what_has_expired_is_deleted_in_every_active_tenant(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme, globex = await fresh_tenants(spell, 2)
        for tenant in (acme, globex):
            await tenant.kv.set("gone", b"v", ttl_s=10)
            await tenant.kv.set("kept", b"v")
            await tenant.memory.add("gone", ttl_s=10)
        finished = await acme.jobs.enqueue("send")
        await acme.jobs.cancel(finished.id)
        clock.advance(seconds=8 * DAY_S)

        result = await run_store_job(spell, EXPIRE_KIND)

        assert result["tenants"] >= 2
        assert result["deleted"]["kv"] >= 2
        assert result["deleted"]["memories"] >= 2
        assert await acme.jobs.get(finished.id) is None
        for tenant in (acme, globex):
            assert await tenant.kv.list_keys() == ["kept"]
            assert await tenant.kv.delete_expired() == await tenant.memory.delete_expired() == 0


async def test_what_recurs_is_enqueued_once_in_each_period_by_all_workers_together(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await fresh_tenant(spell)
        workers = [spell.worker(tenants=[acme.id]) for _ in range(3)]

        for period in (1, 2):
            for _ in range(2):
                await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))
            assert len((await acme.jobs.list(kind=EXPIRE_KIND)).items) == period
            clock.advance(seconds=JobsSettings().expire_interval_s)


async def test_a_worker_makes_no_tenant_of_a_name_that_it_was_told_to_serve(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, clock=ManualClock()) as spell:
        name = f"nobody-{uuid4()}"
        worker = spell.worker(tenants=[name])

        if spell._backend.auto_create_tenants:
            assert (await worker.run(until_idle=True)).total == 0
        else:
            with pytest.raises(TenantUnknown):
                await worker.run(until_idle=True)

        assert await spell.tenants.get(name) is None


async def test_a_plain_function_runs_on_a_thread_and_once(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    threads: list[str] = []

    def send(context: JobContext) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        return {"attempt": context.attempt, "id": str(context.id)}

    async with opened(backend, request, tmp_path) as spell:
        acme = await fresh_tenant(spell)
        plain, made = await acme.jobs.enqueue("plain"), await acme.jobs.enqueue("made")
        handlers = {"plain": send, "made": lambda context: asyncio.to_thread(send, context)}

        await spell.worker(handlers, builtin=False, tenants=[acme.id]).run(until_idle=True)

        for job in (plain, made):
            done = await acme.jobs.get(job.id)
            assert done is not None
            assert (done.state, done.result) == ("succeeded", {"attempt": 1, "id": str(job.id)})
        assert len(threads) == 2
        assert threading.main_thread().name not in threads


async def test_what_is_no_handler_or_no_list_of_tenants_is_refused_before_anything_runs(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        for arguments, problem in (
            ({"handlers": {"n": 5}}, r"`handlers\['n'\]` must be a function"),
            ({"handlers": [1]}, "`handlers` must be kinds"),
            ({"tenants": "acme"}, "`tenants` must be a list of ids"),
        ):
            with pytest.raises(InvalidInput, match=problem):
                spell.worker(**arguments)  # type: ignore[arg-type]


async def test_a_job_that_is_not_over_or_has_succeeded_cannot_be_put_back(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        acme = await fresh_tenant(spell)
        job = await acme.jobs.enqueue("send")
        with pytest.raises(IllegalTransition, match=r"is queued cannot be put back.*Let it take its course"):
            await acme.jobs.retry(job.id)

        await spell.worker({"send": lambda _: None}, builtin=False, tenants=[acme.id]).run(until_idle=True)

        with pytest.raises(IllegalTransition, match=r"has succeeded cannot be put back.*Enqueue a new one"):
            await acme.jobs.retry(job.id)
        with pytest.raises(InvalidInput, match="`dead`"):
            await acme.jobs.prune("2100-01-01", dead="yes")  # type: ignore[arg-type]


async def test_spaces_that_have_outgrown_exact_search_are_promoted_by_jobs(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path, clock=ManualClock()) as spell:
        if Capability.ANN_PROMOTION not in spell.capabilities:
            with pytest.raises(llmspell.LlmspellError):
                await spell._backend.promotable(threshold=5)
            return
        small, large = await fresh_tenants(spell, 2)
        spell.settings = msgspec.structs.replace(spell.settings, jobs=JobsSettings(promote_threshold=5))
        for tenant, count in ((small, 5), (large, 6)):
            for number in range(count):
                await tenant.vectors.insert({"embedding": [number + 1.0] * 383 + [1.0], "scope": "s"})
        await large.memory.add_many([{"text": f"note {number}"} for number in range(7)])

        result = await run_store_job(spell, PROMOTE_SWEEP_KIND)

        assert result["spaces"] >= 2
        jobs = (await large.jobs.list(kind=PROMOTE_KIND)).items
        assert sorted(job.payload["space_id"] == "free-384" for job in jobs) == [False, True]
        assert (await small.jobs.list(kind=PROMOTE_KIND)).items == []
        await spell.worker(tenants=[large.id]).run(until_idle=True)
        done = (await large.jobs.list(kind=PROMOTE_KIND)).items
        assert sorted(job.result["moved"] for job in done if job.result) == [6, 7]
        assert len(await large.memory.search("note", limit=7)) == 7


async def test_the_admin_sees_the_queue_and_its_health(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await fresh_tenant(spell)
        kind = f"send-{acme.id}"
        job = await acme.jobs.enqueue(kind)
        assert (await spell.admin.jobs.list(acme.id)).items == [job]

        await spell._backend.job_queue.lease(worker="w", kinds=[kind], lease_s=10)
        clock.advance(seconds=11)

        health = await spell.admin.jobs.health()
        assert health.status == "red"
        assert any(reason.startswith(f"{kind}: 1 stuck") for reason in health.reasons)
        assert await spell.admin.jobs.cancel(job.id, tenant=acme.id)


async def test_a_worker_without_the_operators_role_says_so_and_can_serve_named_tenants(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("postgres_shared_database").app_url
    settings = Settings(storage=StorageSettings(postgres=PostgresSettings(operator_url=None)))
    async with llmspell.connect(url, settings=settings, embedder="hashing") as spell:
        acme = await fresh_tenant(spell)

        async def send(context: JobContext) -> None:
            await spell.tenant(context.tenant).kv.set("sent", b"yes")

        job = await acme.jobs.enqueue("send")
        with pytest.raises(InvalidSetting, match="DATABASE_OPERATOR_URL"):
            await spell.worker({"send": send}).run(until_idle=True)
        with pytest.raises(InvalidSetting, match="DATABASE_OPERATOR_URL"):
            await spell.admin.jobs.health()

        await spell.worker({"send": send}, tenants=[acme.id]).run(until_idle=True)

        done = await acme.jobs.get(job.id)
        assert done is not None
        assert done.state == "succeeded"
        assert await acme.kv.get("sent") == b"yes"


def test_the_blocking_twin_enqueues_and_works(tmp_path: Path) -> None:
    async def send(context: JobContext) -> dict[str, Any]:
        return {"to": context.payload["to"]}

    with llmspell.connect_blocking(f"sqlite:///{tmp_path / 's.db'}", settings=Settings(), embedder="hashing") as spell:
        acme = spell.tenant("acme")
        with acme.transaction() as tx:
            job = tx.jobs.enqueue("send", {"to": "ada"})
        beside = threading.Event()

        def write(context: JobContext) -> None:
            spell.tenant(context.tenant).kv.set("written by a job", b"")  # a plain handler uses the blocking verbs
            beside.set()

        acme.jobs.enqueue("write")
        with spell.worker({"write": write}, builtin=False):
            assert beside.wait(LIMIT_S)
        assert acme.kv.list_keys() == ["written by a job"]
        tally = spell.worker({"send": send}).run(until_idle=True)

        assert tally.failed == 0
        done = acme.jobs.get(job.id)
        assert done is not None
        assert done.result == {"to": "ada"}
        assert spell.admin.jobs.health().status == "ok"


async def test_without_the_operators_role_named_tenants_take_turns_as_well(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each is asked by its own right, and the answer is that of one query for all of them."""
    settings = Settings(storage=StorageSettings(postgres=PostgresSettings(operator_url=None)))
    url = url_of("postgres", request, tmp_path)
    async with llmspell.connect(url, settings=settings, embedder="hashing", clock=ManualClock()) as spell:
        tenants = sorted(tenant.id for tenant in await fresh_tenants(spell, 4))
        for name, count in zip(tenants, (12, 0, 12, 2), strict=True):
            for _ in range(count):
                await spell.tenant(name).jobs.enqueue("send")

        served = [
            [tenants.index(lease.tenant) for lease in leases]
            for limit in (2, 5, 7)
            for leases in [await spell._backend.job_queue.lease(worker="w", limit=limit, tenants=tenants)]
        ]

        assert served == [[0, 2], [3, 0, 2, 3, 0], [2, 0, 2, 0, 2, 0, 2]]


def test_the_page_names_all_that_expires() -> None:
    page = Path(__file__).parents[2] / "docs/reference/jobs.md"
    (row,) = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| `expire` |")]

    assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(chores.EXPIRIES)


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_worker_backs_up_what_lasts_once_in_each_period_and_deletes_what_is_old(
    tmp_path: Path, enabled: bool
) -> None:
    clock = ManualClock("2026-01-01T00:00:00Z")
    settings = Settings(
        storage=StorageSettings(url=f"sqlite:///{tmp_path / 's.db'}", backend="sqlite"),
        backup=BackupSettings(
            enabled=enabled, folder=str(tmp_path / "b"), encryption=False, retention_days=1, retention_count=1
        ),
    )
    async with llmspell.connect(settings.storage.url, settings=settings, embedder="hashing", clock=clock) as spell:
        await spell.tenant().memory.add("Ada moved to Zurich.")
        states = []
        for _ in range(3):
            await asyncio.gather(*(spell.worker().run(until_idle=True) for _ in range(2)))
            states.append([job.state for job in (await spell.admin.jobs.list(kind=chores.BACKUP_KIND)).items])
            clock.advance(days=1.5)
    backups = Backups(settings, clock=clock)

    if not enabled:
        assert (states, backups.list()) == ([[]] * 3, [])
        return
    assert states == [["succeeded"] * number for number in (1, 2, 3)]
    assert [each.state for each in backups.list()] == ["verified"]
    assert backups.state().status == "red"  # a day and a half is more than three hours
