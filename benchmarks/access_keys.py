"""Does the time of a refusal tell why a key was refused? And what does accepting one cost?

    python benchmarks/access_keys.py [--json] [--small] [--backends memory sqlite postgres]

Every kind of refused key is presented against one with a wrong secret, in random turns; Welch's t of the two samples must stay
below 4.5 in absolute value, which is the bound of leakage tests. The slowest hundredth of each sample is cut off first: it is the
machine's, not the answer's. A refusal takes two milliseconds by intention, so all three backends take half an hour. The figure is
printed and never fails the script, for it is a clock's; a wrong answer does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from llmspell.security.access_keys import _from_base32, _key_text, read_key
from llmspell.spell import Spell
from llmspell.tenant import tenant_id

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interleaved import quantiles, show
from machine import described
from stores import BACKENDS, opened

REQUESTS, REQUESTS_SMALL = 20_000, 1_000
"""Of each of the two samples of a comparison."""
BOUND = 4.5
KEPT = 0.99
BRIEF_S = 0.01
AGAINST = "another secret"


async def refused_keys(spell: Spell) -> tuple[str, dict[str, str]]:
    """Return a good key, and one of each kind that is refused."""
    for name in ("acme", "globex"):
        await spell.tenants.create(name)
    keys = spell.tenant("acme").access_keys
    good, expired, revoked = [
        await keys.issue(name=name, scopes=["read"], ttl_s=BRIEF_S if name == "expired" else None)
        for name in ("good", "expired", "revoked")
    ]
    await keys.revoke(revoked.info.key_id)
    await asyncio.sleep(BRIEF_S)
    text = good.key.reveal()
    read = read_key(text)
    assert read is not None
    secret = _from_base32(text.rpartition("_")[2])[:32]
    return text, {
        AGAINST: _key_text(read.tenant, read.key_id, os.urandom(32)),
        "an unknown id": _key_text(read.tenant, uuid4(), secret),
        "a foreign tenant": _key_text(tenant_id("globex"), read.key_id, secret),
        "an unknown tenant": _key_text(tenant_id("nobody"), read.key_id, secret),
        "expired": expired.key.reveal(),
        "revoked": revoked.key.reveal(),
    }


async def timed(spell: Spell, key: str) -> float:
    started = time.perf_counter()
    answer = await spell.authenticate(key)
    seconds = time.perf_counter() - started
    if answer is not None:
        raise SystemExit("error: a key was accepted that must be refused")
    return seconds


def welch(one: list[float], other: list[float]) -> float:
    """Welch's t of two samples without their slowest hundredth."""
    kept = [sorted(sample)[: int(len(sample) * KEPT)] for sample in (one, other)]
    error = sum(statistics.variance(sample) / len(sample) for sample in kept) ** 0.5
    return (statistics.fmean(kept[0]) - statistics.fmean(kept[1])) / error


async def compared(spell: Spell, keys: tuple[str, str], requests: int) -> float:
    """Present two keys in random turns, and return t."""
    turns = [0, 1] * requests
    random.Random(1).shuffle(turns)
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in turns:
        samples[turn].append(await timed(spell, keys[turn]))
    return welch(*samples)


async def measured(backend: str, requests: int) -> dict[str, Any]:
    """Measure one backend."""
    async with opened(backend) as store:
        spell: Spell = store.spell
        good, bad = await refused_keys(spell)
        accepted = []
        for _ in range(requests):
            started = time.perf_counter()
            if await spell.authenticate(good) is None:
                raise SystemExit("error: a good key was refused")
            accepted.append(time.perf_counter() - started)
        ts = {
            kind: round(await compared(spell, (key, bad[AGAINST]), requests), 2)
            for kind, key in bad.items()
            if kind != AGAINST
        }
    return {"accepted": quantiles(accepted), "welch_t": ts, "within_bound": all(abs(t) < BOUND for t in ts.values())}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--small", action="store_true", help="few requests: a look, no proof")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    given = parser.parse_args()
    requests = REQUESTS_SMALL if given.small else REQUESTS
    figures = {backend: await measured(backend, requests) for backend in given.backends}
    show({**described(), "requests_of_each_sample": requests, "bound": BOUND, **figures}, as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())
