"""The stream of reads into the audit log: what tenants looked at, written behind their calls, in batches (TEN-17, AUD-04).

Not here: privileged actions, which are recorded in their own transaction and never here.

Rule 1: a read never waits for its entry and never fails because of it. What the buffer cannot hold is dropped, counted, and the
count is recorded in the chain of its tenant and in the log of the process.
Rule 2: no argument of a read is recorded: keys and questions may be personal.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import structs

from llmspell.clock import Clock
from llmspell.errors import LlmspellError
from llmspell.gate import READS
from llmspell.observe import logger
from llmspell.storage.contracts.audit import ENTRIES_MAX, NewAuditEntry
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.tenant import TenantId

T = TypeVar("T")
S = TypeVar("S", bound=Storages)

HELD_MAX = 10_000
"""Reads that wait to be written; beyond, they are dropped and counted."""
FLUSH_AFTER_S = 1.0
"""How long a read waits for others before it is written with them."""
LAST_FLUSH_S = 5.0
"""How long closing waits for the last ones."""
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
        self.dropped = 0
        """How many reads were dropped since the store was opened."""

    def watched(self, storages: S, tenant: TenantId) -> S:
        """Return the same storages, whose reads are noted."""
        bound: dict[str, Any] = {
            concern: _Watched(getattr(storages, concern), functools.partial(self._read, tenant, concern))
            for concern in Storages.__struct_fields__
        }
        return structs.replace(storages, **bound)

    async def flush(self) -> None:
        """Write everything that waits."""
        with self._mutex:
            held, self._held = self._held, deque()
            lost, self._lost = self._lost, Counter()
        by_tenant: dict[TenantId, list[NewAuditEntry]] = {tenant: [] for tenant in lost}
        for tenant, entry in held:
            by_tenant.setdefault(tenant, []).append(entry)
        for tenant, entries in by_tenant.items():
            await self._write(tenant, entries, lost[tenant])

    async def close(self) -> None:
        """Write the rest, for as long as that takes 5 seconds at most."""
        self._closing.set()
        writing = self._writing
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                if writing is not None and writing.get_loop() is asyncio.get_running_loop():
                    await asyncio.wait({writing})
                await self.flush()
        except TimeoutError:
            logger.warning("Reads were not recorded: the store did not take them within %s s.", LAST_FLUSH_S)

    async def _read(self, tenant: TenantId, concern: str, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run a read, and note it whatever came of it."""
        started, failure = self._clock.monotonic(), None
        try:
            return await work()
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

    async def _write(self, tenant: TenantId, entries: list[NewAuditEntry], lost: int) -> None:
        """Write the entries of a tenant, and how many were lost before them; what cannot be written is lost too."""
        audit = self._backend.storages(tenant).audit
        if lost:
            entries.append(self._entry("audit.dropped", "audit", details={"reads": lost}))
        for start in range(0, len(entries), ENTRIES_MAX):
            batch = entries[start : start + ENTRIES_MAX]
            try:
                await audit.record_many(batch)
            except LlmspellError as error:
                told = bool(lost) and start + ENTRIES_MAX >= len(entries)  # the last entry is no read
                reads = len(batch) - told
                with self._mutex:
                    self._lost[tenant] += reads + (lost if told else 0)
                    self.dropped += reads
                logger.warning("%s reads were not recorded: %s", reads, type(error).__name__)


class _Watched:
    """A storage whose every read is noted."""

    def __init__(self, storage: object, read: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]) -> None:
        self._storage = storage
        self._read = read

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        if name not in READS or not inspect.iscoroutinefunction(method):
            return method
        read = self._read

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await read(name, functools.partial(method, *args, **kwargs))

        setattr(self, name, call)  # the next look-up finds it without coming here
        return call
