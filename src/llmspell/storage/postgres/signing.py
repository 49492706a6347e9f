"""The strict mode: turned on and off, and its key replaced, as the role that owns the schema. Synchronous: for the CLI and tests.

Not here: how a tenant is signed (`tenant_key`), how a signature is verified (`llmspell.signed_tenant`, V032).

Rule 1: a change is one transaction over every table: there is no moment at which one table is strict and another is not.
Rule 2: it waits so short a time for a lock that no tenant's statement is stopped for a deadlock with it, and tries again.
Rule 3: what is done already is done: a repetition changes nothing, or mends what somebody else has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

import msgspec

from llmspell.errors import AccessRefused, Conflict, SchemaOutdated, StorageError
from llmspell.storage.postgres.migrate import LOCK_KEY, TURN_TIMEOUT, connected

if TYPE_CHECKING:
    import psycopg

    from llmspell.storage.postgres.tenant_key import TenantKey

LOCK_TIMEOUT = "400ms"
"""For a lock on a table. Shorter than the server's wait before it looks for a deadlock (1 s): so we are the one that gives way."""
LOCK_ATTEMPTS = 60
LOCK_PAUSE_S = 0.5
_BUSY = frozenset({"55P03", "40P01"})
_MIGRATED = (
    "SELECT to_regnamespace('llmspell') IS NOT NULL AND to_regproc('llmspell.prepare_tenant_signing') IS NOT NULL"
)
_PREPARED = "SELECT to_regclass('llmspell_private.signing_keys') IS NOT NULL"
_PREPARE = "SELECT llmspell.prepare_tenant_signing()"
PARTITIONS_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('llmspell.event_log partitions', 0))"
_ENFORCED = "SELECT enforced FROM llmspell_private.signing_mode"
_KEYS = "SELECT key_id::text, created_at, retired_at FROM llmspell_private.signing_keys ORDER BY created_at, key_id"
_ADD = "INSERT INTO llmspell_private.signing_keys (key_id, inner_block, outer_block) VALUES (%s, %s, %s)"
_RETIRE = "UPDATE llmspell_private.signing_keys SET retired_at = now() WHERE retired_at IS NULL"
_FINISH = "DELETE FROM llmspell_private.signing_keys WHERE retired_at IS NOT NULL"
_FORGET = "DELETE FROM llmspell_private.signing_keys"
_KEEP_CHEAP = "ANALYZE llmspell_private.signing_keys"
"""Every statement looks at this table: a planner that knows it to be one page reads that, and not its index too (3 µs of 30)."""
_SWITCH = "UPDATE llmspell_private.signing_mode SET enforced = %s"
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)::text, c.oid::int8,
  EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant_signature')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('llmspell', 'llmspell_archive') AND c.relkind IN ('r', 'p')
  AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
ORDER BY 1
"""
_APPLY = "SELECT llmspell.apply_tenant_rls(%s::oid::regclass)"


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signatures are accepted of. `retired_at`: another has replaced it, and the rotation is not finished."""

    id: str
    created_at: datetime
    retired_at: datetime | None


class SigningStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether tenants must be signed, by which keys, and which tables demand it."""

    enforced: bool
    keys: tuple[SigningKey, ...]
    tables: int
    tables_signed: int
    keys_lost: bool = False
    """Tables demand signatures, and nothing is there to verify them by: it was restored from a signed one."""

    @property
    def current(self) -> SigningKey | None:
        """The key that applications should hold."""
        return next((key for key in self.keys if key.retired_at is None), None)


def status(admin_url: str) -> SigningStatus:
    """Say what holds.

    Raises:
        Unavailable, StorageError, AccessRefused: the server cannot be asked as this role.
        SchemaOutdated: V032 is not applied.
    """
    return _in_turn(admin_url, _status)


def enable(admin_url: str, key: TenantKey) -> SigningStatus:
    """Demand signatures by this key of the serving role, on every table.

    Raises:
        Conflict: they are demanded by another key, or tables are in use for too long.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: as `status`.
    """

    def change(connection: psycopg.Connection[Any]) -> SigningStatus:
        connection.execute(_PREPARE)
        found = _status(connection)
        require_same_key(found, key)
        if found.current is None:
            connection.execute(_FORGET)
            connection.execute(_ADD, (key.id, *key.blocks()))
            connection.execute(_KEEP_CHEAP)
        if not found.enforced or found.tables_signed != found.tables:
            _switch(connection, on=True)
        return _status(connection)

    return _in_turn(admin_url, change)


def rotate(admin_url: str, key: TenantKey) -> SigningStatus:
    """Accept this key beside the one that it replaces.

    Raises:
        Conflict: tenants need not be signed, or an earlier rotation is not finished.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: as `status`.
    """

    def change(connection: psycopg.Connection[Any]) -> SigningStatus:
        found = _status(connection)
        require_rotatable(found, key)
        if found.current is not None and found.current.id == key.id:
            return found
        connection.execute(_RETIRE)
        connection.execute(_ADD, (key.id, *key.blocks()))
        connection.execute(_KEEP_CHEAP)
        return _status(connection)

    return _in_turn(admin_url, change)


def finish(admin_url: str) -> SigningStatus:
    """Accept the current key alone.

    Raises:
        Conflict: tenants need not be signed.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: as `status`.
    """

    def change(connection: psycopg.Connection[Any]) -> SigningStatus:
        require_enforced(_status(connection))
        connection.execute(_FINISH)
        return _status(connection)

    return _in_turn(admin_url, change)


def disable(admin_url: str) -> SigningStatus:
    """Demand no signatures any more, and forget the keys.

    Raises:
        Conflict: tables are in use for too long.
        Unavailable, StorageError, AccessRefused, SchemaOutdated: as `status`.
    """

    def change(connection: psycopg.Connection[Any]) -> SigningStatus:
        connection.execute(_PREPARE)
        found = _status(connection)
        if found.enforced or found.tables_signed:
            _switch(connection, on=False)
        connection.execute(_FORGET)
        return _status(connection)

    return _in_turn(admin_url, change)


def require_same_key(found: SigningStatus, key: TenantKey) -> None:
    """Refuse to enable the mode with another key than the one in force.

    Raises:
        Conflict: names the key in force.
    """
    if found.current is not None and found.current.id != key.id:
        raise Conflict(
            "Tenants are signed by another key.",
            hint="Replace it with: llmspell database signing rotate",
            key=found.current.id,
        )


def require_enforced(found: SigningStatus) -> None:
    """Refuse to change keys that nobody demands.

    Raises:
        Conflict: signatures are not demanded, or the keys are lost.
    """
    if found.keys_lost:
        raise Conflict(
            "This database was restored from a signed one, and has no signing keys.",
            hint="Run: llmspell database signing enable --key-file …",
        )
    if not found.enforced:
        raise Conflict("Tenants need not be signed here.", hint="Begin with: llmspell database signing enable")


def require_rotatable(found: SigningStatus, key: TenantKey | None) -> None:
    """Refuse a rotation that cannot begin; `key` None is one that is yet to be made. The current key again is a repetition.

    Raises:
        Conflict: signatures are not demanded, or an earlier rotation is not finished.
    """
    require_enforced(found)
    if key is not None and found.current is not None and found.current.id == key.id:
        return
    if any(one.retired_at is not None for one in found.keys):
        raise Conflict(
            "The last rotation is not finished: its old key is still accepted.",
            hint="When every application holds the new key: llmspell database signing rotate --finish",
        )


def _in_turn(admin_url: str, work: Callable[[psycopg.Connection[Any]], SigningStatus]) -> SigningStatus:
    import psycopg

    with connected(admin_url) as connection:
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                with connection.transaction():
                    # Nobody may migrate, or make a partition, while tables are listed: the new one would be missed.
                    connection.execute("SELECT set_config('lock_timeout', %s, true)", (TURN_TIMEOUT,))
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                    connection.execute(PARTITIONS_TURN)
                    connection.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
                    _require_ready(connection)
                    return work(connection)
            except psycopg.Error as exc:
                if exc.sqlstate not in _BUSY:
                    raise refused(exc, connection.info.user) from exc
            if attempt < LOCK_ATTEMPTS:
                time.sleep(LOCK_PAUSE_S)
    raise Conflict(
        "A table has been in use for too long; nothing was changed.",
        hint="Try again when long transactions have ended (pg_stat_activity shows them).",
    )


def _require_ready(connection: psycopg.Connection[Any]) -> None:
    if not _is(connection, _MIGRATED):
        raise SchemaOutdated(hint="Run: llmspell database migrate (with DATABASE_ADMIN_URL).")


def _is(connection: psycopg.Connection[Any], question: LiteralString) -> bool:
    row = connection.execute(question).fetchone()
    return row is not None and bool(row[0])


def _switch(connection: psycopg.Connection[Any], *, on: bool) -> None:
    connection.execute(_SWITCH, (on,))
    for _, oid, _ in connection.execute(_TABLES).fetchall():
        connection.execute(_APPLY, (oid,))


def _status(connection: psycopg.Connection[Any]) -> SigningStatus:
    tables = connection.execute(_TABLES).fetchall()
    prepared = _is(connection, _PREPARED)
    keys = connection.execute(_KEYS).fetchall() if prepared else []
    return SigningStatus(
        keys_lost=not prepared and any(signed for _, _, signed in tables),
        enforced=prepared and _is(connection, _ENFORCED),
        keys=tuple(
            SigningKey(id=id, created_at=created_at, retired_at=retired_at) for id, created_at, retired_at in keys
        ),
        tables=len(tables),
        tables_signed=sum(1 for _, _, signed in tables if signed),
    )


def refused(exc: psycopg.Error, role: str) -> StorageError:
    """Return what a refusal of a change by the owner of the schema means."""
    message = exc.diag.message_primary or str(exc)
    if exc.sqlstate == "42501":
        return AccessRefused(
            f"The role `{role}` may not do this: {message}.",
            hint="Set DATABASE_ADMIN_URL to the role that owns the schema.",
        )
    return StorageError(f"The database refused: {message}.", sqlstate=exc.sqlstate)
