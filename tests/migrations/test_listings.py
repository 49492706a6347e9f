"""The two folders of migrations, as files."""

from __future__ import annotations

import re

import pytest
from tests.migrations.schemas import POSTGRES, SQLITE

from llmspell.storage.relational.migrations import load

# requirements, MIG-02 to MIG-16: numbers and titles are fixed.
FIRST_FIFTEEN = [
    "V001__initial_setup",
    "V002__test_table_rls",
    "V003__vector_embeddings",
    "V004__temporal_graph",
    "V005__procedural_memory",
    "V006__agent_state",
    "V007__kv_store",
    "V008__workflow_states",
    "V009__sessions",
    "V010__artifacts",
    "V011__event_log",
    "V012__application_role_rls_enforcement",
    "V013__hook_history",
    "V014__api_keys",
    "V015__bitemporal_composite_keys",
]
COMMENT = re.compile(r"^\s*(--.*)?$")


def test_both_dialects_have_the_same_numbers_and_titles() -> None:
    assert [migration.name for migration in load(SQLITE)] == [migration.name for migration in load(POSTGRES)]


def test_the_first_fifteen_carry_the_required_titles() -> None:
    assert [migration.name for migration in load(POSTGRES)[:15]] == FIRST_FIFTEEN


@pytest.mark.parametrize("package", [SQLITE, POSTGRES])
def test_every_migration_opens_with_its_number_and_its_purpose(package: str) -> None:
    wrong = [m.name for m in load(package) if not re.match(rf"-- V{m.version:03}: \S", m.sql)]

    assert wrong == []


def test_only_what_a_file_cannot_have_is_left_out_of_its_dialect() -> None:
    empty = [m.version for m in load(SQLITE) if all(COMMENT.match(line) for line in m.sql.splitlines())]

    assert empty == [1, 2, 12, 32, 35]


def test_nothing_is_left_out_of_the_other_dialect() -> None:
    empty = [m.version for m in load(POSTGRES) if all(COMMENT.match(line) for line in m.sql.splitlines())]

    assert empty == [34]  # only a cache in a process needs a log of changes
