"""Batches of token ids for a model that runs here: planned, padded, pooled. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmspell.providers.weights import Floats

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Pooling: TypeAlias = Literal["mean", "cls"]

BATCH_MAX_TOKENS = 512  # padded; more was not quicker, and a query waits for the batch that runs before it
BATCH_LENGTH_RATIO = (
    1.25  # the longest text of a batch has at most so many times the tokens of the shortest, plus the slack
)
BATCH_LENGTH_SLACK = 4


def plan_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the positions of `lengths`, shortest first, in batches bounded in padded tokens and in spread of length."""
    batch: list[int] = []
    shortest = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[position]
        full = (len(batch) + 1) * length > BATCH_MAX_TOKENS
        if batch and (full or length > shortest * BATCH_LENGTH_RATIO + BATCH_LENGTH_SLACK):
            yield batch
            batch = []
        if not batch:
            shortest = length
        batch.append(position)
    if batch:
        yield batch


def pad(texts: Sequence[Sequence[int]], *, filler: int = 0) -> tuple[Integers, Integers]:
    """Return token ids as a (texts, tokens) matrix, filled up at the end, and the lengths."""
    lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
    padded = np.full((len(texts), int(lengths.max())), filler, dtype=np.int64)
    for row, ids in enumerate(texts):
        padded[row, : len(ids)] = ids
    return padded, lengths


def kept_tokens(lengths: Integers, tokens: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the attention mask (texts, tokens): True where a text has a token."""
    kept: np.ndarray[Any, np.dtype[np.bool_]] = np.arange(tokens)[None, :] < lengths[:, None]
    return kept


def pool(hidden: Floats, lengths: Integers, pooling: Pooling) -> Floats:
    """Return (texts, dimension) vectors of norm 1 from hidden states (texts, tokens, dimension).

    "mean" averages the tokens of each text, "cls" takes its first token, as sentence-transformers pool them.
    """
    if pooling == "cls":
        pooled = hidden[:, 0].astype(np.float32)
    else:
        kept = kept_tokens(lengths, hidden.shape[1]).astype(np.float32)
        # The sum: its direction is the mean's, and only the direction is kept.
        pooled = np.matmul(kept[:, None, :], hidden)[:, 0]
    pooled /= np.sqrt(np.einsum("ij,ij->i", pooled, pooled))[:, None]
    return pooled
