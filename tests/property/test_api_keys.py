"""Random programs over provider keys and access keys give the same on every backend: results, refusals, and what is left."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.access_keys import KeyHash, NewAccessKey, Successor
from llmspell.storage.contracts.api_keys import NewApiKey, ResealedApiKey
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.pages import Page
from llmspell.tenant import TenantId

EXAMPLES = 25
SERVICES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 9)
SECONDS = st.none() | st.integers(-5, 120)
LIMITS = st.integers(1, 4)
STATUSES = st.sampled_from([None, "active", "expired", "revoked"])
API_KEYS = st.one_of(
    st.tuples(st.just("api.set"), NUMBERS, SERVICES, SECONDS),
    st.tuples(st.just("api.rotate"), NUMBERS, SERVICES, SECONDS),
    st.tuples(st.just("api.deactivate"), SERVICES),
    st.tuples(st.just("api.delete"), SERVICES),
    st.tuples(st.just("api.expire"), LIMITS),
    st.tuples(st.just("api.prune"), SECONDS, LIMITS),
    st.tuples(st.just("api.note_use"), NUMBERS),
    st.tuples(st.just("api.reseal"), NUMBERS, NUMBERS),
    st.tuples(st.just("api.list"), st.none() | SERVICES, LIMITS),
)
ACCESS_KEYS = st.one_of(
    st.tuples(st.just("access.add"), NUMBERS, SECONDS),
    st.tuples(st.just("access.rotate"), NUMBERS, NUMBERS, SECONDS, st.integers(0, 60)),
    st.tuples(st.just("access.revoke"), NUMBERS, st.none() | st.just("left")),
    st.tuples(st.just("access.expire"), LIMITS),
    st.tuples(st.just("access.prune"), SECONDS, LIMITS),
    st.tuples(st.just("access.note_use"), NUMBERS),
    st.tuples(st.just("access.rehash"), NUMBERS, st.sampled_from(["store", "other"])),
    st.tuples(st.just("access.list"), STATUSES, LIMITS),
)
PROGRAMS = st.lists(st.one_of(API_KEYS, ACCESS_KEYS, st.tuples(st.just("wait"), st.integers(0, 90))), max_size=30)


def id_of(number: int) -> UUID:
    return UUID(int=(1 << 76 | 0x7 << 76) + number)


def sealed(number: int) -> bytes:
    return f"sealed-{number}".encode()


def hashed(number: int, pepper: str = "store") -> KeyHash:
    return KeyHash(key_hash=sha256(f"{number}".encode()).digest(), pepper=pepper)


async def api_call(storages: Storages, verb: str, rest: tuple[Any, ...], now: datetime) -> Any:
    keys = storages.api_keys

    def at(seconds: int | None) -> datetime | None:
        return None if seconds is None else now + timedelta(seconds=seconds)

    match verb, *rest:
        case "set" | "rotate", number, service, seconds:
            new = NewApiKey(key_id=id_of(number), service=service, sealed=sealed(number), expires_at=at(seconds))
            return await getattr(keys, verb)(new)
        case "deactivate" | "delete", service:
            return await getattr(keys, verb)(service)
        case "expire", limit:
            return await keys.expire(limit=limit)
        case "prune", seconds, limit:
            return await keys.prune(before=at(seconds) or now, limit=limit)
        case "note_use", number:
            return await keys.note_use(id_of(number), uses=number + 1)
        case "reseal", number, other:
            item = ResealedApiKey(key_id=id_of(number), expected=sealed(number), sealed=sealed(other))
            return await keys.reseal([item])
        case "list", service, limit:
            return await keys.list(service=service, limit=limit)
    raise AssertionError(verb)


async def access_call(storages: Storages, verb: str, rest: tuple[Any, ...], now: datetime) -> Any:
    keys = storages.access_keys

    def at(seconds: int | None) -> datetime | None:
        return None if seconds is None else now + timedelta(seconds=seconds)

    match verb, *rest:
        case "add", number, seconds:
            new = NewAccessKey(
                key_id=id_of(number),
                name=f"key {number}",
                principal="robot",
                scopes=["read"],
                hashed=hashed(number),
                expires_at=at(seconds),
            )
            return await keys.add(new)
        case "rotate", number, other, seconds, overlap_s:
            successor = Successor(key_id=id_of(other), hashed=hashed(other), expires_at=at(seconds))
            return await keys.rotate(id_of(number), successor, overlap_s=overlap_s)
        case "revoke", number, reason:
            return await keys.revoke(id_of(number), reason=reason)
        case "expire", limit:
            return await keys.expire(limit=limit)
        case "prune", seconds, limit:
            return await keys.prune(before=at(seconds) or now, limit=limit)
        case "note_use", number:
            return await keys.note_use(id_of(number))
        case "rehash", number, pepper:
            return await keys.rehash(id_of(number), hashed(number, pepper), expected_pepper="store")
        case "list", status, limit:
            return await keys.list(status=status, limit=limit)
    raise AssertionError(verb)


async def step(storages: Storages, operation: tuple[Any, ...], now: datetime) -> Any:
    """What an operation gives: a result, or which refusal."""
    name, *rest = operation
    family, _, verb = name.partition(".")
    try:
        call = api_call if family == "api" else access_call
        result = await call(storages, verb, tuple(rest), now)
    except LlmspellError as error:
        return type(error).__name__
    return (result.items, result.next_cursor is None) if isinstance(result, Page) else result


async def left(storages: Storages) -> Any:
    """Everything that can be asked for at the end."""
    every = await storages.access_keys.list(limit=1_000)
    return (
        (await storages.api_keys.list(limit=1_000)).items,
        await storages.api_keys.list_sealed(limit=1_000),
        await storages.api_keys.stats(),
        [await storages.api_keys.find_sealed(service) for service in "abc"],
        every.items,
        [await storages.access_keys.find(key.key_id) for key in every.items],
        [(one.operation, one.resource, one.reason, one.details) for one in (await storages.audit.list()).items[:-1]],
    )


async def run(stores: dict[str, Backend], clock: ManualClock, program: list[tuple[Any, ...]]) -> None:
    tenant = TenantId(f"tenant-{uuid4()}")
    for backend in stores.values():
        await backend.tenants.create(tenant)
    storages = {name: backend.storages(tenant) for name, backend in stores.items()}
    for operation in program:
        if operation[0] == "wait":
            clock.advance(seconds=operation[1])
            continue
        results = {name: await step(one, operation, clock.now()) for name, one in storages.items()}
        expected = results["memory"]
        assert all(result == expected for result in results.values()), (operation, results)
    remaining = {name: await left(one) for name, one in storages.items()}
    assert all(one == remaining["memory"] for one in remaining.values()), remaining


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=PROGRAMS)
def test_every_backend_answers_a_random_program_as_the_model_does(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, program: list[tuple[Any, ...]]
) -> None:
    loop.run(run(stores, clock, program))
