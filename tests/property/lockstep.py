"""Runs a program on several stores at once, step by step, and compares what each says with what the oracle says.

Rule 1: everything a call returns is compared, with the type of each number; of an error its class, code, message and fields.
Rule 2: what a store makes by itself (ids, hashes over them, keys that it keeps secret) may differ from store to store, but is
the same thing everywhere: a bijection is kept over the whole run, so that one id never stands for two, nor two for one.
Rule 3: nothing but errors of llmspell may come out of a call.
Rule 4: whatever can be read of what steps have touched, by tenant and stem, is compared every so many calls, after each block and
savepoint that was undone, and at the end; after a restart everything.
"""

from __future__ import annotations

import asyncio
import io
import re
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from tests.property.drawn_values import (
    EXTRA_TENANTS,
    TENANTS,
    UNKNOWN,
    Advance,
    Block,
    Call,
    Content,
    Look,
    Now,
    Ref,
    Restart,
    Step,
    TenantNumber,
    Vector,
    flat,
)
from tests.property.observation import ALSO, EVERYTHING, Notes, observed, observed_inside

from llmspell.clock import ManualClock
from llmspell.errors import InvalidCursor, LlmspellError, QuotaExceeded
from llmspell.spell import Spell
from llmspell.storage.contracts.backend import Storages

ORACLE = "memory"
LOOK_EVERY = 50
"""Calls."""
KEPT = 8
"""How many of what steps made can be referred to, by kind and tenant."""
OPAQUE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}")
PLAIN = frozenset({int, float, bool, type(None), datetime})
Reopen = Callable[[str, Spell], Awaitable[Spell]]


class Undo(Exception):
    """Leaves a block that is not to be kept."""


class Diverged(AssertionError):
    """A store said something else than the oracle, or something that nobody may say."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of a call: a result, or an error as it is compared."""

    result: Any = None
    error: tuple[Any, ...] | None = None


class Lockstep:
    """One run of a program."""

    def __init__(self, spells: dict[str, Spell], clock: ManualClock, reopen: Reopen, *, label: str = "t") -> None:
        self.spells = spells
        self.clock = clock
        self.tenants = [f"{label}{number}" for number in range(TENANTS + EXTRA_TENANTS)]
        self.ok: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.calls = self.looks = self.compared = self.restarts = self.rolled_back = self.savepoints = 0
        self.looked_at = -1
        """How many calls there had been at the last look."""
        self.touched: dict[str, set[str]] = {}
        """The tenants of the calls since then, and their stems."""
        self.position = 0
        self._reopen = reopen
        self._made: dict[tuple[int, str], list[dict[str, Any]]] = {}
        self._pages: dict[tuple[str, str], tuple[Call, dict[str, str]]] = {}
        self._twins: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = {name: ({}, {}) for name in spells}

    async def run(self, steps: Sequence[Step]) -> None:
        """Take all steps.

        Raises:
            Diverged: names the step; `position` is its place.
        """
        for name in self.tenants[:TENANTS]:
            for spell in self.spells.values():
                await spell._backend.tenants.create(name)  # type: ignore[arg-type]
        for self.position, step in enumerate(steps):
            await self._step(step, None)
            if self.calls - self.looked_at >= LOOK_EVERY:
                await self._look(self.touched)
        if self.calls > self.looked_at:
            await self._look(self.touched)

    async def _step(self, step: Step, inside: dict[str, Any] | None) -> None:
        match step:
            case Advance(seconds):
                self.clock.advance(seconds=seconds)
            case Restart():
                self.restarts += 1
                for name in self.spells:
                    self.spells[name] = await self._reopen(name, self.spells[name])
                await self._look(dict.fromkeys(self.tenants, EVERYTHING))
            case Look():
                await self._look(dict.fromkeys(self.tenants, EVERYTHING))
            case Block():
                await self._block(step, inside)
            case Call():
                await self._call(step, inside)

    # --- transactions -----------------------------------------------------------------------------------------------------

    async def _block(self, block: Block, inside: dict[str, Any] | None) -> None:
        """Open a transaction on every store, or a savepoint in each one's transaction, and take the steps of the block in it."""
        outcomes = {name: Outcome() for name in self.spells}
        try:
            async with AsyncExitStack() as stack:
                bound: dict[str, Any] = {}
                for name, spell in self.spells.items():
                    if inside is not None:
                        await stack.enter_async_context(inside[name].savepoint())
                        bound[name] = inside[name]
                        continue
                    try:
                        handle = spell.tenant(self.tenants[block.tenant])
                        bound[name] = await stack.enter_async_context(handle.transaction())
                    except LlmspellError as error:
                        outcomes[name] = Outcome(error=described(error))
                self._compare(block, outcomes)
                if len(bound) == len(self.spells):
                    for step in block.steps:
                        await self._step(step, bound)
                if not block.keep:
                    raise Undo
        except Undo:
            self.rolled_back += 1
            await self._look_behind(block, inside)
        except LlmspellError as error:
            raise Diverged(f"{block!r}\nended with {error!r}") from error
        self.savepoints += inside is not None

    # --- calls ------------------------------------------------------------------------------------------------------------

    async def _call(self, call: Call, inside: dict[str, Any] | None) -> None:
        cursors: dict[str, str] = {}
        if call.resume and (call.stem, call.verb) in self._pages:
            earlier, cursors = self._pages[call.stem, call.verb]
            foreign = call.tenant != earlier.tenant and call.stem != "tenants" and self.position % 3 == 0
            call = earlier._replace(tenant=call.tenant if foreign or inside is not None else earlier.tenant)
        now = self.clock.now()

        resolved: dict[str, tuple[Any, ...]] = {}

        async def on(name: str) -> Outcome:
            args, kwargs = self.resolved((call.args, call.kwargs), name, call.tenant, now)
            resolved[name] = args
            if cursors:
                kwargs["cursor"] = cursors[name]
            try:
                method = self._method(call, name, inside)
                return Outcome(await perform(method, args, kwargs))
            except LlmspellError as error:
                return Outcome(error=described(error))
            except Exception as error:  # whatever it is, it is what this looks for
                raise Diverged(f"{name}: {call!r}\nraised {error!r}, which is no error of llmspell") from error

        outcomes = {ORACLE: await on(ORACLE)}
        others = [name for name in self.spells if name != ORACLE]
        outcomes |= dict(zip(others, await asyncio.gather(*map(on, others)), strict=True))
        if call.via == "tenants":
            for spell in self.spells.values():
                for tenant in self.tenants:
                    spell._changed(tenant)  # type: ignore[arg-type]
        self.calls += 1
        for number in tenants_of(call):
            self.touched.setdefault(self.tenants[number], set()).update((call.stem, *ALSO.get(call.stem, ())))
        self._compare(call, outcomes)
        verb = f"{call.stem}.{call.verb}"
        oracle = outcomes[ORACLE]
        if oracle.error is not None:
            self.refused[oracle.error[0]] += 1
            return
        self.ok[verb] += 1
        if call.via.startswith("once:"):
            self.ok["once"] += 1
        self.told[verb] += bool(oracle.result)
        self._remember(call, {name: outcome.result for name, outcome in outcomes.items()}, resolved)

    def _method(self, call: Call, name: str, inside: dict[str, Any] | None) -> Callable[..., Any]:
        spell, tenant = self.spells[name], self.tenants[call.tenant]
        backend = spell._backend
        match call.via.partition(":"):
            case ("tenants", _, _):
                owner: Any = backend.tenants
            case ("tenants.audit", _, _):
                owner = backend.tenants.audit(tenant)  # type: ignore[arg-type]
            case ("queue", _, _):
                owner = backend.job_queue
            case ("queue.store", _, _):
                owner = backend.job_queue.store
            case ("queue.of", _, _):
                owner = backend.job_queue.of(tenant)  # type: ignore[arg-type]
            case ("once", _, key):
                owner = getattr(spell.tenant(tenant).once(f"once-{key}"), call.stem)
            case _:
                storages: Storages = (spell.tenant(tenant) if inside is None else inside[name])._storages
                owner = getattr(storages, call.stem)
        return getattr(owner, call.verb)  # type: ignore[no-any-return]

    def resolved(self, value: Any, name: str, tenant: int, now: datetime) -> Any:
        """Return a value with each reference replaced by what it means on a store."""
        match value:
            case Ref("fresh", number, _):
                return UUID(int=UNKNOWN.int ^ (number << 20 | 1 << 60))
            case Ref(kind, back, foreign):
                made = self._made.get(((tenant + foreign) % TENANTS, kind), [])
                if not made:
                    return f"{UNKNOWN}:1:{'0' * 64}" if kind == "artifact" else UNKNOWN
                return made[-1 - back % len(made)][name]
            case Now(seconds):
                return now + timedelta(seconds=seconds)
            case TenantNumber(number):
                return self.tenants[number]
            case Vector():
                return value.value()
            case Content(form, data):
                return data if form == "bytes" else io.BytesIO(data) if form == "file" else _pieces(data)
            case msgspec.Struct():
                fields = {one: getattr(value, one) for one in value.__struct_fields__}
                return type(value)(**{one: self.resolved(inner, name, tenant, now) for one, inner in fields.items()})
            case dict():
                return {one: self.resolved(inner, name, tenant, now) for one, inner in value.items()}
            case list() | tuple():
                return type(value)(self.resolved(inner, name, tenant, now) for inner in value)
        return value

    def _remember(self, call: Call, results: dict[str, Any], args: dict[str, tuple[Any, ...]]) -> None:
        """Keep what later steps may refer to."""
        oracle = results[ORACLE]
        if hasattr(oracle, "next_cursor"):
            if oracle.next_cursor is None:
                self._pages.pop((call.stem, call.verb), None)
            else:
                self._pages[call.stem, call.verb] = call, {name: one.next_cursor for name, one in results.items()}
        for kind, take in MADE.get(f"{call.stem}.{call.verb}", ()):
            taken = {name: take(result, args[name]) for name, result in results.items()}
            for number in range(len(taken[ORACLE])):
                made = self._made.setdefault((call.tenant, kind), [])
                made.append({name: found[number] for name, found in taken.items()})
                del made[:-KEPT]

    # --- comparing --------------------------------------------------------------------------------------------------------

    async def _look(self, tenants: Mapping[str, Collection[str]]) -> None:
        """Observe these stems of these tenants, and the store."""
        self.looked_at, self.touched = self.calls, {}
        await self._observe({name: observed(spell._backend, tenants) for name, spell in self.spells.items()})

    async def _look_behind(self, block: Block, inside: dict[str, Any] | None) -> None:
        """Observe what a block has left that was undone: of a savepoint, through the transaction that goes on."""
        tenant = self.tenants[block.tenant]
        stems = {step.stem for step in flat(block.steps) if isinstance(step, Call)}
        stems |= {other for stem in stems for other in ALSO.get(stem, ())}
        if inside is None:
            await self._observe(
                {name: observed(spell._backend, {tenant: stems}) for name, spell in self.spells.items()}
            )
        else:
            await self._observe({name: observed_inside(tx._storages, tenant, stems) for name, tx in inside.items()})

    async def _observe(self, looking: dict[str, Coroutine[Any, Any, Notes]]) -> None:
        """Look at every store in the same way, and compare."""
        self.looks += 1
        answers = await asyncio.gather(*looking.values(), return_exceptions=True)
        found: dict[str, Notes] = {}
        for name, notes in zip(looking, answers, strict=True):
            if isinstance(notes, BaseException):  # whatever it is, it is what this looks for
                raise Diverged(f"{name}: looking around raised {notes!r}") from notes
            found[name] = notes
        for place, (label, oracle) in enumerate(found[ORACLE]):
            for name, answers in found.items():
                self.compared += 1
                if not self.same(oracle, answers[place][1], name):
                    raise Diverged(f"observed {label}\n  {ORACLE}: {oracle!r}\n  {name}: {answers[place][1]!r}")

    def _compare(self, step: Step, outcomes: dict[str, Outcome]) -> None:
        oracle = outcomes[ORACLE]
        for name, outcome in outcomes.items():
            self.compared += 1
            if not self.same(oracle, outcome, name):
                raise Diverged(f"{step!r}\n  {ORACLE}: {oracle!r}\n  {name}: {outcome!r}")

    def same(self, oracle: Any, other: Any, name: str) -> bool:
        """Say whether two results are the same thing, each in its own store."""
        if type(oracle) is not type(other):
            return False
        if type(oracle) in PLAIN:
            return bool(oracle == other)
        if isinstance(oracle, msgspec.Struct):
            return all(
                (getattr(oracle, one) is None) == (getattr(other, one) is None)
                if one == "next_cursor"
                else self.same(getattr(oracle, one), getattr(other, one), name)
                for one in oracle.__struct_fields__
            )
        if isinstance(oracle, dict):
            return len(oracle) == len(other) and all(
                self.same(mine, theirs, name)
                for mine, theirs in zip(oracle.items(), _ordered(other, oracle), strict=True)
            )
        if isinstance(oracle, (list, tuple)):
            return len(oracle) == len(other) and all(map(self.same, oracle, other, [name] * len(oracle)))
        if isinstance(oracle, set):
            return oracle == other
        if isinstance(oracle, UUID) or (isinstance(oracle, bytes) and len(oracle) == 32):
            return self._twin(oracle, other, name)
        if isinstance(oracle, str) and oracle != other:
            return self._same_text(oracle, other, name)
        if isinstance(oracle, array):
            return oracle.typecode == other.typecode and oracle == other
        return bool(oracle == other)

    def _same_text(self, oracle: str, other: str, name: str) -> bool:
        """Compare texts that have ids or hashes in them."""
        if OPAQUE.split(oracle) != OPAQUE.split(other):
            return False
        return all(map(self._twin, OPAQUE.findall(oracle), OPAQUE.findall(other), [name] * len(oracle)))

    def _twin(self, oracle: Any, other: Any, name: str) -> bool:
        there, back = self._twins[name]
        if isinstance(oracle, UUID):
            oracle, other = str(oracle), str(other)
        return there.setdefault(oracle, other) == other and back.setdefault(other, oracle) == oracle


def _ordered(other: dict[Any, Any], oracle: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the items of one in the order of the other, where both have the same keys: no order is promised."""
    if other.keys() == oracle.keys():
        return [(key, other[key]) for key in oracle]
    return list(other.items())


def tenants_of(call: Call) -> set[int]:
    """Return the numbers of the tenants that a call may have changed."""
    named = {value.number for value in (*call.args, *call.kwargs.values()) if isinstance(value, TenantNumber)}
    return {call.tenant, *named}


def described(error: LlmspellError) -> tuple[Any, ...]:
    """Return everything that an error says."""
    if isinstance(error, InvalidCursor):  # it shows the cursor, which each store signs with a key of its own
        return type(error).__name__, error.code, error.problem, error.hint, error.field
    if isinstance(
        error, QuotaExceeded
    ):  # databases count row by row: the first that is too many says what was used by then
        return type(error).__name__, error.code, error.hint, error.fields.get("quota"), error.fields.get("limit")
    return type(error).__name__, error.code, error.detail, error.hint, getattr(error, "field", None), dict(error.fields)


async def perform(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a verb, and return what it gives; a stream as its whole, a download as what was written."""
    if method.__name__ == "download":
        into = io.BytesIO()
        written = await method(*args, into, **kwargs)
        return written, into.getvalue()
    made = method(*args, **kwargs)
    if hasattr(made, "__aiter__"):
        return b"".join([piece async for piece in made])
    return await made


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1_000):
        yield data[start : start + 1_000]


def _id(result: Any, args: tuple[Any, ...]) -> list[Any]:
    return [result.id]


def _key_id(result: Any, args: tuple[Any, ...]) -> list[Any]:
    return [result.key_id]


MADE: dict[str, list[tuple[str, Callable[[Any, tuple[Any, ...]], list[Any]]]]] = {
    "vectors.insert": [("vector", lambda ids, _: list(ids))],
    "memories.add": [("memory", lambda records, _: [record.id for record in records])],
    "memories.restore": [("memory", _id)],
    "memories.list": [("memory", lambda records, _: [record.id for record in records[:1]])],
    "memories.delete": [("deleted_memory", lambda was_there, args: [args[0]] if was_there else [])],
    "graph.upsert_entity": [("entity", _id)],
    "graph.assert_fact": [("fact", _id), ("entity", lambda fact, _: [fact.subject_id])],
    "graph.correct": [("fact", _id)],
    "event_log.append": [("event", _id)],
    "event_log.list": [("event", lambda page, _: [one.id for one in page.items[:1]])],
    "hook_history.record": [("execution", _id)],
    "hook_history.list": [("execution", lambda page, _: [one.id for one in page.items[:1]])],
    "audit.head": [("head", lambda head, _: [head])],
    "sessions.create": [("session", _id)],
    "sessions.list": [("session", lambda page, _: [one.id for one in page.items[:1]])],
    "artifacts.put": [("artifact", _id)],
    "artifacts.list": [("artifact", lambda page, _: [one.id for one in page.items[:1]])],
    "jobs.enqueue": [("job", _id)],
    "jobs.cancel": [("ended_job", lambda was_live, args: [args[0]] if was_live else [])],
    "jobs_queue.lease": [("lease", lambda leases, _: list(leases))],
    "jobs_queue.fail": [("ended_job", lambda job, _: [job.id] if job.state == "dead" else [])],
    "api_keys.set": [("api_key", _key_id)],
    "api_keys.rotate": [("api_key", _key_id)],
    "access_keys.add": [("access_key", _key_id)],
    "access_keys.rotate": [("access_key", _key_id)],
}
