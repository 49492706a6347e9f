"""Which way a search goes. Pure: it decides, others do.

Today every way is exact; an approximate index becomes another path here when spaces outgrow a scan.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

GATHER_SHARE: Final = 0.25
"""Below this share of the rows it is faster to copy the chosen ones than to score all (measured: rows of 384 to 1536)."""


class Path(enum.Enum):
    """How the rows are visited."""

    SCAN = "scan"  # score every row, drop the ones that do not count
    GATHER = "gather"  # copy the rows that count, score those


class Plan(msgspec.Struct, frozen=True):
    """A decision, for the search and for whoever explains it."""

    path: Path
    exact: bool = True


def plan(count: int, selectivity: float) -> Plan:
    """Choose a path for `count` rows of which the share `selectivity` (0 to 1) counts."""
    return Plan(Path.GATHER if count and selectivity < GATHER_SHARE else Path.SCAN)
