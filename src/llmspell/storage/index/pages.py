"""Exact search over one page of float32 rows: for a snapshot that no space in memory can serve. Pure."""

from __future__ import annotations

import numpy as np

from llmspell.storage.index.blocks import Finder, Words
from llmspell.storage.index.exact import Doubles, Found, Rows, nearest


def page_search(
    page: Rows, unit: Doubles, limit: int, *, only: Words | None = None, without: Words | None = None
) -> Found:
    """Return the best owners of a page, among `only` these owners, or all `without` those."""
    chosen = None
    if only is not None:
        chosen = np.sort(Finder(page.owners).positions(only)[0])
    elif without is not None:
        chosen = np.setdiff1d(np.arange(len(page)), Finder(page.owners).positions(without)[0])
    windows = int(page.parts.max()) + 1 if len(page) else 1
    return nearest(page, unit, limit=limit, windows=windows, chosen=chosen)
