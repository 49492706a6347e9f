"""`llmspell config`: what is configured, where each value came from, and what a key means. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import current_options, current_output, group, plain, printable
from llmspell.cli.session import current_settings
from llmspell.directories import directories
from llmspell.settings import PREFIX, Setting, config_files, find_setting, masked, schema

if TYPE_CHECKING:
    from rich.console import Console

NO_EFFECT = "(no effect yet)"


@group()
def config() -> None:
    """Show and explain the configuration."""


@config.command()
@click.option("--origin", "with_origin", is_flag=True, help="Say where each value came from.")
def show(with_origin: bool) -> None:
    """Show every setting; secrets are masked.

    A setting marked "(no effect yet)" is accepted and checked, and used by a later part of llmspell.
    """
    settings = current_settings()
    entries = [
        {
            "key": setting.key,
            "value": plain(masked(settings.value(setting.key))),
            **({"origin": settings.origin(setting.key)} if with_origin else {}),
            "effect": not setting.later,
        }
        for setting in schema().values()
    ]
    chosen = current_options().config
    files = [str(file) for file in ([chosen] if chosen else config_files())]
    current_output().emit(
        {"files": files, "settings": entries},
        render=lambda console: _draw(console, entries, files, with_origin=with_origin),
        lines=lambda: _lines(entries),
    )


def _lines(entries: list[dict[str, Any]]) -> Iterable[str]:
    for entry in entries:
        notes = [entry["origin"]] if "origin" in entry else []
        notes += [] if entry["effect"] else [NO_EFFECT]
        comment = f"  # {' '.join(notes)}" if notes else ""
        yield f"{entry['key']} = {written(entry['value'])}{printable(comment)}"


def _draw(console: Console, entries: list[dict[str, Any]], files: list[str], *, with_origin: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ["setting", "value", *(["origin"] if with_origin else []), ""]:
        table.add_column(title, overflow="fold", no_wrap=title == "setting")
    for entry in entries:
        cells = [entry["key"], written(entry["value"]), *([entry["origin"]] if with_origin else [])]
        cells.append("" if entry["effect"] else NO_EFFECT)
        given = entry.get("origin", "default") != "default"
        table.add_row(
            *(Text(printable(cell)) for cell in cells), style="bold" if given else "" if entry["effect"] else "dim"
        )
    console.print(table)
    console.print("Files read: " + (", ".join(files) or "none"))


def written(value: Any) -> str:
    """Write a value as TOML does; a value that is not set as `unset`."""
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def variable_of(setting: Setting) -> str:
    """Return the environment variable that sets a key."""
    return PREFIX + setting.key.upper().replace(".", "__")


@config.command()
@click.argument("key")
def explain(key: str) -> None:
    """Explain one setting: what it does, what it accepts, its value and where that came from."""
    setting = find_setting(key)
    settings = current_settings()
    document = {
        "key": setting.key,
        "description": setting.description,
        "accepts": setting.limit,
        "default": plain(masked(setting.default)),
        "value": plain(masked(settings.value(setting.key))),
        "origin": settings.origin(setting.key),
        "variable": variable_of(setting),
        "file_variable": f"{variable_of(setting)}_FILE" if setting.secret else None,
        "effect": not setting.later,
    }
    current_output().emit(document, lines=lambda: _explained(document))


def _explained(document: dict[str, Any]) -> Iterable[str]:
    yield f"{document['key']}: {document['description']}" + ("" if document["effect"] else f" {NO_EFFECT}")
    yield f"  accepts   {document['accepts']}"
    yield f"  default   {written(document['default'])}"
    yield f"  value     {written(document['value'])}"
    yield f"  origin    {printable(document['origin'])}"
    yield f"  variable  {document['variable']}"
    if document["file_variable"]:
        yield f"  or a file named by {document['file_variable']}"


@config.command()
def paths() -> None:
    """Print the directories and files that llmspell uses for this user."""
    places = directories()
    document = {name: getattr(places, name) for name in places.__struct_fields__}
    chosen = current_options().config
    current_output().emit({**document, "files_read": [chosen] if chosen else config_files()})
