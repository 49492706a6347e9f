"""llmspell as `vectors.py` asks it: a file with synchronous=FULL, everything through the public API, one call at a time.

The metadata and the score of every hit are compared with what was stored and with the true score: a wrong one ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from vector_data import TOLERANCE, Data, K, Question, true_score

RECALL = 0.99


class WrongAnswer(Exception):
    """An engine gave something that was never stored, or a score that is not so."""


class Llmspell:
    """A store in a file; each tenant of the data is a tenant of it."""

    name, package, module = "llmspell", "llmspell", "llmspell"
    ladder: ClassVar[Sequence[int]] = ()
    effort: ClassVar[str] = f"recall={RECALL}"
    persists: ClassVar[bool] = True
    build_batch: ClassVar[int] = 5_000

    async def start(self, folder: Path, data: Data) -> None:
        """Make an empty store."""
        self._data: Data | None = data
        await self._connect(folder)
        for tenant in range(len(data.tenants) - 1):
            await self._spell.tenants.create(f"tenant-{tenant}")
        self._tenants = [self._spell.tenant(f"tenant-{tenant}") for tenant in range(len(data.tenants) - 1)]

    async def _connect(self, folder: Path) -> None:
        import llmspell

        self._opening = llmspell.connect(
            f"sqlite:///{folder}/vectors.db", settings=llmspell.Settings(), embedder="hashing"
        )
        self._spell = await self._opening.__aenter__()

    async def build(self, folder: Path, data: Data) -> None:
        """Store the rows, and wait for the index."""
        await self.start(folder, data)
        for tenant in range(len(data.tenants) - 1):
            rows = data.of(tenant)
            for first in range(rows.start, rows.stop, self.build_batch):
                batch = range(first, min(rows.stop, first + self.build_batch))
                await self.insert(self.prepared(data, batch, tenant))
        await self.finish(data)

    async def open(self, folder: Path) -> None:
        """Open what another process has built."""
        self._data = None
        await self._connect(folder)
        self._tenants = [self._spell.tenant("tenant-0")]

    def prepared(self, data: Data, rows: range, tenant: int = 0) -> Any:
        """Return rows as `insert` takes them."""
        return tenant, [{"embedding": data.vectors[row], "metadata": data.metadata(row)} for row in rows]

    async def insert(self, batch: Any) -> None:
        """Store a prepared batch: durable, and searchable when this returns."""
        tenant, entries = batch
        await self._tenants[tenant].vectors.insert(entries)

    async def finish(self, data: Data) -> None:
        """Wait for the index, and count what is stored."""
        for number, tenant in enumerate(self._tenants):
            await tenant.vectors.build_index()
            stored = (await tenant.vectors.stats()).total_vectors
            if stored != data.tenants[number + 1] - data.tenants[number]:
                raise WrongAnswer(f"tenant-{number} has {stored} vectors")

    async def status(self) -> list[Any]:
        """What the first tenant's index says of itself."""
        return list(await self._tenants[0].vectors.index_status())

    def aim(self, effort: int) -> None:
        """Nothing: a search names the recall that it wants."""

    async def search(self, question: Question) -> Any:
        """Answer one question."""
        filters = None if question.where is None else {f"metadata.{question.where[0]}": question.where[1]}
        vectors = self._tenants[question.tenant].vectors
        return await vectors.search(question.vector, limit=K, filters=filters, recall=RECALL)

    async def measure(self, questions: Sequence[Question]) -> list[tuple[float, Any]]:
        """Ask one question after the other; return the seconds and the answer of each."""
        measured = []
        for question in questions:
            started = time.perf_counter()
            answer = await self.search(question)
            measured.append((time.perf_counter() - started, answer))
        return measured

    def found(self, answer: Any, question: Question) -> list[int]:
        """Return the rows of an answer.

        Raises:
            WrongAnswer: a hit has other metadata than was stored, or another score than its vector has.
        """
        rows = [hit.metadata["n"] for hit in answer]
        for row, hit in zip(rows, answer, strict=True):
            if self._data is None:
                continue
            if hit.metadata != self._data.metadata(row):
                raise WrongAnswer(f"row {row} came with the metadata {hit.metadata}")
            if abs(hit.score - true_score(self._data, row, question)) > TOLERANCE:
                raise WrongAnswer(f"row {row} has the score {true_score(self._data, row, question)}, not {hit.score}")
        return rows

    async def close(self) -> None:
        """Close the store."""
        await self._opening.__aexit__(None, None, None)
