"""Eight processes with one file, each through the public API: nothing is lost, and nobody is told that the file is busy."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import llmspell

PROCESSES = 8
TASKS = 3
EACH = 12
LIMIT_S = 120

WRITER = textwrap.dedent("""
    import asyncio, sys
    import llmspell

    async def main(url, name, tasks, each):
        async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
            acme = spell.tenant("acme")
            async def write(task):
                for number in range(each):
                    key = f"{name}-{task}-{number}"
                    await acme.kv.set(key, key.encode())
                    await acme.memory.add(f"The note {key} is here.", session=name)
                    async with acme.transaction() as tx:
                        count = int(await tx.kv.get("count") or b"0")
                        await tx.kv.set("count", str(count + 1).encode())
                await acme.graph.assert_fact("Ada", "has", f"{name}-{task}")
            await asyncio.gather(*(write(task) for task in range(tasks)))

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
""")


async def test_eight_processes_lose_nothing_of_what_they_write_to_one_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    names = [f"p{number}" for number in range(PROCESSES)]
    command = [sys.executable, "-c", WRITER, url]
    started = [
        subprocess.Popen([*command, name, str(TASKS), str(EACH)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in names
    ]
    for process in started:
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, errors.decode()

    expected = {f"{name}-{task}-{number}" for name in names for task in range(TASKS) for number in range(EACH)}
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        acme = spell.tenant("acme")
        assert set(await acme.kv.list_keys()) == expected | {"count"}
        assert await acme.kv.get("count") == str(len(expected)).encode()
        assert await acme.memory.count() == len(expected)
        assert {fact.object for fact in await acme.graph.neighbours("Ada")} == {
            f"{name}-{task}" for name in names for task in range(TASKS)
        }
        for name in names:
            assert await acme.memory.count(filters={"session": name}) == TASKS * EACH
        (hit, *_) = await acme.memory.search("The note p3-1-7 is here.")
        assert hit.text == "The note p3-1-7 is here."
