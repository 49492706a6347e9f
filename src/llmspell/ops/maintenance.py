"""The upkeep of a store's database: which URL, which backend, and sessions that are ended (MNT-01…04, MNT-06, MNT-08).

Not here: what is done to a server (`storage.postgres.maintenance`) or a file (`storage.sqlite.maintenance`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.errors import AccessRefused, NotFound, Unsupported
from llmspell.ops.inspection import IDLE_MAX_S, RUNNING_MAX_S, offence, urls_of
from llmspell.ops.named_store import require_owner_url
from llmspell.ops.schema_status import is_file
from llmspell.storage.contracts.maintenance import Announce, Step

if TYPE_CHECKING:
    from llmspell.settings import Settings

IN_MEMORY = "A store in memory keeps nothing to maintain."
AS_OWNER = "Tables are vacuumed, and indexes built,"
MAY_END = "An administrator may run: GRANT pg_signal_backend TO llmspell;"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was ended, or would be. `why`: what it did, or what kept it from being ended."""

    pid: int
    role: str
    application: str
    client: str
    result: str
    why: str


def vacuum(
    settings: Settings,
    *,
    tables: Sequence[str] = (),
    full: bool = False,
    analyze: bool = True,
    force: bool = False,
    dry_run: bool = False,
    announce: Announce,
) -> list[Step]:
    """Vacuum a store, by default the tables with the most writes; `full` rewrites tables. Return the steps.

    Raises:
        Unsupported: the store is in memory, or tables are named for a file, which is vacuumed as a whole.
        InvalidSetting: no URL of the owner is configured.
        StorageError and its kin: as the backend says.
    """
    if is_file(settings.storage.url):
        from llmspell.storage.sqlite import maintenance as file

        if tables:
            raise Unsupported("A file is vacuumed as a whole.", hint="Name no table.")
        return list(
            file.vacuum(
                _path(settings),
                full=full,
                busy_timeout_s=settings.storage.sqlite.busy_timeout_secs,
                dry_run=dry_run,
                announce=announce,
            )
        )
    from llmspell.storage.postgres import maintenance as server

    url = _owner(settings)
    if full:
        return list(server.rewrite(url, tables=tables, force=force, dry_run=dry_run, announce=announce))
    return list(server.vacuum(url, tables=tables, analyze=analyze, dry_run=dry_run, announce=announce))


def analyse(settings: Settings, *, tables: Sequence[str] = (), dry_run: bool = False, announce: Announce) -> list[Step]:
    """Renew the statistics by which statements are planned. Raises: as `vacuum`."""
    if is_file(settings.storage.url):
        from llmspell.storage.sqlite import maintenance as file

        if tables:
            raise Unsupported("A file is analysed as a whole.", hint="Name no table.")
        return list(
            file.analyse(
                _path(settings),
                busy_timeout_s=settings.storage.sqlite.busy_timeout_secs,
                dry_run=dry_run,
                announce=announce,
            )
        )
    from llmspell.storage.postgres import maintenance as server

    return list(server.analyse(_owner(settings), tables=tables, dry_run=dry_run, announce=announce))


def reindex(
    settings: Settings,
    *,
    names: Sequence[str] = (),
    invalid_only: bool = False,
    concurrently: bool = True,
    dry_run: bool = False,
    announce: Announce,
) -> list[Step]:
    """Build indexes anew, and return the steps. Raises: as `vacuum`, and NotFound for a name that is none."""
    if is_file(settings.storage.url):
        from llmspell.storage.sqlite import maintenance as file

        if invalid_only:
            raise Unsupported("An index of a file is never left half built.", hint="Leave --invalid out.")
        return list(
            file.reindex(
                _path(settings),
                names=tuple(names),
                busy_timeout_s=settings.storage.sqlite.busy_timeout_secs,
                dry_run=dry_run,
                announce=announce,
            )
        )
    from llmspell.storage.postgres import maintenance as server

    return list(
        server.reindex(
            _owner(settings),
            names=names,
            invalid_only=invalid_only,
            concurrently=concurrently,
            dry_run=dry_run,
            announce=announce,
        )
    )


def tune(settings: Settings, *, overwrite: bool = False, dry_run: bool = False, announce: Announce) -> list[Step]:
    """Have autovacuum come earlier where many rows are written. Raises: as `vacuum`."""
    if is_file(settings.storage.url):
        raise Unsupported("A file has no autovacuum.", hint="Run: llmspell database vacuum")
    from llmspell.storage.postgres import maintenance as server

    return list(server.tune(_owner(settings), overwrite=overwrite, dry_run=dry_run, announce=announce))


def offenders(
    settings: Settings,
    *,
    pids: Sequence[int] = (),
    idle: bool = False,
    running: bool = False,
    idle_over_s: float = IDLE_MAX_S,
    running_over_s: float = RUNNING_MAX_S,
) -> list[dict[str, Any]]:
    """Return the sessions that are named, that are idle for too long, or that run one statement for too long, each with `why`.

    Sessions that vacuum, build an index, copy or dump are offenders only when they are named.

    Raises:
        Unsupported: the store has no sessions.
        NotFound: a number is not that of a session of this database.
    """
    if settings.storage.backend != "postgresql":
        raise Unsupported("This store has no sessions: it is opened by processes.", hint="Name a server: --store …")
    from llmspell.storage.postgres.inspection import observe

    found = observe(urls_of(settings), ["connections"]).sections["connections"]
    missing = set(pids) - {row["pid"] for row in found}
    if missing:
        raise NotFound("There is no such session of this database.", session=min(missing))
    chosen = []
    for row in found:
        why = offence(row, idle_over_s if idle else float("inf"), running_over_s if running else float("inf"))
        if row["pid"] in pids:
            why = why or offence(row, 0.0, 0.0) or row["state"] or "what it does is hidden"
        if why:
            chosen.append({**row, "why": why})
    return chosen


def terminate(settings: Settings, sessions: Sequence[dict[str, Any]]) -> Iterator[Ended]:
    """End sessions, each as the role that has it where that is configured: a role may end its own.

    A session that has ended meanwhile, or whose number another one has by now, is left alone.
    """
    from llmspell.storage.postgres.inspection import terminate as end

    urls = urls_of(settings)
    for row in sessions:
        result, why = "gone", "it has ended by itself"
        for url in urls:
            try:
                if end(url, row["pid"], row["started_at"]):
                    result, why = "ended", row["why"]
                    break
            except AccessRefused:
                result, why = "refused", f"none of the configured roles may end a session of {row['role']}. {MAY_END}"
        yield Ended(
            pid=row["pid"],
            role=row["role"],
            application=row["application"],
            client=row["client"],
            result=result,
            why=why,
        )


def _owner(settings: Settings) -> str:
    if settings.storage.backend == "memory":
        raise Unsupported(IN_MEMORY, hint="Name a file or a server: --store …")
    return require_owner_url(settings, without_server=IN_MEMORY, as_owner=AS_OWNER)


def _path(settings: Settings) -> str:
    from llmspell.storage.open import path_of

    return path_of(settings.storage.url)
