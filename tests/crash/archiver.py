"""A command line whose process is killed before its n-th statement or note: `python -m tests.crash.archiver N llmspell-arguments…`.

N is 0 for a run that nobody kills; it prints how many points it has passed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import psycopg

from llmspell.cli import output
from llmspell.cli.main import run

passed = 0


def dying(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        global passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return call


if __name__ == "__main__":
    number = int(sys.argv[1])
    psycopg.Cursor.execute = dying(psycopg.Cursor.execute, number)  # type: ignore[method-assign]
    psycopg.Cursor.copy = dying(psycopg.Cursor.copy, number)  # type: ignore[method-assign]
    output.Output.note = dying(output.Output.note, number)  # type: ignore[method-assign]
    code = run(sys.argv[2:])
    print(f"passed {passed}", flush=True)
    sys.exit(code)
