"""The contract holds on a server that demands signed tenants: nothing of ours works only while the mode is off.

The stems that lean on policies most run always; `SOAK=1` runs every contract test: what is left out then are the plain records of
states, patterns and hooks, and values and names that are hostile to any database.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from tests.fixtures.backends import with_operator
from tests.fixtures.soak import SOAK

import llmspell.testing.contract
from llmspell.clock import ManualClock
from llmspell.ids import IdSource
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.open import open_backend

pytest.importorskip("psycopg")

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

ALWAYS = {
    "kv",  # the plainest reads and writes
    "transactions",  # one signature for many statements
    "savepoints",  # a signature inside of what is undone
    "idempotency",  # an answer that is looked up before the work
    "tenants",  # the registry, also by the operator, who does not sign
    "quotas",  # triggers and a function that run as the owner, and count for a tenant that is signed
    "jobs",
    "job_queue",  # work of all tenants
    "access_keys",  # whoever authenticates has no tenant yet
    "api_keys",
    "sessions",
    "artifacts_references",  # triggers that run as the owner
    "memories",
    "memories_search",  # several statements in one snapshot
    "memories_upkeep",
    "vectors",  # plans with an index of their own
    "graph",
    "graph_changes",
    "graph_questions",  # recursion
    "event_log",  # partitions
    "audit",  # a chain that several writers extend
}
STEMS = sorted(
    name for _, name, _ in pkgutil.iter_modules(llmspell.testing.contract.__path__) if SOAK or name in ALWAYS
)


@pytest.fixture
async def backend(postgres_strict_shared: PostgresDatabase, clock: ManualClock) -> AsyncIterator[Backend]:
    """A store on a strict server; tenants of tests never meet."""
    database = postgres_strict_shared
    settings = with_operator(database.operator_url, tenant_key=database.tenant_key)
    opened = await open_backend(database.app_url, settings=settings, clock=clock, ids=IdSource(clock))
    try:
        yield opened
    finally:
        await opened.close()


def contracts() -> dict[str, type]:
    """A test class for each contract class of the stems of this run."""
    found = {}
    for stem in STEMS:
        module = import_module(f"llmspell.testing.contract.{stem}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and name.endswith("Contract") and kind.__module__ == module.__name__:
                found[f"TestStrict{name.removesuffix('Contract')}"] = type(kind.__name__, (kind,), {})
    return found


globals().update(contracts())


def test_every_stem_that_is_always_run_has_its_contract() -> None:
    assert set(STEMS) >= ALWAYS
    assert len(contracts()) >= len(ALWAYS)
