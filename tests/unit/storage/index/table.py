"""A space in a database, in plain Python: what `storage.index` is filled from, and what its answers are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmspell.codec import encode_json
from llmspell.storage.contracts.filters import Node, parse
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index.columns import Payload
from llmspell.storage.index.exact import Rows, Words, make_rows, owner_bytes, owner_words, part_numbers
from llmspell.storage.index.space import Changes, Source, Version, View, changes_of
from llmspell.storage.inmemory.filters import matches

PAGE = 3
Key = tuple[bytes, int]


class Row(msgspec.Struct, frozen=True):
    """`order`: rows of one change come in it."""

    seq: int
    order: int
    embedding: bytes
    metadata: dict[str, object]

    def payload(self) -> Payload:
        return Payload("default", 0, 0, encode_json(self.metadata))


@dataclass
class Table:
    """Rows by (owner, part); a log of what went and what was rewritten; and how many rows were read in pages."""

    dimension: int = 8
    rows: dict[Key, Row] = field(default_factory=dict)
    log: list[tuple[bytes, int, int, int]] = field(default_factory=list)
    change: int = 0
    deletion: int = 0
    logged_from: int = 0
    token: str | None = None
    read: int = 0
    ordered: int = 0

    def insert(self, *names: object, parts: int = 1, metadata: dict[str, object] | None = None) -> None:
        """Insert owners by their names, with vectors that are drawn from these and the change."""
        self.change += 1
        for name in names:
            for part in range(parts):
                source = np.random.default_rng([self.change, part, *owner(name)])
                vector = source.normal(size=self.dimension).astype("<f4")
                self.put(name, part, vector.tobytes(), metadata or {"name": str(name)})

    def put(self, name: object, part: int, embedding: bytes, metadata: dict[str, object] | None = None) -> None:
        """Insert one row into the newest change."""
        self.ordered += 1
        assert (owner(name), part) not in self.rows
        self.rows[owner(name), part] = Row(self.change, self.ordered, embedding, metadata or {})

    def delete(self, *names: object) -> None:
        self.change += 1
        self.deletion = self.change
        gone = [key for key in self.rows if key[0] in set(map(owner, names))]
        for key in gone:
            del self.rows[key]
            self.log.append((*key, self.change, 1))

    def rewrite(self, name: object, metadata: dict[str, object]) -> None:
        self.change += 1
        self.deletion = self.change
        for key, row in self.rows.items():
            if key[0] == owner(name):
                self.rows[key] = msgspec.structs.replace(row, metadata=metadata)
                self.log.append((*key, self.change, 0))

    def forget_log(self) -> None:
        """Drop the log, as a database does after some thousands of changes."""
        self.log = []
        self.logged_from = self.change

    def source(self) -> Source:
        """What a snapshot taken now sees, also after later changes."""
        frozen = sorted(((row.seq, row.order, key, row) for key, row in self.rows.items()), key=lambda item: item[:2])
        by_key = dict(self.rows)
        log = list(self.log)

        def pages(after: int) -> Iterator[Rows]:
            newer = [item for item in frozen if item[0] > after]
            for start in range(0, len(newer), PAGE):
                page = newer[start : start + PAGE]
                self.read += len(page)
                yield make_rows(
                    [row.embedding for _, _, _, row in page],
                    dimension=self.dimension,
                    owners=[key[0] for _, _, key, _ in page],
                    parts=[key[1] for _, _, key, _ in page],
                    seqs=[seq for seq, *_ in page],
                    places=[row.order for *_, row in page],
                )

        def present() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
            return owner_words([key[0] for key in by_key]), part_numbers([key[1] for key in by_key])

        def changes(after: int) -> Changes:
            assert after >= self_logged_from, "the log does not go back so far"
            return changes_of([entry for entry in log if entry[2] > after])

        def payload(owners: np.ndarray, parts: np.ndarray) -> list[Payload | None]:  # type: ignore[type-arg]
            keys = zip(owner_bytes(owners), parts.tolist(), strict=True)
            return [by_key[key].payload() if key in by_key else None for key in keys]

        self_logged_from = self.logged_from
        return Source(
            dimension=self.dimension,
            version=Version(self.change, self.deletion, self.logged_from),
            token=self.token,
            pages=pages,
            present=present,
            changes=changes,
            payloads=lambda after: [row.payload() for seq, _, _, row in frozen if seq > after],
            payload=payload,
        )

    def fetch(self, owners: Words, parts: NDArray[np.int32], places: NDArray[np.int64]) -> list[bytes] | None:
        """The float32 rows of owners and parts, as a search asks for them."""
        rows = [self.rows.get(key) for key in zip(owner_bytes(owners), parts.tolist(), strict=True)]
        for row, place in zip(rows, places.tolist(), strict=True):
            assert row is None or row.order == place, "a row was not where it is said to be"
        return None if None in rows else [row.embedding for row in rows if row is not None]

    def nearest(self, query: Sequence[float], limit: int, where: Node | None = None) -> list[tuple[bytes, float]]:
        """Brute force in plain Python."""
        asked = np.asarray(query, "<f4").astype(float).tolist()
        length = math.sqrt(math.fsum(a * a for a in asked))
        best: dict[bytes, float] = {}
        for (name, _), row in self.rows.items():
            if where is not None and not matches(where, {}, row.metadata):
                continue
            stored = np.frombuffer(row.embedding, "<f4").astype(float).tolist()
            norm = math.sqrt(math.fsum(a * a for a in stored))
            score = math.fsum(a * b for a, b in zip(stored, asked, strict=True)) / norm / length
            best[name] = max(best.get(name, -2.0), round(max(-1.0, min(1.0, score)), 6) + 0.0)
        return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:limit]


def owner(name: object) -> bytes:
    return str(name).encode().rjust(16, b"\0")


def where(filters: dict[str, object]) -> Node:
    node = parse(filters, FILTER_FIELDS)
    assert node is not None
    return node


def names(view: View | None) -> list[str]:
    """The owners that a view sees, sorted; one with several windows several times."""
    assert view is not None
    positions = np.arange(len(view)) if view.alive is None else np.flatnonzero(view.alive)
    return sorted(id.lstrip(b"\0").decode() for id in owner_bytes(view.owners(positions)))
