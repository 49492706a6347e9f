"""What a store gives to a backup: what one snapshot holds, and its content as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llmspell.ops.backup.records import RoleFacts
from llmspell.storage.contracts.snapshot import StoreFacts


class Taken(NamedTuple):
    """One snapshot of a store. `content` ends well, or raises."""

    facts: StoreFacts
    content: Iterator[bytes]
    owner: str = ""
    roles: tuple[RoleFacts, ...] = ()
    signed: bool = False
    vector_schema: str = "public"
