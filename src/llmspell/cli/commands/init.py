"""`llmspell init`: a project file in which every setting that has an effect stands commented out, with its default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmspell.cli.output import command, current_output
from llmspell.errors import FileExists
from llmspell.settings import PROJECT_FILE_NAME, Setting, schema

HEAD = """\
# Settings of llmspell for this project. What is commented out shows the default.
# Stronger than this file: variables such as LLMSPELL_STORAGE__URL, and options of the command line.
# `llmspell config show --origin` says what is in force and why; `llmspell config explain KEY` says what a key means.
# Values may refer to variables: url = "${DATABASE_URL}". Keep secrets out of here: name a file instead (api_key_file).
"""
WIDTH = 110


@command()
@click.option("--force", is_flag=True, help="Replace the file when there is one.")
def init(force: bool) -> None:
    """Write a commented llmspell.toml here."""
    file = Path.cwd() / PROJECT_FILE_NAME
    text = project_file()
    if force:
        part = file.with_name(f".{file.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    else:
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError as exc:
            raise FileExists(f"{file} exists already; it was left as it is.") from exc
    output = current_output()
    output.emit({"path": str(file)}, lines=lambda: [str(file)])
    output.note("Next: llmspell quickstart")


def project_file() -> str:
    """Return the text of a project file: a table per section, a comment and a commented-out line per setting."""
    return HEAD + "".join(_tables())


def _tables() -> Iterator[str]:
    table = None
    for setting in sorted(schema().values(), key=lambda s: s.key.count(".") > 0):  # keys without a table come first
        if setting.later:
            continue
        section, _, name = setting.key.rpartition(".")
        if section != table:
            table = section
            yield f"\n[{section}]\n" if section else "\n"
        comment = f"{setting.description} ({setting.limit})"
        yield textwrap.fill(comment, WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n"
        yield f"# {name} = {_default(setting)}\n"


def _default(setting: Setting) -> str:
    value: Any = setting.default
    return "…  # not set" if value is None else json.dumps(value, ensure_ascii=False)
