"""`llmspell version`: what is installed. Imports nothing but the frame: it answers at once."""

from __future__ import annotations

import platform

from llmspell import __version__
from llmspell.cli.output import command, current_output


@command()
def version() -> None:
    """Print the version."""
    document = {"version": __version__, "python": platform.python_version()}
    current_output().emit(document, lines=lambda: [f"llmspell {__version__}"])
