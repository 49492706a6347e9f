"""Is a store well? Named checks, run side by side, and what they come to together (HLT-01…04).

Not here: what a backend checks of itself (`health` in its folder).

Rule 1: a report is always made: a store that does not answer, an error, a check that takes too long are findings in it.
Rule 2: a report is as bad as its worst check; what is unknown makes it no worse.
Rule 3: whoever asks, a command or a probe of a server, asks the same checker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmspell.clock import Clock
from llmspell.errors import InvalidLimit, InvalidSetting, LlmspellError, SchemaOutdated
from llmspell.ops.queue_health import judge
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.capabilities import Capability
from llmspell.storage.contracts.health import Finding, HealthCheck, HealthStatus

if TYPE_CHECKING:
    from llmspell.settings import Settings

TIMEOUT_S: Final = 10.0
TIMEOUT_MAX_S: Final = 3_600.0
QUEUE_STATUS: Final[dict[str, HealthStatus]] = {"ok": "healthy", "degraded": "degraded", "red": "unhealthy"}
BACKUP_STATUS: Final[dict[str, HealthStatus]] = {**QUEUE_STATUS, "off": "unknown"}


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check in a report. `error` is the code of what was raised, when something was; `facts` are plain values."""

    name: str
    status: HealthStatus
    reason: str | None = None
    hint: str | None = None
    error: str | None = None
    elapsed_ms: float = 0.0
    facts: dict[str, Any] = {}


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks came to. `reasons` are those of the checks that are not healthy, the worst first."""

    status: HealthStatus
    at: datetime
    checks: list[CheckResult]

    @classmethod
    def of(cls, results: Sequence[CheckResult], *, at: datetime) -> HealthReport:
        """Make a report of results."""
        found = {result.status for result in results}
        status: HealthStatus = "unhealthy" if "unhealthy" in found else "degraded" if "degraded" in found else "healthy"
        return cls(status=status, at=at, checks=list(results))

    def add_check(self, result: CheckResult) -> HealthReport:
        """Return the report with one more result."""
        return HealthReport.of([*self.checks, result], at=self.at)

    @property
    def reasons(self) -> list[str]:
        """Why it is not healthy: `name: reason`, unhealthy ones first."""
        order = ("unhealthy", "degraded")
        bad = sorted((one for one in self.checks if one.status in order), key=lambda one: order.index(one.status))
        return [f"{one.name}: {one.reason}" for one in bad]


class HealthChecker:
    """Runs checks, each with the time limit, all at once."""

    def __init__(self, checks: Sequence[HealthCheck], *, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` is for each check.

        Raises:
            InvalidLimit: it is not from above 0 to an hour.
        """
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= TIMEOUT_MAX_S:
            raise InvalidLimit(
                "timeout_s", f"must be above 0 and at most {TIMEOUT_MAX_S:,.0f} seconds", given=timeout_s
            )
        self._checks = tuple(checks)
        self._clock = clock
        self._timeout_s = timeout_s

    async def check_all(self) -> HealthReport:
        """Run every check, and report in their order (HLT-01)."""
        results = await asyncio.gather(*(self._run(check) for check in self._checks))
        return HealthReport.of(results, at=self._clock.now())

    async def _run(self, check: HealthCheck) -> CheckResult:
        started = time.perf_counter()
        code = None
        try:
            async with asyncio.timeout(self._timeout_s):
                finding = await check.check()
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s"
            finding = Finding(status=check.when_late, reason=reason, hint="Look again with a longer --timeout.")
        except LlmspellError as error:
            finding, code = _failed(error), error.code
        except OSError as error:
            finding = Finding(status="unhealthy", reason=str(error))
        return CheckResult(
            name=check.name,
            status=finding.status,
            reason=finding.reason,
            hint=finding.hint,
            error=code,
            elapsed_ms=round((time.perf_counter() - started) * 1e3, 3),
            facts=finding.facts,
        )


def checks_of(backend: Backend, settings: Settings, clock: Clock) -> list[HealthCheck]:
    """Return every check of an opened store: what all stores have in common, what its backend adds, and that of its backups.

    `settings` are those that it was opened with; they say where its backups are. A store that keeps nothing has none.
    """
    kept = Capability.PERSISTENT in backend.capabilities
    return [
        HealthCheck("database", _answering(backend.check)),
        HealthCheck("schema", lambda: _schema(backend)),
        HealthCheck("queue", lambda: _queue(backend)),
        *backend.health_checks(),
        *([HealthCheck("backup", lambda: _backups(settings, clock), "unknown")] if kept else []),
    ]


def unopened(error: LlmspellError, *, at: datetime) -> HealthReport:
    """Return the report of a store that could not be opened, with the one check that says why."""
    finding = _failed(error)
    name = "schema" if isinstance(error, SchemaOutdated) else "database"
    result = CheckResult(
        name=name,
        status=finding.status,
        reason=finding.reason,
        hint=finding.hint,
        error=error.code,
        facts=finding.facts,
    )
    return HealthReport.of([result], at=at)


def _failed(error: LlmspellError) -> Finding:
    named = error.named_fields()
    detail = error.detail + (f" ({named})" if named else "")
    return Finding(status="unhealthy", reason=detail, hint=error.hint or None)


def _answering(ask: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[Finding]]:
    async def look() -> Finding:
        """HLT-02."""
        await ask()
        return Finding()

    return look


async def _schema(backend: Backend) -> Finding:
    found = await backend.migration_status()
    facts = {"version": found.version, "pending": len(found.pending)}
    if found.pending:
        hint = "Run: llmspell database migrations apply"
        reason = f"{len(found.pending)} migrations are pending, {found.pending[0]} first"
        return Finding(status="unhealthy", reason=reason, hint=hint, facts=facts)
    return Finding(facts=facts)


async def _backups(settings: Settings, clock: Clock) -> Finding:
    """Judge the backups as their settings ask; where nobody has asked for any, that is not known to be wrong."""
    from llmspell.ops.backup.service import backup_state

    try:
        state = await asyncio.to_thread(backup_state, settings, clock=clock)
    except LlmspellError as error:
        if settings.backup.enabled:
            raise
        return Finding(status="unknown", reason=f"the backups cannot be read: {error.detail}", hint=error.hint or None)
    status = BACKUP_STATUS[state.status]
    facts = {name: getattr(state, name) for name in ("backups", "unverified", "damaged", "last_verified_at", "age_s")}
    hint = "Run: llmspell backup create; and have a worker do it: backup.enabled" if status != "healthy" else None
    return Finding(status=status, reason=None if status == "healthy" else state.reason, hint=hint, facts=facts)


async def _queue(backend: Backend) -> Finding:
    try:
        health = judge(await backend.job_queue.stats())
    except InvalidSetting as error:  # it is the operator's, who is not named here
        return Finding(status="unknown", reason="the queue of all tenants is the operator's to see", hint=error.hint)
    facts = {name: getattr(health, name) for name in ("waiting", "scheduled", "running", "stuck", "dead")}
    return Finding(
        status=QUEUE_STATUS[health.status],
        reason="; ".join(health.reasons) or None,
        hint="Run: llmspell jobs stats" if health.reasons else None,
        facts={**facts, "oldest_waiting_s": health.oldest_waiting_s},
    )
