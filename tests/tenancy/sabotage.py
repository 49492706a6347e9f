"""What a hole in the isolation is made of: see `holes`."""

from __future__ import annotations

from typing import NamedTuple

GUEST = "isolation_guest"


class Sabotage(NamedTuple):
    """A hole. `strict`: it is one in the strict mode."""

    make: tuple[str, ...]
    mend: tuple[str, ...]
    subject: str
    problem: str
    strict: bool = False


def on_database(statement: str) -> str:
    """The statement, with the name of the database for `%I`."""
    return f"DO $$ BEGIN EXECUTE format('{statement}', current_database()); END $$"


def single(make: str, mend: str, subject: str, problem: str, *, strict: bool = False) -> Sabotage:
    """One statement makes it, and one takes it away."""
    return Sabotage((make,), (mend,), subject, problem, strict)
