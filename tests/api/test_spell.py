"""The handles: what a tenant's handle refuses, pages, transactions, and many tenants on one store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from tests.api.conftest import Status, Store

import llmspell
from llmspell import ManualClock, Settings, Spell, Tenant
from llmspell.errors import (
    AlreadyExists,
    Conflict,
    InvalidCursor,
    InvalidLimit,
    InvalidTenant,
    TenantInactive,
    TenantUnknown,
    TransactionClosed,
    TransactionTimeout,
)
from llmspell.gate import GATE_TTL_S

TENANTS = 200
EAST = [1.0] + [0.0] * 383
PAGES_MAX = 100
ATTEMPTS_MAX = 100


@pytest.fixture
def acme(spell: Spell) -> Tenant:
    return spell.tenant("acme")


@pytest.mark.parametrize("id", ["", " acme", "acme ", "a\nb", "a\0b", "x" * 129, "é" * 65, "\ud800", None, 7])
def test_an_impossible_tenant_id_is_refused_at_once(spell: Spell, id: object) -> None:
    with pytest.raises(InvalidTenant) as caught:
        spell.tenant(cast("str", id))

    assert caught.value.field == "tenant"


@pytest.mark.parametrize("id", ["x" * 128, "a'; DROP TABLE tenants; --", "Zürich/😀", "%", "a b"])
async def test_an_unusual_tenant_id_is_a_tenant_like_any_other(spell: Spell, id: str) -> None:
    await spell.tenant(id).kv.set("k", b"v")

    assert await spell.tenant(id).kv.get("k") == b"v"
    assert await spell.tenant("other").kv.get("k") is None


async def test_without_an_id_the_tenant_is_the_default_one(spell: Spell) -> None:
    await spell.tenant().kv.set("k", b"v")

    assert await spell.tenant("default").kv.get("k") == b"v"


async def test_a_tenant_is_created_once(spell: Spell) -> None:
    created = await spell.tenants.create("acme", name="Acme")

    with pytest.raises(AlreadyExists):
        await spell.tenants.create("acme")
    assert await spell.tenants.create("acme", exist_ok=True) == created


async def test_a_first_write_creates_the_tenant_where_that_is_on(spell: Spell, acme: Tenant) -> None:
    await acme.kv.set("k", b"v")

    created = await spell.tenants.get("acme")
    assert created is not None
    assert created.status == "active"


async def test_reading_creates_no_tenant(spell: Spell, acme: Tenant) -> None:
    assert await acme.kv.get("k") is None
    assert await acme.memory.search("anything") == []
    assert (await acme.memory.list()).items == []
    assert await acme.graph.neighbours("Ada") == []
    assert (await acme.context("Ada?")).text == ""

    assert await spell.tenants.get("acme") is None


@pytest.mark.parametrize("concern", ["read", "write", "memory", "graph", "vectors", "transaction"])
async def test_an_unknown_tenant_is_refused_where_creation_is_off(
    store: Store, settings: Callable[..., Settings], concern: str
) -> None:
    async with llmspell.connect(store.url, settings=settings(auto_create=False), embedder="hashing") as spell:
        with pytest.raises(TenantUnknown):
            await use(spell.tenant("acme"), concern)

        assert await spell.tenants.get("acme") is None


async def use(acme: Tenant, concern: str) -> object:
    if concern == "transaction":
        async with acme.transaction() as tx:
            await tx.kv.set("k", b"v")
        return None
    calls: dict[str, Callable[[], Any]] = {
        "read": lambda: acme.kv.get("k"),
        "write": lambda: acme.kv.set("k", b"v"),
        "memory": lambda: acme.memory.add("Ada moved."),
        "graph": lambda: acme.graph.assert_fact("Ada", "lives_in", "Zurich"),
        "vectors": lambda: acme.vectors.insert({"embedding": EAST}),
    }
    return await calls[concern]()


async def test_a_server_creates_no_tenant_unless_told_to(store: Store, settings: Callable[..., Settings]) -> None:
    async with llmspell.connect(store.url, settings=settings(auto_create=None), embedder="hashing") as spell:
        writing = spell.tenant("acme").kv.set("k", b"v")
        if spell.backend == "postgresql":
            with pytest.raises(TenantUnknown):
                await writing
        else:
            await writing


@pytest.mark.parametrize("status", ["suspended", "deleted"])
@pytest.mark.parametrize("concern", ["read", "write", "memory", "graph", "vectors", "transaction"])
async def test_a_tenant_that_is_shut_off_is_refused_within_a_second(
    spell: Spell, acme: Tenant, store: Store, clock: ManualClock, concern: str, status: Status
) -> None:
    await acme.kv.set("k", b"v")
    store.set_status(spell, "acme", status)

    clock.advance(seconds=GATE_TTL_S)

    with pytest.raises(TenantInactive):
        await use(acme, concern)


async def test_a_tenant_that_is_active_again_is_served(
    spell: Spell, acme: Tenant, store: Store, clock: ManualClock
) -> None:
    await acme.kv.set("k", b"v")
    store.set_status(spell, "acme", "suspended")
    clock.advance(seconds=GATE_TTL_S)
    with pytest.raises(TenantInactive):
        await acme.kv.get("k")

    store.set_status(spell, "acme", "active")

    assert await acme.kv.get("k") == b"v"


async def test_the_knowledge_that_a_tenant_is_active_is_at_most_a_second_old() -> None:
    assert GATE_TTL_S <= 1.0


async def fill(acme: Tenant, clock: ManualClock, count: int) -> list[UUID]:
    start = clock.now()
    records = await acme.memory.add_many(
        [{"text": f"memory {number}", "at": start + timedelta(seconds=number // 2)} for number in range(count)]
    )
    return [record.id for record in records]


@pytest.mark.parametrize("descending", [True, False])
async def test_a_walk_meets_every_memory_once_in_order(acme: Tenant, clock: ManualClock, descending: bool) -> None:
    ids = await fill(acme, clock, 25)
    walked: list[UUID] = []
    cursor = None
    for _ in range(PAGES_MAX):
        page = await acme.memory.list(limit=4, cursor=cursor, descending=descending)
        walked += [record.id for record in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert walked == (ids[::-1] if descending else ids)


async def test_a_walk_is_not_disturbed_by_what_is_added_meanwhile(acme: Tenant, clock: ManualClock) -> None:
    ids = await fill(acme, clock, 9)
    first = await acme.memory.list(limit=4)
    clock.advance(seconds=100)
    await acme.memory.add("newer than all of them")
    rest = await acme.memory.list(limit=10, cursor=first.next_cursor)

    assert [record.id for record in first.items + rest.items] == ids[::-1]


@pytest.mark.parametrize("change", ["tenant", "filter", "session", "order", "direction", "forged", "empty"])
async def test_a_cursor_serves_its_own_tenant_and_query_only(
    spell: Spell, acme: Tenant, clock: ManualClock, change: str
) -> None:
    await fill(acme, clock, 5)
    await spell.tenant("globex").memory.add("of another tenant")
    cursor = (await acme.memory.list(limit=2)).next_cursor
    assert cursor is not None
    changes: dict[str, dict[str, Any]] = {
        "filter": {"filters": {"kind": "skill"}},
        "session": {"session": "s1"},
        "order": {"order": "created_at"},
        "direction": {"descending": False},
        "forged": {"cursor": cursor[:-1] + ("A" if cursor[-1] != "A" else "B") + "AA"},
        "empty": {"cursor": ""},
    }
    asked: dict[str, Any] = {"limit": 2, "cursor": cursor} | changes.get(change, {})
    tenant = spell.tenant("globex") if change == "tenant" else acme

    with pytest.raises(InvalidCursor) as caught:
        await tenant.memory.list(**asked)

    assert caught.value.field == "cursor"


@pytest.mark.parametrize("name", ["limit", "k", "top_k"])
async def test_limit_has_three_names_with_one_meaning(acme: Tenant, name: str) -> None:
    await acme.memory.add_many([{"text": f"Ada moved {number}"} for number in range(5)])
    await acme.vectors.insert([{"embedding": EAST} for _ in range(5)])
    arguments: dict[str, Any] = {name: 3}

    assert len(await acme.memory.search("Ada", **arguments)) == 3
    assert len(await acme.vectors.search(EAST, **arguments)) == 3
    arguments[name] = 0
    with pytest.raises(InvalidLimit) as caught:
        await acme.memory.search("Ada", **arguments)
    assert caught.value.field == name


async def test_two_names_of_the_limit_at_once_are_refused(acme: Tenant) -> None:
    with pytest.raises(InvalidLimit, match="together"):
        await acme.memory.search("Ada", limit=3, k=3)


async def test_a_transaction_keeps_every_concern_together(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        await tx.kv.set("k", b"v")
        await tx.memory.add("Ada moved.")
        await tx.graph.assert_fact("Ada", "lives_in", "Zurich")
        await tx.vectors.insert({"embedding": EAST})
        assert await tx.kv.get("k") == b"v", "a transaction sees what it wrote"

    assert await counts(acme) == (b"v", 1, 1, 1)


async def counts(acme: Tenant) -> tuple[bytes | None, int, int, int]:
    facts, vectors = await acme.graph.stats(), await acme.vectors.stats()
    return await acme.kv.get("k"), await acme.memory.count(), facts.facts, vectors.total_vectors


async def test_a_transaction_that_fails_keeps_nothing(acme: Tenant) -> None:
    async def fail() -> None:
        async with acme.transaction() as tx:
            await tx.kv.set("k", b"v")
            await tx.memory.add("Ada moved.")
            await tx.graph.assert_fact("Ada", "lives_in", "Zurich")
            await tx.vectors.insert({"embedding": EAST})
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()

    assert await counts(acme) == (None, 0, 0, 0)


async def test_a_transaction_is_of_no_use_after_its_end(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        await tx.kv.set("k", b"v")

    with pytest.raises(TransactionClosed):
        await tx.kv.set("k", b"later")


async def test_a_transaction_embeds_nothing_and_says_so(acme: Tenant) -> None:
    async with acme.transaction() as tx:
        kept = await tx.memory.add("Ada moved.")

    assert kept.embedding_state == "pending"
    assert [hit.id for hit in await acme.memory.search("Ada")] == [kept.id]
    assert await acme.memory.embed_pending() == 1


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), 3_601, True, "5"])
async def test_an_impossible_time_limit_is_refused_before_anything_opens(acme: Tenant, limit: object) -> None:
    with pytest.raises(InvalidLimit) as caught:
        acme.transaction(timeout_s=cast("float", limit))

    assert caught.value.field == "timeout_s"


async def test_a_transaction_that_outlives_its_limit_keeps_nothing(acme: Tenant) -> None:
    await acme.kv.set("other", b"v")

    async def outlive() -> None:
        async with acme.transaction(timeout_s=0.05) as tx:
            await tx.kv.set("k", b"v")
            await asyncio.Event().wait()

    with pytest.raises(TransactionTimeout):
        await outlive()

    assert await acme.kv.get("k") is None


async def test_concurrent_transactions_lose_no_update(acme: Tenant) -> None:
    await acme.kv.set("n", b"0")

    async def count() -> None:
        for _ in range(ATTEMPTS_MAX):
            try:
                async with acme.transaction() as tx:
                    await tx.kv.set("n", b"%d" % (int(await tx.kv.get("n") or b"") + 1))
            except Conflict:
                continue
            return
        raise AssertionError("it never got through")

    await asyncio.gather(*(count() for _ in range(8)))

    assert await acme.kv.get("n") == b"8"


async def test_two_hundred_tenants_at_once_see_no_foreign_row(spell: Spell) -> None:
    names = [f"tenant-{number}" for number in range(TENANTS)]
    await asyncio.gather(*(write_as(spell, name) for name in names))

    seen = await asyncio.gather(*(seen_by(spell, name) for name in names))

    assert seen == [{name} for name in names]


async def write_as(spell: Spell, name: str) -> None:
    tenant = spell.tenant(name)
    await tenant.kv.set("owner", name.encode())
    await tenant.memory.add("the same words everywhere", metadata={"owner": name})
    async with tenant.transaction() as tx:
        await tx.graph.assert_fact("Ada", "belongs_to", name)
        await tx.vectors.insert({"embedding": EAST, "metadata": {"owner": name}})


async def seen_by(spell: Spell, name: str) -> set[str]:
    """Every owner that any read of a tenant comes across."""
    tenant = spell.tenant(name)
    hits, page = await tenant.memory.search("same words", limit=100), await tenant.memory.list(limit=100)
    vectors, facts = await tenant.vectors.search(EAST, limit=100), await tenant.graph.neighbours("Ada")
    context = await tenant.context("the same words of Ada")
    owners = [(await tenant.kv.get("owner") or b"").decode()]
    owners += [hit.memory.metadata["owner"] for hit in hits] + [record.metadata["owner"] for record in page.items]
    owners += [hit.metadata["owner"] for hit in vectors] + [fact.object for fact in facts]
    owners += [item.text.split(" ")[3] for item in context.items if item.kind == "fact"]
    assert [len(hits), len(page.items), len(vectors), len(facts)] == [1, 1, 1, 1]
    return set(owners)
