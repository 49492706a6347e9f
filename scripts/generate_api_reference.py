"""Write the tables of methods and of fields in docs/reference/ from the classes themselves.

    python scripts/generate_api_reference.py            rewrite them
    python scripts/generate_api_reference.py --check    exit 1 when one is out of date

A table stands between `<!-- methods of X -->` and `<!-- end of methods -->`, that of a record between `<!-- fields of X -->` and
`<!-- end of fields -->`; the words around it are written by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from llmspell.admin import Admin, JobAdmin, TenantRegistry
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.state import ScopedState
from llmspell.memory.vectors import VectorCollection
from llmspell.ops.worker import JobContext, Worker
from llmspell.security.access_keys import HashedAccessKeys
from llmspell.security.api_keys import SealedApiKeys
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.access_keys import AccessKey
from llmspell.storage.contracts.agent_state import AgentState, AgentStates, AgentStateSummary, StateCheck
from llmspell.storage.contracts.api_keys import ApiKeyInfo
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import Audit, AuditEntry, AuditHead, AuditVerification, NewAuditEntry
from llmspell.storage.contracts.event_log import EventLog, EventRecord, EventStats, NewEvent
from llmspell.storage.contracts.hook_history import (
    HookExecution,
    HookHistory,
    HookStatistics,
    NewHookExecution,
    RetentionPolicy,
)
from llmspell.storage.contracts.idempotency import Idempotency
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.procedures import Pattern, Prediction, Procedures
from llmspell.storage.contracts.sessions import SessionRecord, Sessions
from llmspell.storage.contracts.tenants import QuotaUse, TenantRecord, TenantUsage
from llmspell.storage.contracts.workflow_state import WorkflowState, WorkflowStates, WorkflowSummary

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
CLASSES = {
    kind.__name__: kind
    for kind in (
        *(Spell, TenantRegistry, Admin, JobAdmin, JobContext, Worker, Tenant, Transaction),
        *(
            KV,
            ScopedState,
            Sessions,
            Artifacts,
            AgentStates,
            WorkflowStates,
            Procedures,
            EventLog,
            HookHistory,
            Jobs,
            Audit,
        ),
        *(SealedApiKeys, HashedAccessKeys, VectorCollection, KnowledgeGraph, Memory, Idempotency),
    )
}
RECORDS = {
    kind.__name__: kind
    for kind in (
        *(
            TenantRecord,
            TenantUsage,
            QuotaUse,
            SessionRecord,
            AgentState,
            AgentStateSummary,
            StateCheck,
            WorkflowState,
            WorkflowSummary,
        ),
        *(Pattern, Prediction, NewEvent, EventRecord, EventStats),
        *(NewHookExecution, HookExecution, HookStatistics, RetentionPolicy),
        *(NewAuditEntry, AuditEntry, AuditHead, AuditVerification, ApiKeyInfo, AccessKey),
    )
}
ATTRIBUTES = {
    "Spell": {
        "tenants": "The [registry of tenants](tenants.md): who may be served.",
        "admin": "The operator's side of the store, [below](#admin-spelladmin).",
        "settings": "The frozen [settings](settings.md) in use.",
    },
    "Admin": {
        "jobs": "The [queue of all tenants](jobs.md#the-operators-side-spelladminjobs), and the store's own jobs."
    },
}
"""What a handle has besides methods: made when it is, so it has no docstring."""
FIELDS = re.compile(r"<!-- fields of (\w+) -->\n.*?<!-- end of fields -->", re.DOTALL)
TABLE = re.compile(r"<!-- methods of (\w+) -->\n.*?<!-- end of methods -->", re.DOTALL)


def table(kind: type) -> Iterator[str]:
    """Yield the lines of the table of a class."""
    yield "| method | what it does |\n|---|---|"
    yield from (f"| `{name}` | {what} |" for name, what in ATTRIBUTES.get(kind.__name__, {}).items())
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        line = (inspect.getdoc(member) or "").partition("\n")[0].replace("|", "\\|")
        if isinstance(member, property):
            yield f"| `{name}` | {line} |"
        elif inspect.isfunction(member):
            yield f"| `{name}{written(inspect.signature(member))}` | {line} |"


def record(kind: type) -> Iterator[str]:
    """Yield what a record is, and the lines of the table of its fields: name, type with default, and its docstring."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{kind.__name__} is no class")
    rows: list[tuple[str, str, str]] = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = "" if node.value is None else f" = {_code(node.value)}"
            rows.append((node.target.id, _type(kind, node.annotation) + default, ""))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and rows:
            rows[-1] = (*rows[-1][:2], inspect.cleandoc(str(node.value.value)))
        elif isinstance(node, ast.FunctionDef) and node.returns is not None and _is_property(node):
            rows.append((node.name, _type(kind, node.returns), ast.get_docstring(node) or ""))
    yield f"**`{kind.__name__}`**: {_on_one_line(inspect.getdoc(kind) or '')}\n"
    said = any(text for *_, text in rows)
    yield "| field | type | what it is |\n|---|---|---|" if said else "| field | type |\n|---|---|"
    for name, type_, text in rows:
        cells = f"| `{name}` | `{type_}` |"
        yield f"{cells} {_on_one_line(text)} |".replace("  |", " |") if said else cells


def _is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list)


def _type(kind: type, annotation: ast.expr) -> str:
    """Return an annotation as it is written; the name of a choice becomes what there is to choose from."""
    alias = vars(sys.modules[kind.__module__]).get(annotation.id) if isinstance(annotation, ast.Name) else None
    if get_origin(alias) is Literal:
        return " \\| ".join(f'"{choice}"' for choice in get_args(alias))
    return _code(annotation).replace(" | ", " \\| ")


def _code(node: ast.expr) -> str:
    return ast.unparse(node).replace("'", '"').replace("builtins.", "")


def _on_one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written(signature: inspect.Signature) -> str:
    """Return a signature as people read it: names, defaults, and what comes back."""
    names = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    returned = "" if signature.return_annotation in ("None", None) else f" → {signature.return_annotation}"
    shown = str(inspect.Signature(names)).replace("='", '="').replace("',", '",').replace("')", '")')
    return (shown + returned).replace("builtins.", "").replace("|", "\\|")


def rewritten(page: str) -> tuple[str, str]:
    """Return the text of a page as it is and as it should be."""
    text = (REFERENCE / page).read_text(encoding="utf-8")

    def made(found: re.Match[str]) -> str:
        rows = "\n".join(table(CLASSES[found[1]]))
        return f"<!-- methods of {found[1]} -->\n{rows}\n<!-- end of methods -->"

    def told(found: re.Match[str]) -> str:
        rows = "\n".join(record(RECORDS[found[1]]))
        return f"<!-- fields of {found[1]} -->\n{rows}\n<!-- end of fields -->"

    return text, FIELDS.sub(told, TABLE.sub(made, text))


def main(arguments: list[str]) -> int:
    """Rewrite or check every page; return the exit code."""
    pages = sorted(path.name for path in REFERENCE.glob("*.md"))
    stale = [page for page in pages if (pair := rewritten(page))[0] != pair[1]]
    if "--check" in arguments:
        sys.stderr.writelines(f"docs/reference/{page} is out of date\n" for page in stale)
        return 1 if stale else 0
    for page in stale:
        (REFERENCE / page).write_text(rewritten(page)[1], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
