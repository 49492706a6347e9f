"""What is configured of the vector search in process."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from llmspell.storage.contracts.vector_index import IndexChoice
from llmspell.storage.contracts.vectors import FREE_SPACE

VECTOR_CACHE_BYTES: Final = 2 * 1024**3
"""Memory of a process for vectors at most, by default: 1,500,000 of 384 dimensions with their graph."""


class IndexOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: the database file. `vector_index`, `memory_index`: the indexes over free vectors, and over embeddings of memories.

    `vector_path`: the folder of index files, None for the one beside the file. `indexes`: False never builds one.
    `vector_cache_bytes`: memory of this process for vectors. `index_threads`: threads that build. `vector_mmap`: map
    index files instead of reading them.
    """

    path: str
    vector_index: IndexChoice = IndexChoice()
    memory_index: IndexChoice = IndexChoice()
    vector_path: str | None = None
    indexes: bool = True
    vector_cache_bytes: int = VECTOR_CACHE_BYTES
    index_threads: int = 1
    vector_mmap: bool = False

    @property
    def folder(self) -> Path:
        """The folder of index files, absolute."""
        return Path(self.vector_path or f"{self.path}.vectors").expanduser().absolute()

    def choice(self, space_id: str) -> IndexChoice:
        """Return what is configured for a space."""
        return self.vector_index if space_id.startswith(f"{FREE_SPACE}-") else self.memory_index
