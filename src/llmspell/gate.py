"""The gate in front of a tenant's storages: it lets the calls of an active tenant through, and nobody else's.

Rule: what it learned of a tenant is at most a second old.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from llmspell.clock import Clock
from llmspell.errors import TenantInactive, TenantUnknown, TransactionError
from llmspell.storage.contracts.backend import Storages
from llmspell.storage.contracts.tenants import NO_LIMITS, SYSTEM, QuotaLimits, Tenants, TenantUsage
from llmspell.storage.contracts.tenants_checks import unregistered
from llmspell.tenant import TenantId

GATE_TTL_S = 1.0
"""How old the knowledge that a tenant is active may be: a suspension takes effect within it."""
READS = frozenset({
    "get", "exists", "list_keys", "get_batch", "search", "stats", "list", "list_paginated", "count", "history", "adjacent",
    "pending", "unprocessed_sessions", "predicates", "get_entity", "list_entities", "facts", "neighbours", "traverse", "paths",
    "head", "verify",
    "find", "find_sealed", "list_sealed", "pepper",
    "mentioned", "entity_history", "rank", "question",
    "read", "stream", "download", "frequency", "learned", "predict", "predict_next", "counts", "items", "get_many",
    "tail", "statistics", "index_status", "sample",
})  # fmt: skip
"""Storage methods that do not bring a tenant into being."""
T = TypeVar("T")
_open_here: ContextVar[tuple[OpenHere, ...]] = ContextVar("llmspell_open_here", default=())


class OpenHere:
    """A transaction that is open in the task that asks, where another write of its tenant would wait for it for ever."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.task = asyncio.current_task()

    def __enter__(self) -> None:
        self._token = _open_here.set((*_open_here.get(), self))

    def __exit__(self, *_: object) -> None:
        self.task = None
        with contextlib.suppress(ValueError):  # left in another context: what is open there does not concern us
            _open_here.reset(self._token)


class Gate:
    """Lets the calls of one tenant through while it is active."""

    def __init__(
        self,
        tenants: Tenants,
        tenant: TenantId,
        *,
        auto_create: bool,
        clock: Clock,
        quotas: QuotaLimits | None = None,
        alone: bool = False,
    ) -> None:
        """`quotas` are those of a tenant that its first write creates. `alone`: an open transaction keeps other writes waiting."""
        self._alone = alone
        self._tenants = tenants
        self._new_quotas = quotas or NO_LIMITS
        self._quotas = self._new_quotas
        self._tenant = tenant
        self._auto_create = auto_create
        self._clock = clock
        self._open_until = float("-inf")
        self._registered = False

    async def enter(self, *, writes: bool) -> None:
        """Pass, or refuse; a write creates the tenant where that is allowed.

        Raises:
            TenantUnknown: it is not registered.
            TenantInactive: it is suspended or deleted.
            TransactionError: a write that would wait for the transaction that it is in.
        """
        if writes and self._alone:
            self._require_outside()
        if self._clock.monotonic() < self._open_until:
            return
        record = await self._tenants.get(self._tenant)
        if record is None and not self._auto_create:
            raise TenantUnknown(tenant=self._tenant)
        if record is None and not writes:
            return
        if record is None:
            record = await self._tenants.create(self._tenant, quotas=self._new_quotas, exist_ok=True, actor=SYSTEM)
        self._registered = True
        if record.status != "active":
            raise TenantInactive(tenant=self._tenant, status=record.status)
        self._quotas = record.quotas
        self._open_until = self._clock.monotonic() + GATE_TTL_S

    async def usage(self) -> TenantUsage:
        """Return what the tenant uses and may use: of one that its first write will create, what it will be granted.

        Raises:
            TenantUnknown, TenantInactive.
        """
        await self.enter(writes=False)
        return await self._tenants.usage(self._tenant) if self._registered else TenantUsage.of(self._new_quotas, {})

    async def take_embeddings(self, count: int) -> None:
        """Count texts that are about to be embedded, where the tenant's are limited. That they are is known within a second.

        Raises:
            QuotaExceeded: they would be more than it may have embedded today; a tenant that is not registered may have none: every
                name that nobody has would be an allowance.
            TenantUnknown, TenantInactive.
        """
        await self.enter(writes=False)
        if self._quotas.max_embeddings_per_day is None:
            return
        if not self._registered:
            raise unregistered(self._tenant, asked=count)
        await self._tenants.take_embeddings(self._tenant, count)

    async def record_embeddings(self, count: int) -> None:
        """Count texts that were embedded elsewhere, and whose vectors the tenant is going to keep.

        Raises:
            QuotaExceeded, TenantUnknown, TenantInactive, TransactionError.
        """
        await self.settle()
        await self.take_embeddings(count)

    async def settle(self) -> None:
        """Register the tenant before texts are embedded that its first write shall keep, where embedded texts are limited: they
        count for a tenant that is there.

        Raises:
            TenantUnknown, TenantInactive, TransactionError.
        """
        if not self._registered and self._quotas.max_embeddings_per_day is not None:
            await self.enter(writes=True)

    def _require_outside(self) -> None:
        task = asyncio.current_task()
        if any(one.gate is self and one.task is task for one in _open_here.get()):
            raise TransactionError(
                "A transaction of this tenant is open here, and this write would wait for it.",
                tenant=self._tenant,
                hint="Inside of the block write through the transaction itself; a part that may fail is a `savepoint()`.",
            )

    def forget(self) -> None:
        """Ask again at the next call: the tenant was changed from here."""
        self._open_until = float("-inf")


class _Guarded:
    """A storage whose every call passes the gate first."""

    def __init__(self, storage: object, gate: Gate) -> None:
        self._storage = storage
        self._enter = gate.enter

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if inspect.isasyncgenfunction(method):
            guarded_method: Callable[..., Any] = _streaming_through(self._enter, method, writes=name not in READS)
        elif inspect.iscoroutinefunction(method):
            guarded_method = _through(self._enter, method, writes=name not in READS)
        else:
            return method
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


def _streaming_through(
    enter: Callable[..., Awaitable[None]], method: Callable[..., AsyncIterator[T]], *, writes: bool
) -> Callable[..., AsyncIterator[T]]:
    @functools.wraps(method)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[T]:
        await enter(writes=writes)
        # Closed at once when the reader leaves early, and not when the collector finds it.
        async with contextlib.aclosing(cast("AsyncGenerator[T, None]", method(*args, **kwargs))) as items:
            async for item in items:
                yield item

    return stream


def guarded(storages: Storages, gate: Gate) -> Storages:
    """Return storages whose calls pass the gate."""
    return Storages(
        **{name: cast("Any", _Guarded(getattr(storages, name), gate)) for name in storages.__struct_fields__}
    )
