"""A process that writes until it is killed, and says so: `begin N` before each write, `end N` after it was acknowledged.

    python writer.py URL          then one line on stdin for each life: its number

The imports are made once; each life is a fork, which opens the store anew. Lines go to stdout in one system call each.
"""

from __future__ import annotations

import asyncio
import os
import sys
from uuid import NAMESPACE_URL, UUID, uuid5

import llmspell
from llmspell.spell import Tenant
from llmspell.storage.sqlite import backend  # noqa: F401 - imported before the first fork

KINDS = ("transaction", "memory", "key", "fact", "update")
TENANT = "acme"
WRITES_MAX = 1_000_000


def memory_id(life: int, number: int) -> UUID:
    """The id of the memory that a write makes."""
    return uuid5(NAMESPACE_URL, f"{life}/{number}")


def updated_id(life: int, number: int) -> UUID:
    """The id of the memory that an update changes: the one that was made shortly before."""
    return memory_id(life, number - number % len(KINDS) + KINDS.index("memory"))


def kind_of(number: int) -> str:
    return KINDS[number % len(KINDS)]


def say(word: str, life: int, number: int) -> None:
    os.write(1, f"{word} {life} {number}\n".encode())


async def write(tenant: Tenant, life: int, number: int) -> None:
    """One write: a transaction over three concerns, or one of them alone."""
    name, kind = f"{life}-{number}", kind_of(number)
    if kind == "transaction":
        async with tenant.transaction() as tx:
            await tx.kv.set(f"tx-{name}", b"v" * 200)
            await tx.memory.add(
                f"In writing {name} everything is one.", id=memory_id(life, number), embedding=[1.0] * 384, session="tx"
            )
            await tx.graph.assert_fact("Ada", "wrote", f"tx-{name}")
    elif kind == "memory":
        await tenant.memory.add(f"In writing {name} there is a memory.", id=memory_id(life, number), session="memory")
    elif kind == "key":
        await tenant.kv.set(f"key-{name}", b"v" * 200)
    elif kind == "fact":
        await tenant.graph.assert_fact("Ada", "wrote", f"fact-{name}")
    else:  # the memory of the same round gets other words, terms and vector, and a version
        await tenant.memory.update(
            updated_id(life, number), text=f"Replaced in writing {name}, with other words than before."
        )


async def live(url: str, life: int) -> None:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        for number in range(WRITES_MAX):
            say("begin", life, number)
            await write(tenant, life, number)
            say("end", life, number)


def main(url: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(live(url, int(line)))
            finally:
                os._exit(1)  # it was to be killed
        os.write(1, f"pid {child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(1, f"dead {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
