from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from llmspell.errors import InvalidSetting
from llmspell.providers.local import open_local
from llmspell.providers.onnx import OnnxEncoder

INT64, FLOAT = 7, 1
WORDS = 30_522


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def value_info(name: str, kind: int, dimensions: list[str]) -> bytes:
    shape = b"".join(field(1, field(2, dimension)) for dimension in dimensions)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def write_graph(path: Path, table: np.ndarray, *, inputs: tuple[str, ...] = ("input_ids", "attention_mask")) -> Path:
    """An encoder of one step: the hidden state of a token is its row of `table`."""
    node = field(1, "table") + field(1, inputs[0]) + field(2, "last_hidden_state") + field(4, "Gather")
    tensor = b"".join(field(1, extent) for extent in table.shape)
    tensor += field(2, FLOAT) + field(8, "table") + field(9, table.astype("<f4").tobytes())
    graph = field(1, node) + field(2, "encoder") + field(5, tensor)
    graph += b"".join(field(11, value_info(name, INT64, ["texts", "tokens"])) for name in inputs)
    graph += field(12, value_info("last_hidden_state", FLOAT, ["texts", "tokens", "width"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
    return path


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((WORDS, 384)).astype(np.float32)


def test_the_vector_is_the_mean_of_the_hidden_states(tmp_path: Path, table: np.ndarray) -> None:
    encoder = OnnxEncoder(write_graph(tmp_path / "model.onnx", table))

    vectors = encoder.encode([[3, 4, 5], [9]])

    expected = np.array([table[3:6].mean(axis=0), table[9]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vectors - expected).max() < 1e-6


def test_a_graph_that_wants_something_else_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    path = write_graph(tmp_path / "model.onnx", table, inputs=("input_ids", "pixels"))

    with pytest.raises(InvalidSetting, match="pixels"):
        OnnxEncoder(path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")

    with pytest.raises(InvalidSetting):
        OnnxEncoder(path)


async def test_a_directory_with_an_onnx_file_is_run_by_onnxruntime(
    model_path: Path,
    tmp_path: Path,
    table: np.ndarray,
) -> None:
    directory = tmp_path / "tiny"
    write_graph(directory / "onnx" / "model.onnx", table)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(model_path / name, directory / name)
    embedder = open_local(str(directory), models_folder=tmp_path / "models")

    (vector,) = await embedder.embed(["hello"])
    await embedder.aclose()

    expected = table[[101, 7592, 102]].mean(axis=0)
    assert embedder.runtime == "onnxruntime"
    assert embedder.model.startswith("tiny@")
    assert np.frombuffer(vector, "<f4") @ expected / np.linalg.norm(expected) == pytest.approx(1, abs=1e-5)
