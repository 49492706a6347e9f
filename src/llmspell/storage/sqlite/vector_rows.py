"""The rows of one space as one snapshot sees them: what the index in process is filled from, and scored by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmspell.storage.relational.catalog import Catalog
from llmspell.storage.relational.database import Row
from llmspell.storage.sqlite.connection import drive
from llmspell.storage.sqlite.database import ConnectionExecutor

if TYPE_CHECKING:  # numpy is loaded by the first search, not by the first import
    from llmspell.storage.index.blocks import Words
    from llmspell.storage.index.columns import Payload
    from llmspell.storage.index.exact import Rows
    from llmspell.storage.index.space import Changes, Source

PAGE_BYTES: Final = 16 * 1024 * 1024
"""Vectors read from the file at a time."""
FLOAT32_BYTES: Final = 4
_BEYOND: Final = 2**63 - 1


def _hex_list(ids: Sequence[bytes]) -> str:
    """Return ids of 16 bytes as the JSON list that queries unpack: what `dialect.array` gives, in a tenth of the time."""
    whole = b"".join(ids).hex()
    return '["' + '","'.join(whole[start : start + 32] for start in range(0, len(whole), 32)) + '"]' if ids else "[]"


class SpaceRows:
    """One space as one snapshot sees it."""

    def __init__(self, catalog: Catalog, executor: ConnectionExecutor, id: str, dimension: int) -> None:
        self._queries = catalog.nearest
        self.executor = executor
        self.id = id
        self.dimension = dimension
        self.payload: dict[bytes, tuple[str, str]] = {}
        """Scope and metadata of the owners whose vectors were read."""

    def source(self) -> Source | None:
        """Return the space as `storage.index` reads it; None when there is no such space."""
        from llmspell.storage.index.space import Source, Version

        rows = self._rows("state")
        if not rows:
            return None
        change, deletion, logged_from, token = rows[0]
        version = Version(change, deletion, logged_from)
        return Source(
            dimension=self.dimension,
            version=version,
            token=token,
            pages=self.pages,
            present=self.present,
            changes=self.changes,
            payloads=self.payloads,
            payload=self.payloads_of,
        )

    def pages(self, after: int) -> Iterator[Rows]:
        """Yield the rows of changes after `after`, in order."""
        from llmspell.storage.index.exact import make_rows

        for page in self._pages("load", after):
            seqs, places, owners, parts, embeddings = zip(*page, strict=True)
            yield make_rows(embeddings, dimension=self.dimension, owners=owners, parts=parts, seqs=seqs, places=places)

    def payloads(self, after: int) -> Iterator[Payload]:
        """Yield what filters ask of these rows, in the same order."""
        from llmspell.storage.index.columns import Payload

        for page in self._pages("payloads", after):
            for _, _, *payload in page:
                yield Payload(*payload)

    def _pages(self, name: str, after: int) -> Iterator[list[Row]]:
        most = max(1, PAGE_BYTES // (self.dimension * FLOAT32_BYTES))
        seq, row = after, _BEYOND
        while True:
            page = self._rows_of(name, seq=seq, row=row, limit=most)
            if page:
                seq, row = page[-1][:2]
                yield page
            if len(page) < most:
                return

    def payloads_of(self, owners: Words, parts: Any) -> Iterable[Payload | None]:
        """Return what filters ask of some rows, in the order given; None for those that are not there."""
        from llmspell.storage.index.columns import Payload
        from llmspell.storage.index.exact import owner_bytes

        ids = owner_bytes(owners)
        rows = self._rows_of("payloads_of", owners=_hex_list(list(dict.fromkeys(ids))))
        found = {(owner, part): Payload(*payload) for owner, part, *payload in rows}
        return [found.get(key) for key in zip(ids, parts.tolist(), strict=True)]

    def embeddings(self, owners: Words, parts: Any, places: Any) -> list[bytes] | None:
        """Return the vectors of rows, in order; None when any of them is not there.

        `places`: the rowid that each had when it was read. A VACUUM may move rows, and another row may stand in a place since; then
        owners are looked up.
        """
        from llmspell.storage.index.exact import owner_bytes

        rows = self._rows_of("embeddings_at", places=str(places.tolist()))
        if rows:
            found_owners, found_parts, embeddings, *payload = zip(*rows, strict=True)
            if b"".join(found_owners) == owners.astype(">u8").tobytes() and list(found_parts) == parts.tolist():
                self.payload.update(zip(found_owners, zip(*payload, strict=True), strict=True))
                return list(embeddings)
        keys = list(zip(owner_bytes(owners), parts.tolist(), strict=True))
        found = {(owner, part): row for owner, part, *row in rows}
        moved = dict.fromkeys(key[0] for key in keys if key not in found)
        more = self._rows_of("embeddings", owners=_hex_list(list(moved))) if moved else []
        found |= {(owner, part): row for owner, part, *row in more}
        if any(key not in found for key in keys):
            return None
        self.payload.update((key[0], tuple(found[key][1:])) for key in keys)
        return [found[key][0] for key in keys]

    def matching(self, name: str, fragment: str, **parameters: Any) -> list[bytes]:
        """Return the owners that a compiled filter accepts."""
        query = self._queries.of(name, self.dimension).filtered(fragment)
        return [row[0] for row in drive(self.executor.rows(query, space_id=self.id, **parameters))]

    def present(self) -> tuple[Any, Any]:
        """Return owners and parts of all rows."""
        from llmspell.storage.index.exact import owner_words, part_numbers

        rows = self._rows_of("present")
        return owner_words([row[0] for row in rows]), part_numbers([row[1] for row in rows])

    def changes(self, after: int) -> Changes:
        """Return what was removed or rewritten after a change."""
        from llmspell.storage.index.space import changes_of

        return changes_of(self._rows("changes", seq=after))

    def _rows(self, name: str, **parameters: Any) -> list[Row]:
        query = getattr(self._queries, name)
        rows: list[Row] = drive(self.executor.rows(query, space_id=self.id, **parameters))
        return rows

    def _rows_of(self, name: str, **parameters: Any) -> list[Row]:
        query = self._queries.of(name, self.dimension)
        rows: list[Row] = drive(self.executor.rows(query, space_id=self.id, **parameters))
        return rows
