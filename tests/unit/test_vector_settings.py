"""The settings of vector search: what they accept, and that an opened store is given them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidSetting
from llmspell.ids import IdSource
from llmspell.settings import Settings, find_setting, load_settings, schema
from llmspell.storage.contracts.vector_index import HnswConfig, IndexChoice
from llmspell.storage.open import index_choice, open_backend
from llmspell.storage.sqlite.backend import SqliteBackend, default_index_threads, open_sqlite
from llmspell.storage.sqlite.index_options import IndexOptions

FILE = """\
[storage]
vector_backend = "exact"
vector_path = "indexes"

[storage.sqlite]
vector_cache_mb = 64
index_threads = 3

[rag.vector_storage.hnsw]
preset = "accuracy"
ef_search = 120
recall = 0.95

[memory.hnsw]
m = 24
ef_construction = 256
max_elements = 5_000
recall = "off"
"""


def loaded(folder: Path, text: str = "", **variables: str) -> Settings:
    """Read settings from one file in `folder` and from the given variables."""
    file = folder / "llmspell.toml"
    file.write_text(text)
    return load_settings(file, environ={"HOME": str(folder), **variables})


async def options_of(folder: Path, settings: Settings) -> IndexOptions:
    """Open a file with the settings and return what the search in process was given."""
    clock = ManualClock()
    url = f"sqlite:///{folder / 'agent.db'}"
    backend = await open_backend(url, settings=settings, clock=clock, ids=IdSource(clock))
    assert isinstance(backend, SqliteBackend)
    await backend.close()
    options = backend._runtime.nearest._options  # type: ignore[attr-defined]
    assert isinstance(options, IndexOptions)
    return options


def test_without_settings_an_index_has_the_balanced_parameters() -> None:
    choice = index_choice(Settings().rag.vector_storage.hnsw)

    assert choice == index_choice(Settings().memory.hnsw) == IndexChoice(recall=0.99)
    assert choice.config(100_000) == HnswConfig(m=16, ef_construction=200, ef_search=50, max_elements=1_000_000)


def test_an_explicit_key_overrides_its_preset_and_leaves_the_others(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[rag.vector_storage.hnsw]\npreset = 'accuracy'\nm = 20\n")

    found = index_choice(settings.rag.vector_storage.hnsw).config(1)

    assert (found.m, found.ef_construction, found.ef_search) == (20, 500, 300)


@pytest.mark.parametrize("word", ["off", "Off", "OFF"])
def test_no_recall_may_be_written_in_any_case(tmp_path: Path, word: str) -> None:
    settings = loaded(tmp_path, LLMSPELL_RAG__VECTOR_STORAGE__HNSW__RECALL=word)

    assert index_choice(settings.rag.vector_storage.hnsw).recall is None


async def test_an_opened_store_searches_with_what_its_file_of_settings_says(tmp_path: Path) -> None:
    options = await options_of(tmp_path, loaded(tmp_path, FILE))

    assert options == IndexOptions(
        path=str(tmp_path / "agent.db"),
        vector_index=IndexChoice(preset="accuracy", ef_search=120, recall=0.95),
        memory_index=IndexChoice(m=24, ef_construction=256, max_elements=5_000, recall=None),
        vector_path=str(tmp_path / "indexes"),
        indexes=False,
        vector_cache_bytes=64 * 1024 * 1024,
        index_threads=3,
    )


async def test_an_opened_store_searches_with_what_the_environment_says(tmp_path: Path) -> None:
    variables = {
        "LLMSPELL_STORAGE__VECTOR_BACKEND": "EXACT",
        "LLMSPELL_STORAGE__VECTOR_PATH": "/somewhere/else",
        "LLMSPELL_STORAGE__SQLITE__VECTOR_CACHE_MB": "9",
        "LLMSPELL_STORAGE__SQLITE__INDEX_THREADS": "2",
        "LLMSPELL_RAG__VECTOR_STORAGE__HNSW__PRESET": "Speed",
        "LLMSPELL_RAG__VECTOR_STORAGE__HNSW__RECALL": "0.9",
        "LLMSPELL_MEMORY__HNSW__M": "12",
        "LLMSPELL_MEMORY__HNSW__RECALL": "off",
    }

    options = await options_of(tmp_path, loaded(tmp_path, **variables))

    assert options == IndexOptions(
        path=str(tmp_path / "agent.db"),
        vector_index=IndexChoice(preset="speed", recall=0.9),
        memory_index=IndexChoice(m=12, recall=None),
        vector_path="/somewhere/else",
        indexes=False,
        vector_cache_bytes=9 * 1024 * 1024,
        index_threads=2,
    )


async def test_index_files_lie_beside_the_file_when_no_folder_is_named(tmp_path: Path) -> None:
    options = await options_of(tmp_path, loaded(tmp_path))

    assert options.indexes
    assert options.folder == tmp_path / "agent.db.vectors"
    assert options.index_threads == default_index_threads() >= 1


def test_a_folder_that_a_variable_names_is_read_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert IndexOptions(path="/a.db", vector_path="indexes").folder == tmp_path / "indexes"


def test_a_folder_in_the_home_directory_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    settings = loaded(tmp_path, "[storage]\nvector_path = '~/indexes'\n")

    assert settings.storage.vector_path == str(tmp_path / "indexes")


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("rag.vector_storage.hnsw.preset", "fast", "one of speed, balanced, accuracy, auto"),
        ("memory.hnsw.preset", 1, "one of speed, balanced, accuracy, auto"),
        ("rag.vector_storage.hnsw.m", 1, "a whole number from 2 to 100"),
        ("memory.hnsw.m", 101, "a whole number from 2 to 100"),
        ("memory.hnsw.ef_construction", 3, "a whole number from 4 to 1,000"),
        ("memory.hnsw.ef_search", 1_001, "a whole number from 1 to 1,000"),
        ("memory.hnsw.max_elements", 2**32, "a whole number from 1 to 4,294,967,295"),
        ("memory.hnsw.recall", 0.49, "a number from 0.5 to 1 or off"),
        ("memory.hnsw.recall", 1.01, "a number from 0.5 to 1 or off"),
        ("memory.hnsw.recall", "never", "a number from 0.5 to 1 or off"),
        ("storage.vector_backend", "faiss", "one of hnsw, exact"),
        ("storage.sqlite.vector_cache_mb", 0, "a whole number from 1 to 1,048,576"),
        ("storage.sqlite.index_threads", 0, "a whole number from 1 to 1,024"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_limit(
    tmp_path: Path, key: str, value: object, limit: str
) -> None:
    section, _, name = key.rpartition(".")

    with pytest.raises(InvalidSetting) as caught:
        loaded(tmp_path, f"[{section}]\n{name} = {value!r}\n")

    assert f"`{key}` must be {limit}; got" in caught.value.detail
    assert "llmspell.toml, line 2" in caught.value.hint


def test_whatever_the_settings_accept_the_parameters_of_an_index_accept_too() -> None:
    for section in ("rag.vector_storage.hnsw", "memory.hnsw"):
        for name in ("m", "ef_construction", "ef_search", "max_elements"):
            words = find_setting(f"{section}.{name}").limit.replace(",", "").split()
            for number in (int(words[-3]), int(words[-1])):
                assert getattr(HnswConfig(**{name: number}), name) == number


def test_no_setting_of_the_vector_index_is_without_effect() -> None:
    keys = [key for key in schema() if ".hnsw." in key or key.startswith("storage.vector_")]

    assert len(keys) == 14
    assert [key for key in keys if schema()[key].later] == []


async def test_a_store_is_not_opened_with_no_thread_to_build_indexes(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="index_threads must be at least 1"):
        await open_sqlite(tmp_path / "agent.db", index_threads=0)
