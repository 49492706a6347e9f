"""How quickly texts become vectors here, and that the vectors are right.

    python benchmarks/embed.py [--json] [--embedder local] [--rounds 50]

One sentence (p50, p95), a batch of 32, texts per second over 256 mixed lengths, a hit of the cache from memory and from disk.
With all-MiniLM-L6-v2 the vectors of the same run are compared with the reference implementation's
(tests/unit/providers/golden_minilm.json); a cosine of 0.9999 or less makes the script fail. Figures are wall-clock times
on this machine, with whatever else it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from llmspell.providers.cache import CacheConfig, CachedEmbedder, EmbeddingCache
from llmspell.providers.embedder import Embedder, open_embedder

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "unit" / "providers" / "golden_minilm.json"
LEAST_COSINE = 0.9999
SENTENCE = "Ana moved to Lisbon in March and rents a studio near the river, note {}."
BATCH = 32
MANY = 256


async def times_ms(rounds: int, run: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds of each of `rounds` runs, in order of size, after one that is not counted."""
    await run(-1)
    measured = []
    for number in range(rounds):
        started = time.perf_counter()
        await run(number)
        measured.append((time.perf_counter() - started) * 1_000)
    return sorted(measured)


def quantiles(measured: Sequence[float]) -> dict[str, float]:
    """p50 and p95 of sorted measurements."""
    p95 = measured[min(len(measured) - 1, int(len(measured) * 0.95))]
    return {"p50_ms": round(statistics.median(measured), 4), "p95_ms": round(p95, 4)}


def mixed_texts(count: int) -> list[str]:
    """Texts of 8 to about 130 words, as turns of dialogues are."""
    return [" ".join([SENTENCE.format(i)] * (1 + i * 7 % 9)) for i in range(count)]


async def least_cosine(embedder: Embedder) -> float | None:
    """The least cosine to the reference vectors; None for another model."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if embedder.model != golden["model"]:
        return None
    vectors = await embedder.embed([item["text"] for item in golden["items"]])
    computed = np.array([np.frombuffer(vector, "<f4") for vector in vectors], dtype=np.float64)
    expected = np.array([item["embedding"] for item in golden["items"]])
    norms = np.linalg.norm(computed, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((computed * expected).sum(axis=1) / norms).min())


async def measure(embedder: Embedder, rounds: int) -> dict[str, Any]:
    """All figures of one embedder."""
    started = time.perf_counter()
    await embedder.embed(["the first text loads the model"])
    first_ms = (time.perf_counter() - started) * 1_000
    one = await times_ms(rounds, lambda number: embedder.embed([SENTENCE.format(number)]))
    batch = await times_ms(
        max(3, rounds // 10), lambda number: embedder.embed([SENTENCE.format(number * BATCH + i) for i in range(BATCH)])
    )
    started = time.perf_counter()
    await embedder.embed(mixed_texts(MANY))
    many_s = time.perf_counter() - started
    return {
        "first_text_ms": round(first_ms, 2),
        "one_sentence": quantiles(one),
        f"batch_of_{BATCH}": {**quantiles(batch), "texts_per_s": round(BATCH * 1_000 / statistics.median(batch), 1)},
        f"mixed_{MANY}": {"texts_per_s": round(MANY / many_s, 1)},
        "least_cosine_to_reference": await least_cosine(embedder),
    }


async def measure_cache(embedder: Embedder, rounds: int) -> dict[str, Any]:
    """Hits from memory and from disk; `embedder` is closed with its cache."""
    texts = [SENTENCE.format(f"cached {i}") for i in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        config = CacheConfig(persistence_path=Path(folder))
        cached = CachedEmbedder(embedder, EmbeddingCache(config))
        await cached.embed(texts)
        await cached.cache.flush()
        memory = await times_ms(rounds, lambda number: cached.embed([texts[number]]))
        fresh = CachedEmbedder(embedder, EmbeddingCache(config))
        disk = await times_ms(rounds - 1, lambda number: fresh.embed([texts[number]]))
        hits = {"memory": cached.metrics.hits, "disk": fresh.metrics.hits, "missed_on_disk": fresh.metrics.misses}
        await fresh.cache.aclose()
        await cached.aclose()
    return {"hit_from_memory": quantiles(memory), "hit_from_disk": quantiles(disk), "hits": hits}


def versions() -> dict[str, str | None]:
    """Of what takes part; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("llmspell", "numpy", "tokenizers", "onnxruntime", "blake3"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = named[0] if named else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"machine": platform.machine(), "processor": model, "processors": os.cpu_count(), "load_1m": load}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    embedder = open_embedder(arguments.embedder)
    if embedder is None:
        raise SystemExit("this needs an embedder")
    figures = await measure(embedder, arguments.rounds)
    identity = {"embedder": arguments.embedder, "model": embedder.model, "dimension": embedder.dimension}
    identity["runtime"] = getattr(embedder, "runtime", None)
    cache = await measure_cache(embedder, arguments.rounds)
    return {
        "benchmark": "embed",
        **identity,
        "rounds": arguments.rounds,
        "figures": figures,
        "cache": cache,
        "versions": versions(),
        "hardware": hardware(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--embedder", default="local", help="as open_embedder takes it (default: local)")
    parser.add_argument("--rounds", type=int, default=50, help="measurements of one sentence (default: 50)")
    arguments = parser.parse_args()
    if arguments.rounds < 3:
        parser.error("--rounds must be 3 or more")
    document = asyncio.run(run(arguments))
    if arguments.json:
        print(json.dumps(document))
    else:
        for section in ("figures", "cache", "versions", "hardware"):
            print(f"{section}:")
            for name, value in document[section].items():
                print(f"  {name:28} {value}")
    cosine = document["figures"]["least_cosine_to_reference"]
    if cosine is not None and cosine <= LEAST_COSINE:
        print(f"the vectors are wrong: cosine {cosine:.6f} to the reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
