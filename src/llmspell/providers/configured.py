"""The embedder that the settings ask for, behind its cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmspell.directories import directories
from llmspell.errors import InvalidSetting
from llmspell.providers.embedder import Embedder, open_embedder

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.settings import EmbeddingSettings

CACHE_FOLDER = "embeddings"


def open_configured(
    settings: EmbeddingSettings, *, clock: Clock | None = None, models_folder: Path | None = None
) -> Embedder:
    """Open the embedder of `[embedding]`, behind the cache of `[embedding.cache]` unless that is switched off.

    The hashing embedder has no cache: it is quicker than one.

    Raises:
        ConfigError: as `open_embedder`.
    """
    from llmspell.providers.endpoint import RetryPolicy

    embedder = open_embedder(
        settings.provider if settings.model is None else f"{settings.provider}:{settings.model}",
        models_folder=models_folder,
        base_url=settings.base_url,
        api_key=settings.api_key,
        dimensions=settings.dimensions,
        batch_size=settings.batch_size,
        retry=RetryPolicy(deadline_s=settings.timeout_secs),
    )
    if embedder is None:
        raise InvalidSetting("`embedding.provider` names no embedder.")
    if settings.dimensions not in (None, embedder.dimension):
        raise InvalidSetting(
            f"The model {embedder.model} has {embedder.dimension} dimensions; `embedding.dimensions` says {settings.dimensions}."
        )
    if settings.provider == "hashing" or not settings.cache.enabled:
        return embedder
    from llmspell.providers.cache import CacheConfig, CachedEmbedder, EmbeddingCache

    path = settings.cache.persistence_path
    config = CacheConfig(
        max_entries=settings.cache.max_entries,
        ttl_seconds=settings.cache.ttl_seconds,
        compression_threshold=settings.cache.compression_threshold,
        persistence_path=Path(path).expanduser() if path else directories().cache / CACHE_FOLDER,
        per_tenant=settings.cache.per_tenant,
    )
    return CachedEmbedder(embedder, EmbeddingCache(config, clock=clock))
