"""Files, folders and file systems that cannot be written: refused at once with the path and what to do, and left as they were."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.crash.small_disk import make_read_only, make_writable, small_disk

import llmspell
from llmspell.errors import StorageError, Unavailable
from llmspell.spell import Spell

NOBODY = 65_534
LIMIT_S = 60
# Imports what it needs and makes a store while it may; then it is nobody, as far as the superuser ran it, and tries again.
VISITOR = """
import asyncio, json, os, sys
import llmspell

async def visit(path):
    async with llmspell.connect(f"sqlite:///{path}", settings=llmspell.Settings(), embedder="hashing") as spell:
        await spell.tenant("acme").kv.set("k", b"v")

async def main(path, file_mode, folder_mode, nobody):
    if file_mode:
        await visit(path)
        os.chmod(path, file_mode)
    else:
        await visit(path + ".other")
        os.remove(path + ".other")
    os.chmod(os.path.dirname(path), folder_mode)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(nobody)
        os.setuid(nobody)
    try:
        await visit(path)
    except llmspell.LlmspellError as error:
        said = {"code": error.code, "hint": error.hint, "path": error.fields.get("path"), "text": str(error)}
    else:
        said = {}
    print(json.dumps(said | {"left": sorted(os.listdir(os.path.dirname(path)))}))

asyncio.run(main(sys.argv[1], int(sys.argv[2], 8), int(sys.argv[3], 8), int(sys.argv[4])))
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike the one of a test."""
    folder = Path(tempfile.mkdtemp(prefix="llmspell-rights-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def opened(path: Path) -> AbstractAsyncContextManager[Spell]:
    return llmspell.connect(f"sqlite:///{path}", settings=llmspell.Settings(), embedder="hashing")


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "code"),
    [
        pytest.param(0o444, 0o777, StorageError.code, id="a file to read"),
        pytest.param(0o444, 0o555, StorageError.code, id="a file to read in such a folder"),
        pytest.param(0o666, 0o555, StorageError.code, id="a folder in which no log can be made"),
        pytest.param(0o200, 0o777, Unavailable.code, id="a file that cannot be read"),
        pytest.param(0, 0o555, Unavailable.code, id="a folder in which no file can be made"),
    ],
)
async def test_a_file_without_rights_is_refused_with_its_path_and_left_as_it_was(
    file_mode: int, folder_mode: int, code: str, public_folder: Path
) -> None:
    path = public_folder / "stores" / "store.db"
    path.parent.mkdir()
    command = [sys.executable, "-c", VISITOR, str(path), f"{file_mode:o}", f"{folder_mode:o}", str(NOBODY)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=public_folder)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["left"] == (["store.db"] if file_mode else [])
    assert said["code"] == code, said
    assert said["path"] == str(path)
    assert said["hint"].startswith("Check"), said
    path.parent.chmod(0o755)
    if file_mode:
        path.chmod(0o644)
        async with opened(path) as spell:
            assert await spell.tenant("acme").kv.get("k") == b"v"


async def test_a_file_system_that_cannot_be_written_is_refused_with_the_path_and_works_again_when_it_can(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        async with opened(disk / "store.db") as spell:
            await spell.tenant("acme").kv.set("k", b"v")
        make_read_only(disk)

        for name in ("store.db", "other.db"):
            with pytest.raises(StorageError, match=name) as caught:
                await spell_of(disk / name)
            assert "written" in caught.value.hint
        assert [path.name for path in disk.iterdir()] == ["store.db"]

        make_writable(disk)
        async with opened(disk / "store.db") as spell:
            assert await spell.tenant("acme").kv.get("k") == b"v"


async def spell_of(path: Path) -> None:
    async with opened(path):
        pass
