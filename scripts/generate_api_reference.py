"""Write the tables of methods in docs/reference/ from the classes themselves.

    python scripts/generate_api_reference.py            rewrite them
    python scripts/generate_api_reference.py --check    exit 1 when one is out of date

A table stands between `<!-- methods of X -->` and `<!-- end of methods -->`; the words around it are written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from llmspell.admin import Admin, JobAdmin, TenantRegistry
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.state import ScopedState
from llmspell.memory.vectors import VectorCollection
from llmspell.ops.worker import JobContext, Worker
from llmspell.security.access_keys import HashedAccessKeys
from llmspell.security.api_keys import SealedApiKeys
from llmspell.spell import Spell, Tenant, Transaction
from llmspell.storage.contracts.agent_state import AgentStates
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.audit import Audit
from llmspell.storage.contracts.event_log import EventLog
from llmspell.storage.contracts.hook_history import HookHistory
from llmspell.storage.contracts.idempotency import Idempotency
from llmspell.storage.contracts.jobs import Jobs
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.procedures import Procedures
from llmspell.storage.contracts.sessions import Sessions
from llmspell.storage.contracts.workflow_state import WorkflowStates

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
TABLE = re.compile(r"<!-- methods of (\w+) -->\n.*?<!-- end of methods -->", re.DOTALL)


def table(kind: type) -> Iterator[str]:
    """Yield the lines of the table of a class."""
    yield "| method | what it does |\n|---|---|"
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        line = (inspect.getdoc(member) or "").partition("\n")[0].replace("|", "\\|")
        if isinstance(member, property):
            yield f"| `{name}` | {line} |"
        elif inspect.isfunction(member):
            yield f"| `{name}{written(inspect.signature(member))}` | {line} |"


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

    return text, TABLE.sub(made, text)


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
