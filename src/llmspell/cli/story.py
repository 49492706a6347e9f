"""How the story of the quickstart looks: the same text on a terminal and, without colour, in a pipe.

Rule: it is drawn from the document alone, so whatever is seen here is in `--json` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmspell.cli.output import counted, printable
from llmspell.clock import parse_instant
from llmspell.retrieval.fusion import MEANING
from llmspell.storage.text.memory_text import spoken_date

if TYPE_CHECKING:
    from rich.console import Console

    from llmspell.memory.context import Context

BAR_CELLS = 40
REJECTED_SHOWN = 5
ITEMS_SHOWN = 12
TEXT_SHOWN = 160
FOUND = {
    "meaning": "found by meaning: no word in common",
    "both": "found by both, word and meaning",
    None: "nothing found",
}
DIM, STRONG, TITLE, GOOD = "dim", "bold", "bold cyan", "green"


def draw(console: Console, document: Mapping[str, Any]) -> None:
    """Draw the whole story."""
    console.print(f"llmspell quickstart: {document['title']}", style=STRONG)
    parts = [_stored, _questions, *([_times] if document["times"] else []), _context, _timings, _next]
    for number, part in enumerate(parts, 1):
        part(console, document, number)


def _title(console: Console, number: int, text: str) -> None:
    console.print()
    console.print(f"{number}  {text}", style=TITLE)


def _stored(console: Console, document: Mapping[str, Any], number: int) -> None:
    stored, store, versions = document["stored"], document["store"], document["versions"]
    _title(console, number, "What was stored")
    period = f"{spoken_date(stored['from'])} to {spoken_date(stored['to'])}"
    memories = counted(stored["memories"], "memory", "memories")
    _indented(console, f"{memories} of {counted(stored['sessions'], 'conversation')}, {period}")
    if stored["told"]:
        told = stored["told"]
        parts = [f"{counted(told.get('assert', 0), 'fact')} told"]
        parts += [f"{told['correct']} corrected later"] if told.get("correct") else []
        parts += [f"{told['retract']} ended"] if told.get("retract") else []
        kept = f"{stored['fact_versions']} versions kept, each with the time it was true and the time it was known"
        _indented(console, f"{', '.join(parts)}: {kept}")
    _indented(console, store["where"] + (f": {store['url']}" if store["kept"] else ""))
    took, count = stored["took_ms"] / 1e3, stored["memories"]
    model = f"{versions['model']}, {versions['dimension']} dimensions"
    _indented(console, f"in {took:.2f} s, {count / took:,.0f} memories a second with their embeddings ({model})")


def _questions(console: Console, document: Mapping[str, Any], number: int) -> None:
    count = {1: "One question", 2: "Two questions", 3: "Three questions"}[len(document["questions"])]
    _title(console, number, count)
    for place, question in enumerate(document["questions"]):
        if place:
            console.print()
        _indented(console, printable(question["text"]), style=STRONG)
        cost = f"embedder {question['embedding_ms']:.1f} ms, search {question['search_ms']:.1f} ms"
        _indented(console, f"{_found(question)} ({cost})", style=GOOD)
        draw_hits(console, question["hits"])


def _found(question: Mapping[str, Any]) -> str:
    if question["found"] != "word":
        return FOUND[question["found"]]
    rank = next((match.rank for match in question["hits"][0]["matches"] if match.ranker == MEANING), None)
    return "found by word: " + (f"by meaning alone it would be number {rank}" if rank else "meaning has nothing")


def draw_hits(console: Console, hits: Sequence[Mapping[str, Any]]) -> None:
    """Draw hits: score, text and, below it, who said it when and why it was found."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(justify="right", width=7)
    table.add_column(overflow="fold")
    for hit in hits:
        why = hit.get("reason") or _said(hit)
        body = Text(_shortened(hit["text"]))
        body.append(f"\n{printable(why)}", style=DIM)
        table.add_row(f"{hit['score']:.2f}", body)
    console.print(table)


def _said(hit: Mapping[str, Any]) -> str:
    who = f" by {hit['role']}" if hit["role"] else ""
    return f"said{who} on {spoken_date(hit['at'])}"


def _times(console: Console, document: Mapping[str, Any], number: int) -> None:
    from rich.table import Table

    times = document["times"]
    _title(console, number, "One question, asked of two times, as known at two times")
    _indented(console, times["question"], style=STRONG)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=True)
    table.add_column("")
    for as_of in times["as_of"]:
        table.add_column(f"on {_day(as_of)}")
    for known_at in times["known_at"]:
        row = [one["answer"] for one in times["answers"] if one["known_at"] == known_at]
        table.add_row(f"  as known on {_day(known_at)}", *(", ".join(answer) or "not known" for answer in row))
    console.print(table)
    for told in times["told"]:
        _indented(console, f"{spoken_date(told['at'])}: {_told(told)}", style=DIM)


def _told(told: Mapping[str, Any]) -> str:
    since = f" since {_day(told['valid_from'])}" if told["valid_from"] else ""
    until = f" until {_day(told['valid_to'])}" if told["valid_to"] else ""
    if told["do"] == "correct":
        return f"corrected: not {told['instead_of']} but {told['object'] or told['instead_of']}{since}{until}"
    return f"{'told' if told['do'] == 'assert' else 'no longer'}: {told['object']}{since}{until}"


def _context(console: Console, document: Mapping[str, Any], number: int) -> None:
    context = document["context"]
    _title(console, number, "What an assistant should read before it answers")
    _indented(console, printable(context["question"]), style=STRONG)
    draw_context(console, context)


def draw_context(console: Console, context: Mapping[str, Any] | Context) -> None:
    """Draw a context: the budget as a bar, what is in it and why, what is not and why not."""
    from rich.text import Text

    parts = context if isinstance(context, Mapping) else {n: getattr(context, n) for n in context.__struct_fields__}
    used, most = parts["tokens_used"], parts["max_tokens"]
    filled = min(BAR_CELLS, round(BAR_CELLS * used / most))
    bar = Text("  ")
    bar.append("█" * filled, style=GOOD)
    bar.append("░" * (BAR_CELLS - filled), style=DIM)
    exact = "" if parts["exact_tokens"] else "about "
    bar.append(f"  {exact}{used:,} of {most:,} tokens")
    console.print(bar)
    sections = ", ".join(f"{name} {tokens:,}" for name, tokens in parts["sections"].items())
    cost = f"embedder {parts['embedding_ms']:.1f} ms, the rest {parts['took_ms']:.1f} ms"
    _indented(console, f"{sections} ({cost})", style=DIM)
    items, rejected = parts["items"], parts["rejected"]
    _indented(console, f"In it, {len(items)} of {len(items) + len(rejected)} that were found, in the order of reading")
    _items(console, items[:ITEMS_SHOWN], len(items))
    if rejected:
        _indented(console, f"Left out, {len(rejected)}")
        _items(console, rejected[:REJECTED_SHOWN], len(rejected))


def _items(console: Console, shown: Sequence[Any], total: int) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(justify="right", width=7)
    table.add_column(overflow="fold")
    for item in shown:
        body = Text(_shortened(item.text))
        body.append(f"\n{printable(item.reason)}", style=DIM)
        table.add_row(str(item.tokens), body)
    if total > len(shown):
        table.add_row("", Text(f"and {total - len(shown)} more", style=DIM))
    console.print(table)


def _timings(console: Console, document: Mapping[str, Any], number: int) -> None:
    from rich.table import Table

    _title(console, number, "How long it took")
    timings, count = document["timings"], document["stored"]["memories"]
    rows = [
        ("store", f"{timings['store_per_memory_ms']:.1f} ms", "a memory, embedder included"),
        ("embed a question", f"{timings['embedding_p50_ms']:.1f} ms", "median"),
        (
            "search",
            f"{timings['search_p50_ms']:.1f} ms",
            f"median, embedder included, over {counted(count, 'memory', 'memories')}",
        ),
        ("search", f"{timings['search_p50_ms_without_embedder']:.1f} ms", "median, embedder not included"),
        ("context", f"{timings['context_p50_ms_without_embedder']:.1f} ms", "median, embedder not included"),
    ]
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(width=20)
    table.add_column(justify="right")
    table.add_column(style=DIM)
    for name, value, note in rows:
        table.add_row(f"  {name}", value, note)
    console.print(table)


def _next(console: Console, document: Mapping[str, Any], number: int) -> None:
    _title(console, number, "What to type next")
    for line in document["next"]:
        console.print(f"  {line}", soft_wrap=True)


def _indented(console: Console, text: str, *, style: str = "") -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(text, style=style), (0, 0, 0, 2), expand=False))


def _shortened(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= TEXT_SHOWN else shown[: TEXT_SHOWN - 1] + "…"


def _day(value: str | datetime) -> str:
    return spoken_date(parse_instant(value, field="instant"))
