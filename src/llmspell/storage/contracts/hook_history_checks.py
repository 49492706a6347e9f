"""Checks of what `HookHistory` takes, and the one form in which contexts are kept; every backend calls the same ones."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import msgspec

from llmspell.clock import Clock, optional_instant, parse_instant, require_period
from llmspell.codec import (
    decode_json,
    encode_json,
    require_flag,
    require_json,
    require_key,
    require_limit,
    require_metadata,
    require_size,
)
from llmspell.errors import AlreadyExists, CorruptStore, InvalidInput, InvalidLimit, InvalidMetadata
from llmspell.ids import IdSource, parse_id
from llmspell.storage.contracts.hook_history import (
    BATCH_MAX,
    BATCH_MAX_BYTES,
    COMPONENT_MAX_BYTES,
    CONTEXT_MAX_BYTES,
    DEFAULT_RETENTION,
    DURATION_MAX_MS,
    HOOK_ID_MAX_BYTES,
    HOOK_TYPE_MAX_BYTES,
    KEEP_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    RESULT_MAX_BYTES,
    TAG_MAX_BYTES,
    TAGS_MAX,
    HookExecution,
    HookResult,
    NewHookExecution,
    RetentionPolicy,
)

RESULTS = get_args(HookResult)
CHANGING = frozenset({"modified", "redirect", "replace", "cancel"})
UNCHANGED = "Executions are never changed: record it under another id, or under none."
CONTEXTS_LIMIT_MAX = 100
AGE_MAX_DAYS = 36_500
COMPRESSION_LEVEL = 6
COMPRESS_FROM_BYTES = 256
"""Below it a header costs more than compression saves."""
_BYTES, _JSON, _PACKED_BYTES, _PACKED_JSON = b"b", b"j", b"B", b"J"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """An execution with its context as it is kept."""

    record: HookExecution
    context: bytes


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which executions are asked for."""

    hook_id: str | None
    hook_type: str | None
    correlation_id: UUID | None
    since: datetime | None
    until: datetime | None

    def named(self) -> list[Any]:
        """Return what a cursor is bound to."""
        instants = [None if one is None else one.isoformat() for one in (self.since, self.until)]
        correlation = None if self.correlation_id is None else str(self.correlation_id)
        return [self.hook_id, self.hook_type, correlation, *instants]


def pack_context(value: object, *, field: str = "context") -> tuple[bytes, int]:
    """Return a context as it is kept, one byte that says how and then the rest, and its size before compression.

    Raises:
        InvalidInput: neither bytes nor an object, or more than 1 MiB.
        InvalidMetadata: an object that is not JSON.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw, plain, packed = bytes(value), _BYTES, _PACKED_BYTES
    elif isinstance(value, Mapping):
        require_json(value, field=field)
        raw, plain, packed = encode_json(value).encode(), _JSON, _PACKED_JSON
    else:
        raise InvalidInput(field, "must be an object or bytes", given=value)
    if len(raw) > CONTEXT_MAX_BYTES:
        raise InvalidInput(field, f"must be at most {CONTEXT_MAX_BYTES:,} bytes", given=len(raw))
    if len(raw) >= COMPRESS_FROM_BYTES:
        squeezed = zlib.compress(raw, COMPRESSION_LEVEL)
        if len(squeezed) < len(raw):
            return packed + squeezed, len(raw)
    return plain + raw, len(raw)


def unpack_context(stored: bytes, *, size: int) -> dict[str, Any] | bytes:
    """Return a context as it was given. No more than `size` bytes are ever unpacked.

    Raises:
        CorruptStore: it is not what `pack_context` made, or of another size.
    """
    kind, body = stored[:1], stored[1:]
    if kind in (_PACKED_BYTES, _PACKED_JSON) and size <= CONTEXT_MAX_BYTES:
        unpacking = zlib.decompressobj()
        try:
            # One byte more than is due: a body that goes on longer is seen, and not unpacked.
            body = unpacking.decompress(body, size + 1)
        except zlib.error as exc:
            raise CorruptStore("The context of a hook execution cannot be unpacked.") from exc
        if not unpacking.eof or unpacking.unused_data:
            raise CorruptStore("The context of a hook execution has another size than was recorded.", size=size)
    elif kind not in (_BYTES, _JSON):
        raise CorruptStore("The context of a hook execution is of an unknown kind.")
    if len(body) != size:
        raise CorruptStore("The context of a hook execution has another size than was recorded.", size=size)
    return dict(decode_json(body)) if kind in (_JSON, _PACKED_JSON) else body


def require_execution(new: NewHookExecution, *, clock: Clock, ids: IdSource, where: str = "") -> Stored:
    """Return an execution with everything filled in. `where` stands before the names of fields, such as `executions[3].`.

    Raises:
        InvalidInput: names the field.
    """
    if not isinstance(new, NewHookExecution):
        raise InvalidInput(where.rstrip(".") or "execution", "must be a NewHookExecution", given=new)
    id = ids.new() if new.id is None else parse_id(new.id, field=f"{where}id")
    now = clock.now()
    context, size = pack_context(new.context, field=f"{where}context")
    result, data = _result(new.result, new.result_data, where=where)
    correlation = new.correlation_id
    modified = result in CHANGING if new.modified_operation is None else new.modified_operation
    record = HookExecution(
        id=id,
        hook_id=require_key(new.hook_id, field=f"{where}hook_id", max_bytes=HOOK_ID_MAX_BYTES),
        hook_type=require_key(new.hook_type, field=f"{where}hook_type", max_bytes=HOOK_TYPE_MAX_BYTES),
        correlation_id=id if correlation is None else parse_id(correlation, field=f"{where}correlation_id"),
        at=now if new.at is None else parse_instant(new.at, field=f"{where}at"),
        duration_ms=require_limit(new.duration_ms, field=f"{where}duration_ms", minimum=0, maximum=DURATION_MAX_MS),
        triggering_component=_component(new.triggering_component, field=f"{where}triggering_component"),
        component_id=None if new.component_id is None else _component(new.component_id, field=f"{where}component_id"),
        context=unpack_context(context, size=size),
        context_size_bytes=size,
        result=result,
        result_data=data,
        modified_operation=require_flag(modified, field=f"{where}modified_operation"),
        tags=_tags(new.tags, field=f"{where}tags"),
        retention_priority=require_priority(new.retention_priority, field=f"{where}retention_priority"),
        contains_sensitive_data=require_flag(new.contains_sensitive_data, field=f"{where}contains_sensitive_data"),
        metadata=require_metadata(new.metadata, field=f"{where}metadata"),
        created_at=now,
    )
    return Stored(record=record, context=context)


def require_executions(executions: Sequence[NewHookExecution], *, clock: Clock, ids: IdSource) -> list[Stored]:
    """Return the executions of a batch, in order.

    Raises:
        InvalidInput: names the position and the field.
        InvalidLimit: too many, or too large together.
        AlreadyExists: two have the same id.
    """
    require_size(executions, field="executions", maximum=BATCH_MAX)
    checked, size = [], 0
    for position, new in enumerate(executions):
        one = require_execution(new, clock=clock, ids=ids, where=f"executions[{position}].")
        size += one.record.context_size_bytes + len(encode_json(one.record.result_data))
        if size > BATCH_MAX_BYTES:
            raise InvalidLimit("executions", f"must be at most {BATCH_MAX_BYTES:,} bytes together", given=size)
        checked.append(one)
    if len({one.record.id for one in checked}) < len(checked):
        raise AlreadyExists("Two executions of the batch have the same id.", hint=UNCHANGED)
    return checked


def taken(id: UUID) -> AlreadyExists:
    """Return the error of an execution that is there already."""
    return AlreadyExists("There is a hook execution of this id.", id=str(id), hint=UNCHANGED)


def require_selection(
    *,
    hook_id: str | None = None,
    hook_type: str | None = None,
    correlation_id: UUID | str | None = None,
    since: datetime | date | str | None = None,
    until: datetime | date | str | None = None,
) -> Selection:
    """Return which executions are asked for.

    Raises:
        InvalidInput: names the field.
    """
    start, end = optional_instant(since, field="since"), optional_instant(until, field="until")
    require_period(start, end, fields=("since", "until"))
    return Selection(
        hook_id=None if hook_id is None else require_key(hook_id, field="hook_id", max_bytes=HOOK_ID_MAX_BYTES),
        hook_type=None
        if hook_type is None
        else require_key(hook_type, field="hook_type", max_bytes=HOOK_TYPE_MAX_BYTES),
        correlation_id=None if correlation_id is None else parse_id(correlation_id, field="correlation_id"),
        since=start,
        until=end,
    )


def require_page(limit: int, *, include_context: bool) -> int:
    """Return the size of a page: at most 1,000, and 100 with contexts.

    Raises:
        InvalidLimit: anything else; `InvalidInput`: the flag is none.
    """
    require_flag(include_context, field="include_context")
    return require_limit(limit, maximum=CONTEXTS_LIMIT_MAX) if include_context else require_limit(limit)


def require_priority(value: object, *, field: str) -> int:
    """Return a retention priority: a whole number of 32 bits.

    Raises:
        InvalidLimit: anything else.
    """
    return require_limit(value, field=field, minimum=PRIORITY_MIN, maximum=PRIORITY_MAX)


def require_policy(policy: RetentionPolicy | None) -> RetentionPolicy:
    """Return a policy that can be applied; without one the default.

    Raises:
        InvalidInput: names the field.
    """
    if policy is None:
        return DEFAULT_RETENTION
    if not isinstance(policy, RetentionPolicy):
        raise InvalidInput("policy", "must be a RetentionPolicy", given=policy)
    for name in ("max_age_days", "priority_extra_days"):
        days = getattr(policy, name)
        if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 <= days <= AGE_MAX_DAYS:
            raise InvalidLimit(f"policy.{name}", f"must be a number of days from 0 to {AGE_MAX_DAYS:,}", given=days)
    require_limit(policy.executions_min, field="policy.executions_min", minimum=0, maximum=KEEP_MAX)
    require_priority(policy.priority_threshold, field="policy.priority_threshold")
    return policy


def aged_before(now: datetime, days: float) -> datetime:
    """Return the instant before which everything is older than so many days."""
    try:
        return now - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=now.tzinfo)


def _component(value: object, *, field: str) -> str:
    return require_key(value, field=field, max_bytes=COMPONENT_MAX_BYTES)


def _tags(value: object, *, field: str) -> list[str]:
    if not isinstance(value, Sequence):
        raise InvalidInput(field, "must be a list of texts", given=value)
    require_size(value, field=field, maximum=TAGS_MAX)
    return [require_key(tag, field=f"{field}[{place}]", max_bytes=TAG_MAX_BYTES) for place, tag in enumerate(value)]


def _result(result: object, data: object, *, where: str) -> tuple[HookResult, dict[str, Any]]:
    """Check a result with what belongs to it: nine kinds, of which two have members that must be there (C6)."""
    field = f"{where}result_data"
    if not isinstance(result, str) or result not in RESULTS:
        raise InvalidInput(f"{where}result", f"must be one of {', '.join(RESULTS)}", given=result)
    if data is not None and not isinstance(data, Mapping):
        raise InvalidMetadata(field, "must be an object", given=data)
    members = {} if data is None else data
    require_json(members, field=field)
    if result == "retry":
        require_limit(members.get("delay_ms"), field=f"{field}.delay_ms", minimum=0, maximum=DURATION_MAX_MS)
        require_limit(members.get("max_attempts"), field=f"{field}.max_attempts", maximum=DURATION_MAX_MS)
    if result == "cache":
        require_key(members.get("key"), field=f"{field}.key")
        ttl_s = members.get("ttl_s")
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)) or not 0 < ttl_s < math.inf:
            raise InvalidLimit(f"{field}.ttl_s", "must be a positive number of seconds", given=ttl_s)
    encoded = encode_json(members)
    size = len(encoded.encode())
    if size > RESULT_MAX_BYTES:
        raise InvalidMetadata(field, f"must be at most {RESULT_MAX_BYTES:,} bytes as JSON", given=size)
    return result, dict(decode_json(encoded))  # type: ignore[return-value]
