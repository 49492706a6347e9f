"""What is checked in bulk is accepted, refused and written exactly as one by one: the slow ways are written out here."""

from __future__ import annotations

import array
import json
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmspell import codec
from llmspell.codec import decode_json, encode_json, pack_vector, require_metadata, unpack_vector
from llmspell.errors import InvalidInput, InvalidMetadata, InvalidVector

LENGTHS = (1, 3, 384, 768)
"""384 and 768 are converted as a whole, the others number by number."""
FLOAT32_MAX = float(numpy.finfo("f4").max)
EDGES = [
    *(sign * base * (1 + step) for base in (2.0**33, 2.0**-47, 1.0) for step in (-1e-7, 0, 1e-7) for sign in (1, -1)),
    *(math.sqrt(bound / length) for bound in (1e-30, 1e37) for length in (1, 384, 768)),
    *(0.0, -0.0, 1e-45, 7e-46, 1e-38, 1e-50, 1e18, 1e30, FLOAT32_MAX, 3.4028235677973366e38, 3.5e38, 1e300),
    *(math.inf, -math.inf, math.nan),
]
NUMBERS = st.sampled_from(EDGES) | st.floats() | st.floats(width=32) | st.integers(-(10**40), 10**40)
FORMS: dict[str, Callable[[list[Any]], Iterable[float]]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "array of float32": lambda values: array.array("f", values),
    "array of float64": lambda values: array.array("d", values),
    "memoryview": lambda values: memoryview(array.array("f", values)),
    "numpy float32": lambda values: numpy.array(values, dtype="f8").astype("f4"),
    "numpy float64": lambda values: numpy.array(values, dtype="f8"),
    "numpy float16": lambda values: numpy.array(values, dtype="f8").astype("f2"),
    "numpy big-endian": lambda values: numpy.array(values, dtype="f8").astype(">f4"),
    "numpy, every other": lambda values: numpy.repeat(numpy.array(values, dtype="f8").astype("f4"), 2)[::2],
    "numpy, backwards": lambda values: numpy.array(values, dtype="f8").astype("f4")[::-1],
    "numpy, one row of a matrix": lambda values: numpy.array([values, values], dtype="f8")[1],
    "numpy, masked": lambda values: numpy.ma.masked_less(numpy.array(values, dtype="f8").astype("f4"), -0.5),
    "numpy, a column": lambda values: numpy.array(values, dtype="f8").reshape(-1, 1),
}


def packed_slowly(value: Any, dimension: int) -> bytes:
    """Convert number by number, and compute the length exactly, whatever the numbers are."""
    try:
        numbers = array.array("f", value)
    except (TypeError, OverflowError, ValueError) as exc:
        raise InvalidVector(
            "embedding", "must be a one-dimensional sequence of numbers", given=type(value).__name__
        ) from exc
    if len(numbers) != dimension:
        raise InvalidVector("embedding", f"must have {dimension} dimensions", given=len(numbers))
    norm_squared = math.fsum(number * number for number in numbers)
    if not math.isfinite(norm_squared):
        where = next(at for at, number in enumerate(numbers) if not math.isfinite(number))
        raise InvalidVector(f"embedding[{where}]", "must be finite in float32", given=numbers[where])
    if norm_squared > 1e37:
        hint = "Scale it to length 1."
        raise InvalidVector("embedding", "must have a squared length of at most 1e+37", given=norm_squared, hint=hint)
    if norm_squared < 1e-30:
        given = f"norm² {norm_squared}"
        raise InvalidVector("embedding", "must not be zero: cosine similarity to it is undefined", given=given)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the whole of its error."""
    try:
        return call()
    except InvalidInput as exc:
        return type(exc), str(exc), exc.__reduce__()[1].__repr__()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Warning. converting a masked element:UserWarning")
@pytest.mark.parametrize("form", FORMS)
@given(
    length=st.sampled_from(LENGTHS),
    filling=NUMBERS,
    special=st.dictionaries(st.integers(0, max(LENGTHS) - 1), NUMBERS, max_size=4),
)
@example(length=384, filling=2.0**33, special={})
@example(length=384, filling=0.0, special={383: 2.0**-47})
@example(length=384, filling=0.5, special={383: math.nan})
@example(length=384, filling=math.sqrt(1e37 / 384), special={})
@example(length=384, filling=math.sqrt(1e-30 / 384), special={})
@example(length=384, filling=-1.0, special={})
def test_a_vector_is_accepted_or_refused_as_if_its_length_were_always_computed(
    form: str, length: int, filling: float, special: dict[int, float]
) -> None:
    numbers = [special.get(at, filling) for at in range(length)]
    try:
        FORMS[form](numbers)
    except OverflowError:  # an integer that is no float64 makes no array
        form = "list"

    slow = outcome(lambda: packed_slowly(FORMS[form](numbers), length))

    assert outcome(lambda: pack_vector(FORMS[form](numbers), dimension=length)) == slow


@pytest.mark.parametrize("odd", [None, "1", b"1", 1j, 10**400, [1.0], object], ids=lambda odd: str(type(odd).__name__))
@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_no_number_is_refused_in_the_same_words(length: int, odd: Any) -> None:
    numbers = [0.5] * (length - 1) + [odd]

    for form in (list, tuple, iter):
        slow = outcome(lambda form=form: packed_slowly(form(numbers), length))

        assert isinstance(slow, tuple)
        assert outcome(lambda form=form: pack_vector(form(numbers), dimension=length)) == slow


@pytest.mark.parametrize(
    "value", [7, None, "abc", b"\0\0\x80?", b"abc", {1: 2}, numpy.float32(1), numpy.array(["a"])], ids=repr
)
def test_what_is_no_sequence_of_numbers_is_treated_as_an_array_would(value: Any) -> None:
    assert outcome(lambda: pack_vector(value, dimension=1)) == outcome(lambda: packed_slowly(value, 1))


def test_a_released_buffer_is_refused() -> None:
    view = memoryview(array.array("f", [1.0]))
    view.release()

    with pytest.raises(InvalidVector, match="one-dimensional"):
        pack_vector(view, dimension=1)


def test_a_packed_vector_holds_its_numbers() -> None:
    numbers = [float(number) for number in range(1, 385)]

    assert list(unpack_vector(pack_vector(numbers))) == numbers


# --- JSON -------------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
KEYS = TEXTS.filter(bool)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: str(number) != "-0.0")
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def encoded_slowly(value: Any) -> str:
    """Canonical JSON by the standard library and our own writing of large floats."""
    if isinstance(value, dict):
        members = (f"{json.dumps(key, ensure_ascii=False)}:{encoded_slowly(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(encoded_slowly, value)) + "]"
    if isinstance(value, float) and abs(value) >= 1e16:
        return format(value, ".1f")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def alike(one: Any, other: Any) -> bool:
    """Equal, in type and order of keys too."""
    return repr(one) == repr(other)


@given(value=JSON)
def test_json_is_canonical_and_comes_back(value: Any) -> None:
    encoded = encode_json(value)

    assert encoded == encoded_slowly(value)
    assert alike(decode_json(encoded), json.loads(encoded))


def test_every_character_is_written_in_one_way() -> None:
    characters = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, sys.maxunicode + 1)]))

    assert encode_json({characters: [characters]}) == encoded_slowly({characters: [characters]})
    assert encode_json({characters: [characters, 0.5]}) == encoded_slowly({characters: [characters, 0.5]})


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", {"\ud800": 1}, {1: 2, 0: 3}, (1, (2,))], ids=ascii)
def test_what_nobody_checked_is_written_as_before(value: Any) -> None:
    assert encode_json(value) == json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    "text", ["", "[1,]", "01", "\ufeff1", '"\x01"', "[" * 100_000, "1" * 5_000, b"\xff", b'"\xff"', None]
)
def test_a_damaged_text_is_refused_as_ever(text: Any) -> None:
    with pytest.raises(Exception) as slow:  # noqa: PT011 - which it is, is the question
        json.loads(text)

    with pytest.raises(slow.type):
        decode_json(text)


@pytest.mark.parametrize(
    "text", ["1e400", "NaN", '"\\ud800"', " 1 ", "-0", "123456789012345678901234567890", '{"a":1,"a":2}', b"[1]"]
)
def test_a_text_that_we_would_not_write_is_read_as_ever(text: str) -> None:
    assert alike(decode_json(text), json.loads(text))


# --- metadata ---------------------------------------------------------------------------------------------------------


def required_slowly(value: Any) -> dict[str, Any]:
    """Check each key and each value by itself, and give back what comes out of the text."""
    if len(value) > codec.METADATA_MAX_KEYS:
        raise InvalidMetadata("metadata", "must have at most 50 keys", given=len(value))
    for key in value:
        codec.require_text(key, field="metadata key", max_bytes=64, empty=False, error=InvalidMetadata)
    codec.require_json(value, field="metadata")
    encoded = encoded_slowly(value).encode()
    if len(encoded) > codec.METADATA_MAX_BYTES:
        raise InvalidMetadata("metadata", "must be at most 16,384 bytes as JSON", given=len(encoded))
    return dict(json.loads(encoded))


ASCII_KEYS = st.sampled_from(
    ["b", "a", "c", "k" * 64, "k" * 65, "\x01" * 64, "", "\0", "a\0b", "\ud800", "é" * 32, "é" * 33]
)
SCALARS = st.none() | st.booleans() | INT64 | FLOATS | st.sampled_from(["", "Ada", "é", '"', "\0", "\ud800"])
ODD = st.sampled_from([-0.0, math.nan, math.inf, 2**63, -(2**63) - 1, 1e16, 1e308, b"", (1,), {"b": [1], "a": {}}])
METADATA = (
    st.dictionaries(ASCII_KEYS, SCALARS, max_size=4)
    | st.dictionaries(ASCII_KEYS | st.integers(0, 3), SCALARS | ODD, max_size=4)
    | st.dictionaries(KEYS, JSON, max_size=4)
)


def many(count: int, value: Any) -> dict[str, Any]:
    return {f"{number:02}": value for number in range(count)}


@given(value=METADATA)
@example(value={"b": 1, "a": 2})
@example(value={"": 1})
@example(value=many(50, 1))
@example(value=many(51, 1))
@example(value={f"{number:020}": -1e308 for number in range(50)})  # 312 characters each
@example(value=many(50, 1e-308))
@example(value=many(48, "x" * 330))
@example(value=many(50, "\x01" * 54))
@example(value=many(50, "\x01" * 53))
@example(value={"a": "\x01" * 2_729})
@example(value={"a": "\x01" * 2_730})
@example(value={"a": "x" * 16_376})
@example(value={"a": "x" * 16_377})
def test_metadata_is_accepted_or_refused_as_if_each_value_were_looked_at(value: dict[Any, Any]) -> None:
    slow = outcome(lambda: required_slowly(value))

    assert alike(outcome(lambda: require_metadata(value)), slow)


def test_a_vector_of_no_stored_dimension_is_told_which_there_are() -> None:
    with pytest.raises(InvalidVector, match="must have 384, 768, 1536 or 3072 dimensions"):
        pack_vector([1.0] * 100)
