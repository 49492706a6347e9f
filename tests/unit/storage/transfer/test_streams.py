"""Where exports go: files that are whole or not there, and nothing else is ever replaced."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from llmspell.errors import DiskFull, InvalidInput, TransferError, Unavailable
from llmspell.storage.transfer.streams import Input, Output


def test_a_file_appears_when_it_is_complete_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    with Output(path).open() as file:
        file.write(b"{}")
        assert not path.exists()

    assert path.read_bytes() == b"{}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_name_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(b"the last one")

    def fail() -> None:
        with Output(path).open() as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert path.read_bytes() == b"the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Output(pipe).open() as file:
            file.write(b"through the pipe")
        assert os.read(reading, 100) == b"through the pipe"
    finally:
        os.close(reading)

    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, target = tmp_path / "latest.json", tmp_path / "kept" / "monday.json"
    link.symlink_to(target)
    with Output(link).open() as file:
        file.write(b"{}")

    assert link.is_symlink()
    assert target.read_bytes() == b"{}"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="folder"), Output(tmp_path).open():
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("standard", [False, True], ids=["device", "stdout"])
def test_a_full_device_is_a_full_disk(standard: bool) -> None:
    with Path("/dev/full").open("wb", buffering=0) as stream:
        output = Output("-", stream=cast("BinaryIO", stream)) if standard else Output("/dev/full")
        with pytest.raises(DiskFull), output.open() as file:
            file.write(b"{}")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable), Output(tmp_path / "no" / "export.json").open():
        pass


@pytest.mark.parametrize("compress", ["gz", "zst", "none"])
def test_what_was_packed_is_recognised_by_its_first_bytes(compress: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    with Output(path, compress=compress).open() as file:  # type: ignore[arg-type]
        file.write(b"{}" * 1_000)

    given = Input(path)
    assert given.again
    with given.open() as file:
        assert b"".join(iter(lambda: given.read(file), b"")) == b"{}" * 1_000


def test_a_packed_stream_that_is_no_archive_is_refused() -> None:
    given = Input("-", compress="gz", stream=io.BytesIO(b"no archive at all"))
    with given.open() as file, pytest.raises(TransferError):
        given.read(file)


def test_an_unknown_way_of_packing_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Output("export.json", compress="rar")  # type: ignore[arg-type]
