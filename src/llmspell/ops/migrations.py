"""The schema of a store for its operator: which migrations there are, what they would do, whether the schema is what they make.

Not here: what a migration does, how it is applied and how a schema is compared; those belong to each dialect.

Rule 1: a server is asked as the role that owns the schema where its URL is known, otherwise as the serving role; it is changed only
as the owner. What changes nothing opens no store, so it needs no key of tenants and works with a schema of any age.
Rule 2: looking makes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from llmspell.clock import Clock
from llmspell.errors import InvalidSetting, LlmspellError, Unavailable
from llmspell.ops.schema_status import POSTGRES_PACKAGE, SQLITE_PACKAGE, file_of, is_file, missing_file
from llmspell.storage.contracts.backend import MigrationStatus
from llmspell.storage.contracts.schema import Difference, RepairStep
from llmspell.storage.relational import migrations
from llmspell.storage.relational.migrations import Migration, MigrationState, PlannedMigration, Recorded

if TYPE_CHECKING:
    from llmspell.settings import Settings

Announce = Callable[[str], None]
SERVER: Final = ("postgresql://", "postgres://")
NO_SCHEMA: Final = MigrationStatus(version=0, applied=(), pending=())


class MigrationList(msgspec.Struct, frozen=True, kw_only=True):
    """Every migration, of this release and of the store, and the last that was applied. `current`: nothing is amiss."""

    version: int
    current: bool
    migrations: list[MigrationState]


class MigrationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply` would do. `lock_timeout_s` is how long one waits for a lock before it gives way, `lock_attempts` how often.

    `locks_whole_store`: writers wait while a migration runs, whatever it touches; None for a store without locks.
    """

    version: int
    pending: list[PlannedMigration]
    lock_timeout_s: float | None
    lock_attempts: int | None
    locks_whole_store: bool


class SchemaVerification(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a store is what its migrations make. `compared` is False while something is pending on a server."""

    ok: bool
    version: int
    migrations: list[MigrationState]
    compared: bool
    differences: list[Difference]


def listed(settings: Settings) -> MigrationList:
    """Say what became of every migration. Takes every store as it is, also one that was tampered with.

    Raises:
        Unavailable, StorageError, AccessRefused, NotADatabase: the store cannot be read.
    """
    found = migrations.states(_known(settings), _recorded(settings))
    return MigrationList(
        version=max((one.version for one in found if one.hash_ok is not None), default=0),
        current=all(one.state == "applied" for one in found),
        migrations=found,
    )


def planned(settings: Settings, *, to: int | None = None, lock_timeout_s: float | None = None) -> MigrationPlan:
    """Say what is pending, up to a version, and what each migration was measured to lock and to write anew.

    Raises:
        InvalidLimit: there is no such version.
        SchemaTooNew, MigrationModified, MigrationError: what is applied does not fit this release.
        Unavailable, StorageError, AccessRefused, NotADatabase: the store cannot be read.
    """
    known = _known(settings)
    rows = [migrations.Applied(row.version, row.name, row.sha256) for row in _recorded(settings)]
    compared = migrations.plan(known, rows)
    wanted = migrations.until(known, to) if known else ()
    package = _package(settings)
    pending = [one for one in compared.pending if one in wanted]
    timeout, attempts = _lock_limits(settings, lock_timeout_s)
    return MigrationPlan(
        version=compared.current_version,
        pending=migrations.described(package, pending) if package else [],
        lock_timeout_s=timeout,
        lock_attempts=attempts,
        locks_whole_store=is_file(settings.storage.url),
    )


def apply(
    settings: Settings,
    *,
    clock: Clock,
    to: int | None = None,
    lock_timeout_s: float | None = None,
    announce: Announce = lambda _: None,
) -> MigrationStatus:
    """Apply what is pending, up to a version, each migration in a transaction of its own.

    `announce` hears the name of each before it runs; `lock_timeout_s` is for a server: how long to wait for a lock.

    Raises:
        InvalidSetting: something is pending on a server, and the URL of its owner is not configured.
        InvalidLimit, SchemaTooNew, MigrationModified, MigrationError: nothing was changed.
        MigrationFailed: names the migration; those before it stay applied.
        UnsafeRole, MissingExtension, Unavailable, StorageError, AccessRefused.
    """
    url = settings.storage.url
    if is_file(url):
        from llmspell.settings import default_store_url
        from llmspell.storage.sqlite import migrator

        path = file_of(url)
        if url == default_store_url():
            _make_folder(path)
        return migrator.migrate(
            path, busy_timeout_s=settings.storage.sqlite.busy_timeout_secs, clock=clock, announce=announce, to=to
        )
    if not url.startswith(SERVER):
        return NO_SCHEMA
    from llmspell.storage.postgres import migrate

    admin_url = settings.storage.postgres.admin_url
    if admin_url is None:
        if not planned(settings, to=to).pending:
            return migrate.status(url)
        raise InvalidSetting(
            "Migrations run as the role that owns the schema, and no URL of it is configured.",
            hint="Set DATABASE_ADMIN_URL, or storage.postgres.admin_url.",
        )
    return migrate.migrate(admin_url, announce=announce, to=to, lock_timeout_s=lock_timeout_s)


def served_after(settings: Settings, applied: MigrationStatus, error: LlmspellError) -> LlmspellError:
    """Return the error of a store that was migrated, and which the serving role cannot open, with what to do about that."""
    return type(error)(
        error.detail,
        hint=f"The schema is at version {applied.version}, {len(applied.pending)} pending: DATABASE_ADMIN_URL works. The store"
        " itself (DATABASE_URL, storage.url) cannot be opened as the serving role; mend that, and migrate again.",
        **error.fields,
    )


def verify(settings: Settings) -> SchemaVerification:
    """Compare the hashes of what was applied with this release, and the schema itself with the one that the migrations make.

    While something is pending on a server only hashes are compared: what its schema should be then is not known.

    Raises:
        Unavailable, StorageError, AccessRefused, NotADatabase: the store cannot be read.
    """
    found = listed(settings)
    url = settings.storage.url
    compared, differences = True, []
    if is_file(url):
        from llmspell.storage.sqlite import schema_verify as of_file

        if missing_file(url) is None and found.version:
            differences = of_file.differences(file_of(url))
    elif url.startswith(SERVER):
        from llmspell.storage.postgres import schema_verify as of_server

        compared = not any(one.state in ("pending", "unknown") for one in found.migrations)
        differences = of_server.differences(_looked_at_by(settings)) if compared else []
    return SchemaVerification(
        ok=found.current and all(one.harmless for one in differences),
        version=found.version,
        migrations=found.migrations,
        compared=compared,
        differences=differences,
    )


def repair(settings: Settings, *, clock: Clock, dry_run: bool, announce: Announce = lambda _: None) -> list[RepairStep]:
    """Put right what can be put right, and return what was done, would be done, or must be done by hand.

    Raises:
        InvalidSetting: the store is a server, and the URL of its owner is not configured.
        SchemaOutdated: something is pending; apply it first.
        SchemaTooNew: a newer llmspell has migrated the store.
        Unavailable, StorageError, AccessRefused, NotADatabase: the store cannot be read or changed.
    """
    from llmspell.errors import SchemaOutdated, SchemaTooNew

    found = listed(settings).migrations
    unknown = [one for one in found if one.state == "unknown"]
    if unknown:
        raise SchemaTooNew(
            f"The store has migrations that this llmspell does not know, {unknown[0].name} first; nothing was changed."
        )
    pending = [one for one in found if one.state == "pending"]
    if pending:
        raise SchemaOutdated(
            "Migrations are pending, so it is not known what the schema should be; nothing was changed.",
            hint="Run: llmspell database migrations apply, and repair then. A file is migrated by every command that opens it.",
            next=pending[0].name,
        )
    url = settings.storage.url
    if is_file(url):
        from llmspell.storage.sqlite import schema_verify

        timeout = settings.storage.sqlite.busy_timeout_secs
        return schema_verify.repair(
            file_of(url), dry_run=dry_run, busy_timeout_s=timeout, clock=clock, announce=announce
        )
    if not url.startswith(SERVER):
        return []
    from llmspell.storage.postgres import schema_repair

    admin_url = settings.storage.postgres.admin_url
    if admin_url is None:
        raise InvalidSetting(
            "A schema is repaired as the role that owns it, and no URL of it is configured.",
            hint="Set DATABASE_ADMIN_URL, or storage.postgres.admin_url.",
        )
    return schema_repair.repair(admin_url, dry_run=dry_run, announce=announce)


def _package(settings: Settings) -> str | None:
    if is_file(settings.storage.url):
        return SQLITE_PACKAGE
    return POSTGRES_PACKAGE if settings.storage.url.startswith(SERVER) else None


def _known(settings: Settings) -> Sequence[Migration]:
    package = _package(settings)
    return migrations.load(package) if package else ()


def _looked_at_by(settings: Settings) -> str:
    return settings.storage.postgres.admin_url or settings.storage.url


def _recorded(settings: Settings) -> list[Recorded]:
    url = settings.storage.url
    if is_file(url):
        from llmspell.storage.sqlite import migrator

        return migrator.recorded(file_of(url))
    if not url.startswith(SERVER):
        return []
    from llmspell.storage.postgres import schema_verify

    return schema_verify.recorded(_looked_at_by(settings))


def _lock_limits(settings: Settings, lock_timeout_s: float | None) -> tuple[float | None, int | None]:
    if is_file(settings.storage.url):
        return settings.storage.sqlite.busy_timeout_secs, 1
    if not settings.storage.url.startswith(SERVER):
        return None, None
    from llmspell.storage.postgres import migrate

    return (migrate.LOCK_TIMEOUT_S if lock_timeout_s is None else lock_timeout_s), migrate.LOCK_ATTEMPTS


def _make_folder(path: str) -> None:
    from pathlib import Path

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Unavailable("The folder of the file cannot be created.", path=path, reason=exc.strerror) from exc
