"""Puts right what can be put right in the schema of a server, as the role that owns it. Synchronous: for the CLI and tests.

Not here: what is wrong (`schema_verify`).

Rule 1: what is made is what this release ships (`schema.sql`), or what the functions of the schema make; nothing is guessed.
Rule 2: nothing that holds rows is dropped or changed: a table or a column that is missing or changed is named, and left.
Rule 3: each step is a transaction of its own, and what fails is said; the others are tried all the same.
Rule 4: a mark in `schema_migrations` is set only when the schema, after all other steps, is the one that the migrations make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmspell.errors import LlmspellError
from llmspell.storage.contracts.schema import Difference, RepairStep
from llmspell.storage.postgres.migrate import LOCK_KEY, LOCK_TIMEOUT_S, PACKAGE, connected
from llmspell.storage.postgres.schema_text import SchemaObject, read_objects
from llmspell.storage.postgres.schema_verify import found_differences, recorded, shipped
from llmspell.storage.postgres.signing import refused
from llmspell.storage.postgres.vector_indexes import require_migrated, translated
from llmspell.storage.relational.migrations import load, marks_to_mend

if TYPE_CHECKING:
    import psycopg

    Objects = dict[tuple[str, str], SchemaObject]

Announce = Callable[[str], None]
LEFT_BY_REINDEX: Final = re.compile(r"_cc(?:new|old)\d*$")
"""How the server names what it makes beside an index that it builds anew, and leaves when that is stopped."""
STANDARD_POLICIES: Final = frozenset(
    {
        *("tenant_isolation_select", "tenant_isolation_insert", "tenant_isolation_update", "tenant_isolation_delete"),
        *("operator_access", "tenant_signature"),
    }
)
"""What `llmspell.apply_tenant_rls` makes, all together."""
TAKEN_BACK: Final = "Take it back by hand; `llmspell database isolation` says what it opens"
NOT_PUT_RIGHT: Final = {
    ("table", "missing"): "Restore a backup: its rows are gone",
    ("column", "missing"): "Restore a backup: its values are gone",
    ("column", "extra"): "Nobody but you knows whether it is needed: drop it, or leave it",
    ("sequence", "missing"): "Restore a backup: where it was is not known",
    ("function", "extra"): TAKEN_BACK,
    ("policy", "extra"): TAKEN_BACK,
    ("grant", "extra"): TAKEN_BACK,
    ("default privileges", "extra"): TAKEN_BACK,
}
_ORDER: Final = (
    "schema",
    "function",
    "table",
    "constraint",
    "index",
    "trigger",
    "policy",
    "grant",
    "default privileges",
)
_MARK = (
    "INSERT INTO llmspell.schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
    " ON CONFLICT (version) DO UPDATE SET name = excluded.name, sha256 = excluded.sha256"
)


def repair(admin_url: str, *, dry_run: bool, announce: Announce = lambda _: None) -> list[RepairStep]:
    """Put right what differs from this release, and return what was done, would be done, or must be done by hand.

    Every migration of this release must be applied. `announce` hears each step before it is taken.

    Raises:
        Unavailable, StorageError, AccessRefused: the server cannot be asked as this role.
        SchemaOutdated: nothing is migrated.
    """
    with connected(admin_url) as connection, translated(connection):
        require_migrated(connection)
        wanted = read_objects(shipped())
        steps = list(planned(found_differences(connection), wanted))
        taken = [step if dry_run else _take(connection, step, announce) for step in steps]
        left = [] if dry_run else [one for one in found_differences(connection) if not one.harmless]
        whole = not left if not dry_run else all(step.statements for step in steps)
        return [*taken, *_marks(connection, admin_url, whole=whole, dry_run=dry_run, announce=announce)]


def planned(differences: Sequence[Difference], wanted: Objects) -> Iterator[RepairStep]:
    """Yield a step for each difference that matters, in an order in which what is needed comes first."""
    isolated: set[str] = set()
    order = {kind: place for place, kind in enumerate(_ORDER)}
    matter = [one for one in differences if not one.harmless]
    for one in sorted(matter, key=lambda one: order.get(one.kind, len(_ORDER))):
        table = _table_of_policies(one, wanted)
        if table is not None:  # one call makes all of them
            if table not in isolated:
                isolated.add(table)
                yield RepairStep(
                    action=f"make the policies of {table} anew, and have them enforced",
                    statements=(f"SELECT llmspell.apply_tenant_rls('{table}')",),
                )
        elif one.departure == "invalid":
            yield _index_step(one)
        else:
            yield _step(one, wanted.get((one.kind, one.name)))


def _table_of_policies(one: Difference, wanted: Objects) -> str | None:
    """Return the table whose policies the schema's own function makes; None for everything else."""
    if one.kind == "row-level security":
        table = one.name
    elif one.kind == "policy" and one.departure != "extra":
        policy, _, table = one.name.partition(" on ")
        if policy not in STANDARD_POLICIES:
            return None
    else:
        return None
    return table if ("policy", f"tenant_isolation_insert on {table}") in wanted else None


def _index_step(one: Difference) -> RepairStep:
    if LEFT_BY_REINDEX.search(one.name):
        action = f"drop {one.name}, which a rebuild has left"
        return RepairStep(action=action, statements=(f"DROP INDEX CONCURRENTLY {one.name}",))
    return RepairStep(
        action=f"build {one.name} anew, while reads and writes go on",
        statements=(f"REINDEX INDEX CONCURRENTLY {one.name}",),
    )


def _step(one: Difference, made: SchemaObject | None) -> RepairStep:
    by_hand = NOT_PUT_RIGHT.get((one.kind, one.departure))
    if by_hand is not None or made is None or one.kind in ("table", "column"):
        why = by_hand or "Change it by hand, or restore a backup: there are rows in it"
        return RepairStep(action=f"{one.kind} {one.name} is {one.departure}. {why}.")
    verb = "make" if one.departure == "missing" else "bring back"
    return RepairStep(action=f"{verb} {one.kind} {one.name}", statements=tuple(_statements(one, made)))


def _statements(one: Difference, made: SchemaObject) -> Iterator[str]:
    name = one.name.partition(" on ")[0]
    if one.departure == "changed" and one.kind in ("trigger", "policy"):
        yield f"DROP {one.kind.upper()} {name} ON {made.table}"
    elif one.departure == "changed" and one.kind == "index":
        yield f"DROP INDEX {one.name}"
    elif one.departure == "changed" and one.kind == "constraint":
        yield f"ALTER TABLE {made.table} DROP CONSTRAINT {name}"
    elif one.departure == "changed" and one.kind == "grant":
        thing, _, role = one.name.rpartition(" to ")
        yield f"REVOKE ALL ON {thing} FROM {role}"
    yield made.text.rstrip().removesuffix(";")
    if one.kind == "function":  # a new one may be executed by everybody
        yield f"REVOKE ALL ON FUNCTION {made.name} FROM PUBLIC"


def _take(connection: psycopg.Connection[Any], step: RepairStep, announce: Announce) -> RepairStep:
    import psycopg
    from msgspec.structs import replace

    if not step.statements:
        return step
    announce(step.action)
    try:
        if "CONCURRENTLY" in step.statements[0]:
            for statement in step.statements:
                connection.execute(statement.encode())
        else:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_S:g}s",))
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                for statement in step.statements:
                    connection.execute(statement.encode())
    except psycopg.Error as exc:
        return replace(step, error=_said(refused(exc, connection.info.user)))
    return replace(step, done=True)


def _said(error: LlmspellError) -> str:
    return " ".join(part for part in (error.detail, error.hint) if part)


def _marks(
    connection: psycopg.Connection[Any], admin_url: str, *, whole: bool, dry_run: bool, announce: Announce
) -> Iterator[RepairStep]:
    for mend in marks_to_mend(load(PACKAGE), recorded(admin_url)):
        action = f"record {mend.migration.name} as applied, as this release has it ({mend.why})"
        if not whole:
            why = "Not done: the schema is not yet the one that the migrations make"
            yield RepairStep(action=f"{action}. {why}.")
            continue
        statement = f"-- schema_migrations: {mend.migration.version}, {mend.migration.name}, {mend.migration.sha256}"
        if not dry_run:
            announce(action)
            row = (mend.migration.version, mend.migration.name, mend.migration.sha256)
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                connection.execute(_MARK, row)
        yield RepairStep(action=action, statements=(statement,), done=not dry_run)
