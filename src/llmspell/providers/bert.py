"""The forward pass of a BERT encoder in numpy: token ids in, one normalised vector per text out.

For small sentence models on a processor. It follows Devlin et al. 2018 (arXiv:1810.04805): token, position and type
embeddings, layers of multi-head attention and a feed-forward network with the exact (erf) GELU, layer norms after the
residuals; then the mean over the tokens or the first token, as sentence-transformers pool them.

Refused: other architectures, relative positions and other activations, by name, when the model is opened.

Rule 1: float32 throughout; every large product is one BLAS call, which releases the interpreter lock.
Rule 2: a batch is padded to its longest text: `batches` plans it so that little is spent on that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmspell.errors import InvalidSetting
from llmspell.providers.batches import Integers, Pooling, kept_tokens, pad, pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmspell.providers.weights import Floats

GELU_BLOCK_ROWS = 32  # so that the scratch arrays of a block stay in the processor's second-level cache
# Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7; halved, because GELU takes half of erfc.
_ERFC_SLOPE = 0.3275911 / math.sqrt(2)
_HALF_ERFC = tuple(0.5 * c for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))
_MASKED = np.float32(-1e9)


class _Layer(NamedTuple):
    """Weights of one layer, as (in, out) matrices."""

    qkv: Floats
    qkv_bias: Floats
    attended: Floats
    attended_bias: Floats
    attended_norm: tuple[Floats, Floats]
    widened: Floats
    widened_bias: Floats
    narrowed: Floats
    narrowed_bias: Floats
    output_norm: tuple[Floats, Floats]


class BertEncoder:
    """A BERT encoder over mapped weights. Threads may share it: a call keeps nothing."""

    def __init__(self, weights: Mapping[str, Floats], config: Mapping[str, Any], *, pooling: Pooling = "mean") -> None:
        """`config` is the model's config.json, `pooling` "mean" or "cls".

        Raises:
            InvalidSetting: an architecture that this encoder does not compute, or a weight that is absent.
        """
        _require_architecture(config)
        self._weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._pooling = pooling
        self._words = self._weight("embeddings.word_embeddings.weight")
        # One segment only, so that its embedding can be added to the positions once.
        self._positions = (
            self._weight("embeddings.position_embeddings.weight")
            + self._weight("embeddings.token_type_embeddings.weight")[0]
        )
        self._input_norm = self._norm("embeddings.LayerNorm")
        self.dimension = int(self._words.shape[1])
        self._layers = [self._layer(f"encoder.layer.{number}.") for number in range(int(config["num_hidden_layers"]))]

    def encode(self, texts: Sequence[Sequence[int]]) -> Floats:
        """Return (texts, dimension) float32 vectors of norm 1 for one batch of token ids with their special tokens."""
        ids, lengths = pad(texts)
        return pool(self._forward(ids, lengths), lengths, self._pooling)

    def _forward(self, ids: Integers, lengths: Integers) -> Floats:
        """Hidden states (texts, tokens, dimension) of a padded batch."""
        count, tokens = ids.shape
        hidden = self._words[ids]
        hidden += self._positions[:tokens]
        flat = hidden.reshape(count * tokens, self.dimension)
        self._normalise(flat, self._input_norm)
        mask = None
        if int(lengths.min()) < tokens:
            mask = np.where(kept_tokens(lengths, tokens), np.float32(0), _MASKED)[:, None, None, :]
        for layer in self._layers:
            context = self._attend(flat, layer, (count, tokens), mask)
            attended: Floats = context @ layer.attended
            attended += layer.attended_bias
            attended += flat
            self._normalise(attended, layer.attended_norm)
            wide: Floats = attended @ layer.widened
            gelu_in_place(wide, layer.widened_bias)
            flat = np.matmul(wide, layer.narrowed, dtype=np.float32)
            flat += layer.narrowed_bias
            flat += attended
            self._normalise(flat, layer.output_norm)
        return flat.reshape(count, tokens, self.dimension)

    def _attend(self, flat: Floats, layer: _Layer, shape: tuple[int, int], mask: Floats | None) -> Floats:
        """Multi-head attention before its output projection: (rows, dimension)."""
        count, tokens = shape
        width = self.dimension // self._heads
        qkv = flat @ layer.qkv
        qkv += layer.qkv_bias
        # Views: BLAS takes the row stride of a head as it is, so no head is copied.
        queries, keys, values = qkv.reshape(count, tokens, 3, self._heads, width).transpose(2, 0, 3, 1, 4)
        scores = np.matmul(queries, keys.transpose(0, 1, 3, 2))
        if mask is not None:
            scores += mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        context = np.empty((count, tokens, self._heads, width), dtype=np.float32)
        np.matmul(scores, values, out=context.transpose(0, 2, 1, 3))
        return context.reshape(count * tokens, self.dimension)

    def _normalise(self, rows: Floats, norm: tuple[Floats, Floats]) -> None:
        """Layer norm over the last axis, in place."""
        rows -= rows.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows)[:, None] / np.float32(self.dimension)
        rows /= np.sqrt(variance + np.float32(self._epsilon))
        rows *= norm[0]
        rows += norm[1]

    def _layer(self, prefix: str) -> _Layer:
        attention = prefix + "attention."
        # 1/sqrt(width) goes into the queries once instead of into the scores at every call.
        scale = np.float32(1 / math.sqrt(self.dimension // self._heads))
        fused, biases = [], []
        for name, factor in (("query", scale), ("key", np.float32(1)), ("value", np.float32(1))):
            fused.append(self._weight(f"{attention}self.{name}.weight") * factor)
            biases.append(self._weight(f"{attention}self.{name}.bias") * factor)
        return _Layer(
            qkv=np.ascontiguousarray(np.concatenate(fused).T),
            qkv_bias=np.concatenate(biases),
            attended=self._matrix(attention + "output.dense.weight"),
            attended_bias=self._weight(attention + "output.dense.bias"),
            attended_norm=self._norm(attention + "output.LayerNorm"),
            widened=self._matrix(prefix + "intermediate.dense.weight"),
            widened_bias=self._weight(prefix + "intermediate.dense.bias"),
            narrowed=self._matrix(prefix + "output.dense.weight"),
            narrowed_bias=self._weight(prefix + "output.dense.bias"),
            output_norm=self._norm(prefix + "output.LayerNorm"),
        )

    def _matrix(self, name: str) -> Floats:
        # Copied into (in, out) order: 18 rows times a transposed matrix take BLAS 1.4 times as long (measured).
        return np.ascontiguousarray(self._weight(name).T)

    def _norm(self, name: str) -> tuple[Floats, Floats]:
        return self._weight(name + ".weight"), self._weight(name + ".bias")

    def _weight(self, name: str) -> Floats:
        try:
            return self._weights[name]
        except KeyError:
            raise InvalidSetting(f"The model file has no tensor {name!r}, so it is not a BERT encoder.") from None


def _require_architecture(config: Mapping[str, Any]) -> None:
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InvalidSetting(
                f"The model's config.json says {key} = {config[key]!r}; without an ONNX file only {value!r} is run.",
                hint="Put onnx/model.onnx into the model's directory, or choose another model.",
            )


def gelu_in_place(rows: Floats, bias: Floats) -> None:
    """Replace `rows` with GELU(rows + bias), the exact form x·Φ(x), to 2e-7 of max(1, |x|).

    Written as max(x, 0) - |x| · erfc(|x|/√2)/2, which needs no sign and does not cancel for negative x.
    """
    height = min(GELU_BLOCK_ROWS, len(rows))
    positive, inverse, tail = (np.empty((height, rows.shape[1]), dtype=np.float32) for _ in range(3))
    for start in range(0, len(rows), GELU_BLOCK_ROWS):
        x = rows[start : start + GELU_BLOCK_ROWS]
        p, t, e = positive[: len(x)], inverse[: len(x)], tail[: len(x)]
        x += bias
        np.maximum(x, 0, out=p)
        np.abs(x, out=x)
        np.multiply(x, np.float32(_ERFC_SLOPE), out=t)
        t += 1
        np.reciprocal(t, out=t)
        np.multiply(t, np.float32(_HALF_ERFC[0]), out=e)
        for coefficient in _HALF_ERFC[1:]:
            e += np.float32(coefficient)
            e *= t
        e *= x
        x *= x
        x *= np.float32(-0.5)
        np.exp(x, out=x)
        e *= x
        np.subtract(p, e, out=x)
