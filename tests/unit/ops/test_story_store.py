from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from llmspell.errors import InvalidUrl, Unavailable
from llmspell.ops.story_store import STORY_FILE, StoryBackend, StoryStore, story_store
from llmspell.settings import Settings

SERVER = "postgresql://llmspell_app:hunter2@host/database"


def chosen(
    folder: Path, backend: StoryBackend | None, named: str | None = None, settings: Settings | None = None
) -> StoryStore:
    with story_store(
        backend, named=named, settings=settings or Settings(), data_folder=folder, announce=lambda text: None
    ) as store:
        return store


def configured(url: str | None, admin_url: str | None) -> Settings:
    settings = Settings()
    server = msgspec.structs.replace(settings.storage.postgres, url=url, admin_url=admin_url)
    return msgspec.structs.replace(settings, storage=msgspec.structs.replace(settings.storage, postgres=server))


def test_a_file_is_the_default_and_an_old_one_goes_with_all_that_is_beside_it(tmp_path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        (tmp_path / (STORY_FILE + ending)).write_text("old")
    (tmp_path / "llmspell.db").write_text("mine")

    store = chosen(tmp_path, None)

    assert (store.backend, store.own, store.kept) == ("sqlite", True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["llmspell.db"]


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Unavailable):
        chosen(tmp_path / "file" / "below", None)


@pytest.mark.parametrize("backend", get_args(StoryBackend))
def test_a_named_store_of_another_backend_is_refused(tmp_path: Path, backend: StoryBackend) -> None:
    urls = {"memory": "sqlite:///a.db", "sqlite": "memory://", "postgres": "sqlite:///a.db"}

    with pytest.raises(InvalidUrl):
        chosen(tmp_path, backend, urls[backend])


def test_the_configured_server_is_used_and_migrated_only_by_its_owner(tmp_path: Path) -> None:
    without = chosen(tmp_path, "postgres", settings=configured(SERVER, None))
    with_owner = chosen(tmp_path, "postgres", settings=configured(SERVER, SERVER))

    assert (without.url, without.own, without.overrides) == (SERVER, False, {})
    assert with_owner.overrides == {"storage.postgres.auto_migrate": True}


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    assert "hunter2" not in chosen(tmp_path, None, SERVER).shown_url
