"""`llmspell database health`: every check of the store, and an exit code for whoever watches it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import async_command, command, current_output, printable
from llmspell.cli.problems import ExitCode, report
from llmspell.cli.session import backend_option, require_store, settings_of
from llmspell.errors import LlmspellError

if TYPE_CHECKING:
    from llmspell.ops.health import HealthReport
    from llmspell.settings import Settings

TIMEOUT_S = 10.0


@command("health")
@backend_option("The store to look at")
@click.option(
    "--timeout", "timeout_s", type=float, default=TIMEOUT_S, show_default=True, help="Seconds for each check."
)
@click.option("--strict", is_flag=True, help="Exit code 1 also for a store that is degraded.")
@async_command
async def health(backend: str | None, timeout_s: float, *, strict: bool) -> ExitCode:
    """Check the store in every way it can be looked at, and change nothing.

    Each check is a line: healthy, degraded (it serves; somebody should look), unhealthy (it does not serve, or loses work) or
    unknown (it could not be looked at; the reason says why), then what to do. The store is as bad as its worst check; unknown
    makes it no worse. Exit code 0 when it is healthy or degraded, 3 when it is unhealthy; with --strict 1 when it is degraded.
    A store that cannot be opened ends with the code of that error, and one in a file that is not there with 1.
    """
    from llmspell.ops.health import HealthChecker
    from llmspell.ops.named_store import require_named_store

    HealthChecker((), clock=_clock(), timeout_s=timeout_s)  # a limit that is refused is refused first
    settings = settings_of(backend)
    require_named_store(settings)
    require_store(settings.storage.url)
    found, error = await _examined(settings, timeout_s)
    document = _document(settings, found)
    current_output().emit(document, lines=lambda: _lines(found), columns=("status", "check", "reason", "what to do"))
    if error is not None:
        return report(error, as_json=current_output().json)
    current_output().note(f"{settings.storage.backend} {printable(document['url'])}: {found.status}")
    if found.status == "unhealthy":
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED if strict and found.status == "degraded" else ExitCode.OK


async def _examined(settings: Settings, timeout_s: float) -> tuple[HealthReport, LlmspellError | None]:
    """Return the report, and the error of a store that could not be opened."""
    import asyncio

    import llmspell
    from llmspell.errors import Unavailable
    from llmspell.ops.health import unopened
    from llmspell.ops.named_store import without_migrating
    from llmspell.ops.schema_status import require_current_file

    try:
        require_current_file(settings.storage.url)
        async with asyncio.timeout(timeout_s) as limit:
            spell = await llmspell.connect(settings.storage.url, settings=without_migrating(settings))
    except TimeoutError:
        if not limit.expired():
            raise
        error: LlmspellError = Unavailable(
            f"The store did not open within {timeout_s:g} s.", hint="Look again with a longer --timeout."
        )
        return unopened(error, at=_clock().now()), error
    except LlmspellError as refused:
        return unopened(refused, at=_clock().now()), refused
    try:
        return await spell.admin.health(timeout_s=timeout_s), None
    finally:
        await spell.close()


def _clock() -> Any:
    from llmspell.clock import SystemClock

    return SystemClock()


def _document(settings: Settings, found: HealthReport) -> dict[str, Any]:
    from llmspell.settings import masked

    return {
        "status": found.status,
        "backend": settings.storage.backend,
        "url": masked(settings.storage.url),
        "at": found.at,
        "reasons": found.reasons,
        "checks": found.checks,
    }


def _lines(found: HealthReport) -> Iterable[str]:
    for one in found.checks:
        yield "\t".join((one.status, one.name, printable(one.reason or ""), printable(one.hint or "")))
