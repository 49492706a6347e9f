"""What a store says of its own health: named checks, and what each found (HLT-01).

Not here: running them, and what they come to together (`ops.health`).

Rule 1: a check finds out; it never mends, and writes nothing.
Rule 2: what could not be looked at is `unknown`, with the reason: never healthy, and no alarm either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

import msgspec

HealthStatus: TypeAlias = Literal["healthy", "degraded", "unhealthy", "unknown"]
"""`degraded` serves, and somebody should look; `unhealthy` does not serve, or loses work."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found. `reason` says what is wrong (or why it is unknown), `hint` what to do, `facts` what it is drawn from."""

    status: HealthStatus = "healthy"
    reason: str | None = None
    hint: str | None = None
    facts: dict[str, Any] = {}


class HealthCheck(msgspec.Struct, frozen=True):
    """One check: a name that stays the same, and how to look. `when_late` is what it comes to when it takes too long."""

    name: str
    look: Callable[[], Awaitable[Finding]]
    when_late: HealthStatus = "unhealthy"

    async def check(self) -> Finding:
        """Look once.

        Raises:
            LlmspellError: the store could not be asked; that is a finding too, which whoever runs the checks writes down.
        """
        return await self.look()


def worst(first: Finding, *others: Finding) -> Finding:
    """Return the worst of several findings about one thing; of equals the first. Its facts are those of all."""
    order: tuple[HealthStatus, ...] = ("unhealthy", "degraded", "unknown", "healthy")
    findings = (first, *others)
    chosen = min(findings, key=lambda finding: order.index(finding.status))
    facts = {name: value for finding in findings for name, value in finding.facts.items()}
    return Finding(status=chosen.status, reason=chosen.reason, hint=chosen.hint, facts=facts)
