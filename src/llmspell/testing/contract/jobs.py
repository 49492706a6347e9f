"""What `Jobs` promises to a tenant. What the queue promises to workers is in `job_queue`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, get_type_hints
from uuid import uuid4

import msgspec
import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidCursor,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    InvalidTime,
    NotFound,
)
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.jobs import (
    DEDUPE_KEY_MAX_BYTES,
    EMBED_KIND,
    KIND_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    Job,
    Jobs,
)
from llmspell.storage.contracts.memories import MemoryChange
from llmspell.testing.contract import SPACE, add_one, memory, new_tenant, open_tenant, packed, random_vector

WRITERS = 8
ROOM = len('{"t":""}')
"""What JSON adds to the text of the largest payload."""
PAYLOADS: list[dict[str, Any]] = [
    {},
    {"a": {"b": [1, -1, 2**63 - 1, -(2**63), 0.5, 1e22, 1e308, True, None, "", "\u0001"]}},
    {"ß": "中😀", "a\u0301": "á", 'quote"': "back\\slash"},
]


class Enough(Exception):
    """Ends a block that shall not be kept."""


class JobsContract:
    """Subclass it in a test module; see the package."""

    @pytest.mark.parametrize("payload", PAYLOADS)
    async def test_a_payload_comes_back_as_it_was(self, backend: Backend, payload: dict[str, Any]) -> None:
        jobs = (await open_tenant(backend)).jobs

        job = await jobs.enqueue("send", payload)

        assert job.payload == payload
        assert await jobs.get(job.id) == job

    async def test_a_new_job_waits_to_be_run_now(self, backend: Backend, clock: ManualClock) -> None:
        jobs = (await open_tenant(backend)).jobs

        job = await jobs.enqueue("send")

        assert (job.state, job.attempt, job.max_attempts, job.priority, job.payload) == ("queued", 0, 5, 0, {})
        assert job.run_at == job.created_at == job.updated_at == clock.now()
        unset = (job.finished_at, job.leased_until, job.worker, job.result, job.error, job.progress)
        assert set(unset) == {None}

    async def test_what_a_caller_says_is_kept(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        id = uuid4()

        job = await jobs.enqueue("send", run_at="2027-03-01", priority=-7, max_attempts=2, dedupe_key="k", id=str(id))

        assert (job.id, job.priority, job.max_attempts, job.dedupe_key) == (id, -7, 2, "k")
        assert job.run_at.isoformat() == "2027-03-01T00:00:00+00:00"

    async def test_a_taken_id_is_refused(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        job = await jobs.enqueue("send", {"n": 1})

        with pytest.raises(AlreadyExists):
            await jobs.enqueue("send", {"n": 2}, id=job.id)

        assert await jobs.get(job.id) == job

    async def test_a_live_job_with_the_same_key_is_returned_instead_of_a_second_one(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        first = await jobs.enqueue("send", {"n": 1}, dedupe_key="daily")

        again = await jobs.enqueue("send", {"n": 2}, dedupe_key="daily")
        other_kind = await jobs.enqueue("fetch", dedupe_key="daily")
        other_key = await jobs.enqueue("send", dedupe_key="weekly")

        assert again == first
        assert len({first.id, other_kind.id, other_key.id}) == 3

    async def test_a_key_is_free_again_when_its_job_has_ended(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        first = await jobs.enqueue("send", dedupe_key="daily")
        await jobs.cancel(first.id)

        second = await jobs.enqueue("send", dedupe_key="daily")

        assert second.id != first.id

    async def test_many_callers_with_one_key_end_with_one_job(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs

        made = await asyncio.gather(*(jobs.enqueue("send", {"n": n}, dedupe_key="daily") for n in range(WRITERS)))

        assert len({job.id for job in made}) == 1
        assert (await jobs.counts())["queued"] == 1

    async def test_another_tenants_jobs_and_keys_do_not_exist(self, backend: Backend) -> None:
        mine, theirs = (await open_tenant(backend)).jobs, (await open_tenant(backend)).jobs
        job = await theirs.enqueue("send", dedupe_key="daily")

        assert await mine.get(job.id) is None
        assert not await mine.cancel(job.id)
        with pytest.raises(NotFound):
            await mine.retry(job.id)
        assert (await mine.list()).items == []
        assert sum((await mine.counts()).values()) == 0
        assert (await mine.enqueue("send", dedupe_key="daily", id=job.id)).id == job.id
        assert await theirs.get(job.id) == job

    async def test_pages_show_every_job_once_the_latest_first(self, backend: Backend, clock: ManualClock) -> None:
        jobs = (await open_tenant(backend)).jobs
        made = []
        for number in range(7):
            made.append(await jobs.enqueue("send", {"n": number}))
            clock.advance(seconds=number % 2)

        seen: list[Job] = []
        cursor = None
        while True:
            page = await jobs.list(cursor=cursor, limit=3)
            seen += page.items
            cursor = page.next_cursor
            if cursor is None:
                break

        assert seen == sorted(made, key=lambda job: (job.created_at, job.id), reverse=True)

    async def test_jobs_are_listed_by_state_and_kind(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        sent, fetched = await jobs.enqueue("send"), await jobs.enqueue("fetch")
        await jobs.cancel(sent.id)

        assert [job.id for job in (await jobs.list(state="cancelled")).items] == [sent.id]
        assert [job.id for job in (await jobs.list(kind="fetch")).items] == [fetched.id]
        assert (await jobs.list(state="queued", kind="send")).items == []

    async def test_a_cursor_belongs_to_its_tenant_and_its_question(self, backend: Backend) -> None:
        jobs, others = (await open_tenant(backend)).jobs, (await open_tenant(backend)).jobs
        for _ in range(2):
            await jobs.enqueue("send")
        cursor = (await jobs.list(limit=1)).next_cursor
        assert cursor is not None

        with pytest.raises(InvalidCursor):
            await others.list(cursor=cursor, limit=1)
        with pytest.raises(InvalidCursor):
            await jobs.list(cursor=cursor, state="queued", limit=1)

    async def test_a_cancelled_job_has_ended(self, backend: Backend, clock: ManualClock) -> None:
        jobs = (await open_tenant(backend)).jobs
        job = await jobs.enqueue("send")

        assert await jobs.cancel(job.id)
        assert not await jobs.cancel(job.id)
        assert not await jobs.cancel(uuid4())

        ended = await jobs.get(job.id)
        assert ended is not None
        assert (ended.state, ended.finished_at) == ("cancelled", clock.now())

    async def test_a_cancelled_job_can_be_put_back(self, backend: Backend, clock: ManualClock) -> None:
        jobs = (await open_tenant(backend)).jobs
        job = await jobs.enqueue("send", {"n": 1}, run_at="2027-01-01")
        await jobs.cancel(job.id)
        clock.advance(seconds=5)

        back = await jobs.retry(job.id)

        assert (back.state, back.run_at, back.finished_at, back.attempt) == ("queued", clock.now(), None, 0)
        assert not back.cancel_requested
        assert back.payload == {"n": 1}

    async def test_only_what_has_failed_or_was_cancelled_can_be_put_back(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        job = await jobs.enqueue("send")

        with pytest.raises(Conflict):
            await jobs.retry(job.id)
        with pytest.raises(NotFound):
            await jobs.retry(uuid4())

    async def test_a_job_whose_key_is_taken_is_not_put_back(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        first = await jobs.enqueue("send", dedupe_key="daily")
        await jobs.cancel(first.id)
        await jobs.enqueue("send", dedupe_key="daily")

        with pytest.raises(AlreadyExists):
            await jobs.retry(first.id)

        assert (await jobs.counts()) == {"queued": 1, "running": 0, "succeeded": 0, "dead": 0, "cancelled": 1}

    async def test_pruning_deletes_what_ended_before_an_instant_in_bounded_steps(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        jobs = (await open_tenant(backend)).jobs
        for _ in range(3):
            await jobs.cancel((await jobs.enqueue("send")).id)
        edge = clock.now() + timedelta(microseconds=1)
        clock.advance(seconds=1)
        kept = [await jobs.enqueue("send"), await jobs.enqueue("send")]
        await jobs.cancel(kept[0].id)

        assert await jobs.prune(edge, dead=True) == 0
        assert [await jobs.prune(edge, limit=2) for _ in range(3)] == [2, 1, 0]
        assert {job.id for job in (await jobs.list()).items} == {job.id for job in kept}

    async def test_a_job_is_rolled_back_with_its_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)

        with suppress(Enough):
            async with backend.transaction(tenant) as tx:
                await tx.kv.set("k", b"v")
                await tx.jobs.enqueue("send")
                raise Enough
        assert sum((await storages.jobs.counts()).values()) == 0

        async with backend.transaction(tenant) as tx:
            await tx.kv.set("k", b"v")
            job = await tx.jobs.enqueue("send", dedupe_key="daily")
            assert await tx.jobs.enqueue("send", dedupe_key="daily") == job
        assert await storages.jobs.get(job.id) == job

    async def test_a_refused_job_undoes_only_itself(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            job = await tx.jobs.enqueue("send")
            with pytest.raises(AlreadyExists):
                await tx.jobs.enqueue("send", id=job.id)
            await tx.jobs.enqueue("fetch")

        assert (await backend.storages(tenant).jobs.counts())["queued"] == 2

    @pytest.mark.parametrize(
        ("arguments", "error", "field"),
        [
            ({"kind": ""}, InvalidKey, "kind"),
            ({"kind": "a\0b"}, InvalidKey, "kind"),
            ({"kind": "\ud800"}, InvalidKey, "kind"),
            ({"kind": "k" * (KIND_MAX_BYTES + 1)}, InvalidKey, "kind"),
            ({"payload": [1]}, InvalidMetadata, "payload"),
            ({"payload": {"a": float("nan")}}, InvalidMetadata, "payload.a"),
            ({"payload": {"a": -0.0}}, InvalidMetadata, "payload.a"),
            ({"payload": {"a": 2**63}}, InvalidMetadata, "payload.a"),
            ({"payload": {"a": "\0"}}, InvalidMetadata, "payload.a"),
            ({"payload": {"t": "x" * (PAYLOAD_MAX_BYTES - ROOM + 1)}}, InvalidMetadata, "payload"),
            ({"run_at": "yesterday"}, InvalidTime, "run_at"),
            ({"run_at": "2026-01-01T00:00:00"}, InvalidTime, "run_at"),
            ({"priority": 10**7}, InvalidLimit, "priority"),
            ({"priority": True}, InvalidLimit, "priority"),
            ({"max_attempts": 0}, InvalidLimit, "max_attempts"),
            ({"dedupe_key": ""}, InvalidKey, "dedupe_key"),
            ({"dedupe_key": "k" * (DEDUPE_KEY_MAX_BYTES + 1)}, InvalidKey, "dedupe_key"),
            ({"id": "x"}, InvalidKey, "id"),
        ],
    )
    async def test_what_cannot_be_kept_is_refused_by_name(
        self, backend: Backend, arguments: dict[str, Any], error: type[InvalidInput], field: str
    ) -> None:
        jobs = (await open_tenant(backend)).jobs

        with pytest.raises(error) as caught:
            await jobs.enqueue(**{"kind": "send", **arguments})

        assert caught.value.field == field
        assert sum((await jobs.counts()).values()) == 0

    async def test_the_largest_names_and_payload_are_kept(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        payload = {"t": "x" * (PAYLOAD_MAX_BYTES - ROOM)}

        job = await jobs.enqueue("k" * KIND_MAX_BYTES, payload, dedupe_key="\U0001f600" * (DEDUPE_KEY_MAX_BYTES // 4))

        assert await jobs.get(job.id) == job

    async def test_lists_refuse_states_and_limits_that_there_are_not(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs

        with pytest.raises(InvalidInput):
            await jobs.list(state="lost")  # type: ignore[arg-type]
        for limit in (0, 1_001, True):
            with pytest.raises(InvalidLimit):
                await jobs.list(limit=limit)

    async def test_what_a_change_returns_can_be_recorded(self, backend: Backend) -> None:
        jobs = (await open_tenant(backend)).jobs
        job = await jobs.enqueue("send", {"a": [1, 2.5, None]})
        hints = get_type_hints(Jobs.enqueue)

        assert msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=hints["return"]) == job

    async def test_a_memory_without_embedding_has_a_job_that_would_make_it(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages = await open_tenant(backend)

        await add_one(storages, memory(clock, "one"))
        await add_one(storages, memory(clock, "two"))

        assert await waiting(storages.jobs) == 1

    async def test_a_memory_with_its_embedding_needs_no_job(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        await storages.memories.ensure_space(SPACE)
        new = memory(clock, "one", embeddings=(packed(random_vector(1)),))
        record = await add_one(storages, new, space_id=SPACE.space_id)

        await storages.memories.update(record.id, MemoryChange(metadata={"a": 1}))
        assert await waiting(storages.jobs) == 0

        await storages.memories.update(record.id, MemoryChange(content="two"))
        assert await waiting(storages.jobs) == 1

    async def test_a_memory_that_comes_back_has_a_job_again(self, backend: Backend, clock: ManualClock) -> None:
        storages = await open_tenant(backend)
        await storages.memories.ensure_space(SPACE)
        new = memory(clock, "one", embeddings=(packed(random_vector(1)),))
        record = await add_one(storages, new, space_id=SPACE.space_id)
        await storages.memories.delete(record.id)

        await storages.memories.restore(record.id)

        assert await waiting(storages.jobs) == 1

    async def test_a_transaction_keeps_one_job_for_all_its_memories_or_none(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        jobs = backend.storages(tenant).jobs

        with suppress(Enough):
            async with backend.transaction(tenant) as tx:
                await tx.memories.add([memory(clock, "one")])
                raise Enough
        assert await waiting(jobs) == 0

        async with backend.transaction(tenant) as tx:
            with suppress(Enough):
                async with tx.savepoint():
                    await tx.memories.add([memory(clock, "undone")])
                    raise Enough
            await tx.memories.add([memory(clock, "one")])
            await tx.memories.add([memory(clock, "two")])
        assert await waiting(jobs) == 1

    async def test_a_job_that_a_worker_has_does_not_count_for_a_later_memory(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        await add_one(storages, memory(clock, "one"))
        (lease,) = await backend.job_queue.lease(worker="w", kinds=[EMBED_KIND], tenants=[tenant])

        await add_one(storages, memory(clock, "two"))

        assert (await storages.jobs.counts())["running"] == 1
        assert await waiting(storages.jobs) == 1
        await backend.job_queue.complete(lease)


async def waiting(jobs: Jobs) -> int:
    """How many jobs wait to embed memories."""
    return len((await jobs.list(state="queued", kind=EMBED_KIND)).items)
