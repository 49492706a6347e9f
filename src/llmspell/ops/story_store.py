"""The store that the quickstart tells its story on: made for it, or named by the user.

Not here: the story (`cli`), what a cluster is (`embedded_postgres`).

Rule 1: without a named store nothing of the user's is touched: the file has a name of its own, the server is temporary.
Rule 2: a temporary server is gone, with its data, when the block ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import quote

import msgspec

from llmspell.errors import InvalidUrl, Unavailable
from llmspell.settings import Settings, masked

StoryBackend: TypeAlias = Literal["memory", "sqlite", "postgres"]
STORY_BACKENDS: tuple[StoryBackend, ...] = get_args(StoryBackend)
STORY_FILE = "llmspell-quickstart.db"
SCHEMES: dict[str, StoryBackend] = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
}
_BESIDE_A_FILE = ("", "-wal", "-shm")


class StoryStore(msgspec.Struct, frozen=True, kw_only=True):
    """A store to open: its URL, settings that go with it, and what to say of it.

    `own`: made for the story, so that it is empty; `kept`: there when the story is over. `shown_url` hides a password.
    """

    backend: StoryBackend
    url: str
    overrides: dict[str, Any] = {}
    own: bool
    kept: bool
    where: str
    file: Path | None = None

    @property
    def shown_url(self) -> str:
        """The URL as it may be printed."""
        return str(masked(self.url))


@contextmanager
def story_store(
    backend: StoryBackend | None,
    *,
    named: str | None,
    settings: Settings,
    data_folder: Path,
    announce: Callable[[str], None],
) -> Iterator[StoryStore]:
    """Give the store for `backend` (default: a file), or the one that `named` is the URL of.

    A file is replaced, after `announce` has heard so. A server is the configured one, or a temporary one of our own.

    Raises:
        InvalidUrl: `named` belongs to another backend.
        MissingExtra, StorageError: the embedded server is not installed or does not start.
    """
    if named is not None:
        yield _named(named, backend, settings)
    elif backend == "memory":
        yield StoryStore(backend="memory", url="memory://", own=True, kept=False, where="in the memory of this process")
    elif backend == "postgres":
        server = settings.storage.postgres.url
        if server is not None:
            yield _named(server, backend, settings)
        else:
            with _temporary_server(announce) as store:
                yield store
    else:
        yield _fresh_file(data_folder, announce)


def _named(url: str, backend: StoryBackend | None, settings: Settings) -> StoryStore:
    actual = SCHEMES.get(url.partition(":")[0])
    if actual is None or backend not in (None, actual):
        wanted = "" if backend is None else f", which is not {backend}"
        raise InvalidUrl(f"The story cannot be told on this store{wanted}.", url=masked(url))
    migrates = actual == "postgres" and settings.storage.postgres.admin_url is not None
    return StoryStore(
        backend=actual,
        url=url,
        overrides={"storage.postgres.auto_migrate": True} if migrates else {},
        own=actual == "memory",
        kept=actual != "memory",
        where="in the store that you named" if actual != "memory" else "in the memory of this process",
    )


def _fresh_file(folder: Path, announce: Callable[[str], None]) -> StoryStore:
    file = folder / STORY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            announce(f"Replacing {file}")
        for ending in _BESIDE_A_FILE:
            file.with_name(file.name + ending).unlink(missing_ok=True)
    except OSError as exc:
        raise Unavailable("The file of the quickstart cannot be made.", file=str(file), reason=exc.strerror) from exc
    return StoryStore(
        backend="sqlite",
        url="sqlite:///" + quote(file.as_posix()),
        own=True,
        kept=True,
        where="in a SQLite file",
        file=file,
    )


@contextmanager
def _temporary_server(announce: Callable[[str], None]) -> Iterator[StoryStore]:
    from llmspell.ops.embedded_postgres import APP_ROLE, OPERATOR_ROLE, OWNER_ROLE, EmbeddedCluster
    from llmspell.ops.postgres_installation import MAJOR_VERSION

    announce(f"Starting a temporary PostgreSQL {MAJOR_VERSION}; it ends with this command")
    with EmbeddedCluster.temporary() as cluster:
        yield StoryStore(
            backend="postgres",
            url=cluster.url(role=APP_ROLE),
            overrides={
                "storage.postgres.admin_url": cluster.url(role=OWNER_ROLE),
                "storage.postgres.operator_url": cluster.url(role=OPERATOR_ROLE),
                "storage.postgres.auto_migrate": True,
            },
            own=True,
            kept=False,
            where=f"in a temporary PostgreSQL {MAJOR_VERSION} with row-level security, as the role {APP_ROLE}",
        )
