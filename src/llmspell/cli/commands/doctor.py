"""`llmspell doctor`: one page that says what is well, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llmspell.cli.output import async_command, command, counted, current_output, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings
from llmspell.errors import LlmspellError

if TYPE_CHECKING:
    from llmspell.ops.doctor import Diagnosis
    from llmspell.settings import Settings


@command("doctor")
@async_command
async def doctor() -> ExitCode:
    """Look whether everything that llmspell needs is there.

    Python, packages, settings, the store with its schema, roles and every check of its health, the embedder, keys, clocks and
    disks. Each is a line: ok, warn or fail, what it is, what was found, and what to do. It changes nothing, makes no file, and
    works without a store and without a network. Exit code 1 when a line is fail.
    """
    from llmspell.clock import SystemClock
    from llmspell.observe import redact
    from llmspell.ops.doctor import examine

    settings: Settings | None = None
    problem: LlmspellError | None = None
    try:
        settings = current_settings()
    except LlmspellError as error:
        problem = error
    found = await examine(settings, problem=problem, clock=SystemClock())
    document = {
        "verdict": found.verdict,
        "lines": [
            {
                "verdict": line.verdict,
                "name": line.name,
                "said": redact(line.said),
                "hint": None if line.hint is None else redact(line.hint),
            }
            for line in found.lines
        ],
    }
    output = current_output()
    output.emit(document, lines=lambda: map(redact, _lines(found)), columns=("", "what", "found", "what to do"))
    wrong = [sum(line.verdict == verdict for line in found.lines) for verdict in ("fail", "warn")]
    output.note(f"{counted(len(found.lines), 'line')}: {wrong[0]} to mend, {wrong[1]} to look at.")
    return ExitCode.FAILED if found.verdict == "fail" else ExitCode.OK


def _lines(found: Diagnosis) -> Iterable[str]:
    for line in found.lines:
        cells = (line.verdict, line.name, printable(line.said), printable(line.hint or ""))
        yield "\t".join(cells).rstrip("\t")
