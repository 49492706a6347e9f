"""How far a transfer is, table by table, on stderr: `n/total` that moves on a terminal, otherwise a line for each table.

Rule: a table that took long enough to be seen is also told while it runs, every tenth of it, where nobody has a terminal.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from llmspell.cli.output import PROGRESS_STEPS, Output, colour_allowed

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from llmspell.storage.contracts.transfer import Progress

MARK = "✓"
TOLD_FROM = 10_000
"""Rows from which on a table is told while it runs: below, it is over before anybody has read a line."""


class TableProgress:
    """Call it with each `Progress`, inside of its block."""

    def __init__(self, output: Output, *, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        wanted = output.progress_wanted and shown
        self._lines = wanted and not terminal and not output.json
        self._bar_wanted = wanted and terminal
        self._bar: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._step = 0

    def __enter__(self) -> TableProgress:
        if self._bar_wanted:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True, no_color=not colour_allowed(sys.stderr), markup=False, emoji=False)
            columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}")]
            self._bar = RichProgress(*columns, console=console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self._bar is not None:
            self._draw(self._bar, progress)
        elif self._lines:
            self._tell(progress)

    def _draw(self, bar: RichProgress, progress: Progress) -> None:
        if progress.table not in self._tasks:
            self._tasks[progress.table] = bar.add_task(progress.table, total=progress.total, count="")
        task = self._tasks[progress.table]
        bar.update(task, completed=progress.done, total=progress.total, count=_count(progress))
        if progress.ended:
            bar.remove_task(self._tasks.pop(progress.table))
            if progress.done:
                bar.console.print(f"{MARK} {progress.table} {_count(progress)}")

    def _tell(self, progress: Progress) -> None:
        if progress.ended:
            self._step = 0
            if progress.done:
                print(f"{MARK} {progress.table} {_count(progress)}", file=sys.stderr, flush=True)
        elif (progress.total or 0) >= TOLD_FROM:
            step = progress.done * PROGRESS_STEPS // (progress.total or 1)
            if step > self._step:
                self._step = step
                print(f"{progress.table} {_count(progress)}", file=sys.stderr, flush=True)


def _count(progress: Progress) -> str:
    total = progress.done if progress.total is None and progress.ended else progress.total
    return f"{progress.done:,}" if total is None else f"{progress.done:,}/{total:,}"
