"""The parts of the in-memory store that the contract cannot see: threads, event loops, the injected clock."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import TransactionTimeout, Unavailable, Unsupported
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.inmemory.store import Table, WriterLock
from llmspell.tenant import TenantId

TENANT = TenantId("t")
THREADS, STEPS = 6, 25


def test_writers_in_several_threads_and_event_loops_lose_no_update() -> None:
    backend = InMemoryBackend()

    async def increment() -> None:
        for _ in range(STEPS):
            async with backend.transaction(TENANT) as tx:
                value = int(await tx.kv.get("n") or b"0")
                await asyncio.sleep(0)
                await tx.kv.set("n", str(value + 1).encode())

    threads = [threading.Thread(target=asyncio.run, args=(increment(),)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert asyncio.run(backend.storages(TENANT).kv.get("n")) == str(THREADS * STEPS).encode()


async def test_the_lock_goes_to_whoever_waited_longest() -> None:
    lock, order = WriterLock(), []
    await lock.acquire()

    async def wait(number: int) -> None:
        await lock.acquire()
        order.append(number)
        lock.release()

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(wait(number)))
        await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.sleep(0)
    lock.release()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [0, 1, 3, 4]


async def test_a_waiter_that_is_cancelled_while_it_is_handed_the_lock_hands_it_on() -> None:
    lock = WriterLock()
    await lock.acquire()
    first, second = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)

    lock.release()  # goes to `first`, which is cancelled before it can run
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert not second.cancelled()


async def test_a_transaction_times_out_by_the_injected_clock() -> None:
    clock = ManualClock()
    backend = InMemoryBackend(clock=clock)

    async def overstay() -> None:
        async with backend.transaction(TENANT, timeout_s=30) as tx:
            await tx.kv.set("k", b"v")
            clock.advance(seconds=31)

    with pytest.raises(TransactionTimeout):
        await overstay()

    assert await backend.storages(TENANT).kv.get("k") is None


async def test_a_transaction_of_one_tenant_does_not_hold_up_another() -> None:
    backend = InMemoryBackend()

    async with backend.transaction(TENANT):
        await asyncio.wait_for(backend.storages(TenantId("other")).kv.set("k", b"v"), 1)

    assert await backend.storages(TenantId("other")).kv.get("k") == b"v"


async def test_a_closed_store_is_unavailable() -> None:
    backend = InMemoryBackend()
    await backend.close()
    await backend.close()

    with pytest.raises(Unavailable):
        await backend.storages(TENANT).kv.get("k")
    with pytest.raises(Unavailable):
        await backend.check()


async def test_promotion_names_the_capability_that_is_missing() -> None:
    with pytest.raises(Unsupported) as caught:
        await InMemoryBackend().promote(TENANT, "s", dimension=384)

    assert caught.value.fields["capability"] == Capability.ANN_PROMOTION.value


def test_a_layer_hides_and_restores_what_is_below() -> None:
    below: Table[str, int] = Table()
    below.put("a", 1)
    below.put("b", 2)
    layer = Table(below)
    layer.put("b", 3)
    layer.put("c", 4)
    layer.remove("a")

    assert layer.items() == [("b", 3), ("c", 4)]
    assert below.items() == [("a", 1), ("b", 2)]
    layer.merge()
    assert dict(below.items()) == {"b": 3, "c": 4}
