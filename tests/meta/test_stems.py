"""The stem rule: a concern has one stem, and that stem is its file name wherever the concern appears."""

from __future__ import annotations

import pytest
from tests.meta.source import PACKAGE, ROOT, complaint

from llmspell.storage.relational import catalog

CONCERNS = (
    *("kv", "vectors", "memories", "graph", "procedures", "agent_state", "workflow_state", "sessions", "artifacts"),
    *("event_log", "hook_history", "idempotency", "jobs", "tenants", "audit", "api_keys", "access_keys"),
)
PLACES = {
    "src/llmspell/storage/contracts/{stem}.py": "what it promises: a Protocol and its records",
    "src/llmspell/storage/inmemory/{stem}.py": "the plain model of the contract",
    "src/llmspell/storage/relational/{stem}.py": "the Python that both databases share",
    "src/llmspell/storage/sqlite/queries/{stem}.sql": "its named queries",
    "src/llmspell/storage/postgres/queries/{stem}.sql": "its named queries",
    "src/llmspell/testing/contract/{stem}.py": "its contract tests, as they are shipped",
    "tests/contract/test_{stem}.py": "the thin caller that runs them on every backend",
    "docs/reference/{stem}.md": "its reference for users",
}
# Modules of the contracts that are no concern of their own.
SHARED_CONTRACTS = {
    "backend": "what holds the concerns together",
    "capabilities": "what a backend may lack",
    "checks": "rules of arguments that several concerns share",
    "filters": "the one meaning of a filter",
    "health": "what checks of a store find, whatever they look at",
    "holdings": "what a tenant has, counted over all concerns",
    "maintenance": "what upkeep says of itself",
    "pages": "cursors, for every concern that lists",
    "snapshot": "what a whole store holds at one instant, for backups",
    "transfer": "how rows travel between backends and files",
    "transfer_tables": "the catalogue of what travels",
    "schema": "how a schema differs from what its migrations make",
    "vector_index": "parameters and state of the indexes of vectors, and how hard a search tries",
}
# Catalogues beside those of the concerns.
SHARED_QUERIES = {
    "nearest": "loads and checks the in-process index of vectors",
    "postings": "full text, below memories",
    "store": "values of the store as a whole",
    "transfer": "rows of any table, as an export reads and an import writes them",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stem", CONCERNS)
def test_a_concern_is_found_under_its_stem_everywhere(stem: str, place: str) -> None:
    path = place.format(stem=stem)

    assert (ROOT / path).is_file(), f"Write {path}: {PLACES[place]}. A concern has one name in every folder."


def test_every_contract_belongs_to_a_concern() -> None:
    modules = {path.stem for path in (PACKAGE / "storage/contracts").glob("*.py")} - {"__init__"}
    known = {*CONCERNS, *SHARED_CONTRACTS, *(f"{stem}_checks" for stem in CONCERNS)}

    assert not modules - known, complaint(
        "Add the stem to CONCERNS here, and its files everywhere.", sorted(modules - known)
    )


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_catalogue_of_queries_belongs_to_a_concern(dialect: str) -> None:
    stems = {path.stem for path in (PACKAGE / "storage" / dialect / "queries").glob("*.sql")}
    strangers = sorted(stems - {*CONCERNS, *SHARED_QUERIES})

    assert not strangers, complaint("Name the file after the concern that its queries serve.", strangers)


def test_a_catalogue_without_a_twin_says_so_at_every_query() -> None:
    here, there = (
        {query.stem for query in catalog.load(f"llmspell.storage.{dialect}") if not query.only_here}
        for dialect in ("sqlite", "postgres")
    )

    assert here == there, complaint("Write the twin, or mark its queries `-- only: <reason>`.", sorted(here ^ there))
