"""A file that somebody wrote for one tenant grants that tenant nothing, and reaches no other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.postgres import PostgresDatabase
from tests.transfer.stores import CLOCK, contents, server_store

import llmspell
from llmspell.errors import InvalidTenant, LlmspellError, TenantUnknown
from llmspell.settings import Settings
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.tenants import QuotaLimits, TenantRecord
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Input, Output
from llmspell.tenant import tenant_id

ACME, OTHER = tenant_id("acme"), tenant_id("other")
LIMITED = QuotaLimits(max_documents=5)
CONFLICTS = ("error", "skip", "replace")


async def exported(folder: Path) -> Path:
    """An export of an active tenant without limits, that holds two memories and a key."""
    path = folder / "acme.json"
    async with llmspell.connect(f"sqlite:///{folder / 'a.db'}", settings=Settings(), embedder="hashing") as spell:
        await spell.tenants.create("acme")
        acme = spell.tenant("acme")
        for text in ("Ada moved to Zurich.", "Ben likes tea."):
            await acme.memory.add(text)
        await acme.kv.set("k", b"of the file")
        await spell.admin.export(path, tenant="acme")
    return path


def rewritten(path: Path, name: str, change: Any) -> Path:
    """The same export with other data, and without its summary, whose digests would tell."""
    document = json.loads(path.read_text("utf-8"))
    document.pop("summary")
    document.pop("counts", None)
    change(document["data"])
    changed = path.with_name(name)
    changed.write_text(json.dumps(document), "utf-8")
    return changed


async def registered(store: Backend) -> tuple[TenantRecord | None, TenantRecord | None]:
    return await store.tenants.get(ACME), await store.tenants.get(OTHER)


async def test_an_import_as_the_serving_role_raises_no_quota_wakes_no_tenant_and_touches_no_other(
    postgres_database: PostgresDatabase, tmp_path: Path
) -> None:
    given = await exported(tmp_path)

    def greedy(data: Any) -> None:
        (row,) = data["tenants"]
        row.update(quotas={}, status="active", name="somebody else", version=99)

    def foreign(data: Any) -> None:
        data["kv_store"][0]["tenant_id"] = "other"

    def both(data: Any) -> None:
        data["tenants"].append({**data["tenants"][0], "tenant_id": "other"})

    async with server_store(postgres_database) as operator, server_store(postgres_database, operator=False) as serving:
        for tenant in (ACME, OTHER):
            await operator.tenants.create(tenant, quotas=LIMITED)
            await operator.tenants.set_status(tenant, "suspended", reason="unpaid")
        before = await registered(operator)
        others = await contents(operator, OTHER)
        for change in (foreign, both):
            for conflict in ("skip", "replace"):
                with pytest.raises(InvalidTenant):
                    await import_(Input(rewritten(given, "foreign.json", change)), serving, on_conflict=conflict)  # type: ignore[arg-type]
        for conflict in CONFLICTS:
            try:
                report = await import_(
                    Input(rewritten(given, "greedy.json", greedy)),
                    serving,
                    on_conflict=conflict,  # type: ignore[arg-type]
                )
            except LlmspellError:
                continue
            assert any("kept" in note for note in report.notes)
        assert "only the operator" in " ".join(report.notes)
        assert await registered(operator) == before
        assert await contents(operator, OTHER) == others
        assert (await contents(operator, ACME))["memories"] == 2, "what it may have came in"
        assert (await operator.tenants.usage(ACME)).documents.used == 2
        with pytest.raises(TenantUnknown):
            await export(serving, Output(tmp_path / "none.json"), clock=CLOCK, tenant=tenant_id("nobody"))
    assert not (tmp_path / "none.json").exists()
