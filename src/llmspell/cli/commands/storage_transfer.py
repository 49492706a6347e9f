"""`llmspell storage export`, `import`, `transfer` and `verify`: everything that a store holds, moved and compared.

Not here: how it is moved (`ops.moving`, `storage.transfer`).

Rule: with `--output -`, stdout carries the export and nothing else; what is said of it goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmspell.cli.output import async_command, command, counted, current_options, current_output, plain, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import backend_option, current_settings, require_store, settings_of
from llmspell.cli.table_progress import MARK, TableProgress

if TYPE_CHECKING:
    from llmspell.ops.moving import Compression
    from llmspell.settings import Settings
    from llmspell.spell import Spell
    from llmspell.storage.contracts.backend import Backend
    from llmspell.storage.contracts.transfer import OnConflict
    from llmspell.storage.transfer.reports import Difference, Report, SideDifference, Verification

F = TypeVar("F", bound=Callable[..., object])
STANDARD = "-"
KEYS_NOTE = "api_keys"
OTHERS_SHOWN_MAX = 100
"""So many other tenants are counted for the warning that they stay behind."""
COMPRESSIONS = ("gz", "zst", "none")


def part_options(function: F) -> F:
    """Give a command the options that choose a part of a store."""
    options = (
        click.option(
            "--only",
            multiple=True,
            metavar="NAME",
            help="Only this table or type, such as sessions or knowledge_graph; may be repeated, or parted by commas.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1),
            metavar="N",
            help="At most N things of each table, with what belongs to them: for trials.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def conflict_option(function: F) -> F:
    """Give a command `--on-conflict`."""
    return click.option(
        "--on-conflict",
        type=click.Choice(("error", "skip", "replace")),
        default="error",
        show_default=True,
        help="What becomes of what is there already: nothing comes in, it is kept, or it is replaced.",
    )(function)


def compress_option(function: F) -> F:
    """Give a command `--compress`."""
    return click.option(
        "--compress", type=click.Choice(COMPRESSIONS), help="How the file is compressed; default: by its suffix."
    )(function)


def all_tenants_option(function: F) -> F:
    """Give a command `--all-tenants`."""
    return click.option(
        "--all-tenants", is_flag=True, help="Every tenant; on a server this needs DATABASE_OPERATOR_URL."
    )(function)


@command()
@backend_option("The store to export")
@click.option("--output", "file", required=True, metavar="FILE|-", help="The file to write; - is the standard output.")
@all_tenants_option
@part_options
@compress_option
@async_command
async def export(
    backend: str | None,
    file: str,
    *,
    all_tenants: bool,
    only: tuple[str, ...],
    limit: int | None,
    compress: Compression | None,
) -> None:
    """Write everything that a store holds into a file, from one snapshot, while others go on working.

    It is the tenant of --tenant or of the settings, or with --all-tenants all of them. The file is one JSON object, and appears
    when it is complete, for you alone; .gz and .zst are compressed. Provider keys (api_keys) are not exported.
    """
    import llmspell
    from llmspell.ops.named_store import require_named_store, without_migrating

    settings = settings_of(backend)
    require_named_store(settings)
    require_store(settings.storage.url)
    tenant = _scope(settings, all_tenants=all_tenants)
    output = current_output()
    _say_waiting(file, "reads from")
    async with llmspell.connect(settings.storage.url, settings=without_migrating(settings)) as spell:
        with TableProgress(output) as progress:
            report = await spell.admin.export(
                file, tenant=tenant, only=_names(only), limit=limit, compress=compress, progress=progress
            )
        others = 0 if tenant is None else await _others(spell, tenant)
    document = _document(report, settings, file=file)
    if file == STANDARD:
        _tell_aside(document, report)
    else:
        output.emit(document, lines=lambda: _lines(report, "exported"), columns=("what", "records"))
    _notes(report)
    if others:
        output.warn(
            f"{counted(others, 'other tenant')} of this store {'is' if others == 1 else 'are'} not in the export.",
            hint="--all-tenants exports all of them.",
        )


@command("import")
@backend_option("The store to import into")
@click.option("--input", "file", required=True, metavar="FILE|-", help="The file to read; - is the standard input.")
@conflict_option
@click.option("--dry-run", is_flag=True, help="Do all of it, and undo it at the end.")
@part_options
@compress_option
@async_command
async def import_(
    backend: str | None,
    file: str,
    on_conflict: OnConflict,
    *,
    dry_run: bool,
    only: tuple[str, ...],
    limit: int | None,
    compress: Compression | None,
) -> None:
    """Take what a file holds into a store, in one transaction: all of it comes in, or nothing.

    It takes the tenants that the file holds, or with --tenant that one. Digests are checked before the transaction ends. What is
    there already refuses the file, unless --on-conflict says otherwise. A file store is made when it is not there.
    """
    from llmspell.ops.moving import require_input
    from llmspell.ops.named_store import require_named_store

    settings = settings_of(backend)
    require_named_store(settings)
    require_input(file)
    output = current_output()
    _say_waiting(file, "writes into")
    async with _target(settings, dry_run=dry_run) as spell:
        with TableProgress(output) as progress:
            report = await spell.admin.import_(
                file,
                tenant=current_options().tenant,
                on_conflict=on_conflict,
                dry_run=dry_run,
                only=_names(only),
                limit=limit,
                compress=compress,
                progress=progress,
            )
    _emit_taken(report, settings, file=file)


@command()
@click.argument("source", metavar="FROM-URL")
@click.argument("target", metavar="TO-URL")
@all_tenants_option
@conflict_option
@click.option("--dry-run", is_flag=True, help="Do all of it, and undo it at the end.")
@part_options
@click.option("--from-operator", metavar="URL", help="The operator's URL of FROM, where that is another server.")
@click.option("--to-operator", metavar="URL", help="The operator's URL of TO, where that is another server.")
@async_command
async def transfer(
    source: str,
    target: str,
    *,
    all_tenants: bool,
    on_conflict: OnConflict,
    dry_run: bool,
    only: tuple[str, ...],
    limit: int | None,
    from_operator: str | None,
    to_operator: str | None,
) -> None:
    """Take one store into another without a file: sqlite:///agent.db postgresql://llmspell_app@host/database.

    What holds for export and import holds here: one snapshot is read, and one transaction takes it, or nothing of it. Where all
    tenants of a server are moved that is not the configured one, --from-operator or --to-operator names its operator.
    """
    from llmspell.clock import SystemClock
    from llmspell.ops.moving import part_of, require_tenant, require_two_files, transfer_store
    from llmspell.ops.named_store import without_migrating
    from llmspell.ops.other_store import other_store, settings_of_other

    settings = current_settings()
    tenant = _scope(settings, all_tenants=all_tenants)
    require_store(source)
    require_two_files(source, target)
    output, clock = current_output(), SystemClock()
    into = settings_of_other(settings, target)
    part = part_of(tenant, _names(only), limit)
    looking = without_migrating(settings)
    with _spare(into, dry_run=dry_run) as spare:
        async with AsyncExitStack() as opened:
            here = await opened.enter_async_context(
                other_store(source, settings=looking, clock=clock, operator_url=from_operator)
            )
            await require_tenant(here, part)
            there = await opened.enter_async_context(
                other_store(spare.storage.url, settings=settings, clock=clock, operator_url=to_operator)
            )
            others = 0 if tenant is None else await _others(here, tenant)
            with TableProgress(output) as progress:
                report = await transfer_store(
                    here,
                    there,
                    part,
                    clock=clock,
                    on_conflict=on_conflict,
                    dry_run=dry_run,
                    progress=progress,
                )
    _emit_taken(report, into, file=None)
    if others:
        output.warn(f"{counted(others, 'other tenant')} stayed behind.", hint="--all-tenants moves all of them.")


@command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@all_tenants_option
@click.option(
    "--differences",
    type=click.IntRange(0, 1_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Name at most N rows that differ.",
)
@click.option("--first-operator", metavar="URL", help="The operator's URL of A, where that is another server.")
@click.option("--second-operator", metavar="URL", help="The operator's URL of B, where that is another server.")
@async_command
async def verify(
    first: str,
    second: str,
    *,
    all_tenants: bool,
    differences: int,
    first_operator: str | None,
    second_operator: str | None,
) -> ExitCode:
    """Compare two stores, two files, or one of each, by count and digest of each table and tenant.

    A and B are URLs of stores, or files. All tenants are compared, or --tenant; beside a file of one tenant it is that one.
    Nothing is printed when both hold the same; otherwise the tables that differ, the first rows that do, and exit code 1.
    """
    from llmspell.clock import SystemClock
    from llmspell.ops.moving import compare, is_store, only_tenant, part_of, side
    from llmspell.ops.named_store import without_migrating

    settings = without_migrating(current_settings())
    _scope(settings, all_tenants=all_tenants)
    for name in (first, second):
        if is_store(name):
            require_store(name)
    tenant = current_options().tenant
    if tenant is None and not all_tenants:
        tenant = await only_tenant(first) or await only_tenant(second)
    clock = SystemClock()
    output = current_output()
    for name in (first, second):
        _say_waiting(name, "writes into")
    async with (
        side(first, settings=settings, clock=clock, operator_url=first_operator) as here,
        side(second, settings=settings, clock=clock, operator_url=second_operator) as there,
    ):
        with TableProgress(output) as progress:
            found = await compare(
                here, there, tenant=part_of(tenant, (), None).tenant, differences=differences, progress=progress
            )
    document = {"equal": found.equal, "tenant": tenant, **plain(found)}
    output.emit(document, lines=lambda: _differing_lines(found), columns=("table", "tenant", "record", "difference"))
    if found.equal:
        scope = "all tenants" if tenant is None else f"tenant {printable(tenant)}"
        output.note(f"{MARK} the same: {counted(found.rows, 'record')} in {counted(found.tables, 'table')}, {scope}")
    return ExitCode.OK if found.equal else ExitCode.FAILED


def _say_waiting(file: str, does: str) -> None:
    """Say what is waited for where somebody else must begin first."""
    from llmspell.storage.transfer.streams import is_pipe

    if is_pipe(file):
        current_output().note(f"Waiting until somebody {does} the pipe {printable(file)} … (Ctrl-C ends it.)")
    elif file == STANDARD and does == "writes into" and sys.stdin is not None and sys.stdin.isatty():
        current_output().note("Reading the export from this terminal … (Ctrl-C ends it.)")


def _scope(settings: Settings, *, all_tenants: bool) -> str | None:
    """Return the tenant of the command line, or None for all."""
    if all_tenants and current_options().tenant is not None:
        raise click.UsageError("--tenant names one tenant, and --all-tenants asks for every one")
    return None if all_tenants else settings.tenant_id


def _names(only: tuple[str, ...]) -> list[str]:
    return [name.strip() for given in only for name in given.split(",") if name.strip()]


@asynccontextmanager
async def _target(settings: Settings, *, dry_run: bool) -> AsyncIterator[Spell]:
    """Open the store to import into. A trial makes no file: it is done in one that nobody keeps."""
    import llmspell

    with _spare(settings, dry_run=dry_run) as chosen:
        async with llmspell.connect(chosen.storage.url, settings=chosen) as spell:
            yield spell


@contextmanager
def _spare(settings: Settings, *, dry_run: bool) -> Iterator[Settings]:
    """Return the settings; of a trial in a file that is not there, with a file in a temporary folder."""
    from msgspec.structs import replace

    from llmspell.ops.named_store import in_folder
    from llmspell.ops.schema_status import missing_file

    if not dry_run or missing_file(settings.storage.url) is None:
        yield settings
        return
    with TemporaryDirectory(prefix="llmspell-trial-") as folder:
        yield replace(settings, storage=replace(settings.storage, url=in_folder(folder)))


async def _others(store: Spell | Backend, tenant: str) -> int:
    """Count the other tenants of the store, as far as this role may know of them."""
    from llmspell.errors import LlmspellError
    from llmspell.storage.contracts.capabilities import Capability

    if Capability.DATABASE_ISOLATION in store.capabilities:
        return 0  # it takes the operator to see them, and a warning is not worth that
    try:
        page = await store.tenants.list(limit=OTHERS_SHOWN_MAX)
    except LlmspellError:
        return 0
    return sum(one.tenant_id != tenant for one in page.items)


def _document(report: Report, settings: Settings, *, file: str | None) -> dict[str, Any]:
    from llmspell.settings import masked

    moved: dict[str, Any] = {"backend": settings.storage.backend, "url": masked(settings.storage.url)}
    if file is not None:
        moved["file"] = file
    kept, replaced = _outcomes(report)
    outcomes = {"records": report.total, "kept": kept, "replaced": replaced}
    return moved | outcomes | {"statistics": report.statistics(), **plain(report)}


def _emit_taken(report: Report, settings: Settings, *, file: str | None) -> None:
    done = "would be imported; nothing was changed" if report.dry_run else "imported"
    current_output().emit(
        _document(report, settings, file=file), lines=lambda: _lines(report, done), columns=("what", "records")
    )
    _notes(report)


def _lines(report: Report, done: str) -> Iterable[str]:
    """The types of EXP-11 with their records, the others where there are any, and how many it were in all."""
    counts = report.statistics()
    total = counts.pop("total")
    for name, count in counts.items():
        if count:
            yield f"{name}\t{count:,}"
    kept, replaced = _outcomes(report)
    if kept:
        yield f"of those, kept as they are in the target\t{kept:,}"
    if replaced:
        yield f"of those, in the place of others\t{replaced:,}"
    yield f"{MARK} {done}\t{total - kept:,}"


def _outcomes(report: Report) -> tuple[int, int]:
    """Return how many records of the target were kept, and how many were replaced."""
    tables = report.tables.values()
    return sum(one.skipped for one in tables), sum(one.replaced for one in tables)


def _tell_aside(document: dict[str, Any], report: Report) -> None:
    """Say on stderr what became of an export that has stdout for itself."""
    output = current_output()
    if output.json:
        print(json.dumps(document, ensure_ascii=False), file=sys.stderr, flush=True)
    for line in _lines(report, "exported"):
        output.note(line.replace("\t", "  "))


def _notes(report: Report) -> None:
    output = current_output()
    for note in report.notes:
        output.note(printable(note))
    output.note(f"Not moved: {KEYS_NOTE}: {report.excluded[KEYS_NOTE]}")


def _differing_lines(found: Verification) -> Iterable[str]:
    for one in found.differing:
        yield _counts_line(one)
    for row in found.differences:
        yield _row_line(row)


def _counts_line(one: SideDifference) -> str:
    if one.first_count != one.second_count:
        said = f"{one.first_count:,} in A, {one.second_count:,} in B"
    else:
        said = f"{counted(one.first_count, 'record')} in both, not the same"
    return f"{one.table}\t{printable(one.tenant)}\t\t{said}"


def _row_line(row: Difference) -> str:
    key = ", ".join(f"{name}={printable(str(value))}" for name, value in row.key.items())
    said = f"differs in {', '.join(row.columns)}"
    if row.side is not None:
        said = f"only in {'A' if row.side == 'first' else 'B'}"
    return f"{row.table}\t{printable(row.tenant)}\t{key}\t{said}"
