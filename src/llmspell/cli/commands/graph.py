"""`llmspell graph`: facts in three words, asked as of one time and as known at another.

Not here: what a fact promises (`storage.contracts.graph`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from llmspell.cli.output import async_command, current_output, group, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import open_tenant
from llmspell.cli.values import KeyValue
from llmspell.errors import NotFound
from llmspell.storage.contracts.graph import Cardinality, Direction

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from llmspell.spell import Tenant
    from llmspell.storage.contracts.graph import Entity, Fact, Path, Reached

Decorated = Callable[..., Any]
CARDINALITIES, DIRECTIONS = get_args(Cardinality), get_args(Direction)
DEPTH_DEFAULT = 4


def times(function: Decorated) -> Decorated:
    """Add --as-of and --known-at."""
    known = click.option("--known-at", metavar="TIME", help="What was known then; default: now.")
    return click.option("--as-of", metavar="TIME", help="What was true then; default: now.")(known(function))


def content(function: Decorated) -> Decorated:
    """Add what a fact carries beside its three words."""
    for option in (
        click.option("--actor", help="Who says so."),
        click.option("--source", help="Where it is from."),
        click.option("--confidence", type=float, help="From 0 to 1."),
        click.option("--property", "properties", type=KeyValue(), multiple=True, help="KEY=VALUE; may be repeated."),
    ):
        function = option(function)
    return function


@group()
def graph() -> None:
    """Assert facts and ask them as of any instant.

    TIME is ISO 8601 with an offset (2026-05-01T09:30:00Z) or a bare date (00:00 UTC).
    """


@graph.command("assert")
@click.argument("subject")
@click.argument("predicate")
@click.argument("object_", metavar="OBJECT")
@click.option("--valid-from", metavar="TIME", help="True from then on; default: now.")
@click.option("--valid-to", metavar="TIME", help="True until then; default: open.")
@click.option("--cardinality", type=click.Choice(CARDINALITIES), help="Declare it: one value at a time, or many.")
@content
@async_command
async def assert_fact(subject: str, predicate: str, object_: str, **options: Any) -> None:
    """Record that something is true: llmspell graph assert Ada lives_in Zurich --valid-from 2026-05-01

    With the cardinality "one" a new value ends the old one where it begins.
    """
    properties = dict(options.pop("properties"))
    async with open_tenant(creates=True) as tenant:
        fact = await tenant.graph.assert_fact(subject, predicate, object_, properties=properties, **options)
    _emit_fact(fact)


@graph.command()
@click.argument("subject")
@click.argument("predicate")
@click.argument("object_", metavar="[OBJECT]", required=False)
@click.option("--valid-from", metavar="TIME", help="No longer true from then on.")
@click.option("--valid-to", metavar="TIME", help="Not true until then.")
@click.option("--actor", help="Who says so.")
@async_command
async def retract(subject: str, predicate: str, object_: str | None, **options: Any) -> ExitCode:
    """Stop believing facts, wholly or during a period. What was believed before stays visible to --known-at.

    Exit code 1 when there was nothing to retract.
    """
    async with open_tenant() as tenant:
        count = await tenant.graph.retract(subject, predicate, object_, **options)
    output = current_output()
    output.emit({"retracted": count}, lines=lambda: [str(count)])
    if not count:
        output.note("No such fact is believed.")
    return ExitCode.OK if count else ExitCode.FAILED


@graph.command()
@click.argument("fact_id")
@click.option("--object", "object_", help="What it really was.")
@click.option("--valid-from", metavar="TIME", help="True from then on.")
@click.option("--valid-to", metavar="TIME", help="True until then.")
@click.option("--open-ended", is_flag=True, help="True until further notice.")
@content
@async_command
async def correct(fact_id: str, *, object_: str | None, open_ended: bool, **options: Any) -> None:
    """Say what was really so. What was believed before stays visible to --known-at.

    FACT_ID is printed by assert and by show.
    """
    if open_ended and options["valid_to"] is not None:
        raise click.UsageError("--open-ended and --valid-to contradict each other")
    changes = {name: options[name] for name in ("valid_from", "valid_to", "confidence") if options[name] is not None}
    changes |= {"object": object_} if object_ is not None else {}
    changes |= {"valid_to": None} if open_ended else {}
    changes |= {"properties": dict(options["properties"])} if options["properties"] else {}
    if not changes:
        raise click.UsageError("say what was really so: --object, --valid-from, --valid-to, --property or --confidence")
    async with open_tenant() as tenant:
        fact = await tenant.graph.correct(fact_id, source=options["source"], actor=options["actor"], **changes)
    _emit_fact(fact)


@graph.command()
@click.argument("entity")
@click.option("--predicate", help="Only facts of this predicate.")
@click.option("--direction", type=click.Choice(DIRECTIONS), default="both", help="Facts from it, to it, or both.")
@click.option("--depth", type=click.IntRange(1, 6), default=1, help="How many steps away, 1 to 6.")
@click.option("--limit", type=int, default=100, show_default=True, help="How many facts, 1 to 1,000.")
@times
@async_command
async def show(entity: str, *, depth: int, direction: Direction, **options: Any) -> None:
    """Show the facts about an entity, as they were true at one time and known at another.

    In a pipe each fact is a line: id, subject, predicate, object, valid from, valid to, parted by tabs. With --depth
    above 1 a line is an entity: its distance, its name, and the chain of facts that leads there.
    """
    if depth > 1 and direction != "both":
        raise click.UsageError("--direction goes with --depth 1: a longer walk follows facts both ways")
    async with open_tenant() as tenant:
        if depth > 1:
            reached = await tenant.graph.traverse(entity, max_depth=depth, **options)
            if not reached:
                await _require_entity(tenant, entity, options)
            _emit_reached(reached)
            return
        facts = await tenant.graph.neighbours(entity, direction=direction, **options)
        if not facts:
            await _require_entity(tenant, entity, options)
    _emit_facts(facts)
    if not facts:
        current_output().note("No fact about it fits.")


@graph.command()
@click.argument("fact_id", required=False)
@click.option("--entity", help="The history of an entity, by its name, instead of that of a fact.")
@async_command
async def history(fact_id: str | None, entity: str | None) -> None:
    """Show everything that was ever believed of a fact or an entity, in the order of recording."""
    if (fact_id is None) == (entity is None):
        raise click.UsageError("give the id of a fact, or --entity NAME")
    async with open_tenant() as tenant:
        if entity is not None:
            versions = await tenant.graph.entity_history(entity)
            if not versions:
                raise NotFound("There is no such entity.", entity=entity)
            _emit_entities(versions)
            return
        facts = await tenant.graph.history(str(fact_id))
    if not facts:
        raise NotFound("There is no such fact.", id=fact_id, hint="`llmspell graph show ENTITY` prints the ids.")
    _emit_facts(facts, recorded=True)


@graph.command()
@click.argument("start", metavar="A")
@click.argument("end", metavar="B")
@click.option("--max-depth", type=click.IntRange(1, 6), default=DEPTH_DEFAULT, show_default=True, help="Steps at most.")
@click.option("--limit", type=int, default=10, show_default=True, help="How many paths, 1 to 100.")
@times
@async_command
async def paths(start: str, end: str, **options: Any) -> ExitCode:
    """Show how two entities are connected, by chains of facts, shortest first. Exit code 1 when they are not."""
    async with open_tenant() as tenant:
        found = await tenant.graph.paths(start, end, **options)
    output = current_output()
    output.emit(found, lines=lambda: (_chain(path.facts) for path in found), render=lambda c: _draw_paths(c, found))
    if not found:
        output.note("No path of that length connects them.")
    return ExitCode.OK if found else ExitCode.FAILED


@graph.command()
@click.argument("predicate")
@click.argument("cardinality", type=click.Choice(CARDINALITIES))
@async_command
async def declare(predicate: str, cardinality: Cardinality) -> None:
    """Declare whether a subject has one value of a predicate at a time, or many."""
    async with open_tenant(creates=True) as tenant:
        await tenant.graph.declare(predicate, cardinality)
    document = {"predicate": predicate, "cardinality": cardinality}
    current_output().emit(document, lines=lambda: [f"{predicate}\t{cardinality}"])


async def _require_entity(tenant: Tenant, name: str, options: dict[str, Any]) -> None:
    """Refuse a name that nobody ever bore.

    Raises:
        NotFound: the hint names the same name in another case, when there is one.
    """
    if await tenant.graph.entity_history(name):
        return
    near = await tenant.graph.mentioned([name])
    hint = f"Did you mean {near[0].name}?" if near else "`llmspell graph assert` makes the entities that it names."
    raise NotFound("There is no such entity.", hint=hint, entity=name)


def _emit_fact(fact: Fact) -> None:
    current_output().emit(fact, lines=lambda: [_line(fact)], render=lambda console: _draw_facts(console, [fact]))


def _emit_facts(facts: Sequence[Fact], *, recorded: bool = False) -> None:
    current_output().emit(
        facts,
        lines=lambda: (_line(fact, recorded=recorded) for fact in facts),
        render=lambda console: _draw_facts(console, facts, recorded=recorded),
    )


def _line(fact: Fact, *, recorded: bool = False) -> str:
    cells = [str(fact.id), fact.subject, fact.predicate, fact.object, _iso(fact.valid_from), _iso(fact.valid_to)]
    cells += [_iso(fact.recorded_from), _iso(fact.recorded_to)] if recorded else []
    return "\t".join(map(printable, cells))


def _draw_facts(console: Console, facts: Sequence[Fact], *, recorded: bool = False) -> None:
    from rich.table import Table

    if not facts:
        return
    table = Table(box=None, pad_edge=False)
    for title in ("fact", "true", *(("known",) if recorded else ())):
        table.add_column(title, overflow="fold")
    table.add_column("id", style="dim", no_wrap=True)
    for fact in facts:
        said = printable(f"{fact.subject} {fact.predicate} {fact.object}")
        known = (_period(fact.recorded_from, fact.recorded_to, exact=True),) if recorded else ()
        table.add_row(said, _period(fact.valid_from, fact.valid_to), *known, str(fact.id))
    console.print(table)


def _emit_entities(versions: Sequence[Entity]) -> None:
    def lines() -> Iterable[str]:
        for one in versions:
            ends = (one.valid_from, one.valid_to, one.recorded_from, one.recorded_to)
            content_of = msgspec.json.encode(one.properties).decode()
            yield "\t".join(map(printable, [str(one.id), one.name, one.type, *map(_iso, ends), content_of]))

    current_output().emit(versions, lines=lines)


def _emit_reached(reached: Sequence[Reached]) -> None:
    def draw(console: Console) -> None:
        from rich.table import Table

        table = Table("steps", "entity", "by", box=None, pad_edge=False)
        for one in reached:
            table.add_row(str(one.depth), printable(one.name), _chain(one.facts))
        console.print(table)

    lines = (f"{one.depth}\t{printable(one.name)}\t{_chain(one.facts)}" for one in reached)
    current_output().emit(reached, lines=lambda: lines, render=draw)


def _draw_paths(console: Console, found: Sequence[Path]) -> None:
    for path in found:
        console.print(_chain(path.facts))


def _chain(facts: Sequence[Fact]) -> str:
    return "; ".join(printable(f"{fact.subject} {fact.predicate} {fact.object}") for fact in facts)


def _period(start: datetime, end: datetime | None, *, exact: bool = False) -> str:
    from llmspell.storage.text.memory_text import spoken_date

    shown = _iso if exact else spoken_date
    return f"since {shown(start)}" if end is None else f"{shown(start)} to {shown(end)}"


def _iso(instant: datetime | None) -> str:
    return "" if instant is None else instant.isoformat().replace("+00:00", "Z")
