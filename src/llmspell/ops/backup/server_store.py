"""Backups of a store in a PostgreSQL server: pg_dump of one snapshot, and its way back in one transaction.

Rule 1: the dump is taken as a role that sees every row (the operator's), and the digests of its manifest in the same snapshot.
Rule 2: a restore is one transaction that the owner of the schema runs: drop, make, fill, commit. Whoever looks sees the old store
or the new one, and a restore that was killed has not happened.
Rule 3: COMMIT is sent when pg_restore has ended well, and the backup was read to its end, each chunk verified.
Rule 4: a backup is verified elsewhere: in a new database that is dropped afterwards, or a server that ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from llmspell.errors import AccessRefused, Conflict, InvalidSetting, MissingExtra, StorageError, Unsupported
from llmspell.ops.backup.programs import Running, find_programs, running
from llmspell.ops.backup.records import Manifest, RoleFacts
from llmspell.ops.backup.taken import Taken
from llmspell.storage.contracts.snapshot import StoreFacts

if TYPE_CHECKING:
    from llmspell.ops.backup.container import Opened
    from llmspell.ops.embedded_postgres import EmbeddedCluster
    from llmspell.settings import BackupSettings
    from llmspell.storage.postgres.restoring import Target
    from llmspell.storage.postgres.snapshot import Role

IN_MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Backups up to this size are verified in an embedded server whose data are in memory."""


class ServerStore:
    """The store that a URL of the operator's role names."""

    kind: Final = "postgresql"

    def __init__(self, settings: BackupSettings, *, operator_url: str | None, admin_url: str | None) -> None:
        self._settings = settings
        self._operator_url = operator_url
        self._admin_url = admin_url

    @contextmanager
    def taking(self, going_on: Callable[[], None]) -> Iterator[Taken]:
        """Hold a snapshot, and give what it holds with the dump of it.

        Raises:
            InvalidSetting, Unsupported, UnsafeRole, SchemaOutdated, Unavailable, StorageError.
        """
        from llmspell.storage.postgres.snapshot import SCHEMAS, held_snapshot, program_environment

        url = _required(
            self._operator_url, "A backup holds the rows of all tenants", "operator_url", "DATABASE_OPERATOR_URL"
        )
        with held_snapshot(url, going_on=going_on) as snapshot:
            programs = find_programs(snapshot.server_major, folder=self._settings.programs_dir)
            arguments = [
                *(
                    "--format=custom",
                    "--compress=0",
                    "--enable-row-security",
                    f"--snapshot={snapshot.id}",
                    "--no-password",
                ),
                *(f"--schema={schema}" for schema in SCHEMAS),
            ]
            facts = msgspec.structs.replace(
                snapshot.facts, software={**snapshot.facts.software, "pg_dump": programs.version}
            )
            with running(programs, "pg_dump", *arguments, environment=program_environment(url), feeds=False) as dump:
                yield Taken(
                    facts=facts,
                    content=dump.output(),
                    owner=snapshot.owner,
                    roles=tuple(msgspec.convert(msgspec.structs.asdict(role), RoleFacts) for role in snapshot.roles),
                    signed=snapshot.signed,
                    vector_schema=snapshot.vector_schema,
                )

    def verify(
        self, opened: Opened, size_bytes: int, going_on: Callable[[], None], *, trust: bool = False
    ) -> StoreFacts:
        """Restore a backup somewhere else, and return what it holds there. `trust`: whoever made it may decide what is run.

        Raises:
            AccessRefused: nobody trusts it, and it would run as a superuser.
            Unsupported: there is no server for that.
            SealBroken, CorruptStore, StorageError: it cannot be restored.
        """
        from llmspell.storage.postgres.snapshot import facts_of

        self.sweep()
        self._require_harmless_check(trust=trust)
        with self._scratch(opened.manifest, size_bytes, trust=trust) as url:
            self._restore(url, opened, going_on)
            return facts_of(url)

    def _require_harmless_check(self, *, trust: bool) -> None:
        """See that a backup that anybody may have made does not run as a superuser of the server that verifies it.

        Raises:
            AccessRefused: it would.
            Unavailable, StorageError.
        """
        if trust or self._settings.verify_url is None:
            return
        from llmspell.storage.postgres import restoring

        found = restoring.look(self._settings.verify_url, owner="", roles=())
        if found.superuser or not self.keeps_to_statements(found):
            raise AccessRefused(
                f"Nothing proves who made this backup, and it would run as `{found.role}` of the server that verifies it.",
                hint="Have backup.verify_url name a role that is no superuser, and use psql 18; or leave it out, for an embedded"
                " server; or where you know who made it: --trust.",
            )

    def keeps_to_statements(self, target: Target) -> bool:
        """Say whether the psql that restores runs nothing but statements of a dump (CVE-2025-8714)."""
        return find_programs(target.server_major, folder=self._settings.programs_dir).restricted

    def sweep(self, *, dry_run: bool = False) -> list[str]:
        """Drop the databases that verifications have left behind that were killed, and return their names.

        Raises:
            Unavailable, StorageError.
        """
        from llmspell.storage.postgres import restoring

        url = self._settings.verify_url
        if url is None:  # an embedded server ends with whoever began it
            return []
        return restoring.leftovers(url) if dry_run else restoring.drop_leftovers(url)

    def restore(self, opened: Opened, into: str | None, going_on: Callable[[], None]) -> None:
        """Restore into the live store, or into the database of the URL `into`, which must have no store.

        Raises:
            Conflict: the database has a store, or is in use; nothing was changed.
            AccessRefused, MissingExtension, SealBroken, CorruptStore, Unavailable, StorageError: nothing was changed.
        """
        self._restore(self.target_url(into), opened, going_on, replaces=into is None)

    def target_url(self, into: str | None) -> str:
        """Return the URL that a restore goes to, as the owner of the schema. `into`: a URL, or the name of a database.

        Raises:
            InvalidSetting: none is configured.
        """
        if into is not None and "://" in into:
            return into
        url = _required(self._admin_url, "A restore makes the tables", "admin_url", "DATABASE_ADMIN_URL")
        if into is None:
            return url
        from llmspell.storage.postgres.address import on_database

        return on_database(url, into)

    def look(self, manifest: Manifest, into: str | None) -> Target:
        """Look at where a restore would go, and change nothing. Errors: as `restore`."""
        from llmspell.storage.postgres import restoring

        url = self.target_url(into)
        found = restoring.look(url, owner=manifest.owner, roles=_roles(manifest))
        if into is not None and found.has_store:
            raise Conflict(
                "There is a store in this database already; nothing was changed.",
                hint="Name an empty database, or restore into the live store without --into.",
            )
        return found

    def _restore(self, url: str, opened: Opened, going_on: Callable[[], None], *, replaces: bool = False) -> None:
        from llmspell.storage.postgres import restoring

        target = self.look(opened.manifest, None if replaces else url)
        try:
            self._fill(url, opened, target, going_on)
        except StorageError as error:
            if restoring.IN_USE not in error.detail:
                raise
            raise Conflict(
                "A table of the store has been in use for too long; nothing was changed.",
                hint="Stop what uses it, or end long transactions (pg_stat_activity shows them), and restore again.",
            ) from error

    def _fill(self, url: str, opened: Opened, target: Target, going_on: Callable[[], None]) -> None:
        from llmspell.storage.postgres import restoring
        from llmspell.storage.postgres.snapshot import program_environment

        manifest = opened.manifest
        programs = find_programs(target.server_major, folder=self._settings.programs_dir)
        if target.missing_roles:
            restoring.create_roles(url, target.missing_roles, owner=manifest.owner)
        if not target.has_vector:
            restoring.create_extension(url, schema=manifest.vector_schema)
        environment = program_environment(url)
        with (
            running(programs, "psql", "-X", "-q", "-w", environment=environment, feeds=True) as psql,
            running(programs, "pg_restore", "--no-owner", "--file=-", environment={}, feeds=True) as script,
        ):
            psql.feed((restoring.before(target).encode(),))
            _pass_on(script, psql, _watched(opened.content, going_on))
            psql.feed((restoring.after(target, signed=manifest.signed).encode(),))
            psql.end_of_input()
            if not b"".join(psql.output()).endswith(b"restored\n"):
                raise Conflict("The restore did not reach its end; nothing was changed.")

    @contextmanager
    def _scratch(self, manifest: Manifest, size_bytes: int, *, trust: bool) -> Iterator[str]:
        from llmspell.storage.postgres import restoring
        from llmspell.storage.postgres.address import on_database

        with self._scratch_server(size_bytes) as (url, cluster):
            owner = restoring.create_roles(url, _roles(manifest), owner=manifest.owner)
            with restoring.scratch_database(url, owner=owner) as name:
                if cluster is None:
                    yield on_database(url, name)
                    return
                # What is tried may be anything: it gets no more rights than it must have.
                restoring.create_extension(on_database(url, name), schema=manifest.vector_schema)
                verifier = restoring.create_verifier(url, owner=manifest.owner)
                if verifier is None and not trust:
                    raise AccessRefused(
                        f"Nothing proves who made this backup, and its owner `{manifest.owner}` is a superuser of the server that"
                        " verifies it.",
                        hint="Where you know who made it: --trust.",
                    )
                yield on_database(url, name) if verifier is None else cluster.url(role=verifier, database=name)

    @contextmanager
    def _scratch_server(self, size_bytes: int) -> Iterator[tuple[str, EmbeddedCluster | None]]:
        if self._settings.verify_url is not None:
            yield self._settings.verify_url, None
            return
        try:
            from llmspell.ops.embedded_postgres import SUPERUSER, EmbeddedCluster

            cluster = EmbeddedCluster.temporary(durable=size_bytes > IN_MEMORY_BYTES_MAX)
            with cluster as server:
                yield server.url(role=SUPERUSER, database=SUPERUSER), server
        except (MissingExtra, ImportError) as exc:
            raise Unsupported(
                "There is no server to verify the backup on.",
                hint="Set backup.verify_url to one, as a role that may create databases; or install llmspell[embedded-postgres].",
            ) from exc


def _pass_on(script: Running, psql: Running, content: Iterator[bytes]) -> None:
    """Hand the content to pg_restore on a thread of its own, for it prints while it reads, and what it prints to psql."""
    failed: list[BaseException] = []

    def feed() -> None:
        try:
            script.feed(content)
            script.end_of_input()
        except BaseException as exc:  # noqa: BLE001 - it is raised again by whoever waits for this thread
            failed.append(exc)
            script.stop()

    feeder = threading.Thread(target=feed, name="llmspell-restore")
    feeder.start()
    try:
        psql.feed(script.output())
    except BaseException as error:  # noqa: BLE001 - it is raised again
        first = failed[0] if failed else error
        script.stop()
        feeder.join()
        raise first from None
    feeder.join()
    if failed:
        raise failed[0]


def _watched(content: Iterator[bytes], going_on: Callable[[], None]) -> Iterator[bytes]:
    for piece in content:
        going_on()
        yield piece


def _roles(manifest: Manifest) -> list[Role]:
    from llmspell.storage.postgres.snapshot import Role

    return [msgspec.convert(msgspec.structs.asdict(role), Role) for role in manifest.roles]


def _required(url: str | None, why: str, key: str, variable: str) -> str:
    if url is None:
        raise InvalidSetting(
            f"{why}, and no URL of the role that may do that is configured.",
            hint=f"Set {variable}, or storage.postgres.{key}.",
        )
    return url
