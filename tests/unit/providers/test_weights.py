from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmspell.errors import InvalidSetting
from llmspell.providers.weights import read_weights


def write(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_are_read_by_name_and_shape(tmp_path: Path) -> None:
    single = np.arange(6, dtype="<f4")
    half = np.array([1.5, -2], dtype="<f2")
    header = {"a": entry("F32", [2, 3], 0, 24), "b": entry("F16", [2], 24, 28), "ids": entry("I64", [1], 28, 36)}
    path = write(tmp_path / "m.safetensors", header, single.tobytes() + half.tobytes() + bytes(8))

    tensors = read_weights(path)

    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (tensors["b"].tolist(), tensors["b"].dtype) == ([1.5, -2.0], np.float32)
    assert set(tensors) == {"a", "b"}


def test_an_unaligned_buffer_is_read_all_the_same(tmp_path: Path) -> None:
    raw = json.dumps({"a": entry("F32", [2], 0, 8)}).encode()
    raw += b" " * (3 - len(raw) % 4)
    path = write(tmp_path / "m.safetensors", raw, np.array([7, 8], dtype="<f4").tobytes())

    assert read_weights(path)["a"].tolist() == [7, 8]


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="safetensors"):
        read_weights(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        {"a": entry("F32", [4], 0, 16)},
        {"a": entry("F32", [2], 4, 8)},
        {"a": entry("F32", [2], -8, 0)},
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": entry("F32", [-2, -1], 0, 8)},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any] | bytes) -> None:
    path = write(tmp_path / "m.safetensors", header, bytes(8))

    with pytest.raises(InvalidSetting):
        read_weights(path)


@pytest.mark.parametrize("length", [0, 10**9, 2**63])
def test_a_header_without_a_possible_length_is_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "m.safetensors", b"{}", length=length)

    with pytest.raises(InvalidSetting, match="length"):
        read_weights(path)
