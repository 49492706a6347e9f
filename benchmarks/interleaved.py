"""How figures are made: quantiles of calls, and the ratio of two ways to do the same, measured in turns.

Two measurements after each other compare the machine with itself at two moments. So the two ways alternate in short blocks, which
way comes first changes from block to block, each block gives one ratio of medians, and the median of the ratios is the figure.
Its interval is distribution-free: the order statistics that contain the median with a probability of 95 %.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

BLOCKS_MIN = 20
CONFIDENCE = 0.95
Measure = Callable[[], Awaitable[list[float]]]
Turn = Callable[[int, int], Awaitable[list[float]]]


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50 and p95 in milliseconds, and how many calls they are of."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, math.floor(0.95 * len(ordered)))]
    return {"p50_ms": round(statistics.median(ordered) * 1e3, 4), "p95_ms": round(p95 * 1e3, 4), "calls": len(ordered)}


async def timed(call: Callable[[int], Awaitable[object]], count: int, *, first: int = 0) -> list[float]:
    """Run a call with the numbers from `first`, one after the other, and return the seconds of each."""
    seconds = []
    for number in range(first, first + count):
        started = time.perf_counter()
        await call(number)
        seconds.append(time.perf_counter() - started)
    return seconds


async def in_turns(ways: Mapping[str, Turn], *, blocks: int, size: int) -> dict[str, list[list[float]]]:
    """Give each way its turn in every block, in an order that rotates; return the seconds of each way, block by block.

    A turn is called with the number of its first call and how many calls it has: all ways do the same in a block.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in ways}
    order = list(ways)
    for block in range(blocks):
        for place in range(len(order)):
            name = order[(place + block) % len(order)]
            seconds[name].append(await ways[name](block * size, size))
    return seconds


async def compare(ours: Measure, baseline: Measure, *, blocks: int) -> dict[str, Any]:
    """Measure two ways in turns, and return their quantiles and the ratio ours / baseline with its interval."""
    if blocks < BLOCKS_MIN:
        raise ValueError(f"at least {BLOCKS_MIN} blocks")
    samples: dict[str, list[float]] = {"ours": [], "baseline": []}
    ratios = []
    for block in range(blocks):
        turns = [("ours", ours), ("baseline", baseline)]
        medians = {}
        for name, measure in turns if block % 2 else reversed(turns):
            seconds = await measure()
            samples[name] += seconds
            medians[name] = statistics.median(seconds)
        ratios.append(medians["ours"] / medians["baseline"])
    low, high = interval(ratios)
    return {
        "ratio": round(statistics.median(ratios), 3),
        "interval_95": [round(low, 3), round(high, 3)],
        "blocks": blocks,
        **{name: quantiles(seconds) for name, seconds in samples.items()},
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics between which the median lies with a probability of at least 95 %."""
    ordered, n = sorted(values), len(values)
    outside = 0.0
    for rank in range(n // 2):
        outside += 2 * math.comb(n, rank) / 2**n
        if outside > 1 - CONFIDENCE:
            inner = max(0, rank - 1)
            return ordered[inner], ordered[n - 1 - inner]
    return ordered[0], ordered[-1]


def show(document: dict[str, Any], *, as_json: bool) -> None:
    """Print one document, for a program or for a person."""
    if as_json:
        print(json.dumps(document, indent=2))
        return
    for name, value in _flat(document):
        print(f"{name:60} {value}")


def _flat(document: dict[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, value in document.items():
        lines += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return lines
