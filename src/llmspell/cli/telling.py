"""The story of the quickstart, told on a store: what is kept, asked and measured. One document comes out.

Not here: how it looks (`story`), which store it is told on (`ops.story_store`).

Rule 1: a story with facts is replayed at its own dates on a manual clock, so that what was known when is really recorded so.
Rule 2: the embedder has no cache here: every figure is of work that was done.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from llmspell import __version__
from llmspell.cli.conversations import Malformed, Reader
from llmspell.clock import ManualClock, SystemClock, parse_instant
from llmspell.errors import AlreadyExists, InvalidInput
from llmspell.memory.memory import MemoryHit
from llmspell.memory.memory_input import MemoryInput
from llmspell.retrieval.fusion import MEANING, WORDS

if TYPE_CHECKING:
    from llmspell.providers.embedder import Embedder
    from llmspell.spell import Tenant

HITS = 3
QUESTIONS_MAX = 3
REPEATS = 15
"""Searches per question that a median is taken of."""
ITEMS_MAX = 20_000
"""Memories of a file that the quickstart takes; `llmspell add --from` has no such limit."""
CLEARLY_FIRST = 3
"""A ranker that puts a hit below this place did not find it by itself."""
DEFAULT_BUDGET = 400
Progress = Callable[[int], None]
_LONG_WORD = re.compile(r"[^\W\d_]{5,}")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question to search for; `found`: how the story says it is found, for the tests."""

    text: str
    found: str | None = None


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """A question about one fact, asked of two times and as known at two."""

    question: str
    subject: str
    predicate: str
    as_of: tuple[str, str]
    known_at: tuple[str, str]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the assistant wrote into the graph, when it was told in the turn `told`."""

    do: str
    told: str
    subject: str = ""
    predicate: str = ""
    object: str = ""
    valid_from: str | None = None
    valid_to: str | None = None
    cardinality: str | None = None
    key: str = ""
    fact: str = ""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What is told."""

    title: str
    items: list[MemoryInput]
    questions: list[Asked]
    context: Asked
    max_tokens: int = DEFAULT_BUDGET
    facts: list[Told] = []
    times: Times | None = None


def read_story(path: Path | None) -> Story:
    """Read the bundled story, or a file in the form of `llmspell add --from`, with "questions" and "facts" when it has them.

    Raises:
        InvalidInput: an item, or a fact, is wrong; the message names it.
    """
    if path is None:
        from importlib.resources import as_file, files

        with as_file(files("llmspell.cli") / "samples" / "weeks_with_nora.json") as sample:
            return read_story(sample)
    with path.open("rb") as stream:
        items = []
        for item in Reader(stream, clock=SystemClock()).read():
            if isinstance(item, Malformed):
                raise InvalidInput("file", item.sentence)
            items.append(item)
            if len(items) > ITEMS_MAX:
                raise InvalidInput(
                    "file", f"must have at most {ITEMS_MAX:,} items here", hint="Use llmspell add --from."
                )
        if not items:
            raise InvalidInput("file", "has no items")
        extra = _extras(stream)
    try:
        facts = msgspec.convert(extra.get("facts", []), list[Told])
        times = msgspec.convert(extra.get("times"), Times | None)
        asked = msgspec.convert(extra.get("context"), dict[str, Any] | None) or {}
        budget = msgspec.convert(asked.get("max_tokens", DEFAULT_BUDGET), int)
    except msgspec.ValidationError as error:
        raise InvalidInput("file", f"has facts that cannot be read: {error}") from error
    unknown = {fact.told for fact in facts} - _names(items).keys()
    if unknown:
        raise InvalidInput("facts", "must be told in a turn of the file", given=min(unknown))
    questions = _questions(extra) or made_questions(items)
    about = asked.get("question") or questions[0].text
    return Story(
        title=str(extra.get("title") or f"{path.name}, told to an assistant"),
        items=items,
        questions=questions[:QUESTIONS_MAX],
        context=Asked(text=str(about)),
        max_tokens=budget,
        facts=facts,
        times=times,
    )


def _extras(stream: Any) -> dict[str, Any]:
    """Return what a JSON document holds beside its items; of a list of conversations, their questions together."""
    stream.seek(0)
    try:
        document = json.loads(stream.read().decode("utf-8-sig"))
    except ValueError:
        return {}  # JSON Lines
    if isinstance(document, list):
        entries = [entry for entry in document if isinstance(entry, dict)]
        return {"questions": [question for entry in entries for question in entry.get("questions", [])]}
    return document if isinstance(document, dict) else {}


def _questions(extra: Mapping[str, Any]) -> list[Asked]:
    """Return three questions spread over those of the file."""
    given = extra.get("questions")
    asked = []
    for one in given if isinstance(given, list) else []:
        if isinstance(one, str):
            asked.append(Asked(text=one))
        elif isinstance(one, dict) and isinstance(one.get("text"), str):
            asked.append(Asked(text=one["text"], found=one.get("found")))
    return asked if len(asked) <= QUESTIONS_MAX else [asked[place] for place in _spread(len(asked))]


def _spread(count: int) -> list[int]:
    """Return up to three places, from the first to the last of `count`."""
    return sorted({place * (count - 1) // (QUESTIONS_MAX - 1) for place in range(QUESTIONS_MAX)})


def made_questions(items: Sequence[MemoryInput]) -> list[Asked]:
    """Make questions from the content: the rarest long words of three items, spread over the file."""
    words = Counter(word.casefold() for item in items for word in set(_LONG_WORD.findall(item.text)))
    long = [item for item in items if len(set(_LONG_WORD.findall(item.text))) >= 2] or list(items)
    asked = []
    for place in _spread(len(long)):
        text = long[place].text
        rare = sorted(set(_LONG_WORD.findall(text)), key=lambda word: (words[word.casefold()], text.find(word)))[:2]
        asked.append(Asked(text=f"What was said about {' and '.join(rare)}?" if rare else text[:80]))
    return asked


class Teller:
    """Tells one story to one tenant."""

    def __init__(self, tenant: Tenant, story: Story, *, clock: ManualClock, embedder: Embedder) -> None:
        self._tenant = tenant
        self._story = story
        self._clock = clock
        self._embedder = embedder
        self._facts: dict[str, UUID] = {}

    async def tell(self, *, progress: Progress) -> dict[str, Any]:
        """Keep everything, ask everything, and return the document of it all.

        Raises:
            AlreadyExists: the tenant has memories or facts already: a story needs an empty one.
        """
        held = await self._tenant.memory.count() + (await self._tenant.graph.stats()).fact_versions
        if held:
            raise AlreadyExists(
                f"The tenant {self._tenant.id} has memories or facts already; the story is told to an empty one.",
                hint="Name another with --tenant.",
            )
        stored = await self._keep(progress)
        self._clock.set(SystemClock().now())
        questions = [await self._ask(question) for question in self._story.questions]
        times = await self._ask_times(self._story.times) if self._story.times else None
        context = await self._assemble()
        timings = await self._measure(stored)
        return {
            "title": self._story.title,
            "stored": stored,
            "questions": questions,
            "times": times,
            "context": context,
            "timings": timings,
            "versions": {
                "llmspell": __version__,
                "python": platform.python_version(),
                "model": self._embedder.model,
                "dimension": self._embedder.dimension,
            },
        }

    async def _keep(self, progress: Progress) -> dict[str, Any]:
        items, done = self._story.items, 0
        started = time.perf_counter()
        if self._story.facts:
            for chapter in _chapters(items):
                self._clock.set(_instant(chapter[-1]))
                await self._tenant.memory.add_many(chapter)
                await self._tell_facts(chapter)
                done += len(chapter)
                progress(done)
        else:
            await self._tenant.memory.add_many(items, progress=progress)
        took = time.perf_counter() - started
        graph = await self._tenant.graph.stats()
        instants = [_instant(item) for item in items]
        return {
            "memories": await self._tenant.memory.count(),
            "sessions": len({item.session for item in items}),
            "from": min(instants),
            "to": max(instants),
            "entities": graph.entities,
            "facts": graph.facts,
            "fact_versions": graph.fact_versions,
            "told": dict(Counter(fact.do for fact in self._story.facts)),
            "took_ms": round(took * 1e3, 1),
        }

    async def _tell_facts(self, chapter: Sequence[MemoryInput]) -> None:
        """Write what a chapter told into the graph, each at the instant of its turn."""
        said = {name: _instant(item) for name, item in _names(chapter).items()}
        for fact in sorted((f for f in self._story.facts if f.told in said), key=lambda f: said[f.told]):
            self._clock.set(said[fact.told])
            await self._write(fact)

    async def _write(self, fact: Told) -> None:
        graph, source = self._tenant.graph, f"turn {fact.told}"
        unset = msgspec.UNSET
        if fact.do == "assert":
            written = await graph.assert_fact(
                fact.subject,
                fact.predicate,
                fact.object,
                valid_from=fact.valid_from,
                valid_to=fact.valid_to,
                cardinality=fact.cardinality,  # type: ignore[arg-type]  # refused by the storage when it is another word
                source=source,
            )
            self._facts[fact.key] = written.id
        elif fact.do == "correct" and fact.fact in self._facts:
            await graph.correct(
                self._facts[fact.fact],
                object=fact.object or unset,
                valid_from=fact.valid_from or unset,
                valid_to=fact.valid_to or unset,
                source=source,
            )
        elif fact.do == "retract":
            await graph.retract(
                fact.subject, fact.predicate, fact.object or None, valid_from=fact.valid_from, valid_to=fact.valid_to
            )
        else:
            raise InvalidInput("facts", "must be assert, retract, or correct with the `key` of a fact", given=fact.do)

    async def _ask(self, question: Asked) -> dict[str, Any]:
        started = time.perf_counter()
        vector = await self._embedder.embed([question.text])
        embedded = time.perf_counter()
        hits = await self._search(question.text, vector[0], explain=True)
        done = time.perf_counter()
        return {
            "text": question.text,
            "found": found_by(hits[0]) if hits else None,
            "embedding_ms": round((embedded - started) * 1e3, 2),
            "search_ms": round((done - embedded) * 1e3, 2),
            "hits": [hit_document(hit) for hit in hits],
        }

    async def _search(self, text: str, vector: bytes, *, explain: bool = False) -> list[MemoryHit]:
        return await self._tenant.memory.search(
            text, limit=HITS, embedding=memoryview(vector).cast("f"), explain=explain
        )

    async def _ask_times(self, times: Times) -> dict[str, Any]:
        answers = []
        for known_at in times.known_at:
            for as_of in times.as_of:
                facts = await self._tenant.graph.facts(
                    subject=times.subject, predicate=times.predicate, as_of=as_of, known_at=known_at
                )
                answers.append({"as_of": as_of, "known_at": known_at, "answer": [fact.object for fact in facts]})
        said = _names(self._story.items)
        return {
            "question": times.question,
            "as_of": list(times.as_of),
            "known_at": list(times.known_at),
            "answers": answers,
            "told": [
                {"at": said[fact.told].at, "text": said[fact.told].text, **_recorded(fact, self._story.facts)}
                for fact in self._story.facts
                if _concerns(fact, times, self._story.facts)
            ],
        }

    async def _assemble(self) -> dict[str, Any]:
        question = self._story.context.text
        context = await self._tenant.context(question, max_tokens=self._story.max_tokens)
        return {"question": question, **msgspec.structs.asdict(context)}

    async def _measure(self, stored: Mapping[str, Any]) -> dict[str, float]:
        """Medians over every question, `REPEATS` times; the first calls have warmed everything by now."""
        texts = [question.text for question in self._story.questions]
        embedding, search = [], []
        for text in texts * REPEATS:
            started = time.perf_counter()
            (vector,) = await self._embedder.embed([text])
            embedded = time.perf_counter()
            await self._search(text, vector)
            embedding.append(embedded - started)
            search.append(time.perf_counter() - embedded)
        budget = self._story.max_tokens
        context = [
            (await self._tenant.context(text, max_tokens=budget)).took_ms / 1e3 for text in texts * (REPEATS // 3)
        ]
        together = [a + b for a, b in zip(embedding, search, strict=True)]
        return {
            "store_ms": stored["took_ms"],
            "store_per_memory_ms": round(stored["took_ms"] / stored["memories"], 2),
            "search_p50_ms": _median_ms(together),
            "search_p50_ms_without_embedder": _median_ms(search),
            "embedding_p50_ms": _median_ms(embedding),
            "context_p50_ms_without_embedder": _median_ms(context),
        }


def found_by(hit: MemoryHit) -> str:
    """Say which ranker found a hit: "meaning", "word", or "both" when each has it among its first three."""
    ranks = {match.ranker: match.rank for match in hit.explanation.matches} if hit.explanation else {}
    if WORDS not in ranks:
        return "meaning"
    return "both" if ranks.get(MEANING, CLEARLY_FIRST + 1) <= CLEARLY_FIRST else "word"


def hit_document(hit: MemoryHit) -> dict[str, Any]:
    """Return a hit as plain values: the memory, its score, and why it was found when that was asked."""
    memory = hit.memory
    return {
        "id": memory.id,
        "text": memory.content,
        "role": memory.role,
        "session": memory.session,
        "at": memory.at,
        "kind": memory.kind,
        "metadata": memory.metadata,
        "score": hit.score,
        "similarity": hit.similarity,
        **({"reason": hit.explanation.sentence, "matches": hit.explanation.matches} if hit.explanation else {}),
    }


def _chapters(items: Sequence[MemoryInput]) -> Iterator[list[MemoryInput]]:
    """Yield the items session by session, in the order of time."""
    ordered = sorted(items, key=_instant)
    for _, chapter in groupby(ordered, key=lambda item: item.session):
        yield list(chapter)


def _names(items: Sequence[MemoryInput]) -> dict[str, MemoryInput]:
    """Return items by the ids that their file gave them."""
    return {str(item.metadata.get("id", item.id)): item for item in items}


def _instant(item: MemoryInput) -> datetime:
    return parse_instant(item.at, field="at") if item.at is not None else SystemClock().now()


def _concerns(fact: Told, times: Times, facts: Sequence[Told]) -> bool:
    original = next((one for one in facts if one.key and one.key == fact.fact), fact)
    return (original.subject, original.predicate) == (times.subject, times.predicate)


def _recorded(fact: Told, facts: Sequence[Told]) -> dict[str, Any]:
    original = next((one for one in facts if one.key and one.key == fact.fact), None)
    return {
        "do": fact.do,
        "object": fact.object or None,
        "instead_of": original.object if original else None,
        "valid_from": fact.valid_from,
        "valid_to": fact.valid_to,
    }


def _median_ms(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 2)
