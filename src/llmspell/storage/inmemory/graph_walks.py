"""Walks over the facts that can be seen: what is reached, and by which chains. Pure.

Rule: a walk looks at no more than `VISITED_MAX` entities or chains, whatever the shape of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from llmspell.storage.contracts.graph import VISITED_MAX, Entity, Fact, Path, Reached


def _steps(fact: Fact) -> tuple[tuple[UUID, UUID, str], ...]:
    """Return the ways in which a fact can be walked: from, to, the name of where that is."""
    return (
        (fact.subject_id, fact.object_id, fact.object),
        (fact.object_id, fact.subject_id, fact.subject),
    )


def reach(origin: UUID, facts: Sequence[Fact], max_depth: int) -> list[Reached]:
    """Return what lies within `max_depth` steps: nearest first, then by name; each by the first of its shortest chains."""
    known: dict[UUID, tuple[Fact, ...]] = {origin: ()}
    reached: list[Reached] = []
    frontier = {origin}
    for depth in range(1, max_depth + 1):
        layer: dict[UUID, Reached] = {}
        for fact in facts:
            for here, there, name in _steps(fact):
                if here in frontier and there not in known and there not in layer:
                    layer[there] = Reached(entity_id=there, name=name, depth=depth, facts=(*known[here], fact))
        known |= {id: one.facts for id, one in layer.items()}
        reached += sorted(layer.values(), key=lambda one: one.name)
        frontier = set(layer)
        if len(known) >= VISITED_MAX:
            break
    return reached


def chains(origin: Entity, goal: Entity, facts: Sequence[Fact], max_depth: int) -> list[Path]:
    """Return the chains between two entities: shortest first, then by the names and the facts on the way."""
    found: list[Path] = []
    open_chains: list[tuple[tuple[UUID, ...], Path]] = [((origin.id,), Path(entities=(origin.name,), facts=()))]
    for _ in range(max_depth):
        longer: list[tuple[tuple[UUID, ...], Path]] = []
        for visited, chain in open_chains:
            for fact in facts:
                for here, there, name in _steps(fact):
                    if here == visited[-1] and there not in visited and len(longer) < VISITED_MAX:
                        grown = Path(entities=(*chain.entities, name), facts=(*chain.facts, fact))
                        longer.append(((*visited, there), grown))
        found += [chain for visited, chain in longer if visited[-1] == goal.id]
        open_chains = [(visited, chain) for visited, chain in longer if visited[-1] != goal.id]
    found.sort(key=lambda one: (len(one.facts), one.entities, [(fact.predicate, fact.id) for fact in one.facts]))
    return found
