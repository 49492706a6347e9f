"""One of two processes on one file: it builds the index of a space, and says how often it made a graph.

python index_builder.py PATH          `begun` when it makes its first graph, for which it waits for a line on stdin; `builds N`
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.index_writer import TENANT, make_small

from llmspell.storage.index.graph import Graph
from llmspell.storage.sqlite.backend import open_sqlite


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def main(path: str) -> None:
    builds = 0
    build = Graph.build

    def counted(*args: Any, **options: Any) -> Graph:
        nonlocal builds
        builds += 1
        say("begun")
        sys.stdin.readline()
        return build(*args, **options)

    Graph.build = counted  # type: ignore[method-assign]
    make_small()
    backend = await open_sqlite(path)
    await backend.storages(TENANT).vectors.build_index()
    await backend.close()
    say(f"builds {builds}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
