"""The policies of one table as text. That they do what V001 does is tested in `tests/migrations`."""

from __future__ import annotations

import pytest

from llmspell.errors import InvalidKey
from llmspell.storage.postgres.tenancy import rls_statements


def test_the_table_is_qualified_in_every_statement() -> None:
    assert all("llmspell.notes" in statement for statement in rls_statements("notes"))


def test_row_level_security_is_forced_as_well_as_enabled() -> None:
    text = "\n".join(rls_statements("notes"))

    assert "notes ENABLE ROW LEVEL SECURITY" in text
    assert "notes FORCE ROW LEVEL SECURITY" in text


@pytest.mark.parametrize(
    "table", ["", "Notes", "notes; DROP TABLE x", 'no"tes', "llmspell.notes", "1notes", "n" * 64, "notes\n"]
)
def test_anything_but_a_plain_identifier_is_refused(table: str) -> None:
    with pytest.raises(InvalidKey):
        rls_statements(table)
