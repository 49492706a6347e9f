"""Checks of what `Memories` takes, before anything is written; every backend calls the same ones.

Rule: a check is pure, raises an error of our tree that names the field, and returns nothing but checked values.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import replace

from llmspell.clock import parse_instant
from llmspell.codec import (
    DIMENSIONS,
    NAME_MAX_BYTES,
    pack_vector,
    require_key,
    require_limit,
    require_metadata,
    require_text,
    unpack_vector,
)
from llmspell.errors import InvalidInput, InvalidKey, InvalidVector, NotFound
from llmspell.storage.contracts.memories import (
    CANDIDATES_MAX,
    CONTENT_MAX_CHARACTERS,
    MEMORY_KINDS,
    QUERY_MAX_CHARACTERS,
    EmbeddingSpace,
    ListOrder,
    MemoryChange,
    MemoryPosition,
    MemoryQuery,
    NewMemory,
)
from llmspell.storage.contracts.vectors import FREE_SPACE

SPACE_ID_MAX_BYTES = 128
REASON_MAX_CHARACTERS = 2_000
COUNT_MAX = 2**31 - 1
"""The largest token count and version: they are 32-bit columns."""
_FREE_SPACES = frozenset(f"{FREE_SPACE}-{dimension}" for dimension in DIMENSIONS)
_FLOAT32_BYTES = array.array("f").itemsize


def require_space_id(value: object) -> str:
    """Return the id of an embedding space: a key of at most 128 bytes.

    Raises:
        InvalidKey: anything else.
    """
    return require_key(value, field="space_id", max_bytes=SPACE_ID_MAX_BYTES)


def require_space(space: EmbeddingSpace) -> EmbeddingSpace:
    """Check an embedding space.

    Raises:
        InvalidKey: `space_id` (also that of the free vectors of a dimension) or `model`.
        InvalidVector: `dimension` is not one that vectors may have.
    """
    if require_space_id(space.space_id) in _FREE_SPACES:
        raise InvalidKey("space_id", "is that of free vectors", given=space.space_id)
    require_key(space.model, field="model", max_bytes=NAME_MAX_BYTES)
    if isinstance(space.dimension, bool) or space.dimension not in DIMENSIONS:
        sizes = ", ".join(map(str, DIMENSIONS))
        raise InvalidVector("dimension", f"must be one of {sizes}", given=space.dimension)
    return space


def require_memory(memory: NewMemory, *, where: str, space_id: str | None) -> NewMemory:
    """Return a new memory with its instants in UTC. `where` names it in errors, such as "memories[3]".

    Raises:
        InvalidKey: session or role.
        InvalidText: content.
        InvalidInput: kind.
        InvalidMetadata, InvalidTime, InvalidLimit: metadata, instants, token count.
        InvalidVector: embeddings without a space.
    """
    fields = _fields(
        {
            "content": memory.content,
            "session": memory.session,
            "role": memory.role,
            "kind": memory.kind,
            "metadata": memory.metadata,
            "at": memory.at,
            "token_count": memory.token_count,
        },
        where=f"{where}.",
    )
    expires = None
    if memory.expires_at is not None:
        expires = parse_instant(memory.expires_at, field=f"{where}.expires_at")
    _require_space_given(memory.embeddings, space_id)
    return replace(memory, **fields, expires_at=expires)


def require_change(change: MemoryChange, *, space_id: str | None) -> dict[str, Any]:
    """Return the fields that an update replaces, checked as `require_memory` does."""
    names = ("content", "session", "role", "kind", "metadata", "at", "token_count")
    given = {name: value for name in names if (value := getattr(change, name)) is not UNSET}
    _require_space_given(change.embeddings, space_id)
    return _fields(given, where="")


def _fields(given: dict[str, Any], *, where: str) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in given.items():
        field = f"{where}{name}"
        if name == "content":
            checked[name] = require_text(value, field=field, max_characters=CONTENT_MAX_CHARACTERS, empty=False)
        elif name in ("session", "role"):
            checked[name] = None if value is None else require_key(value, field=field, max_bytes=NAME_MAX_BYTES)
        elif name == "kind":
            checked[name] = _require_one_of(value, MEMORY_KINDS, field=field)
        elif name == "metadata":
            checked[name] = require_metadata(value, field=field)
        elif name == "at":
            checked[name] = parse_instant(value, field=field)
        else:
            checked[name] = None if value is None else require_limit(value, field=field, maximum=COUNT_MAX, minimum=0)
    return checked


def _require_one_of(value: object, allowed: Sequence[str], *, field: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(field, f"must be one of {', '.join(allowed)}", given=value)
    return value


def _require_space_given(embeddings: Sequence[bytes], space_id: str | None) -> None:
    if space_id is not None:
        require_space_id(space_id)
    elif embeddings:
        raise InvalidVector("space_id", "is needed for memories that come with embeddings")


def require_packed(packed: object, *, field: str, dimension: int | None) -> bytes:
    """Return a packed float32 vector of the space's dimension.

    Raises:
        InvalidVector: not bytes, another size, NaN, infinite, zero.
    """
    if not isinstance(packed, (bytes, bytearray, memoryview)) or len(packed) % _FLOAT32_BYTES:
        raise InvalidVector(field, "must be packed float32", given=type(packed).__name__)
    return pack_vector(unpack_vector(bytes(packed)), field=field, dimension=dimension)


def require_author(actor: str | None, reason: str | None = None) -> None:
    """Check who does something, and why.

    Raises:
        InvalidKey: actor.
        InvalidText: reason.
    """
    if actor is not None:
        require_key(actor, field="actor", max_bytes=NAME_MAX_BYTES)
    if reason is not None:
        require_text(reason, field="reason", max_characters=REASON_MAX_CHARACTERS)


def require_expected(version: int | None) -> None:
    """Check an expected version.

    Raises:
        InvalidLimit: not a whole number from 1.
    """
    if version is not None:
        require_limit(version, field="expected_version", maximum=COUNT_MAX)


def require_time_left(expires_at: datetime | None, *, now: datetime, id: UUID) -> None:
    """Check that a memory which comes back would not have expired by now.

    Raises:
        NotFound: it would have.
    """
    if expires_at is not None and expires_at <= now:
        raise NotFound(
            "The memory would have expired by now.",
            id=id,
            expires_at=expires_at,
            hint="Its text is in the history: add it again, with another expiry.",
        )


def require_order(order: ListOrder) -> None:
    """Check the order of a list.

    Raises:
        InvalidInput: unknown.
    """
    _require_one_of(order, get_args(ListOrder), field="order")


def require_position(after: MemoryPosition | None) -> MemoryPosition | None:
    """Return the position that a page begins after, its instant in UTC.

    Raises:
        InvalidInput: not a position.
        InvalidTime: its instant.
    """
    if after is None:
        return None
    if not isinstance(after, MemoryPosition) or not isinstance(after.id, UUID):
        raise InvalidInput("after", "must be a position", given=after)
    instant: datetime = parse_instant(after.instant, field="after")
    return MemoryPosition(instant, after.id)


def require_query(query: MemoryQuery) -> None:
    """Check a search, but for its filter and the size of its embedding.

    Raises:
        InvalidText: the text.
        InvalidVector: an embedding without a space.
        InvalidLimit: the number of candidates.
    """
    if query.text is not None:
        require_text(query.text, field="text", max_characters=QUERY_MAX_CHARACTERS)
    _require_space_given(() if query.embedding is None else (query.embedding,), query.space_id)
    require_limit(query.candidates, field="candidates", maximum=CANDIDATES_MAX)
