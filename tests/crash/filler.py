"""Fills a store until there is no space, looks around, makes room and goes on: the same for every kind of limit.

python filler.py FOLDER LIMIT_BYTES          fills a file under a limit on the size of files, and prints how much it did
"""

from __future__ import annotations

import asyncio
import io
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.crash.torn import torn_in_file
from tests.crash.writes import KINDS, NAMES, Call

import llmspell
from llmspell.errors import DiskFull
from llmspell.spell import Tenant

TENANT = "acme"
ROUNDS_MAX = 200
ROUNDS_WHEN_FULL = 2
BIG = bytes(range(256)) * 78_125  # 20 MB, which would compress to little: the space for it is asked for before


class Filled(msgspec.Struct, frozen=True):
    """What was done."""

    acknowledged: int
    refused: int
    kinds_refused: int
    lost: list[str]
    """What was acknowledged and is not there, while the disk is full or when it has space again."""


async def fill(tenant: Tenant, make_room: Callable[[], object]) -> Filled:
    """Write everything until nothing more is taken; everything refused is refused by the same error, and nothing is lost."""
    kept, refused, full_rounds = list[tuple[str, Call]](), list[tuple[str, Call]](), 0
    refusals: set[str] = set()
    session = await tenant.sessions.create()
    for number in range(ROUNDS_MAX * len(NAMES)):
        name = NAMES[number % len(NAMES)]
        call = Call(tenant, f"w-{number}", f"k-{number}" if KINDS[name].keyed and number % 2 else None)
        began = False
        try:
            await KINDS[name].prepare(call)
            began = True
            await KINDS[name].act(call)
            kept.append((name, call))
        except DiskFull as error:
            require_clear(error)
            refusals.add(name)
            if began:
                refused.append((name, call))
        full_rounds += name == NAMES[-1] and bool(refusals)
        if full_rounds > ROUNDS_WHEN_FULL:
            break
    assert refusals, "the space never ran out"

    for source in (BIG, io.BytesIO(BIG)):
        await refuses(tenant, session.id, source)
    lost = await missing(kept)  # reads go on
    assert await tenant.memory.search("In writing w-0 there is a memory.")

    make_room()
    lost += await missing(kept)
    for name, call in refused:
        assert not await KINDS[name].trace(call), f"{name} {call.name} is there although it was refused"
        await KINDS[name].act(call)
        assert await KINDS[name].trace(call), (name, call.name)
    for name in NAMES:
        call = Call(tenant, f"after-{name}")
        await KINDS[name].prepare(call)
        await KINDS[name].act(call)
        assert await KINDS[name].trace(call), name
    artifact = await tenant.artifacts.put(session.id, "big", io.BytesIO(BIG))
    assert await tenant.artifacts.verify(artifact.id)
    return Filled(acknowledged=len(kept), refused=len(refused), kinds_refused=len(refusals), lost=lost)


async def missing(kept: Sequence[tuple[str, Call]]) -> list[str]:
    """Name what is not there; what is half there raises."""
    return [f"{name} {call.name}" for name, call in kept if not await KINDS[name].trace(call)]


async def refuses(tenant: Tenant, session: object, source: bytes | io.BytesIO) -> None:
    before = await tenant.artifacts.stats()
    try:
        await tenant.artifacts.put(session, "big", source)  # type: ignore[arg-type]
    except DiskFull as error:
        require_clear(error)
    else:
        raise AssertionError("there was space for 20 MB")
    assert await tenant.artifacts.stats() == before


def require_clear(error: DiskFull) -> None:
    """It names the file or the folder, and what to do."""
    assert "space" in error.hint, error
    assert {"path", "folder", "query"} & error.fields.keys(), error


async def fill_file(folder: Path, make_room: Callable[[], object]) -> Filled:
    url = f"sqlite:///{folder / 'store.db'}"
    async with llmspell.connect(url, settings=llmspell.Settings(), embedder="hashing") as spell:
        filled = await fill(spell.tenant(TENANT), make_room)
        chain = await spell.tenant(TENANT).audit.verify()
        assert chain.intact, chain
    assert torn_in_file(folder / "store.db") == []
    assert [path.name for path in folder.iterdir()] == ["store.db"], "something was left behind"
    return filled


def main(folder: str, limit_bytes: int) -> None:
    tempfile.tempdir = folder
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    filled = asyncio.run(fill_file(Path(folder), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))))
    sys.stdout.write(json.dumps(msgspec.to_builtins(filled)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
