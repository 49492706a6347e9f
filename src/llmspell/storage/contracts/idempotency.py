"""Idempotency keys: a mutation that is sent twice under one key has one effect, and both get the same answer.

Not here: what a call is made into a fingerprint from, and who repeats it (`once`).

Rule 1: a key is claimed and its result recorded in the transaction that has the effect: both are there, or neither.
Rule 2: of two transactions that claim one key at once, the second waits for the first, and then finds its result or a `Conflict`.
Rule 3: a key is forgotten after its time, by the injected clock, before it is deleted.
"""

from __future__ import annotations

from typing import Protocol

from llmspell.codec import require_key, require_limit
from llmspell.errors import IdempotencyConflict, InvalidInput

IDEMPOTENCY_KEY_MAX_BYTES = 255
OPERATION_MAX_BYTES = 255
FINGERPRINT_BYTES = 32
RESULT_MAX_BYTES = 4 * 1024 * 1024
TTL_S = 86_400.0
"""A day, as the draft of the HTTP field Idempotency-Key and the APIs that have it do."""
EXPIRE_MAX = 10_000


class Idempotency(Protocol):
    """A tenant's idempotency keys. Keys: 1 to 255 bytes of text. `claim` and `record` belong into a transaction."""

    async def find(self, key: str, *, operation: str, fingerprint: bytes) -> bytes | None:
        """Return the recorded result of a key, or None when it is unused or forgotten.

        Raises:
            IdempotencyConflict: the key was used for another operation or with other arguments.
        """
        ...

    async def claim(self, key: str, *, operation: str, fingerprint: bytes, ttl_s: float = TTL_S) -> bytes | None:
        """Take a key for the transaction under way, and return None; or return the result that is recorded for it.

        Raises:
            IdempotencyConflict: the key was used for another operation or with other arguments, or claimed without a result.
            Conflict: another transaction took it at the same moment; begin again.
        """
        ...

    async def record(self, key: str, result: bytes) -> None:
        """Keep the result of a key that this transaction has claimed; at most 4 MiB.

        Raises:
            NotFound: it was not claimed.
        """
        ...

    async def expire(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` forgotten keys, and return how many; call again while it returns `limit`."""
        ...


def require_idempotency_key(value: object, *, field: str = "idempotency_key") -> str:
    """Return `value` when it can be an idempotency key.

    Raises:
        InvalidKey: not text of 1 to 255 bytes.
    """
    return require_key(value, field=field, max_bytes=IDEMPOTENCY_KEY_MAX_BYTES)


def require_operation(value: object, fingerprint: object) -> tuple[str, bytes]:
    """Return the operation and the fingerprint when they can be recorded.

    Raises:
        InvalidInput: names the argument.
    """
    operation = require_key(value, field="operation", max_bytes=OPERATION_MAX_BYTES)
    if not isinstance(fingerprint, bytes) or len(fingerprint) != FINGERPRINT_BYTES:
        raise InvalidInput("fingerprint", f"must be {FINGERPRINT_BYTES} bytes")
    return operation, fingerprint


def require_result(result: object) -> bytes:
    """Return a result when it can be recorded.

    Raises:
        InvalidInput: not bytes, or more than 4 MiB.
    """
    if not isinstance(result, bytes):
        raise InvalidInput("result", "must be bytes", given=type(result).__name__)
    if len(result) > RESULT_MAX_BYTES:
        raise InvalidInput(
            "result",
            f"must be at most {RESULT_MAX_BYTES:,} bytes to be recorded under an idempotency key",
            given=len(result),
            hint="Write in smaller batches, each under a key of its own.",
        )
    return result


def require_recorded(key: str, result: bytes | None) -> bytes:
    """Return the result of a key that was claimed before.

    Raises:
        IdempotencyConflict: there is none; whoever claimed it had its effect, and did not say which.
    """
    if result is None:
        raise IdempotencyConflict("The idempotency key was claimed, and no result was recorded.", idempotency_key=key)
    return result


def require_expire_limit(limit: object) -> int:
    """Return how many keys one call may delete.

    Raises:
        InvalidLimit: not from 1 to 10,000.
    """
    return require_limit(limit, maximum=EXPIRE_MAX)
