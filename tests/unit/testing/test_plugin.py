"""The table of the conformance suite, and when it fails a run."""

from __future__ import annotations

import pytest

from llmspell.testing.plugin import ContractTable


def table(**outcomes: dict[str, str]) -> ContractTable:
    made = ContractTable()
    made.outcomes = outcomes
    return made


def test_equal_outcomes_lack_nothing() -> None:
    assert table(a={"x": "passed", "y": "failed"}, b={"x": "passed", "y": "passed"}).missing() == []


def test_a_declared_missing_capability_is_an_outcome() -> None:
    assert table(a={"x": "passed"}, b={"x": "not applicable"}).missing() == []


@pytest.mark.parametrize("other", [{"y": "passed"}, {"x": "skipped", "y": "passed"}])
def test_a_test_that_did_not_run_on_one_backend_is_named(other: dict[str, str]) -> None:
    (line,) = table(a={"x": "passed", "y": "passed"}, b=other).missing()

    assert line.startswith("b: x was ")


def test_a_backend_that_was_skipped_altogether_has_no_say() -> None:
    assert table(a={"x": "passed"}, b={"x": "skipped"}).missing() == []
