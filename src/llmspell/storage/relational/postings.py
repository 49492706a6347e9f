"""Full text on a database: postings and statistics, kept in the transaction of the write that they describe.

Rule 1: an owner's terms and its share of the statistics come and go together.
Rule 2: statistics are deltas, one row per write, so that writers of one tenant never wait for each other; now and then they are
folded into one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from llmspell.errors import Conflict, LlmspellError
from llmspell.storage.contracts.memories import TEXT_COLLECTION, Scored
from llmspell.storage.relational.database import Executor, Statement, Unit
from llmspell.storage.relational.filters import Compiled
from llmspell.storage.relational.runtime import Runtime
from llmspell.storage.text.bm25 import plan_terms

logger = logging.getLogger(__name__)
FOLD_EVERY = 64
"""On average one write in so many folds the deltas; a search then sums about as many rows."""
FOLD_MIN = 2
FOLD_MAX = 1_024
"""The most deltas that one fold reads."""


class Postings:
    """The terms of one collection of texts."""

    def __init__(self, runtime: Runtime, collection: str = TEXT_COLLECTION) -> None:
        self._runtime = runtime
        self._queries = runtime.catalog.postings
        self._collection = collection

    def counts(self, text: str) -> tuple[dict[str, int], int]:
        """Return the terms of a text with their frequencies, and how many terms it has."""
        counts = self._runtime.analyser.counts(text)
        return counts, sum(counts.values())

    def added(self, texts: Mapping[UUID, Mapping[str, int]]) -> list[Statement]:
        """Return the statements that index owners by the terms of their texts."""
        records = [
            {"term": term, "owner": str(owner), "tf": tf, "length": sum(counts.values())}
            for owner, counts in texts.items()
            for term, tf in counts.items()
        ]
        total = sum(sum(counts.values()) for counts in texts.values())
        statements: list[Statement] = [self._delta(len(texts), total)]
        if records:
            rows = self._runtime.dialect.json(records)
            statements.append((self._queries.add, {"collection": self._collection, "rows": rows}))
        return statements

    def removed(self, lengths: Mapping[UUID, int]) -> list[Statement]:
        """Return the statements that drop owners from the index; `lengths` is how many terms each of them had."""
        ids = self._runtime.dialect.array(sorted(lengths))
        return [
            self._delta(-len(lengths), -sum(lengths.values())),
            (self._queries.remove, {"collection": self._collection, "ids": ids}),
        ]

    def _delta(self, documents: int, terms: int) -> Statement:
        delta_id = self._runtime.dialect.id(self._runtime.ids.new())
        return self._queries.add_stats, {
            "collection": self._collection,
            "delta_id": delta_id,
            "documents": documents,
            "terms": terms,
        }

    async def rank_memories(
        self, executor: Executor, text: str, *, limit: int, where: Compiled, now: Any
    ) -> list[Scored]:
        """Rank live memories by BM25 for a query text."""
        terms = list(self._runtime.analyser.query_counts(text))
        documents, total = await executor.row(self._queries.stats, collection=self._collection) or (0, 0)
        if not terms or not documents or not total:
            return []
        found = await executor.rows(
            self._queries.frequencies, collection=self._collection, terms=self._runtime.dialect.array(terms)
        )
        plan = plan_terms(terms, dict(found), int(documents))
        generating = set(plan.generating)
        if not generating:
            return []
        weighted = [{"term": one.term, "idf": one.idf, "generates": one.term in generating} for one in plan.scoring]
        rows = await executor.rows(
            self._queries.rank_memories.filtered(where.fragment),
            collection=self._collection,
            terms=self._runtime.dialect.json(weighted),
            average=float(total) / float(documents),
            now=now,
            limit=limit,
            **where.parameters,
        )
        return [Scored(self._runtime.dialect.to_id(owner), float(score)) for owner, score in rows]

    async def fold_sometimes(self, unit: Unit) -> None:
        """Fold the deltas of this tenant into one, on average every `FOLD_EVERY` calls; call it after a write.

        Nothing is raised: the write before it is acknowledged, and must not look failed for a tidying that can wait.
        """
        if unit.in_transaction:  # its locks would last as long as the transaction
            return
        if self._runtime.ids.new().int % FOLD_EVERY == 0:
            try:
                await unit.write(self._fold)
            except LlmspellError as error:
                logger.debug("statistics of words are not folded this time: %s", error)

    async def _fold(self, executor: Executor) -> None:
        deltas: Sequence[tuple[Any, ...]] = await executor.rows(
            self._queries.deltas, collection=self._collection, limit=FOLD_MAX
        )
        if len(deltas) < FOLD_MIN:
            return
        ids = [self._runtime.dialect.to_id(row[0]) for row in deltas]
        dropped = await executor.execute(
            self._queries.drop_deltas, collection=self._collection, ids=self._runtime.dialect.array(ids)
        )
        if dropped != len(deltas):
            raise Conflict("Another writer folds the statistics.")
        query, parameters = self._delta(sum(row[1] for row in deltas), sum(row[2] for row in deltas))
        await executor.batch([(query, parameters)])
