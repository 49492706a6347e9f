"""Graph versions between records and rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llmspell.storage.contracts.graph import Entity, Fact
from llmspell.storage.relational.database import Row, Statement
from llmspell.storage.relational.runtime import Runtime


class GraphRows:
    """The conversions, bound to a dialect, and the statements that close and record versions."""

    def __init__(self, runtime: Runtime) -> None:
        self._dialect = runtime.dialect
        self._queries = runtime.catalog.graph

    def entity(self, row: Row) -> Entity:
        """Return the entity of a row."""
        dialect = self._dialect
        id, name, type_, properties, valid_from, valid_to, recorded_from, recorded_to, source, actor = row
        return Entity(
            id=dialect.to_id(id),
            name=name,
            type=type_,
            properties=dialect.to_json(properties),
            valid_from=dialect.to_instant(valid_from),
            valid_to=dialect.to_open_end(valid_to),
            recorded_from=dialect.to_instant(recorded_from),
            recorded_to=dialect.to_open_end(recorded_to),
            source=source,
            actor=actor,
        )

    def fact(self, row: Row) -> Fact:
        """Return the fact of a row."""
        dialect = self._dialect
        id, subject_id, subject, predicate, object_id, object, properties, confidence = row[:8]
        valid_from, valid_to, recorded_from, recorded_to, source, actor = row[8:]
        return Fact(
            id=dialect.to_id(id),
            subject_id=dialect.to_id(subject_id),
            subject=subject,
            predicate=predicate,
            object_id=dialect.to_id(object_id),
            object=object,
            properties=dialect.to_json(properties),
            confidence=confidence,
            valid_from=dialect.to_instant(valid_from),
            valid_to=dialect.to_open_end(valid_to),
            recorded_from=dialect.to_instant(recorded_from),
            recorded_to=dialect.to_open_end(recorded_to),
            source=source,
            actor=actor,
        )

    def record(self, version: Entity | Fact) -> Statement:
        """Return the statement that records a version."""
        return self._record_fact(version) if isinstance(version, Fact) else self._record_entity(version)

    def _record_entity(self, entity: Entity) -> Statement:
        return self._queries.insert_entity, {
            "id": self._dialect.id(entity.id),
            "type": entity.type,
            "name": entity.name,
            "name_folded": entity.name.casefold(),
            "properties": self._dialect.json(entity.properties),
            **self._period(entity),
        }

    def _record_fact(self, fact: Fact) -> Statement:
        return self._queries.insert_fact, {
            "id": self._dialect.id(fact.id),
            "subject": self._dialect.id(fact.subject_id),
            "object": self._dialect.id(fact.object_id),
            "predicate": fact.predicate,
            "properties": self._dialect.json(fact.properties),
            "confidence": fact.confidence,
            **self._period(fact),
        }

    def _period(self, version: Entity | Fact) -> dict[str, Any]:
        return {
            "valid_from": self._dialect.instant(version.valid_from),
            "valid_to": self._dialect.open_end(version.valid_to),
            "recorded": self._dialect.instant(version.recorded_from),
            "forever": self._dialect.open_end(None),
            "source": version.source,
            "actor": version.actor,
        }

    def close(self, version: Entity | Fact, recorded: datetime) -> Statement:
        """Return the statement that ends the belief in a version.

        A version of this very transaction is taken back instead: it was never believed at any recorded instant.
        """
        is_fact = isinstance(version, Fact)
        parameters = {
            "id": self._dialect.id(version.id),
            "recorded": self._dialect.instant(recorded),
            "valid_from": self._dialect.instant(version.valid_from),
        }
        if version.recorded_from == recorded:
            return (self._queries.undo_fact if is_fact else self._queries.undo_entity), parameters
        closing = {**parameters, "recorded_from": self._dialect.instant(version.recorded_from)}
        return (self._queries.close_fact if is_fact else self._queries.close_entity), closing
