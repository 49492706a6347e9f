"""Events and hook executions in one transaction with the rest, and in the synchronous twin."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.stores import STORES, fresh_tenant, opened

import llmspell
from llmspell.spell import Transaction
from llmspell.storage.contracts.hook_history import NewHookExecution


@pytest.mark.parametrize("backend", STORES)
async def test_events_and_everything_else_are_kept_together(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async def work(tx: Transaction) -> int:
        await tx.kv.set("step", b"7")
        await tx.hook_history.record(NewHookExecution(hook_id="h", hook_type="t", triggering_component="c"))
        return (await tx.event_log.append("agent.state_changed", {"step": 7})).sequence

    async with opened(backend, request, tmp_path) as spell:
        tenant = await fresh_tenant(spell)

        assert await tenant.run(work) == 1
        assert (await tenant.event_log.list()).items[0].payload == {"step": 7}
        assert len((await tenant.hook_history.list()).items) == 1


def test_the_synchronous_twin_has_the_same_verbs(tmp_path: Path) -> None:
    with llmspell.connect_blocking(f"sqlite:///{tmp_path / 'store.db'}", embedder="hashing") as spell:
        acme = spell.tenant("acme")
        with acme.transaction() as tx:
            event = tx.event_log.append("test.event", {"n": 1})

        assert acme.event_log.tail() == [event]
        assert acme.hook_history.statistics().executions == 0
