"""Reading one JSON object as it comes: whatever the layout and wherever the pieces end, what is found is what is there."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fixtures.seeds import SEED

from llmspell.errors import TransferError
from llmspell.storage.transfer.scanner import Scanner

TEXTS = ("", "plain", 'quo"te', "back\\slash", '\\\\"', "{[", "]}", "},{", "a\nb", "☃", "x" * 300)


def scanner(data: bytes, size: int) -> Scanner:
    pieces = iter([data[start : start + size] for start in range(0, len(data), size)])
    return Scanner(lambda: next(pieces, b""), path="export.json")


def drawn(chance: random.Random, depth: int = 4) -> Any:
    if depth and chance.random() < 0.5:
        return {chance.choice(TEXTS): drawn(chance, depth - 1) for _ in range(chance.randint(0, 4))}
    if depth and chance.random() < 0.5:
        return [drawn(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    return chance.choice((None, True, 0, -1.5e300, 2**60, *TEXTS))


def read(found: Scanner) -> Iterator[tuple[str, list[Any]]]:
    for key in found.entries():
        yield key, [json.loads(value) for _, value in found.members()]
    found.end()


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, "lines"])
def test_every_layout_is_read_in_pieces_of_every_size(layout: Any) -> None:
    chance = random.Random(SEED)
    for number in range(60):
        document = {f"table {n}": [drawn(chance) for _ in range(chance.randint(0, 4))] for n in range(3)}
        text = by_lines(document) if layout == "lines" else json.dumps(document, **layout)
        data = text.encode() + b"\n" * (number % 2)
        size = chance.choice((1, 2, 3, 7, 64, 10_000))

        assert dict(read(scanner(data, size))) == document, (SEED, text, size)


def by_lines(document: dict[str, list[Any]]) -> str:
    tables = [f"{json.dumps(key)}:[\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for key, rows in document.items()]
    return "{" + ",\n".join(tables) + "}"


def test_what_is_cut_off_anywhere_is_told_with_a_place_inside() -> None:
    data = json.dumps({"a": [{"b": [1, 'c\\"', {}]}, {"d": None}], "e": []}).encode()
    for cut in range(len(data)):
        with pytest.raises(TransferError) as caught:
            dict(read(scanner(data[:cut], 5)))
        assert 0 <= caught.value.fields["byte"] <= cut  # type: ignore[operator]


def test_the_place_of_a_member_is_its_first_byte() -> None:
    data = b'{"a": [ {"b": 1},\n  {"c": 2} ]}'
    found = scanner(data, 4)
    places = [at for _ in found.entries() for at, _ in found.members()]

    assert [data[at : at + 4] for at in places] == [b'{"b"', b'{"c"']


@pytest.mark.parametrize(
    "data", [b"[]", b'{"a": []} x', b'{"a": [], "a": []}', b"{1: []}", b'{"a": [1 2]}', b'{"a" []}', b""]
)
def test_what_is_no_such_object_is_refused(data: bytes) -> None:
    with pytest.raises(TransferError):
        dict(read(scanner(data, 100)))


def test_what_is_skipped_is_passed_whatever_it_holds() -> None:
    chance = random.Random(SEED)
    for _ in range(40):
        document = {"skipped": drawn(chance), "kept": [1]}
        found = scanner(json.dumps(document).encode(), 5)
        kept = []
        for key in found.entries():
            if key == "kept":
                kept = [value for _, value in found.members()]
            else:
                found.skip()
        assert kept == [b"1"]
