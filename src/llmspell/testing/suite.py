"""The whole conformance suite: a backend proves itself with one import and one fixture.

    # test_my_backend.py
    import pytest
    from llmspell.testing.suite import *

    @pytest.fixture
    async def backend(clock):
        opened = await open_my_backend(clock=clock)     # opened, migrated, going by `clock`
        yield opened
        await opened.close()

Run it with `pytest -p llmspell.testing.plugin -o asyncio_mode=auto`. What the backend lacks it says in `capabilities`; tests that
need it are then not applicable.

Not here: what is promised. That is in the classes of `llmspell.testing.contract`, each of which can be subclassed by itself.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

from llmspell.testing import contract

SUFFIX = "Contract"


def _classes() -> dict[str, type]:
    """Return a test class for every contract: `TestKv` for `KvContract`."""
    found: dict[str, type] = {}
    for module in sorted(one.name for one in iter_modules(contract.__path__)):
        for name, kind in vars(import_module(f"{contract.__name__}.{module}")).items():
            if inspect.isclass(kind) and name.endswith(SUFFIX) and kind.__module__.endswith(f".{module}"):
                test = f"Test{name.removesuffix(SUFFIX)}"
                found[test] = type(test, (kind,), {"__module__": __name__, "__doc__": kind.__doc__})
    return found


globals().update(_classes())
__all__ = sorted(_classes())
