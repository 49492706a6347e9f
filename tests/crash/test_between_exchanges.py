"""A server that is gone after the first, the second, … exchange of a call: a call that failed left nothing, whatever it had sent.

A kill at random meets the moment between two exchanges once in hundreds of runs; here every one of them is met, for every kind
of write. The code above the exchanges is the same for a file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.crash.writes import KINDS, LEASE_S, Call, Kind, job_is, queued
from tests.fixtures.stores import fresh_tenant, fresh_tenants, opened, url_of

import llmspell
from llmspell.errors import LlmspellError, Unavailable
from llmspell.settings import PostgresSettings, Settings, StorageSettings
from llmspell.spell import Spell
from llmspell.storage.contracts.memories import EmbeddingSpace

pytest.importorskip("psycopg")

from llmspell.storage.postgres.backend import queries
from llmspell.storage.postgres.link import Link

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from llmspell.storage.postgres.statements import Bound

EXCHANGES_MAX = 100


class Server:
    """Answers so many exchanges, and is out of reach then."""

    def __init__(self, exchange: Callable[..., Coroutine[Any, Any, list[PGresult]]]) -> None:
        self._exchange = exchange
        self._left: int | None = None

    def end_after(self, exchanges: int | None) -> None:
        """None: never."""
        self._left = exchanges

    async def exchange(self, link: Link, statements: Iterable[Bound], *, commits: bool, name: str) -> list[PGresult]:
        if self._left == 0:
            link.close()
            raise Unavailable("The server is gone.")
        if self._left is not None:
            self._left -= 1
        return await self._exchange(link, statements, commits=commits, name=name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(Link.exchange)

    async def exchange(link: Link, statements: Iterable[Bound], *, commits: bool, name: str) -> list[PGresult]:
        return await made.exchange(link, statements, commits=commits, name=name)

    monkeypatch.setattr(Link, "exchange", exchange)
    return made


@pytest.fixture
async def spell(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spell]:
    async with opened("postgres", request, tmp_path) as found:
        yield found


# --- what clients do not call by themselves, beside what they do ---------------------------------------------------------


async def lease_any(c: Call) -> None:
    queue = c.tenant._spell._backend.job_queue
    assert await queue.lease(worker="w", limit=100, lease_s=LEASE_S, tenants=[c.tenant.id])


def space_of(c: Call) -> EmbeddingSpace:
    return EmbeddingSpace(space_id=c.name, model="model", dimension=384)


async def ensure_space(c: Call) -> None:
    await c.tenant._backend.storages(c.tenant.id).memories.ensure_space(space_of(c))


async def has_space(c: Call) -> bool:
    unit = c.tenant._backend.unit(c.tenant.id)  # type: ignore[attr-defined]
    return await unit.row(queries().vectors.space, space_id=c.name) is not None


EVERY: dict[str, Kind] = {
    **KINDS,
    "jobs.lease/any": Kind(lease_any, lambda c: job_is(c, "queued", "running"), queued),
    "memories.ensure_space": Kind(ensure_space, has_space),
}


@pytest.mark.parametrize("name", EVERY)
async def test_a_call_that_failed_left_nothing_after_whichever_exchange_the_server_went(
    name: str, server: Server, spell: Spell
) -> None:
    kind, tenant = EVERY[name], await fresh_tenant(spell)
    for exchanges in range(EXCHANGES_MAX):
        call = Call(tenant, f"{name}-{exchanges}")
        await kind.prepare(call)
        server.end_after(exchanges)
        error: LlmspellError | None = None
        try:
            await kind.act(call)
        except LlmspellError as raised:
            error = raised
        finally:
            server.end_after(None)
        happened = await kind.trace(call)
        if error is None:
            assert happened
            assert exchanges, "it was not asked"
            return
        assert error.outcome == "unknown" or not happened, f"it is there after {exchanges} exchanges: {error!r}"
    raise AssertionError("it never ended")


async def test_jobs_that_some_tenants_gave_by_their_own_right_are_leased_although_the_server_went_before_all_were_asked(
    server: Server, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = Settings(storage=StorageSettings(postgres=PostgresSettings(operator_url=None)))
    url = url_of("postgres", request, tmp_path)
    async with llmspell.connect(url, settings=settings, embedder="hashing") as spell:
        tenants = sorted(tenant.id for tenant in await fresh_tenants(spell, 3))
        for one in tenants:
            await spell.tenant(one).jobs.enqueue("send")
        queue, served = spell._backend.job_queue, []
        for exchanges in (0, 1, 2):
            server.end_after(exchanges)
            if exchanges:
                leases = await queue.lease(worker="w", kinds=["send"], limit=3, lease_s=LEASE_S, tenants=tenants)
                served.append([tenants.index(lease.tenant) for lease in leases])
            else:
                with pytest.raises(Unavailable):
                    await queue.lease(worker="w", kinds=["send"], limit=3, lease_s=LEASE_S, tenants=tenants)
            server.end_after(None)

        assert served == [[0], [1, 2]]
