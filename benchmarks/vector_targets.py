"""What `vectors.py` has to show, beside what it measured, and its tables for a person.

A target that nobody measured in this run is not in the table; one that was missed is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from vector_engines import OURS, RAW_LIBRARY
from vector_ours import RECALL

JUDGED_AT_ROWS = 100_000
INSERTS_PER_S, MEMORY_MIB, COLD_MS, RAW_RATIO = 20_000, 200, 300, 2.0
P50_MS = {
    "easy": (0.5, RECALL),
    "hard": (1.2, RECALL),
    "tenants": (1.0, 1.0),
    "filter 1 %": (1.0, 1.0),
    "filter 10 %": (2.5, RECALL),
}
"""Most milliseconds at the median, and the least recall, by part."""
SLOWER_PEERS = ("chroma", "lancedb")
COLUMNS = ("p50_ms", "p95_ms", "recall", "effort")
Table = list[dict[str, Any]]


def targets(figures: dict[str, Any], *, rows: int) -> Table:
    """Return figure, target, measured and verdict of everything that this run measured, missed or not."""
    judged = rows == JUDGED_AT_ROWS
    table: Table = []

    def add(figure: str, target: str, measured: str, met: bool) -> None:
        verdict = ("met" if met else "missed") if judged else f"not judged at {rows:,} rows"
        table.append({"figure": figure, "target": target, "measured": measured, "verdict": verdict})

    for part, (milliseconds, recall) in P50_MS.items():
        if ours := figures.get(part, {}).get(OURS):
            met = ours["p50_ms"] <= milliseconds and ours["recall"] >= recall
            measured = f"{ours['p50_ms']} ms at {ours['recall']}"
            add(f"{part}, p50", f"<= {milliseconds} ms at recall {recall}", measured, met)
    for part in ("easy", "hard"):
        _against_peers(part, figures.get(part, {}), add)
    if ours := figures.get("insert", {}).get(OURS):
        rate = ours["vectors_per_s"]
        add("durable insert", f">= {INSERTS_PER_S:,}/s in batches of 256", f"{rate:,}/s", rate >= INSERTS_PER_S)
    if ours := figures.get("process", {}).get(OURS):
        grown = {"after queries": ours.get("rss_mib"), "after inserting it all": ours["filled_here"].get("rss_mib")}
        for when, size in grown.items():
            if size is not None:
                add(f"memory of the process {when}", f"<= {MEMORY_MIB} MiB more", f"{size:.0f} MiB", size <= MEMORY_MIB)
        add("cold open and first query", f"<= {COLD_MS} ms", f"{ours['cold_ms']:.0f} ms", ours["cold_ms"] <= COLD_MS)
    return [*table, *figures.get("postgres", {}).get("targets", [])]


def _against_peers(part: str, found: dict[str, Any], add: Callable[[str, str, str, bool], None]) -> None:
    over = found.get("llmspell_over", {})
    for peer in SLOWER_PEERS:
        if peer in over:
            ratio = over[peer]["ratio"]
            add(f"{part}, p50 over {peer}'s", "< 1 at equal recall", f"{ratio}", ratio < 1)
    raw = [name for name in RAW_LIBRARY if name in over and found[name]["recall_reached"]]
    if raw:
        name = min(raw, key=lambda one: float(found[one]["p50_ms"]))
        ratio = over[name]["ratio"]
        add(f"{part}, p50 over raw {name}'s", f"<= {RAW_RATIO}", f"{ratio}", ratio <= RAW_RATIO)


def lines(document: dict[str, Any]) -> list[str]:
    """Return a document as tables."""
    figures = document["figures"]
    text = [
        f"{document['rows']:,} vectors of {document['dimension']} dimensions, k = {document['limit']}, one question at a time"
    ]
    text += [f"{name}: {said}" for name, said in document["sets"].items()]
    text += document["skipped"]
    for part in P50_MS:
        if part in figures:
            text += _searches(part, figures[part], document["engines"])
    if "insert" in figures:
        text += _inserts(figures["insert"], document)
    if "process" in figures:
        text += _processes(figures["process"])
    if "postgres" in figures:
        text += ["", "postgres", *_flat(figures["postgres"])]
    text += _verdicts(document["targets"])
    hardware = document["hardware"]
    return [
        *text,
        "",
        f"{hardware['cpu']}, {hardware['cores']} cores, load {hardware['load_1m']}, {document['versions']}",
    ]


def _verdicts(table: Table) -> list[str]:
    columns = ("figure", "target", "measured", "verdict")
    rows = [dict(zip(columns, columns, strict=True)), *table]
    widths = {column: max(len(row[column]) for row in rows) for column in columns}
    return ["", *("  ".join(f"{row[column]:{widths[column]}}" for column in columns).rstrip() for row in rows)]


def _searches(part: str, found: dict[str, Any], engines: list[str]) -> list[str]:
    heading = f"{part:14} {'p50 ms':>10} {'p95 ms':>10} {'recall':>8}  {'effort':14} llmspell takes (95 %)"
    text = ["", heading]
    if plain := found.get("plain_graph"):
        text.insert(1, f"a plain graph ({plain['engine']}) has a recall of {plain['recall']} at ef {plain['ef']}")
    for name in engines:
        if (one := found.get(name)) is None:
            continue
        over = found.get("llmspell_over", {}).get(name)
        times = f"{over['ratio']} x ({over['interval_95'][0]} to {over['interval_95'][1]})" if over else ""
        short = "" if one["recall_reached"] else f"  below {RECALL}"
        text.append(
            f"{name:14} {one['p50_ms']:10.3f} {one['p95_ms']:10.3f} {one['recall']:8.4f}  {one['effort']:14} {times}{short}"
        )
    return text


def _inserts(found: dict[str, Any], document: dict[str, Any]) -> list[str]:
    text = [
        "",
        f"insert, {found['rows']:,} vectors in batches of {found['batch']}, on {document['temporary_files_on']}",
    ]
    text.append(f"{'':14} {'vectors/s':>10} {'batch p50 ms':>13} {'indexed after s':>16} {'syncs a batch':>14}")
    for name in document["engines"]:
        if one := found.get(name):
            synced = one.get("why", "") if one["syncs_per_batch"] is None else f"{one['syncs_per_batch']:.2f}"
            text.append(
                f"{name:14} {one['vectors_per_s']:10,} {one['batch']['p50_ms']:13.2f} {one['indexed_after_s']:16.2f} {synced:>14}"
                f"  {one.get('note', '')}"
            )
    return text


def _processes(found: dict[str, Any]) -> list[str]:
    text = [
        "",
        f"{'process':14} {'cold ms':>9} {'import ms':>10} {'MiB more':>9} {'own':>7} {'of files':>9} {'import':>7}",
    ]
    for name, one in found.items():
        sizes = [one.get(part, float("nan")) for part in ("rss_mib", "anonymous_mib", "files_mib", "import_mib")]
        text.append(
            f"{name:14} {one['cold_ms']:9.1f} {one['import_ms']:10.1f}"
            f" {sizes[0]:9.0f} {sizes[1]:7.0f} {sizes[2]:9.0f} {sizes[3]:7.0f}"
        )
    return text


def _flat(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, list):
        return [line for one in value for line in _flat(json.dumps(one), prefix)]
    if not isinstance(value, dict):
        return [f"{prefix.rstrip('.'):60} {value}"]
    return [line for name, one in value.items() if name != "targets" for line in _flat(one, f"{prefix}{name}.")]
