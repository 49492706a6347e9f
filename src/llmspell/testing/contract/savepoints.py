"""What a savepoint inside of a transaction promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, TransactionClosed, TransactionError
from llmspell.storage.contracts.backend import Backend, OpenTransaction
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.memories import MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.testing.contract import memory, new_tenant, random_vector
from llmspell.testing.contract.transactions import ALL, NOTHING, Deliberate, besides_keys, seen, write_everywhere


@asynccontextmanager
async def undone(tx: OpenTransaction) -> AsyncIterator[None]:
    """Open a block that an exception leaves at its end."""
    try:
        async with tx.savepoint():
            yield
            raise Deliberate
    except Deliberate:
        return


class SavepointsContract:
    """Subclass it in a test module; see the package."""

    async def test_what_a_block_wrote_is_kept_with_the_transaction(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            async with tx.savepoint():
                await write_everywhere(tx, clock)
            assert await seen(tx) == ALL

        assert await seen(backend.storages(tenant)) == ALL

    async def test_nothing_stays_of_a_block_that_an_exception_leaves(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await tx.kv.set("before", b"")
            async with undone(tx):
                await write_everywhere(tx, clock)
            assert besides_keys(await seen(tx)) == besides_keys(NOTHING)
            await tx.kv.set("after", b"")

        assert await backend.storages(tenant).kv.list_keys() == ["after", "before"]
        assert besides_keys(await seen(backend.storages(tenant))) == besides_keys(NOTHING)

    async def test_blocks_nest_and_an_inner_one_falls_with_the_outer(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            async with undone(tx):
                await tx.kv.set("outer", b"")
                async with tx.savepoint():
                    await tx.kv.set("inner", b"")
            async with tx.savepoint():
                await tx.kv.set("kept", b"")
                async with undone(tx):
                    await tx.kv.set("dropped", b"")
                await tx.kv.set("kept too", b"")

        assert await backend.storages(tenant).kv.list_keys() == ["kept", "kept too"]

    async def test_blocks_without_a_call_change_nothing(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            async with tx.savepoint(), undone(tx):
                pass
            await tx.kv.set("k", b"")
            async with tx.savepoint():
                pass

        assert await backend.storages(tenant).kv.list_keys() == ["k"]

    async def test_a_call_that_fails_in_a_block_undoes_only_itself(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        one, two = memory(clock, "one lighthouse"), memory(clock, "two lighthouses")

        async with backend.transaction(tenant) as tx, tx.savepoint():
            await tx.memories.add([one])
            with pytest.raises(AlreadyExists):
                await tx.memories.add([two, one])
            await tx.kv.set("k", b"")

        storages = backend.storages(tenant)
        assert await storages.memories.count() == 1
        assert await storages.kv.exists("k")

    async def test_a_block_that_was_undone_can_be_tried_again(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        entry = VectorEntry(embedding=random_vector(1))
        new = memory(clock, "a lighthouse")

        async with backend.transaction(tenant) as tx:
            for attempt in range(3):
                try:
                    async with tx.savepoint():
                        await tx.memories.add([new])
                        await tx.vectors.insert([entry])
                        if attempt < 2:
                            raise Deliberate
                except Deliberate:
                    assert await tx.memories.get(new.id) is None

        storages = backend.storages(tenant)
        assert len((await storages.memories.search(MemoryQuery(text="lighthouse"))).text) == 1
        assert (await storages.vectors.stats()).total_vectors == 1

    async def test_an_undone_block_restores_what_it_deleted(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        await write_everywhere(backend.storages(tenant), clock)

        async with backend.transaction(tenant) as tx, undone(tx):
            await tx.kv.clear()
            await tx.vectors.delete_scope("default")
            await tx.graph.delete_entity("Ada")

        assert await seen(backend.storages(tenant)) == ALL

    async def test_an_undone_block_does_not_take_the_recorded_instant_of_its_transaction_away(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        """Otherwise the next transaction would record at the same instant, and an old `known_at` would tell something new."""
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            async with undone(tx):
                await tx.graph.assert_fact(NewFact(subject="a", predicate="p", object="b"))
            known = await tx.graph.assert_fact(NewFact(subject="a", predicate="p", object="c"))
        graph = backend.storages(tenant).graph
        before = await graph.facts(subject="a", known_at=known.recorded_from)

        later = await graph.assert_fact(NewFact(subject="a", predicate="p", object="d"))

        assert before == [known]
        assert later.recorded_from > known.recorded_from
        assert await graph.facts(subject="a", known_at=known.recorded_from) == before

    async def test_many_blocks_in_one_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            for number in range(60):
                try:
                    async with tx.savepoint():
                        await tx.kv.set(f"k{number:02}", b"")
                        if number % 3:
                            raise Deliberate
                except Deliberate:
                    continue

        assert await backend.storages(tenant).kv.list_keys() == [f"k{number:02}" for number in range(0, 60, 3)]

    async def test_a_block_left_while_an_inner_one_is_open_ends_the_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async def misnest() -> None:
            async with backend.transaction(tenant) as tx:
                outer, inner = tx.savepoint(), tx.savepoint()
                await outer.__aenter__()
                await tx.kv.set("k", b"")
                await inner.__aenter__()
                await outer.__aexit__(None, None, None)

        with pytest.raises(TransactionError, match="ended before one that began inside of it"):
            await misnest()

        assert await backend.storages(tenant).kv.list_keys() == []

    async def test_an_exception_does_not_hide_that_a_block_was_left_too_early(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async def misnest() -> None:
            async with backend.transaction(tenant) as tx:
                inner = tx.savepoint()
                async with tx.savepoint():
                    await inner.__aenter__()
                    await tx.kv.set("k", b"")
                    raise Deliberate

        with pytest.raises(TransactionError, match="ended before one that began inside of it"):
            await misnest()

        assert await backend.storages(tenant).kv.list_keys() == []

    async def test_a_transaction_with_an_open_block_is_not_committed(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async def leave_open() -> None:
            async with backend.transaction(tenant) as tx:
                block = tx.savepoint()  # kept: what is collected is left
                await block.__aenter__()
                await tx.kv.set("k", b"")

        with pytest.raises(TransactionError, match="savepoint of it was open"):
            await leave_open()

        assert await backend.storages(tenant).kv.list_keys() == []
        await backend.storages(tenant).kv.set("next", b"")

    async def test_a_block_cannot_begin_after_the_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await tx.kv.set("k", b"")

        with pytest.raises(TransactionClosed):
            async with tx.savepoint():
                pass

    async def test_a_cancelled_block_leaves_nothing_of_the_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        written = asyncio.Event()

        async def work() -> None:
            async with backend.transaction(tenant) as tx:
                await tx.kv.set("before", b"")
                async with tx.savepoint():
                    await tx.kv.set("inside", b"")
                    written.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await backend.storages(tenant).kv.list_keys() == []
