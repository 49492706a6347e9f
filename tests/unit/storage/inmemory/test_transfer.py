"""Rows go into memory and come out of it as they were: every column of every table, whoever made them."""

from __future__ import annotations

import msgspec
import pytest
from tests.fixtures.seeds import SEED
from tests.transfer.drawn_rows import Drawn

from llmspell.clock import ManualClock
from llmspell.errors import AlreadyExists, InvalidInput, InvalidVector
from llmspell.storage.contracts.transfer import OnConflict, Record
from llmspell.storage.contracts.transfer_tables import BY_NAME, TABLES
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.tenant import TenantId, tenant_id

ACME = tenant_id("acme")
Rows = dict[str, list[Record]]


@pytest.fixture
def backend(clock: ManualClock) -> InMemoryBackend:
    return InMemoryBackend(clock=clock)


async def told(backend: InMemoryBackend, tenant: TenantId | None = None) -> Rows:
    async with backend.transfer_source(tenant) as source:
        return {table.name: [row async for batch in source.rows(table) for row in batch] for table in TABLES}


async def taken(
    backend: InMemoryBackend, rows: Rows, *, on_conflict: OnConflict = "error", tenant: TenantId | None = None
) -> dict[str, tuple[int, int, int]]:
    async with backend.transfer_target(tenant, on_conflict=on_conflict) as target:
        done = {name: await target.write(BY_NAME[name], rows[name]) for name in rows if rows[name]}
        await target.finish()
        await target.commit()
    return {name: (one.inserted, one.skipped, one.replaced) for name, one in done.items()}


def sample(*tenants: str) -> Rows:
    return Drawn(SEED, list(tenants or ("acme",)), each=3, vectors=3, artifact_bytes=1_200_000).rows


@pytest.mark.parametrize("table", [table.name for table in TABLES])
async def test_the_rows_of_a_table_come_out_as_they_went_in(backend: InMemoryBackend, table: str) -> None:
    rows = sample("acme", "béta")
    await taken(backend, rows)

    assert (await told(backend))[table] == rows[table]


async def test_one_tenant_is_told_alone(backend: InMemoryBackend) -> None:
    rows = sample("acme", "beta")
    await taken(backend, rows)

    assert await told(backend, ACME) == {
        name: [row for row in found if row.tenant_id == "acme"]  # type: ignore[attr-defined]
        for name, found in rows.items()
    }


async def test_nothing_is_kept_without_a_commit(backend: InMemoryBackend) -> None:
    rows = sample()
    async with backend.transfer_target(None, on_conflict="error") as target:
        for name, found in rows.items():
            await target.write(BY_NAME[name], found)
        await target.finish()

    assert not any((await told(backend)).values())
    assert await taken(backend, rows)


async def test_who_reads_during_an_import_sees_the_store_as_it_was(backend: InMemoryBackend) -> None:
    await backend.storages(ACME).kv.set("mine", b"1")
    rows = sample()
    async with backend.transfer_target(None, on_conflict="replace") as target:
        await target.write(BY_NAME["kv_store"], rows["kv_store"])
        assert await backend.storages(ACME).kv.list_keys() == ["mine"]
        await target.finish()
        await target.commit()

    assert len((await told(backend))["kv_store"]) == 1 + len(rows["kv_store"])


async def test_a_snapshot_does_not_see_what_comes_later(backend: InMemoryBackend) -> None:
    await backend.storages(ACME).kv.set("mine", b"1")
    async with backend.transfer_source(None) as source:
        await backend.storages(ACME).kv.set("mine", b"2")
        ((row,),) = [batch async for batch in source.rows(BY_NAME["kv_store"])]

    assert row.value == b"1"  # type: ignore[attr-defined]


async def test_a_row_that_is_there_is_refused_kept_or_replaced(backend: InMemoryBackend) -> None:
    rows = {"kv_store": sample()["kv_store"]}
    await taken(backend, rows)

    with pytest.raises(AlreadyExists) as caught:
        await taken(backend, rows)
    assert caught.value.fields["row"] == 0
    assert await taken(backend, rows, on_conflict="skip") == {"kv_store": (0, 3, 0)}
    assert await taken(backend, rows, on_conflict="replace") == {"kv_store": (3, 0, 3)}


async def test_what_is_skipped_takes_its_parts_with_it(backend: InMemoryBackend) -> None:
    rows = sample()
    await taken(backend, rows)
    parts = ("memories", "memory_versions", "vector_embeddings_384")

    done = await taken(backend, {name: rows[name] for name in parts}, on_conflict="skip")

    assert {name: found[:2] for name, found in done.items()} == {name: (0, len(rows[name])) for name in parts}


async def test_what_is_replaced_loses_its_old_parts(backend: InMemoryBackend) -> None:
    rows = sample()
    await taken(backend, rows)

    await taken(backend, {"memories": rows["memories"][:1]}, on_conflict="replace")

    after = await told(backend)
    gone = rows["memories"][0].memory_id  # type: ignore[attr-defined]
    assert after["memories"] == rows["memories"]
    assert after["memory_versions"] == [one for one in rows["memory_versions"] if one.memory_id != gone]  # type: ignore[attr-defined]


async def test_two_rows_of_one_key_are_refused(backend: InMemoryBackend) -> None:
    row = sample()["kv_store"][0]

    with pytest.raises(AlreadyExists):
        await taken(backend, {"kv_store": [row, row]}, on_conflict="replace")
    assert not any((await told(backend)).values())


async def test_a_space_of_another_dimension_is_refused(backend: InMemoryBackend) -> None:
    spaces = sample()["embedding_spaces"]
    await taken(backend, {"embedding_spaces": spaces})
    other = [msgspec.structs.replace(row, dimension=3072) for row in spaces]

    with pytest.raises(InvalidVector, match="3072"):
        await taken(backend, {"embedding_spaces": other}, on_conflict="replace")


async def test_an_audit_chain_is_never_replaced(backend: InMemoryBackend) -> None:
    rows = sample()
    chain = {name: rows[name] for name in ("audit_heads", "audit_log")}
    await taken(backend, chain)

    done = await taken(backend, chain, on_conflict="replace")

    assert done == {"audit_heads": (0, 1, 0), "audit_log": (0, 3, 0)}


async def test_a_memory_that_ended_elsewhere_ends_here(backend: InMemoryBackend) -> None:
    rows = sample()
    await taken(backend, rows)
    first = rows["memory_versions"][0]
    ended = msgspec.structs.replace(first, version=9, operation="delete")

    await taken(backend, {"memory_versions": [first, ended]}, on_conflict="replace")

    after = await told(backend)
    left = [row.memory_id for row in rows["memories"] if row.memory_id != first.memory_id]  # type: ignore[attr-defined]
    assert [row.memory_id for row in after["memories"]] == left  # type: ignore[attr-defined]
    assert after["memory_versions"][:2] == [first, ended]


async def test_a_tenant_that_is_registered_keeps_its_name_and_says_so(backend: InMemoryBackend) -> None:
    await backend.tenants.create(ACME, name="Acme")
    async with backend.transfer_target(None, on_conflict="error") as target:
        await target.write(BY_NAME["tenants"], sample()["tenants"])
        notes = await target.finish()
        await target.commit()

    assert notes == ["Tenant `acme` was registered before: its name, status and quotas are kept."]
    record = await backend.tenants.get(ACME)
    assert record is not None
    assert record.name == "Acme"


async def test_rows_of_another_tenant_are_refused(backend: InMemoryBackend) -> None:
    with pytest.raises(InvalidInput):
        await taken(backend, {"kv_store": sample("beta")["kv_store"]}, tenant=ACME)


async def test_what_was_taken_is_used_like_anything_else(backend: InMemoryBackend) -> None:
    rows = sample()
    rows["tenants"] = [msgspec.structs.replace(row, status="active") for row in rows["tenants"]]
    rows["kv_store"] = [msgspec.structs.replace(row, expires_at=None) for row in rows["kv_store"]]
    await taken(backend, rows)
    acme = backend.storages(ACME)

    assert await acme.kv.list_keys() == sorted(row.key for row in rows["kv_store"])  # type: ignore[attr-defined]
    assert (await backend.tenants.usage(ACME)).vectors.used == 12
    await acme.kv.set(rows["kv_store"][0].key, b"new")  # type: ignore[attr-defined]
    kept = next(row for row in (await told(backend))["kv_store"] if row.value == b"new")  # type: ignore[attr-defined]
    assert kept.kv_id == rows["kv_store"][0].kv_id  # type: ignore[attr-defined]
