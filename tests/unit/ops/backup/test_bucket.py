"""A bucket as a place for backups, on a real server: whole objects or none."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.fixtures.backups import fill, settings_of, texts
from tests.fixtures.object_store import BUCKET, ObjectStore, running_object_store

from llmspell.clock import ManualClock
from llmspell.errors import NotFound, Unavailable
from llmspell.ops.backup import Backups
from llmspell.ops.backup import bucket as buckets
from llmspell.ops.backup.places import CONTENT, RECORD, Place, open_place, read_small
from llmspell.settings import BackupSettings


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    with running_object_store() as store:
        yield store


def unfinished(store: ObjectStore) -> int:
    """How many uploads in parts the server still holds."""
    with urllib.request.urlopen(f"{store.url}/{BUCKET}?uploads", timeout=20) as answer:
        return answer.read().count(b"<UploadId>")  # type: ignore[no-any-return]


def place_of(settings: BackupSettings) -> Place:
    return open_place(None, settings, Path("unused"))


async def test_a_store_comes_back_from_a_bucket(object_store: ObjectStore, tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    await fill(f"sqlite:///{store}", "Ada moved to Zurich.")
    settings = settings_of(f"sqlite:///{store}", tmp_path, backup=object_store.settings("round/trip"))
    backups = Backups(settings)

    record = backups.create()
    store.unlink()
    backups.restore("latest")

    assert await texts(f"sqlite:///{store}") == ["Ada moved to Zurich."]
    assert backups.place.shown == f"s3://{BUCKET}/round/trip"
    assert [file.name for file in backups.place.list()] == [record.id + RECORD, record.id + CONTENT]
    assert [each.state for each in backups.list()] == ["verified"]
    assert Backups(settings, location=f"s3://{BUCKET}/elsewhere").list() == []
    backups.delete(record.id, even_last=True)
    assert backups.place.list() == []


def test_large_content_goes_in_parts_and_comes_back(object_store: ObjectStore) -> None:
    place = place_of(object_store.settings("large/"))
    pieces = [bytes([number]) * 700_000 for number in range(30)]

    assert place.put("a.lsbk", pieces) == 21_000_000
    assert 2 * buckets.PART_BYTES < 21_000_000
    assert b"".join(place.read("a.lsbk")) == b"".join(pieces)
    assert [file.size_bytes for file in place.list()] == [21_000_000]


def test_what_breaks_off_leaves_nothing_and_is_safe_to_repeat(object_store: ObjectStore) -> None:
    place = place_of(object_store.settings("broken/"))

    def broken(after: int) -> Iterator[bytes]:
        for _ in range(after):
            yield bytes(5_000_000)
        raise RuntimeError("it broke off")

    for after in (0, 1, 5):
        with pytest.raises(RuntimeError, match="broke off"):
            place.put("a.lsbk", broken(after))
        assert place.list() == []
        assert unfinished(object_store) == 0, "its parts are aborted"
    place.put("a.lsbk", [b"whole"])
    place.put("a.lsbk", [b"whole again"])
    assert read_small(place, "a.lsbk") == b"whole again"


async def test_what_a_killed_backup_left_is_no_backup_and_goes_after_a_day(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    store = tmp_path / "s.db"
    await fill(f"sqlite:///{store}", "Ada moved to Zurich.")
    settings = settings_of(f"sqlite:///{store}", tmp_path, backup=object_store.settings("killed/"))
    backups = Backups(settings)
    record = backups.create(verify=False)
    backups.place.delete(record.id + RECORD)  # as if the process had ended between the content and the record

    assert [each.state for each in backups.list()] == ["incomplete"]
    assert backups.prune().deleted == [], "somebody may still be at it"
    again = backups.create(verify=False)
    later = Backups(settings, clock=ManualClock(datetime.now(UTC) + timedelta(days=1, minutes=1)))
    assert [each.id for each in later.prune().deleted] == [record.id]
    assert [each.id for each in later.list()] == [again.id]
    assert len(later.place.list()) == 2


def test_what_is_not_there_is_not_found(object_store: ObjectStore) -> None:
    place = place_of(object_store.settings("none/"))

    assert place.list() == []
    place.delete("a.lsbk")
    with pytest.raises(NotFound):
        read_small(place, "a.lsbk")
    with pytest.raises(NotFound, match="no such bucket"):
        place_of(object_store.settings("x", s3_bucket="nobody-made-this")).list()


def test_a_server_that_is_gone_is_unavailable_and_no_secret_is_shown(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "RETRIES", 0)
    settings = msgspec.structs.replace(object_store.settings("gone/"), s3_endpoint="http://127.0.0.1:9")

    for call in (lambda place: place.put("a", [b"x"]), lambda place: place.list(), lambda place: list(place.read("a"))):
        with pytest.raises(Unavailable) as raised:
            call(place_of(settings))
        assert "test-secret" not in str(raised.value)
