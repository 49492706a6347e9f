"""Checks of what comes into the queue, the same on every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import parse_instant
from llmspell.codec import (
    decode_json,
    encode_json,
    require_json,
    require_key,
    require_limit,
    require_size,
    require_text,
)
from llmspell.errors import IllegalTransition, InvalidInput, InvalidLimit, InvalidMetadata
from llmspell.ids import parse_id
from llmspell.observe import redact
from llmspell.storage.contracts import jobs as contract
from llmspell.storage.contracts.jobs import JOB_STATES, Job, JobState, LeasedJob
from llmspell.tenant import STORE_TENANT, TenantId, tenant_id

NO_TEXT = "�"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A checked job that is not kept yet; `id` and `run_at` are None where the store chooses."""

    id: UUID | None
    kind: str
    payload: dict[str, Any]
    run_at: datetime | None
    priority: int
    max_attempts: int
    dedupe_key: str | None


def require_new(
    kind: object,
    payload: object,
    *,
    run_at: datetime | str | None,
    priority: object,
    max_attempts: object,
    dedupe_key: object,
    id: UUID | str | None,
) -> NewJob:
    """Return the arguments of `enqueue`, checked.

    Raises:
        InvalidInput: names the argument.
    """
    return NewJob(
        id=None if id is None else parse_id(id),
        kind=require_kind(kind),
        payload=require_object(payload, field="payload", max_bytes=contract.PAYLOAD_MAX_BYTES) or {},
        run_at=None if run_at is None else parse_instant(run_at, field="run_at"),
        priority=require_limit(
            priority, field="priority", maximum=contract.PRIORITY_MAX, minimum=-contract.PRIORITY_MAX
        ),
        max_attempts=require_limit(max_attempts, field="max_attempts", maximum=contract.ATTEMPTS_LIMIT_MAX),
        dedupe_key=None
        if dedupe_key is None
        else require_key(dedupe_key, field="dedupe_key", max_bytes=contract.DEDUPE_KEY_MAX_BYTES),
    )


def require_kind(value: object, *, field: str = "kind") -> str:
    """Return the kind of a job: a name of 1 to 128 bytes."""
    return require_key(value, field=field, max_bytes=contract.KIND_MAX_BYTES)


def require_kinds(values: Sequence[str] | None) -> list[str] | None:
    """Return the kinds that a worker serves, each once; None is any."""
    if values is None:
        return None
    require_size(values, field="kinds", maximum=contract.KINDS_MAX, minimum=1)
    return sorted({require_kind(value, field=f"kinds[{position}]") for position, value in enumerate(values)})


def require_tenants(values: Sequence[TenantId] | None) -> list[TenantId] | None:
    """Return the tenants to serve, each once, in byte order; None is all. The store's own jobs are served like a tenant's."""
    if values is None:
        return None
    require_size(values, field="tenants", maximum=contract.SERVED_MAX)
    return sorted({one if one == STORE_TENANT else tenant_id(one) for one in values})


def require_state(value: object) -> JobState | None:
    """Return a state to list by, or None for all."""
    if value is not None and value not in JOB_STATES:
        raise InvalidInput("state", f"must be one of {', '.join(JOB_STATES)}", given=value)
    return value


def require_object(value: object, *, field: str, max_bytes: int) -> dict[str, Any] | None:
    """Return a JSON object as a plain dict; None stays None.

    Raises:
        InvalidMetadata: it is none, holds what not every backend keeps, or is too long.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidMetadata(field, "must be an object", given=value)
    require_json(value, field=field)
    encoded = encode_json(value)
    size = len(encoded.encode())
    if size > max_bytes:
        raise InvalidMetadata(field, f"must be at most {max_bytes:,} bytes as JSON", given=size)
    decoded: dict[str, Any] = decode_json(encoded)
    return decoded


def require_worker(value: object) -> str:
    """Return the name of a worker."""
    return require_key(value, field="worker", max_bytes=contract.WORKER_MAX_BYTES)


def require_lease_s(value: object) -> float:
    """Return how long a lease lasts: above 0, at most a day."""
    return _seconds(value, field="lease_s", maximum=contract.LEASE_MAX_S, positive=True)


def require_delay(value: object) -> float:
    """Return how long a job waits before it may run: 0 seconds to a year."""
    return _seconds(value, field="delay_s", maximum=contract.DELAY_MAX_S, positive=False)


def _seconds(value: object, *, field: str, maximum: float, positive: bool) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= maximum or (positive and not value):  # type: ignore[operator]
        least = "above 0" if positive else "of at least 0"
        raise InvalidLimit(field, f"must be a number of seconds {least}, at most {maximum:,.0f}", given=value)
    return float(value)  # type: ignore[arg-type]


def require_progress(done: object, total: object, message: object) -> None:
    """Refuse a report of progress that says nothing.

    Raises:
        InvalidInput: a number is negative, `total` comes without `done`, or the message is too long.
    """
    for field, value in (("done", done), ("total", total)):
        if value is not None:
            require_limit(value, field=field, maximum=2**63 - 1, minimum=0)
    if total is not None and done is None:
        raise InvalidInput("total", "must come with `done`", given=total)
    if message is not None:
        require_text(message, field="message", max_characters=contract.MESSAGE_MAX_CHARACTERS)


def require_lease(value: object) -> LeasedJob:
    """Return a lease.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(value, LeasedJob):
        raise InvalidInput("lease", "must be a job that `lease` gave", given=type(value).__name__)
    return value


def error_text(value: object) -> str:
    """Return the text of an error as it is kept: secrets masked, shortened, and of characters that every store can keep."""
    text = redact(str(value)).replace("\0", NO_TEXT)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text[: contract.ERROR_MAX_CHARACTERS]


def error_class(value: object) -> str | None:
    """Return the class of an error as it is kept."""
    return None if value is None else require_key(value, field="error_class", max_bytes=contract.ERROR_CLASS_MAX_BYTES)


def cannot_be_put_back(job: Job) -> IllegalTransition:
    """Return the error of a job that is retried and is neither dead nor cancelled."""
    ended = job.state == "succeeded"
    return IllegalTransition(
        f"A job that {'has succeeded' if ended else f'is {job.state}'} cannot be put back into the queue.",
        id=str(job.id),
        hint="Enqueue a new one." if ended else "Let it take its course.",
    )
