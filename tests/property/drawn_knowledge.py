"""The verbs of memories and of the graph, as `drawn_verbs` has those of all other stems."""

from __future__ import annotations

from typing import Any

from tests.property.drawn_values import FIXED_IDS, NAMES, PREDICATES, Arguments, Draw, Drawn, Now, Ref, given

from llmspell.storage.contracts.graph import FactCorrection, NewFact
from llmspell.storage.contracts.memories import MEMORY_KINDS, MemoryChange, MemoryPosition, MemoryQuery, NewMemory
from llmspell.testing.contract import OTHER_SPACE, SPACE

ROLES = ["user", "assistant"]
SESSIONS = ["s1", "s2", "s3"]

# --- memories -------------------------------------------------------------------------------------------------------------


def _embeddings(d: Draw) -> tuple[Any, ...]:
    dimension = 768 if d.chance(0.03) else 384
    return tuple(d.vector(packed=True, dimension=dimension) for _ in range(d.number(1, 2)))


def _memory(d: Draw, *, embedded: bool) -> NewMemory:
    return NewMemory(
        id=d.pick(FIXED_IDS) if d.chance(0.15) else Ref("fresh", d.source.randrange(2**31)),  # type: ignore[arg-type]
        content=d.words(),
        session=d.pick([None, *SESSIONS]),
        role=d.pick([None, *ROLES]),
        kind=d.pick(MEMORY_KINDS),
        metadata=d.object(),
        at=d.near(),  # type: ignore[arg-type]
        token_count=d.pick([None, 3]),
        expires_at=d.maybe(lambda: Now(d.pick([1, 30, 600])), 0.2, None),
        embeddings=_embeddings(d) if embedded and d.chance(0.7) else (),
    )


def _add(d: Draw) -> Arguments:
    embedded = d.chance(0.5)
    return given(
        [_memory(d, embedded=embedded) for _ in range(d.number(1, 3))],
        space_id="space-a" if embedded else None,
        actor=d.actor(),
    )


def _update(d: Draw) -> Arguments:
    fields: dict[str, Any] = {}
    for name, value in (
        ("content", d.words),
        ("metadata", d.object),
        ("session", lambda: d.pick([None, *SESSIONS])),
        ("role", lambda: d.pick([None, *ROLES])),
        ("kind", lambda: d.pick(MEMORY_KINDS)),
        ("at", d.near),
        ("token_count", lambda: d.pick([None, 5])),
        ("embeddings", lambda: _embeddings(d)),
    ):
        if d.chance(0.25):
            fields[name] = value()
    space = "space-a" if "embeddings" in fields else ...
    return given(
        d.id("memory", fixed=0.1), MemoryChange(**fields), space_id=space, expected_version=d.version(), actor=d.actor()
    )


def _memory_filters(d: Draw) -> dict[str, Any]:
    if d.chance(0.5):
        return d.filters()
    return {
        d.pick(["session", "role", "kind"]): d.pick([*SESSIONS, *ROLES, "knowledge"]),
        **({"processed": d.chance(0.5)} if d.chance(0.2) else {}),
    }


def _query(d: Draw) -> Arguments:
    text = d.words() if d.chance(0.7) else None
    dense = text is None or d.chance(0.4)
    return given(
        MemoryQuery(
            text=text,
            embedding=d.vector(packed=True, dimension=384) if dense else None,
            space_id="space-a" if dense else None,
            candidates=d.number(1, 20),
            filters=d.maybe(lambda: _memory_filters(d), 0.3, None),
        )
    )


def _memory_list(d: Draw) -> Arguments:
    return given(
        filters=d.maybe(lambda: _memory_filters(d)),
        order=d.maybe(lambda: d.pick(["at", "created_at"])),
        descending=d.maybe(lambda: d.chance(0.5)),
        after=d.maybe(lambda: MemoryPosition(d.near(), d.pick(FIXED_IDS)), 0.2),  # type: ignore[arg-type]
        limit=d.maybe(d.limit),
    )


def _memory_ids(d: Draw) -> list[Any]:
    return [d.id("memory", fixed=0.15) for _ in range(d.number(0, 4))]


def _reasoned(d: Draw) -> Arguments:
    return given(d.id("memory", fixed=0.1), actor=d.actor(), reason=d.maybe(d.text))


MEMORIES: dict[str, Drawn] = {
    "ensure_space": lambda d: given(d.pick([SPACE, SPACE, SPACE, OTHER_SPACE])),
    "add": _add,
    "get": lambda d: given(d.id("memory", fixed=0.1)),
    "get_batch": lambda d: given(_memory_ids(d)),
    "update": _update,
    "delete": lambda d: given(d.id("memory", fixed=0.1), expected_version=d.version(), reason=d.maybe(d.text)),
    "restore": lambda d: given(
        Ref("deleted_memory", d.number(0, 2)) if d.chance(0.8) else d.id("memory"), actor=d.actor()
    ),
    "forget": _reasoned,
    "history": lambda d: given(d.id("memory", fixed=0.1)),
    "list": _memory_list,
    "list_paginated": lambda d: given(
        filters=d.maybe(lambda: _memory_filters(d)), limit=d.maybe(d.limit), offset=d.number(0, 3)
    ),
    "count": lambda d: given(filters=d.maybe(lambda: _memory_filters(d))),
    "search": _query,
    "adjacent": lambda d: given(_memory_ids(d), filters=d.maybe(lambda: _memory_filters(d), 0.2)),
    "pending": lambda d: given(space_id=d.maybe(lambda: d.pick(["space-a", "space-b"])), limit=d.maybe(d.limit)),
    "taken": lambda d: given(_memory_ids(d)),
    "attach_embeddings": lambda d: given(
        "space-a", [(d.id("memory", fixed=0.1), d.pick([1, 1, 2]), _embeddings(d)) for _ in range(d.number(0, 2))]
    ),
    "mark_embedding_failed": lambda d: given(_memory_ids(d), space_id=d.maybe(lambda: "space-b", 0.2)),
    "touch": lambda d: given(_memory_ids(d)),
    "mark_processed": lambda d: given(_memory_ids(d)),
    "unprocessed_sessions": lambda d: given(limit=d.maybe(d.limit)),
    "delete_before": lambda d: given(Now(d.pick([-86_400, -3_600, -600])), limit=d.limit()),
    "delete_expired": lambda d: given(limit=d.limit()),
}

# --- the graph ------------------------------------------------------------------------------------------------------------


def _dates(d: Draw) -> dict[str, Any]:
    start, end = sorted(d.source.sample([-86_400 * 30, -86_400, -60, -1, 0, 1, 60, 86_400], 2))
    return {
        "valid_from": d.maybe(lambda: Now(start)),
        "valid_to": d.maybe(lambda: Now(max(end, 1)), 0.3),
    }


def _known(d: Draw) -> dict[str, Any]:
    return {"as_of": d.maybe(d.near, 0.3), "known_at": d.maybe(d.near, 0.3)}


def _entity(d: Draw) -> Any:
    return d.pick(NAMES) if d.chance(0.7) else d.id("entity", fixed=0)


def _fact(d: Draw) -> Arguments:
    fact = NewFact(
        subject=d.pick(NAMES),
        predicate=d.pick(PREDICATES),
        object=d.pick(NAMES),
        properties=d.object() if d.chance(0.3) else {},
        confidence=d.pick([None, 0.5, 1]),
        subject_type=d.pick([None, "person"]),
        source=d.pick([None, "mail"]),
        actor=d.actor(),
        **{name: value for name, value in _dates(d).items() if value is not ...},
    )
    cardinality: Any = {"lives_in": "one", "knows": "many"}.get(fact.predicate, ...)
    return given(fact, cardinality=d.maybe(lambda: cardinality, 0.5))


def _correction(d: Draw) -> Arguments:
    fields = {name: value for name, value in _dates(d).items() if value is not ...}
    if d.chance(0.4):
        fields["object"] = d.pick(NAMES)
    if d.chance(0.3):
        fields["confidence"] = d.pick([None, 0.25])
    if d.chance(0.2):
        fields["valid_to"] = None
    return given(Ref("fact", d.number(0, 5)) if d.chance(0.9) else d.id("fact"), FactCorrection(**fields))


def _facts(d: Draw) -> Arguments:
    which = d.pick(["subject", "predicate", "object"])
    value = d.pick(PREDICATES if which == "predicate" else NAMES)
    return given(**{which: value}, **_known(d), any_time=d.maybe(lambda: d.chance(0.5), 0.2), limit=d.maybe(d.limit))


GRAPH: dict[str, Drawn] = {
    "declare": lambda d: given(d.pick(PREDICATES), d.pick(["one", "many"])),
    "predicates": lambda d: given(),
    "upsert_entity": lambda d: given(
        d.pick(NAMES),
        type=d.maybe(lambda: d.pick(["person", "city"])),
        properties=d.maybe(d.object),
        source=d.maybe(d.text, 0.2),
        actor=d.actor(),
        **_dates(d),
    ),
    "get_entity": lambda d: given(_entity(d), **_known(d)),
    "list_entities": lambda d: given(
        type=d.maybe(lambda: d.pick(["person", "entity"]), 0.3),
        after=d.maybe(lambda: d.pick(NAMES), 0.2),
        limit=d.maybe(d.limit),
        **_known(d),
    ),
    "delete_entity": lambda d: given(_entity(d), actor=d.actor()),
    "assert_fact": _fact,
    "retract": lambda d: given(
        d.pick(NAMES), d.pick(PREDICATES), d.maybe(lambda: d.pick(NAMES), 0.5, None), actor=d.actor(), **_dates(d)
    ),
    "correct": _correction,
    "facts": _facts,
    "neighbours": lambda d: given(
        _entity(d),
        predicate=d.maybe(lambda: d.pick(PREDICATES), 0.3),
        direction=d.maybe(lambda: d.pick(["out", "in", "both"])),
        limit=d.maybe(d.limit, 0.2),
        **_known(d),
    ),
    "traverse": lambda d: given(
        _entity(d), max_depth=d.maybe(lambda: d.number(1, 3)), limit=d.maybe(d.limit, 0.2), **_known(d)
    ),
    "paths": lambda d: given(_entity(d), _entity(d), max_depth=d.maybe(lambda: d.number(1, 3)), **_known(d)),
    "mentioned": lambda d: given([d.pick([*NAMES, "ADA", "bob"]) for _ in range(d.number(0, 3))], **_known(d)),
    "history": lambda d: given(Ref("fact", d.number(0, 5)) if d.chance(0.9) else d.id("fact")),
    "entity_history": lambda d: given(_entity(d)),
    "stats": lambda d: given(),
    "delete_before": lambda d: given(Now(d.pick([-86_400, -3_600, -600])), limit=d.limit()),
}
