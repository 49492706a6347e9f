"""A text encoder in ONNX form, run by onnxruntime: token ids in, one normalised vector per text out.

Refused: a graph that wants other inputs than token ids, attention mask and token types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmspell.errors import InvalidSetting, MissingExtra
from llmspell.providers.batches import Pooling, kept_tokens, pad, pool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmspell.providers.weights import Floats

THREADS = 1  # of one batch; batches run beside each other instead (`local`)
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class OnnxEncoder:
    """An ONNX session. Threads may share it."""

    def __init__(self, path: Path, *, pooling: Pooling = "mean") -> None:
        """Load `path`.

        Raises:
            MissingExtra: onnxruntime is not installed.
            InvalidSetting: not an ONNX file, or one with unknown inputs.
        """
        try:
            import onnxruntime
        except ImportError as exc:
            raise MissingExtra("onnx", needed_for=f"Running {path.name}") from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _failures() as exc:
            raise InvalidSetting(f"{path} cannot be loaded as an ONNX model: {exc}") from exc
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        if unknown := sorted(set(self._inputs) - _INPUTS):
            raise InvalidSetting(f"{path} wants inputs that a sentence encoder does not have: {', '.join(unknown)}.")
        self._pooling: Pooling = pooling

    def encode(self, texts: Sequence[Sequence[int]]) -> Floats:
        """Return (texts, dimension) float32 vectors of norm 1 for one batch of token ids with their special tokens."""
        ids, lengths = pad(texts)
        given = {
            "input_ids": ids,
            "attention_mask": kept_tokens(lengths, ids.shape[1]).astype(np.int64),
            "token_type_ids": np.zeros_like(ids),
        }
        hidden = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        return pool(np.asarray(hidden, dtype=np.float32), lengths, self._pooling)


def _failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises when it cannot load a file: it has no common class for them."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.InvalidArgument,
        state.NotImplemented,
    )
