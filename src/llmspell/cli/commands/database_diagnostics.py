"""`llmspell database isolation`: look, and change nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from llmspell.cli import problems
from llmspell.cli.output import async_command, command, counted, current_output, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings
from llmspell.errors import LlmspellError

if TYPE_CHECKING:
    from llmspell.ops.isolation import Hole, IsolationReport


@command("isolation")
@click.option("--check", is_flag=True, help="Print the holes alone, a line for each; nothing when there is none.")
@async_command
async def isolation(check: bool) -> ExitCode:
    """Check that the database keeps tenants apart, and name every hole.

    Shows the role in use and its attributes, the tenant that the database sees inside a unit of work, row-level security of
    every table and partition, and the audit of policies, grants, functions and keys. With --check it prints only what is
    wrong: a line "SUBJECT: PROBLEM" for each hole. Exit code 1 when there is a hole; 2 when the store cannot be examined,
    such as one without row-level security.
    """
    from llmspell.ops.isolation import examine
    from llmspell.ops.tenant_signing import configured_key
    from llmspell.tenant import tenant_id

    settings = current_settings()
    try:
        report = await examine(
            settings.storage.url,
            tenant=tenant_id(settings.tenant_id),
            tenant_key=configured_key(settings),
        )
    except LlmspellError as error:
        # 1 would say to whoever reads exit codes alone that there is a hole.
        code = problems.report(error, as_json=current_output().json)
        return ExitCode.USAGE if code is ExitCode.FAILED else code
    if check:
        if settings.origin("tenant_id") != "default":
            for line in _unregistered(report):
                current_output().note(line)
        document = {"isolated": report.isolated, "holes": report.holes}
        current_output().emit(document, lines=lambda: map(_hole_line, report.holes))
    else:
        current_output().emit(report, lines=lambda: _isolation_lines(report))
    return ExitCode.OK if report.isolated else ExitCode.FAILED


def _hole_line(hole: Hole) -> str:
    return f"{printable(hole.subject)}: {printable(hole.problem)}"


def _isolation_lines(report: IsolationReport) -> Iterable[str]:
    observed = report.observed
    role, tables = observed.role, observed.tables
    attributes = [
        name
        for name, has in (
            ("superuser", role.superuser),
            ("BYPASSRLS", role.bypasses_rls),
            ("CREATEROLE", role.may_create_roles),
            ("CREATEDB", role.may_create_databases),
            ("REPLICATION", role.may_replicate),
        )
        if has
    ]
    yield f"role      {printable(role.name)}: {', '.join(attributes) or 'no attribute beyond LOGIN'}"
    yield f"          owns {counted(role.tables_owned, 'table')}; member of {printable(', '.join(role.member_of)) or 'no role'}"
    yield f"tenant    asked for {printable(observed.tenant_asked)}, the database sees {printable(observed.tenant_seen or 'none')}"
    for line in _unregistered(report):
        yield f"          {line}"
    yield f"          left on the connection afterwards: {printable(observed.tenant_left) or 'nothing'}"
    yield f"          rows visible without a tenant: {observed.rows_without_tenant:,}"
    yield f"strict    {'on: tenants are signed' if observed.signing else 'off: tenants need no signature'}"
    yield f"log       parameters of statements: {f'written, by {observed.logged_by}' if observed.logged_by else 'not written'}"
    for table in tables:
        kind = "partition" if table.partition else "table"
        flags = f"enabled={_word(table.enabled)} forced={_word(table.forced)} policies={table.policies}"
        yield f"{kind:9} {printable(table.name)}: {flags if table.tenant else 'shared, without rows of tenants'}"
    for hole in report.holes:
        yield f"HOLE      {_hole_line(hole)}"
    yield f"result    {'isolated' if report.isolated else counted(len(report.holes), 'hole')}"


def _unregistered(report: IsolationReport) -> Iterable[str]:
    observed = report.observed
    if observed.tenant_registered is None:
        yield "tenants must be signed, and no tenant key is configured here, so it cannot serve"
    elif not observed.tenant_registered:
        yield f"{printable(observed.tenant_asked)} is not registered in this store; llmspell tenants create does it"


def _word(flag: bool) -> str:
    return "yes" if flag else "no"
