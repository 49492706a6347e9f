"""Whether backups are well, from their records alone."""

from __future__ import annotations

import pytest
from tests.unit.ops.backup.test_retention import NOW, backup

from llmspell.ops.backup.records import Listed
from llmspell.ops.backup.state import judge

HOUR = 1 / 24


@pytest.mark.parametrize(
    ("found", "enabled", "status"),
    [
        ([], False, "off"),
        ([], True, "red"),
        ([backup(HOUR)], True, "ok"),
        ([backup(HOUR)], False, "ok"),
        ([backup(4 * HOUR)], True, "red"),
        ([backup(4 * HOUR)], False, "red"),
        ([backup(HOUR, verified=False)], True, "red"),
        ([backup(HOUR, verified=False)], False, "degraded"),
        ([backup(HOUR, verified=False), backup(2 * HOUR)], True, "degraded"),
        ([backup(HOUR, failure="other rows"), backup(2 * HOUR)], True, "degraded"),
        ([backup(HOUR), backup(2 * HOUR, failure="other rows")], True, "ok"),
    ],
)
def test_the_last_verified_backup_decides(found: list[Listed], enabled: bool, status: str) -> None:
    judged = judge(found, NOW, enabled=enabled, stale_after_s=3 * 3_600)

    assert judged.status == status
    assert judged.reason


def test_the_numbers_are_those_of_the_backups() -> None:
    judged = judge([backup(2), backup(1, verified=False), backup(3, failure="x")], NOW, enabled=True, stale_after_s=1e6)

    assert (judged.backups, judged.unverified, judged.damaged, judged.stored_bytes) == (3, 1, 1, 30)
    assert judged.age_s == 2 * 86_400
    assert judged.last_verified_at == backup(2).record.created_at  # type: ignore[union-attr]


def test_without_a_limit_no_age_is_too_much() -> None:
    assert judge([backup(300)], NOW, enabled=False, stale_after_s=None).status == "ok"
