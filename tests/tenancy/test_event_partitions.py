"""The months of the event log on a server: made ahead, entered only when they are asked for, archived, isolated."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import llmspell
from llmspell.errors import InvalidSetting, InvalidTime
from llmspell.ops.postgres_installation import program_folder, server_account
from llmspell.settings import PostgresSettings, Settings, StorageSettings
from llmspell.storage.contracts.event_log import EventLog, NewEvent
from llmspell.storage.postgres import statements
from llmspell.storage.relational.catalog import Query, load

psycopg = pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

    from llmspell.spell import Spell

TENANTS = 24
MONTHS = [f"2019-{month:02}" for month in range(1, 7)]
EACH = 40
WRITERS = 6
TABLE_OF = "SELECT DISTINCT tableoid::regclass::text FROM llmspell.event_log ORDER BY 1"
BRING_BACK = (
    "ALTER TABLE llmspell_archive.event_log_2019_03 SET SCHEMA llmspell",
    """ALTER TABLE llmspell.event_log ATTACH PARTITION llmspell.event_log_2019_03
        FOR VALUES FROM ('2019-03-01 00:00:00+00') TO ('2019-04-01 00:00:00+00')""",
)


@asynccontextmanager
async def opened(database: PostgresDatabase, *, operator: bool = True) -> AsyncIterator[Spell]:
    """Open a store on a database that nobody else has."""
    url = database.operator_url if operator else None
    settings = Settings(storage=StorageSettings(postgres=PostgresSettings(operator_url=url, pool_size=4)))
    async with llmspell.connect(database.app_url, settings=settings, embedder="hashing") as spell:
        yield spell


def owner_runs(database: PostgresDatabase, *commands: str) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as owner:
        for command in commands:
            owner.execute(command)


def operator_sees(database: PostgresDatabase, query: str) -> list[Any]:
    with psycopg.connect(database.operator_url) as operator:
        return [row[0] for row in operator.execute(query).fetchall()]


def server_program(name: str, *arguments: str) -> str:
    """Run a program of the PostgreSQL that the tests run on: another version's pg_dump may refuse."""
    program = program_folder(server_account()) / name
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_isolated(database: PostgresDatabase, name: str) -> None:
    """Row-level security is enabled and forced, and tenants have no way to a month by its name."""
    flags = f"SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'llmspell.{name}'::regclass"
    policies = f"SELECT count(*) FROM pg_policies WHERE schemaname = 'llmspell' AND tablename = '{name}'"
    assert operator_sees(database, flags) == [True]
    assert operator_sees(database, policies) == [5]
    with psycopg.connect(database.app_url) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(f"SELECT * FROM llmspell.{name}")
    with psycopg.connect(database.admin_url) as owner:  # FORCE: not even the owner sees a row
        assert owner.execute(f"SELECT count(*) FROM llmspell.{name}").fetchall() == [(0,)]


async def fresh_log(spell: Spell, name: str = "acme") -> EventLog:
    await spell.tenants.create(name, exist_ok=True)
    return spell.tenant(name).event_log


async def newest_month(database: PostgresDatabase) -> tuple[str, datetime]:
    """The last of the months that are made ahead: its table, and its first instant."""
    async with opened(database) as spell:
        month = (await spell.admin.event_partitions())[-2]
    assert month.starts_at is not None
    return month.name, month.starts_at


async def test_opening_a_store_makes_the_months_that_are_missing(postgres_database: PostgresDatabase) -> None:
    """AMB-097, AMB-119: at every start; events that came before their month move into it."""
    name, starts_at = await newest_month(postgres_database)
    async with opened(postgres_database) as spell:
        owner_runs(postgres_database, f"DROP TABLE llmspell.{name}")
        log = await fresh_log(spell)
        waiting = await log.append("test.event", at=starts_at)
        assert operator_sees(postgres_database, TABLE_OF) == ["llmspell.event_log_default"]

    async with opened(postgres_database) as spell:
        assert operator_sees(postgres_database, TABLE_OF) == [f"llmspell.{name}"]
        assert (await spell.tenant("acme").event_log.list()).items == [waiting]


async def test_a_store_opens_when_the_months_cannot_be_made(
    postgres_database: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    name, starts_at = await newest_month(postgres_database)
    owner_runs(
        postgres_database,
        f"DROP TABLE llmspell.{name}",
        "REVOKE EXECUTE ON FUNCTION llmspell.ensure_future_event_log_partitions() FROM llmspell_app",
    )

    with caplog.at_level(logging.WARNING, logger="llmspell"):
        async with opened(postgres_database) as spell:
            assert (await (await fresh_log(spell)).append("test.event", at=starts_at)).sequence == 1

    assert "could not be made ahead" in caplog.text


async def test_ensure_says_what_it_made(postgres_database: PostgresDatabase) -> None:
    """EVT-02, EVT-03."""
    name, _ = await newest_month(postgres_database)
    async with opened(postgres_database) as spell:
        owner_runs(postgres_database, f"DROP TABLE llmspell.{name}")

        first, second = await spell.admin.ensure_event_partitions(), await spell.admin.ensure_event_partitions()

    assert [line.split(" ")[0] for line in first] == ["SKIPPED:"] * 3 + ["CREATED:"]
    assert [line.split(" ")[0] for line in second] == ["SKIPPED:"] * 4
    assert all(re.fullmatch(r"\w+: event_log_\d{4}_\d\d \(\d{4}-\d\d-01 to \d{4}-\d\d-01\)", line) for line in first)


async def test_no_event_is_lost_or_refused_while_its_month_is_made(postgres_database: PostgresDatabase) -> None:
    name, starts_at = await newest_month(postgres_database)
    async with opened(postgres_database) as spell:
        logs = [await fresh_log(spell, f"tenant-{number}") for number in range(WRITERS)]

        async def write(log: EventLog) -> None:
            for number in range(EACH):
                await log.append("test.event", at=starts_at)
                await log.append_many([NewEvent(type="test.event", at=starts_at, payload={"n": number})] * 1)

        async def upkeep() -> None:
            for _ in range(2):
                owner_runs(
                    postgres_database,
                    f"ALTER TABLE llmspell.event_log DETACH PARTITION llmspell.{name}",
                    f"DROP TABLE IF EXISTS llmspell.{name}_before",
                    f"ALTER TABLE llmspell.{name} RENAME TO {name}_before",
                    f"ALTER INDEX IF EXISTS llmspell.{name}_pkey RENAME TO {name}_before_pkey",
                )
                await asyncio.sleep(0)
                kept.append(operator_sees(postgres_database, f"SELECT count(*) FROM llmspell.{name}_before")[0])
                await spell.admin.ensure_event_partitions()

        kept: list[int] = []
        await asyncio.gather(*map(write, logs), upkeep())
        counts = [await log.count() for log in logs]
        last = [(await log.stats()).last_sequence for log in logs]

    assert last == [2 * EACH] * WRITERS  # none was refused
    assert sum(counts) + sum(kept) == 2 * EACH * WRITERS  # and each is where it belongs, once
    assert operator_sees(postgres_database, TABLE_OF) in ([f"llmspell.{name}"], [])


async def test_a_month_made_later_is_isolated_like_the_rest(postgres_database: PostgresDatabase) -> None:
    """AMB-072."""
    name, starts_at = await newest_month(postgres_database)
    async with opened(postgres_database) as spell:
        owner_runs(postgres_database, f"DROP TABLE llmspell.{name}")
        await spell.admin.ensure_event_partitions()
        await (await fresh_log(spell)).append("test.event", at=starts_at)
    assert_isolated(postgres_database, name)


async def test_archiving_moves_months_and_nothing_else(postgres_database: PostgresDatabase) -> None:
    """EVT-14, EVT-15: the dry run names what is then archived; tenants do not see it any more, nothing is dropped."""
    async with opened(postgres_database) as spell:
        log = await fresh_log(spell)
        for month in MONTHS:
            await log.append("test.event", {"month": month}, at=f"{month}-15")
        before = [one.name for one in await spell.admin.event_partitions()]

        planned = await spell.admin.archive_event_partitions("2019-03-31", dry_run=True)
        assert [one.name for one in await spell.admin.event_partitions()] == before
        assert await log.count() == len(MONTHS)
        done = await spell.admin.archive_event_partitions("2019-03-31")

        assert planned == [
            "WOULD ARCHIVE: event_log_2019_01 (2019-01-01 to 2019-02-01)",
            "WOULD ARCHIVE: event_log_2019_02 (2019-02-01 to 2019-03-01)",
        ]
        assert done == [line.replace("WOULD ARCHIVE", "ARCHIVED") for line in planned]
        assert await spell.admin.archive_event_partitions("2019-03-31", dry_run=True) == []
        assert [one.payload["month"] for one in await log.tail()] == MONTHS[2:]
        assert (await log.append("test.event")).sequence == len(MONTHS) + 1
    assert operator_sees(postgres_database, "SELECT count(*) FROM llmspell_archive.event_log_2019_01") == [1]


async def test_an_archived_month_can_be_brought_back(postgres_database: PostgresDatabase) -> None:
    """EVT-16, as docs/how-to/archive-events.md tells it."""
    async with opened(postgres_database) as spell:
        log = await fresh_log(spell)
        event = await log.append("test.event", at="2019-03-15")
        await spell.admin.archive_event_partitions("2019-04-01")
        assert await log.get(event.id) is None

        owner_runs(postgres_database, *BRING_BACK)

        assert (await log.list()).items == [event]
        assert await log.tail() == [event]


async def test_a_month_that_was_dumped_and_dropped_can_be_brought_back(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    """EVT-16, with the commands of docs/how-to/archive-events.md."""
    table, dump = "llmspell_archive.event_log_2019_03", str(tmp_path / "event_log_2019_03.dump")
    async with opened(postgres_database) as spell:
        events = []
        for name in ("acme", "rival"):
            log = await fresh_log(spell, name)
            events.append(await log.append("test.event", {"of": name}, at="2019-03-15"))
        await spell.admin.archive_event_partitions("2019-04-01")

        options = ["--enable-row-security", "-t", table, "-F", "c", "-f", dump]
        server_program("pg_dump", *options, postgres_database.operator_url)
        assert re.search(r"TABLE DATA llmspell_archive event_log_2019_03 ", server_program("pg_restore", "-l", dump))
        owner_runs(postgres_database, f"DROP TABLE {table}")
        server_program("pg_restore", "--exit-on-error", "-d", postgres_database.superuser_url, dump)
        owner_runs(postgres_database, *BRING_BACK)

        for event in events:
            log = spell.tenant(event.payload["of"]).event_log
            assert (await log.list()).items == [event]
    assert_isolated(postgres_database, "event_log_2019_03")


async def test_no_event_is_hidden_when_its_bounds_are_not_known(postgres_database: PostgresDatabase) -> None:
    async with opened(postgres_database) as spell:
        log = await fresh_log(spell)
        event = await log.append("test.event", at="2019-03-15")
        for forget in (
            "UPDATE llmspell.event_sequences SET first_at = NULL, last_at = NULL",
            "DELETE FROM llmspell.event_sequences",
        ):
            with psycopg.connect(postgres_database.operator_url) as operator:
                operator.execute(forget.format("event_sequences").encode())

            assert (await log.list()).items == [event]
            assert await log.tail() == [event]
            assert await log.count() == 1
        assert await log.prune("2020-01-01") == 1


async def test_archiving_is_the_operators(postgres_database: PostgresDatabase) -> None:
    async with opened(postgres_database, operator=False) as spell:
        for dry_run in (True, False):
            with pytest.raises(InvalidSetting, match="operator"):
                await spell.admin.archive_event_partitions("2019-03-31", dry_run=dry_run)
        with pytest.raises(InvalidTime):
            await spell.admin.archive_event_partitions("yesterday")


async def test_the_months_are_listed_with_their_bounds(postgres_database: PostgresDatabase) -> None:
    async with opened(postgres_database) as spell:
        found = await spell.admin.event_partitions()

    assert found[-1].name == "event_log_default"
    assert (found[-1].starts_at, found[-1].ends_at) == (None, None)
    months = found[:-1]
    assert len(months) == 4
    for month, following in zip(months, [*months[1:], None], strict=True):
        assert month.starts_at is not None
        assert month.name == f"event_log_{month.starts_at:%Y_%m}"
        assert (month.starts_at.day, month.starts_at.tzinfo) == (1, UTC)
        assert following is None or month.ends_at == following.starts_at
        assert month.size_bytes > 0


# --- which months a query opens -----------------------------------------------------------------------------------------


@pytest.fixture
async def crowded(postgres_database: PostgresDatabase) -> PostgresDatabase:
    """24 tenants with events in six months; the one that is asked for has none in the first two."""
    with psycopg.connect(postgres_database.operator_url, autocommit=True) as operator:
        for month, following in zip(MONTHS, [*MONTHS[1:], "2019-07"], strict=True):
            operator.execute(f"SELECT llmspell.create_event_log_partition('{month}-01', '{following}-01')")
    async with opened(postgres_database) as spell:
        for number in range(TENANTS):
            log = await fresh_log(spell, f"tenant-{number}")
            months = MONTHS[2:] if number == 0 else MONTHS
            batch = [
                NewEvent(type=f"test.event_{day % 5}", at=f"{month}-{day:02}", correlation_id=UUID(int=day))
                for month in months
                for day in range(1, 29)
            ]
            await log.append_many(batch * 3)
    with psycopg.connect(postgres_database.superuser_url, autocommit=True) as superuser:
        superuser.execute("ANALYZE")
    return postgres_database


def opened_months(database: PostgresDatabase, query: Query, mode: str, **given: object) -> set[str]:
    """The partitions that a query really opened, as the serving role with row-level security."""
    command = statements.command(query)
    values = {"tenant_id": "tenant-0", "limit": 10, "since": None, "until": None, **given}
    with psycopg.connect(database.app_url) as app:
        app.execute("SELECT set_config('app.current_tenant_id', 'tenant-0', true)")
        app.execute("SELECT set_config('plan_cache_mode', %s, true)", (mode,))
        types = ", ".join("text" if name == "tenant_id" else "unknown" for name in command.names)
        app.execute(f"PREPARE asked ({types}) AS {command.sql.decode()}")
        arguments = psycopg.sql.SQL(", ").join(psycopg.sql.Literal(values[name]) for name in command.names)
        explain = psycopg.sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE asked ({})").format(arguments)
        plan = [row[0] for row in app.execute(explain).fetchall()]
        app.rollback()
    scans = [
        (line, match[1])
        for line in plan
        if (match := re.search(r"Scan.* on (event_log_(?:\d{4}_\d\d|default)) ", line))
    ]
    opened = {name for line, name in scans if "never executed" not in line}
    assert opened, plan
    assert not [line for line, name in scans if "Seq Scan" in line and name in opened - {"event_log_default"}], plan
    return opened


MODES = ["force_custom_plan", "force_generic_plan"]
MARCH = {"since": "2019-03-10", "until": "2019-03-20"}
QUERIES = {
    "list_desc": ("", {}),
    "list_asc": ("", {}),
    "list_desc by type": ("l.event_type = :type", {"type": "test.event_1"}),
    "list_desc by beginning": (
        "l.event_type >= :first AND l.event_type < :beyond",
        {"first": "test.", "beyond": "test/"},
    ),
    "list_desc by correlation": ("l.correlation_id = :correlation_id", {"correlation_id": str(UUID(int=12))}),
    "list_desc beyond": (
        "(l.timestamp, l.event_id) < (:at, :id)",
        {"at": "2019-03-12", "id": str(UUID(int=0)), "until": "2019-03-12T00:00:00.000001Z"},
    ),
    "count": ("", {}),
    "stats": ("", {}),
    "get_at": ("", {"id": str(UUID(int=5)), "at": "2019-03-05"}),
}


@pytest.mark.parametrize("mode", MODES)
async def test_a_time_range_opens_only_its_own_months(crowded: PostgresDatabase, mode: str) -> None:
    """EVT-05."""
    for name, (fragment, given) in QUERIES.items():
        query = getattr(load("llmspell.storage.postgres").event_log, name.split()[0])
        filtered = query.filtered(fragment) if fragment else query.filtered()

        months = opened_months(crowded, filtered, mode, **MARCH | given)

        assert months == {"event_log_2019_03"}, name


@pytest.mark.parametrize("mode", MODES)
async def test_without_a_range_only_the_months_of_the_tenants_events_are_opened(
    crowded: PostgresDatabase, mode: str
) -> None:
    for name, (fragment, given) in QUERIES.items():
        query = getattr(load("llmspell.storage.postgres").event_log, name.split()[0])
        filtered = query.filtered(fragment) if fragment else query.filtered()

        months = opened_months(crowded, filtered, mode, **given)

        theirs = {f"event_log_{month.replace('-', '_')}" for month in MONTHS[2:]}
        assert months <= theirs | {"event_log_default"}, name


@pytest.mark.parametrize("mode", MODES)
async def test_a_consumer_and_a_pruner_open_no_month_without_events_of_theirs(
    crowded: PostgresDatabase, mode: str
) -> None:
    queries = load("llmspell.storage.postgres").event_log
    theirs = {f"event_log_{month.replace('-', '_')}" for month in MONTHS[2:]}

    assert opened_months(crowded, queries.tail.filtered(), mode, after_sequence=50) <= theirs | {"event_log_default"}
    assert opened_months(crowded, queries.prune, mode, before="2019-04-01") == {"event_log_2019_03"}
