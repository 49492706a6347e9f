"""What checks come to together, and what the state of a server means."""

from __future__ import annotations

import asyncio

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import DiskFull
from llmspell.ops.health import HealthChecker, HealthReport, checks_of
from llmspell.settings import Settings
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.health import Finding, HealthCheck, HealthStatus, worst
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.postgres import health
from llmspell.storage.postgres.vitals import Server, SessionState, Slot, Vitals

HOUR_S = 3_600.0


def check(name: str, status: HealthStatus) -> HealthCheck:
    async def look() -> Finding:
        return Finding(status=status, reason=f"{status} it is")

    return HealthCheck(name, look)


async def report(*checks: HealthCheck, timeout_s: float = 5.0) -> HealthReport:
    return await HealthChecker(checks, clock=ManualClock(), timeout_s=timeout_s).check_all()


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([], "healthy"),
        (["healthy"], "healthy"),
        (["healthy", "unknown"], "healthy"),
        (["unknown", "degraded", "healthy"], "degraded"),
        (["degraded", "unhealthy", "unknown"], "unhealthy"),
    ],
)
async def test_a_report_is_as_bad_as_its_worst_check(found: list[HealthStatus], status: HealthStatus) -> None:
    made = await report(*(check(f"{number}", one) for number, one in enumerate(found)))

    assert made.status == status
    assert [one.status for one in made.checks] == found


async def test_the_reasons_name_the_worst_first_and_nothing_that_is_well() -> None:
    made = await report(check("a", "degraded"), check("b", "healthy"), check("c", "unhealthy"), check("d", "unknown"))

    assert made.reasons == ["c: unhealthy it is", "a: degraded it is"]


async def test_an_error_is_a_finding_with_its_code() -> None:
    async def look() -> Finding:
        raise DiskFull

    (found,) = (await report(HealthCheck("disk", look))).checks

    assert (found.status, found.error) == ("unhealthy", "LS-3006")


@pytest.mark.parametrize("when_late", ["unhealthy", "unknown"])
async def test_a_check_that_takes_too_long_is_given_up_and_the_others_are_not(when_late: HealthStatus) -> None:
    given_up = asyncio.Event()

    async def look() -> Finding:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return Finding()

    made = await report(HealthCheck("slow", look, when_late), check("quick", "healthy"), timeout_s=0.01)

    assert [(one.name, one.status) for one in made.checks] == [("slow", when_late), ("quick", "healthy")]
    assert given_up.is_set()


async def test_a_result_can_be_added_to_a_report() -> None:
    made = await report(check("a", "healthy"))
    other = await report(check("b", "unhealthy"))

    assert made.add_check(other.checks[0]).status == "unhealthy"
    assert made.status == "healthy"


async def test_a_store_in_memory_is_checked_too() -> None:
    backend: Backend = InMemoryBackend(clock=ManualClock())
    made = await report(*checks_of(backend, Settings(), ManualClock()))

    assert [one.name for one in made.checks] == ["database", "schema", "queue", "vector_storage"]
    await backend.close()
    assert (await report(*checks_of(backend, Settings(), ManualClock()))).status == "unhealthy"


def test_the_worst_of_several_findings_keeps_the_facts_of_all() -> None:
    found = worst(Finding(facts={"a": 1}), Finding(status="degraded", reason="b", facts={"b": 2}))

    assert (found.status, found.reason, found.facts) == ("degraded", "b", {"a": 1, "b": 2})


def vitals(
    *,
    sessions: tuple[SessionState, ...] = (),
    prepared: tuple[tuple[str, float], ...] = (),
    slots: tuple[Slot, ...] = (),
    log_bytes: int | None = 0,
    **server: object,
) -> Vitals:
    """A server that is well, but for what is given."""
    well: dict[str, object] = {
        "connections_max": 100,
        "connections": 1,
        "in_recovery": False,
        "read_only": False,
        "fsync": True,
        "full_page_writes": True,
        "synchronous_commit": "on",
        "autovacuum": True,
        "freeze_max_age": 200_000_000,
        "oldest_age": 1,
        "log_max_bytes": 1_000,
        "may_see_log": True,
        "may_see_settings": True,
        "may_see_sessions": True,
        "archiving": False,
        "archiving_fails": None,
        "archive_failures": 0,
    }
    return Vitals(
        server=Server(*{**well, **server}.values()),  # type: ignore[arg-type]
        sessions=sessions,
        prepared=prepared,
        slots=slots,
        invalid_indexes=(),
        log_bytes=log_bytes,
        data_directory=None,
    )


CASES = [
    (health.writable, vitals(), "healthy"),
    (health.writable, vitals(in_recovery=True), "unhealthy"),
    (health.connections, vitals(connections=79), "healthy"),
    (health.connections, vitals(connections=80), "degraded"),
    (health.connections, vitals(connections=95), "unhealthy"),
    (health.transactions, vitals(sessions=(SessionState(1, "a", "active", HOUR_S, 1.0),)), "healthy"),
    (health.transactions, vitals(sessions=(SessionState(1, "a", "active", HOUR_S + 1, 1.0),)), "degraded"),
    (health.transactions, vitals(sessions=(SessionState(1, "a", "idle in transaction", 601.0, 601.0),)), "degraded"),
    (health.transactions, vitals(sessions=(SessionState(1, "a", "idle", None, 9_999.0),)), "healthy"),
    (health.transactions, vitals(sessions=(SessionState(1, "a", "hidden", None, None),)), "unknown"),
    (health.transactions, vitals(prepared=(("half", HOUR_S + 1),)), "degraded"),
    (health.replication, vitals(slots=(Slot("r", False, "reserved", 1),)), "healthy"),
    (health.replication, vitals(slots=(Slot("r", False, "extended", 2 * 1024**3),)), "degraded"),
    (health.replication, vitals(slots=(Slot("r", True, "extended", 2 * 1024**3),)), "healthy"),
    (health.replication, vitals(slots=(Slot("r", False, "lost", 0),)), "unhealthy"),
    (health.log, vitals(log_bytes=2_000), "healthy"),
    (health.log, vitals(log_bytes=2_001), "degraded"),
    (health.log, vitals(log_bytes=None), "unknown"),
    (health.log, vitals(archiving=True, archiving_fails=True), "unhealthy"),
    (health.log, vitals(archiving=True, archiving_fails=None), "healthy"),
    (health.durability, vitals(), "healthy"),
    (health.durability, vitals(full_page_writes=False), "degraded"),
    (health.durability, vitals(synchronous_commit="off"), "degraded"),
    (health.wraparound, vitals(oldest_age=219_999_999), "healthy"),
    (health.wraparound, vitals(oldest_age=220_000_001), "degraded"),
    (health.wraparound, vitals(oldest_age=1_600_000_000), "unhealthy"),
    (health.wraparound, vitals(autovacuum=False), "degraded"),
    (health.disk, vitals(), "unknown"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_state_of_a_server_means_what_its_thresholds_say(number: int) -> None:
    judge, state, status = CASES[number]
    found = judge(state)

    assert found.status == status
    assert (found.reason is None) == (status == "healthy")
    assert status == "healthy" or found.hint
