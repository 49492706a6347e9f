"""Work that is handed over is repeated while others are first; a transaction knows how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

import llmspell
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidLimit,
    OutcomeUnknown,
    TransactionError,
    TransactionTimeout,
    Unavailable,
    VersionConflict,
)
from llmspell.providers.hashing import HashingEmbedder
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.capabilities import Capability

CALLERS = 8
ROUNDS = 12


@pytest.fixture(params=STORES)
async def spell(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spell]:
    async with opened(request.param, request, tmp_path) as store:
        yield store


@pytest.fixture
async def acme(spell: Spell) -> Tenant:
    return await fresh_tenant(spell)


async def test_eight_callers_that_read_and_write_back_lose_no_update(acme: Tenant) -> None:
    await acme.kv.set("n", b"0")

    async def increment(tx: Transaction) -> int:
        before = int(await tx.kv.get("n") or b"")
        await asyncio.sleep(0)
        await tx.kv.set("n", str(before + 1).encode())
        return before + 1

    async def caller() -> list[int]:
        return [await acme.run(increment, attempts=1_000) for _ in range(ROUNDS)]

    seen = await asyncio.gather(*(caller() for _ in range(CALLERS)))

    assert await acme.kv.get("n") == str(CALLERS * ROUNDS).encode()
    assert sorted(number for numbers in seen for number in numbers) == list(range(1, CALLERS * ROUNDS + 1))


async def test_callers_that_write_two_keys_in_opposite_order_all_end(acme: Tenant) -> None:
    # Few: a server looks for a deadlock only after its `deadlock_timeout`, a second.
    await acme.kv.set_batch({"a": b"0", "b": b"0"})

    def swap(first: str, second: str) -> Any:
        async def work(tx: Transaction) -> None:
            for name in (first, second):
                value = int(await tx.kv.get(name) or b"")
                await tx.kv.set(name, str(value + 1).encode())

        return work

    async def caller(number: int) -> None:
        order = ("a", "b") if number % 2 else ("b", "a")
        for _ in range(2):
            await acme.run(swap(*order), attempts=1_000)

    await asyncio.gather(*map(caller, range(2)))

    assert await acme.kv.get_batch(["a", "b"]) == dict.fromkeys(("a", "b"), b"4")


async def test_work_is_repeated_after_a_conflict_and_keeps_nothing_of_the_tries_before(acme: Tenant) -> None:
    tries = []

    async def work(tx: Transaction) -> str:
        tries.append(tx)
        await tx.kv.set(f"try-{len(tries)}", b"")
        if len(tries) < 3:
            raise Conflict
        return "done"

    assert await acme.run(work) == "done"
    assert [tx.outcome for tx in tries] == ["rolled_back", "rolled_back", "committed"]
    assert await acme.kv.list_keys() == ["try-3"]


async def test_tries_are_bounded_and_the_last_conflict_is_told(acme: Tenant) -> None:
    tries = []

    async def work(tx: Transaction) -> None:
        tries.append(tx)
        raise Conflict(f"conflict {len(tries)}")

    with pytest.raises(Conflict, match="conflict 4"):
        await acme.run(work, attempts=4)

    assert len(tries) == 4


@pytest.mark.parametrize("error", [AlreadyExists, VersionConflict, ValueError, TransactionTimeout])
async def test_what_a_repetition_cannot_help_is_raised_at_once(acme: Tenant, error: type[Exception]) -> None:
    tries = []

    async def work(tx: Transaction) -> None:
        tries.append(tx)
        raise error

    with pytest.raises(error):
        await acme.run(work)

    assert [tx.outcome for tx in tries] == ["rolled_back"]


@pytest.mark.parametrize("attempts", [0, -1, 1_001, True, "3"])
async def test_a_number_of_tries_that_is_none_is_refused(acme: Tenant, attempts: Any) -> None:
    async def work(tx: Transaction) -> None:
        raise AssertionError("it was run")

    with pytest.raises(InvalidLimit, match="attempts"):
        await acme.run(work, attempts=attempts)


async def test_a_transaction_says_how_it_ended(acme: Tenant) -> None:
    async with acme.transaction() as committed:
        await committed.kv.set("a", b"1")
        assert committed.outcome == "open"
    assert committed.outcome == "committed"

    try:
        async with acme.transaction() as left:
            await left.kv.set("a", b"2")
            raise ValueError
    except ValueError:
        pass
    assert left.outcome == "rolled_back"
    assert await acme.kv.get("a") == b"1"


async def test_a_transaction_that_is_cancelled_inside_of_its_block_is_rolled_back(acme: Tenant) -> None:
    seen: list[Transaction] = []
    inside = asyncio.Event()

    async def work() -> None:
        async with acme.transaction() as tx:
            seen.append(tx)
            await tx.kv.set("a", b"1")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert seen[0].outcome == "rolled_back"
    assert await acme.kv.list_keys() == []


async def test_a_commit_that_is_cancelled_is_unknown_and_whole(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Transaction] = []
    committing = asyncio.Event()
    real = acme._backend.transaction

    @asynccontextmanager
    async def slow(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with real(*args, **kwargs) as storages:
            yield storages
        committing.set()
        await asyncio.Event().wait()  # the store has committed, and its answer is under way

    monkeypatch.setattr(acme._backend, "transaction", slow)

    async def work() -> None:
        async with acme.transaction() as tx:
            seen.append(tx)
            await tx.kv.set_batch({"a": b"1", "b": b"2"})

    task = asyncio.create_task(work())
    await committing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert seen[0].outcome == "unknown"
    assert "happened completely or not at all" in "".join(caught.value.__notes__)
    assert await acme.kv.list_keys() == ["a", "b"]


async def test_commits_cancelled_at_any_moment_are_whole_and_never_called_rolled_back_when_they_are_there(
    acme: Tenant,
) -> None:
    transactions: dict[int, Transaction] = {}

    async def work(number: int) -> None:
        async with acme.transaction() as tx:
            transactions[number] = tx
            await tx.kv.set_batch({f"{number}-{part}": b"" for part in range(3)})

    for number in range(60):
        task = asyncio.create_task(work(number))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await acme.kv.set("last", b"")  # whatever was cancelled has come to its end before it
    there = await acme.kv.list_keys()
    for number, tx in transactions.items():
        kept = sum(one.startswith(f"{number}-") for one in there)
        assert kept in (0, 3)
        assert tx.outcome in {0: ("rolled_back", "unknown"), 3: ("committed", "unknown")}[kept]


async def test_a_savepoint_of_the_handle_can_be_tried_again(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        await tx.kv.set("a", b"1")
        try:
            async with tx.savepoint():
                await tx.kv.set("b", b"1")
                await tx.memory.add("Ada likes tea.")
                raise ValueError
        except ValueError:
            await tx.kv.set("c", b"1")

    assert await acme.kv.list_keys() == ["a", "c"]
    assert await acme.memory.count() == 0


async def test_a_write_beside_an_open_transaction_does_not_wait_for_it(acme: Tenant, spell: Spell) -> None:
    """Where it would wait for its own transaction, it is refused at once; elsewhere it is kept by itself."""
    waits = Capability.CONCURRENT_WRITERS not in spell.capabilities

    async def beside() -> None:
        async with acme.transaction() as inner:
            await inner.kv.set("inner", b"")

    async with acme.transaction() as tx:
        await tx.kv.set("k", b"")
        assert await acme.kv.get("k") is None
        for write in (lambda: acme.kv.set("beside", b""), beside, lambda: acme.once("o").kv.set("once", b"")):
            if waits:
                with pytest.raises(TransactionError, match="write through the transaction itself"):
                    await write()
            else:
                await write()

    await acme.kv.set("after", b"")
    assert await acme.kv.list_keys() == (["after", "k"] if waits else ["after", "beside", "inner", "k", "once"])


async def test_a_task_that_a_block_starts_may_write_when_the_transaction_has_ended(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        await tx.kv.set("k", b"")
        task = asyncio.create_task(acme.kv.set("later", b""))

    await task

    assert await acme.kv.list_keys() == ["k", "later"]


async def test_an_error_that_the_block_raises_is_not_taken_for_that_of_the_commit(acme: Tenant) -> None:
    try:
        async with acme.transaction() as tx:
            await tx.kv.set("k", b"")
            raise OutcomeUnknown("of something else")
    except OutcomeUnknown:
        pass

    assert tx.outcome == "rolled_back"
    assert await acme.kv.list_keys() == []


async def test_work_without_an_annotation_gives_the_same_answer_each_time(acme: Tenant) -> None:
    async def work(tx: Transaction):  # type: ignore[no-untyped-def]
        return await tx.sessions.create(data={"n": 1})

    first = await acme.run(work, idempotency_key="k")

    assert isinstance(first, dict)
    assert await acme.run(work, idempotency_key="k") == first


@pytest.mark.parametrize("answer", [object(), {1, 2}.__iter__()])
async def test_an_answer_that_is_no_data_is_refused_and_nothing_is_kept(acme: Tenant, answer: object) -> None:
    async def work(tx: Transaction) -> object:
        await tx.kv.set("k", b"")
        return answer

    with pytest.raises(InvalidInput, match="can be recorded under an idempotency key"):
        await acme.run(work, idempotency_key="k")

    assert await acme.kv.list_keys() == []


async def test_an_answer_of_another_type_than_was_said_is_refused_the_first_time(acme: Tenant) -> None:
    async def work(tx: Transaction) -> int:
        await tx.kv.set("k", b"")
        return "seven"  # type: ignore[return-value]

    with pytest.raises(InvalidInput, match="can be recorded"):
        await acme.run(work, idempotency_key="k")

    assert await acme.kv.list_keys() == []


async def test_what_is_not_work_is_refused(acme: Tenant) -> None:
    for bad, problem in ((5, "function of one argument"), (lambda tx: 5, "async function")):
        with pytest.raises(InvalidInput, match=problem):
            await acme.run(bad)  # type: ignore[arg-type]
    assert await acme.run(lambda tx: tx.kv.delete("k")) is False


async def test_a_store_is_closed_although_its_embedder_fails_to(tmp_path: Path) -> None:
    class Stuck(HashingEmbedder):
        async def aclose(self) -> None:
            raise RuntimeError("stuck")

    spell = await llmspell.connect(f"sqlite:///{tmp_path / 'store.db'}", settings=llmspell.Settings(), embedder=Stuck())
    await spell.tenant("acme").memory.add("Ada likes tea.")

    with pytest.raises(RuntimeError, match="stuck"):
        await spell.close()

    with pytest.raises(Unavailable):
        await spell.tenant("acme").kv.get("k")
