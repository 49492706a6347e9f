"""Walks over a graph, breadth first: what is reached, and by which chains of facts.

Each step asks for the facts that touch a whole frontier, so a walk costs as many queries as it is deep.

Rule: a walk looks at no more than `VISITED_MAX` entities, whatever the shape of the graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from llmspell.storage.contracts.graph import VISITED_MAX, Fact, Path, Reached

Touching: TypeAlias = "Callable[[Sequence[UUID]], Awaitable[list[Fact]]]"
"""Gives the facts that touch any of the entities, in the order of `neighbours`."""


def other_end(fact: Fact, entity: UUID) -> tuple[UUID, str]:
    """Return the id and the name of the end of a fact that is not `entity` (or `entity` itself for a loop)."""
    return (fact.object_id, fact.object) if fact.subject_id == entity else (fact.subject_id, fact.subject)


async def traverse(start: UUID, touching: Touching, *, max_depth: int, limit: int) -> list[Reached]:
    """Return entities by distance, then by name; each by the first of its shortest chains."""
    chains: dict[UUID, tuple[Fact, ...]] = {start: ()}
    reached: list[Reached] = []
    frontier = [start]
    for depth in range(1, max_depth + 1):
        if not frontier or len(reached) >= limit or len(chains) >= VISITED_MAX:
            break
        layer: dict[UUID, Reached] = {}
        facts = await touching(frontier)
        inside = set(frontier)
        for fact in facts:
            for here in (fact.subject_id, fact.object_id):
                there, name = other_end(fact, here)
                if here in inside and there not in chains and there not in layer:
                    layer[there] = Reached(entity_id=there, name=name, depth=depth, facts=(*chains[here], fact))
        for item in layer.values():
            chains[item.entity_id] = item.facts
        reached += sorted(layer.values(), key=lambda item: item.name)
        frontier = list(layer)
    return reached[:limit]


async def paths(start: tuple[UUID, str], end: UUID, touching: Touching, *, max_depth: int, limit: int) -> list[Path]:
    """Return chains from one entity to another, shortest first, then by the names and facts on the way."""
    adjacent = await _neighbourhood(start[0], end, touching, max_depth=max_depth)
    found: list[Path] = []
    queue: deque[tuple[UUID, tuple[UUID, ...], tuple[str, ...], tuple[Fact, ...]]] = deque()
    queue.append((start[0], (start[0],), (start[1],), ()))
    steps = 0
    while queue and steps < VISITED_MAX:
        steps += 1
        here, visited, names, facts = queue.popleft()
        if len(found) >= limit and len(facts) >= len(found[-1].facts):
            break  # what follows is longer than everything found
        for fact in adjacent.get(here, ()):
            there, name = other_end(fact, here)
            if there in visited:
                continue
            if there == end:
                found.append(Path(entities=(*names, name), facts=(*facts, fact)))
            elif len(facts) + 1 < max_depth:
                queue.append((there, (*visited, there), (*names, name), (*facts, fact)))
    found.sort(key=lambda path: (len(path.facts), path.entities, [(fact.predicate, fact.id) for fact in path.facts]))
    return found[:limit]


async def _neighbourhood(start: UUID, end: UUID, touching: Touching, *, max_depth: int) -> dict[UUID, list[Fact]]:
    """Return the facts at the entities between both ends: half of the way is asked from each side."""
    adjacent: dict[UUID, dict[tuple[UUID, datetime], Fact]] = {}
    expanded: set[UUID] = set()
    for origin, steps in ((start, (max_depth + 1) // 2), (end, max_depth // 2)):
        frontier = [origin]
        for _ in range(steps):
            asked = [entity for entity in frontier if entity not in expanded]
            if not asked or len(expanded) >= VISITED_MAX:
                break
            expanded.update(asked)
            following: dict[UUID, None] = {}
            for fact in await touching(asked):
                for here in (fact.subject_id, fact.object_id):
                    adjacent.setdefault(here, {})[fact.id, fact.valid_from] = fact
                    following.setdefault(here)
            frontier = list(following)
    return {entity: list(facts.values()) for entity, facts in adjacent.items()}
