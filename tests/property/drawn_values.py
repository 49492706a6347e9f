"""The vocabulary of random programs: steps, references to what earlier steps made, and the values that both are drawn from.

A program is plain data. What it cannot know when it is drawn (an id that a store will make, the time of the clock, a lease)
stands in it as a reference, which every store resolves to its own; so each part of a program can be left out, and the rest still
means something.

Pools are small on purpose: programs prove little unless their steps meet.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from llmspell.testing.contract import packed, random_vector, turned_vector

T = TypeVar("T")
TENANTS = 3
"""Tenants that programs work in; there are two more, which are registered, suspended and deleted."""
EXTRA_TENANTS = 2


class Ref(NamedTuple):
    """What an earlier step made, of a kind: the latest is number 0. `foreign`: the one that the next tenant has."""

    kind: str
    back: int = 0
    foreign: bool = False


class Now(NamedTuple):
    """An instant so many seconds from that of the clock."""

    seconds: float


class Content(NamedTuple):
    """The content of an artifact, given as bytes, as a file, or in pieces."""

    form: str
    data: bytes


class Vector(NamedTuple):
    """One of a few vectors; `packed`: as memories take it."""

    dimension: int
    number: int
    packed: bool = False

    def value(self) -> list[float] | bytes:
        values = VECTORS_OF[self.dimension][self.number]
        return packed(values) if self.packed else list(values)


class TenantNumber(NamedTuple):
    """The id of a tenant of the program."""

    number: int


class Call(NamedTuple):
    """One verb. `via`: "storage", "once:key", "tenants", "queue", "queue.store", "queue.of", "tenants.audit". `resume`: go on where
    the last page of this verb ended."""

    tenant: int
    stem: str
    verb: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    via: str = "storage"
    resume: bool = False


class Advance(NamedTuple):
    """Move the clock; also back."""

    seconds: float


class Restart(NamedTuple):
    """Close the databases and open them again."""


class Look(NamedTuple):
    """Observe everything."""


class Block(NamedTuple):
    """A transaction, or inside of one a savepoint: kept, or undone by an exception at its end."""

    tenant: int
    steps: list[Any]
    keep: bool


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Drawn = Callable[["Draw"], Arguments]
Step = Call | Advance | Restart | Look | Block


def flat(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield steps and what is inside of them."""
    for step in steps:
        yield step
        if isinstance(step, Block):
            yield from flat(step.steps)


UNKNOWN = UUID("0198c0de-0000-7000-8000-00000000dead")
FIXED_IDS = [UUID(int=0x0198C0DE_0000_7000_8000_000000000000 + number) for number in range(6)]
TEXTS = ["a", "b", "c", "é", "～", "😀", 'a"', "a:b", "A", "\x01"]
KEYS = ["a", "b", "a:1", "a:2", "a:10", "é", "～", "😀", "k%_", "a\\"]
WORDS = ["ada", "lives", "zurich", "moved", "train", "trains", "running", "bern", "日本語", "the", "été"]
NAMES = ["Ada", "ada", "Bob", "Zürich", "東京", "x y"]
PREDICATES = ["knows", "lives_in", "works_at"]
ACTORS = [None, None, "ann", "bo"]
VECTORS_OF = {
    384: [random_vector(seed) for seed in range(5)] + [turned_vector(angle) for angle in (0, 30, 90, 180, 270)],
    768: [random_vector(seed, 768) for seed in range(2)],
}
NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001 - refused, which is the point
HOSTILE: dict[type, list[Any]] = {
    str: ["", "\0", "a\0b", "\ud800", "x" * 40_000, None, 7],
    int: [-1, 0, 2**31, 2**63, 10**400, True, 1.5, None, "1"],
    float: [-1.0, math.nan, math.inf, -math.inf, True, "1"],
    dict: [{"a": math.nan}, {"": 1}, {"a": -0.0}, {"a": 2**63}, {"\0": 1}, {"a": "\ud800"}, {1: 2}, [1], {"a": b"x"}],
    bytes: ["text", None],
    list: ["text", None, 3],
    UUID: ["", "not an id", 7, None],
    Ref: ["", "not an id", 7, None],
    Now: [NAIVE, "yesterday", "2026-02-30", "2026-01-01T23:59:60Z", "10000-01-01", 5],
}


def given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments; those that are `...` are left out."""
    return args, {name: value for name, value in kwargs.items() if value is not ...}


class Draw:
    """Draws values, all from one seeded source."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.pick: Callable[[Sequence[Any]], Any] = source.choice
        self.number: Callable[[int, int], int] = source.randint

    def chance(self, share: float) -> bool:
        return self.source.random() < share

    def maybe(self, value: Callable[[], T], share: float = 0.4, otherwise: Any = ...) -> Any:
        """Return a value, or what stands for an argument that is left out."""
        return value() if self.chance(share) else otherwise

    def key(self) -> str:
        return str(self.pick(KEYS[:3] if self.chance(0.6) else KEYS))

    def text(self) -> str:
        return str(self.pick(TEXTS))

    def words(self) -> str:
        return " ".join(self.pick(WORDS) for _ in range(self.number(1, 6)))

    def blob(self) -> bytes:
        return bytes(self.pick([b"", b"a", b"\0\xff", b"v" * 300, bytes(range(256))]))

    def limit(self) -> int:
        return self.number(1, 4)

    def id(self, kind: str, *, fixed: float = 0.35) -> Any:
        """Return the id of something that may be there: mostly one that was made, at times fixed, foreign or unknown."""
        if self.chance(fixed):
            return self.pick(FIXED_IDS)
        if self.chance(0.03):
            return UNKNOWN
        return Ref(kind, self.source.randrange(4), foreign=self.chance(0.06))

    def ids(self, kind: str) -> list[Any]:
        return [self.id(kind) for _ in range(self.number(0, 4))]

    def new_id(self) -> Any:
        """Return the id for something new, which may be taken, or leave it to the store."""
        return self.pick(FIXED_IDS) if self.chance(0.3) else None

    def near(self) -> Now:
        """Return an instant not far away, more often in the past."""
        return Now(self.pick([-86_400, -3_600, -61, -10, -5, -1, -0.000_001, 0, 0.000_001, 1, 60]))

    def period(self) -> dict[str, Any]:
        """Return `since` and `until`, in order mostly."""
        start, end = sorted(self.source.sample([-86_400, -600, -60, -5, -1, 0, 1, 600], 2))
        return {"since": self.maybe(lambda: Now(start), 0.3), "until": self.maybe(lambda: Now(end), 0.3)} if end else {}

    def json(self, depth: int = 2) -> Any:
        scalar = self.pick(
            [None, True, False, 0, 1, 1.0, -2, 2**63 - 1, -(2**63), 0.1, 1e22, 1e308, 5e-324, "", "a", "é", "1", "😀"]
        )
        if depth and self.chance(0.3):
            inner = [self.json(depth - 1) for _ in range(self.number(0, 3))]
            return inner if self.chance(0.5) else {self.pick("abc"): one for one in inner}
        return scalar

    def object(self) -> dict[str, Any]:
        return {self.pick(["a", "b", "n", "é"]): self.json() for _ in range(self.number(0, 3))}

    def vector(self, *, packed: bool = False, dimension: int | None = None) -> Any:
        dimension = dimension or (384 if self.chance(0.9) else 768)
        return Vector(dimension, self.source.randrange(len(VECTORS_OF[dimension])), packed)

    def version(self) -> Any:
        """Return a version to expect; mostly none."""
        return self.maybe(lambda: self.pick([1, 1, 1, 2, 3]), 0.12)

    def ttl(self) -> float:
        return float(self.pick([1, 5, 30, 600]))

    def actor(self) -> Any:
        return self.pick(ACTORS)

    def filters(self) -> dict[str, Any]:
        """Return a condition on metadata."""
        path = "metadata." + self.pick(["a", "b", "n", "é", "a.b"])
        operator = self.pick(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains"])
        if operator == "$exists":
            return {path: {operator: self.chance(0.5)}}
        if operator in ("$in", "$nin"):
            return {path: {operator: [self.json(0) for _ in range(self.number(0, 3))]}}
        if operator in ("$eq", "$ne", "$contains"):
            return {path: {operator: self.json(1)}}
        return {path: {operator: self.pick([0, 1, 1.5, -2, 0.1, "a", "é", ""])}}

    def broken(self, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments of which one is replaced by a value that may not be accepted."""
        args, kwargs = arguments
        places: list[Any] = [*range(len(args)), *kwargs]
        hostile = [
            place for place in places if type(args[place] if isinstance(place, int) else kwargs[place]) in HOSTILE
        ]
        if not hostile:
            return arguments
        place = self.pick(hostile)
        if isinstance(place, int):
            changed = list(args)
            changed[place] = self.pick(HOSTILE[type(args[place])])
            return tuple(changed), kwargs
        return args, {**kwargs, place: self.pick(HOSTILE[type(kwargs[place])])}
