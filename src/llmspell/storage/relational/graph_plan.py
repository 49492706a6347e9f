"""How beliefs change: which versions end and which begin, decided without touching a database.

The same rules serve facts and entities: both are versions with a period of valid time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import msgspec

from llmspell.storage.contracts.graph import Cardinality, Fact


class Version(Protocol):
    """What a plan needs to know of a version."""

    @property
    def valid_from(self) -> datetime: ...
    @property
    def valid_to(self) -> datetime | None: ...


V = TypeVar("V", bound=Version)


class Plan(msgspec.Struct, Generic[V], frozen=True):
    """Versions to close, and pieces of them to believe again with another period."""

    closed: tuple[V, ...]
    kept: tuple[tuple[V, datetime, datetime | None], ...]


def overlaps(version: Version, start: datetime | None, end: datetime | None) -> bool:
    """Say whether a version's period meets the half-open period from `start` to `end` (None: unbounded)."""
    begins_in_time = end is None or version.valid_from < end
    ends_late_enough = start is None or version.valid_to is None or version.valid_to > start
    return begins_in_time and ends_late_enough


def holds(version: Version, instant: datetime) -> bool:
    """Say whether a version's period contains an instant."""
    return version.valid_from <= instant and (version.valid_to is None or version.valid_to > instant)


def covers(version: Version, start: datetime, end: datetime | None) -> bool:
    """Say whether a version's period contains the whole period."""
    if version.valid_from > start:
        return False
    return version.valid_to is None or (end is not None and version.valid_to >= end)


def cut(versions: Iterable[V], start: datetime | None, end: datetime | None) -> Plan[V]:
    """Plan to stop believing versions during a period; what lies outside of it is kept."""
    closed: list[V] = []
    kept: list[tuple[V, datetime, datetime | None]] = []
    for version in versions:
        if not overlaps(version, start, end):
            continue
        closed.append(version)
        if start is not None and version.valid_from < start:
            kept.append((version, version.valid_from, start))
        if end is not None and (version.valid_to is None or version.valid_to > end):
            kept.append((version, end, version.valid_to))
    return Plan(tuple(closed), tuple(kept))


def end_of_assertion(
    believed: Sequence[Fact], start: datetime, end: datetime | None, cardinality: Cardinality
) -> datetime | None:
    """Return when a new fact ends: as given, or, for cardinality "one", where the next known fact begins."""
    if end is not None or cardinality == "many":
        return end
    return min((fact.valid_from for fact in believed if fact.valid_from > start), default=None)


def rivals(believed: Iterable[Fact], new: Fact, cardinality: Cardinality) -> list[Fact]:
    """Return the believed facts that must give way to a new one: all, or only the same one, by its id or by its object."""
    return [fact for fact in believed if cardinality == "one" or fact.id == new.id or fact.object == new.object]


def spoken_of(pieces: Sequence[V], start: datetime | None, end: datetime | None) -> V:
    """Return which of a fact's pieces a correction means: the latest that meets its dates, or the latest of all."""
    meeting = [piece for piece in pieces if overlaps(piece, start, end)]
    return max(meeting or pieces, key=lambda piece: piece.valid_from)


def already(versions: Iterable[V], start: datetime, end: datetime | None, same: Callable[[V], bool]) -> V | None:
    """Return the version that already says the same for the whole period, if there is one."""
    return next((version for version in versions if same(version) and covers(version, start, end)), None)
