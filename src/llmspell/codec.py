"""What goes into a store, checked and encoded once for all backends: texts, JSON, vectors.

Rule 1: accepted means identical after a round trip on every backend; the rest is refused at this door.
Rule 2: JSON is canonical: sorted keys, no spaces, floats by shortest round trip and always recognisable as floats.
Rule 3: embeddings are little-endian float32.
"""

from __future__ import annotations

import array
import json
import math
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from llmspell.errors import InvalidInput, InvalidKey, InvalidLimit, InvalidMetadata, InvalidText, InvalidVector

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
VectorLike: TypeAlias = "Iterable[float]"  # also any buffer of float32 or float64, such as a numpy array

DIMENSIONS = (384, 768, 1536, 3072)  # VEC-01
INT64 = range(-(2**63), 2**63)
KEY_MAX_BYTES = 1_024
NAME_MAX_BYTES = 500
METADATA_MAX_BYTES = 16_384  # C16
METADATA_MAX_KEYS = 50
METADATA_KEY_MAX_BYTES = 64
METADATA_MAX_DEPTH = 16
LIMIT_MAX = 1_000
NORM_SQUARED_MIN, NORM_SQUARED_MAX = 1e-30, 1e37
"""A server sums squares and products in float32: beyond these bounds they overflow (the score is NaN) or fade away (it is wrong).
Within them no partial sum reaches 3.4e38, and what underflows is below 1e-11 of the whole."""


def require_text(
    value: object,
    *,
    field: str,
    max_bytes: int | None = None,
    max_characters: int | None = None,
    empty: bool = True,
    error: type[InvalidInput] = InvalidText,
) -> str:
    """Return `value` when every backend can keep it as text.

    Raises:
        `error`: not a string, NUL, a lone surrogate, empty where `empty` is False, or longer than a limit.
    """
    if not isinstance(value, str):
        raise error(field, "must be text", given=value)
    if not empty and not value:
        raise error(field, "must not be empty", given=value)
    if "\0" in value:
        raise error(field, "must not contain NUL (U+0000)", given=value)
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as exc:
        raise error(field, f"must not contain a lone surrogate (at character {exc.start})", given=value) from exc
    if max_characters is not None and len(value) > max_characters:
        raise error(field, f"must be at most {max_characters:,} characters", given=len(value))
    if max_bytes is not None and size > max_bytes:
        raise error(field, f"must be at most {max_bytes:,} bytes in UTF-8", given=size)
    return value


def require_key(value: object, *, field: str = "key", max_bytes: int = KEY_MAX_BYTES) -> str:
    """Return `value` when it can be a key or a name: text of 1 to `max_bytes` bytes.

    Raises:
        InvalidKey: anything else.
    """
    return require_text(value, field=field, max_bytes=max_bytes, empty=False, error=InvalidKey)


def require_limit(value: object, *, field: str = "limit", maximum: int = LIMIT_MAX, minimum: int = 1) -> int:
    """Return `value` when it is a whole number from `minimum` to `maximum`.

    Raises:
        InvalidLimit: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise InvalidLimit(field, f"must be a whole number from {minimum:,} to {maximum:,}", given=value)
    return value


def require_size(value: object, *, field: str, maximum: int = LIMIT_MAX, minimum: int = 0) -> int:
    """Return how many items a collection has: from `minimum` to `maximum`. A text is none, and neither is a generator.

    Raises:
        InvalidInput: it is no collection; `InvalidLimit`: it has too many items, or too few.
    """
    if isinstance(value, (str, bytes, bytearray, memoryview)) or not isinstance(value, Collection):
        raise InvalidInput(field, "must be a list", given=type(value).__name__)
    size = len(value)
    if size > maximum:
        raise InvalidLimit(field, f"must be at most {maximum:,}; got {size:,}")
    if size < minimum:
        raise InvalidLimit(field, f"must be at least {minimum:,}; got {size:,}")
    return size


def require_flag(value: object, *, field: str) -> bool:
    """Return `value` when it is True or False: a text such as "no" would count as True.

    Raises:
        InvalidInput: anything else.
    """
    if not isinstance(value, bool):
        raise InvalidInput(field, "must be True or False", given=value)
    return value


def require_json(value: object, *, field: str, depth: int = METADATA_MAX_DEPTH) -> None:
    """Refuse what not every backend keeps: NaN, infinities, -0.0, integers beyond 64 bits, NUL, surrogates, other types.

    Raises:
        InvalidMetadata: names the path of the offending value.
    """
    if _is_plain(value, depth):
        return
    if depth == 0:
        raise InvalidMetadata(field, f"must be nested at most {METADATA_MAX_DEPTH} deep")
    kind = type(value)
    if value is None or kind is bool:
        return
    if isinstance(value, str):
        require_text(value, field=field, error=InvalidMetadata)
    elif kind is int:
        if value not in INT64:
            raise InvalidMetadata(field, "must fit into 64 bits", given=value, hint="Store it as text.")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise InvalidMetadata(field, "must be finite", given=value)
        if value == 0 and math.copysign(1, value) < 0:
            raise InvalidMetadata(field, "must not be negative zero, which databases turn into 0.0", given=value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            require_text(key, field=f"{field} key", error=InvalidMetadata, empty=False)
            require_json(inner, field=f"{field}.{key}", depth=depth - 1)
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            require_json(inner, field=f"{field}[{position}]", depth=depth - 1)
    else:
        raise InvalidMetadata(field, "must be JSON: null, true, false, number, text, list or object", given=value)


def _is_plain(value: object, depth: int) -> bool:
    """Say whether a value is certainly accepted: what most values are, told in a third of the time, without naming paths."""
    if depth == 0:
        return False
    kind = type(value)
    if kind is str:
        return _is_plain_text(value)  # type: ignore[arg-type]
    if kind is dict:
        for key, inner in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not key or not _is_plain_text(key) or not _is_plain(inner, depth - 1):
                return False
        return True
    if kind is list:
        return all(_is_plain(inner, depth - 1) for inner in value)  # type: ignore[attr-defined]
    if kind is int:
        return -(2**63) <= value < 2**63  # type: ignore[operator]
    if kind is float:
        return math.isfinite(value) and value != 0  # type: ignore[arg-type]
    return value is None or kind is bool


def _is_plain_text(value: str) -> bool:
    return value.isascii() and "\0" not in value


def require_metadata(value: object, *, field: str = "metadata") -> dict[str, Any]:
    """Return a metadata object as a plain dict: at most 50 keys of 64 bytes, 16 KiB encoded (C16).

    Raises:
        InvalidMetadata: anything else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidMetadata(field, "must be an object", given=value)
    if len(value) > METADATA_MAX_KEYS:
        raise InvalidMetadata(field, f"must have at most {METADATA_MAX_KEYS} keys", given=len(value))
    if _is_small(value):
        return {key: value[key] for key in sorted(value)}
    for key in value:
        require_text(key, field=f"{field} key", max_bytes=METADATA_KEY_MAX_BYTES, empty=False, error=InvalidMetadata)
    require_json(value, field=field)
    encoded = encode_json(value)
    if len(encoded.encode()) > METADATA_MAX_BYTES:
        raise InvalidMetadata(
            field, f"must be at most {METADATA_MAX_BYTES:,} bytes as JSON", given=len(encoded.encode())
        )
    return decode_json(encoded)  # type: ignore[no-any-return]


def _is_small(value: Mapping[Any, object]) -> bool:
    """Say whether an object is certainly accepted, and equal after a round trip: few plain values, none of which holds others."""
    if type(value) is not dict:
        return False
    size = 0
    for key, inner in value.items():
        if type(key) is not str or not 0 < len(key) <= METADATA_KEY_MAX_BYTES or not _is_plain_text(key):
            return False
        if not _is_plain(inner, 1) or type(inner) is dict or type(inner) is list:
            return False
        size += len(key) + (len(inner) if type(inner) is str else _NUMBER_MAX_CHARACTERS) + len('"":,')
    return size * _ESCAPED_MAX_BYTES <= METADATA_MAX_BYTES


_NUMBER_MAX_CHARACTERS = 312  # -1e308 written out
_ESCAPED_MAX_BYTES = 6  # "\u0001"


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_TEXT = frozenset({str})
_SCALARS = frozenset({str, int, bool, type(None)})
_WITHOUT_FLOATS = _SCALARS | {dict, list}
_ENCODER = msgspec.json.Encoder(order="deterministic")


def encode_json(value: object) -> str:
    """Encode a checked value as canonical JSON.

    Whole floats from 1e16 on are written out ("10000000000000000.0", not "1e+16"): jsonb would give them back as integers.
    """
    if _is_without_floats(value):
        try:
            return _ENCODER.encode(value).decode()
        except (ValueError, OverflowError):  # a lone surrogate, an integer beyond 64 bits: nobody has checked the value
            return _CANONICAL.encode(value)
    if _has_large_float(value):
        return _encode_slowly(value)
    return _CANONICAL.encode(value)


def _is_without_floats(value: object) -> bool:
    """Say whether both encoders write a value alike: only floats look different, and subclasses are treated differently."""
    kind = type(value)
    if kind is dict:
        if not {*map(type, value)} <= _TEXT:  # type: ignore[call-overload]
            return False
        value = value.values()  # type: ignore[attr-defined]
    elif kind is not list:
        return kind in _SCALARS
    kinds = {*map(type, value)}  # type: ignore[call-overload]
    return kinds <= _SCALARS or (kinds <= _WITHOUT_FLOATS and all(map(_is_without_floats, value)))  # type: ignore[call-overload]


def _has_large_float(value: object) -> bool:
    kind = type(value)
    if kind is str or kind is int:
        return False
    if isinstance(value, float):
        return abs(value) >= 1e16
    if kind is dict or isinstance(value, Mapping):
        return any(map(_has_large_float, value.values()))  # type: ignore[attr-defined]
    return isinstance(value, (list, tuple)) and any(map(_has_large_float, value))


def _encode_slowly(value: object) -> str:
    """The same encoding, value by value: the C encoder has no say in how floats are written."""
    if isinstance(value, Mapping):
        members = (f"{json.dumps(key, ensure_ascii=False)}:{_encode_slowly(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_encode_slowly, value)) + "]"
    if isinstance(value, float) and abs(value) >= 1e16:
        return format(value, ".1f")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def decode_json(text: str | bytes) -> Any:
    """Decode what `encode_json` wrote.

    Raises:
        ValueError, TypeError, RecursionError: it is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # what only the slower decoder reads, or neither
        return json.loads(text)


_PACKERS = {dimension: struct.Struct(f"{dimension}f").pack for dimension in DIMENSIONS}
"""In native format, a number beyond float32 becomes infinite, exactly as in an `array`."""
_SHORT, _MIDDLE, _LONG = b"smL"
_MAGNITUDES = bytes(
    _LONG if exponent >= 80 else _MIDDLE if exponent >= 40 else _SHORT for exponent in (*range(128), *range(128))
)
"""What the highest byte of a float32 (its sign, and the upper seven bits of its exponent) tells of its size: 2**33 or more, which
infinities and NaN are too; 2**-47 or more; or less. Components below 2**33 have a squared length below `NORM_SQUARED_MAX`,
however many fit into a memory, and one of 2**-47 or more makes it greater than `NORM_SQUARED_MIN`."""


def pack_vector(value: VectorLike, *, field: str = "embedding", dimension: int | None = None) -> bytes:
    """Return a vector as little-endian float32 bytes.

    `value` is any iterable of numbers, or a one-dimensional buffer of float32 or float64 (a numpy array). Its length must
    be `dimension`, or one of 384, 768, 1536 and 3072.

    Raises:
        InvalidVector: wrong length, not numbers, NaN, infinite (also when it overflows float32), zero, or so long or short that
            its squared length is not within `NORM_SQUARED_MIN` and `NORM_SQUARED_MAX`.
    """
    try:
        packed = _float32(value)
    except (TypeError, OverflowError, ValueError) as exc:
        raise InvalidVector(field, "must be a one-dimensional sequence of numbers", given=type(value).__name__) from exc
    size = len(packed) // 4
    if dimension is None and size not in DIMENSIONS:
        *others, largest = map(str, DIMENSIONS)
        raise InvalidVector(field, f"must have {', '.join(others)} or {largest} dimensions", given=size)
    if dimension is not None and size != dimension:
        raise InvalidVector(field, f"must have {dimension} dimensions", given=size)
    _require_direction(packed, field)
    return packed


def require_packed(packed: bytes, *, field: str = "embedding", dimension: int) -> None:
    """Refuse little-endian float32 bytes that `pack_vector` would not have made.

    Raises:
        InvalidVector: another length, NaN, infinite, zero, or too long or short, as `pack_vector` says.
    """
    size, rest = divmod(len(packed), 4)
    if size != dimension or rest:
        raise InvalidVector(field, f"must have {dimension} dimensions", given=size if not rest else len(packed) / 4)
    _require_direction(packed, field)


def _require_direction(packed: bytes, field: str) -> None:
    # One byte of each component is enough to accept what embeddings are. The others have their length computed exactly.
    magnitudes = packed[3::4].translate(_MAGNITUDES)
    if _LONG in magnitudes or _MIDDLE not in magnitudes:
        _require_length(unpack_vector(packed), field)


def _float32(value: VectorLike) -> bytes:
    """Return numbers as little-endian float32 bytes; lists, tuples and float buffers are converted as a whole."""
    whole = _whole(value)
    packed = array.array("f", value) if whole is None else array.array("f", whole) if sys.byteorder == "big" else whole
    if isinstance(packed, bytes):
        return packed
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _whole(value: VectorLike) -> bytes | None:
    """Return numbers as native float32 bytes without a look at each, or None where that is not sure to give the same."""
    kind = type(value)
    if kind is array.array or kind is memoryview or kind.__module__ == "numpy":  # a masked array is from "numpy.ma"
        try:
            view = memoryview(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, BufferError):
            return None
        if view.ndim != 1 or view.format not in ("f", "d"):
            return None
        if view.format == "f":
            return view.tobytes()
        value = view.tolist()
    elif kind is not list and kind is not tuple:
        return None
    pack = _PACKERS.get(len(value))  # type: ignore[arg-type]
    try:
        return None if pack is None else pack(*value)
    except struct.error:  # not numbers: an array says which
        return None


def _require_length(components: array.array[float], field: str) -> None:
    norm_squared = math.fsum(component * component for component in components)
    if not math.isfinite(norm_squared):
        where = next((i for i, component in enumerate(components) if not math.isfinite(component)), 0)
        raise InvalidVector(f"{field}[{where}]", "must be finite in float32", given=components[where])
    if norm_squared > NORM_SQUARED_MAX:
        raise InvalidVector(
            field,
            f"must have a squared length of at most {NORM_SQUARED_MAX}",
            given=norm_squared,
            hint="Scale it to length 1.",
        )
    if norm_squared < NORM_SQUARED_MIN:
        raise InvalidVector(
            field, "must not be zero: cosine similarity to it is undefined", given=f"norm² {norm_squared}"
        )


def unpack_vector(data: bytes | memoryview) -> array.array[float]:
    """Return float32 bytes as `array('f')`, which `numpy.asarray` takes without a copy."""
    unpacked = array.array("f")
    unpacked.frombytes(data)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked
