"""What a tenant uses of its quotas: the difference that a layer of changes makes, told from its records.

Rule: it is counted for every write, whether it is limited or not, and is part of the layer: what is dropped is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmspell.storage.contracts.tenants import QuotaLimits, QuotaName
from llmspell.storage.contracts.tenants_checks import QUOTA_OF, exceeded

if TYPE_CHECKING:
    from llmspell.storage.inmemory.store import State

Measure = Callable[[Any], int]
COUNTED: dict[QuotaName, dict[str, Measure]] = {
    "documents": {"memories": lambda _: 1},
    "storage_bytes": {
        "kv": lambda item: len(item.value),
        "contents": lambda content: len(content.data),
        "memories": lambda memory: len(memory.record.content.encode()),
    },
    "vectors": {
        "vectors": lambda _: 1,
        "memories": lambda memory: sum(map(len, memory.embeddings.values())),
    },
}
"""What is counted: tables of a tenant's state, and how much one of their records is."""


def used(state: State, quota: QuotaName) -> int:
    """Return how much is used, as a state shows it."""
    return state.counters.get(f"used {quota}") or 0


def count(layer: State, limits: QuotaLimits) -> None:
    """Count what a layer changes.

    Raises:
        QuotaExceeded: it adds to something that would be more than the limit.
    """
    for quota, tables in COUNTED.items():
        change = sum(_changes(layer, tables))
        if not change:
            continue
        before, limit = used(layer, quota), limits.limit_of(quota)
        if change > 0 and limit is not None and before + change > limit:
            raise exceeded(QUOTA_OF[quota], limit=limit, used=before, asked=change)
        layer.counters.put(f"used {quota}", before + change)


def recount(state: State) -> None:
    """Count a whole state, whatever it was counted to be."""
    for quota, tables in COUNTED.items():
        amount = sum(measure(row) for name, measure in tables.items() for row in getattr(state, name).rows())
        state.counters.put(f"used {quota}", amount)


def _changes(layer: State, tables: dict[str, Measure]) -> Iterator[int]:
    for name, measure in tables.items():
        for before, after in getattr(layer, name).changes():
            yield (0 if after is None else measure(after)) - (0 if before is None else measure(before))
