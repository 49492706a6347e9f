"""The approximate indexes of a server: listed, built anew, mended, as the role that owns the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from tests.unit.storage.postgres.test_nearest import exact, some_vectors

from llmspell.errors import Conflict, InvalidLimit, InvalidSetting, SchemaOutdated
from llmspell.storage.contracts.vectors import VectorEntry
from llmspell.storage.postgres import nearest, vector_indexes
from llmspell.storage.postgres.backend import open_postgres
from llmspell.storage.relational.vectors import free_space
from llmspell.tenant import TenantId

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

INDEX = "idx_vector_384_hnsw"


def test_the_indexes_are_listed_with_the_parameters_of_their_dimension(postgres_database: PostgresDatabase) -> None:
    """HNS-11; 3,072 in half precision (AMB-020)."""
    found = vector_indexes.listed(postgres_database.admin_url)

    assert [(one.name, one.dimension, one.m, one.ef_construction, one.valid) for one in found] == [
        ("idx_vector_384_hnsw", 384, 16, 64, True),
        ("idx_vector_768_hnsw", 768, 16, 128, True),
        ("idx_vector_1536_hnsw", 1536, 24, 256, True),
        ("idx_vector_3072_hnsw", 3072, 24, 256, True),
    ]
    assert {(one.dimension, one.m, one.ef_construction) for one in found} == {
        (dimension, *parameters) for dimension, parameters in nearest.PARAMETERS.items()
    }


@pytest.mark.parametrize("dimension", [384, 3072])
async def test_a_rebuilt_index_gives_what_the_old_one_gave_and_counts_what_is_in_it(
    postgres_database: PostgresDatabase, dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT_BELOW", 0)
    backend = await open_postgres(postgres_database.app_url, pool_size=2)
    tenant = TenantId(f"t-{uuid4()}")
    await backend.tenants.create(tenant)
    data = some_vectors(200, dimension)
    storage = backend.storages(tenant).vectors
    ids = await storage.insert([VectorEntry(embedding=row) for row in data[:150]])
    await backend.promote(tenant, free_space(dimension), dimension=dimension)
    ids += await storage.insert([VectorEntry(embedding=row) for row in data[150:]])

    heard: list[str] = []
    steps = vector_indexes.rebuild(
        postgres_database.admin_url, dimension=dimension, memory="64MB", announce=heard.append
    )
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        owner.execute(f"ANALYZE llmspell.vector_embeddings_{dimension}".encode())
    hits = await storage.search(data[3], limit=20)
    await backend.close()
    (found,) = vector_indexes.listed(postgres_database.admin_url, dimension=dimension)

    assert steps == [line for line in heard if not line.startswith(" ")] == [f"rebuild idx_vector_{dimension}_hnsw"]
    assert [hit.id for hit in hits] == exact(data, data[3], ids, 20)
    assert (found.inside, found.outside, found.valid) == (150, 50, True)
    assert 0.8 < found.growth < 1.3, "the estimate of a fresh index is off"


def test_what_a_failed_build_left_is_listed_and_dropped_by_the_next_one(postgres_database: PostgresDatabase) -> None:
    with (
        psycopg.connect(postgres_database.app_url) as reader,
        psycopg.connect(postgres_database.admin_url, autocommit=True) as owner,
    ):
        reader.execute("SELECT FROM llmspell.vector_embeddings_384")  # an open transaction, for which a build waits
        owner.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            owner.execute(f"REINDEX INDEX CONCURRENTLY llmspell.{INDEX}".encode())
    left = vector_indexes.listed(postgres_database.admin_url, dimension=384)
    planned = vector_indexes.rebuild(postgres_database.admin_url, dimension=384, dry_run=True)

    assert [(one.valid, one.advice) for one in left] == [(True, ""), (False, "a build has failed")]
    assert left[0].name == INDEX
    assert left[1].name in (f"{INDEX}_ccnew", f"{INDEX}_ccold")
    assert planned == [f"drop {left[1].name}", f"rebuild {INDEX}"]
    assert vector_indexes.rebuild(postgres_database.admin_url, dimension=384) == planned
    assert [one.name for one in vector_indexes.listed(postgres_database.admin_url, dimension=384)] == [INDEX]


def test_an_index_that_is_missing_is_built_as_it_was(postgres_database: PostgresDatabase) -> None:
    query = "SELECT indexdef FROM pg_indexes WHERE indexname ~ '_hnsw$' ORDER BY indexname"
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as owner:
        before = owner.execute(query).fetchall()
        for dimension in nearest.PARAMETERS:
            owner.execute(f"DROP INDEX llmspell.idx_vector_{dimension}_hnsw".encode())
        steps = vector_indexes.rebuild(postgres_database.admin_url)

        assert steps == [f"build idx_vector_{dimension}_hnsw" for dimension in nearest.PARAMETERS]
        assert owner.execute(query).fetchall() == before
        assert len(before) == 4


def test_a_rebuild_says_how_far_it_is(postgres_database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_indexes, "LOOK_S", 0.01)
    heard: list[str] = []
    with psycopg.connect(postgres_database.app_url) as reader:
        reader.execute("SELECT FROM llmspell.vector_embeddings_384")

        def announce(line: str) -> None:
            heard.append(line)
            if "waiting for" in line:
                reader.rollback()  # what the build has been waiting for

        vector_indexes.rebuild(postgres_database.admin_url, dimension=384, announce=announce)

    assert heard[0] == f"rebuild {INDEX}"
    assert any(line.startswith("  waiting for") for line in heard)


def test_a_second_rebuild_is_refused_while_one_is_under_way(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.admin_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (vector_indexes.TURN,))

        with pytest.raises(Conflict, match="Another rebuild"):
            vector_indexes.rebuild(postgres_database.admin_url)


def test_what_cannot_be_done_is_refused_by_name(
    postgres_database: PostgresDatabase, postgres_empty_database: PostgresDatabase
) -> None:
    with pytest.raises(InvalidLimit, match="dimension"):
        vector_indexes.listed(postgres_database.admin_url, dimension=100)
    with pytest.raises(InvalidSetting, match="kB, MB or GB"):
        vector_indexes.rebuild(postgres_database.admin_url, memory="much")
    with pytest.raises(SchemaOutdated):
        vector_indexes.listed(postgres_empty_database.admin_url)
