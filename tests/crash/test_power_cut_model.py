"""The model of a disk that loses power: what it may lose, and what it must keep."""

from __future__ import annotations

from tests.crash.power_cuts import SECTOR, images
from tests.crash.recording_files import Operation, Recording

IMAGES = 400
OLD, FIRST, SECOND = b"o" * SECTOR, b"1" * SECTOR, b"2" * SECTOR


def after(operations: list[Operation], files: dict[str, bytes] | None = None) -> set[bytes | None]:
    """Every content that file `f` has in images cut at the end of these operations."""
    recording = Recording("model", files or {}, operations, begins_at=len(operations))
    found = images(recording, "model", range(IMAGES))
    return {image.files.get("f") for image in found}


def test_what_a_sync_covered_is_always_there() -> None:
    written = [Operation("write", "f", 0, FIRST * 2), Operation("sync", "f", 1)]

    assert after(written, {"f": OLD * 2}) == {FIRST * 2}


def test_a_sync_covers_its_own_file_and_what_was_written_before_it_began() -> None:
    another = [Operation("create", "g"), Operation("write", "f", 0, FIRST), Operation("sync", "g", 2)]
    late = [Operation("write", "f", 0, FIRST), Operation("write", "f", 0, SECOND), Operation("sync", "f", 1)]

    assert after(another, {"f": OLD}) == {OLD, FIRST}
    assert after(late, {"f": OLD}) == {FIRST, SECOND}


def test_a_write_without_a_sync_is_lost_kept_or_torn_between_sectors() -> None:
    assert after([Operation("write", "f", 0, FIRST * 2)], {"f": OLD * 2}) == {
        OLD * 2,
        FIRST * 2,
        OLD + FIRST,
        FIRST + OLD,
    }


def test_a_later_write_is_kept_although_an_earlier_one_is_lost() -> None:
    written = [Operation("write", "f", 0, FIRST), Operation("write", "f", SECTOR, SECOND)]

    assert OLD + SECOND in after(written, {"f": OLD * 2})


def test_a_write_harms_no_byte_of_another_sector_and_keeps_its_own_sector_whole() -> None:
    written = [Operation("write", "f", 10, b"x" * 20)]

    assert after(written, {"f": OLD * 2}) == {OLD * 2, OLD[:10] + b"x" * 20 + OLD[30:] + OLD}


def test_a_size_may_be_kept_without_its_content_which_is_noise_then() -> None:
    found = after([Operation("write", "f", SECTOR, FIRST)], {"f": OLD})

    assert {OLD, OLD + FIRST, OLD + bytes(SECTOR)} < found
    assert all(content is not None and content.startswith(OLD) for content in found)
    assert len(found) > 3, "no noise"


def test_a_truncation_without_a_sync_may_be_lost() -> None:
    assert {OLD, OLD * 2} <= after([Operation("truncate", "f", SECTOR)], {"f": OLD * 2})


def test_a_name_is_lost_until_its_folder_is_synced_whatever_was_synced_into_it() -> None:
    created = [Operation("create", "f"), Operation("write", "f", 0, FIRST), Operation("sync", "f", 2)]
    deleted = [Operation("delete", "f")]

    assert after(created) == {None, FIRST}
    assert after([*created, Operation("sync folder")]) == {FIRST}
    assert after(deleted, {"f": OLD}) == {None, OLD}
    assert after([*deleted, Operation("sync folder")], {"f": OLD}) == {None}


def test_after_a_failed_sync_a_later_one_does_not_write_what_was_forgotten() -> None:
    written = [Operation("write", "f", 0, FIRST * 8), Operation("failed sync", "f", 1), Operation("sync", "f", 2)]

    (found,) = after(written, {"f": OLD * 8})

    assert found not in (OLD * 8, FIRST * 8)
    assert {found[start : start + SECTOR] for start in range(0, len(found), SECTOR)} == {OLD, FIRST}  # type: ignore[index]


def test_an_image_follows_from_its_seed_and_number() -> None:
    recording = Recording("model", {"f": OLD * 4}, [Operation("write", "f", 0, FIRST * 4)] * 9)
    many = {image.number: image for image in images(recording, "s", range(50))}

    assert [image for number in range(50) for image in images(recording, "s", [number])] == [
        many[number] for number in range(50)
    ]
