"""Files that are not what they were: refused, with the place, and the target is as it was."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.seeds import SEED
from tests.fixtures.soak import size, tell
from tests.transfer.drawn_rows import Drawn
from tests.transfer.stores import CLOCK, contents, file_store

from llmspell.errors import ExportDamaged, ExportTooNew, LlmspellError, StorageError, TransferError
from llmspell.storage.transfer.exporter import export
from llmspell.storage.transfer.importer import import_
from llmspell.storage.transfer.streams import Compress, Input, Output

CUTS, FLIPS = size(ci=60, soak=3_000), size(ci=120, soak=6_000)


_MADE: dict[str, bytes] = {}


async def made(folder: Path, compress: Compress = "none") -> Path:
    """An export, made once for all tests."""
    path = folder / "made.json"
    if compress not in _MADE:
        drawn = Drawn(SEED, ["acme"], each=1, vectors=1, artifact_bytes=50)
        async with file_store(folder / "origin.db") as origin:
            await drawn.load(origin)
            await export(origin, Output(path, compress=compress), clock=CLOCK)
        _MADE[compress] = path.read_bytes()
    path.write_bytes(_MADE[compress])
    return path


@pytest.mark.parametrize("compress", ["none", "gz", "zst"])
async def test_a_file_that_was_cut_off_anywhere_is_refused(compress: Compress, tmp_path: Path) -> None:
    whole = (await made(tmp_path, compress)).read_bytes()
    chance = random.Random(SEED)
    cuts = {1, 10, len(whole) - 1, len(whole) - 2, *(chance.randrange(1, len(whole)) for _ in range(CUTS // 3))}
    async with file_store(tmp_path / "target.db") as target:
        before = await contents(target)
        for cut in sorted(cuts):
            with pytest.raises(LlmspellError) as caught:
                await import_(Input("-", stream=io.BytesIO(whole[:cut])), target)
            assert isinstance(caught.value, TransferError), (cut, caught.value)
        assert await contents(target) == before == {}
    tell(cut_exports=len(cuts))


@pytest.mark.parametrize("compress", ["none", "gz", "zst"])
async def test_a_file_in_which_a_byte_was_changed_is_refused_wherever_that_matters(
    compress: Compress, tmp_path: Path
) -> None:
    whole = (await made(tmp_path, compress)).read_bytes()
    chance = random.Random(SEED)
    harmless = 0
    async with file_store(tmp_path / "target.db") as target:
        for _ in range(FLIPS // 3):
            at = chance.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[at] ^= 1 << chance.randrange(8)
            with contextlib.suppress(LlmspellError):
                report = await import_(Input("-", stream=io.BytesIO(flipped)), target, dry_run=True)
                # It says nothing of a row: the header, a space, the clock of the archive.
                assert report.digests_checked, f"seed {SEED}: byte {at} took the summary away"
                harmless += 1
        assert await contents(target) == {}
    tell(flipped_exports=FLIPS // 3, harmless_flips=harmless)


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> Input:
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.with_name("edited.json").write_text(json.dumps(document), "utf-8")
    return Input(path.with_name("edited.json"))


def without_summary(edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def both(document: dict[str, Any]) -> None:
        del document["summary"]
        edit(document["data"])

    return both


def first(table: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        outer, _, inner = table.partition(".")
        rows = data[outer][inner] if inner else data[outer]
        rows[0].update(values)

    return without_summary(edit)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a vector of another dimension": (first("vector_embeddings.768", embedding="AAAAAAAA"), "768 dimensions"),
    "a vector without a direction": (first("vector_embeddings.384", embedding="A" * 2048), "zero"),
    "a column too few": (without_summary(lambda data: data["kv_store"][0].pop("value")), "missing required field"),
    "a column too many": (first("kv_store", extra=1), "unknown field"),
    "an instant without an offset": (first("kv_store", created_at="2026-05-01T00:00:00"), "created_at"),
    "no such day": (first("kv_store", created_at="2026-02-30T00:00:00Z"), "created_at"),
    "a text with NUL": (first("kv_store", key="a\0b"), "NUL"),
    "metadata with NUL": (first("kv_store", metadata={"a": "b\0"}), "NUL"),
    "a number beyond 64 bits": (first("jobs", priority=2**64), "priority"),
    "a text that is too long": (first("kv_store", key="x" * 1_025), "key"),
    "an id that is none": (first("kv_store", kv_id="abc"), "kv_id"),
    "a tenant that cannot be": (first("kv_store", tenant_id=" acme"), "tenant"),
    "bytes that are no base64": (first("kv_store", value="%%%"), "value"),
    "an unknown table": (without_summary(lambda data: data.update(strange=[])), "does not know"),
    "a table that is no list": (without_summary(lambda data: data.update(kv_store={})), "JSON"),
    "a row twice": (without_summary(lambda data: data["jobs"].append(data["jobs"][0])), "key"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
async def test_a_record_that_no_store_may_hold_is_refused_with_its_place(what: str, tmp_path: Path) -> None:
    edit, says = REFUSED[what]
    given = edited(await made(tmp_path), edit)
    async with file_store(tmp_path / "target.db") as target:
        with pytest.raises(TransferError) as caught:
            await import_(given, target)

        assert says in str(caught.value)
        assert isinstance(caught.value.fields["byte"], int)
        assert await contents(target) == {}


async def test_the_place_of_a_bad_record_is_its_number_and_its_byte(tmp_path: Path) -> None:
    path = await made(tmp_path)
    text = path.read_bytes()
    at = text.index(b'{"tenant_id"', text.index(b'"kv_store":[\n'))
    bad = text[:at] + text[at:].replace(b'"key":', b'"yek":', 1)
    async with file_store(tmp_path / "target.db") as target:
        with pytest.raises(TransferError) as caught:
            await import_(Input("-", stream=io.BytesIO(bad)), target)

    assert {name: caught.value.fields[name] for name in ("table", "record", "byte")} == {
        "table": "kv_store",
        "record": 1,
        "byte": at,
    }


def newer(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(values)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (newer(version="1.1"), ExportTooNew),
        (newer(version="2.0"), ExportTooNew),
        (newer(version="0.9"), TransferError),
        (newer(schema_version=9_999), ExportTooNew),
        (lambda document: document.pop("version"), TransferError),
        (lambda document: document.pop("data"), TransferError),
        (lambda document: document.update(strange=1), TransferError),
        (lambda document: document["data"]["kv_store"].clear(), ExportDamaged),
        (lambda document: document["data"].pop("sessions"), StorageError),
        (lambda document: document["data"]["sessions"][0].update(version=7), ExportDamaged),
        (lambda document: document["summary"]["tables"]["jobs"].update(count=7), ExportDamaged),
    ],
    ids=["1.1", "2.0", "0.9", "schema", "no version", "no data", "strange", "cleared", "gone", "changed", "summary"],
)
async def test_a_file_of_another_release_or_that_contradicts_itself_is_refused(
    edit: Callable[[dict[str, Any]], None], error: type[LlmspellError], tmp_path: Path
) -> None:
    given = edited(await made(tmp_path), edit)
    async with file_store(tmp_path / "target.db") as target:
        with pytest.raises(error) as caught:
            await import_(given, target)

        assert type(caught.value) is error or error is not ExportDamaged
        assert await contents(target) == {}


async def test_an_edited_file_without_its_summary_is_imported_and_that_is_said(tmp_path: Path) -> None:
    given = edited(await made(tmp_path), first("kv_store", key="renamed"))
    async with file_store(tmp_path / "target.db") as target:
        report = await import_(given, target)

        assert not report.digests_checked
        assert any("no summary" in note for note in report.notes)
        assert (await contents(target))["kv_store"] == 1


async def test_a_stream_whose_tables_stand_in_another_order_says_that_it_must_be_a_file(tmp_path: Path) -> None:
    path = await made(tmp_path)
    document = json.loads(path.read_text("utf-8"))
    document["data"] = dict(sorted(document["data"].items()))
    text = json.dumps(document)
    async with file_store(tmp_path / "target.db") as target:
        with pytest.raises(TransferError, match="cannot be read twice"):
            await import_(Input("-", stream=io.BytesIO(text.encode())), target)
        assert await contents(target) == {}


@pytest.mark.parametrize("part", [b'"exported_at"', b'"sessions"', b'"summary"', b'"sqlite"'])
async def test_a_name_or_a_value_that_is_no_text_is_an_error_with_its_place(part: bytes, tmp_path: Path) -> None:
    whole = (await made(tmp_path)).read_bytes()
    broken = whole.replace(part, part[:1] + b"\xb2" + part[2:], 1)
    async with file_store(tmp_path / "target.db") as target:
        with pytest.raises(TransferError) as caught:
            await import_(Input("-", stream=io.BytesIO(broken)), target)
        assert await contents(target) == {}
    assert broken != whole
    assert isinstance(caught.value.fields["byte"], int)
