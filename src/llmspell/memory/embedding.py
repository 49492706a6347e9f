"""Texts to embeddings: which space they belong to, and windows for texts that a model cannot read at once.

Rule: no storage connection is held here; an embedder may take as long as it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from llmspell.providers.cache import CachedEmbedder
from llmspell.providers.embedder import Embedder, checked_vectors
from llmspell.retrieval.windows import split_to_fit
from llmspell.storage.contracts.memories import EmbeddingSpace
from llmspell.tenant import TenantId

Take: TypeAlias = Callable[[int], Awaitable[None]]
"""Counts texts before they are embedded, or raises `QuotaExceeded`."""


class Meter(Protocol):
    """Whoever counts a tenant's texts."""

    async def take_embeddings(self, count: int) -> None:
        """Count texts before they are embedded, or raise `QuotaExceeded`."""
        ...

    async def settle(self) -> None:
        """Bring the tenant into being before texts are embedded that it shall keep; a question does not."""
        ...


class MeteredEmbedder:
    """An embedder whose texts are counted before it is asked."""

    def __init__(self, embedder: Embedder, take: Take) -> None:
        """The embedder is somebody else's, who closes it."""
        self._embedder = embedder
        self._take = take

    def __repr__(self) -> str:
        return f"MeteredEmbedder({self._embedder!r})"

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

    def count_tokens(self, text: str) -> int:
        return self._embedder.count_tokens(text)

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """As `Embedder.embed`.

        Raises:
            QuotaExceeded: the tenant may not have so many embedded today.
        """
        await self._take(len(texts))
        return await self._embedder.embed(texts)

    async def aclose(self) -> None:
        """Release nothing: it owns nothing."""


class Embedding:
    """An embedder, opened when it is first needed, and the space of its vectors."""

    def __init__(
        self, open_embedder: Callable[[], Embedder], *, settle: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`settle` is called before texts are embedded that shall be kept."""
        self._open = open_embedder
        self._settle = settle
        self._embedder: Embedder | None = None

    def for_tenant(self, tenant: TenantId, meter: Meter) -> Embedding:
        """Return this embedding as a tenant uses it: a cache that keeps tenants apart shows it only its own entries.

        What the provider is asked for is taken from `meter`; with a cache that tenants share, what the cache knows too, for one
        tenant's refusal must never reach another that waits for the same text. The view opens what it is a view of, and is not
        closed.
        """
        return Embedding(lambda: self._seen_by(tenant, meter.take_embeddings), settle=meter.settle)

    def _seen_by(self, tenant: TenantId, take: Take) -> Embedder:
        embedder = self.embedder
        if isinstance(embedder, CachedEmbedder) and embedder.cache.config.per_tenant:
            return embedder.for_tenant(tenant, within=lambda provider: MeteredEmbedder(provider, take))
        return MeteredEmbedder(embedder, take)

    @property
    def embedder(self) -> Embedder:
        """The embedder.

        Raises:
            ConfigError: it cannot be opened; the error says what to install or to set.
        """
        if self._embedder is None:
            self._embedder = self._open()
        return self._embedder

    @property
    def space(self) -> EmbeddingSpace:
        """The space of the embedder's vectors: one model, one dimension."""
        embedder = self.embedder
        return EmbeddingSpace(
            space_id=f"{embedder.model}@{embedder.dimension}", model=embedder.model, dimension=embedder.dimension
        )

    async def query(self, text: str) -> bytes:
        """Embed a question; of one longer than the model reads, the beginning counts."""
        (vector,) = await self._embed([text])
        return vector

    async def texts(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Embed texts, each as one vector or as one per window."""
        if self._settle is not None:
            await self._settle()
        parts = [self.windows(text) for text in texts]
        vectors = iter(await self._embed([window for windows in parts for window in windows]))
        return [tuple(next(vectors) for _ in windows) for windows in parts]

    async def _embed(self, texts: Sequence[str]) -> list[bytes]:
        """Embed, and believe nothing: an embedder may be anybody's.

        Raises:
            ProviderError: it failed, or its answer is not one vector of the right size for each text.
        """
        embedder = self.embedder
        return checked_vectors(await embedder.embed(texts), count=len(texts), dimension=embedder.dimension)

    def windows(self, text: str) -> list[str]:
        """Cut a text into overlapping windows that the model reads whole; together they hold all of it."""
        embedder = self.embedder
        return split_to_fit(text, count=embedder.count_tokens, max_tokens=embedder.max_tokens)

    def count_tokens(self, text: str) -> int:
        """Count tokens by the embedder's tokenizer."""
        return self.embedder.count_tokens(text)

    @property
    def exact_tokens(self) -> bool:
        """Whether token counts come from the model's own tokenizer."""
        return self.embedder.exact_tokens

    async def aclose(self) -> None:
        """Release the embedder, if it was opened."""
        if self._embedder is not None:
            await self._embedder.aclose()
