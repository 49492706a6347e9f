from __future__ import annotations

import math

import numpy as np
import pytest

from llmspell.errors import InvalidSetting
from llmspell.providers.batches import BATCH_MAX_TOKENS, pad, plan_batches, pool
from llmspell.providers.bert import BertEncoder, gelu_in_place


def test_gelu_is_exact_to_float32() -> None:
    x = np.linspace(-9, 9, 40 * 101, dtype=np.float32).reshape(101, 40)
    bias = np.linspace(-1, 1, 40, dtype=np.float32)
    expected = [[v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in (x + bias).astype(float).tolist()]

    gelu_in_place(x, bias)

    assert np.abs(x - np.array(expected)).max() < 2e-6
    assert np.abs((x - np.array(expected)) / np.maximum(1, np.abs(expected))).max() < 5e-7


def test_batches_are_bounded_and_hold_every_text_once() -> None:
    lengths = [(7 * i) % 250 + 3 for i in range(500)]

    batches = list(plan_batches(lengths))

    assert sorted(position for batch in batches for position in batch) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= BATCH_MAX_TOKENS for batch in batches)
    padding = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) / sum(lengths)
    assert padding < 1.2


def test_the_mean_takes_only_the_tokens_of_a_text() -> None:
    _, lengths = pad([[1], [1, 2]])
    hidden = np.array([[[3, 0], [99, 99]], [[1, 0], [0, 1]]], dtype=np.float32)

    assert pool(hidden, lengths, "mean").tolist() == pytest.approx(
        np.array([[1, 0], [math.sqrt(0.5), math.sqrt(0.5)]], dtype=np.float32)
    )
    assert pool(hidden, lengths, "cls").tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    "config", [{"model_type": "mpnet"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}]
)
def test_an_architecture_that_is_not_computed_is_refused_by_name(config: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(config.values()))):
        BertEncoder({}, config)


def test_a_file_without_the_encoders_tensors_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="word_embeddings"):
        BertEncoder({}, {"model_type": "bert", "num_attention_heads": 1, "num_hidden_layers": 1})
