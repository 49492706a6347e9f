from __future__ import annotations

from pathlib import Path

import pytest

from llmspell.errors import InvalidSetting
from llmspell.providers.cache import CachedEmbedder
from llmspell.providers.configured import open_configured
from llmspell.providers.hashing import HashingEmbedder
from llmspell.providers.openai import OpenAIEmbedder
from llmspell.settings import EmbeddingSettings

Cache = type(EmbeddingSettings().cache)


def test_an_endpoint_is_opened_behind_the_cache_that_the_settings_describe(tmp_path: Path) -> None:
    cache = Cache(persistence_path=str(tmp_path), max_entries=7, per_tenant=True)

    embedder = open_configured(EmbeddingSettings(provider="openai", dimensions=768, cache=cache))

    assert isinstance(embedder, CachedEmbedder)
    assert embedder.dimension == 768
    config = embedder.cache.config
    assert (config.max_entries, config.per_tenant, config.persistence_path) == (7, True, tmp_path)


def test_without_a_path_the_cache_is_below_the_users_cache_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    embedder = open_configured(EmbeddingSettings(provider="openai"))

    assert isinstance(embedder, CachedEmbedder)
    assert embedder.cache.config.persistence_path == tmp_path / "llmspell" / "embeddings"


def test_a_cache_that_is_switched_off_is_not_there() -> None:
    settings = EmbeddingSettings(provider="openai", cache=Cache(enabled=False))

    assert isinstance(open_configured(settings), OpenAIEmbedder)


def test_hashing_has_the_size_that_is_asked_for_and_no_cache() -> None:
    embedder = open_configured(EmbeddingSettings(provider="hashing", dimensions=1536))

    assert isinstance(embedder, HashingEmbedder)
    assert embedder.dimension == 1536


def test_a_size_that_the_model_does_not_have_is_refused(model_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="384"):
        open_configured(EmbeddingSettings(provider="local", model=str(model_path), dimensions=768))
