"""When a unit of work is begun again, how long to wait before, and what its call ends with.

Rule 1: only what had no effect is repeated: a conflict, also one of locks. An unknown outcome is repeated under an idempotency key.
A version that was expected and is not there was read before the unit of work, so a repetition would meet the same one.
Rule 2: once an outcome is unknown it stays so until a later try finds it out by the key; what fails before says nothing of it.
Rule 3: tries are bounded in number and in time, and pauses are random, so that those who met once do not meet again at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from random import SystemRandom
from typing import TypeVar

from llmspell.codec import require_limit
from llmspell.errors import Conflict, IdempotencyConflict, LlmspellError, VersionConflict

ATTEMPTS_MAX = 1_000
REPEAT_FOR_S = 30.0
"""No try begins later than this after the first one failed. One that waits for a lock in vain, as long, is thus repeated once."""
PAUSE_FIRST_S = 0.005
PAUSE_MAX_S = 0.5
"""Measured with eight workers on three hot rows: of 1,200 units of work the slowest took 33 tries. With 0.1 s that was 54, with
0.03 s 129: who does not step aside for long enough is in the way of the others."""

_random = SystemRandom()
T = TypeVar("T")


def pauses(attempts: int, *, uniform: Callable[[float, float], float] = _random.uniform) -> Iterator[float]:
    """Return how many seconds to wait after each try but the last: up to twice as many each time.

    "Full jitter": a pause is any length up to its limit (Brooker, Exponential Backoff and Jitter, AWS 2015).

    Raises:
        InvalidLimit: `attempts` is not from 1 to 1,000.
    """
    return _pauses(require_limit(attempts, field="attempts", maximum=ATTEMPTS_MAX), uniform)


def _pauses(attempts: int, uniform: Callable[[float, float], float]) -> Iterator[float]:
    limit = PAUSE_FIRST_S
    for _ in range(attempts - 1):
        yield uniform(0.0, limit)
        limit = min(PAUSE_MAX_S, 2 * limit)


def may_repeat(error: LlmspellError, *, keyed: bool) -> bool:
    """Say whether a whole unit of work may be run again after `error`; `keyed`: it runs under an idempotency key."""
    conflict = isinstance(error, Conflict) and error.retryable and not isinstance(error, VersionConflict)
    return conflict or (keyed and error.outcome == "unknown")


class Tries:
    """The tries of one call: it is told what becomes of each, and decides how the call goes on."""

    def __init__(
        self,
        attempts: int,
        *,
        keyed: bool,
        monotonic: Callable[[], float],
        uniform: Callable[[float, float], float] = _random.uniform,
    ) -> None:
        """`keyed`: each try claims the idempotency key of the call before it has an effect.

        Raises:
            InvalidLimit: `attempts` is not from 1 to 1,000.
        """
        self._pauses = pauses(attempts, uniform=uniform)
        self._keyed = keyed
        self._monotonic = monotonic
        self._until: float | None = None
        self._failed = 0
        self._unknown: LlmspellError | None = None

    def key_was_free(self) -> None:
        """Note that this try has claimed the key: no try before it had an effect, whatever its answer would have been."""
        self._unknown = None

    def failed(self, error: LlmspellError) -> float:
        """Return how long to wait before the next try, or raise what the call ends with."""
        now = self._monotonic()
        self._failed += 1
        self._until = now + REPEAT_FOR_S if self._until is None else self._until
        if error.outcome == "unknown":
            self._unknown = error
        elif isinstance(error, IdempotencyConflict):
            self._unknown = None  # the key is that of another call, which it would not be had this one had its effect
        if may_repeat(error, keyed=self._keyed):
            pause_s = next(self._pauses, None)
            if pause_s is not None and now + pause_s <= self._until:
                return pause_s
            error.add_note(f"It was given up at try {self._failed}.")
        if self._unknown is not None and self._unknown is not error:
            raise self._unknown from error
        raise error


async def repeated(once: Callable[[], Awaitable[T]], tries: Tries) -> T:
    """Await `once()`, again from the beginning as `tries` decides, which it tells when it has claimed a key."""
    while True:
        try:
            return await once()
        except LlmspellError as error:
            pause_s = tries.failed(error)
        await asyncio.sleep(pause_s)
