"""Is the queue of jobs well? Decided from its counts alone.

Rule: a queue that loses work or does not move is red, whatever else is green; dead jobs are somebody's work that was not done.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from llmspell.storage.contracts.jobs import KindStats, QueueStats

Health: TypeAlias = Literal["ok", "degraded", "red"]
WAITING_DEGRADED_S = 60.0
WAITING_RED_S = 900.0


class QueueHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement with its reasons, the worst first. The totals are over all kinds; `oldest_waiting_s` is None when none waits."""

    status: Health
    reasons: list[str]
    waiting: int
    scheduled: int
    running: int
    stuck: int
    dead: int
    oldest_waiting_s: float | None
    kinds: list[KindStats]


def judge(stats: QueueStats, *, degraded_s: float = WAITING_DEGRADED_S, red_s: float = WAITING_RED_S) -> QueueHealth:
    """Judge a queue: red when leases have passed and nobody took the jobs over, or a job has waited longer than `red_s`.

    Degraded when jobs are dead, or one has waited longer than `degraded_s`.
    """
    red: list[str] = []
    degraded: list[str] = []
    oldest: float | None = None
    for kind in stats.kinds:
        waited = None if kind.oldest_due_at is None else (stats.at - kind.oldest_due_at).total_seconds()
        if waited is not None:
            oldest = waited if oldest is None else max(oldest, waited)
        if kind.stuck:
            red.append(f"{kind.kind}: {kind.stuck:,} stuck: the lease has passed and no worker has taken over")
        if waited is not None and waited > red_s:
            red.append(f"{kind.kind}: a job has waited for {waited:,.0f} s: no worker serves this kind, or too few do")
        elif waited is not None and waited > degraded_s:
            degraded.append(f"{kind.kind}: a job has waited for {waited:,.0f} s")
        if kind.dead:
            degraded.append(f"{kind.kind}: {kind.dead:,} dead: see their errors, then retry or prune them")
    return QueueHealth(
        status="red" if red else "degraded" if degraded else "ok",
        reasons=[*red, *degraded],
        waiting=sum(kind.waiting for kind in stats.kinds),
        scheduled=sum(kind.scheduled for kind in stats.kinds),
        running=sum(kind.running for kind in stats.kinds),
        stuck=sum(kind.stuck for kind in stats.kinds),
        dead=sum(kind.dead for kind in stats.kinds),
        oldest_waiting_s=oldest,
        kinds=stats.kinds,
    )
