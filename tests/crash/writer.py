"""A process that writes until it is killed, and says so: `begin N` before each write, `end N` after it was acknowledged.

    python writer.py URL          then one line on stdin for each life: its number, and the kind that it begins with

The imports are made once; each life is a fork, which opens the store anew. Lines go to stdout in one system call each.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.writes import KINDS, Call, key_of, kind_of

import llmspell

# What a life would import, and take longer for than it lives.
for name in (
    "psycopg",
    "llmspell.providers.hashing",
    "llmspell.storage.postgres.backend",
    "llmspell.storage.postgres.database",
    "llmspell.storage.postgres.nearest",
    "llmspell.storage.postgres.pool",
    "llmspell.storage.sqlite.backend",
    "snowballstemmer",
):
    importlib.import_module(name)

TENANT = "acme"
WRITES_MAX = 1_000_000


def say(word: str, *numbers: int) -> None:
    os.write(1, f"{' '.join([word, *map(str, numbers)])}\n".encode())


async def live(url: str, life: int, start: int) -> None:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        tenant = spell.tenant(TENANT)
        for number in range(WRITES_MAX):
            name = kind_of(start, number)
            kind, call = KINDS[name], Call(tenant, f"{life}-{number}", key_of(life, number, name))
            await kind.prepare(call)
            say("begin", number)
            began = time.perf_counter()
            await kind.act(call)
            say("end", number, round((time.perf_counter() - began) * 1e6))


def main(url: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(live(url, *map(int, line.split())))
            except BaseException:  # noqa: BLE001 - the parent sees that it ended, and here is why
                traceback.print_exc()
            finally:
                os._exit(1)  # it was to be killed
        say("pid", child)
        _, status = os.waitpid(child, 0)
        say("dead", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1])
