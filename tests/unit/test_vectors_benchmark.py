"""The benchmark of vectors: it runs, it says what it measured, and an answer that is wrong does not pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.seeds import SEED

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS, QUESTIONS = 2_000, 20
PARTS = ("easy", "hard", "filters", "tenants", "insert", "process")
SEARCHES = ("easy", "hard", "filter 1 %", "filter 10 %", "tenants")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test import what lies beside the script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "vectors.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_every_part_is_measured_checked_and_held_to_its_targets() -> None:
    done = run("--rows", str(ROWS), "--questions", str(QUESTIONS), "--peers", "numpy", "--only", *PARTS, "--json")

    assert (done.returncode, [line for line in done.stderr.splitlines() if "error" in line]) == (0, [])
    document = json.loads(done.stdout)
    figures = document["figures"]
    assert (document["engines"], document["wrong"]) == (["llmspell", "numpy"], [])
    for part in SEARCHES:
        for engine in document["engines"]:
            found = figures[part][engine]
            assert found["calls"] == QUESTIONS
            assert 0 < found["p50_ms"] <= found["p95_ms"]
        assert figures[part]["numpy"]["recall"] == 1.0
        assert figures[part]["llmspell_over"]["numpy"]["ratio"] > 0
    assert figures["tenants"]["llmspell"]["recall"] == figures["filter 1 %"]["llmspell"]["recall"] == 1.0
    assert figures["insert"]["llmspell"]["vectors_per_s"] > 0
    assert figures["insert"]["llmspell"]["syncs_per_batch"] != 0
    assert {"cold_ms", "rss_mib", "anonymous_mib", "files_mib"} <= set(figures["process"]["llmspell"])
    targets = {one["figure"]: one["verdict"] for one in document["targets"]}
    assert {f"{part}, p50" for part in SEARCHES} < set(targets)
    assert set(targets.values()) == {f"not judged at {ROWS:,} rows"}


def test_who_names_a_peer_that_there_is_not_is_told_which_there_are() -> None:
    done = run("--peers", "numpy,nonesuch")

    assert (done.returncode, done.stdout) == (2, "")
    assert "no peer is called nonesuch; there are numpy, hnswlib" in done.stderr


@pytest.mark.usefixtures("modules")
def test_a_peer_that_is_not_installed_is_skipped_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vector_engines import Hnswlib
    from vectors import installed

    monkeypatch.setattr(Hnswlib, "module", "a_module_that_is_nowhere")

    assert installed(["numpy", "hnswlib"]) == (
        ["numpy"],
        ["hnswlib: not installed; pip install hnswlib -c benchmarks/peers.txt"],
    )


@pytest.mark.usefixtures("modules")
def test_the_same_seed_makes_the_same_set_and_another_seed_another() -> None:
    from vector_data import make

    first, again, other = (make("hard", rows=ROWS, questions=5, seed=one) for one in (SEED, SEED, SEED + 1))

    assert (first.vectors == again.vectors).all()
    assert (first.group == again.group).all()
    assert not (first.vectors == other.vectors).all()


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("wrong", ["a row too few", "another row", "a row of another tenant", "a row twice"])
async def test_an_answer_that_is_wrong_is_counted_against_us(wrong: str, tmp_path: Path) -> None:
    from vector_data import Data, Question, among_tenants, make
    from vector_engines import NumpyExact
    from vector_race import Race

    class Mistaken(NumpyExact):
        """Answers exactly, but for one mistake."""

        def found(self, answer: Any, question: Question) -> list[int]:
            rows = super().found(answer, question)
            last = data.of(question.tenant).stop - 1
            away = {
                "a row too few": [],
                "another row": [next(row for row in range(last, 0, -1) if row not in rows)],
                "a row of another tenant": [(last + 1) % data.rows],
                "a row twice": [rows[0]],
            }[wrong]
            return rows[:-1] + away

    data: Data = among_tenants(make("easy", rows=ROWS, questions=40, seed=SEED))
    errors: list[list[str]] = []
    for kind in (NumpyExact, Mistaken):
        engine, found = kind(), list[str]()
        engine.build(tmp_path, data)
        await Race({"llmspell": engine}, found).run(data, claim=1.0, label="tenants")
        errors.append(found)

    assert errors[0] == []
    assert any("recall" in error and "claimed 1.0" in error for error in errors[1])
