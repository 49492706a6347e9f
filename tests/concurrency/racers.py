"""What each of several racers does, in a thread or in a process of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from llmspell.blocking import BlockingTenant
from llmspell.errors import Conflict, VersionConflict

TRIES_MAX = 500
HOT = [f"hot content {number} ".encode() * 400 for number in range(3)]


def insisting(call: Callable[[], Any]) -> tuple[Any, int]:
    """Call again while another one was first; return what comes of it, and how often that was so."""
    for lost in range(TRIES_MAX):
        try:
            return call(), lost
        except VersionConflict:
            raise
        except Conflict as error:
            if not error.retryable:
                raise
    raise AssertionError(f"another was first {TRIES_MAX} times")


def put_and_delete(
    tenant: BlockingTenant, chance: random.Random, step: Callable[[], None], *, steps: int
) -> Counter[int]:
    """Put hot contents and delete them again; read each that is held. Return how often each is still held."""
    session = tenant.sessions.create().id
    held: list[tuple[int, str]] = []
    for _ in range(steps):
        if len(held) < 2 or chance.random() < 0.5:
            number = chance.randrange(len(HOT))
            made, _ = insisting(lambda number=number: tenant.artifacts.put(session, "hot", HOT[number]))
            held.append((number, made.id))
        else:
            number, id = held.pop(chance.randrange(len(held)))
            assert tenant.artifacts.read(id) == HOT[number], "a content that is held is there"
            gone, _ = insisting(lambda id=id: tenant.artifacts.delete(id))
            assert gone
        step()
    for _, id in held[2:]:
        tenant.artifacts.delete(id)
    return Counter(number for number, _ in held[:2])
