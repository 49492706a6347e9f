"""The native libraries of the index, loaded when they are first needed and in the order in which they can stand each other.

Measured with usearch 2.26.6 (which brings numkong 7.8.6) and onnxruntime 1.31.1 on Linux: a process that has loaded the first, and
then loads onnxruntime, ends by a segmentation fault. Providers load that one when a text is to be embedded, which may be after a
search. With onnxruntime first all of them work, so where it is installed it is loaded before usearch.
"""

from __future__ import annotations

import contextlib
import importlib
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _encoder_first() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("onnxruntime")


@lru_cache(maxsize=1)
def cdist() -> Any:
    """Return numkong's comparison of many vectors with many."""
    import numkong

    return numkong.cdist


@lru_cache(maxsize=1)
def index_type() -> Any:
    """Return usearch's index."""
    _encoder_first()
    from usearch.index import Index

    return Index
