"""What a transaction promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, Conflict, InvalidKey, InvalidLimit, TransactionClosed, TransactionTimeout
from llmspell.storage.contracts.access_keys import KeyHash, NewAccessKey
from llmspell.storage.contracts.api_keys import NewApiKey
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.graph import NewFact
from llmspell.storage.contracts.hook_history import NewHookExecution
from llmspell.storage.contracts.memories import MemoryChange, MemoryQuery
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.tenant import TenantId
from llmspell.testing.contract import SPACE, memory, new_tenant, open_tenant, packed, random_vector

SHORT_S = 0.05
LONGER_S = 10.0


class Deliberate(Exception):
    """Raised by tests to leave a block."""


@asynccontextmanager
async def leaving(backend: Backend, tenant: TenantId) -> AsyncIterator[Storages]:
    """Open a transaction that an exception leaves at the end of the block."""
    try:
        async with backend.transaction(tenant) as tx:
            yield tx
            raise Deliberate
    except Deliberate:
        return
    raise AssertionError("the transaction swallowed the exception")


async def write_everywhere(storages: Storages, clock: ManualClock) -> None:
    """Write one thing in each storage."""
    await storages.kv.set("k", b"v")
    await storages.vectors.insert([VectorEntry(embedding=random_vector(1))])
    await storages.memories.ensure_space(SPACE)
    new = memory(clock, "a lighthouse in the fog", embeddings=(packed(random_vector(1)),))
    await storages.memories.add([new], space_id=SPACE.space_id)
    await storages.graph.assert_fact(NewFact(subject="Ada", predicate="knows", object="Bob"), cardinality="many")
    session = await storages.sessions.create(data={"user": "ada"})
    await storages.artifacts.put(session.id, "report", b"found")
    await storages.event_log.append("agent.step", {"n": 1})
    await storages.hook_history.record(
        NewHookExecution(hook_id="h", hook_type="AgentError", triggering_component="agent")
    )
    await storages.procedures.record("scope", "key", "value")
    await storages.agent_state.save("agent", {"step": 1})
    await storages.workflow_state.create("flow", {"step": 1})
    await storages.jobs.enqueue("send", {"to": "bob"})
    await storages.audit.record("export", principal="ada", resource="memories")
    await storages.api_keys.set(NewApiKey(key_id=uuid4(), service="openai", sealed=b"sealed"))
    await storages.access_keys.add(
        NewAccessKey(
            key_id=uuid4(),
            name="ci",
            principal="robot",
            scopes=["read"],
            hashed=KeyHash(key_hash=bytes(32), pepper="p"),
        )
    )
    await storages.idempotency.claim("once", operation="kv.set", fingerprint=bytes(32))


async def seen(storages: Storages) -> dict[str, int]:
    """Return how much of `write_everywhere` can be seen, by storage."""
    found = await storages.memories.search(MemoryQuery(text="lighthouse"))
    audited = await storages.audit.list(operation="export")
    return {
        "kv": len(await storages.kv.list_keys()),
        "vectors": (await storages.vectors.stats()).total_vectors,
        "memories": await storages.memories.count(),
        "memories by word": len(found.text),
        "graph": len(await storages.graph.facts(subject="Ada")),
        "sessions": await storages.sessions.count(),
        "artifacts": (await storages.artifacts.stats()).artifacts,
        "event_log": await storages.event_log.count(),
        "hook_history": len((await storages.hook_history.list()).items),
        "procedures": await storages.procedures.frequency("scope", "key", "value"),
        "agent_state": len((await storages.agent_state.list()).items),
        "workflow_state": len((await storages.workflow_state.list()).items),
        "jobs": len((await storages.jobs.list(kind="send")).items),
        "audit": len(audited.items),
        "api_keys": len((await storages.api_keys.list()).items),
        "access_keys": len((await storages.access_keys.list()).items),
    }


def besides_keys(counts: dict[str, int]) -> dict[str, int]:
    """Leave out the keys, which tests write by themselves too."""
    return {name: count for name, count in counts.items() if name != "kv"}


STORAGES = (
    *("kv", "vectors", "memories", "memories by word", "graph", "sessions", "artifacts", "event_log", "hook_history"),
    *("procedures", "agent_state", "workflow_state", "jobs", "audit", "api_keys", "access_keys"),
)
ALL = dict.fromkeys(STORAGES, 1)
NOTHING = dict.fromkeys(STORAGES, 0)


class TransactionsContract:
    """Subclass it in a test module; see the package."""

    async def test_every_storage_takes_part(self, backend: Backend) -> None:
        """What is not written by `write_everywhere` would not be known to be atomic."""
        names = set((await open_tenant(backend)).__struct_fields__)

        assert names - {"idempotency"} == set(STORAGES) - {"memories by word"}

    async def test_writes_to_all_storages_commit_together(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await write_everywhere(tx, clock)

        assert await seen(backend.storages(tenant)) == ALL

    async def test_an_exception_rolls_everything_back(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)

        async with leaving(backend, tenant) as tx:
            await write_everywhere(tx, clock)

        assert await seen(backend.storages(tenant)) == NOTHING
        assert await backend.storages(tenant).graph.predicates() == {}
        assert await backend.storages(tenant).vectors.search(random_vector(1)) == []

    async def test_what_was_rolled_back_can_be_written_again(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        new = memory(clock, "a lighthouse")

        async with leaving(backend, tenant) as tx:
            await tx.memories.add([new])

        await backend.storages(tenant).memories.add([new])

        assert await backend.storages(tenant).memories.count() == 1

    async def test_a_roll_back_restores_what_was_there(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        await write_everywhere(storages, clock)
        (before,) = await storages.memories.list()
        facts = await storages.graph.facts(subject="Ada")

        async with leaving(backend, tenant) as tx:
            await tx.kv.clear()
            await tx.vectors.delete_scope("default")
            await tx.memories.update(before.id, MemoryChange(content="something else"))
            await tx.memories.forget(before.id)
            await tx.sessions.delete((await tx.sessions.list()).items[0].id)
            await tx.event_log.prune("2100-01-01")
            await tx.agent_state.delete("agent")
            await tx.workflow_state.transition("flow", "running")
            await tx.procedures.delete("scope", "key", "value")
            await tx.api_keys.delete("openai")
            await tx.jobs.cancel((await tx.jobs.list(kind="send")).items[0].id)
            await tx.graph.retract("Ada", "knows")
            await tx.graph.delete_entity("Bob")

        assert await seen(storages) == ALL
        assert await storages.memories.list() == [before]
        assert len(await storages.memories.history(before.id)) == 1
        assert await storages.graph.facts(subject="Ada") == facts
        assert await storages.graph.get_entity("Bob") is not None
        flow = await storages.workflow_state.get("flow")
        assert flow is not None
        assert flow.status == "pending"
        assert (await storages.jobs.list(kind="send")).items[0].state == "queued"
        assert (await storages.audit.verify()).intact

    async def test_a_transaction_sees_its_own_writes(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await write_everywhere(tx, clock)

            assert await seen(tx) == ALL
            hits = await tx.vectors.search(random_vector(1))
            assert [hit.score for hit in hits] == [1.0]

    async def test_readers_outside_see_only_what_is_committed(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        await backend.storages(tenant).kv.set("old", b"1")

        async with backend.transaction(tenant) as tx:
            await write_everywhere(tx, clock)
            await tx.kv.set("old", b"2")

            assert await backend.storages(tenant).kv.list_keys() == ["old"]
            assert await backend.storages(tenant).kv.get("old") == b"1"
            assert besides_keys(await seen(backend.storages(tenant))) == besides_keys(NOTHING)

        assert await backend.storages(tenant).kv.get("old") == b"2"

    async def test_other_tenants_see_nothing_of_a_transaction(self, backend: Backend, clock: ManualClock) -> None:
        tenant, other = await new_tenant(backend), await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            await write_everywhere(tx, clock)
            assert await seen(backend.storages(other)) == NOTHING

        assert await seen(backend.storages(other)) == NOTHING

    async def test_a_refused_call_leaves_the_rest_of_the_transaction(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        taken = uuid4()

        async with backend.transaction(tenant) as tx:
            await tx.kv.set("before", b"")
            await tx.vectors.insert([VectorEntry(id=taken, embedding=random_vector(1))])
            with pytest.raises(AlreadyExists):
                await tx.vectors.insert(
                    [VectorEntry(embedding=random_vector(2)), VectorEntry(id=taken, embedding=random_vector(3, 768))]
                )
            with pytest.raises(InvalidKey):
                await tx.kv.set_batch({"half": b"", "\0": b""})
            await tx.kv.set("after", b"")

        storages = backend.storages(tenant)
        assert await storages.kv.list_keys() == ["after", "before"]
        assert (await storages.vectors.stats()).total_vectors == 1

    async def test_a_call_that_failed_half_way_is_undone_as_a_whole(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        first, second = memory(clock, "one lighthouse"), memory(clock, "two lighthouses")

        async with backend.transaction(tenant) as tx:
            await tx.memories.add([first])
            with pytest.raises(Conflict):
                await tx.memories.add([second, first])
            assert await tx.memories.get(second.id) is None

        storages = backend.storages(tenant)
        assert await storages.memories.get(second.id) is None
        assert len((await storages.memories.search(MemoryQuery(text="lighthouses"))).text) == 1

    async def test_storages_are_closed_when_the_block_ends(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as committed:
            await committed.kv.set("k", b"v")
        with pytest.raises(Deliberate):
            async with backend.transaction(tenant) as rolled_back:
                raise Deliberate

        for storages in (committed, rolled_back):
            with pytest.raises(TransactionClosed):
                await storages.kv.set("k", b"late")
            with pytest.raises(TransactionClosed):
                await storages.kv.get("k")
            with pytest.raises(TransactionClosed):
                await storages.memories.count()
        assert await backend.storages(tenant).kv.get("k") == b"v"

    async def test_a_cancelled_transaction_is_rolled_back(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        written = asyncio.Event()

        async def work() -> None:
            async with backend.transaction(tenant) as tx:
                await write_everywhere(tx, clock)
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await seen(backend.storages(tenant)) == NOTHING

    async def test_the_next_transaction_runs_after_a_cancelled_one(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        started = asyncio.Event()

        async def hold() -> None:
            async with backend.transaction(tenant) as tx:
                await tx.kv.set("held", b"")
                started.set()
                await asyncio.Event().wait()

        async def follow(key: str) -> None:
            async with backend.transaction(tenant) as tx:
                await tx.kv.set(key, b"")

        holder = asyncio.create_task(hold())
        await started.wait()
        given_up, follower = asyncio.create_task(follow("given up")), asyncio.create_task(follow("follower"))
        await asyncio.sleep(0)
        given_up.cancel()
        holder.cancel()
        await asyncio.gather(holder, given_up, return_exceptions=True)
        await asyncio.wait_for(follower, LONGER_S)

        assert "follower" in await backend.storages(tenant).kv.list_keys()
        assert "held" not in await backend.storages(tenant).kv.list_keys()

    async def test_a_transaction_that_outlives_its_limit_is_rolled_back(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)

        async def overstay() -> None:
            async with backend.transaction(tenant, timeout_s=SHORT_S) as tx:
                await tx.kv.set("k", b"v")
                clock.advance(seconds=LONGER_S)
                # Nobody will set it: the wait ends because the limit does, and is bounded for a backend that has none.
                await asyncio.wait_for(asyncio.Event().wait(), LONGER_S)

        with pytest.raises(TransactionTimeout):
            await overstay()

        assert await backend.storages(tenant).kv.get("k") is None
        await backend.storages(tenant).kv.set("k", b"next")
        assert await backend.storages(tenant).kv.get("k") == b"next"

    @pytest.mark.parametrize("timeout_s", [0, -1, True, "10", float("nan"), float("inf")])
    async def test_a_limit_that_is_no_number_of_seconds_is_refused(self, backend: Backend, timeout_s: float) -> None:
        tenant = await new_tenant(backend)

        with pytest.raises(InvalidLimit) as caught:
            async with backend.transaction(tenant, timeout_s=timeout_s):
                pass

        assert caught.value.field == "timeout_s"

    async def test_a_transaction_that_only_reads_changes_nothing(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        await write_everywhere(backend.storages(tenant), clock)

        async with backend.transaction(tenant) as tx:
            inside = await seen(tx)

        assert inside == await seen(backend.storages(tenant)) == ALL

    async def test_transactions_of_different_tenants_do_not_mix(self, backend: Backend) -> None:
        tenants = [await new_tenant(backend) for _ in range(6)]

        async def work(number: int) -> None:
            async with backend.transaction(tenants[number]) as tx:
                for step in range(5):
                    await tx.kv.set(f"{number}-{step}", b"")
                    await asyncio.sleep(0)
                if number % 2:
                    raise Deliberate

        await asyncio.gather(*(work(number) for number in range(6)), return_exceptions=True)

        for number, tenant in enumerate(tenants):
            expected = [] if number % 2 else [f"{number}-{step}" for step in range(5)]
            assert await backend.storages(tenant).kv.list_keys() == expected
