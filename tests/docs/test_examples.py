"""What the pages say is so: their examples run, their numbers are those of the code, their lists are complete."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
import pytest
from tests.fixtures.backends import with_operator
from tests.fixtures.postgres import PostgresDatabase

import llmspell
from llmspell import ManualClock, Settings, blocking
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.state import ScopedState
from llmspell.memory.vectors import VectorCollection
from llmspell.security.keyring import new_master_key
from llmspell.settings import SecuritySettings
from llmspell.spell import Admin, Spell, Tenant, TenantRegistry
from llmspell.storage.contracts import memories, vectors
from llmspell.storage.contracts.access_keys import AccessKey
from llmspell.storage.contracts.agent_state import AgentState, AgentStates
from llmspell.storage.contracts.api_keys import ApiKeyInfo
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import AuditEntry, NewAuditEntry
from llmspell.storage.contracts.event_log import EventLog, EventRecord, NewEvent
from llmspell.storage.contracts.hook_history import HookExecution, HookHistory, NewHookExecution, RetentionPolicy
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.procedures import Pattern, Procedures
from llmspell.storage.contracts.sessions import SessionRecord, Sessions
from llmspell.storage.contracts.tenants import TenantRecord
from llmspell.storage.contracts.workflow_state import WorkflowState, WorkflowStates

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT_ROW = re.compile(r"^\| (.+?) \| ([\d,]+)[^|]*\| `([a-z_.]+\.[A-Z_]+)` \|$", re.MULTILINE)
STATEMENT = re.compile(r"^URL = .*$", re.MULTILINE)
PROCESS_LIMIT_S = 120
RUN = """
import ast, asyncio, sys
code = compile(sys.stdin.read(), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
pending = eval(code, {"__name__": "__main__"})
if pending is not None:
    asyncio.run(pending)
"""


def pages() -> list[Path]:
    return sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if any("runnable" in mark for mark, _ in BLOCK.findall(page.read_text("utf-8")))
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock("2026-06-01")


@pytest.fixture(params=["memory", "file", "server"])
async def spell(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Spell]:
    settings = Settings(security=SecuritySettings(master_keys=new_master_key()))
    if request.param == "server":
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        url = database.app_url
        settings = msgspec.structs.replace(
            settings, storage=with_operator(database.operator_url, tenant_key=database.tenant_key).storage
        )
    else:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'docs.db'}"
    async with llmspell.connect(url, settings=settings, embedder="hashing", clock=clock) as opened:
        await opened.tenants.create("acme")
        yield opened


def compiled(source: str, name: str) -> CodeType:
    code: CodeType = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return code


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_the_runnable_examples_of_a_page_hold(page: Path, spell: Spell, clock: ManualClock) -> None:
    names: dict[str, Any] = {"spell": spell, "acme": spell.tenant("acme"), "clock": clock}
    text = page.read_text("utf-8")
    if 'tenants.create("globex"' not in text:
        await spell.tenants.create("globex")

    for mark, source in BLOCK.findall(text):
        if "runnable" in mark:
            ran = eval(compiled(source, page.name), names)
            if inspect.isawaitable(ran):
                await ran


def snippet() -> str:
    for _, source in BLOCK.findall((ROOT / "README.md").read_text("utf-8")):
        if "llmspell.connect(" in source:
            return str(source)
    raise AssertionError("README.md needs a python block with `llmspell.connect(`")


@pytest.fixture(params=["memory", "file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "server":
        database: PostgresDatabase = request.getfixturevalue("postgres_database")
        yield database.app_url
    else:
        yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'agent.db'}"


def run_snippet(source: str, store: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it where no file or variable of this machine matters, with the embedder that needs no model."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLMSPELL_", "DATABASE_", "XDG_"))
    }
    environment = kept | {"HOME": str(folder), "LLMSPELL_EMBEDDING__PROVIDER": "hashing", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=STATEMENT.sub(lambda _: f"URL = {store!r}", source, count=1),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )


def test_the_readme_begins_its_snippet_with_the_url() -> None:
    assert snippet().startswith('URL = "sqlite:///agent.db"')


def test_the_readme_snippet_runs_on_every_store(store: str, tmp_path: Path) -> None:
    done = run_snippet(snippet(), store, tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines
    assert not [line for line in lines if line.strip() in ("[]", "None", "{}")], "an answer of the snippet is empty"


def limits() -> list[tuple[str, str, int, str]]:
    return [
        (page.name, what, int(number.replace(",", "")), constant)
        for page in sorted(REFERENCE.glob("*.md"))
        for what, number, constant in LIMIT_ROW.findall(page.read_text("utf-8"))
    ]


def test_there_are_limits_to_compare() -> None:
    assert {page for page, *_ in limits()} >= {
        "kv.md",
        "vectors.md",
        "memories.md",
        "graph.md",
        "tenants.md",
        "sessions.md",
        "artifacts.md",
        "filters.md",
    }


@pytest.mark.parametrize(("page", "what", "number", "constant"), limits())
def test_a_limit_in_the_docs_is_the_one_in_the_code(page: str, what: str, number: int, constant: str) -> None:
    module, _, name = constant.rpartition(".")

    assert getattr(importlib.import_module(f"llmspell.{module}"), name) == number, f"{page}: {what}"


def test_the_tables_of_methods_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_api_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, f"{done.stderr}Run python scripts/generate_api_reference.py."


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (Spell, "python-api.md"),
        (Tenant, "python-api.md"),
        (Admin, "python-api.md"),
        (blocking.BlockingSpell, "python-api.md"),
        (blocking.BlockingTenant, "python-api.md"),
        (blocking.BlockingAdmin, "python-api.md"),
        (TenantRegistry, "tenants.md"),
        (blocking.BlockingTenantRegistry, "tenants.md"),
        (Memory, "memories.md"),
        (blocking.BlockingMemory, "memories.md"),
        (KnowledgeGraph, "graph.md"),
        (blocking.BlockingKnowledgeGraph, "graph.md"),
        (VectorCollection, "vectors.md"),
        (blocking.BlockingVectorCollection, "vectors.md"),
        (Sessions, "sessions.md"),
        (blocking.BlockingSessions, "sessions.md"),
        (Artifacts, "artifacts.md"),
        (blocking.BlockingArtifacts, "artifacts.md"),
        (EventLog, "event_log.md"),
        (blocking.BlockingEventLog, "event_log.md"),
        (HookHistory, "hook_history.md"),
        (blocking.BlockingHookHistory, "hook_history.md"),
        (KV, "kv.md"),
        (blocking.BlockingKV, "kv.md"),
        (ScopedState, "state.md"),
        (blocking.BlockingScopedState, "state.md"),
        (Procedures, "procedures.md"),
        (blocking.BlockingProcedures, "procedures.md"),
        (AgentStates, "agent_state.md"),
        (blocking.BlockingAgentStates, "agent_state.md"),
        (WorkflowStates, "workflow_state.md"),
        (blocking.BlockingWorkflowStates, "workflow_state.md"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_public_method_of_both_kinds_is_listed(kind: type, page: str) -> None:
    listed = set(re.findall(r"^\| `(\w+)", (REFERENCE / page).read_text("utf-8"), re.MULTILINE))

    assert public(kind) <= listed, sorted(public(kind) - listed)


RECORD_BLOCK = re.compile(r"^<!-- fields of (\w+) -->$(.*?)^<!-- end of fields -->$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (TenantRecord, "tenants.md"),
        (SessionRecord, "sessions.md"),
        (AgentState, "agent_state.md"),
        (WorkflowState, "workflow_state.md"),
        (Pattern, "procedures.md"),
        (NewEvent, "event_log.md"),
        (EventRecord, "event_log.md"),
        (NewHookExecution, "hook_history.md"),
        (HookExecution, "hook_history.md"),
        (RetentionPolicy, "hook_history.md"),
        (NewAuditEntry, "audit.md"),
        (AuditEntry, "audit.md"),
        (ApiKeyInfo, "api_keys.md"),
        (AccessKey, "access_keys.md"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_field_of_a_record_is_listed(kind: type[msgspec.Struct], page: str) -> None:
    blocks = dict(RECORD_BLOCK.findall((REFERENCE / page).read_text("utf-8")))
    listed = re.findall(r"^\| `(\w+)` \|", blocks[kind.__name__], re.MULTILINE)

    assert set(kind.__struct_fields__) <= set(listed)


async def test_everything_that_a_handle_has_is_named(spell: Spell) -> None:
    text = (REFERENCE / "python-api.md").read_text("utf-8")
    for handle in (spell, spell.tenant("acme"), spell.admin):
        names = [name for name in vars(handle) if not name.startswith("_")]

        assert names
        assert [name for name in names if f"`{name}`" not in text] == [], type(handle).__name__


@pytest.mark.parametrize(
    "name", ["AuditHead", "NewAuditEntry", "QuotaLimits", "RetentionPolicy", "Secret", "SecretRef"]
)
def test_what_users_must_make_is_imported_on_a_page(name: str) -> None:
    imports = [
        line
        for page in REFERENCE.glob("*.md")
        for line in re.findall(r"^from llmspell import (.*)$", page.read_text("utf-8"), re.MULTILINE)
    ]

    assert name in {one.strip() for line in imports for one in line.split(",")}


def test_the_fields_of_filters_are_all_named() -> None:
    text = (REFERENCE / "filters.md").read_text("utf-8")
    for module, what in ((memories, "memories"), (vectors, "vectors")):
        (row,) = re.findall(rf"^\| {what} \| (.*) \|$", text, re.MULTILINE)

        assert re.findall(r"`(\w+)`", row) == list(module.FILTER_FIELDS.by_name)


def table(heading: str, text: str) -> list[tuple[str, str]]:
    section = text.partition(heading)[2].partition("\n\n|")[2].partition("\n\n")[0]
    return [(row[0], row[1]) for row in re.findall(r"^\| *`?(.*?)`? \| ?`?(.*?)`? ?\|$", section, re.MULTILINE)]


async def test_every_example_of_a_filter_selects_what_the_page_says(spell: Spell) -> None:
    text = (REFERENCE / "filters.md").read_text("utf-8")
    rows = [(name, json.loads(data)) for name, data in table("The rows:", text) if data.startswith("{")]
    examples = [(json.loads(data), said.split()) for data, said in table("| d |", text) if data.startswith("{")]
    assert len(rows) == 4
    assert len(examples) >= 20
    acme = spell.tenant("acme")
    await acme.memory.add_many([{"text": f"row {name}", "role": name, "metadata": data} for name, data in rows])

    found = [
        (example, sorted(record.role or "" for record in (await acme.memory.list(filters=example)).items))
        for example, _ in examples
    ]

    assert found == examples
