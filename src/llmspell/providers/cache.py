"""An embedder that remembers: memory first, then files, then the provider (RAG-11 to RAG-14, AMB-084).

    cached = CachedEmbedder(embedder, EmbeddingCache(CacheConfig(persistence_path=folder), clock=clock))
    vectors = await cached.embed(texts)

Rule 1: a key is "emb:" and the BLAKE3 of model, dimension and text, each with its length before it, and of the tenant
        when entries are not shared: nothing else can give the same key.
Rule 2: one call asks the provider once, for each text once, and only for what is not known; a text that another call is
        asking for already is waited for instead.
Rule 3: writing to disk never delays a caller. What is not written when the process ends is lost, and only that.
Rule 4: erasing a tenant is done when it returns, or it raises. What was asked for before is answered and not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from weakref import WeakValueDictionary

from blake3 import blake3

from llmspell.clock import Clock, SystemClock, to_microseconds
from llmspell.errors import InvalidSetting, ProviderError, StorageError
from llmspell.observe import logger
from llmspell.providers.cache_files import SHARED, EmbeddingFiles, erase_namespace
from llmspell.providers.embedder import COMPONENT_BYTES, Embedder, checked_vectors, require_texts
from llmspell.tenant import TenantId

KEY_PREFIX = "emb:"
MEMORY_MAX_ENTRIES = 10_000  # about 16 MB at 384 dimensions, 123 MB at 3,072
PENDING_WRITES_MAX = 2_000  # entries that wait for the disk; more are kept in memory only
PRODUCTION_PATH = Path("/var/cache/llmspell/embeddings")  # RAG-11
Digest: TypeAlias = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How much is remembered, how long and where."""

    max_entries: int = 100_000
    """On disk, and in memory at most 10,000 of them."""
    ttl_seconds: float = 3_600
    compression_threshold: int = 1_024
    """Entries of so many bytes and more are compressed where that saves a tenth (float32 hardly ever does)."""
    persistence_path: Path | None = None
    """None: in memory only."""
    per_tenant: bool = False
    """Never share entries between tenants; then the cache of a tenant can be erased with it."""

    def __post_init__(self) -> None:
        if self.max_entries < 1 or self.ttl_seconds <= 0 or self.compression_threshold < 0:
            raise InvalidSetting(
                "The embedding cache needs at least one entry, a positive TTL and a threshold of 0 or more."
            )

    @classmethod
    def production(cls) -> CacheConfig:
        """RAG-11's values: 100,000 entries, one hour, compression from 1,024 bytes, below /var/cache."""
        return cls(
            max_entries=100_000, ttl_seconds=3_600, compression_threshold=1_024, persistence_path=PRODUCTION_PATH
        )


@dataclass(slots=True)
class CacheMetrics:
    """How often the cache knew the answer; a text counts once per call, however often the call repeats it."""

    hits: int = 0
    misses: int = 0
    lost_writes: int = 0
    """Entries that could not be kept on disk."""

    def record_hit(self, count: int = 1) -> None:
        self.hits += count

    def record_miss(self, count: int = 1) -> None:
        self.misses += count

    @property
    def hit_rate(self) -> float:
        """From 0 to 1; 0 before the first question."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class Life:
    """The time of a namespace from one erasure to the next: what began in a life that ended keeps nothing."""

    __slots__ = ("__weakref__", "ended", "namespace")

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.ended = False


class EmbeddingCache:
    """The memory of a `CachedEmbedder`. Belongs to one event loop; its folder may be shared by processes."""

    def __init__(self, config: CacheConfig | None = None, *, clock: Clock | None = None) -> None:
        """Nothing is read yet; the folder is made with the first use."""
        self.config = config or CacheConfig()
        self.metrics = CacheMetrics()
        self._clock = clock or SystemClock()
        self._ttl_us = int(self.config.ttl_seconds * 1_000_000)
        self._memory_max = min(self.config.max_entries, MEMORY_MAX_ENTRIES)
        self._memory: OrderedDict[tuple[str, Digest], tuple[int, bytes]] = OrderedDict()
        # Held by whoever reads or asks, so that there are as many as operations under way.
        self._lives: WeakValueDictionary[str, Life] = WeakValueDictionary()
        self._files: EmbeddingFiles | None = None
        self._files_failed = self.config.persistence_path is None
        # One writer: order is kept, so an erasure comes after the writes that were waiting before it.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llmspell-embedding-cache")
        self._pending = threading.BoundedSemaphore(PENDING_WRITES_MAX)
        self._closed = False

    def recall(self, namespace: str, digest: Digest) -> bytes | None:
        """Return a vector from memory, or None."""
        entry = self._memory.get((namespace, digest))
        if entry is None:
            return None
        if abs(to_microseconds(self._clock.now()) - entry[0]) >= self._ttl_us:
            del self._memory[namespace, digest]
            return None
        self._memory.move_to_end((namespace, digest))
        return entry[1]

    def life(self, namespace: str) -> Life:
        """Return the namespace's present life. Take it before asking for what is to be kept, and hold it until then."""
        return self._lives.setdefault(namespace, Life(namespace))

    async def read(self, life: Life, digests: Sequence[Digest], *, size_bytes: int) -> dict[Digest, bytes]:
        """Return the vectors that the folder has, and remember them. What is of another size is left out."""
        if self._files_failed or not digests or self._closed:
            return {}
        now_us = to_microseconds(self._clock.now())
        found = await asyncio.to_thread(self._read_all, life.namespace, list(digests), now_us)
        fitting = {digest: entry for digest, entry in found.items() if len(entry[1]) == size_bytes}
        for digest, (written_us, vector) in fitting.items():
            if not life.ended:
                self._remember(life.namespace, digest, vector, written_us)
        return {digest: vector for digest, (_, vector) in fitting.items()}

    def keep(self, life: Life, digest: Digest, vector: bytes) -> None:
        """Remember a vector, and let it be written behind the caller's back; unless its life has ended."""
        if life.ended:
            return
        now_us = to_microseconds(self._clock.now())
        self._remember(life.namespace, digest, vector, now_us)
        if self._files_failed or self._closed:
            return
        if not self._pending.acquire(blocking=False):
            self.metrics.lost_writes += 1
            return
        self._writer.submit(self._write, life.namespace, digest, vector, now_us)

    async def erase_tenant(self, tenant: TenantId) -> None:
        """Forget every entry of a tenant, in memory and on disk, also of questions that are under way.

        Shared entries belong to nobody and stay until their TTL. It works as well after `aclose`, and where the folder
        could not be used. Another process that is writing for the tenant at this moment must have stopped before.

        Raises:
            StorageError: the files cannot be removed.
        """
        namespace = namespace_of(tenant)
        life = self._lives.pop(namespace, None)
        if life is not None:
            life.ended = True
        for key in [key for key in self._memory if key[0] == namespace]:
            del self._memory[key]
        if self.config.persistence_path is None:
            return
        try:
            if self._closed:
                await asyncio.to_thread(self._erase_after_close, namespace)
            else:
                await asyncio.wrap_future(self._writer.submit(erase_namespace, self.config.persistence_path, namespace))
        except OSError as exc:
            raise StorageError(
                f"The tenant's embeddings in {self.config.persistence_path} cannot be removed: {exc}.",
                hint="They are erased only when this succeeds: mend the folder's permissions and try again.",
            ) from exc

    async def flush(self) -> None:
        """Wait until everything that was kept so far is on disk."""
        if not self._closed:
            await asyncio.wrap_future(self._writer.submit(int))

    async def aclose(self) -> None:
        """Write what is waiting, and stop. Safe to call twice."""
        self._closed = True
        await asyncio.to_thread(self._writer.shutdown, wait=True)

    def _remember(self, namespace: str, digest: Digest, vector: bytes, written_us: int) -> None:
        self._memory[namespace, digest] = (written_us, vector)
        self._memory.move_to_end((namespace, digest))
        while len(self._memory) > self._memory_max:
            self._memory.popitem(last=False)

    # Below: off the event loop.

    def _open_files(self) -> EmbeddingFiles | None:
        if self._files is None and self.config.persistence_path is not None and not self._files_failed:
            try:
                self._files = EmbeddingFiles(
                    self.config.persistence_path,
                    max_entries=self.config.max_entries,
                    ttl_us=self._ttl_us,
                    compression_threshold=self.config.compression_threshold,
                )
            except OSError as exc:
                # A cache that cannot be written costs time, never an answer.
                self._files_failed = True
                logger.warning("the embedding cache in %s cannot be used: %s", self.config.persistence_path, exc)
        return self._files

    def _read_all(self, namespace: str, digests: list[Digest], now_us: int) -> dict[Digest, tuple[int, bytes]]:
        files = self._open_files()
        if files is None:
            return {}
        found = ((digest, files.read(namespace, digest, now_us=now_us)) for digest in digests)
        return {digest: entry for digest, entry in found if entry is not None}

    def _write(self, namespace: str, digest: Digest, vector: bytes, now_us: int) -> None:
        files = self._open_files()
        try:
            if files is not None:
                files.write(namespace, digest, vector, now_us=now_us)
        except OSError as exc:
            self.metrics.lost_writes += 1
            logger.debug("an entry of the embedding cache was not written: %s", exc)
        finally:
            self._pending.release()

    def _erase_after_close(self, namespace: str) -> None:
        self._writer.shutdown(wait=True)  # what was waiting is written first
        if self.config.persistence_path is not None:
            erase_namespace(self.config.persistence_path, namespace)


@dataclass(slots=True, eq=False)
class Question:
    """A call of the provider under way, and how many callers wait for it."""

    task: asyncio.Task[dict[Digest, bytes]]
    callers: int = 0


class CachedEmbedder:
    """An `Embedder` with a cache before it. Belongs to one event loop."""

    def __init__(self, embedder: Embedder, cache: EmbeddingCache) -> None:
        """Owns both: `aclose` closes them."""
        self._embedder = embedder
        self.cache = cache
        self._namespace = SHARED
        self._tenant: TenantId | None = None
        self._asked: dict[tuple[str, Digest], Question] = {}
        self._questions: set[Question] = set()
        self._view = False

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r})"

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    @property
    def max_tokens(self) -> int:
        return self._embedder.max_tokens

    @property
    def exact_tokens(self) -> bool:
        return self._embedder.exact_tokens

    @property
    def metrics(self) -> CacheMetrics:
        """Of the cache, all tenants together."""
        return self.cache.metrics

    def count_tokens(self, text: str) -> int:
        return self._embedder.count_tokens(text)

    def for_tenant(
        self, tenant: TenantId, *, within: Callable[[Embedder], Embedder] = lambda embedder: embedder
    ) -> CachedEmbedder:
        """Return this embedder as a tenant sees it: with entries of its own when the cache is `per_tenant`.

        The view shares everything else and is not closed. `within` gives what stands between its cache and the provider.
        """
        if not self.cache.config.per_tenant:
            return self
        view = CachedEmbedder(within(self._embedder), self.cache)
        view._namespace, view._tenant, view._view = namespace_of(tenant), tenant, True
        view._asked, view._questions = self._asked, self._questions
        return view

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """As `Embedder.embed`."""
        checked = require_texts(texts)
        digests = [self._digest(text) for text in checked]
        wanted = dict(zip(digests, checked, strict=True))
        life = self.cache.life(self._namespace)
        known = self._recall(wanted)
        if len(known) < len(wanted):
            absent = [
                digest for digest in wanted if digest not in known and (self._namespace, digest) not in self._asked
            ]
            known |= await self.cache.read(life, absent, size_bytes=self._size_bytes)
            # Other calls went on meanwhile: what they found or asked for is not asked for again.
            known |= self._recall({digest: text for digest, text in wanted.items() if digest not in known})
        self.cache.metrics.record_hit(len(known))
        self.cache.metrics.record_miss(len(wanted) - len(known))
        if len(known) < len(wanted):
            known |= await self._ask({digest: text for digest, text in wanted.items() if digest not in known}, life)
        return [known[digest] for digest in digests]

    async def erase_tenant(self, tenant: TenantId) -> None:
        """As `EmbeddingCache.erase_tenant`. Calls that are under way get their answers."""
        await self.cache.erase_tenant(tenant)

    async def aclose(self) -> None:
        """Answer who is waiting, write what is to be kept, close the embedder. A tenant's view closes nothing.

        A question whose callers have all left is given up: a process that ends does not wait for its provider.
        """
        if self._view:
            return
        for question in self._questions:
            if not question.callers:
                question.task.cancel()
        if self._questions:
            await asyncio.wait({question.task for question in self._questions})
        await self.cache.aclose()
        await self._embedder.aclose()

    @property
    def _size_bytes(self) -> int:
        return self._embedder.dimension * COMPONENT_BYTES

    def _digest(self, text: str) -> Digest:
        return key_digest(self._embedder.model, self._embedder.dimension, text, tenant=self._tenant)

    def _recall(self, wanted: dict[Digest, str]) -> dict[Digest, bytes]:
        found = ((digest, self.cache.recall(self._namespace, digest)) for digest in wanted)
        return {digest: vector for digest, vector in found if vector is not None}

    async def _ask(self, missing: dict[Digest, str], life: Life) -> dict[Digest, bytes]:
        """The vectors of what nobody knows: from calls that are under way, and one call for the rest."""
        joined = {digest: self._asked[key] for digest in missing if (key := (self._namespace, digest)) in self._asked}
        own = {digest: text for digest, text in missing.items() if digest not in joined}
        answers: dict[Digest, bytes] = {}
        failed: dict[Digest, str] = {}
        with waiting_for(set(joined.values())):
            if own:
                answers |= await self._start(own, life)
            for digest, question in joined.items():
                try:
                    answers[digest] = (await asyncio.shield(question.task))[digest]
                except ProviderError:
                    # That call may have failed because of its other texts; ask for this one by itself, once.
                    failed[digest] = missing[digest]
        if failed:
            answers |= await self._start(failed, life)
        return answers

    async def _start(self, missing: dict[Digest, str], life: Life) -> dict[Digest, bytes]:
        """Ask in a task of our own, so that a caller who leaves takes nothing from those who joined."""
        question = Question(asyncio.get_running_loop().create_task(self._generate(missing, life)))
        keys = [(self._namespace, digest) for digest in missing]
        self._asked.update(dict.fromkeys(keys, question))
        self._questions.add(question)

        def ended(done: asyncio.Task[dict[Digest, bytes]]) -> None:
            self._questions.discard(question)
            for key in keys:
                if self._asked.get(key) is question:
                    del self._asked[key]
            if not done.cancelled():
                done.exception()  # seen by whoever waits; nobody may be waiting any more

        question.task.add_done_callback(ended)
        with waiting_for({question}):
            return await asyncio.shield(question.task)

    async def _generate(self, missing: dict[Digest, str], life: Life) -> dict[Digest, bytes]:
        vectors = await self._embedder.embed(list(missing.values()))
        checked = checked_vectors(vectors, count=len(missing), dimension=self.dimension)
        answers = dict(zip(missing, checked, strict=True))
        for digest, vector in answers.items():
            self.cache.keep(life, digest, vector)
        return answers


@contextmanager
def waiting_for(questions: set[Question]) -> Iterator[None]:
    """Count the caller among those who wait for the questions, until the block ends."""
    for question in questions:
        question.callers += 1
    try:
        yield
    finally:
        for question in questions:
            question.callers -= 1


def key_digest(model: str, dimension: int, text: str, *, tenant: TenantId | None = None) -> Digest:
    """Return the BLAKE3 of what decides a vector; each part has its length before it, so no two lists look the same."""
    parts = [model.encode(), str(dimension).encode(), text.encode(), *([tenant.encode()] if tenant is not None else [])]
    return blake3(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def cache_key(model: str, dimension: int, text: str, *, tenant: TenantId | None = None) -> str:
    """Return the key of a text as RAG-12 writes it: "emb:" and the digest in hex."""
    return KEY_PREFIX + key_digest(model, dimension, text, tenant=tenant).hex()


def namespace_of(tenant: TenantId) -> str:
    """Return the folder name of a tenant: a digest, because ids may hold anything, and names of customers."""
    return "t-" + hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()
