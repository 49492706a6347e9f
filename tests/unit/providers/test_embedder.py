from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmspell.errors import InvalidLimit, InvalidSetting, InvalidText, ModelMissing, ProviderProtocol
from llmspell.providers.embedder import TEXTS_MAX, EstimatedTokens, checked_vectors, open_embedder, require_texts


def test_none_opens_no_embedder() -> None:
    assert open_embedder("none") is None


@pytest.mark.parametrize(("spec", "dimension"), [("hashing", 384), ("hashing:768", 768)])
def test_hashing_takes_its_dimension_from_the_spec(spec: str, dimension: int) -> None:
    embedder = open_embedder(spec)

    assert embedder is not None
    assert (embedder.model, embedder.dimension) == (f"hashing-{dimension}", dimension)


@pytest.mark.parametrize("spec", ["", "torch", "hashing:many", "hashing:5", "none:x"])
def test_a_spec_that_names_nothing_is_refused(spec: str) -> None:
    with pytest.raises(InvalidSetting):
        open_embedder(spec)


def test_a_missing_model_says_which_command_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmspell.providers.models._in_package", lambda known: None)

    with pytest.raises(ModelMissing) as refused:
        open_embedder("local", models_folder=tmp_path)

    assert "llmspell models pull all-MiniLM-L6-v2" in refused.value.hint


@pytest.mark.parametrize(
    ("blocked", "spec", "extra"),
    [("tokenizers", "local", "local"), ("httpx2", "openai", "openai"), ("stamina", "openai", "openai")],
)
def test_a_missing_package_names_its_extra(blocked: str, spec: str, extra: str) -> None:
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {blocked!r}: raise ModuleNotFoundError(name, name=name)\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name == {blocked!r} else found(name, package)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from llmspell.errors import MissingExtra\n"
        "from llmspell.providers.embedder import open_embedder\n"
        "try:\n"
        f"    open_embedder({spec!r})\n"
        "except MissingExtra as missing:\n"
        "    print(missing.extra)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == extra, done.stderr


def test_the_module_of_the_protocol_loads_no_vendor_and_no_numpy() -> None:
    script = "import sys, llmspell.providers.embedder; print([m for m in ('numpy', 'tokenizers', 'httpx2') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_estimated_tokens_are_a_quarter_of_the_characters_rounded_up() -> None:
    counter = EstimatedTokens()

    assert [counter.count_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
    assert not counter.exact_tokens


@pytest.mark.parametrize("text", ["a\0b", "\ud800", 7])
def test_a_text_that_cannot_be_kept_is_refused_by_its_position(text: object) -> None:
    with pytest.raises(InvalidText, match=r"texts\[1\]"):
        require_texts(["fine", text])  # type: ignore[list-item]


def test_one_text_instead_of_a_sequence_is_refused() -> None:
    with pytest.raises(InvalidText):
        require_texts("not a list")


def test_more_texts_than_one_call_takes_are_refused() -> None:
    with pytest.raises(InvalidLimit):
        require_texts(["x"] * (TEXTS_MAX + 1))


def packed(*components: float) -> bytes:
    return struct.pack(f"<{len(components)}f", *components)


def test_one_finite_vector_of_the_right_size_for_each_text_is_taken_as_it_is() -> None:
    vectors = (packed(1, 0), packed(-3e38, 3e38))

    assert checked_vectors(vectors, count=2, dimension=2) == list(vectors)
    assert checked_vectors([], count=0, dimension=2) == []


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([packed(1, 0)], "1 vectors for 2 texts"),
        ([packed(1, 0)] * 3, "3 vectors for 2 texts"),
        ([packed(1, 0), packed(1)], "Vector 1 .* 4 bytes"),
        ([packed(1, 0), b"1234567"], "Vector 1 .* 7 bytes"),
        ([packed(1, 0), packed(math.nan, 1)], "Vector 1 .* not finite"),
        ([packed(math.inf, -math.inf), packed(1, 0)], "Vector 0 .* not finite"),
        ([packed(math.inf, math.inf), packed(1, 0)], "Vector 0 .* not finite"),
        ([packed(1, 0), packed(0, -0.0)], "Vector 1 .* zero"),
        ([packed(1, 0), [1.0, 0.0]], "Vector 1 .* list"),
        (packed(1, 0), "bytes where a list"),
        (None, "NoneType where a list"),
    ],
)
def test_any_other_answer_of_an_embedder_is_a_breach_of_protocol(vectors: Any, said: str) -> None:
    with pytest.raises(ProviderProtocol, match=said):
        checked_vectors(vectors, count=2, dimension=2)
