"""Quotas as a user of the handles meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.stores import STORES, opened, operator_url_of, url_of

import llmspell
from llmspell.clock import ManualClock
from llmspell.errors import InvalidInput, InvalidLimit, NotFound, QuotaExceeded, Unavailable
from llmspell.gate import Gate
from llmspell.ids import IdSource
from llmspell.providers.embedder import Embedder
from llmspell.providers.hashing import HashingEmbedder
from llmspell.settings import MultiTenantSettings, PostgresSettings, Settings, StorageSettings, TenancySettings
from llmspell.spell import Tenant
from llmspell.storage.contracts.tenants import QuotaLimits, QuotaUse, TenantRecord
from llmspell.storage.inmemory.tenants import InMemoryTenants
from llmspell.tenant import TenantId
from llmspell.testing.contract.tenants import unused


class Counting(HashingEmbedder):
    """Counts the texts that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        self.texts += len(texts)
        return await super().embed(texts)


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def granted(spell: llmspell.Spell, quotas: QuotaLimits) -> Tenant:
    return spell.tenant((await spell.tenants.create(unused(), quotas=quotas)).tenant_id)


async def test_a_tenant_sees_what_it_uses_and_what_is_left(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        acme = await granted(spell, QuotaLimits.only(max_documents=2, max_vectors=10))
        await acme.memory.add("Ada moved to Zurich.")
        await acme.kv.set("k", b"12345")

        usage = await acme.usage()

        assert usage == await spell.tenants.usage(acme.id)
        assert usage.documents == QuotaUse(used=1, limit=2)
        assert (usage.documents.remaining, usage.storage_bytes.used, usage.vectors.used) == (1, 25, 1)
        assert await acme.check_quota("documents") == usage
        with pytest.raises(QuotaExceeded) as refused:
            await acme.check_quota("documents", 2)
        assert refused.value.fields == {"quota": "max_documents", "limit": 2, "used": 1, "asked": 2}


@pytest.mark.parametrize(("op", "amount", "error"), [("pages", 1, InvalidInput), ("vectors", -1, InvalidLimit)])
async def test_a_question_that_no_quota_answers_is_refused(op: str, amount: int, error: type[InvalidInput]) -> None:
    async with llmspell.connect("memory://", settings=Settings()) as spell:
        with pytest.raises(error):
            await spell.tenant().check_quota(op, amount)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await spell.tenant().record_usage("vectors")  # type: ignore[arg-type]


async def test_a_memory_beyond_the_days_embeddings_is_kept_and_embedded_on_the_next_day(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> None:
    embedder = Counting()
    async with opened(backend, request, tmp_path, clock=clock, embedder=embedder) as spell:
        acme = await granted(spell, QuotaLimits.only(max_embeddings_per_day=3))

        for name in ("Ada", "Ben", "Cleo", "Dora", "Emil"):
            await acme.memory.add(f"{name} likes tea.")
        assert (embedder.texts, (await acme.usage()).embeddings.used) == (3, 3)
        assert [hit.text for hit in await acme.memory.search("Emil", limit=1)] == ["Emil likes tea."]
        with pytest.raises(QuotaExceeded):
            await acme.memory.embed_pending()
        assert embedder.texts == 3

        clock.advance(days=1)
        assert await acme.memory.embed_pending() == 2
        assert (await acme.usage()).vectors.used == 5


async def test_what_is_left_of_a_days_embeddings_is_used(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(backend, request, tmp_path, clock=clock) as spell:
        acme = await granted(spell, QuotaLimits.only(max_embeddings_per_day=3))
        async with acme.transaction() as tx:
            for number in range(8):
                await tx.memory.add(f"number {number}")

        with pytest.raises(QuotaExceeded):
            await acme.memory.embed_pending()

        assert (await acme.usage()).embeddings.used == 3
        assert (await acme.usage()).vectors.used == 3


async def test_texts_that_were_embedded_elsewhere_can_be_counted(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with opened(backend, request, tmp_path) as spell:
        acme = await granted(spell, QuotaLimits.only(max_embeddings_per_day=3))

        await acme.record_usage("embeddings", 2)
        with pytest.raises(QuotaExceeded):
            await acme.record_usage("embeddings", 2)

        assert (await acme.usage()).embeddings.used == 2


async def test_a_tenant_that_its_first_write_creates_gets_the_quotas_of_the_settings(tmp_path: Path) -> None:
    settings = Settings(multi_tenant=MultiTenantSettings(default_quota_documents=1, default_quota_embeddings_per_day=0))
    async with llmspell.connect(f"sqlite:///{tmp_path / 's.db'}", settings=settings, embedder="hashing") as spell:
        acme = spell.tenant("acme")
        assert (await acme.usage()).documents == QuotaUse(used=0, limit=1)

        await acme.memory.add("one")
        with pytest.raises(QuotaExceeded):
            await acme.memory.add("two")

        assert (await acme.usage()).documents == QuotaUse(used=1, limit=1)
        assert (await acme.usage()).vectors.used == 0, "more was embedded than the settings grant"


@asynccontextmanager
async def where_anybody_may_sign_up(
    backend: str, request: pytest.FixtureRequest, folder: Path, embedder: Embedder
) -> AsyncIterator[llmspell.Spell]:
    """A store where the first write of a name registers it, with two texts a day to embed."""
    settings = Settings(
        tenancy=TenancySettings(auto_create_tenants=True),
        multi_tenant=MultiTenantSettings(default_quota_embeddings_per_day=2),
        storage=StorageSettings(postgres=PostgresSettings(operator_url=operator_url_of(backend, request))),
    )
    async with llmspell.connect(url_of(backend, request, folder), settings=settings, embedder=embedder) as spell:
        yield spell


async def test_who_only_asks_under_names_that_nobody_has_has_nothing_embedded(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    embedder, names = Counting(), [unused() for _ in range(4)]
    async with where_anybody_may_sign_up(backend, request, tmp_path, embedder) as spell:
        for number in range(20):
            nobody = spell.tenant(names[number % 4])
            assert await nobody.memory.search(f"question {number}") == []
            await nobody.context(f"question {number}")

        assert embedder.texts == 0
        for name in names:
            with pytest.raises(NotFound):
                await spell.tenants.usage(name)


async def test_the_first_write_of_a_tenant_is_embedded_and_counted(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    embedder, (one, keyed, elsewhere) = Counting(), [unused() for _ in range(3)]
    async with where_anybody_may_sign_up(backend, request, tmp_path, embedder) as spell:
        await spell.tenant(one).memory.add("one")
        await spell.tenant(keyed).once("first").memory.add("one")
        await spell.tenant(elsewhere).record_usage("embeddings", 2)

        assert embedder.texts == 2
        used = [await spell.tenants.usage(id) for id in (one, keyed, elsewhere)]
        assert [(usage.embeddings.used, usage.vectors.used) for usage in used] == [(1, 1), (1, 1), (2, 0)]


class Refusing(InMemoryTenants):
    """A registry that cannot register anybody for a while."""

    fails = True

    async def create(self, tenant: TenantId, **wishes: Any) -> TenantRecord:
        if self.fails:
            raise Unavailable("The server restarts.")
        return await super().create(tenant, **wishes)


async def test_a_tenant_whose_registration_failed_is_not_taken_for_a_registered_one(clock: ManualClock) -> None:
    async def key() -> bytes:
        return bytes(32)

    tenants, limits = Refusing(clock, IdSource(clock), key), QuotaLimits.only(max_documents=3, max_embeddings_per_day=2)
    gate = Gate(tenants, TenantId("acme"), auto_create=True, clock=clock, quotas=limits)
    with pytest.raises(Unavailable):
        await gate.enter(writes=True)

    assert (await gate.usage()).documents == QuotaUse(used=0, limit=3)
    with pytest.raises(QuotaExceeded):
        await gate.take_embeddings(1)
    with pytest.raises(Unavailable):
        await gate.enter(writes=True)
    tenants.fails = False
    await gate.settle()
    await gate.take_embeddings(2)
    assert (await gate.usage()).embeddings == QuotaUse(used=2, limit=2)


def test_the_blocking_twin_has_the_same(tmp_path: Path) -> None:
    with llmspell.connect_blocking("memory://", settings=Settings(), embedder="hashing") as spell:
        spell.tenants.create("acme", quotas=QuotaLimits.only(max_vectors=1))
        acme = spell.tenant("acme")

        acme.memory.add("one")
        with pytest.raises(QuotaExceeded):
            acme.memory.add("two")

        assert acme.usage().vectors == QuotaUse(used=1, limit=1)
        assert acme.memory.count() == 1
