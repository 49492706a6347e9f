"""A worker that is to be stopped while it holds a lease: it does a job for each `work` on stdin, whose handler ends at a `go`.

python paused_worker.py URL OPERATOR_URL TENANT LEASE_S     says `begun TOKEN`, `fenced`, `done SUCCEEDED LOST`
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.writes import next_number

import llmspell
from llmspell.memory.state import StateScope
from llmspell.ops.worker import JobContext
from llmspell.settings import JobsSettings, PostgresSettings, Settings, StorageSettings
from llmspell.spell import Spell, Tenant, Transaction

KIND = "paused"


def settings_of(operator_url: str, lease_s: float) -> Settings:
    storage = StorageSettings(postgres=PostgresSettings(operator_url=operator_url or None))
    return Settings(storage=storage, jobs=JobsSettings(lease_s=lease_s))


def scope_of(context: JobContext) -> StateScope:
    return StateScope.Workflow(str(context.id))


async def do(tenant: Tenant, context: JobContext) -> bool:
    """The work of the job, in the two ways that bear being repeated; return whether the fence let it pass.

    Under the job's id as a key; and behind a fence, which has seen the token of whoever came later.
    """
    await tenant.once(f"job-{context.id}").state.update(scope_of(context), "keyed", next_number, default=0)

    async def fenced(tx: Transaction) -> bool:
        if await tx.state.get(scope_of(context), "token", 0) >= context.token:
            return False
        await tx.state.set(scope_of(context), "token", context.token)
        await tx.state.update(scope_of(context), "fenced", next_number, default=0)
        return True

    return await tenant.run(fenced)


async def work_once(spell: Spell, tenant: Tenant, hear: Callable[[], Awaitable[str]]) -> None:
    async def handle(context: JobContext) -> dict[str, Any]:
        say(f"begun {context.token}")
        assert await hear() == "go"
        if not await do(tenant, context):
            say("fenced")
        return {"token": context.token}

    tally = await spell.worker({KIND: handle}, builtin=False, tenants=[tenant.id]).run(max_jobs=1)
    say(f"done {tally.succeeded} {tally.lost}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def main(url: str, operator_url: str, id: str, lease_s: float) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(heard.put_nowait, line.strip())

    threading.Thread(target=listen, daemon=True).start()
    settings = settings_of(operator_url, lease_s)
    async with llmspell.connect(url, settings=settings, embedder="hashing") as spell:
        while await heard.get() == "work":
            await work_once(spell, spell.tenant(id), heard.get)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
