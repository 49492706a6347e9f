"""What an engine costs a process of its own: memory, the first answer after a cold start, and what it asks of the disk.

`vectors.py` calls `child` from here; the child runs this file's code in a fresh interpreter and prints one JSON document.

    cold    import the engine, open what another process built, answer one question; then the rest, then look at the memory
    filled  for llmspell: insert everything and wait for the index in this process, then look at the memory
    insert  a few batches, for `strace`

Memory is VmRSS, over the same process before it imported the engine (an interpreter with numpy and the questions). Anonymous pages
are the process's own; the others are pages of files, mapped, which the system takes back when it needs them. "Cold" is the
process: the files are still in the page cache of the system.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vector_data import Question, make
from vector_engines import engine
from vector_race import done

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 3_600
MIB = 1 << 20
SYNCS = ("fsync", "fdatasync", "msync", "sync_file_range", "syncfs")
STRACED_BATCHES = (2, 10)
"""What opening costs is in both runs, and goes away in their difference."""


def child(task: str, *, before: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
    """Do a task in a fresh interpreter, and return what it says.

    Raises:
        RuntimeError: it failed; the text is its last words.
    """
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import vector_process; vector_process.answer()"
    command = [*before, sys.executable, "-c", code, json.dumps({"task": task, **arguments})]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{task} of {arguments['name']}: {ended.stderr.strip().splitlines()[-1:]}")
    said: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return said


def answer() -> None:
    """Be the child."""
    asked = json.loads(sys.argv[1])
    task = {"cold": _cold, "filled": _filled, "insert": _insert}[asked.pop("task")]
    print(json.dumps(asyncio.run(task(**asked))))


async def _cold(name: str, folder: str, questions: str, effort: int | None) -> dict[str, Any]:
    asked = [Question(vector) for vector in np.load(questions)]
    empty = memory()
    started = time.perf_counter()
    opened = engine(name)
    importlib.import_module(opened.module)
    imported = time.perf_counter()
    after_import = memory()
    await done(opened.open(Path(folder)))
    if effort is not None:
        await done(opened.aim(effort))
    answers = [(await done(opened.measure(asked[:1])))[0][1]]
    first = time.perf_counter()
    answers += [one for _, one in await done(opened.measure(asked[1:]))]
    full = memory()
    found = [opened.found(one, question) for one, question in zip(answers, asked, strict=True)]
    await done(opened.close())
    return {
        "import_ms": (imported - started) * 1e3,
        "cold_ms": (first - started) * 1e3,
        "import_mib": after_import["rss"] - empty["rss"],
        **{f"{part}_mib": full[part] - empty[part] for part in empty},
        "found": found,
    }


async def _filled(name: str, rows: int, questions: int, seed: int, dataset: str) -> dict[str, Any]:
    data = make(dataset, rows=rows, questions=questions, seed=seed)
    empty = memory()
    with tempfile.TemporaryDirectory() as folder:
        filled = engine(name)
        await done(filled.build(Path(folder), data))
        await done(filled.measure(data.questions))
        full = memory()
        await done(filled.close())
    return {f"{part}_mib": full[part] - empty[part] for part in empty}


async def _insert(name: str, batches: int, size: int, seed: int) -> dict[str, Any]:
    data = make("easy", rows=batches * size, questions=1, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        store = engine(name)
        await done(store.start(Path(folder), data))
        for batch in range(batches):
            await done(store.insert(store.prepared(data, range(batch * size, (batch + 1) * size))))
        await done(store.close())
    return {"batches": batches}


def memory() -> dict[str, float]:
    """What this process has in memory, in MiB: all of it, its own pages and those of files. Empty where nothing tells."""
    known = Path("/proc/self/smaps_rollup")
    if not known.exists():
        return {}
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", known.read_text(), re.MULTILINE))
    rss, own = int(sizes["Rss"]) * 1024 / MIB, int(sizes["Anonymous"]) * 1024 / MIB
    return {"rss": rss, "anonymous": own, "files": rss - own}


def syncs(name: str, *, size: int, seed: int) -> dict[str, Any]:
    """How often inserting a batch asks the system to bring something to the disk, according to `strace`."""
    if shutil.which("strace") is None:
        return {"syncs_per_batch": None, "why": "strace is not installed"}
    counted = []
    for batches in STRACED_BATCHES:
        with tempfile.NamedTemporaryFile("r") as log:
            before = ("strace", "-f", "-qq", "-o", log.name, "-e", f"trace={','.join(SYNCS)}")
            try:
                child("insert", before=before, name=name, batches=batches, size=size, seed=seed)
            except RuntimeError as error:
                return {"syncs_per_batch": None, "why": str(error)}
            calls = re.compile(rf"^\d+ +(?:{'|'.join(SYNCS)})\(", re.MULTILINE)
            counted.append(len(calls.findall(log.read())))
    fewer, more = STRACED_BATCHES
    return {"syncs_per_batch": (counted[1] - counted[0]) / (more - fewer)}
