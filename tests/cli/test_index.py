"""`llmspell index`: what there is, parameters, and a grid of them."""

from __future__ import annotations

import random
import re
import shutil

import numpy as np
import pytest
from tests.cli.conftest import Shell
from tests.cli.test_guides import CONSOLE, GUIDES, told
from tests.fixtures.seeds import usual

from llmspell import connect_blocking
from llmspell.observe import SearchFigures, observing_searches
from llmspell.storage.contracts.vector_index import IndexChoice

QUICK = ("--m", "16", "--ef-construction", "64")
FEW = (*QUICK, "--ef-search", "20", "--questions", "20")


@pytest.fixture
def filled(empty: Shell) -> Shell:
    """150 vectors of 384 dimensions and 3 of 768."""
    chance = random.Random(usual(11))
    with connect_blocking(empty.url, embedder="hashing") as spell:
        vectors = spell.tenant("default").vectors
        for count, dimension in ((150, 384), (3, 768)):
            vectors.insert([{"embedding": [chance.gauss(0, 1) for _ in range(dimension)]} for _ in range(count)])
    return empty


def test_the_status_says_how_each_space_is_searched(filled: Shell) -> None:
    done = filled("index", "status")

    assert done.code == 0
    assert done.lines[:8] == [
        "space          free-384",
        "dimension      384",
        "state          exact",
        "vectors        150",
        "indexed        0",
        "unindexed      150",
        "deleted        0",
        "fragmentation  0.0%",
    ]
    assert "space          free-768" in done.lines


def test_the_status_as_a_document_has_the_fragmentation(filled: Shell) -> None:
    spaces = filled("index", "status", "--json").document["spaces"]

    assert [(one["space_id"], one["vectors"], one["state"]) for one in spaces] == [
        ("free-384", 150, "exact"),
        ("free-768", 3, "exact"),
    ]
    assert all(one["fragmentation"] == 0 for one in spaces)


def test_the_status_is_that_of_the_tenant(filled: Shell) -> None:
    done = filled("index", "status", "--tenant", "acme")

    assert (done.code, done.out) == (0, "")
    assert "The tenant `acme` has no vectors." in done.err
    assert "--tenant" in done.err


def test_a_build_that_finds_no_vectors_names_the_tenant_and_the_dimension(filled: Shell) -> None:
    assert "The tenant `acme` has no vectors." in filled("index", "build", "--tenant", "acme").err
    assert (
        "The tenant `default` has no vectors of 1536 dimensions." in filled("index", "build", "--dimension", "1536").err
    )


def test_spaces_that_are_too_small_for_an_index_are_left_as_they_are(filled: Shell) -> None:
    done = filled("index", "build", "--dimension", "384")

    assert done.code == 0
    assert done.lines[0] == "space          free-384"
    assert "free-768" not in done.out
    assert "Nothing was to be indexed." in done.err


@pytest.mark.parametrize("command", ["status", "build"])
def test_a_store_that_is_not_there_is_not_made(shell: Shell, command: str) -> None:
    done = shell("index", command)

    assert done.code != 0
    assert "no store yet" in done.err
    assert not shell.file.exists()


@pytest.mark.parametrize("arguments", [["estimate", "--vectors", "10000"], ["tune"]])
def test_a_missing_dimension_is_told_with_its_choices_on_one_line(shell: Shell, arguments: list[str]) -> None:
    done = shell("index", *arguments)

    assert done.code == 2
    assert done.err.splitlines()[0] == "error: Missing option '--dimension'. Choose from 384, 768, 1536, 3072."


# --- estimate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "vectors", "parameters"),
    [
        ("speed", 10, (8, 50, 25)),
        ("balanced", 10, (16, 200, 50)),
        ("accuracy", 10, (48, 500, 300)),
        ("auto", 10_000, (8, 100, 50)),
        ("auto", 10_001, (16, 200, 100)),
        ("auto", 100_001, (32, 400, 200)),
        ("auto", 1_000_001, (48, 500, 300)),
    ],
)
def test_an_estimate_has_the_parameters_of_its_preset(
    shell: Shell, preset: str, vectors: int, parameters: tuple[int, ...]
) -> None:
    done = shell("index", "estimate", "--vectors", str(vectors), "--dimension", "384", "--preset", preset, "--json")

    found = done.document["parameters"]
    assert (found["m"], found["ef_construction"], found["ef_search"]) == parameters


def test_both_estimates_stand_under_their_own_names(shell: Shell) -> None:
    """HNS-19, HNS-20, AMB-015."""
    arguments = ("index", "estimate", "--vectors", "10000", "--dimension", "768")
    document = shell(*arguments, "--json").document

    assert (document["vector_bytes"], document["vectors_bytes"]) == (3_200, 32_000_000)
    assert document["overhead_bytes"] == 16 * 16 * 10_000
    lines = shell(*arguments).lines
    assert "vectors, links   32,000,000 bytes: 3,200 for each vector (HNS-19)" in lines
    assert "links alone      2,560,000 bytes (HNS-20)" in lines
    assert "recommended m    16 for 768 dimensions (HNS-12)" in lines


def test_an_estimate_without_a_preset_is_of_what_is_configured_and_opens_no_store(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_RAG__VECTOR_STORAGE__HNSW__PRESET", "accuracy")
    shell.environment.setenv("LLMSPELL_RAG__VECTOR_STORAGE__HNSW__M", "20")
    shell.environment.setenv("LLMSPELL_RAG__VECTOR_STORAGE__HNSW__MAX_ELEMENTS", "99")

    document = shell("index", "estimate", "--vectors", "100", "--dimension", "384", "--json").document

    assert (document["preset"], document["parameters"]["m"], document["parameters"]["ef_search"]) == (
        "accuracy", 20, 300,
    )  # fmt: skip
    assert document["fits"] is False
    assert not shell.file.exists()


@pytest.mark.parametrize(("vectors", "fits"), [("1000000", True), ("1000001", False)])
def test_the_shards_of_the_policy_make_no_room_in_one_process(shell: Shell, vectors: str, fits: bool) -> None:
    asked = ("index", "estimate", "--vectors", vectors, "--dimension", "384", "--preset", "auto", "--json")

    assert shell(*asked).document["fits"] is fits


def test_the_guide_shows_what_an_estimate_prints(shell: Shell) -> None:
    steps = told(CONSOLE.findall((GUIDES / "how-to" / "tune-vector-search.md").read_text("utf-8")))
    (expected,) = [lines for command, lines in steps if "index estimate" in command]
    (command,) = [command for command, _ in steps if "index estimate" in command]

    assert shell(*command.split()[1:]).lines == [line for line in expected if line]


def test_the_guide_has_the_parameters_of_every_preset() -> None:
    page = (GUIDES / "how-to" / "tune-vector-search.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)

    sizes = {"auto": iter((10_000, 100_000, 1_000_000, 10_000_000))}
    for preset, *numbers in rows:
        config = IndexChoice(preset=preset).config(next(sizes.get(preset, iter((1,)))))
        assert [config.m, config.ef_construction, config.ef_search] == list(map(int, numbers))
    assert [preset for preset, *_ in rows] == ["speed", "balanced", "accuracy", *["auto"] * 4]


# --- tune -------------------------------------------------------------------------------------------------------------


def test_a_grid_over_generated_vectors_needs_no_store(shell: Shell) -> None:
    done = shell(
        "index", "tune", "--dimension", "384", "--vectors", "500", *QUICK, "--ef-search", "10", "--ef-search", "200",
        "--recall", "0.5",
    )  # fmt: skip

    assert done.code == 0
    assert [line.split("\t")[:3] for line in done.lines] == [["16", "64", "10"], ["16", "64", "200"]]
    assert "Measured with 200 questions against 500 vectors." in done.err
    assert "Fastest with a recall of at least 0.5: m = 16" in done.err
    assert "[rag.vector_storage.hnsw]" in done.err
    assert not shell.file.exists()


def test_a_grid_over_vectors_of_the_store_changes_nothing(filled: Shell) -> None:
    before = filled.file.read_bytes()

    done = filled("index", "tune", "--dimension", "384", *FEW, "--recall", "0.5", "--json")

    assert done.code == 0
    document = done.document
    assert (document["source"], document["vectors"], document["questions"]) == ("free-384", 135, 15)
    (point,) = document["points"]
    assert document["suggested"] == point
    assert point["recall"] > 0.5
    assert set(point) == {
        "m", "ef_construction", "ef_search", "build_s", "size_bytes", "p50_ms", "p95_ms", "recall",
    }  # fmt: skip
    assert filled.file.read_bytes() == before


def test_a_small_sample_says_how_many_questions_it_had(filled: Shell) -> None:
    done = filled("index", "tune", "--dimension", "384", *QUICK, "--ef-search", "20", "--recall", "0.5")

    assert (
        "Measured with 15 questions against 135 vectors: of a small sample a tenth are questions, not 200." in done.err
    )


def test_without_a_name_the_largest_space_of_the_dimension_is_sampled(filled: Shell) -> None:
    assert filled("add", "Ada moved to Zurich.").code == 0
    spaces = {one["space_id"]: one["dimension"] for one in filled("index", "status", "--json").document["spaces"]}
    memories = next(space for space in spaces if not space.startswith("free-"))
    assert spaces[memories] == 384

    assert filled("index", "tune", "--dimension", "384", *FEW, "--json").document["source"] == "free-384"
    named = filled("index", "tune", "--dimension", "384", "--space", memories, *FEW)
    assert "at least 100; got 1" in named.err


def test_the_grid_is_three_by_three_by_three(shell: Shell) -> None:
    """HNS-22."""
    points = shell("index", "tune", "--dimension", "384", "--vectors", "150", "--questions", "5", "--json").document[
        "points"
    ]

    assert [(one["m"], one["ef_construction"], one["ef_search"]) for one in points] == [
        (m, construction, search) for m in (12, 16, 24) for construction in (64, 128, 256) for search in (20, 40, 100)
    ]


def test_a_recall_that_nothing_reached_is_exit_code_1(shell: Shell) -> None:
    weak = ("--m", "2", "--ef-construction", "4", "--ef-search", "1")

    done = shell("index", "tune", "--dimension", "384", "--vectors", "3000", *weak, "--recall", "1")

    assert done.code == 1
    assert "Nothing reached a recall of 1.0" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--vectors", "500", "--sample", "200"],
        ["--vectors", "500", "--space", "free-384"],
        ["--vectors", "99"],
        ["--sample", "20001"],
        ["--vectors", "500", "--m", "1"],
        ["--vectors", "500", "--ef-search", "1001"],
        ["--vectors", "500", "--recall", "0.1"],
    ],
)
def test_arguments_that_can_never_succeed_are_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    assert shell("index", "tune", "--dimension", "384", *arguments).code == 2


def test_a_space_that_the_tenant_does_not_have_is_named(filled: Shell) -> None:
    none = filled("index", "tune", "--dimension", "1536", *FEW)
    other = filled("index", "tune", "--dimension", "384", "--space", "nobody's", *FEW)

    assert (none.code, other.code) == (1, 1)
    assert "no vectors of 1536 dimensions" in none.err
    assert "no space nobody's of 384 dimensions" in other.err


def test_three_vectors_are_too_few_to_measure(filled: Shell) -> None:
    done = filled("index", "tune", "--dimension", "768", *FEW)

    assert done.code == 2
    assert "`vectors` must be at least 100; got 3" in done.err


# --- a space that is large enough for an index ------------------------------------------------------------------------


@pytest.fixture
def large(empty: Shell) -> Shell:
    """2,700 vectors of 3,072 dimensions: a little more than are compared one by one."""
    chance = np.random.default_rng(usual(12))
    with connect_blocking(empty.url, embedder="hashing") as spell:
        vectors = spell.tenant("default").vectors
        for _ in range(3):
            vectors.insert([{"embedding": one} for one in chance.standard_normal((900, 3_072), dtype=np.float32)])
    return empty


def test_an_index_is_built_once_and_known_to_every_process_that_comes_after(large: Shell) -> None:
    large.environment.setenv("LLMSPELL_RAG__VECTOR_STORAGE__HNSW__PRESET", "speed")

    built = large("index", "build")
    (space,) = large("index", "status", "--json").document["spaces"]
    again = large("index", "build")

    assert "2,700 vectors indexed in" in built.err
    assert "state          ready" in built.lines
    assert (space["state"], space["indexed"], space["unindexed"], space["m"]) == ("ready", 2_700, 0, 8)
    assert space["recall_by_ef"]
    assert space["file_bytes"] == sum(file.stat().st_size for file in large.folder.glob("store.db.vectors/*.vectors"))
    assert space["estimated_bytes"] == 2_700 * (8 * 2 * 4 + 3_072 * 4)
    assert space["overhead_bytes"] == 2_700 * 16 * 8
    assert "Nothing was to be indexed." in again.err


def test_an_index_that_could_not_be_kept_in_a_file_is_warned_of(large: Shell) -> None:
    large.environment.setenv("LLMSPELL_RAG__VECTOR_STORAGE__HNSW__PRESET", "speed")
    blocked = large.folder / "blocked"
    blocked.write_text("a file where the folder should be")
    large.environment.setenv("LLMSPELL_STORAGE__VECTOR_PATH", str(blocked))

    done = large("index", "build")

    assert done.code == 1
    assert "state          ready" in done.lines
    assert f"The index of free-3072 could not be kept in {blocked}: it is gone with this process." in done.err
    assert "storage.vector_path" in done.err


def test_a_store_that_is_searched_exactly_gets_no_index(large: Shell) -> None:
    large.environment.setenv("LLMSPELL_STORAGE__VECTOR_BACKEND", "exact")
    shutil.rmtree(large.folder / "store.db.vectors", ignore_errors=True)  # filling the store may have begun one

    done = large("index", "build")

    assert "state          exact" in done.lines
    assert "Nothing was to be indexed." in done.err
    assert not (large.folder / "store.db.vectors").exists()


def test_an_observer_is_told_of_searches_by_their_path_and_of_the_size_of_the_index(large: Shell) -> None:
    """HNS-26."""
    question = np.random.default_rng(usual(13)).standard_normal(3_072, dtype=np.float32)
    figures = SearchFigures()
    with observing_searches(figures), connect_blocking(large.url, embedder="hashing") as spell:
        vectors = spell.tenant("default").vectors
        vectors.search(question, exact=True)
        vectors.build_index()
        vectors.search(question, ef_search=10)
        (space,) = vectors.index_status()

    assert dict(figures.searches) == {"exact": 1, "ann": 1}
    assert all(figures.candidates[path] >= 10 for path in ("exact", "ann"))
    assert all(figures.percentiles_ms(path)[50] > 0 for path in ("exact", "ann"))
    assert (figures.file_bytes, figures.memory_bytes) == (space.file_bytes, space.memory_bytes)
