"""What happens when embedding meets time: slow providers, failing ones, changed models, concurrent writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from tests.api.conftest import Store

import llmspell
from llmspell import ManualClock, Settings, Spell, Tenant
from llmspell.errors import ProviderProtocol, ProviderUnavailable, TransactionError
from llmspell.providers.hashing import HashingEmbedder

POISON = "xylophone"


class Provider(HashingEmbedder):
    """An embedder whose mood a test decides."""

    def __init__(self, *, model: str = "model-a", dimension: int = 384) -> None:
        super().__init__(dimension)
        self.model = model
        self.before: Callable[[Sequence[str]], Awaitable[None]] | None = None
        self.down = False
        self.calls = 0

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        self.calls += 1
        if self.before is not None:
            await self.before(texts)
        if self.down:
            raise ProviderUnavailable("The provider is down.")
        if any(POISON in text for text in texts):
            raise ProviderProtocol("The provider does not take this text.")
        return await super().embed(texts)


@asynccontextmanager
async def opened(store: Store, provider: Provider, clock: ManualClock) -> AsyncIterator[tuple[Spell, Tenant]]:
    settings = Settings(tenancy=llmspell.settings.TenancySettings(auto_create_tenants=True))
    async with llmspell.connect(store.url, settings=settings, embedder=provider, clock=clock) as spell:
        yield spell, spell.tenant("acme")


async def similarity(tenant: Tenant, id: UUID, query: str) -> float | None:
    hits = await tenant.memory.search(query, limit=100)
    return next((hit.similarity for hit in hits if hit.id == id), None)


async def test_an_embedding_of_an_older_text_is_not_kept(store: Store, clock: ManualClock) -> None:
    provider = Provider()
    async with opened(store, provider, clock) as (_, tenant):
        memory = await tenant.memory.add("The meeting is on Monday.", role="Ada")
        entered, release = asyncio.Event(), asyncio.Event()

        async def hold(texts: Sequence[str]) -> None:
            if any(text.startswith("Bob") for text in texts):
                entered.set()
                await release.wait()

        provider.before = hold
        slow = asyncio.create_task(tenant.memory.update(memory.id, role="Bob"))
        await entered.wait()
        await tenant.memory.update(memory.id, text="Everybody went home.")
        release.set()
        await slow

        after = await tenant.memory.get(memory.id)
        assert after is not None
        assert (after.content, after.role, after.embedding_state) == ("Everybody went home.", "Bob", "pending")
        assert after.token_count is None
        assert await tenant.memory.embed_pending() == 1


async def test_a_context_counts_the_tokens_of_a_text_that_changed_without_its_provider(
    store: Store, clock: ManualClock
) -> None:
    provider = Provider()
    async with opened(store, provider, clock) as (_, tenant):
        memory = await tenant.memory.add("Short and sweet.")
        provider.down = True
        await tenant.memory.update(memory.id, text="sweet " * 500)
        provider.down = False

        context = await tenant.context("sweet", max_tokens=50)

        assert [item.id for item in context.items] == []
        assert [item.id for item in context.rejected] == [memory.id]


async def test_nothing_is_embedded_inside_a_transaction(store: Store, clock: ManualClock) -> None:
    provider = Provider()
    async with opened(store, provider, clock) as (_, tenant):
        await tenant.memory.add("before")
        calls = provider.calls

        async with tenant.transaction() as tx:
            await tx.memory.add("inside")
            with pytest.raises(TransactionError):
                await tx.memory.embed_pending()

        assert provider.calls == calls
        assert await tenant.memory.embed_pending() == 1


@pytest.mark.parametrize(
    "store", ["file", "server"], indirect=True
)  # what is in memory is gone when it is opened again
async def test_memories_of_another_model_are_embedded_again(store: Store, clock: ManualClock) -> None:
    async with opened(store, Provider(), clock) as (_, tenant):
        old = await tenant.memory.add("Ada plays the cello.")

    async with opened(store, Provider(model="model-b", dimension=768), clock) as (_, tenant):
        assert await similarity(tenant, old.id, "Ada plays the cello.") is None

        assert await tenant.memory.embed_pending() == 1

        assert await similarity(tenant, old.id, "Ada plays the cello.") is not None
        assert await tenant.memory.embed_pending() == 0


async def test_one_text_that_no_provider_takes_does_not_stop_the_others(store: Store, clock: ManualClock) -> None:
    provider = Provider()
    provider.down = True
    async with opened(store, provider, clock) as (_, tenant):
        texts = ["one", "two", f"a {POISON}", "four"]
        records = [await tenant.memory.add(text) for text in texts]
        provider.down = False

        assert await tenant.memory.embed_pending() == 3

        states = [(await tenant.memory.get(record.id)) for record in records]
        assert [state and state.embedding_state for state in states] == ["ready", "ready", "failed", "ready"]
        assert await tenant.memory.embed_pending() == 0


async def test_a_provider_that_takes_nothing_marks_nothing_as_failed(store: Store, clock: ManualClock) -> None:
    provider = Provider()
    provider.down = True
    async with opened(store, provider, clock) as (_, tenant):
        memory = await tenant.memory.add("one")

        with pytest.raises(ProviderUnavailable):
            await tenant.memory.embed_pending()

        state = await tenant.memory.get(memory.id)
        assert state is not None
        assert state.embedding_state == "pending"


async def test_an_import_is_repeated_over_deleted_and_expired_ids(store: Store, clock: ManualClock) -> None:
    async with opened(store, Provider(), clock) as (_, tenant):
        ids = [UUID(int=number + 2**100) for number in range(4)]
        items = [{"id": id, "text": f"memory {id.int}"} for id in ids]
        await tenant.memory.add_many(items[:3])
        await tenant.memory.delete(ids[0])
        await tenant.memory.forget(ids[1])

        added = await tenant.memory.add_many(items, skip_existing=True)

        assert [record.id for record in added] == [ids[3]]


async def test_a_context_within_a_filter_holds_nothing_that_the_filter_excludes(
    store: Store, clock: ManualClock
) -> None:
    async with opened(store, Provider(), clock) as (_, tenant):
        for text, level in (("We met at noon.", "public"), ("The code is 4711.", "private"), ("Bye then.", "public")):
            await tenant.memory.add(text, session="s", metadata={"level": level})
            clock.advance(seconds=1)

        context = await tenant.context("Where did we meet at noon?", filters={"metadata.level": "public"})

        assert {item.text.partition(": ")[2] for item in context.items} == {"We met at noon.", "Bye then."}
        assert "4711" not in context.text


@pytest.mark.parametrize("wrong", ["fewer", "more", "short"])
async def test_a_provider_that_answers_wrongly_loses_no_memory(store: Store, clock: ManualClock, wrong: str) -> None:
    class Wrong(Provider):
        async def embed(self, texts: Sequence[str]) -> list[bytes]:
            right = await super().embed(texts)
            return {"fewer": right[1:], "more": [*right, right[0]], "short": [one[:-4] for one in right]}[wrong]

    async with opened(store, Wrong(), clock) as (_, tenant):
        memory = await tenant.memory.add("Ada plays the cello.")

        assert memory.embedding_state == "pending"
        assert [hit.id for hit in await tenant.memory.search("cello")] == [memory.id]


async def test_a_long_text_without_spaces_is_found_by_its_end(store: Store, clock: ManualClock) -> None:
    class Short(Provider):
        max_tokens = 64

        def count_tokens(self, text: str) -> int:
            return len(text)

    async with opened(store, Short(), clock) as (spell, tenant):
        text = "".join(chr(0x4E00 + number % 800) for number in range(2_000))
        await tenant.memory.add(text)

        windows = tenant._embedding.windows(text)

        assert all(len(window) <= 64 for window in windows)
        assert windows[-1].endswith(text[-20:])
        assert spell.backend in ("memory", "sqlite", "postgresql")


async def test_a_context_as_of_an_earlier_time_names_what_was_deleted_since(store: Store, clock: ManualClock) -> None:
    async with opened(store, Provider(), clock) as (_, tenant):
        await tenant.graph.assert_fact("Ada", "leads", "Apollo", valid_from="2025-01-01")
        before = clock.now()
        clock.advance(days=1)
        await tenant.graph.delete_entity("Ada")

        now = await tenant.context("What does Ada lead?", max_tokens=500)
        then = await tenant.context("What does Ada lead?", max_tokens=500, known_at=before)

        assert [item.kind for item in now.items] == []
        assert [item.text for item in then.items] == ["Ada leads Apollo (since 1 January 2025)"]
