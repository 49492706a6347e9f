"""When the queue is called well."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from llmspell.clock import ManualClock
from llmspell.ops.queue_health import WAITING_DEGRADED_S, WAITING_RED_S, judge
from llmspell.storage.contracts.jobs import KindStats, QueueStats

NOW = ManualClock().now()


def stats(**fields: Any) -> QueueStats:
    counts = {"waiting": 0, "scheduled": 0, "running": 0, "stuck": 0, "dead": 0, "oldest_due_at": None}
    return QueueStats(at=NOW, kinds=[KindStats(kind="send", **{**counts, **fields})])


def ago(seconds: float) -> dict[str, Any]:
    return {"waiting": 1, "oldest_due_at": NOW - timedelta(seconds=seconds)}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "ok"),
        ({"running": 5, "scheduled": 5}, "ok"),
        (ago(WAITING_DEGRADED_S), "ok"),
        (ago(WAITING_DEGRADED_S + 0.001), "degraded"),
        (ago(WAITING_RED_S), "degraded"),
        (ago(WAITING_RED_S + 0.001), "red"),
        ({"dead": 1}, "degraded"),
        ({"running": 1, "stuck": 1}, "red"),
    ],
)
def test_a_stuck_queue_is_red_and_dead_jobs_degrade_it(fields: dict[str, Any], status: str) -> None:
    health = judge(stats(**fields))

    assert health.status == status
    assert bool(health.reasons) == (status != "ok")
    assert all("send" in reason for reason in health.reasons)


def test_the_worst_reason_comes_first_and_totals_are_over_all_kinds() -> None:
    kinds = [*stats(dead=2).kinds, *stats(stuck=3, running=4, **ago(5)).kinds]

    health = judge(QueueStats(at=NOW, kinds=kinds))

    assert (health.dead, health.stuck, health.running, health.waiting, health.oldest_waiting_s) == (2, 3, 4, 1, 5)
    assert "stuck" in health.reasons[0]


def test_an_empty_queue_is_well() -> None:
    assert judge(QueueStats(at=NOW, kinds=[])).status == "ok"
