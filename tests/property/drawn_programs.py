"""Random programs over every stem: which verb comes next, inside of which transaction, under which tenant.

Rule: a program is decided by its seed alone, and never by what became of its steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.property.drawn_values import (
    TENANTS,
    Advance,
    Block,
    Call,
    Content,
    Draw,
    Look,
    Restart,
    Step,
    TenantNumber,
    flat,
)
from tests.property.drawn_verbs import VERBS

from llmspell.gate import READS
from llmspell.testing.contract import SPACE

OFTEN = 7
SELDOM = {
    "kv": ["clear", "delete_batch"],
    "vectors": ["delete", "delete_scope"],
    "memories": ["delete_before", "delete_expired", "forget", "ensure_space", "mark_embedding_failed"],
    "graph": ["delete_entity", "delete_before", "declare", "predicates", "stats", "retract"],
    "procedures": ["forget", "prune"],
    "agent_state": ["delete"],
    "workflow_state": ["delete", "prune", "counts"],
    "sessions": ["delete", "delete_expired", "expire"],
    "artifacts": ["delete", "collect_garbage"],
    "event_log": ["prune"],
    "hook_history": ["delete", "prune", "apply_retention"],
    "api_keys": [],
    "access_keys": ["pepper", "expire"],
    "jobs": ["prune"],
    "idempotency": ["expire"],
    "tenants": ["set_status"],
}
MAKING = {
    "kv": ["set", "set_batch"],
    "vectors": ["insert"],
    "memories": ["add"],
    "graph": ["assert_fact", "upsert_entity"],
    "procedures": ["record", "record_transition"],
    "agent_state": ["save"],
    "workflow_state": ["create", "transition", "advance"],
    "sessions": ["create"],
    "artifacts": ["put"],
    "event_log": ["append", "append_many"],
    "hook_history": ["record"],
    "api_keys": ["set", "rotate"],
    "access_keys": ["add"],
    "jobs": ["enqueue"],
    "jobs_queue": ["lease"],
    "idempotency": ["claim"],
}
LARGE = {"memories": 3, "graph": 3, "artifacts": 3}
SMALL = ("vectors", "agent_state", "event_log", "hook_history", "audit", "tenants", "idempotency")
"""Stems that come more often than the others, and those that come less often: what they hold is soon there."""
IN_TRANSACTION_ONLY = ("claim", "record")
"""Of `idempotency`: they belong into a transaction."""
ONCE = (
    "kv",
    "jobs",
    "sessions",
    "procedures",
    "agent_state",
    "workflow_state",
    "audit",
    "event_log",
    "hook_history",
    "artifacts",
)
"""Concerns whose handle is the storage itself, so that their verbs are drawn alike under an idempotency key."""
BROKEN = 0.05
"""The share of calls with an argument that may not be accepted."""


def weight(stem: str, verb: str) -> int:
    """Return how often a verb comes, against the others of its stem."""
    return OFTEN if verb in MAKING.get(stem, ()) else 1 if verb in SELDOM.get(stem, ()) else 2


def draw_program(seed: int, length: int) -> list[Step]:
    """Return the program of a seed."""
    return [*_steps(Draw(random.Random(seed)), length), Look()]


def _steps(d: Draw, length: int) -> Iterator[Step]:
    calls = 0
    yield from _beginning()
    while calls < length:
        kind = d.source.random()
        tenant = d.number(0, TENANTS - 1)
        if kind < 0.08:
            yield Advance(d.pick([0, 0.000_001, 0.5, 1, 1, 2, 5, 31, 61, 700, 3_601, -1, -5, -0.000_001]))
        elif kind < 0.082:
            yield Restart()
        elif kind < 0.09:
            yield Look()
        elif kind < 0.15:
            block = _block(d, tenant, depth=2)
            calls += sum(isinstance(step, Call) for step in flat([block]))
            yield block
        elif kind < 0.154:
            suspended = [_suspension(d, tenant), *(_call(d, tenant) for _ in range(3)), _resumption(tenant)]
            calls += len(suspended)
            yield from suspended
        else:
            calls += 1
            call = _call(d, tenant, number=calls)
            yield call
            if call.via.startswith("once:") and d.chance(0.6):
                calls += 1
                yield call


def _beginning() -> Iterator[Step]:
    """What most of a program leans on: a space, and cardinalities."""
    for tenant in range(TENANTS):
        yield Call(tenant, "memories", "ensure_space", (SPACE,), {})
        yield Call(tenant, "graph", "declare", ("lives_in", "one"), {})


def _suspension(d: Draw, tenant: int) -> Call:
    return Call(
        tenant, "tenants", "set_status", (TenantNumber(tenant), "suspended"), {"reason": d.text()}, via="tenants"
    )


def _resumption(tenant: int) -> Call:
    return Call(tenant, "tenants", "set_status", (TenantNumber(tenant), "active"), {}, via="tenants")


def _block(d: Draw, tenant: int, *, depth: int) -> Block:
    steps: list[Step] = []
    for _ in range(d.number(1, 6)):
        if depth and d.chance(0.2):
            steps.append(_block(d, tenant, depth=depth - 1))
        elif d.chance(0.08):
            steps.append(Advance(d.pick([0, 0.000_001, 1, -1])))
        elif d.chance(0.1):
            steps.append(Call(tenant, "idempotency", "claim", *VERBS["idempotency"]["claim"](d)))
            steps.append(Call(tenant, "idempotency", "record", *((*steps[-1].args[:1], d.blob()), {})))  # type: ignore[union-attr]
        else:
            steps.append(_call(d, tenant, inside=True))
    return Block(tenant, steps, keep=d.chance(0.65))


def _call(d: Draw, tenant: int, *, inside: bool = False, number: int = 0) -> Call:
    stems = [stem for stem in VERBS if not inside or stem not in ("jobs_queue", "tenants")]
    (stem,) = d.source.choices(stems, [LARGE.get(stem, 1 if stem in SMALL else 2) for stem in stems])
    verbs = [verb for verb in VERBS[stem] if inside or stem != "idempotency" or verb not in IN_TRANSACTION_ONLY]
    (verb,) = d.source.choices(verbs, [weight(stem, verb) for verb in verbs])
    arguments = VERBS[stem][verb](d)
    if d.chance(BROKEN):
        arguments = d.broken(arguments)
    via, resume = _way(d, stem, verb, arguments, inside=inside, number=number)
    return Call(tenant, stem, verb, *arguments, via=via, resume=resume)


def _way(
    d: Draw, stem: str, verb: str, arguments: tuple[tuple[Any, ...], dict[str, Any]], *, inside: bool, number: int
) -> tuple[str, bool]:
    """Return through which handle a call goes, and whether it goes on where a page ended."""
    pages = (verb in ("list", "learned") and stem != "memories") or (stem, verb) == ("agent_state", "verify")
    if pages and d.chance(0.4):
        return ("tenants" if stem == "tenants" else "storage"), True
    if stem == "tenants":
        return "tenants", False
    if stem == "jobs_queue":
        return "queue", False
    if not inside and stem == "jobs" and d.chance(0.2):
        return d.pick(["queue.store", "queue.of"]), False
    if not inside and stem == "audit" and d.chance(0.2):
        return "tenants.audit", False
    repeatable = not any(isinstance(value, Content) and value.form != "bytes" for value in arguments[0])
    if not inside and stem in ONCE and verb not in READS and repeatable and d.chance(0.08):
        return f"once:{number - d.pick([0, 0, 0, 0, 1, 2])}", False  # some keys were used for another call
    return "storage", False
