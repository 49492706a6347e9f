"""The guides of moving are true: their commands, typed in the order of each page, print what stands below them."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest
from tests.cli.test_guides import CONSOLE, GUIDES, alike, run, told
from tests.fixtures.living_store import live_in
from tests.fixtures.postgres import PostgresDatabase
from tests.fixtures.services import require_service

import llmspell
from llmspell.settings import Settings
from llmspell.storage.contracts.memories import EmbeddingSpace
from llmspell.tenant import tenant_id

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the guides are written for a POSIX shell")
DRAWN = re.compile(r"(?<=key=)'[^']*'|(?<=byte=)\d+|(?<=1:)[0-9a-f]{64}")
"""What differs from store to store besides: keys in errors, places in files, heads of chains."""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that was lived in, and an export of it."""
    for program in ("jq", "bash"):
        if shutil.which(program) is None:
            require_service(program, "the guides use it; install it (on Debian and Ubuntu: apt-get install jq)")
    folder = tmp_path_factory.mktemp("lived")

    async def fill() -> None:
        url = f"sqlite:///{folder / 'agent.db'}"
        await live_in(url, settings=Settings())
        async with llmspell.connect(url, settings=Settings()) as spell:
            await spell.admin.export(folder / "export.json")
            await spell.admin.export(folder / "other.json", tenant="acme")

    asyncio.run(fill())
    return folder


@pytest.fixture
def folder(lived: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, with the same store as `agent.db`, the configured one."""
    shutil.copy(lived / "agent.db", tmp_path / "agent.db")
    return tmp_path


def steps_of(page: str) -> list[tuple[str, list[str]]]:
    return told(CONSOLE.findall((GUIDES / "how-to" / page).read_text("utf-8")))


def typed(page: str, folder: Path, **environment: str) -> list[tuple[str, list[str]]]:
    """Run the commands of a page, and return each with what it printed."""
    steps = steps_of(page)
    given = {"LLMSPELL_STORAGE__URL": f"sqlite:///{folder / 'agent.db'}", **environment}
    printed = run([command for command, _ in steps], folder, shell="bash", **given)
    return [(command, lines) for (command, _), lines in zip(steps, printed, strict=True)]


def shown(steps: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    return [(command, [DRAWN.sub("…", line) for line in alike(lines)]) for command, lines in steps]


def server(database: PostgresDatabase) -> dict[str, str]:
    return {
        "DATABASE_URL": database.app_url,
        "DATABASE_ADMIN_URL": database.admin_url,
        "DATABASE_OPERATOR_URL": database.operator_url,
    }


def test_moving_to_a_server_goes_as_its_guide_says(folder: Path, postgres_empty_database: PostgresDatabase) -> None:
    page = "move-to-postgres.md"

    assert shown(typed(page, folder, **server(postgres_empty_database))) == shown(steps_of(page))


def test_moving_to_a_file_goes_as_its_guide_says(
    lived: Path, tmp_path: Path, postgres_database: PostgresDatabase
) -> None:
    page = "move-to-a-file.md"
    roles = server(postgres_database)
    shutil.copy(lived / "export.json", tmp_path / "before.json")
    run(["llmspell storage import --backend postgres --input before.json"], tmp_path, **roles)

    assert shown(typed(page, tmp_path, LLMSPELL_STORAGE__URL="", **roles)) == shown(steps_of(page))


def test_copying_goes_as_its_guide_says(folder: Path) -> None:
    assert shown(typed("copy-a-store.md", folder)) == shown(steps_of("copy-a-store.md"))


def test_recovering_goes_as_its_guide_says(lived: Path, folder: Path) -> None:
    shutil.copy(lived / "export.json", folder / "export.json")
    only_default = [
        "llmspell storage export --output default.json",
        "rm agent.db*",
        "llmspell storage import --input default.json",
    ]
    run(only_default, folder, LLMSPELL_STORAGE__URL=f"sqlite:///{folder / 'agent.db'}")
    shutil.copy(lived / "other.json", folder / "other.json")

    assert shown(typed("recover-from-an-export.md", folder)) == shown(steps_of("recover-from-an-export.md"))


def test_moving_large_stores_goes_as_its_guide_says(folder: Path) -> None:
    assert shown(typed("move-large-stores.md", folder)) == shown(steps_of("move-large-stores.md"))


def test_what_fails_says_what_its_guide_shows(lived: Path, tmp_path: Path) -> None:
    shutil.copy(lived / "export.json", tmp_path / "export.json")
    shutil.copy(lived / "agent.db", tmp_path / "full.db")

    async def prepare() -> None:
        async with llmspell.connect(f"sqlite:///{tmp_path / 'other-model.db'}", settings=Settings()) as spell:
            for tenant in ("acme", "default"):
                space = EmbeddingSpace(space_id="hashing-384@384", model="another", dimension=768)
                await spell._backend.storages(tenant_id(tenant)).memories.ensure_space(space)

    asyncio.run(prepare())

    assert shown(typed("when-a-move-fails.md", tmp_path)) == shown(steps_of("when-a-move-fails.md"))
