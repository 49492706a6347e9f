"""What can be asked of the knowledge graph on a database.

Not here: changes (`graph`), walks over several steps (`graph_walk`).
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from llmspell.clock import optional_instant
from llmspell.codec import require_limit
from llmspell.ids import parse_id
from llmspell.storage.contracts import graph_checks as checks
from llmspell.storage.contracts.graph import (
    DEPTH_MAX,
    NEIGHBOURS_MAX,
    PATHS_MAX,
    VISITED_MAX,
    Direction,
    Entity,
    Fact,
    GraphStats,
    Path,
    Reached,
)
from llmspell.storage.relational import graph_walk
from llmspell.storage.relational.database import Executor, Unit
from llmspell.storage.relational.graph_rows import GraphRows
from llmspell.storage.relational.runtime import Runtime

T = TypeVar("T")
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
"""Known "now": only what is believed for ever on the recorded axis ends after it."""


class GraphReads:
    """The reading half of `Graph`, by the queries of `graph.sql`."""

    def __init__(self, unit: Unit, runtime: Runtime) -> None:
        self._unit = unit
        self._runtime = runtime
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.graph
        self._rows = GraphRows(runtime)

    async def _ids_of(self, executor: Executor, names: Sequence[str]) -> dict[str, UUID]:
        rows = await executor.rows(self._queries.entity_ids, names=self._dialect.array(sorted(set(names))))
        return {name: self._dialect.to_id(id) for name, id in rows}

    async def _id_of(self, executor: Executor, entity: str | UUID) -> UUID | None:
        return entity if isinstance(entity, UUID) else (await self._ids_of(executor, [entity])).get(entity)

    def _at(self, as_of: datetime | None, known_at: datetime | None) -> dict[str, Any]:
        """Return the parameters of both axes."""
        valid = optional_instant(as_of, field="as_of") or self._runtime.clock.now()
        known = optional_instant(known_at, field="known_at") or LATEST
        return {"as_of": self._dialect.instant(valid), "known": self._dialect.instant(known)}

    async def get_entity(
        self, entity: str | UUID, *, as_of: datetime | None = None, known_at: datetime | None = None
    ) -> Entity | None:
        at = self._at(as_of, known_at)
        id = await self._id_of(self._unit, checks.require_entity(entity))
        if id is None:
            return None
        row = await self._unit.row(self._queries.entity_at, id=self._dialect.id(id), **at)
        return None if row is None else self._rows.entity(row)

    async def list_entities(
        self,
        *,
        type: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> builtins.list[Entity]:
        require_limit(limit)
        checks.require_type(type, field="type")
        if after is not None:
            checks.require_name(after, field="after")
        of_type = {} if type is None else {"type": type}
        rows = await self._unit.rows(
            self._queries.list_entities.filtered("e.entity_type = :type")
            if of_type
            else self._queries.list_entities.filtered(),
            after=after or "",
            limit=limit,
            **of_type,
            **self._at(as_of, known_at),
        )
        return [self._rows.entity(row) for row in rows]

    async def facts(
        self,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        any_time: bool = False,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        require_limit(limit)
        checks.require_pattern(subject, predicate, object)
        names = [name for name in (subject, object) if name is not None]
        at = self._at(as_of, known_at)
        ids = await self._ids_of(self._unit, names) if names else {}
        if any(name not in ids for name in names):
            return []
        conditions, parameters = [], {"known": at["known"]}
        if subject is not None:
            conditions.append("r.from_entity = :subject")
            parameters["subject"] = self._dialect.id(ids[subject])
        if object is not None:
            conditions.append("r.to_entity = :object")
            parameters["object"] = self._dialect.id(ids[object])
        if predicate is not None:
            conditions.append("r.relationship_type = :predicate")
            parameters["predicate"] = predicate
        if not any_time:
            conditions.append("r.valid_time_start <= :as_of AND r.valid_time_end > :as_of")
            parameters["as_of"] = at["as_of"]
        query = self._queries.facts.filtered(" AND ".join(conditions))
        return [self._rows.fact(row) for row in await self._unit.rows(query, limit=limit, **parameters)]

    async def neighbours(
        self,
        entity: str | UUID,
        *,
        predicate: str | None = None,
        direction: Direction = "both",
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 100,
    ) -> builtins.list[Fact]:
        require_limit(limit, maximum=NEIGHBOURS_MAX)
        checks.require_direction(direction)
        if predicate is not None:
            checks.require_predicate(predicate)
        at = self._at(as_of, known_at)
        if isinstance(checks.require_entity(entity), UUID):
            query = self._queries.touching
            everywhere, nowhere = self._dialect.array([entity]), self._dialect.array([])
        else:
            query, everywhere, nowhere = self._queries.touching_name, entity, None
        of_predicate = {} if predicate is None else {"predicate": predicate}
        rows = await self._unit.rows(
            query.filtered("r.relationship_type = :predicate") if of_predicate else query.filtered(),
            outgoing=nowhere if direction == "in" else everywhere,
            incoming=nowhere if direction == "out" else everywhere,
            limit=limit,
            **of_predicate,
            **at,
        )
        return [self._rows.fact(row) for row in rows]

    async def _touching(
        self, executor: Executor, ids: Sequence[UUID], at: Mapping[str, Any], *, predicate: str | None = None
    ) -> builtins.list[Fact]:
        """Return the facts at a frontier, in the order of `neighbours`."""
        of_predicate = {} if predicate is None else {"predicate": predicate}
        query = self._queries.touching
        frontier = self._dialect.array(list(ids))
        rows = await executor.rows(
            query.filtered("r.relationship_type = :predicate") if of_predicate else query.filtered(),
            outgoing=frontier,
            incoming=frontier,
            limit=VISITED_MAX,
            **of_predicate,
            **at,
        )
        return [self._rows.fact(row) for row in rows]

    async def traverse(
        self,
        start: str | UUID,
        *,
        predicate: str | None = None,
        max_depth: int = 2,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 100,
    ) -> builtins.list[Reached]:
        require_limit(limit)
        require_limit(max_depth, field="max_depth", maximum=DEPTH_MAX)
        if predicate is not None:
            checks.require_predicate(predicate)
        checks.require_entity(start, field="start")
        at = self._at(as_of, known_at)

        async def work(executor: Executor) -> builtins.list[Reached]:
            id = await self._id_of(executor, start)
            if id is None:
                return []
            step: graph_walk.Touching = lambda ids: self._touching(executor, ids, at, predicate=predicate)  # noqa: E731
            return await graph_walk.traverse(id, step, max_depth=max_depth, limit=limit)

        return await self._unit.read(work)

    async def paths(
        self,
        start: str | UUID,
        end: str | UUID,
        *,
        max_depth: int = 4,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 10,
    ) -> builtins.list[Path]:
        require_limit(limit, maximum=PATHS_MAX)
        require_limit(max_depth, field="max_depth", maximum=DEPTH_MAX)
        checks.require_entity(start, field="start")
        checks.require_entity(end, field="end")
        at = self._at(as_of, known_at)

        async def work(executor: Executor) -> builtins.list[Path]:
            first, last = await self._id_of(executor, start), await self._id_of(executor, end)
            if first is None or last is None or first == last:
                return []
            name = start if isinstance(start, str) else await self._name_of(executor, first)
            step: graph_walk.Touching = lambda ids: self._touching(executor, ids, at)  # noqa: E731
            return await graph_walk.paths((first, name), last, step, max_depth=max_depth, limit=limit)

        return await self._unit.read(work)

    async def _name_of(self, executor: Executor, id: UUID) -> str:
        rows = await executor.rows(self._queries.entity_history, id=self._dialect.id(id))
        return self._rows.entity(rows[0]).name if rows else ""

    async def mentioned(
        self,
        names: Sequence[str],
        *,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        limit: int = 20,
    ) -> builtins.list[Entity]:
        require_limit(limit)
        folded = sorted(checks.require_names(names))
        at = self._at(as_of, known_at)
        if not folded:
            return []
        rows = await self._unit.rows(
            self._queries.mentioned,
            names=self._dialect.array(folded),
            limit=limit,
            **at,
        )
        return [self._rows.entity(row) for row in rows]

    async def history(self, fact_id: UUID) -> builtins.list[Fact]:
        rows = await self._unit.rows(self._queries.history, id=self._dialect.id(parse_id(fact_id, field="fact_id")))
        return [self._rows.fact(row) for row in rows]

    async def entity_history(self, entity: str | UUID) -> builtins.list[Entity]:
        id = await self._id_of(self._unit, checks.require_entity(entity))
        rows = [] if id is None else await self._unit.rows(self._queries.entity_history, id=self._dialect.id(id))
        return [self._rows.entity(row) for row in rows]

    async def stats(self) -> GraphStats:
        now = self._dialect.instant(self._runtime.clock.now())
        row = await self._unit.row(self._queries.stats, as_of=now, forever=self._dialect.open_end(None))
        entities, facts, entity_versions, fact_versions = row or (0, 0, 0, 0)
        return GraphStats(entities=entities, facts=facts, entity_versions=entity_versions, fact_versions=fact_versions)
