"""The stream of reads into the audit log: what tenants looked at, written behind their calls, in batches (TEN-17, AUD-04).

Not here: privileged actions, which are recorded in their own transaction and never here.

Rule 1: a read never waits for its entry and never fails because of it. What the buffer cannot hold is dropped, counted, and the
count is recorded in the chain of its tenant and in the log of the process.
Rule 2: no argument of a read is recorded: keys and questions may be personal.
Rule 3: a read brings no tenant into being, and no tenant that is refused is written for. Where none is registered there was nothing
to be read, and nothing is recorded. Where one was suspended or deleted since, the read is dropped, as the process's log says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import structs

from llmspell.clock import Clock
from llmspell.errors import LlmspellError, TenantInactive
from llmspell.gate import READS
from llmspell.observe import logger
from llmspell.storage.contracts.audit import ENTRIES_MAX, NewAuditEntry
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.tenant import TenantId

T = TypeVar("T")
S = TypeVar("S", bound=Storages)
Noted: TypeAlias = Callable[[str], contextlib.AbstractContextManager[None]]
"""Opens the block in which a read of that name is noted."""

HELD_MAX = 10_000
"""Reads that wait to be written; beyond, they are dropped and counted."""
FLUSH_AFTER_S = 1.0
"""How long a read waits for others before it is written with them."""
LAST_FLUSH_S = 5.0
"""How long closing waits for the last ones."""
GIVE_UP_S = 1.0
"""How long it waits then for what it has called off."""
APPLICATION = "application"
"""The principal of a read: the application that holds the handle."""


class ReadStream:
    """A bounded buffer of reads, and the task that empties it."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._held: deque[tuple[TenantId, NewAuditEntry]] = deque()
        self._lost: Counter[TenantId] = Counter()
        self._mutex = threading.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._closed = False
        self.dropped = 0
        """How many reads were dropped since the store was opened."""

    def watched(self, storages: S, tenant: TenantId) -> S:
        """Return the same storages, whose reads are noted."""
        bound: dict[str, Any] = {
            concern: _Watched(getattr(storages, concern), functools.partial(self._noted, tenant, concern))
            for concern in Storages.__struct_fields__
        }
        return structs.replace(storages, **bound)

    async def flush(self) -> None:
        """Write everything that waits; what cannot be written is dropped and counted, also when this is called off."""
        with self._mutex:
            held, self._held = self._held, deque()
            lost, self._lost = self._lost, Counter()
        batches = deque(self._batches(held, lost))
        try:
            while batches:
                await self._write(batches[0])
                batches.popleft()
        finally:
            for batch in batches:
                self._lose(batch)

    async def close(self) -> None:
        """Write the rest, for as long as that takes 5 seconds at most; what is left then is dropped and counted."""
        self._closing.set()
        dropped, writing = self.dropped, self._writing
        if writing is not None and writing.get_loop() is not asyncio.get_running_loop():
            writing = None
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                if writing is not None:
                    await asyncio.wait({writing})
                await self.flush()
        except TimeoutError:
            if writing is not None and writing.cancel():
                await asyncio.wait({writing}, timeout=GIVE_UP_S)
        finally:
            with self._mutex:
                self._closed = True
                self.dropped += len(self._held)
                self._held.clear()
            if self.dropped > dropped:
                logger.warning("%s reads were not recorded before the store was closed.", self.dropped - dropped)

    @contextlib.contextmanager
    def _noted(self, tenant: TenantId, concern: str, verb: str) -> Iterator[None]:
        """Note the read in the block when it ends, whatever came of it."""
        started, failure = self._clock.monotonic(), None
        try:
            yield
        except GeneratorExit:  # a stream that its reader has left: nothing failed
            raise
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            latency_ms = (self._clock.monotonic() - started) * 1_000
            self._note(tenant, self._entry(f"{concern}.{verb}", concern, reason=failure, latency_ms=latency_ms))

    def _entry(self, operation: str, resource: str, **fields: Any) -> NewAuditEntry:
        return NewAuditEntry(
            operation=operation, principal=APPLICATION, resource=resource, at=self._clock.now(), **fields
        )

    def _note(self, tenant: TenantId, entry: NewAuditEntry) -> None:
        with self._mutex:
            if self._closed:
                self.dropped += 1
                return
            if len(self._held) < HELD_MAX:
                self._held.append((tenant, entry))
            else:
                self._lost[tenant] += 1
                self.dropped += 1
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._keep_writing())

    async def _keep_writing(self) -> None:
        """Write what waits, a second after it came, until nothing waits."""
        while self._held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_AFTER_S):
                    await self._closing.wait()
            await self.flush()

    def _batches(self, held: deque[tuple[TenantId, NewAuditEntry]], lost: Counter[TenantId]) -> Iterator[_Batch]:
        """Yield what is written together: entries of one tenant; how many reads it lost before is its last entry."""
        by_tenant: dict[TenantId, list[NewAuditEntry]] = {tenant: [] for tenant in lost}
        for tenant, entry in held:
            by_tenant.setdefault(tenant, []).append(entry)
        for tenant, entries in by_tenant.items():
            if lost[tenant]:
                entries.append(self._entry("audit.dropped", "audit", details={"reads": lost[tenant]}))
            for start in range(0, len(entries), ENTRIES_MAX):
                told = lost[tenant] if start + ENTRIES_MAX >= len(entries) else 0
                yield _Batch(tenant, entries[start : start + ENTRIES_MAX], told)

    async def _write(self, batch: _Batch) -> None:
        """Write a batch; what cannot be written is lost."""
        try:
            record = await self._backend.tenants.get(batch.tenant)
            if record is None:
                return
            if record.status != "active":
                raise TenantInactive(tenant=batch.tenant, status=record.status)
            await self._backend.storages(batch.tenant).audit.record_many(batch.entries)
        except LlmspellError as error:
            self._lose(batch, told_later=not isinstance(error, TenantInactive))
            if batch.reads:
                logger.warning("%s reads were not recorded: %s", batch.reads, type(error).__name__)

    def _lose(self, batch: _Batch, *, told_later: bool = True) -> None:
        """Count the reads of a batch as dropped; `told_later`: the chain of the tenant is to say so."""
        with self._mutex:
            self.dropped += batch.reads
            if told_later:
                self._lost[batch.tenant] += batch.reads + batch.lost


class _Batch(msgspec.Struct, frozen=True):
    """Entries that are written together; if reads were lost before them, the last entry says how many."""

    tenant: TenantId
    entries: list[NewAuditEntry]
    lost: int

    @property
    def reads(self) -> int:
        return len(self.entries) - bool(self.lost)


class _Watched:
    """A storage whose every read is noted."""

    def __init__(self, storage: object, noted: Noted) -> None:
        self._storage = storage
        self._noted = noted

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if name not in READS:
            return method
        if inspect.isasyncgenfunction(method):
            watched: Callable[..., Any] = _streaming(self._noted, name, method)
        elif inspect.iscoroutinefunction(method):
            watched = _calling(self._noted, name, method)
        else:
            return method
        setattr(self, name, watched)  # the next look-up finds it without coming here
        return watched


def _calling(noted: Noted, name: str, method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> T:
        with noted(name):
            return await method(*args, **kwargs)

    return call


def _streaming(noted: Noted, name: str, method: Callable[..., AsyncIterator[T]]) -> Callable[..., AsyncIterator[T]]:
    @functools.wraps(method)
    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[T]:
        with noted(name):
            async for item in method(*args, **kwargs):
                yield item

    return stream
