"""A worker that begins a job, says so, and never ends it: it is to be killed.

python worker.py URL OPERATOR_URL TENANT          an empty OPERATOR_URL where there is none
"""

from __future__ import annotations

import asyncio
import os
import sys

import llmspell
from llmspell.ops.worker import JobContext
from llmspell.settings import PostgresSettings, Settings, StorageSettings

KIND = "crash"


def settings_of(operator_url: str) -> Settings:
    """The settings of a store, with the operator's role where there is one."""
    return Settings(storage=StorageSettings(postgres=PostgresSettings(operator_url=operator_url or None)))


async def live(url: str, operator_url: str, tenant: str) -> None:
    async with llmspell.connect(url, settings=settings_of(operator_url), embedder="hashing") as spell:

        async def never(context: JobContext) -> None:
            await spell.tenant(context.tenant).kv.set("begun", b"yes")
            os.write(1, b"begun\n")
            await asyncio.Event().wait()

        await spell.worker({KIND: never}, builtin=False, tenants=[tenant]).run()


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:4]))
