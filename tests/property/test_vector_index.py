"""Random histories of vectors on a file: every answer is that of the model in memory, or as near to it as was asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.property.vector_histories import lived, small

from llmspell.storage.contracts.vector_index import RECALL_TARGET

STEPS = 250
HISTORIES = size(ci=3, soak=120)
MET = (
    "by a graph",
    "by a graph with rows behind it",
    "by a graph with rows that were gone",
    "by a graph under a filter",
    "by a graph from a file",
    "exactly, beside a graph",
    "older snapshots asked",
    "builds waited for",
)
"""What histories must have met."""


@pytest.mark.timeout(size(ci=300, soak=3_600))
async def test_every_answer_is_the_models_or_as_near_as_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    small(monkeypatch, seen)
    recalls: list[float] = []
    for number in range(HISTORIES):
        recalls += await lived(tmp_path / f"{number}.db", SEED + number, STEPS, seen)

    mean = sum(recalls) / len(recalls)
    tell(**{f"vector_index_{name.replace(' ', '_').replace(',', '')}": count for name, count in seen.items()})
    tell(vector_index_recall_in_millionths=round(mean * 1e6))
    assert all(seen[what] > 0 for what in MET), seen
    assert mean >= RECALL_TARGET
