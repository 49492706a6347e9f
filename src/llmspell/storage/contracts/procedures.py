"""Learned procedures: what was seen to follow what, and how often (PRO-01…04).

A pattern is a value under a key in a scope, with the number of times it was seen. From its third occurrence on it counts as
learned. A transition is a pattern whose value is the pair of its two ends, as the JSON text `["from","to"]` (`null` for a
beginning without one): two different pairs never give one text, whatever the ends contain.

Not here: what to do with what was learned (`workflows`, `agents`).

Rule 1: an occurrence is counted by one statement: concurrent callers never lose one.
Rule 2: patterns are listed in the order of the bytes of scope, key and value, which no later occurrence moves.
Rule 3: a frequency stops at 2,147,483,647; it never turns back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from llmspell.storage.contracts.pages import Page

LEARNED_FROM = 3
"""How often a pattern must have been seen to count as learned (PRO-03)."""
SCOPE_MAX_BYTES = 500
PATTERN_KEY_MAX_BYTES = 500
PATTERN_VALUE_MAX_BYTES = 1_024
COUNT_MAX = 1_000_000
FREQUENCY_MAX = 2_147_483_647
PREDICTIONS_MAX = 100


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """A value that was seen under a key, and how often."""

    id: UUID
    scope: str
    key: str
    value: str
    frequency: int
    first_seen: datetime
    last_seen: datetime


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A value to expect. `share` is its part of all occurrences that were considered, from 0 to 1."""

    value: str
    frequency: int
    share: float


class Procedures(Protocol):
    """A tenant's patterns. Scopes and keys: 1 to 500 bytes of text. Values: 1 to 1,024 bytes."""

    async def record(self, scope: str, key: str, value: str, *, count: int = 1) -> Pattern:
        """Count `count` more occurrences of a value, and return the pattern with its new frequency."""
        ...

    async def record_transition(self, scope: str, key: str, from_value: str | None, to_value: str) -> Pattern:
        """Count one more step from a value to another; None is a beginning without one (PRO-04)."""
        ...

    async def get(self, scope: str, key: str, value: str) -> Pattern | None:
        """Return a pattern, or None when it was never seen."""
        ...

    async def frequency(self, scope: str, key: str, value: str) -> int:
        """Return how often a value was seen: 0 when never."""
        ...

    async def learned(
        self,
        *,
        scope: str | None = None,
        key: str | None = None,
        min_frequency: int = LEARNED_FROM,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Pattern]:
        """Return a page of the patterns seen at least `min_frequency` times; `key` needs a `scope`."""
        ...

    async def predict(self, scope: str, key: str, *, limit: int = 10) -> list[Prediction]:
        """Return the most frequent values of a key with their shares, most frequent first, then in byte order."""
        ...

    async def predict_next(self, scope: str, key: str, from_value: str | None, *, limit: int = 10) -> list[Prediction]:
        """Return where the transitions from a value led, as `predict` does; their values are the ends alone."""
        ...

    async def delete(self, scope: str, key: str, value: str) -> bool:
        """Forget one pattern, and say whether it was there."""
        ...

    async def forget(self, scope: str, key: str | None = None, *, limit: int = 1_000) -> int:
        """Forget at most `limit` patterns of a scope, or of one key in it, and return how many; call again while it is `limit`."""
        ...

    async def prune(self, *, before: datetime, below_frequency: int = LEARNED_FROM, limit: int = 1_000) -> int:
        """Forget at most `limit` patterns seen fewer than `below_frequency` times and last before an instant; return how many."""
        ...
