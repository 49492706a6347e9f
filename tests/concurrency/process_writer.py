"""One of several processes on one file: it writes everything, adds to what all of them add to, and says so.

python process_writer.py URL NAME ROUNDS          `begin N` before each write, `end N` after it was acknowledged
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.writes import KINDS, NAMES, Call, next_number

import llmspell
from llmspell.memory.state import StateScope
from llmspell.spell import Tenant, Transaction

TENANT = "acme"
TASKS = 2
COUNT = "count"


def say(word: str, number: int) -> None:
    os.write(1, f"{word} {number}\n".encode())


def call_of(tenant: Tenant, name: str, number: int) -> tuple[str, Call]:
    """A write of this process: each kind in turn, every second one under a key."""
    kind = NAMES[number % len(NAMES)]
    key = f"{name}-{number}" if KINDS[kind].keyed and number % 2 else None
    return kind, Call(tenant, f"{name}-{number}", key)


async def write(tenant: Tenant, name: str, task: int, writes: int) -> None:
    for number in range(task, writes, TASKS):
        kind, call = call_of(tenant, name, number)
        await KINDS[kind].prepare(call)
        say("begin", number)
        await KINDS[kind].act(call)
        say("end", number)
        await add_one(tenant, number)


async def add_one(tenant: Tenant, number: int) -> None:
    """Read what everybody adds to, and write it, in each way that there is."""
    if number % 3 == 0:
        await tenant.state.update(StateScope.Global(), COUNT, next_number, default=0)
    elif number % 3 == 1:
        async with tenant.transaction() as tx:
            await tx.kv.set(COUNT, str(int(await tx.kv.get(COUNT) or b"0") + 1).encode())
    else:
        await tenant.run(one_more)
    say("added", number)


async def one_more(tx: Transaction) -> None:
    await tx.kv.set(COUNT, str(int(await tx.kv.get(COUNT) or b"0") + 1).encode())


async def main(url: str, name: str, rounds: int) -> None:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        await asyncio.gather(*(write(tenant, name, task, rounds * len(NAMES)) for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
