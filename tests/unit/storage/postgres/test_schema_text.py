"""Two texts of a schema: what a dump writes in another way is the same, and what is another rule is not."""

from __future__ import annotations

import pytest

from llmspell.storage.postgres.schema_text import compare

CHECK = "ALTER TABLE llmspell.t ADD CONSTRAINT known CHECK (((state)::text = ANY ({})));"
SHIPPED = CHECK.format("(ARRAY['a'::character varying, 'it''s'::character varying])::text[]")
BROUGHT_BACK = CHECK.format("ARRAY[('a'::character varying)::text, ('it''s'::character varying)::text]")
TRIGGER = "CREATE TRIGGER moved AFTER UPDATE ON llmspell.t FOR EACH ROW WHEN ({}) EXECUTE FUNCTION llmspell.f();"


@pytest.mark.parametrize(
    ("shipped", "brought_back"),
    [(SHIPPED, BROUGHT_BACK), (TRIGGER.format("((a OR b) OR c)"), TRIGGER.format("(a OR b OR c)"))],
    ids=["list", "or"],
)
def test_a_condition_that_a_dump_has_brought_back_is_no_difference(shipped: str, brought_back: str) -> None:
    assert compare(shipped, brought_back, signed=False) == []
    assert compare(brought_back, shipped, signed=False) == []


@pytest.mark.parametrize(
    ("shipped", "changed"),
    [
        (SHIPPED, BROUGHT_BACK.replace("'a'", "'b'")),
        (SHIPPED, CHECK.format("ARRAY[('a'::character varying)::text]")),
        (TRIGGER.format("((a OR b) OR c)"), TRIGGER.format("(a OR b OR d)")),
        (TRIGGER.format("((a OR b) AND c)"), TRIGGER.format("(a OR (b AND c))")),
    ],
    ids=["value", "fewer", "or", "and"],
)
def test_another_condition_is_a_difference(shipped: str, changed: str) -> None:
    assert [one.departure for one in compare(shipped, changed, signed=False)] == ["changed"]
