"""A folder of backups: whole files or none, for nobody else to read."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell.errors import InvalidSetting, NotFound
from llmspell.ops.backup.places import Folder, open_place, read_small
from llmspell.settings import BackupSettings


def test_what_was_put_is_read_and_listed(tmp_path: Path) -> None:
    place = Folder(tmp_path / "deep" / "backups")
    assert place.list() == []

    assert place.put("a.lsbk", [b"one", b"", b"two"]) == 6
    place.put("a.json", [b"{}"])
    place.put("a.json", [b"{ }"])

    assert [(file.name, file.size_bytes) for file in place.list()] == [("a.json", 3), ("a.lsbk", 6)]
    assert b"".join(place.read("a.lsbk")) == b"onetwo"
    assert read_small(place, "a.json") == b"{ }"
    place.delete("a.lsbk")
    place.delete("a.lsbk")
    with pytest.raises(NotFound):
        read_small(place, "a.lsbk")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
def test_nobody_else_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Folder(tmp_path / "backups").put("a.lsbk", [b"content"])
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "backups").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "backups" / "a.lsbk").stat().st_mode) == 0o600


def test_what_breaks_off_leaves_nothing_and_replaces_nothing(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    place.put("a.lsbk", [b"the old one"])

    def broken() -> Iterator[bytes]:
        yield b"half of"
        raise RuntimeError("it broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        place.put("a.lsbk", broken())

    assert [file.name for file in place.list()] == ["a.lsbk"]
    assert read_small(place, "a.lsbk") == b"the old one"


def test_other_files_of_the_folder_are_none_of_its_business(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub.lsbk").mkdir()
    if sys.platform != "win32":
        (tmp_path / "link.lsbk").symlink_to(tmp_path / "notes.txt")

    assert Folder(tmp_path).list() == []


def test_a_place_is_named_by_the_argument_or_else_by_the_settings(tmp_path: Path) -> None:
    default = tmp_path / "default"

    assert open_place(None, BackupSettings(), default).shown == str(default)
    assert open_place(None, BackupSettings(folder=str(tmp_path / "chosen")), default).shown == str(tmp_path / "chosen")
    assert open_place(str(tmp_path / "given"), BackupSettings(folder="x"), default).shown == str(tmp_path / "given")
    assert open_place(None, BackupSettings(location="s3"), default).shown == "s3://llmspell-backups/state"
    assert open_place("s3://mine", BackupSettings(), default).shown == "s3://mine/"
    for wrong in ("ftp://host/folder", "s3://", "s3://user@bucket/x", "s3://bucket/x?y=z"):
        with pytest.raises(InvalidSetting):
            open_place(wrong, BackupSettings(), default)


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidSetting, match="folder"):
            Folder(path).put("a.lsbk", [b"x"])
    assert (tmp_path / "file").read_text() == "mine"
