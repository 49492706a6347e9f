"""Is the schema of a file the one that its migrations make, and what can be put right? Blocks.

How: the migrations are run in memory, and the two schemas are compared object by object.

Rule 1: looking changes nothing, and opens the file read-only.
Rule 2: a repair makes indexes and triggers, and sets marks; nothing that holds rows is touched.
Rule 3: a mark is set only when the schema, after all other steps, is the one that the migrations make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, cast

import apsw

from llmspell.clock import Clock, to_microseconds
from llmspell.storage.contracts.schema import Difference, RepairStep
from llmspell.storage.relational import migrations
from llmspell.storage.relational.migrations import Migration
from llmspell.storage.sqlite.connection import control, open_only_to_look, open_writer, roll_back, translate
from llmspell.storage.sqlite.migrator import PACKAGE, known, recorded

Announce = Callable[[str], None]
_OBJECTS: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
ORDER BY type <> 'table', type, name
"""
_COLUMNS: Final = 'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)'
_MARK: Final = """
INSERT INTO schema_migrations (version, name, sha256, applied_at) VALUES (:version, :name, :sha256, :now)
ON CONFLICT (version) DO UPDATE SET name = excluded.name, sha256 = excluded.sha256
"""
Objects = dict[tuple[str, str], tuple[str, str]]
"""Kind and name of an object: the table that it belongs to, and its definition."""


def differences(path: str) -> list[Difference]:
    """Compare a file with what its applied migrations make.

    Raises:
        NotADatabase, Unavailable, StorageError: it cannot be read.
    """
    applied = _applied(path)
    connection = open_only_to_look(path)
    model = _model(applied)
    try:
        return _compare(model, connection)
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()
        model.close()


def repair(
    path: str, *, dry_run: bool, busy_timeout_s: float, clock: Clock, announce: Announce = lambda _: None
) -> list[RepairStep]:
    """Put right what differs, and return what was done, would be done, or must be done by hand.

    Raises:
        NotADatabase, Unavailable, StorageError: it cannot be read, or written.
    """
    model = _model(_applied(path))
    wanted = _objects(model)
    model.close()
    steps = [_step(one, wanted) for one in differences(path) if not one.harmless]
    if dry_run:
        whole = all(step.statements for step in steps)
        return [*steps, *(_mark_step(mend, whole=whole) for mend in _mends(path))]
    connection = open_writer(path, synchronous="FULL", busy_timeout_s=busy_timeout_s)
    try:
        taken = [_take(connection, step, announce) for step in steps]
        whole = not [one for one in differences(path) if not one.harmless]
        marks = list(_set_marks(connection, path, clock, whole=whole, announce=announce))
    except apsw.Error as exc:
        raise translate(exc, connection, path=path) from exc
    finally:
        connection.close()
    return [*taken, *marks]


def _applied(path: str) -> tuple[Migration, ...]:
    """The migrations up to the last that is recorded: a row that is gone among them is a mark, not a schema."""
    latest = max((row.version for row in recorded(path)), default=0)
    return known()[:latest]


def _model(applied: tuple[Migration, ...]) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(migrations.bookkeeping(PACKAGE))
    for migration in applied:
        connection.execute(migration.sql)
    return connection


def _objects(connection: apsw.Connection) -> Objects:
    rows = cast("list[tuple[str, str, str, str]]", connection.execute(_OBJECTS).fetchall())
    return {(kind, name): (table, sql) for kind, name, table, sql in rows}


def _compare(model: apsw.Connection, connection: apsw.Connection) -> list[Difference]:
    wanted, there = _objects(model), _objects(connection)
    found: list[Difference] = []
    for (kind, name), (_, sql) in wanted.items():
        if (kind, name) not in there:
            found.append(Difference(kind=kind, name=name, departure="missing"))
        elif sql != there[kind, name][1]:
            columns = _column_changes(name, model, connection) if kind == "table" else []
            found += columns or [Difference(kind=kind, name=name, departure="changed", detail="its definition differs")]
    for (kind, name), (table, sql) in there.items():
        if (kind, name) not in wanted:
            plain_index = kind == "index" and not sql.upper().startswith("CREATE UNIQUE")
            harmless = kind in ("table", "view") or plain_index or ("table", table) not in wanted
            found.append(Difference(kind=kind, name=name, departure="extra", harmless=harmless))
    return found


def _column_changes(table: str, model: apsw.Connection, connection: apsw.Connection) -> list[Difference]:
    wanted, there = (
        {row[0]: row[1:] for row in database.execute(_COLUMNS, (table,)).fetchall()} for database in (model, connection)
    )
    missing = [name for name in wanted if name not in there]
    extra = [name for name in there if name not in wanted]
    changed = [name for name in wanted if name in there and wanted[name] != there[name]]
    return [
        *(Difference(kind="column", name=f"{table}.{name}", departure="missing") for name in missing),
        *(Difference(kind="column", name=f"{table}.{name}", departure="extra") for name in extra),
        *(Difference(kind="column", name=f"{table}.{name}", departure="changed") for name in changed),
    ]


def _step(one: Difference, wanted: Objects) -> RepairStep:
    if one.kind in ("index", "trigger") and one.departure in ("missing", "changed"):
        drop = (f'DROP {one.kind.upper()} "{one.name}"',) if one.departure == "changed" else ()
        verb = "make" if one.departure == "missing" else "bring back"
        statements = (*drop, wanted[one.kind, one.name][1])
        return RepairStep(action=f"{verb} {one.kind} {one.name}", statements=statements)
    why = (
        "Drop it, if it is not yours"
        if one.departure == "extra"
        else "Restore a backup: there are, or were, rows in it"
    )
    return RepairStep(action=f"{one.kind} {one.name} is {one.departure}. {why}.")


def _take(connection: apsw.Connection, step: RepairStep, announce: Announce) -> RepairStep:
    from msgspec.structs import replace

    if not step.statements:
        return step
    announce(step.action)
    try:
        control(connection, "BEGIN IMMEDIATE")
        for statement in step.statements:
            connection.execute(statement)
        control(connection, "COMMIT")
    except apsw.Error as exc:
        return replace(step, error=str(translate(exc, connection)))
    finally:
        roll_back(connection)
    return replace(step, done=True)


def _mends(path: str) -> list[migrations.MarkToMend]:
    return migrations.marks_to_mend(known(), recorded(path))


def _mark_step(mend: migrations.MarkToMend, *, whole: bool) -> RepairStep:
    action = f"record {mend.migration.name} as applied, as this release has it ({mend.why})"
    if not whole:
        return RepairStep(action=f"{action}. Not done: the schema is not yet the one that the migrations make.")
    mark = f"-- schema_migrations: {mend.migration.version}, {mend.migration.name}, {mend.migration.sha256}"
    return RepairStep(action=action, statements=(mark,))


def _set_marks(
    connection: apsw.Connection, path: str, clock: Clock, *, whole: bool, announce: Announce
) -> Iterator[RepairStep]:
    from msgspec.structs import replace

    for mend in _mends(path):
        step = _mark_step(mend, whole=whole)
        if whole:
            announce(step.action)
            row = {"version": mend.migration.version, "name": mend.migration.name, "sha256": mend.migration.sha256}
            connection.execute(_MARK, {**row, "now": to_microseconds(clock.now())})
            step = replace(step, done=True)
        yield step
