"""At most once: every mutation of every concern, sent again under its key, has one effect and gives one answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, get_type_hints
from uuid import uuid4

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

from llmspell.clock import ManualClock
from llmspell.errors import (
    AccessRefused,
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    InvalidKey,
    LlmspellError,
    NotFound,
    OutcomeUnknown,
    TenantInactive,
    TenantKeyMissing,
    TenantUnknown,
    TransactionError,
    TransactionTimeout,
    Unavailable,
    VersionConflict,
)
from llmspell.gate import READS
from llmspell.memory.state import StateScope
from llmspell.providers.hashing import HashingEmbedder
from llmspell.retries import REPEAT_FOR_S
from llmspell.spell import Concerns, Spell, Tenant, Transaction
from llmspell.storage.contracts.audit import NewAuditEntry
from llmspell.storage.contracts.event_log import NewEvent
from llmspell.storage.contracts.hook_history import NewHookExecution, RetentionPolicy

CALLERS = 8
VECTOR = [1.0] + [0.0] * 383
Prepare = Callable[[Tenant], Awaitable[tuple[tuple[Any, ...], dict[str, Any]]]]


class CountingEmbedder(HashingEmbedder):
    """Counts the texts that it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = 0

    async def embed(self, texts: Any) -> list[bytes]:
        self.texts += len(texts)
        return await super().embed(texts)


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
async def spell(
    request: pytest.FixtureRequest, tmp_path: Path, embedder: CountingEmbedder, clock: ManualClock
) -> AsyncIterator[Spell]:
    async with opened(request.param, request, tmp_path, embedder=embedder, clock=clock) as store:
        yield store


@pytest.fixture
async def acme(spell: Spell) -> Tenant:
    return await fresh_tenant(spell)


def given(*args: Any, **kwargs: Any) -> Prepare:
    """The arguments of a call that needs nothing to be there."""

    async def prepare(_: Tenant) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    return prepare


def after(first: Callable[[Tenant], Awaitable[Any]], *args: Any, **kwargs: Any) -> Prepare:
    """The arguments of a call that needs something done first; a function among them is asked for what that returned."""

    async def prepare(tenant: Tenant) -> tuple[tuple[Any, ...], dict[str, Any]]:
        done = await first(tenant)
        return tuple(one(done) if callable(one) else one for one in args), kwargs

    return prepare


def id_of(record: Any) -> Any:
    return record.id


def first_of(ids: Any) -> Any:
    return ids[0]


def key(t: Tenant) -> Awaitable[Any]:
    return t.kv.set("k", b"v")


def vector(t: Tenant) -> Awaitable[Any]:
    return t.vectors.insert({"embedding": VECTOR})


def fact(t: Tenant) -> Awaitable[Any]:
    return t.graph.assert_fact("Ada", "knows", "Bob")


def kept(t: Tenant) -> Awaitable[Any]:
    return t.memory.add("Ada likes tea.")


async def deleted(t: Tenant) -> Any:
    record = await kept(t)
    await t.memory.delete(record.id)
    return record


EXECUTION = NewHookExecution(hook_id="h", hook_type="AgentError", triggering_component="c", context=b"\0\xff")
ADA = StateScope.User("ada")


def stated(t: Tenant) -> Awaitable[Any]:
    return t.state.set(ADA, "k", 1)


def seen(t: Tenant) -> Awaitable[Any]:
    return t.procedures.record("s", "k", "v")


def saved(t: Tenant) -> Awaitable[Any]:
    return t.agent_state.save("a", {"n": 1})


def begun(t: Tenant) -> Awaitable[Any]:
    return t.workflow_state.create("w", {"n": 1})


async def running(t: Tenant) -> Any:
    await begun(t)
    return await t.workflow_state.transition("w", "running")


async def ended(t: Tenant) -> Any:
    await begun(t)
    return await t.workflow_state.transition("w", "cancelled")


def session(t: Tenant) -> Awaitable[Any]:
    return t.sessions.create(data={"n": 1})


async def short_session(t: Tenant) -> Any:
    return await t.sessions.create(ttl_s=0.000_001)


async def artifact(t: Tenant) -> Any:
    return await t.artifacts.put((await session(t)).id, "report", b"found")


def job(t: Tenant) -> Awaitable[Any]:
    return t.jobs.enqueue("send", {"n": 1})


async def cancelled(t: Tenant) -> Any:
    queued = await job(t)
    await t.jobs.cancel(queued.id)
    return queued


# Every verb that changes something, with arguments under which doing it twice would show.
CASES: dict[str, Prepare] = {
    "kv.set": given("k", b"v"),
    "kv.delete": after(key, "k"),
    "kv.set_batch": given({"a": b"1", "b": b"2"}),
    "kv.delete_batch": after(key, ["k", "absent"]),
    "kv.clear": after(key),
    "audit.record": given("export", principal="ada", resource="memories", details={"n": 1}),
    "audit.record_many": given([NewAuditEntry(operation="export", principal="ada", resource="memories")] * 2),
    "state.set": given(ADA, "k", {"n": [1, 2.0, None]}),
    "state.set_many": given(ADA, {"a": 1, "b": 2}),
    "state.update": given(ADA, "n", lambda n: n + 1, default=0),
    "state.initialize_scope": given(ADA, {"a": 1, "b": 2}),
    "state.delete": after(stated, ADA, "k"),
    "state.clear": after(stated, ADA),
    "kv.delete_expired": given(),
    "sessions.create": given(data={"n": 1}, ttl_s=60),
    "sessions.update": after(session, id_of, data={"n": 2}, expected_version=1),
    "sessions.delete": after(session, id_of),
    "sessions.expire": after(short_session),
    "sessions.delete_expired": after(short_session),
    "artifacts.put": after(session, id_of, "report", b"x" * 20_000, tags=["a"]),
    "artifacts.update": after(artifact, id_of, tags=["b"], expected_revision=1),
    "artifacts.delete": after(artifact, id_of),
    "artifacts.collect_garbage": after(artifact),
    "jobs.enqueue": given("send", {"n": 1}, dedupe_key="d"),
    "jobs.cancel": after(job, id_of),
    "jobs.retry": after(cancelled, id_of),
    "jobs.prune": after(cancelled, "2100-01-01"),
    "procedures.record": given("s", "k", "v", count=2),
    "procedures.record_transition": given("s", "k", None, "v"),
    "procedures.delete": after(seen, "s", "k", "v"),
    "procedures.forget": after(seen, "s"),
    "procedures.prune": after(seen, before="2030-01-01"),
    "agent_state.save": after(saved, "a", {"n": 2}, expected_version=1),
    "agent_state.delete": after(saved, "a"),
    "workflow_state.create": given("w", {"n": 1}, name="Report"),
    "workflow_state.save": after(begun, "w", {"n": 2}),
    "workflow_state.transition": after(begun, "w", "running", data={"n": 1.0}),
    "workflow_state.advance": after(running, "w", 1),
    "workflow_state.delete": after(begun, "w"),
    "workflow_state.prune": after(ended, before="2030-01-01"),
    "vectors.insert": given([{"embedding": VECTOR, "metadata": {"n": 1}}]),
    "vectors.update_metadata": after(vector, first_of, {"n": 2}),
    "vectors.delete": after(vector, first_of),
    "vectors.delete_scope": after(vector, "default"),
    "graph.assert_fact": given("Ada", "lives_in", "Zurich", cardinality="one"),
    "graph.retract": after(fact, "Ada", "knows"),
    "graph.correct": after(fact, id_of, object="Carl"),
    "graph.declare": given("lives_in", "one"),
    "graph.upsert_entity": given("Ada", properties={"age": 36}),
    "graph.delete_entity": after(fact, "Bob"),
    "graph.delete_before": after(fact, "2030-01-01"),
    "memory.add": given("Ada moved to Zurich.", metadata={"n": 1}),
    "memory.add_many": given([{"text": "one"}, {"text": "two"}]),
    "memory.update": after(kept, id_of, text="Ada likes coffee."),
    "memory.delete": after(kept, id_of),
    "memory.restore": after(deleted, id_of),
    "memory.forget": after(kept, id_of),
    "memory.delete_expired": given(),
    "event_log.append": given("test.event", {"n": [1, 2.5, None]}),
    "event_log.append_many": given([NewEvent(type="test.event", payload={"n": 1})] * 3),
    "event_log.prune": after(lambda t: t.event_log.append("test.event", at="2026-01-01"), "2026-02-01"),
    "hook_history.record": given(EXECUTION),
    "hook_history.record_many": given([EXECUTION] * 2),
    "hook_history.delete": after(lambda t: t.hook_history.record(EXECUTION), id_of),
    "hook_history.prune": after(lambda t: t.hook_history.record(EXECUTION), before="2126-01-01"),
    "hook_history.apply_retention": after(lambda t: t.hook_history.record(EXECUTION), RetentionPolicy(max_age_days=1)),
}
# Verbs that no key is for, and why.
UNKEYED = {
    "memory.embed_pending": "it may be called again at any time: it does what is left to do",
    "vectors.build_index": "it may be called again at any time: it does what is left to do",
}


def mutations() -> set[str]:
    return {
        f"{concern}.{verb}"
        for concern, kind in get_type_hints(Concerns).items()
        for verb, method in vars(kind).items()
        if not verb.startswith("_") and verb not in READS and inspect.iscoroutinefunction(method)
    }


def test_every_mutation_has_a_case() -> None:
    assert mutations() == {*CASES, *UNKEYED}


async def everything(tenant: Tenant) -> Any:
    """What the tenant has, as far as doing something twice could change it."""
    return (
        {one: await tenant.kv.get(one) for one in await tenant.kv.list_keys()},
        (await tenant.procedures.learned(min_frequency=1)).items,
        (await tenant.agent_state.list()).items,
        (await tenant.workflow_state.list()).items,
        await tenant.vectors.stats(),
        await tenant.audit.head(),
        (await tenant.sessions.list()).items,
        (await tenant.artifacts.list()).items,
        (await tenant.jobs.list()).items,
        await tenant.graph.stats(),
        await tenant.graph.facts(subject="Ada"),
        await tenant.event_log.tail(),
        (await tenant.hook_history.list()).items,
        [await tenant.memory.history(one.id) for one in (await tenant.memory.list()).items],
    )


@pytest.mark.parametrize("mutation", sorted(CASES))
async def test_a_mutation_sent_twice_has_one_effect_and_one_answer(acme: Tenant, mutation: str) -> None:
    concern, _, verb = mutation.partition(".")
    args, kwargs = await CASES[mutation](acme)

    first = await getattr(getattr(acme.once("key-1"), concern), verb)(*args, **kwargs)
    there = await everything(acme)
    again = await getattr(getattr(acme.once("key-1"), concern), verb)(*args, **kwargs)

    assert again == first
    assert type(again) is type(first)
    assert await everything(acme) == there


async def test_a_memory_under_a_key_is_embedded_once_and_found_by_meaning(
    acme: Tenant, embedder: CountingEmbedder
) -> None:
    record = await acme.once("k").memory.add("Ada moved to Zurich.", session="s1")
    before = embedder.texts

    again = await acme.once("k").memory.add("Ada moved to Zurich.", session="s1")

    assert record.embedding_state == "ready"
    assert again == record
    assert embedder.texts == before
    (hit,) = await acme.memory.search("Ada moved to Zurich.")
    assert hit.id == record.id
    assert hit.similarity is not None


async def test_a_memory_that_is_reworded_under_a_key_is_embedded_anew(acme: Tenant) -> None:
    record = await acme.memory.add("Ada likes tea.")

    changed = await acme.once("k").memory.update(record.id, text="Ada plays the violin.")

    assert (changed.embedding_state, changed.version) == ("ready", 2)
    (hit,) = await acme.memory.search("Ada plays the violin.")
    assert hit.id == record.id
    assert hit.similarity is not None


async def test_of_callers_with_one_key_one_has_the_effect_and_all_have_its_answer(acme: Tenant) -> None:
    answers = await asyncio.gather(
        *(acme.once("k").graph.assert_fact("Ada", "knows", "Bob") for _ in range(CALLERS)),
        *(acme.once("m").memory.add("Ada likes tea.") for _ in range(CALLERS)),
    )

    assert len({answer.id for answer in answers[:CALLERS]}) == 1
    assert len({answer.id for answer in answers[CALLERS:]}) == 1
    assert await acme.memory.count() == 1
    assert len(await acme.graph.facts(subject="Ada")) == 1


async def test_a_key_with_other_arguments_or_another_verb_is_refused(acme: Tenant) -> None:
    await acme.once("k").kv.set("a", b"1")

    with pytest.raises(IdempotencyConflict, match=r"kv\.set"):
        await acme.once("k").kv.set("a", b"2")
    with pytest.raises(IdempotencyConflict, match=r"kv\.delete"):
        await acme.once("k").kv.delete("a")
    with pytest.raises(IdempotencyConflict):
        await acme.once("k").memory.add("Ada likes tea.")

    assert await acme.kv.get("a") == b"1"
    assert await acme.memory.count() == 0


async def test_a_call_that_failed_leaves_its_key_free(acme: Tenant) -> None:
    record = await acme.memory.add("Ada likes tea.")
    with pytest.raises(VersionConflict):
        await acme.once("k").memory.update(record.id, metadata={"n": 1}, expected_version=7)

    changed = await acme.once("k").memory.update(record.id, metadata={"n": 1}, expected_version=1)

    assert changed.version == 2


async def test_a_key_is_forgotten_after_a_day(acme: Tenant, clock: ManualClock) -> None:
    await acme.once("k").kv.set("a", b"1")
    clock.advance(days=1)

    await acme.once("k").kv.set("a", b"2")

    assert await acme.kv.get("a") == b"2"


async def test_a_verb_that_only_reads_takes_no_key(acme: Tenant) -> None:
    with pytest.raises(AttributeError, match=r"kv\.get.*changes nothing"):
        _ = acme.once("k").kv.get


async def test_a_key_that_cannot_be_one_is_refused(acme: Tenant) -> None:
    for bad in ("", "k" * 256, 7):
        with pytest.raises(InvalidKey, match="idempotency_key"):
            acme.once(bad)  # type: ignore[arg-type]


async def test_an_argument_that_can_be_read_only_once_is_refused(acme: Tenant) -> None:
    with pytest.raises(InvalidInput, match="read again"):
        await acme.once("k").memory.add_many(iter([{"text": "one"}]))

    assert await acme.memory.count() == 0


async def test_a_tenant_that_does_not_exist_is_made_or_refused_as_by_any_write(spell: Spell) -> None:
    nobody = spell.tenant(f"nobody-{uuid4()}")

    if spell._backend.auto_create_tenants:
        await nobody.once("k").kv.set("a", b"1")
        assert await nobody.kv.get("a") == b"1"
    else:
        with pytest.raises(TenantUnknown):
            await nobody.once("k").kv.set("a", b"1")


# --- work of the caller's ---------------------------------------------------------------------------------------------


async def test_work_under_a_key_is_done_once_and_its_answer_has_its_type(acme: Tenant) -> None:
    calls = []

    async def transfer(tx: Transaction) -> dict[str, tuple[int, ...]]:
        calls.append(1)
        await tx.kv.set("a", b"1")
        await tx.graph.assert_fact("Ada", "owes", "Bob")
        return {"balance": (1, 2)}

    answers = [await acme.run(transfer, idempotency_key="t-1") for _ in range(3)]

    assert answers == [{"balance": (1, 2)}] * 3
    assert len(calls) == 1
    assert len(await acme.graph.facts(subject="Ada")) == 1


async def test_work_that_fails_under_a_key_can_be_tried_again(acme: Tenant) -> None:
    async def work(tx: Transaction) -> int:
        await tx.kv.set("attempt", b"")
        if not await acme.kv.exists("ready"):
            raise NotFound("Not yet.")
        return 7

    with pytest.raises(NotFound):
        await acme.run(work, idempotency_key="k")
    assert await acme.kv.list_keys() == []
    await acme.kv.set("ready", b"")

    assert await acme.run(work, idempotency_key="k") == 7


async def test_an_answer_that_is_too_large_to_be_recorded_is_refused_and_nothing_is_kept(acme: Tenant) -> None:
    async def work(tx: Transaction) -> bytes:
        await tx.kv.set("a", b"1")
        return bytes(5 * 1024 * 1024)

    with pytest.raises(InvalidInput, match="smaller batches"):
        await acme.run(work, idempotency_key="k")

    assert await acme.kv.list_keys() == []


async def test_a_lost_answer_is_found_out_by_the_key(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answers(monkeypatch, acme, commits={1})

    assert await acme.once("k").kv.delete("absent") is False
    record = await acme.once("m").memory.add("Ada likes tea.")

    assert [one.id for one in (await acme.memory.list()).items] == [record.id]


async def test_a_lost_answer_without_a_key_is_unknown_and_not_repeated(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, acme, commits={1})
    runs = []

    async def work(tx: Transaction) -> None:
        runs.append(tx)
        await tx.kv.set("a", b"1")

    with pytest.raises(OutcomeUnknown):
        await acme.run(work)

    assert [tx.outcome for tx in runs] == ["unknown"]


@pytest.mark.parametrize(
    "out_of_reach", [Unavailable, AccessRefused, TenantUnknown, TenantKeyMissing, TransactionTimeout]
)
async def test_a_lost_answer_that_cannot_be_found_out_stays_unknown_until_it_is(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, out_of_reach: type[LlmspellError]
) -> None:
    with monkeypatch.context() as broken:
        lose_answers(broken, acme, commits={1}, afterwards=out_of_reach)
        with pytest.raises(OutcomeUnknown) as caught:
            await acme.once("k").kv.set("a", b"1")
        assert isinstance(caught.value.__cause__, out_of_reach)
    assert await acme.kv.get("a") == b"1"

    await acme.once("k").kv.set("a", b"1")


async def test_a_lost_answer_stays_unknown_while_others_are_first_until_time_is_up(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    begun = lose_answers(monkeypatch, acme, commits={1}, afterwards=Conflict, passes=lambda: clock.advance(seconds=8))

    with pytest.raises(OutcomeUnknown) as caught:
        await acme.once("k").kv.set("a", b"1")

    assert isinstance(caught.value.__cause__, Conflict)
    assert 3 <= len(begun) <= 2 + REPEAT_FOR_S / 8


async def test_a_lost_answer_stays_unknown_when_the_tenant_is_suspended_before_it_is_found_out(
    spell: Spell, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def suspend() -> None:
        await spell.tenants.suspend(acme.id)

    with monkeypatch.context() as broken:
        lose_answers(broken, acme, commits={1}, then=suspend)
        with pytest.raises(OutcomeUnknown) as caught:
            await acme.run(lambda tx: tx.kv.set("a", b"1"), idempotency_key="k")
        assert isinstance(caught.value.__cause__, TenantInactive)

    await spell.tenants.resume(acme.id)
    assert await acme.kv.get("a") == b"1"


@pytest.mark.parametrize("error", [Unavailable, TransactionError, TenantUnknown])
async def test_a_lost_answer_is_found_out_to_have_had_no_effect_once_the_key_is_claimed_again(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch, error: type[LlmspellError]
) -> None:
    """Whatever the work then ends with, nothing of the call is there, and nobody needs to look."""
    lose_answers(monkeypatch, acme, commits=set(), refused={1})

    async def work(tx: Transaction) -> None:
        await tx.kv.set("a", b"1")
        raise error

    with pytest.raises(error) as caught:
        await acme.run(work, idempotency_key="k")

    assert caught.value.outcome == "failed"
    assert await acme.kv.get("a") is None


async def test_a_lost_answer_is_found_out_when_the_key_turns_out_to_be_another_calls(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.once("k").kv.set("a", b"1")
    lose_answers(monkeypatch, acme, commits=set(), refused={1})

    with pytest.raises(IdempotencyConflict):
        await acme.once("k").kv.set("a", b"2")


async def test_a_call_whose_repetition_fails_by_itself_had_no_effect(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await acme.memory.add("Ada likes tea.")

    with monkeypatch.context() as broken:
        lose_answers(broken, acme, commits=set(), refused={1})
        with pytest.raises(NotFound):
            await acme.once("k").memory.update(uuid4(), metadata={"n": 1})

    assert (await acme.memory.list()).items == [record]


def lose_answers(
    monkeypatch: pytest.MonkeyPatch,
    tenant: Tenant,
    *,
    commits: set[int],
    refused: Collection[int] = (),
    afterwards: type[LlmspellError] | None = None,
    passes: Callable[[], None] = lambda: None,
    then: Callable[[], Awaitable[None]] | None = None,
) -> Sequence[int]:
    """Let the answers of some commits get lost: the store has them, and the caller does not hear of it.

    `refused`: transactions that say the same without having begun. `afterwards`: what every one after a lost answer is told, while
    `passes` is called. `then`: what happens in between. Returned are the numbers of the transactions, as they begin.
    """
    from contextlib import asynccontextmanager

    real = tenant._backend.transaction
    begun: list[int] = []

    @asynccontextmanager
    async def lossy(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        begun.append(number := len(begun) + 1)
        if number in refused:
            raise OutcomeUnknown
        if afterwards is not None and number > min(commits):
            passes()
            raise afterwards
        async with real(*args, **kwargs) as storages:
            yield storages
        if number in commits:
            if then is not None:
                await then()
            raise OutcomeUnknown

    monkeypatch.setattr(tenant._backend, "transaction", lossy)
    return begun
