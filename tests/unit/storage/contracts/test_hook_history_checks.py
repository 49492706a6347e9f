"""Contexts as they are kept: what comes back is what was given, and nothing that was forged is unpacked."""

from __future__ import annotations

import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmspell.errors import CorruptStore
from llmspell.storage.contracts.hook_history import CONTEXT_MAX_BYTES, RetentionPolicy
from llmspell.storage.contracts.hook_history_checks import pack_context, unpack_context

BOMB_BYTES = 256 * 1024 * 1024


@pytest.mark.parametrize(
    "context", [b"", b"x", b"x" * 10_000, {}, {"a": [1, 2.5, None]}, {"a": "b" * 10_000}], ids=repr
)
def test_a_context_survives_being_packed(context: Any) -> None:
    packed, size = pack_context(context)

    assert unpack_context(packed, size=size) == context
    assert len(packed) <= size + 1


def test_a_bomb_is_not_unpacked() -> None:
    bomb = b"B" + zlib.compress(bytes(BOMB_BYTES), 9)
    tracemalloc.start()

    for size in (10, CONTEXT_MAX_BYTES, BOMB_BYTES):
        with pytest.raises(CorruptStore):
            unpack_context(bomb, size=size)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * CONTEXT_MAX_BYTES


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (b"", 0),
        (b"?x", 1),
        (b"bxy", 1),
        (b"bx", 2),
        (b"B" + zlib.compress(b"x" * 300)[:-1], 300),
        (b"B" + zlib.compress(b"x" * 300) + b"more", 300),
        (b"B" + zlib.compress(b"x" * 300), 299),
        (b"B" + zlib.compress(b"x" * 300), 301),
        (b"Bnot zlib", 300),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_was_not_packed_so_is_refused(stored: bytes, size: int) -> None:
    with pytest.raises(CorruptStore):
        unpack_context(stored, size=size)


def test_a_policy_tells_when_an_execution_has_reached_its_age() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    assert RetentionPolicy().kept_until(at, 4) == at + timedelta(days=7)
    assert RetentionPolicy().kept_until(at, 5) == at + timedelta(days=14)
    assert RetentionPolicy().kept_until(datetime.max.replace(tzinfo=UTC), 5) == datetime.max.replace(tzinfo=UTC)
