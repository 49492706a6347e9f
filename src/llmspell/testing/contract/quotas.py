"""What `Tenants` promises of quotas: that a tenant uses exactly what it was granted and never more, whatever writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, InvalidLimit, NotFound, QuotaExceeded
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.memories import MemoryChange, MemoryQuery
from llmspell.storage.contracts.tenants import MEGABYTE, NO_LIMITS, QUOTA_MAX, QuotaLimits, TenantUsage
from llmspell.storage.text.memory_text import memory_text
from llmspell.tenant import TenantId
from llmspell.testing.contract import (
    OTHER_SPACE,
    SPACE,
    add_one,
    memory,
    needs,
    new_tenant,
    packed,
    random_vector,
)
from llmspell.testing.contract.quotas_walk import Left, noise, vector, wander

FAR = QuotaLimits.only(max_documents=QUOTA_MAX, max_storage_mb=QUOTA_MAX, max_vectors=QUOTA_MAX)
"""Everything is counted, and nothing is refused."""
WALKS = 4
LARGE = 1_500_000


async def limited(backend: Backend, quotas: QuotaLimits) -> tuple[TenantId, Storages]:
    """Register a tenant with quotas, and return it with its storages."""
    tenant = TenantId(f"tenant-{uuid4().hex}")
    await backend.tenants.create(tenant, quotas=quotas)
    return tenant, backend.storages(tenant)


@asynccontextmanager
async def exceeding(quota: str, *, limit: int, used: int, asked: int) -> AsyncIterator[None]:
    """Expect that a block is refused, with these numbers."""
    with pytest.raises(QuotaExceeded) as caught:
        yield
    assert caught.value.fields == {"quota": quota, "limit": limit, "used": used, "asked": asked}
    assert (caught.value.retryable, caught.value.outcome) == (False, "failed")


async def numbers(backend: Backend, tenant: TenantId) -> tuple[int, int, int]:
    """Return what a tenant uses: memories, stored bytes, vectors."""
    usage = await backend.tenants.usage(tenant)
    return usage.documents.used, usage.storage_bytes.used, usage.vectors.used


async def recounted(backend: Backend, tenant: TenantId) -> tuple[int, int, int]:
    """Return the same as the rows tell it, without counters."""
    kept = await backend.tenants.get(tenant)
    assert kept is not None
    await backend.tenants.update(tenant, quotas=NO_LIMITS)
    found = await numbers(backend, tenant)
    await backend.tenants.update(tenant, quotas=kept.quotas)
    return found


async def put_key(storages: Storages, clock: ManualClock) -> None:
    await storages.kv.set("one too many", bytes(MEGABYTE))


async def put_memory(storages: Storages, clock: ManualClock) -> None:
    await storages.memories.add([memory(clock, "one too many")])


async def put_vector(storages: Storages, clock: ManualClock) -> None:
    await storages.vectors.insert([vector(99)])


async def put_artifact(storages: Storages, clock: ManualClock) -> None:
    session = await storages.sessions.create()
    await storages.artifacts.put(session.id, "one too many", noise(LARGE))


PUTS: dict[str, tuple[QuotaLimits, Callable[[Storages, ManualClock], Awaitable[None]]]] = {
    "a value": (QuotaLimits.only(max_storage_mb=0), put_key),
    "a text": (QuotaLimits.only(max_storage_mb=0), put_memory),
    "a content": (QuotaLimits.only(max_storage_mb=1), put_artifact),
    "a memory": (QuotaLimits.only(max_documents=0), put_memory),
    "a vector": (QuotaLimits.only(max_vectors=0), put_vector),
}


class QuotasContract:
    """Subclass it in a test module; see the package."""

    @pytest.mark.parametrize("what", PUTS)
    async def test_what_exceeds_a_quota_is_refused_and_leaves_nothing(
        self, what: str, backend: Backend, clock: ManualClock
    ) -> None:
        quotas, put = PUTS[what]
        tenant, storages = await limited(backend, quotas)

        with pytest.raises(QuotaExceeded) as caught:
            await put(storages, clock)

        assert set(caught.value.fields) == {"quota", "limit", "used", "asked"}
        assert await numbers(backend, tenant) == (0, 0, 0)
        assert await recounted(backend, tenant) == (0, 0, 0)
        assert await storages.memories.count() == 0
        assert (await storages.memories.search(MemoryQuery(text="one too many"))).records == {}
        assert await storages.kv.list_keys() == []
        assert (await storages.artifacts.stats()).contents == 0

    async def test_vectors_are_kept_up_to_the_limit_exactly(self, backend: Backend) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_vectors=3))

        for seed in range(3):
            await storages.vectors.insert([vector(seed)])
        async with exceeding("max_vectors", limit=3, used=3, asked=1):
            await storages.vectors.insert([vector(4)])

        assert (await storages.vectors.stats()).total_vectors == 3
        assert (await backend.tenants.usage(tenant)).vectors.used == 3

    async def test_memories_are_kept_up_to_the_limit_exactly(self, backend: Backend, clock: ManualClock) -> None:
        _, storages = await limited(backend, QuotaLimits.only(max_documents=2))

        await storages.memories.add([memory(clock, "one"), memory(clock, "two")])
        async with exceeding("max_documents", limit=2, used=2, asked=1):
            await storages.memories.add([memory(clock, "three")])

        assert await storages.memories.count() == 2

    async def test_bytes_are_kept_up_to_the_limit_exactly_whatever_they_are_in(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_storage_mb=1))
        session = await storages.sessions.create()
        await storages.artifacts.put(session.id, "report", noise(5_000))
        await storages.memories.add([memory(clock, "fünf")])

        await storages.kv.set("rest", bytes(MEGABYTE - 5_000 - 5))
        async with exceeding("max_storage_mb", limit=MEGABYTE, used=MEGABYTE, asked=1):
            await storages.kv.set("more", b"x")

        assert (await numbers(backend, tenant))[1] == MEGABYTE

    async def test_what_is_written_together_is_refused_together(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=3, max_vectors=3, max_storage_mb=1))

        with pytest.raises(QuotaExceeded):
            await storages.memories.add([memory(clock, f"number {n}") for n in range(4)])
        with pytest.raises(QuotaExceeded):
            await storages.vectors.insert([vector(seed) for seed in range(4)])
        with pytest.raises(QuotaExceeded):
            await storages.kv.set_batch({f"k{n}": bytes(MEGABYTE // 2 + n) for n in range(2)})

        assert await numbers(backend, tenant) == (0, 0, 0)
        assert await storages.kv.list_keys() == []

    async def test_a_memory_whose_vectors_do_not_fit_is_not_kept(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_vectors=1))
        await storages.memories.ensure_space(SPACE)
        windows = (packed(random_vector(1)), packed(random_vector(2)))
        new = memory(clock, "a lighthouse in the fog", embeddings=windows)

        with pytest.raises(QuotaExceeded):
            await storages.memories.add([new], space_id=SPACE.space_id)

        assert await storages.memories.get(new.id) is None
        assert await storages.memories.history(new.id) == []
        assert (await storages.memories.search(MemoryQuery(text="lighthouse"))).records == {}
        assert await recounted(backend, tenant) == (0, 0, 0)

    async def test_deleting_gives_back(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=1, max_vectors=1, max_storage_mb=1))
        for _ in range(3):
            kept = await add_one(storages, memory(clock, "a note"))
            (id,) = await storages.vectors.insert([vector()])
            await storages.kv.set("k", bytes(MEGABYTE - 6))

            await storages.memories.delete(kept.id)
            assert await storages.vectors.delete([id]) == 1
            assert await storages.kv.delete("k")

        assert await numbers(backend, tenant) == (0, 0, 0)

    async def test_an_overwritten_value_counts_its_difference(self, backend: Backend) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_storage_mb=1))
        await storages.kv.set("k", bytes(MEGABYTE - 10))

        await storages.kv.set("k", bytes(MEGABYTE))
        async with exceeding("max_storage_mb", limit=MEGABYTE, used=MEGABYTE, asked=1):
            await storages.kv.set("k", bytes(MEGABYTE + 1))
        await storages.kv.set_batch({"k": bytes(10), "l": bytes(20)})

        assert (await numbers(backend, tenant))[1] == 30

    async def test_a_reworded_memory_counts_its_difference_and_replaces_its_vectors(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_vectors=1, max_documents=1, max_storage_mb=1))
        await storages.memories.ensure_space(SPACE)
        new = memory(clock, "Ada lives in Bern", embeddings=(packed(random_vector(1)),))
        kept = await add_one(storages, new, space_id=SPACE.space_id)

        said = memory_text("Ada lives in Zurich", new.role or "", new.at)
        change = MemoryChange(content="Ada lives in Zurich", embeddings=(packed(random_vector(2)),), embedded_text=said)
        await storages.memories.update(kept.id, change, space_id=SPACE.space_id)

        assert await numbers(backend, tenant) == (1, len("Ada lives in Zurich"), 1)
        assert await recounted(backend, tenant) == await numbers(backend, tenant)

    async def test_an_embedding_that_is_attached_later_counts_and_replaces_the_one_before(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_vectors=2))
        await storages.memories.ensure_space(SPACE)
        await storages.memories.ensure_space(OTHER_SPACE)
        kept = await add_one(storages, memory(clock, "a note"))
        two = (packed(random_vector(1)), packed(random_vector(2)))

        for _ in range(2):
            assert await storages.memories.attach_embeddings(SPACE.space_id, [(kept.id, kept.version, two)]) == 1
        other = (packed(random_vector(3, 768)),)
        with pytest.raises(QuotaExceeded):
            await storages.memories.attach_embeddings(OTHER_SPACE.space_id, [(kept.id, kept.version, other)])

        assert (await numbers(backend, tenant))[2] == 2
        assert (await recounted(backend, tenant))[2] == 2

    async def test_forgetting_and_restoring_give_back_and_take(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=1))
        kept = await add_one(storages, memory(clock, "a secret"))
        await storages.memories.delete(kept.id)
        other = await add_one(storages, memory(clock, "another"))

        async with exceeding("max_documents", limit=1, used=1, asked=1):
            await storages.memories.restore(kept.id)
        await storages.memories.forget(other.id)
        await storages.memories.restore(kept.id)

        assert (await numbers(backend, tenant))[0] == 1

    async def test_what_has_expired_counts_until_it_is_deleted(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=1, max_storage_mb=1))
        await storages.memories.add([memory(clock, "soon", expires_at=clock.now() + timedelta(seconds=1))])
        await storages.kv.set("k", bytes(10), ttl_s=1)
        clock.advance(seconds=2)

        assert await numbers(backend, tenant) == (1, 14, 0)
        await storages.memories.delete_expired()
        await storages.kv.delete_expired()

        assert await numbers(backend, tenant) == (0, 0, 0)

    async def test_a_content_counts_once_and_is_given_back_with_the_last_that_has_it(self, backend: Backend) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_storage_mb=2))
        first, second = await storages.sessions.create(), await storages.sessions.create()
        content = noise(LARGE)

        one = await storages.artifacts.put(first.id, "one", content)
        await storages.artifacts.put(first.id, "two", content)
        await storages.artifacts.put(second.id, "three", content)
        assert (await numbers(backend, tenant))[1] == LARGE
        with pytest.raises(QuotaExceeded):
            await storages.artifacts.put(second.id, "four", noise(LARGE, 2))
        await storages.artifacts.delete(one.id)
        await storages.sessions.delete(first.id)
        assert (await numbers(backend, tenant))[1] == LARGE
        await storages.sessions.delete(second.id)

        assert (await numbers(backend, tenant))[1] == 0
        assert (await storages.artifacts.stats()).contents == 0

    async def test_a_content_counts_as_it_is_stored(self, backend: Backend) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_storage_mb=1))
        session = await storages.sessions.create()

        await storages.artifacts.put(session.id, "zeros", bytes(4 * MEGABYTE))

        stats = await storages.artifacts.stats()
        assert (await numbers(backend, tenant))[1] == stats.stored_bytes < MEGABYTE

    async def test_a_transaction_counts_all_that_it_writes(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=2, max_vectors=2, max_storage_mb=1))

        async with backend.transaction(tenant) as tx:
            await tx.memories.add([memory(clock, "one")])
            await tx.vectors.insert([vector(1), vector(2)])
            await tx.kv.set("k", bytes(100))
            with pytest.raises(QuotaExceeded):
                await tx.vectors.insert([vector(3)])
            await tx.memories.add([memory(clock, "two")])

        assert await numbers(backend, tenant) == (2, 106, 2)
        assert await recounted(backend, tenant) == (2, 106, 2)
        assert await storages.memories.count() == 2

    async def test_what_is_rolled_back_is_given_back(self, backend: Backend, clock: ManualClock) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_documents=1, max_vectors=1, max_storage_mb=1))

        with suppress(Left):
            async with backend.transaction(tenant) as tx:
                await tx.memories.add([memory(clock, "one")])
                await tx.vectors.insert([vector()])
                await tx.kv.set("k", bytes(MEGABYTE - 3))
                raise Left

        assert await numbers(backend, tenant) == (0, 0, 0)
        await storages.memories.add([memory(clock, "one")])
        await storages.vectors.insert([vector()])

    async def test_what_a_savepoint_takes_back_is_given_back(self, backend: Backend) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_vectors=2))

        async with backend.transaction(tenant) as tx:
            await tx.vectors.insert([vector(1)])
            with suppress(Left):
                async with tx.savepoint():
                    await tx.vectors.insert([vector(2)])
                    raise Left
            await tx.vectors.insert([vector(3)])
            with pytest.raises(QuotaExceeded):
                await tx.vectors.insert([vector(4)])

        assert (await numbers(backend, tenant))[2] == 2
        assert (await recounted(backend, tenant))[2] == 2

    async def test_a_limit_below_the_use_refuses_what_adds_and_nothing_else(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, storages = await limited(backend, FAR)
        ids = await storages.vectors.insert([vector(seed) for seed in range(3)])
        kept = await add_one(storages, memory(clock, "a note"))
        await storages.kv.set("k", bytes(2 * MEGABYTE))

        await backend.tenants.update(tenant, quotas=QuotaLimits.only(max_documents=0, max_storage_mb=1, max_vectors=1))
        async with exceeding("max_vectors", limit=1, used=3, asked=1):
            await storages.vectors.insert([vector(9)])
        async with exceeding("max_storage_mb", limit=MEGABYTE, used=2 * MEGABYTE + 6, asked=1):
            await storages.kv.set("l", b"x")
        await storages.kv.set("k", bytes(2 * MEGABYTE - 1))
        await storages.memories.update(kept.id, MemoryChange(content="a not"))
        assert await storages.vectors.delete(ids[:2]) == 2
        with pytest.raises(QuotaExceeded):
            await storages.vectors.insert([vector(9)])
        await storages.vectors.delete(ids[2:])
        await storages.vectors.insert([vector(9)])

        assert await numbers(backend, tenant) == (1, 2 * MEGABYTE + 4, 1)

    async def test_a_limit_that_is_set_counts_what_is_there(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        await storages.vectors.insert([vector(1), vector(2)])

        await backend.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=3))
        await storages.vectors.insert([vector(3)])
        async with exceeding("max_vectors", limit=3, used=3, asked=1):
            await storages.vectors.insert([vector(4)])

    async def test_a_limit_that_is_lifted_holds_no_more_and_counts_anew_when_it_is_back(self, backend: Backend) -> None:
        tenant, storages = await limited(backend, QuotaLimits.only(max_vectors=1))
        await backend.tenants.update(tenant, quotas=NO_LIMITS)
        await storages.vectors.insert([vector(seed) for seed in range(4)])

        await backend.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=5))
        await storages.vectors.insert([vector(5)])
        async with exceeding("max_vectors", limit=5, used=5, asked=1):
            await storages.vectors.insert([vector(6)])

    async def test_a_tenant_without_quotas_is_refused_nothing(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        await storages.vectors.insert([vector(1)])
        await storages.memories.add([memory(clock, "one")])

        usage = await backend.tenants.usage(tenant)

        assert usage == TenantUsage.of(NO_LIMITS, {"documents": 1, "storage_bytes": 3, "vectors": 1})
        assert usage.vectors.remaining is None

    async def test_one_tenants_use_is_nothing_to_another(self, backend: Backend) -> None:
        quotas = QuotaLimits.only(max_vectors=1)
        (one, ones), (other, others) = await limited(backend, quotas), await limited(backend, quotas)
        await ones.vectors.insert([vector(1)])

        await others.vectors.insert([vector(1)])
        await others.vectors.delete_scope("default")

        assert (await backend.tenants.usage(one)).vectors.used == 1
        assert (await backend.tenants.usage(other)).vectors.limit == 1

    async def test_the_use_of_a_tenant_that_is_not_registered_is_not_found(self, backend: Backend) -> None:
        with pytest.raises(NotFound):
            await backend.tenants.usage(TenantId(f"tenant-{uuid4().hex}"))

    async def test_texts_are_embedded_up_to_the_limit_of_the_day(self, backend: Backend, clock: ManualClock) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=5))

        await backend.tenants.take_embeddings(tenant, 3)
        async with exceeding("max_embeddings_per_day", limit=5, used=3, asked=3):
            await backend.tenants.take_embeddings(tenant, 3)
        await backend.tenants.take_embeddings(tenant, 2)
        assert (await backend.tenants.usage(tenant)).embeddings.used == 5

        clock.advance(days=1)
        assert (await backend.tenants.usage(tenant)).embeddings.used == 0
        async with exceeding("max_embeddings_per_day", limit=5, used=0, asked=6):
            await backend.tenants.take_embeddings(tenant, 6)
        await backend.tenants.take_embeddings(tenant, 5)

    async def test_a_clock_that_goes_back_opens_no_day_again(self, backend: Backend, clock: ManualClock) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=2))
        today = clock.now()
        clock.advance(days=1)
        await backend.tenants.take_embeddings(tenant, 2)

        clock.set(today)

        with pytest.raises(QuotaExceeded):
            await backend.tenants.take_embeddings(tenant, 1)

    async def test_what_the_refusal_says_is_what_was_counted_also_on_a_day_ahead(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=3))
        today = clock.now()
        clock.advance(days=1)
        await backend.tenants.take_embeddings(tenant, 2)
        clock.set(today)

        async with exceeding("max_embeddings_per_day", limit=3, used=2, asked=2):
            await backend.tenants.take_embeddings(tenant, 2)

        assert (await backend.tenants.usage(tenant)).embeddings.used == 2

    @pytest.mark.parametrize("ahead", [2, 400])
    async def test_a_clock_that_was_wrong_and_is_put_right_serves_again(
        self, ahead: int, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=2))
        today = clock.now()
        clock.advance(days=ahead)
        await backend.tenants.take_embeddings(tenant, 2)

        clock.set(today)

        assert (await backend.tenants.usage(tenant)).embeddings.used == 0
        await backend.tenants.take_embeddings(tenant, 2)
        async with exceeding("max_embeddings_per_day", limit=2, used=2, asked=1):
            await backend.tenants.take_embeddings(tenant, 1)
        clock.advance(days=1)
        await backend.tenants.take_embeddings(tenant, 2)

    async def test_texts_are_counted_for_each_tenant_by_itself(self, backend: Backend) -> None:
        few, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=2))
        many, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=9))
        await backend.tenants.take_embeddings(many, 5)
        await backend.tenants.take_embeddings(few, 2)
        await backend.tenants.take_embeddings(many, 3)

        async with exceeding("max_embeddings_per_day", limit=2, used=2, asked=1):
            await backend.tenants.take_embeddings(few, 1)
        async with exceeding("max_embeddings_per_day", limit=9, used=8, asked=2):
            await backend.tenants.take_embeddings(many, 2)

        used = [(await backend.tenants.usage(tenant)).embeddings.used for tenant in (few, many)]
        assert used == [2, 8]

    async def test_nothing_is_counted_for_a_tenant_that_is_not_registered(self, backend: Backend) -> None:
        tenant = TenantId(f"tenant-{uuid4().hex}")

        with pytest.raises(NotFound):
            await backend.tenants.take_embeddings(tenant, 5)

        await backend.tenants.create(tenant, quotas=QuotaLimits.only(max_embeddings_per_day=1))
        assert (await backend.tenants.usage(tenant)).embeddings.used == 0

    @pytest.mark.parametrize("count", [-1, 1.5, True, QUOTA_MAX + 1])
    async def test_a_count_of_texts_that_is_none_is_refused(self, backend: Backend, count: int) -> None:
        with pytest.raises(InvalidLimit):
            await backend.tenants.take_embeddings(await new_tenant(backend), count)

    async def test_of_callers_that_take_the_rest_of_a_day_at_once_exactly_the_limit_gets_it(
        self, backend: Backend
    ) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_embeddings_per_day=10))

        answers = await asyncio.gather(
            *(backend.tenants.take_embeddings(tenant, 3) for _ in range(8)), return_exceptions=True
        )

        assert sum(answer is None for answer in answers) == 3
        assert all(answer is None or isinstance(answer, QuotaExceeded) for answer in answers)
        assert (await backend.tenants.usage(tenant)).embeddings.used == 9

    @needs(Capability.CONCURRENT_WRITERS)
    async def test_a_transaction_that_is_older_than_a_limit_writes_nothing_past_it(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            assert await tx.kv.get("k") is None  # its snapshot is taken
            await backend.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=1))
            with pytest.raises(Conflict):
                await tx.vectors.insert([vector(1)])

        assert (await numbers(backend, tenant))[2] == 0

    @needs(Capability.CONCURRENT_WRITERS)
    async def test_a_limit_waits_for_what_is_being_written_and_counts_it(self, backend: Backend) -> None:
        tenant, _ = await limited(backend, QuotaLimits.only(max_documents=1))  # counting is on, vectors are not limited
        async with backend.transaction(tenant) as tx:
            await tx.vectors.insert([vector(1)])
            setting = asyncio.create_task(backend.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=1)))
            for _ in range(5):
                assert (await backend.tenants.usage(tenant)).vectors.limit is None
            assert not setting.done()
        await setting

        assert (await backend.tenants.usage(tenant)).vectors.used == 1

    @needs(Capability.CONCURRENT_WRITERS)
    async def test_transactions_of_a_tenant_without_quotas_do_not_meet_in_a_counter(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        await limited(backend, QuotaLimits.only(max_vectors=1))  # counting is on in the store
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as one, backend.transaction(tenant) as two:
            for tx, name in ((one, "one"), (two, "two")):
                assert await tx.kv.get(name) is None
            for tx, name in ((one, "one"), (two, "two")):
                await tx.kv.set(name, b"v")
                await tx.vectors.insert([vector()])

        assert (await numbers(backend, tenant))[1:] == (2, 2)

    @pytest.mark.parametrize("seed", range(WALKS))
    async def test_counters_say_what_the_rows_say_whatever_was_done(
        self, seed: int, backend: Backend, clock: ManualClock
    ) -> None:
        tenant, _ = await limited(backend, FAR)
        done = await wander(backend, tenant, clock, random.Random(seed))  # noqa: S311 - a test

        assert set(done) >= {"set", "put"}
        assert await numbers(backend, tenant) == await recounted(backend, tenant), done
