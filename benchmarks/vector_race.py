"""Engines on the same questions, in turns: each is aimed until it finds enough, every timed answer is compared with the exact one.

Rule 1: effort is the least of an engine's ladder with which the recall on all questions reaches `RECALL`; llmspell is told the
recall itself, and chooses. An engine that does not get there keeps the most effort, and its figure says so.
Rule 2: recall is that of the timed answers.
Rule 3: what llmspell claims is checked: too few hits, foreign hits, a false score or a recall below the claim make the run fail. A
claim about a share is held to three standard errors of the sample, a claim of 1 to the letter.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from interleaved import in_turns, interval, quantiles
from vector_data import Data, Exact
from vector_engines import OURS
from vector_ours import RECALL, WrongAnswer

BLOCKS = 20
PROBED = 100
"""Questions that look for the effort; all of them confirm it."""
STANDARD_ERRORS = 3
EXACT = "numpy"
PLAIN_GRAPHS = ("hnswlib", "faiss", "usearch")
PLAIN_EFFORT = 32


async def done(value: Any) -> Any:
    """Wait for what has to be waited for: llmspell is asynchronous, its peers are not."""
    return await value if inspect.isawaitable(value) else value


class Race:
    """Engines that hold the same data."""

    def __init__(self, engines: Mapping[str, Any], wrong: list[str]) -> None:
        self.engines = dict(engines)
        self.efforts: dict[str, int | None] = {}
        self._wrong = wrong

    async def run(self, data: Data, *, claim: float, label: str) -> dict[str, Any]:
        """Ask all questions, and return each engine's figures and how ours compares.

        Args:
            claim: the recall that llmspell must reach on these questions.
        """
        exact = Exact(data)
        self.efforts = {name: await self._aim(engine, data, exact) for name, engine in self.engines.items()}
        recalls: dict[str, list[float]] = {name: [] for name in self.engines}
        blocks = min(BLOCKS, len(data.questions))
        size = len(data.questions) // blocks
        turns = {name: self._turn(name, data, exact, recalls[name]) for name in self.engines}
        seconds = await in_turns(turns, blocks=blocks, size=size)
        found: dict[str, Any] = {}
        for name, engine in self.engines.items():
            recall = statistics.fmean(recalls[name])
            found[name] = {
                **quantiles([one for block in seconds[name] for one in block]),
                "recall": round(recall, 4),
                "effort": engine.effort if self.efforts[name] is None else f"{engine.effort} {self.efforts[name]}",
                "recall_reached": recall >= RECALL,
            }
        if EXACT in self.engines and statistics.fmean(recalls[EXACT]) < 1:
            self._wrong.append(f"{EXACT}, {label}: exact search differs from the exact answers")
        if OURS in self.engines:
            self._judge(recalls[OURS], claim=claim, label=label)
            found["llmspell_over"] = {
                name: _ratio(seconds[OURS], seconds[name]) for name in self.engines if name != OURS
            }
        return found

    async def plain_recall(self, data: Data) -> dict[str, Any]:
        """The recall of a plain graph at ef 32: how hard the set is."""
        exact = Exact(data)
        for name in PLAIN_GRAPHS:
            if name in self.engines:
                recall = await self._recall(self.engines[name], data, exact, PLAIN_EFFORT)
                return {"engine": name, "ef": PLAIN_EFFORT, "recall": round(recall, 4)}
        return {}

    def _turn(self, name: str, data: Data, exact: Exact, recalls: list[float]) -> Any:
        async def turn(first: int, size: int) -> list[float]:
            engine, questions = self.engines[name], data.questions[first : first + size]
            measured = await done(engine.measure(questions))
            for number, (_, answer) in enumerate(measured, first):
                recalls.append(self._checked(name, answer, data, exact, number))
            return [seconds for seconds, _ in measured]

        return turn

    def _checked(self, name: str, answer: Any, data: Data, exact: Exact, number: int) -> float:
        question = data.questions[number]
        try:
            rows = self.engines[name].found(answer, question)
        except WrongAnswer as error:
            self._wrong.append(f"{name}, {data.name}, question {number}: {error}")
            return 0.0
        if name == OURS and len(rows) != exact.wanted(number):
            self._wrong.append(f"{name}, {data.name}, question {number}: {len(rows)} hits, not {exact.wanted(number)}")
        return exact.recall(number, rows)

    def _judge(self, recalls: list[float], *, claim: float, label: str) -> None:
        if short_of(claim, recalls):
            self._wrong.append(f"{OURS}, {label}: recall {statistics.fmean(recalls):.4f}, claimed {claim}")

    async def _aim(self, engine: Any, data: Data, exact: Exact) -> int | None:
        """Aim an engine with the least effort that is enough, and return it; one pass over all questions warms everybody up."""
        if len(engine.ladder) < 2:
            await done(engine.measure(data.questions[:PROBED]))
            return None
        low, high = 0, len(engine.ladder) - 1
        while low < high:
            middle = (low + high) // 2
            if await self._recall(engine, data, exact, engine.ladder[middle], count=PROBED) >= RECALL:
                high = middle
            else:
                low = middle + 1
        for effort in engine.ladder[low:]:
            if await self._recall(engine, data, exact, effort) >= RECALL:
                break
        return int(effort)

    async def _recall(self, engine: Any, data: Data, exact: Exact, effort: int, *, count: int | None = None) -> float:
        await done(engine.aim(effort))
        questions = data.questions[:count]
        answers = await done(engine.measure(questions))
        return statistics.fmean(
            exact.recall(number, engine.found(answer, questions[number])) for number, (_, answer) in enumerate(answers)
        )


def short_of(claim: float, recalls: Sequence[float]) -> bool:
    """Whether the recall of these questions contradicts a claim."""
    slack = 0.0 if claim == 1 else STANDARD_ERRORS * statistics.pstdev(recalls) / math.sqrt(len(recalls))
    return statistics.fmean(recalls) < claim - slack


def _ratio(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """The ratio of medians, block by block: its median, and the interval that has it with 95 %."""
    ratios = [statistics.median(mine) / statistics.median(other) for mine, other in zip(ours, theirs, strict=True)]
    low, high = interval(ratios)
    return {"ratio": round(statistics.median(ratios), 3), "interval_95": [round(low, 3), round(high, 3)]}
