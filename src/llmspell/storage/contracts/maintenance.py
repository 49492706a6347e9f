"""What upkeep of a store's database says of itself, whatever the database is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

Announce: TypeAlias = Callable[[str], None]
"""Told what begins, before it may take long."""
Result: TypeAlias = Literal["done", "planned", "skipped", "busy", "refused"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done, or is planned. `why`: what kept it from being done.

    Sizes are in bytes: of a table with its indexes, of a file with its log.
    """

    action: str
    target: str
    result: Result
    why: str = ""
    bytes_before: int = 0
    bytes_after: int = 0
