"""Makes large requests while memory runs out, a step more of it each time, and looks after the others.

python short_of_memory.py PATH STEPS          prints what failed, what was done, and which errors there were
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import llmspell
from llmspell.spell import Tenant

MEBIBYTE = 1_048_576
STEP_BYTES = 8 * MEBIBYTE
ARTIFACT_BYTES = 40 * MEBIBYTE
VECTORS = 2_000
DIMENSIONS = 3_072
VALUES = 16


async def overwrite(tenant: Tenant) -> None:
    """Replace values in a transaction; to undo a part of it, a database keeps what was there in memory."""
    generation = int(await tenant.kv.get("generation") or b"0") + 1
    async with tenant.transaction() as tx:
        await tx.kv.set("generation", str(generation).encode())
        for number in range(VALUES):
            async with tx.savepoint():
                await tx.kv.set(f"large-{number}", bytes([generation]) * MEBIBYTE)


@contextmanager
def at_most(extra_bytes: int) -> Any:
    """Let this process take so much more address space than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def requests(tenant: Tenant, session: Any, kept: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Large requests, each with what it answers when it is done."""
    compressible = bytes(ARTIFACT_BYTES)
    vectors = [{"embedding": [1.0, *[0.0] * (DIMENSIONS - 1)], "scope": "large"}] * VECTORS
    return {
        "put": lambda: tenant.artifacts.put(session, "large", compressible),
        "read": lambda: tenant.artifacts.read(kept),
        "vectors": lambda: tenant.vectors.insert(vectors),
        "overwrite": lambda: overwrite(tenant),
    }


async def main(path: str, steps: int) -> None:
    done, failed, errors = Counter[str](), Counter[str](), Counter[str]()
    async with llmspell.connect(f"sqlite:///{path}", settings=llmspell.Settings(), embedder="hashing") as spell:
        ours, theirs = spell.tenant("ours"), spell.tenant("theirs")
        session = (await ours.sessions.create()).id
        kept = await ours.artifacts.put(session, "kept", os.urandom(ARTIFACT_BYTES))
        await theirs.memory.add("Ada likes tea.")
        large = requests(ours, session, kept.id)
        for step in range(steps):
            for name, request in large.items():
                before, error = await counts(ours), None
                with at_most(step * STEP_BYTES):
                    try:
                        await request()
                    except (MemoryError, RuntimeError, llmspell.LlmspellError) as exc:  # a thread needs memory too
                        error = exc
                    await theirs.kv.set(f"{name}-{step}", b"v")  # the others go on, with as little memory
                    assert await theirs.kv.get(f"{name}-{step}") == b"v"
                (done if error is None else failed)[name] += 1
                if error is not None:
                    errors[type(error).__name__] += 1
                    assert await counts(ours) == before, "a request that failed left something"
        for name, request in large.items():
            await request()  # what failed can be done again: nothing hangs, nothing is in the way
            done[name] += 1
        assert await ours.artifacts.verify(kept.id)
        assert await theirs.memory.search("What does Ada like?")
        assert len(await theirs.kv.list_keys()) == steps * len(large)
    sys.stdout.write(json.dumps({"done": done, "failed": failed, "errors": errors}) + "\n")


async def counts(tenant: Tenant) -> tuple[int, int, set[int]]:
    """What a request that failed must not change; the values are all of one generation."""
    generations = {int(await tenant.kv.get("generation") or b"0")}
    for number in range(VALUES):
        value = await tenant.kv.get(f"large-{number}")
        generations.add(0 if value is None else value[-1])
    assert len(generations) == 1, "a transaction was half done"
    artifacts = (await tenant.artifacts.stats()).artifacts
    return artifacts, (await tenant.vectors.stats(scope="large")).total_vectors, generations


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
