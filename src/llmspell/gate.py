"""The gate in front of a tenant's storages: it lets the calls of an active tenant through, and nobody else's.

Rule: what it learned of a tenant is at most a second old.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from llmspell.clock import Clock
from llmspell.errors import TenantInactive, TenantUnknown
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.contracts.tenants import Tenants
from llmspell.tenant import TenantId

GATE_TTL_S = 1.0
"""How old the knowledge that a tenant is active may be: a suspension takes effect within it."""
_READS = frozenset({
    "get", "exists", "list_keys", "get_batch", "search", "stats", "list", "list_paginated", "count", "history", "adjacent",
    "pending", "unprocessed_sessions", "predicates", "get_entity", "list_entities", "facts", "neighbours", "traverse", "paths",
    "mentioned", "entity_history", "counts",
})  # fmt: skip
"""Storage methods that do not bring a tenant into being."""
T = TypeVar("T")


class Gate:
    """Lets the calls of one tenant through while it is active."""

    def __init__(self, tenants: Tenants, tenant: TenantId, *, auto_create: bool, clock: Clock) -> None:
        self._tenants = tenants
        self._tenant = tenant
        self._auto_create = auto_create
        self._clock = clock
        self._open_until = float("-inf")

    async def enter(self, *, writes: bool) -> None:
        """Pass, or refuse; a write creates the tenant where that is allowed.

        Raises:
            TenantUnknown: it is not registered.
            TenantInactive: it is suspended or deleted.
        """
        if self._clock.monotonic() < self._open_until:
            return
        record = await self._tenants.get(self._tenant)
        if record is None and not self._auto_create:
            raise TenantUnknown(tenant=self._tenant)
        if record is None and not writes:
            return
        if record is None:
            record = await self._tenants.create(self._tenant, exist_ok=True)
        if record.status != "active":
            raise TenantInactive(tenant=self._tenant, status=record.status)
        self._open_until = self._clock.monotonic() + GATE_TTL_S


class _Guarded:
    """A storage whose every call passes the gate first."""

    def __init__(self, storage: object, gate: Gate) -> None:
        self._storage = storage
        self._enter = gate.enter

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if not inspect.iscoroutinefunction(method):
            return method
        guarded_method = _through(self._enter, method, writes=name not in _READS)
        setattr(self, name, guarded_method)  # the next look-up finds it without coming here
        return guarded_method


def _through(
    enter: Callable[..., Awaitable[None]], method: Callable[..., Awaitable[T]], *, writes: bool
) -> Callable[..., Awaitable[T]]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> T:
        await enter(writes=writes)
        return await method(*args, **kwargs)

    return call


def guarded(storages: Storages, gate: Gate) -> Storages:
    """Return storages whose calls pass the gate."""
    return Storages(
        **{name: cast("Any", _Guarded(getattr(storages, name), gate)) for name in storages.__struct_fields__}
    )
