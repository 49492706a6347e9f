"""How a schema differs from the one that its migrations make, and what was done about it. Records alone."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Departure: TypeAlias = Literal["missing", "extra", "changed", "invalid"]
"""`invalid`: an index that was not finished, which costs writes and answers nothing."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One object that is not as the migrations make it. `harmless`: it changes nothing for llmspell, such as an index of yours.

    `kind` is table, column, index, constraint, trigger, function, policy, grant, sequence, schema, default privileges or
    row-level security; `detail` says what differs, where that can be said.
    """

    kind: str
    name: str
    departure: Departure
    detail: str | None = None
    harmless: bool = False


class RepairStep(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a repair does. `statements` are what it runs; none: it cannot be put right by machine, and `action` says why.

    `done` is False in a dry run, and when it failed; `error` then says how.
    """

    action: str
    statements: tuple[str, ...] = ()
    done: bool = False
    error: str | None = None
