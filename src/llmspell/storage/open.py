"""URL to backend: the only place that names one.

memory://                          plain Python, gone with the process
sqlite:///agent.db                 a file beside you; four slashes for an absolute path
postgresql://user@host/database    a server, as the application role
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from llmspell.clock import Clock
from llmspell.errors import InvalidUrl
from llmspell.ids import IdSource
from llmspell.settings import URL_HINT, HnswSettings, Settings, default_store_url, masked
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.vector_index import IndexChoice

SQLITE, POSTGRESQL = "sqlite:///", ("postgresql://", "postgres://")
MEMORY = ("memory://", "memory:")
MEBIBYTE = 1024 * 1024


async def open_backend(url: str, *, settings: Settings, clock: Clock, ids: IdSource) -> Backend:
    """Open the store that `url` names, with the parts of the settings that belong to it.

    Raises:
        InvalidUrl: it cannot be read.
        StorageError, ConfigError: the store cannot be opened; the error says why and what to do.
    """
    language = settings.text.language
    if url in MEMORY:
        from llmspell.storage.inmemory.backend import InMemoryBackend

        return InMemoryBackend(clock=clock, ids=ids, language=language)
    if url.startswith(SQLITE):
        from llmspell.storage.sqlite.backend import open_sqlite

        embedded = settings.storage.sqlite
        return await open_sqlite(
            path_of(url),
            synchronous=embedded.synchronous,
            readers=embedded.readers,
            busy_timeout_s=embedded.busy_timeout_secs,
            clock=clock,
            ids=ids,
            language=language,
            create_folder=url == default_store_url(),
            vector_index=index_choice(settings.rag.vector_storage.hnsw),
            memory_index=index_choice(settings.memory.hnsw),
            vector_path=settings.storage.vector_path,
            indexes=settings.storage.vector_backend == "hnsw",
            vector_cache_bytes=embedded.vector_cache_mb * MEBIBYTE,
            index_threads=embedded.index_threads,
            vector_mmap=embedded.vector_mmap,
        )
    if url.startswith(POSTGRESQL):
        from llmspell.storage.postgres.backend import open_postgres

        server = settings.storage.postgres
        return await open_postgres(
            url,
            admin_url=server.admin_url,
            operator_url=server.operator_url,
            tenant_key=server.tenant_key,
            pool_size=server.pool_size,
            pool_timeout_s=server.pool_timeout_secs,
            idle_timeout_s=server.idle_timeout_secs,
            max_lifetime_s=server.max_lifetime_secs,
            statement_cache_size=server.statement_cache_size,
            pooler=server.pooler,
            clock=clock,
            ids=ids,
            language=language,
            auto_migrate=server.auto_migrate,
            enforce_tenant_isolation=server.enforce_tenant_isolation,
        )
    scheme, _, rest = url.partition(":")
    if scheme.lower() == "sqlite":
        hint = f"Three slashes for a file beside you: {SQLITE}{rest.lstrip('/')}; four for an absolute path."
        raise InvalidUrl("The URL of a file begins with sqlite:///.", url=masked(url), hint=hint)
    raise InvalidUrl("The store URL has an unknown scheme.", url=masked(url), hint=URL_HINT)


def index_choice(chosen: HnswSettings) -> IndexChoice:
    """Return what a section of the settings says of an index."""
    return IndexChoice(
        preset=chosen.preset,
        m=chosen.m,
        ef_construction=chosen.ef_construction,
        ef_search=chosen.ef_search,
        max_elements=chosen.max_elements,
        recall=None if chosen.recall == "off" else chosen.recall,
    )


def index_folder(settings: Settings) -> Path | None:
    """Return the folder in which the configured store keeps index files, absolute; None when it is no store in a file.

    Raises:
        InvalidUrl: the URL names no file.
    """
    if not settings.storage.url.startswith(SQLITE):
        return None
    from llmspell.storage.sqlite.index_options import IndexOptions

    return IndexOptions(path=path_of(settings.storage.url), vector_path=settings.storage.vector_path).folder


def path_of(url: str) -> str:
    """Return the file that a `sqlite:///` URL names.

    Raises:
        InvalidUrl: it names none, or has parameters.
    """
    path, _, query = url.removeprefix(SQLITE).partition("?")
    if query:
        raise InvalidUrl("The URL of a file takes no parameters.", url=url, hint="Use the settings [storage.sqlite].")
    if not path or path == ":memory:":
        raise InvalidUrl("The URL names no file.", url=url, hint="Use sqlite:///agent.db, or memory:// for tests.")
    return unquote(path)
