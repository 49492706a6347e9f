"""How many results a search gives, by whichever of its usual names a caller knows."""

from __future__ import annotations

from llmspell.codec import require_limit
from llmspell.errors import InvalidLimit

DEFAULT_LIMIT = 10  # VEC-07


def one_limit(limit: int | None, k: int | None, top_k: int | None) -> int:
    """Return the one that is given, or 10.

    Raises:
        InvalidLimit: several are given, or it is not a whole number from 1 to 1,000.
    """
    given = {name: value for name, value in (("limit", limit), ("k", k), ("top_k", top_k)) if value is not None}
    if len(given) > 1:
        raise InvalidLimit(next(iter(given)), f"must not be given together with `{list(given)[1]}`")
    name, value = next(iter(given.items()), ("limit", DEFAULT_LIMIT))
    return require_limit(value, field=name)
