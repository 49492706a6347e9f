"""The key that signs the page cursors of a store: made by a migration, read once."""

from __future__ import annotations

from llmspell.errors import CorruptStore
from llmspell.storage.relational.catalog import Query
from llmspell.storage.relational.database import Executor

CURSOR_KEY_BYTES = 32


class CursorKey:
    """Call it for the key."""

    def __init__(self, executor: Executor, meta: Query) -> None:
        """`meta` reads a value of the store by its name."""
        self._executor = executor
        self._meta = meta
        self._key: bytes | None = None

    async def __call__(self) -> bytes:
        if self._key is None:
            found = await self._executor.value(self._meta, name="cursor_key")
            if not isinstance(found, bytes) or len(found) != CURSOR_KEY_BYTES:
                raise CorruptStore("The store has lost the key of its cursors.")
            self._key = found
        return self._key
