"""Documentation is a test target: whatever a user can type is written down, and links lead somewhere."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import click
import pytest
from tests.meta.source import ROOT, complaint

from llmspell.cli.main import COMMANDS, PROGRAM, load_command
from llmspell.errors import catalogue
from llmspell.settings import schema

DOCS = ROOT / "docs"
LIMIT_S = 60
# Handles as users reach them, the classes behind them, and the page that must name every method.
HANDLES = {
    "spell": ("llmspell.spell:Spell", "reference/python-api.md"),
    "spell.tenants": ("llmspell.admin:TenantRegistry", "reference/tenants.md"),
    "spell.admin": ("llmspell.admin:Admin", "reference/python-api.md"),
    "spell.admin.jobs": ("llmspell.admin:JobAdmin", "reference/jobs.md"),
    "worker": ("llmspell.ops.worker:Worker", "reference/jobs.md"),
    "context": ("llmspell.ops.worker:JobContext", "reference/jobs.md"),
    "tenant": ("llmspell.spell:Tenant", "reference/python-api.md"),
    "tenant.audit": ("llmspell.storage.contracts.audit:Audit", "reference/audit.md"),
    "transaction": ("llmspell.spell:Transaction", "reference/python-api.md"),
    "idempotency": ("llmspell.storage.contracts.idempotency:Idempotency", "reference/idempotency.md"),
    "tenant.jobs": ("llmspell.storage.contracts.jobs:Jobs", "reference/jobs.md"),
    "tenant.kv": ("llmspell.storage.contracts.kv:KV", "reference/kv.md"),
    "tenant.api_keys": ("llmspell.security.api_keys:SealedApiKeys", "reference/api_keys.md"),
    "tenant.access_keys": ("llmspell.security.access_keys:HashedAccessKeys", "reference/access_keys.md"),
    "tenant.state": ("llmspell.memory.state:ScopedState", "reference/state.md"),
    "tenant.procedures": ("llmspell.storage.contracts.procedures:Procedures", "reference/procedures.md"),
    "tenant.agent_state": ("llmspell.storage.contracts.agent_state:AgentStates", "reference/agent_state.md"),
    "tenant.workflow_state": (
        "llmspell.storage.contracts.workflow_state:WorkflowStates",
        "reference/workflow_state.md",
    ),
    "tenant.vectors": ("llmspell.memory.vectors:VectorCollection", "reference/vectors.md"),
    "tenant.memory": ("llmspell.memory.memory:Memory", "reference/memories.md"),
    "tenant.sessions": ("llmspell.storage.contracts.sessions:Sessions", "reference/sessions.md"),
    "tenant.artifacts": ("llmspell.storage.contracts.artifacts:Artifacts", "reference/artifacts.md"),
    "tenant.event_log": ("llmspell.storage.contracts.event_log:EventLog", "reference/event_log.md"),
    "tenant.hook_history": ("llmspell.storage.contracts.hook_history:HookHistory", "reference/hook_history.md"),
    "tenant.graph": ("llmspell.memory.knowledge:KnowledgeGraph", "reference/graph.md"),
}
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@lru_cache(maxsize=1)
def pages() -> dict[Path, str]:
    """What users read: the pages of docs/, and the README."""
    return {path: path.read_text("utf-8") for path in [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]}


@lru_cache(maxsize=1)
def everything() -> str:
    return "\n".join(pages().values())


def test_the_generated_reference_is_up_to_date() -> None:
    command = [sys.executable, "scripts/generate_reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert done.returncode == 0, f"Run: python scripts/generate_reference.py\n{done.stdout}{done.stderr}"


def test_every_setting_is_documented() -> None:
    page = (DOCS / "reference/settings.md").read_text("utf-8")
    sections = {part.partition("`")[0]: part for part in re.split(r"^### `?\[?", page, flags=re.MULTILINE)[1:]}
    missing = []
    for key in schema():
        section, _, name = key.rpartition(".")
        found = next((text for title, text in sections.items() if title.rstrip("]") == section), "")
        if f"| `{name}` |" not in (found if section else page):
            missing.append(key)

    assert not missing, complaint("Describe it beside its default in settings, and write the reference anew.", missing)


def test_every_error_is_documented() -> None:
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    missing = [
        f"{kind.code} {kind.__name__}" for kind in catalogue() if f"| {kind.code} | `{kind.__name__}` |" not in page
    ]

    assert not missing, complaint("Run: python scripts/generate_reference.py", missing)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups too."""
    waiting = [(f"{PROGRAM} {name}", load_command(entry)) for name, entry in COMMANDS.items()]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        if isinstance(command, click.Group):
            waiting += [(f"{name} {part}", below) for part, below in command.commands.items()]


def test_every_command_and_option_is_documented() -> None:
    page = (DOCS / "reference/cli.md").read_text("utf-8")
    sections = {part.partition("`")[0]: part for part in re.split(r"^### `", page, flags=re.MULTILINE)[1:]}
    shared, missing = page.partition("### `")[0], []
    for name, command in commands():
        titles = [title for title in sections if title == name or title.startswith(f"{name} ")]
        own = [title for title in titles if re.fullmatch(rf"{re.escape(name)}(?: [^a-z].*)?", title)]
        if not own:
            missing.append(name)
            continue
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        missing += [f"{name} {option}" for option in options if option not in sections[own[0]] and option not in shared]

    assert not missing, complaint("Run: python scripts/generate_reference.py", missing)


def public_methods(where: str) -> list[str]:
    module, _, name = where.partition(":")
    kind = getattr(import_module(module), name)
    return [name for name, member in inspect.getmembers(kind) if not name.startswith("_") and callable(member)]


@pytest.mark.parametrize("handle", HANDLES)
def test_every_public_method_is_documented(handle: str) -> None:
    where, page = HANDLES[handle]
    text = (DOCS / page).read_text("utf-8")
    last = handle.rpartition(".")[2]
    missing = [
        f"{handle}.{method}"
        for method in public_methods(where)
        if not re.search(rf"\b{last}\.{method}\b|`{method}[(`]", text)
    ]

    assert not missing, complaint(f"Show it, with its arguments, in docs/{page}.", missing)


def test_every_public_name_is_documented() -> None:
    import llmspell

    missing = [name for name in llmspell._HOMES if not re.search(rf"\b{name}\b", everything())]

    assert not missing, complaint("A public name that no page mentions is not public.", missing)


def test_every_target_of_make_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    missing = [f"make {name}" for name in targets if not re.search(rf"\bmake {name}\b", everything())]

    assert not missing, complaint("Name it in the README or in docs/.", missing)


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in _LINK.findall(index)}
    index_itself = DOCS / "README.md"
    missing = [
        str(path.relative_to(ROOT))
        for path in sorted(DOCS.rglob("*.md"))
        if path != index_itself and path.resolve() not in listed
    ]

    assert not missing, complaint("Link it from docs/README.md with a line that says what it answers.", missing)


def test_links_lead_somewhere() -> None:
    broken = []
    more = [ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for path in [*pages(), *more]:
        for target in _LINK.findall(_FENCE.sub("", path.read_text("utf-8"))):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                broken.append(f"{path.relative_to(ROOT)}: {target} (no such heading)")

    assert not broken, complaint("Mend the link; pages move together with what links to them.", broken)


def anchors(path: Path) -> set[str]:
    """Headings of a page as its readers' links name them."""
    headings = _HEADING.findall(_FENCE.sub("", path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


STORAGE_ROWS: dict[str, Sequence[int]] = {
    "PRO": range(1, 5),
    "AGS": range(1, 4),
    "WFS": range(1, 4),
    "SST": range(1, 8),
    "ARS": range(1, 12),
    "EVT": range(1, 18),
    "HOK": (1, 2),
    "SAA": range(1, 5),
    "STA": (*range(1, 11), 13),
    "TEN": range(1, 6),
    "RLS": range(1, 15),
    "AUD": range(1, 5),
    "SCR": range(1, 10),
    "MNT": range(1, 13),
}


def test_every_row_of_the_storages_is_on_the_acceptance_page_with_what_proves_it() -> None:
    page = (DOCS / "reference/acceptance.md").read_text("utf-8")
    rows = re.findall(r"^\| ([A-Z]{3}-\d\d) \|[^|]+\|[^|]+\|([^|]*)\|$", page, re.MULTILINE)
    expected = [f"{family}-{number:02}" for family, numbers in STORAGE_ROWS.items() for number in numbers]
    lost = []
    for row, proofs in rows:
        for named in re.findall(r"`([\w/]+\.py)`", proofs):
            folder = (
                "src/llmspell/testing/"
                if named.startswith("contract/")
                else ""
                if named.startswith("benchmarks/")
                else "tests/"
            )
            if not (ROOT / f"{folder}{named}").is_file():
                lost.append(f"{row}: {named}")

    assert sorted(row for row, _ in rows) == sorted(expected)
    assert [row for row, proofs in rows if not proofs.strip()] == ["EVT-12", "EVT-13"]
    assert not lost, complaint("Name the file that proves it now.", lost)


def test_every_invariant_names_tests_that_exist() -> None:
    """Also in the pages that tell of isolation and of durability."""
    lost, pages = [], ("invariants", "isolation", "durability")
    for page in pages:
        text = (DOCS / f"explanation/{page}.md").read_text("utf-8")
        for file, test in re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)", text):
            path = ROOT / "tests" / file
            if not path.is_file() or not re.search(rf"def {test}\(", path.read_text("utf-8")):
                lost.append(f"{page}.md: {file}::{test}")
        lost += [
            f"{page}.md: {file}" for file in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / file).is_file()
        ]
    rows = re.findall(
        r"^\| (\d+) \|([^|]+)\|([^|]+)\|$", (DOCS / "explanation/invariants.md").read_text("utf-8"), re.MULTILINE
    )

    assert [int(number) for number, _, _ in rows] == list(range(1, 16))
    assert [number for number, _, proofs in rows if "::test_" not in proofs] == ["9", "11", "12"]
    assert not lost, complaint("Name the test that proves it now.", lost)
