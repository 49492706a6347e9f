"""A process that puts large artifacts until it is killed: `put NAME` before each, `done NAME` when it was acknowledged.

    python artifact_writer.py URL SESSION BYTES

Lines go to stdout in one system call each. The content of every artifact is its own: nothing is stored twice.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

import llmspell

TENANT = "acme"
PUTS_MAX = 1_000


async def write(url: str, session: str, size_bytes: int) -> None:
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        artifacts = spell.tenant(TENANT).artifacts
        for number in range(PUTS_MAX):
            content = random.Random(f"{os.getpid()}-{number}").randbytes(size_bytes)
            os.write(1, f"put {number}\n".encode())
            await artifacts.put(session, f"{os.getpid()}-{number}", content)
            os.write(1, f"done {number}\n".encode())


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
