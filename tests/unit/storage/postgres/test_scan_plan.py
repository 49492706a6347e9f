"""Which way a search of vectors goes on a server, and what it sets for that, for its own transaction alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.storage.postgres.test_nearest import exact, fresh_tenant, some_vectors

from llmspell.observe import counting_queries
from llmspell.storage.contracts.vector_index import CONFIGURED, Effort
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest
from llmspell.storage.postgres.backend import PostgresBackend, open_postgres, queries
from llmspell.storage.postgres.nearest import plan_scan
from llmspell.storage.relational.catalog import parse
from llmspell.storage.relational.vectors import free_space

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

LARGE = 100_000
SHOWN = parse(
    "shown",
    "-- name: settings -> row\n-- What is set.\nSELECT current_setting('enable_sort'), current_setting('hnsw.iterative_scan'),"
    " current_setting('hnsw.ef_search'), current_setting('hnsw.max_scan_tuples');",
)["settings"]


@pytest.fixture
async def backend(postgres_database: PostgresDatabase) -> AsyncIterator[PostgresBackend]:
    found = await open_postgres(postgres_database.app_url, pool_size=2)
    yield found
    await found.close()


def planned(effort: Effort, *, limit: int = 10, oversample: int = 2, inside: int = LARGE) -> Any:
    return plan_scan(effort, limit=limit, oversample=oversample, inside=inside)


@pytest.mark.parametrize(
    ("recall", "ef_search"), [(0.5, 20), (0.9, 20), (0.91, 40), (0.95, 40), (0.98, 100), (0.99, 200), (0.999, 200)]
)
def test_a_recall_is_as_many_candidates_as_the_table_says(recall: float, ef_search: int) -> None:
    """HNS-14."""
    scan = planned(Effort(recall=recall))

    assert (scan.ef_search, scan.least) == (ef_search, 10)


def test_candidates_are_never_fewer_than_hits_and_grow_with_them_where_nothing_was_asked_for() -> None:
    """AMB-014, HNS-16."""
    assert planned(Effort(ef_search=5), limit=100).least == 100
    assert planned(CONFIGURED, limit=10).least == 20
    assert planned(CONFIGURED, limit=100).least == 200
    assert planned(CONFIGURED, limit=1_000).least == 1_000


def test_what_only_a_comparison_with_all_can_promise_is_compared_with_all() -> None:
    assert planned(Effort(exact=True)) is None
    assert planned(Effort(recall=1.0)) is None


def test_a_small_space_is_compared_one_by_one_and_a_large_answer_takes_a_larger_space() -> None:
    assert planned(CONFIGURED, inside=nearest.EXACT_BELOW) is None
    assert planned(CONFIGURED, inside=nearest.EXACT_BELOW + 1) is not None
    assert planned(CONFIGURED, limit=1_000, inside=20_000) is None
    assert planned(CONFIGURED, limit=1_000, inside=20_001) is not None


def test_a_scan_looks_at_no_more_than_a_share_of_the_space() -> None:
    assert planned(CONFIGURED).max_scan_tuples == LARGE // nearest.SCAN_SHARE
    assert planned(CONFIGURED, inside=5_000).max_scan_tuples == 2_500


def test_a_filter_that_lets_little_pass_where_the_question_is_is_answered_by_comparing_all() -> None:
    scan = planned(CONFIGURED, oversample=nearest.OVERSAMPLE_FILTERED, inside=20_000)

    assert [nearest.worth_scanning(scan, matching=n, inside=20_000) for n in (0, 1, 4, 5, 10, 100)] == [
        *(False, False, False),
        *(True, True, True),
    ]
    assert nearest.worth_scanning(scan, matching=1, inside=1_000_000)


@pytest.mark.parametrize(
    ("of_database", "ef_search", "least", "expected"),
    [
        (None, None, 20, nearest.EF_SEARCH),
        (None, None, 300, 300),
        (None, 30, 10, 30),
        (None, 30, 50, 50),
        (333, None, 20, 333),
        (20, None, 10, 20),
        (333, 30, 10, 30),
    ],
)
async def test_the_number_of_candidates_is_what_was_asked_for_or_what_the_database_is_set_to(
    postgres_database: PostgresDatabase, of_database: int | None, ef_search: int | None, least: int, expected: int
) -> None:
    """HNS-15."""
    if of_database is not None:
        with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
            owner.execute("SELECT '[1]'::public.vector")  # loads the extension, which knows the setting
            owner.execute(f"ALTER DATABASE {postgres_database.name} SET hnsw.ef_search = {of_database}".encode())
    backend = await open_postgres(postgres_database.app_url, pool_size=1)
    settings = {"least": least, "ef_search": ef_search, "usual": nearest.EF_SEARCH, "max_scan_tuples": 1_234}
    unit = backend.unit(await fresh_tenant(backend))
    (found,) = await unit.rows_after([(queries().nearest.scan_by_index, settings)], SHOWN)
    await backend.close()

    assert found == ("off", "relaxed_order", str(expected), "1234")


async def test_what_a_search_sets_is_as_before_for_the_next_statement_of_its_transaction(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(50, 384)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data])
    await backend.promote(tenant, free_space(384), dimension=384)

    async with backend._database.transaction(tenant, timeout_s=60) as unit:
        (before,) = await unit.rows(SHOWN)
        vectors = type(storage)(unit, backend._runtime)
        with counting_queries() as counts:
            hits = [await vectors.search(data[2], limit=10, effort=Effort(ef_search=n)) for n in (10, 77)]
        (after,) = await unit.rows(SHOWN)

    assert counts.queries["nearest.free_union_384"] == 2
    assert [[hit.id for hit in one] for one in hits] == [exact(data, data[2], ids, 10)] * 2
    assert before == after == ("on", "off", "40", "20000")


async def test_a_large_space_is_scanned_a_shrunken_one_is_not_and_each_says_so_to_the_next_search(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 30)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(50, 384)
    ids = await storage.insert([VectorEntry(embedding=row) for row in data])

    async def ways() -> list[str]:
        with counting_queries() as counts:
            await storage.search(data[0], limit=3)
        return sorted(name for name in counts.queries if name.startswith("nearest."))

    assert await ways() == ["nearest.free_384"]
    await backend.promote(tenant, free_space(384), dimension=384, limit=20)
    assert await ways() == ["nearest.free_384", "nearest.free_exact_384"]
    assert await ways() == ["nearest.free_exact_384"]
    await backend.promote(tenant, free_space(384), dimension=384)
    assert await ways() == ["nearest.free_exact_384"]
    assert await ways() == ["nearest.free_union_384", "nearest.scan_by_index"]
    await storage.delete(ids[:40])
    await backend.promote(tenant, free_space(384), dimension=384)
    assert await ways() == ["nearest.free_union_384", "nearest.scan_by_index"]
    assert await ways() == ["nearest.free_exact_384"]


async def test_a_scope_with_few_vectors_of_a_large_space_is_compared_one_by_one(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    monkeypatch.setattr(nearest, "SCOPE_EXACT_BELOW", 10)
    tenant = await fresh_tenant(backend)
    storage = backend.storages(tenant).vectors
    data = some_vectors(70, 384)
    scopes = ["few" if number < 10 else "many" for number in range(70)]
    ids = await storage.insert(
        [VectorEntry(embedding=row, scope=scope) for row, scope in zip(data, scopes, strict=True)]
    )
    await backend.promote(tenant, free_space(384), dimension=384)

    for scope, rows, scanned in (("few", slice(0, 10), False), ("many", slice(10, 70), True)):
        with counting_queries() as counts:
            hits = await storage.search(data[0], limit=8, scope=scope)
        assert [hit.id for hit in hits] == exact(data[rows], data[0], ids[rows], 8)
        assert ("nearest.free_union_384" in counts.queries) is scanned
        assert counts.queries["nearest.free_scope_384"] == 1
        assert counts.queries["nearest.free_share_384"] == scanned
