"""Errors of the server and of the driver, as errors of llmspell. Nothing behind this folder sees another kind.

Rule 1: an error names a constraint or a table, never a value of a row: the server's DETAIL is not read at all.
Rule 2: nothing is said to have failed that may have happened: a commit whose answer was lost is `OutcomeUnknown`.
Rule 3: text that comes from outside is redacted, for a connection string may be in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmspell.errors import (
    AccessRefused,
    AlreadyExists,
    Conflict,
    DiskFull,
    LlmspellError,
    MissingExtra,
    OutcomeUnknown,
    SignatureRefused,
    StorageError,
    TransactionError,
    TransactionTimeout,
    Unavailable,
)
from llmspell.observe import redact
from llmspell.storage.contracts.tenants_checks import read_refusal

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

MESSAGE_MAX_CHARACTERS = 300
STALE_PLAN_FUNCTIONS = frozenset({"RevalidateCachedQuery", "BuildCachedPlan"})
_RETRYABLE = {
    "40001": "Another transaction was first.",
    "40P01": "Two transactions waited for each other.",
    "55P03": "A lock is held by another transaction.",
}
QUOTA_EXCEEDED = "LS123"
"""Raised by our own counters (V033), with numbers as its message."""
_TIMEOUTS = frozenset({"25P03", "25P04"})
_CONSTRAINTS = frozenset({"23000", "23001", "23502", "23503", "23514", "23P01"})
_UNAVAILABLE_CLASSES = ("08", "57P", "53")
_NEVER_FORWARDED = ("query_wait_timeout", "cannot connect", "login has been failing", "client_login_timeout")
"""What PgBouncer says to a client that got no server connection at all."""
# A failed connection carries no SQLSTATE, only the server's words; these are in English unless its administrator chose otherwise.
_REFUSALS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "is not permitted",
)


class Failure(msgspec.Struct, frozen=True):
    """What the server says of an error; without its DETAIL, which quotes rows."""

    sqlstate: str
    message: str
    constraint: str | None = None
    table: str | None = None
    fatal: bool = False
    function: str | None = None

    @property
    def stale_plan(self) -> bool:
        """Whether a prepared statement no longer fits: the schema changed, or a pooler switched the server."""
        return self.sqlstate == "26000" or (self.sqlstate == "0A000" and self.function in STALE_PLAN_FUNCTIONS)

    @property
    def lost_behind_pooler(self) -> bool:
        """Whether a pooler lost the server after it had passed something on.

        It says so in place of the first answer that it did not get, which may be that of a statement whose transaction has
        committed: unlike an error of the server, it does not tell where the work stopped.
        """
        return self.sqlstate.startswith("08") and not any(sign in self.message for sign in _NEVER_FORWARDED)


def require_driver() -> None:
    """Raise `MissingExtra` unless psycopg, with its libpq, can be imported."""
    try:
        import psycopg  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("postgres", needed_for="A PostgreSQL store") from exc


def read_failure(result: PGresult) -> Failure:
    """Read an error out of a result."""
    from psycopg.pq import DiagnosticField as Field

    def field(which: Field) -> str | None:
        raw = result.error_field(which)
        return None if raw is None else raw.decode("utf-8", "replace")

    return Failure(
        sqlstate=field(Field.SQLSTATE) or "",
        message=field(Field.MESSAGE_PRIMARY) or result.get_error_message("utf-8"),
        constraint=field(Field.CONSTRAINT_NAME),
        table=field(Field.TABLE_NAME),
        fatal=field(Field.SEVERITY_NONLOCALIZED) in ("FATAL", "PANIC"),
        function=field(Field.SOURCE_FUNCTION),
    )


def translate(failure: Failure, *, query: str) -> LlmspellError:
    """Return the error of llmspell that says what the server said. `query` is the name of the query that failed."""
    state = failure.sqlstate
    if state in _RETRYABLE:
        return Conflict(_RETRYABLE[state], query=query)
    refused = read_refusal(failure.message) if state == QUOTA_EXCEEDED else None
    if refused is not None:
        return refused
    if state == "23505":
        return AlreadyExists("A record with this key exists already.", **_named(failure))
    if state == "23514" and failure.constraint is None:
        # A partition's own bounds have no name: they moved between the plan and the insert.
        return Conflict("The partitions of the table changed meanwhile.", query=query, **_named(failure))
    if state in _CONSTRAINTS:
        return StorageError("A constraint refused the write; nothing was written.", query=query, **_named(failure))
    if state == "42501":
        return AccessRefused(
            "The database refused the access.",
            hint="Does the role have its grants? Run `llmspell database migrate`; tenants are kept apart by the database.",
            query=query,
            message=_brief(failure.message),
        )
    if state == "LS311":
        return SignatureRefused(query=query)
    if state == "53100":
        return DiskFull(query=query, message=_brief(failure.message))
    if state in _TIMEOUTS:
        return TransactionTimeout()
    if state == "25P02":
        return TransactionError(
            "A statement of this transaction failed before, so it can only be rolled back.", query=query
        )
    if state == "57014":
        return Unavailable("The database cancelled the statement.", query=query, message=_brief(failure.message))
    if state == "25006":
        return StorageError("The database takes no writes: is it a replica?", query=query)
    if failure.stale_plan:
        return Conflict(
            "A prepared statement no longer fits the database.",
            hint='Retry. If a transaction pooler stands in between, set pooler = "transaction".',
            query=query,
        )
    if state.startswith(_UNAVAILABLE_CLASSES):
        return Unavailable("The database cannot serve.", sqlstate=state, message=_brief(failure.message))
    if state in ("42P01", "3F000", "42703"):
        hint = "Is the schema current? Run: llmspell database migrate"
        return StorageError("The schema lacks something.", hint=hint, query=query, message=_brief(failure.message))
    return StorageError(
        "The database refused a statement.", query=query, sqlstate=state, message=_brief(failure.message)
    )


def connection_failed(exc: Exception, *, target: str) -> StorageError:
    """Return the error for a connection that could not be made to `target` (host and database, no secrets)."""
    message = _brief(str(exc).rpartition("FATAL: ")[2])
    if any(sign in message for sign in _REFUSALS):
        return AccessRefused(f"The server refused the connection: {message}.", target=target)
    return Unavailable(
        f"The server cannot be reached: {message}.", hint="Is it running, and is the address right?", target=target
    )


def connection_lost(*, query: str, commits: bool, message: str = "") -> LlmspellError:
    """Return the error for a connection that broke in the middle of an exchange.

    `commits`: the exchange had asked for a commit of writes, and whether that happened cannot be known.
    """
    if commits:
        return OutcomeUnknown(
            "The connection was lost while a commit was under way: it happened completely or not at all.", query=query
        )
    return Unavailable(
        "The connection to the database was lost; nothing was written.", query=query, message=_brief(message)
    )


def _named(failure: Failure) -> dict[str, str]:
    fields = {"table": failure.table, "constraint": failure.constraint}
    return {name: value for name, value in fields.items() if value}


def _brief(message: str) -> str:
    return redact(" ".join(message.split()))[:MESSAGE_MAX_CHARACTERS]
