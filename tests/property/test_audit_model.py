"""Whatever is recorded and changed, every backend has the same log and the same tenants, and every chain holds.

The same random program runs on all of them; the plain one in memory is the oracle. Ids and hashes are each store's own.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspell.clock import ManualClock
from llmspell.errors import LlmspellError
from llmspell.storage.contracts.audit import AuditHead, NewAuditEntry
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.storage.contracts.tenants import QuotaLimits
from llmspell.tenant import TenantId

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0")
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "é"])
DECISIONS = st.sampled_from(["allow", "deny", "allow_with_filters"])
ENTRY = st.fixed_dictionaries(
    {"operation": NAMES, "principal": NAMES, "resource": NAMES, "decision": DECISIONS},
    optional={
        "reason": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),  # NUL is refused, on every backend
        "details": st.dictionaries(st.sampled_from("xyz"), JSON, max_size=3),
        "latency_ms": st.floats(-1, 1e13) | st.just(0),
    },
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), ENTRY),
        st.tuples(st.just("record_many"), st.lists(ENTRY, max_size=4)),
        st.tuples(st.just("rolled_back"), ENTRY),
        st.tuples(st.just("advance"), st.integers(-5, 5)),
        st.tuples(
            st.just("list"),
            st.fixed_dictionaries({}, optional={"operation": NAMES, "principal": NAMES, "decision": DECISIONS}),
        ),
        st.tuples(st.just("since"), st.integers(-5, 5), st.integers(-5, 5)),
        st.tuples(
            st.just("status"), st.sampled_from(["active", "suspended", "deleted"]), st.none() | st.integers(1, 4)
        ),
        st.tuples(st.just("quotas"), st.integers(-1, 3), st.none() | st.integers(1, 4)),
    ),
    max_size=10,
)


class RolledBack(Exception):
    pass


def shown(value: Any) -> Any:
    """What must be equal on every backend: everything but ids and hashes, and the kind of an error."""
    if isinstance(value, LlmspellError):
        return type(value).__name__
    if isinstance(value, AuditHead):
        return value.sequence
    if isinstance(value, list):
        return [shown(one) for one in value]
    if not hasattr(value, "__struct_fields__"):
        return value
    hidden = ("id", "prev_hash", "entry_hash")
    return {name: shown(getattr(value, name)) for name in value.__struct_fields__ if name not in hidden}


async def perform(backend: Backend, tenant: TenantId, operation: tuple[Any, ...], clock: ManualClock) -> Any:
    """Carry out one operation as the operator, who is served whatever the tenant's status."""
    kind, *rest = operation
    audit = backend.tenants.audit(tenant)
    if kind == "record":
        return await audit.record(rest[0]["operation"], **{k: v for k, v in rest[0].items() if k != "operation"})
    if kind == "record_many":
        return await audit.record_many([NewAuditEntry(**entry) for entry in rest[0]])
    if kind == "rolled_back":
        record = await backend.tenants.get(tenant)
        if record is None or record.status != "active":
            return None
        try:
            async with backend.transaction(tenant) as storages:
                await record_in(storages, rest[0])
                raise RolledBack
        except RolledBack:
            return None
    if kind == "list":
        return (await audit.list(**rest[0])).items
    if kind == "since":
        since, until = (clock.now() + timedelta(seconds=seconds) for seconds in rest)
        return (await audit.list(since=since, until=until, limit=3)).items
    if kind == "status":
        return await backend.tenants.set_status(tenant, rest[0], expected_version=rest[1])
    if kind == "quotas":
        quotas = QuotaLimits(max_vectors=rest[0])
        return await backend.tenants.update(tenant, quotas=quotas, expected_version=rest[1])
    return None


async def record_in(storages: Storages, entry: dict[str, Any]) -> None:
    await storages.audit.record_many([NewAuditEntry(**entry)])


async def outcome(work: Any) -> Any:
    try:
        return shown(await work)
    except LlmspellError as error:
        return shown(error)


@given(operations=OPERATIONS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_every_backend_keeps_the_same_log(
    stores: dict[str, Backend], loop: asyncio.Runner, clock: ManualClock, operations: list[tuple[Any, ...]]
) -> None:
    async def example() -> None:
        tenant = TenantId(f"audit-{uuid4().hex}")
        for backend in stores.values():
            await backend.tenants.create(tenant)
        for operation in operations:
            if operation[0] == "advance":
                clock.advance(seconds=operation[1])
                continue
            outcomes = {name: await outcome(perform(store, tenant, operation, clock)) for name, store in stores.items()}
            assert len({repr(one) for one in outcomes.values()}) == 1, (operation, outcomes)
        found = [await backend.tenants.audit(tenant).verify() for backend in stores.values()]
        assert all(one.intact for one in found), found
        assert len({one.checked for one in found}) == 1

    loop.run(example())
