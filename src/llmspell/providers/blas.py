"""How many threads BLAS uses for one product, while a model runs.

Measured on a busy two-core machine, one sentence: 9 to 19 ms with one thread (p95 13 to 30), 28 to 47 ms with two
(p95 190 to 330), because the threads of one product wait for each other by spinning. So products run in one thread each,
and batches run beside each other instead (`local`).

Only OpenBLAS is steered, which numpy's own wheels carry; another BLAS keeps its setting, and no result depends on this.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

# The names differ by how numpy was built; the first that exists is used.
_NAMES = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
)
_lock = threading.Lock()
_users = 0
_before = 1


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Let BLAS use one thread within this block. The setting is the process's; the last block to end restores it."""
    global _users, _before
    controls = _controls()
    if controls is None:
        yield
        return
    set_threads, get_threads = controls
    with _lock:
        if _users == 0:
            _before = get_threads()
            set_threads(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                set_threads(_before)


@functools.cache
def _controls() -> tuple[Callable[[int], object], Callable[[], int]] | None:
    """The functions of the OpenBLAS that numpy has loaded; None when it uses another library."""
    try:
        # A symbol is looked up in an extension module's own dependencies as well: that is where numpy's BLAS is.
        library = ctypes.CDLL(str(import_module("numpy._core._multiarray_umath").__file__))
    except (ImportError, OSError):
        return None
    for set_name, get_name in _NAMES:
        if hasattr(library, set_name) and hasattr(library, get_name):
            set_threads, get_threads = getattr(library, set_name), getattr(library, get_name)
            set_threads.argtypes, set_threads.restype = [ctypes.c_int], None
            get_threads.argtypes, get_threads.restype = [], ctypes.c_int
            return set_threads, get_threads
    return None
