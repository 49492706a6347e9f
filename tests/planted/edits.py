"""What a planted bug is: edits of the text of the code, and the tests that they must turn red."""

from __future__ import annotations

import msgspec


class Edit(msgspec.Struct, frozen=True):
    """One change of the text of a file below `llmspell`: every occurrence of `old`, and there must be one."""

    file: str
    old: str
    new: str


class Bug(msgspec.Struct, frozen=True, kw_only=True):
    """A fault: `what` goes wrong, by which `edits`, and `caught_by` which tests."""

    what: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]


def everywhere(file: str, old: str, new: str) -> tuple[Edit, ...]:
    """The same change in the catalogues of both databases."""
    return tuple(Edit(f"storage/{database}/{file}", old, new) for database in ("sqlite", "postgres"))
