"""Which backups go, from their ages and states alone."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.fixtures.seeds import SEED

from llmspell.errors import InvalidLimit
from llmspell.ops.backup.records import Listed, Record
from llmspell.ops.backup.retention import Keeping, to_delete

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEEPING = Keeping(days=30, count=2)


def backup(days: float, *, verified: bool = True, failure: str = "", store: str = "aa", mark: str = "") -> Listed:
    at = NOW - timedelta(days=days)
    record = Record(
        id=f"{at:%Y%m%dT%H%M%S}-{store}{mark}",
        created_at=at,
        kind="sqlite",
        store="sqlite:///s.db",
        store_id=store,
        schema_version=35,
        rows=1,
        tenants=1,
        stored_bytes=10,
        content_bytes=20,
        sha256="",
        compressed=True,
        key_id=None,
        verified_at=at if verified else None,
        failure=failure,
    )
    return Listed(id=record.id, state=record.state, stored_bytes=10, age_s=days * 86_400, record=record)


def ages(going: list[Listed]) -> list[float]:
    return [each.age_s / 86_400 for each in going]


def test_old_ones_go_but_for_the_latest_few() -> None:
    assert ages(to_delete([backup(day) for day in (1, 29, 31, 60)], KEEPING, NOW)) == [60, 31]
    assert to_delete([backup(day) for day in (40, 50)], KEEPING, NOW) == []
    assert ages(to_delete([backup(day) for day in (40, 50, 60)], KEEPING, NOW)) == [60]


def test_young_ones_go_when_there_are_more_than_the_most() -> None:
    keeping = msgspec.structs.replace(KEEPING, most=2)

    assert ages(to_delete([backup(day) for day in (1, 2, 3, 4)], keeping, NOW)) == [4, 3]


def test_the_last_verified_one_never_goes() -> None:
    unverified = [backup(day, verified=False) for day in (1, 2, 3)]

    assert ages(to_delete([*unverified, backup(90), backup(91)], KEEPING, NOW)) == [91]
    assert ages(to_delete([*unverified, backup(90)], Keeping(days=1, count=1, most=1), NOW)) == [3, 2]


def test_each_store_keeps_its_own() -> None:
    found = [backup(1), backup(2), backup(50, store="bb"), backup(60, store="bb"), backup(70, store="bb")]

    assert ages(to_delete(found, KEEPING, NOW)) == [70]


def test_a_damaged_one_takes_no_place_and_goes_when_it_is_old() -> None:
    found = [backup(31, failure="other rows"), backup(40), backup(50), backup(60)]

    assert ages(to_delete(found, KEEPING, NOW)) == [60, 31]


def test_what_did_not_end_goes_after_a_day() -> None:
    fresh = Listed(id="fresh", state="incomplete", stored_bytes=5, age_s=86_000)
    left = Listed(id="left", state="incomplete", stored_bytes=5, age_s=87_000)

    assert to_delete([fresh, left], KEEPING, NOW) == [left]


def test_whatever_is_there_a_verified_one_is_left_of_every_store_that_had_one() -> None:
    chance = random.Random(SEED)
    for _ in range(300):
        found = [
            backup(
                chance.uniform(0, 90),
                verified=chance.random() < 0.5,
                failure=chance.choice(("", "", "broken")),
                store=chance.choice(("aa", "bb")),
                mark=str(number),
            )
            for number in range(chance.randrange(12))
        ]
        keeping = Keeping(days=chance.randint(1, 60), count=chance.randint(1, 5), most=chance.choice((None, 1, 3)))
        going = {each.id for each in to_delete(found, keeping, NOW)}
        good = [each for each in found if each.state == "verified"]
        last = {each.record.store_id: each.id for each in sorted(good, key=lambda one: -one.age_s) if each.record}
        assert not going & set(last.values())
        assert to_delete([each for each in found if each.id not in going], keeping, NOW) == []


@pytest.mark.parametrize("field", ["days", "count", "most"])
def test_nothing_is_kept_for_no_time(field: str) -> None:
    with pytest.raises(InvalidLimit, match=field):
        Keeping(**{"days": 1, "count": 1, field: 0})
