"""Model weights from a file in safetensors form, mapped into memory and not copied.

The form (safetensors format description): eight bytes with the little-endian length of a header, the header as JSON
(`name -> {dtype, shape, data_offsets}`), then the raw little-endian buffers.

Refused: pickled weights (`.bin`, `.pt`), because reading them runs code; a header that is larger than its limit or
points outside of the file. Tensors that are neither float32 nor float16 (position ids) are left out.
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from llmspell.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

HEADER_MAX_BYTES = 4_000_000
TENSORS_MAX = 4_096
_LENGTH = struct.Struct("<Q")
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


def read_weights(path: Path) -> dict[str, Floats]:
    """Return the float32 tensors of a safetensors file by name, read-only views of the mapped file.

    float16 tensors are widened (a copy).

    Raises:
        InvalidSetting: not such a file, torn, or pickled weights.
        OSError: it cannot be read.
    """
    if path.suffix != ".safetensors":
        raise InvalidSetting(
            f"{path.name} is not in safetensors form.",
            hint="Pickled weights are never read, because reading them runs code. Convert them to model.safetensors.",
        )
    size_bytes = path.stat().st_size
    header, start = _read_header(path, size_bytes)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    tensors: dict[str, Floats] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = _TYPES.get(entry["dtype"]) if isinstance(entry, dict) and "dtype" in entry else None
        if dtype is None:
            continue
        begin, shape = _place(path, name, entry, limit=size_bytes - start)
        raw = mapped[start + begin : start + begin + prod(shape) * dtype.itemsize]
        # A misaligned buffer would be copied by BLAS at every product: copy it once instead.
        aligned = raw if raw.ctypes.data % dtype.itemsize == 0 else raw.copy()
        tensors[name] = np.asarray(aligned.view(dtype).reshape(shape), dtype=np.float32)
    return tensors


def _read_header(path: Path, size_bytes: int) -> tuple[Mapping[str, Any], int]:
    """The header and the offset of the first buffer."""
    with path.open("rb") as file:
        prefix = file.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        if not 2 <= length <= min(HEADER_MAX_BYTES, size_bytes - _LENGTH.size):
            raise InvalidSetting(f"{path} is not a safetensors file, or it is torn: its header has no possible length.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as exc:
        raise InvalidSetting(f"{path} is not a safetensors file: its header is not JSON.") from exc
    if not isinstance(header, dict) or len(header) > TENSORS_MAX:
        raise InvalidSetting(f"{path} has no header of at most {TENSORS_MAX:,} tensors.")
    return header, _LENGTH.size + length


def _place(path: Path, name: str, entry: Mapping[str, Any], *, limit: int) -> tuple[int, tuple[int, ...]]:
    """Where a tensor begins and its shape, after checking that its bytes are inside of the file."""
    try:
        begin, end = (int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(extent) for extent in entry["shape"])
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidSetting(f"{path}: the header entry of {name} cannot be read.") from exc
    expected = prod(shape) * _TYPES[entry["dtype"]].itemsize
    if min((0, *shape)) < 0 or not 0 <= begin <= end <= limit or end - begin != expected:
        raise InvalidSetting(f"{path} is torn: the bytes of {name} do not fit into the file.")
    return begin, shape
