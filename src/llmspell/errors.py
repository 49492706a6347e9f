"""Every error that llmspell raises: one tree, each class with a stable code.

    LlmspellError
    ├── InvalidInput            a value the caller gave; nothing was written        LS-1000
    │   ├── InvalidTenant       tenant ids                                          LS-1001
    │   ├── InvalidKey          keys, names, scopes, session names                  LS-1002
    │   ├── InvalidText         contents: too long, NUL, lone surrogates            LS-1003
    │   ├── InvalidVector       wrong size, NaN, infinite, zero                     LS-1004
    │   ├── InvalidTime         naive or unreadable instants, reversed periods      LS-1005
    │   ├── InvalidMetadata     JSON that not every backend can keep                LS-1006
    │   ├── InvalidFilter       unknown operators, bad operands                     LS-1007
    │   ├── InvalidLimit        limits, offsets, budgets out of range               LS-1008
    │   └── InvalidCursor       a cursor that is forged, foreign or from another query  LS-1009
    ├── NotFound                something that was required is absent               LS-1100
    ├── TenantError
    │   ├── TenantUnknown       the tenant does not exist here                      LS-1201
    │   ├── TenantInactive      the tenant is suspended or deleted                  LS-1202
    │   └── QuotaExceeded       more than the tenant was granted                    LS-1203
    ├── Conflict                another writer was first; retry may help            LS-1300
    │   ├── AlreadyExists       the id is taken                                     LS-1301
    │   ├── VersionConflict     `expected_version` is not the current version       LS-1302
    │   ├── FileExists          a file is there that would be replaced              LS-1303
    │   ├── IdempotencyConflict an idempotency key was used for something else      LS-1304
    │   ├── IllegalTransition   the record's status does not lead there             LS-1305
    │   └── LeaseLost           a job is no longer in this worker's hands           LS-1306
    ├── Unsupported             this backend does not do that                       LS-1400
    ├── OutcomeUnknown          the answer to a commit was lost                     LS-1500
    ├── TransactionError
    │   ├── TransactionTimeout  the transaction outlived its limit, rolled back     LS-1601
    │   └── TransactionClosed   used after it ended                                 LS-1602
    ├── ConfigError             settings, URLs                                      LS-2000
    │   ├── UnknownSetting      a key that no setting has                           LS-2001
    │   ├── InvalidSetting      a value that does not fit                           LS-2002
    │   ├── InvalidUrl          a store URL that cannot be read                     LS-2003
    │   ├── MissingExtra        an optional part is not installed                   LS-2004
    │   ├── ModelMissing        a local model is not on this machine                LS-2005
    │   ├── MasterKeyMissing    no master key to seal or open secrets with          LS-2006
    │   └── TenantKeyMissing    no key to sign tenants with                         LS-2007
    ├── StorageError            the store itself                                    LS-3000
    │   ├── Unavailable         unreachable, locked or out of connections           LS-3001
    │   ├── NotADatabase        the file is something else                          LS-3002
    │   ├── SchemaTooNew        migrated by a newer llmspell                        LS-3003
    │   ├── SchemaOutdated      migrations are pending                              LS-3004
    │   ├── CorruptStore        a checksum or a structure does not hold             LS-3005
    │   ├── DiskFull            no space for the write                              LS-3006
    │   ├── UnsafeRole          the database role bypasses row-level security       LS-3007
    │   ├── MissingExtension    the database lacks a required extension             LS-3008
    │   ├── AccessRefused       role, password, database or rights                  LS-3009
    │   ├── SealBroken          a sealed secret does not open                       LS-3010
    │   ├── SignatureRefused    the signature of a tenant is not accepted           LS-3011
    │   └── MigrationError
    │       ├── MigrationModified   an applied migration differs from its file      LS-3101
    │       └── MigrationFailed     a migration did not run                         LS-3102
    ├── ProviderError           an embedder or model endpoint                       LS-4000
    │   ├── ProviderUnavailable     unreachable, overloaded, timed out              LS-4001
    │   ├── ProviderRefused         credentials or request refused                  LS-4002
    │   └── ProviderProtocol        it answered something malformed                 LS-4003
    └── JobError                raised by the handler of a job, to say how it ends  LS-5000
        ├── JobImpossible       no repetition can mend it: dead at once             LS-5001
        └── JobStopped          it was asked to stop: back into the queue           LS-5002

Rule 1: a message names what happened, with the value, and what to do (`hint`).
Rule 2: nothing here knows a transport: HTTP statuses and exit codes are mapped by the server and the CLI.
Rule 3: a given value is shown shortened, and never another tenant's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import ClassVar, Literal, TypeAlias

    Outcome: TypeAlias = Literal["failed", "unknown"]

SHOWN_CHARACTERS = 80
PATH_CHARACTERS = 1_024


def shown(value: object, characters: int = SHOWN_CHARACTERS) -> str:
    """Return `repr(value)`, shortened so that an error text stays one readable line."""
    try:
        text = repr(value[:characters] if isinstance(value, (str, bytes)) else value)
    except ValueError:  # somewhere in it is a whole number with more digits than Python writes out
        text = f"<{type(value).__name__} with a number too long to show>"
    return text if len(text) <= characters + 3 else text[:characters] + "…"


class LlmspellError(Exception):
    """Something went wrong in llmspell."""

    code: ClassVar[str] = "LS-0000"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = "failed"
    """Whether the call had no effect (`failed`), or may have had all of it (`unknown`)."""
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str = "", /, *, hint: str = "", **fields: object) -> None:
        self.detail = message or (type(self).__doc__ or "").partition("\n")[0]
        self.hint = hint or self.default_hint
        self.fields = fields
        super().__init__(self.detail)

    def __str__(self) -> str:
        named = self.named_fields()
        return self.detail + (f" ({named})" if named else "") + (f" {self.hint}" if self.hint else "")

    def named_fields(self) -> str:
        """Return the fields as they stand in the message: of a path all of it, for its end is what tells it from others."""
        return ", ".join(
            f"{name}={shown(value, PATH_CHARACTERS if name == 'path' else SHOWN_CHARACTERS)}"
            for name, value in self.fields.items()
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.detail, self.hint, self.fields))


def _rebuild(kind: type[LlmspellError], detail: str, hint: str, fields: dict[str, object]) -> LlmspellError:
    """Unpickle an error: its keyword arguments do not survive `Exception.__reduce__`."""
    error = kind.__new__(kind)
    LlmspellError.__init__(error, detail, hint=hint, **fields)
    return error


class InvalidInput(LlmspellError):
    """A value was refused. Nothing was written."""

    code = "LS-1000"

    def __init__(self, field: str, problem: str, *, given: object = ..., hint: str = "") -> None:
        """`field` is the argument's name, `problem` a clause with the limit ("must be …"), `given` what came."""
        self.field = field
        self.problem = problem
        super().__init__(
            f"`{field}` {problem}" + (f"; got {shown(given)}." if given is not ... else "."),
            hint=hint,
        )


class InvalidTenant(InvalidInput):
    """A tenant id was refused."""

    code = "LS-1001"


class InvalidKey(InvalidInput):
    """A key or name was refused."""

    code = "LS-1002"


class InvalidText(InvalidInput):
    """A text was refused."""

    code = "LS-1003"


class InvalidVector(InvalidInput):
    """A vector was refused."""

    code = "LS-1004"


class InvalidTime(InvalidInput):
    """An instant or a period was refused."""

    code = "LS-1005"


class InvalidMetadata(InvalidInput):
    """A metadata value was refused."""

    code = "LS-1006"


class InvalidFilter(InvalidInput):
    """A filter was refused."""

    code = "LS-1007"


class InvalidLimit(InvalidInput):
    """A limit was refused."""

    code = "LS-1008"


class InvalidCursor(InvalidInput):
    """A cursor was refused. Cursors belong to one tenant and one query; start again without one."""

    code = "LS-1009"


class NotFound(LlmspellError):
    """It does not exist here."""

    code = "LS-1100"


class TenantError(LlmspellError):
    """The tenant cannot be served."""

    code = "LS-1200"


class TenantUnknown(TenantError):
    """The tenant does not exist in this store."""

    code = "LS-1201"
    default_hint = "Create it with `spell.tenants.create(…)`, or set `tenancy.auto_create_tenants = true`."


class TenantInactive(TenantError):
    """The tenant is suspended or deleted, so every call is refused."""

    code = "LS-1202"


class QuotaExceeded(TenantError):
    """The tenant would use more than it was granted. Nothing was written."""

    code = "LS-1203"
    default_hint = "Delete something, or have the quota raised: `spell.tenants.update(…)`."


class Conflict(LlmspellError):
    """Another writer was first."""

    code = "LS-1300"
    retryable = True
    default_hint = "Read again and retry."


class AlreadyExists(Conflict):
    """The id is already taken."""

    code = "LS-1301"
    retryable = False
    default_hint = "Use another id, or update the existing record."


class VersionConflict(Conflict):
    """The record has changed since it was read."""

    code = "LS-1302"


class FileExists(Conflict):
    """There is a file of that name already; it was left as it is."""

    code = "LS-1303"
    retryable = False
    default_hint = "Edit it, or have it replaced with --force."


class IdempotencyConflict(Conflict):
    """The idempotency key was used for another call; nothing was done."""

    code = "LS-1304"
    retryable = False
    default_hint = "Give every call a key of its own, and repeat a call with the same arguments."


class IllegalTransition(Conflict):
    """The record's status does not allow that change."""

    code = "LS-1305"
    retryable = False
    default_hint = "Read its status, and choose a legal one."


class LeaseLost(Conflict):
    """The job is no longer in this worker's hands: its lease has passed to another, or it has ended. Nothing was noted."""

    code = "LS-1306"
    retryable = False
    default_hint = "Stop working on it."


class Unsupported(LlmspellError):
    """This backend does not do that."""

    code = "LS-1400"


class OutcomeUnknown(LlmspellError):
    """The answer to a commit was lost: the write either happened completely or not at all."""

    code = "LS-1500"
    outcome = "unknown"
    default_hint = "Read back what you wrote before you repeat it, or repeat it under its idempotency key."


class TransactionError(LlmspellError):
    """The transaction cannot go on."""

    code = "LS-1600"


class TransactionTimeout(TransactionError):
    """The transaction outlived its time limit and was rolled back."""

    code = "LS-1601"
    retryable = True
    default_hint = "Keep provider calls outside of it, or pass a larger `timeout_s`."


class TransactionClosed(TransactionError):
    """The transaction has ended; its storages cannot be used any more."""

    code = "LS-1602"


class ConfigError(LlmspellError):
    """The configuration cannot be used."""

    code = "LS-2000"


class UnknownSetting(ConfigError):
    """There is no such setting."""

    code = "LS-2001"


class InvalidSetting(ConfigError):
    """The value does not fit the setting."""

    code = "LS-2002"


class InvalidUrl(ConfigError):
    """The store URL cannot be read."""

    code = "LS-2003"


class MissingExtra(ConfigError):
    """An optional part of llmspell is not installed."""

    code = "LS-2004"

    def __init__(self, extra: str, *, needed_for: str) -> None:
        self.extra = extra
        super().__init__(
            f"{needed_for} needs the extra `{extra}`, which is not installed.",
            hint=f"Run: pip install 'llmspell[{extra}]'",
        )


class ModelMissing(ConfigError):
    """A local model is not on this machine."""

    code = "LS-2005"


class MasterKeyMissing(ConfigError):
    """Secrets are sealed before they are kept, and no master key is configured."""

    code = "LS-2006"
    default_hint = "Make one with `llmspell keys new`, and set LLMSPELL_MASTER_KEY or security.master_keys to it."


class TenantKeyMissing(ConfigError):
    """The database demands signed tenants, and no key to sign them with is configured."""

    code = "LS-2007"
    default_hint = "Set LLMSPELL_TENANT_KEY, or LLMSPELL_TENANT_KEY_FILE to the file that has it."


class StorageError(LlmspellError):
    """The store failed."""

    code = "LS-3000"


class Unavailable(StorageError):
    """The store cannot be reached."""

    code = "LS-3001"
    retryable = True


class NotADatabase(StorageError):
    """The file is not an llmspell database."""

    code = "LS-3002"


class SchemaTooNew(StorageError):
    """The database was migrated by a newer llmspell."""

    code = "LS-3003"
    default_hint = "Upgrade llmspell; nothing was changed."


class SchemaOutdated(StorageError):
    """The database lacks migrations that this llmspell needs."""

    code = "LS-3004"
    default_hint = "Run: llmspell database migrate"


class CorruptStore(StorageError):
    """The store contradicts itself."""

    code = "LS-3005"


class DiskFull(StorageError):
    """There is no space for the write; nothing was written."""

    code = "LS-3006"
    default_hint = (
        "Free some space, or raise the quota or the limit on file sizes; reads go on, and writes return with the space."
    )


class UnsafeRole(StorageError):
    """The database role bypasses row-level security, so tenants would not be isolated."""

    code = "LS-3007"


class MissingExtension(StorageError):
    """The database lacks a required extension."""

    code = "LS-3008"


class AccessRefused(StorageError):
    """The database refused the role, its password, the database's name, or a right."""

    code = "LS-3009"
    default_hint = "Check role, password and database name."


class SealBroken(StorageError):
    """The sealed secret does not open: it was altered, or belongs to another row, tenant or master key."""

    code = "LS-3010"


class SignatureRefused(StorageError):
    """The database does not accept the signature of the tenant."""

    code = "LS-3011"
    default_hint = (
        "Is the tenant key one that the database accepts? Compare their ids: llmspell database signing status"
    )


class MigrationError(StorageError):
    """The schema cannot be migrated."""

    code = "LS-3100"


class MigrationModified(MigrationError):
    """An applied migration differs from its file. Was the file edited after it ran? Restore it, or add a new one."""

    code = "LS-3101"


class MigrationFailed(MigrationError):
    """A migration did not run; the database is as it was before it."""

    code = "LS-3102"


class TransferError(StorageError):
    """The export cannot be read. Nothing was written."""

    code = "LS-3200"
    default_hint = "Is the file complete? Export again, or copy it again (`scp -p`, binary)."


class ExportTooNew(TransferError):
    """The export was made by a newer llmspell. Nothing was written."""

    code = "LS-3201"
    default_hint = "Upgrade llmspell, or export with this version."


class ExportDamaged(TransferError):
    """The export does not hold what its summary says. Nothing was written."""

    code = "LS-3202"
    default_hint = (
        "Was the file edited or damaged? Export again. To import a part, use --only and --limit; an edited file needs its key"
        " `summary` removed."
    )


class ProviderError(LlmspellError):
    """A model provider failed."""

    code = "LS-4000"


class ProviderUnavailable(ProviderError):
    """The provider cannot be reached or is overloaded."""

    code = "LS-4001"
    retryable = True


class ProviderRefused(ProviderError):
    """The provider refused the request."""

    code = "LS-4002"


class ProviderProtocol(ProviderError):
    """The provider answered something malformed."""

    code = "LS-4003"


class JobError(LlmspellError):
    """A handler ends its job in a way of its own."""

    code = "LS-5000"


class JobImpossible(JobError):
    """The job cannot be done, and no repetition would mend it."""

    code = "LS-5001"


class JobStopped(JobError):
    """The handler was asked to stop and did; the job goes back into the queue, or is cancelled."""

    code = "LS-5002"


def catalogue(root: type[LlmspellError] = LlmspellError) -> Iterator[type[LlmspellError]]:
    """Yield `root` and every public class below it, parents first: the docs page and the CLI are made from this."""
    yield root
    for kind in root.__subclasses__():
        if not kind.__name__.startswith("_"):
            yield from catalogue(kind)
