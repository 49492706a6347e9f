"""What `Idempotency` promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import Conflict, IdempotencyConflict, InvalidInput, InvalidKey, InvalidLimit, NotFound
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.idempotency import RESULT_MAX_BYTES
from llmspell.tenant import TenantId
from llmspell.testing.contract import new_tenant, open_tenant, refused
from llmspell.testing.contract.transactions import leaving

CALLERS = 8
ATTEMPTS_MAX = 200
PRINT = bytes(range(32))
OTHER_PRINT = bytes(32)
CALL: dict[str, Any] = {"operation": "kv.set", "fingerprint": PRINT}


async def used(backend: Backend, tenant: TenantId, key: str = "k", result: bytes = b"done", **claim: Any) -> None:
    """Use a key, in a transaction of its own."""
    async with backend.transaction(tenant) as tx:
        assert await tx.idempotency.claim(key, **{**CALL, **claim}) is None
        await tx.idempotency.record(key, result)


class IdempotencyContract:
    """Subclass it in a test module; see the package."""

    async def test_a_key_is_free_until_its_transaction_is_kept(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        keys = backend.storages(tenant).idempotency

        async with leaving(backend, tenant) as tx:
            assert await tx.idempotency.claim("k", **CALL) is None
            await tx.idempotency.record("k", b"done")
            assert await tx.idempotency.find("k", **CALL) == b"done"
        assert await keys.find("k", **CALL) is None

        await used(backend, tenant)
        assert await keys.find("k", **CALL) == b"done"

    async def test_a_used_key_gives_the_recorded_result(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        await used(backend, tenant, result=b"\x00\xff")

        async with backend.transaction(tenant) as tx:
            assert await tx.idempotency.claim("k", **CALL) == b"\x00\xff"

    async def test_an_empty_result_is_a_result(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        await used(backend, tenant, result=b"")

        assert await backend.storages(tenant).idempotency.find("k", **CALL) == b""

    @pytest.mark.parametrize("changed", [{"operation": "kv.delete"}, {"fingerprint": OTHER_PRINT}])
    async def test_a_key_that_was_used_for_another_call_is_refused(
        self, backend: Backend, changed: dict[str, Any]
    ) -> None:
        tenant = await new_tenant(backend)
        await used(backend, tenant)

        with pytest.raises(IdempotencyConflict):
            await backend.storages(tenant).idempotency.find("k", **{**CALL, **changed})
        with pytest.raises(IdempotencyConflict):
            await used(backend, tenant, **changed)
        assert await backend.storages(tenant).idempotency.find("k", **CALL) == b"done"

    async def test_a_key_is_forgotten_after_its_time(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        await used(backend, tenant, ttl_s=60)
        keys = backend.storages(tenant).idempotency

        clock.advance(seconds=59.999)
        assert await keys.find("k", **CALL) == b"done"
        clock.advance(seconds=0.001)
        assert await keys.find("k", **CALL) is None

        await used(backend, tenant, result=b"again", fingerprint=OTHER_PRINT)
        assert await keys.find("k", operation="kv.set", fingerprint=OTHER_PRINT) == b"again"

    async def test_forgotten_keys_are_deleted_in_bounded_calls(self, backend: Backend, clock: ManualClock) -> None:
        tenant = await new_tenant(backend)
        for number in range(5):
            await used(backend, tenant, key=f"k{number}", ttl_s=10)
        await used(backend, tenant, key="kept", ttl_s=1_000)
        keys = backend.storages(tenant).idempotency
        assert await keys.expire() == 0

        clock.advance(seconds=10)

        assert [await keys.expire(limit=2) for _ in range(4)] == [2, 2, 1, 0]
        assert await keys.find("kept", **CALL) == b"done"

    async def test_of_transactions_that_claim_a_key_at_once_one_has_the_effect(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        effects = []

        async def call(number: int) -> bytes:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with backend.transaction(tenant) as tx:
                        recorded = await tx.idempotency.claim("k", **CALL)
                        if recorded is not None:
                            return recorded
                        await asyncio.sleep(0)
                        await tx.kv.set(f"effect-{number}", b"")
                        await tx.idempotency.record("k", str(number).encode())
                    effects.append(number)
                    return str(number).encode()
                except Conflict:
                    continue
            raise AssertionError("somebody else was always first")

        answers = await asyncio.gather(*map(call, range(CALLERS)))

        assert len(effects) == 1
        assert set(answers) == {str(effects[0]).encode()}
        assert await backend.storages(tenant).kv.list_keys() == [f"effect-{effects[0]}"]

    async def test_a_key_that_was_claimed_without_a_result_is_not_given_to_another(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        async with backend.transaction(tenant) as tx:
            await tx.idempotency.claim("k", **CALL)
            with pytest.raises(IdempotencyConflict, match="no result"):
                await tx.idempotency.claim("k", **CALL)

        async with backend.transaction(tenant) as tx:
            with pytest.raises(IdempotencyConflict, match="no result"):
                await tx.idempotency.claim("k", **CALL)

    async def test_a_key_that_is_being_claimed_anew_is_not_swept_away(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        tenant = await new_tenant(backend)
        await used(backend, tenant, ttl_s=10)
        clock.advance(seconds=10)
        claimed, swept = asyncio.Event(), asyncio.Event()

        async def sweep() -> None:
            await claimed.wait()
            swept.set()
            await backend.storages(tenant).idempotency.expire()

        task = asyncio.create_task(sweep())
        async with backend.transaction(tenant) as tx:
            assert await tx.idempotency.claim("k", **CALL) is None
            claimed.set()
            await swept.wait()
            await tx.kv.get("anything")  # whoever sweeps has come as far as it can
            await tx.idempotency.record("k", b"again")
        await task

        assert await backend.storages(tenant).idempotency.find("k", **CALL) == b"again"

    async def test_two_tenants_may_use_one_key(self, backend: Backend) -> None:
        mine, other = await new_tenant(backend), await new_tenant(backend)
        await used(backend, mine, result=b"mine")

        assert await backend.storages(other).idempotency.find("k", **CALL) is None
        await used(backend, other, result=b"other", fingerprint=OTHER_PRINT)

        assert await backend.storages(mine).idempotency.find("k", **CALL) == b"mine"

    async def test_a_result_cannot_be_recorded_for_a_key_that_nobody_claimed(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            with pytest.raises(NotFound):
                await tx.idempotency.record("k", b"")

    @pytest.mark.parametrize("key", ["", "k" * 256, "a\0", "\ud800", 7, None])
    async def test_a_key_that_cannot_be_one_is_refused(self, backend: Backend, key: Any) -> None:
        keys = (await open_tenant(backend)).idempotency

        async with refused(InvalidKey, "idempotency_key"):
            await keys.find(key, **CALL)
        async with refused(InvalidKey, "idempotency_key"):
            await keys.claim(key, **CALL)

    async def test_a_key_of_the_greatest_length_is_accepted(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        await used(backend, tenant, key="é" * 127 + "k")

        assert await backend.storages(tenant).idempotency.find("é" * 127 + "k", **CALL) == b"done"

    async def test_what_cannot_be_recorded_is_refused(self, backend: Backend) -> None:
        storages: Storages = await open_tenant(backend)

        async with refused(InvalidInput, "result"):
            await storages.idempotency.record("k", bytes(RESULT_MAX_BYTES + 1))
        async with refused(InvalidInput, "fingerprint"):
            await storages.idempotency.claim("k", operation="kv.set", fingerprint=b"short")
        async with refused(InvalidKey, "operation"):
            await storages.idempotency.claim("k", operation="", fingerprint=PRINT)
        async with refused(InvalidLimit, "ttl_s"):
            await storages.idempotency.claim("k", **CALL, ttl_s=0)
        async with refused(InvalidLimit, "limit"):
            await storages.idempotency.expire(limit=0)
