"""A secret on its way into a command: from a prompt or from stdin, never from an argument."""

from __future__ import annotations

import sys

import click

from llmspell.settings import Secret

READ_MAX_BYTES = 65_536


def read_secret(label: str) -> Secret:
    """Return what is typed, unseen, or what stdin has, without its line end.

    Raises:
        click.UsageError: stdin has nothing, too much, or no text.
    """
    if sys.stdin.isatty():
        return Secret(click.prompt(label, hide_input=True, err=True))
    content = sys.stdin.buffer.read(READ_MAX_BYTES + 1)
    if len(content) > READ_MAX_BYTES:
        raise click.UsageError(f"stdin has more than {READ_MAX_BYTES:,} bytes: that is no {label.lower()}")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text:
        # Raised here and not above: an exception in flight would hold what was read.
        raise click.UsageError(f"stdin must have the {label.lower()}, as UTF-8")
    return Secret(text)
