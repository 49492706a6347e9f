"""How values and conditions are said to SQLite.

Rule: a path inside JSON is a parameter, never part of a query's text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import apsw

from llmspell.clock import from_microseconds, to_microseconds
from llmspell.codec import decode_json, encode_json
from llmspell.errors import CorruptStore
from llmspell.ids import id_of
from llmspell.storage.contracts.filters import Compare
from llmspell.storage.relational.filters import FieldKind

INFINITY: Final = 2**63 - 1
"""The open end of a period, in microseconds."""
DAMAGED_HINT: Final = "Restore a backup; keep the damaged file for repair."
_UNREADABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)
"""What the decoders raise at a value that nobody stored."""
_SYMBOLS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class SqliteDialect:
    """`Dialect`: ids are 16 bytes, instants microseconds, JSON canonical text, arrays JSON texts, vectors bytes."""

    def id(self, value: UUID) -> bytes:
        return value.bytes

    def to_id(self, raw: Any) -> UUID:
        try:
            return id_of(raw)
        except _UNREADABLE as exc:
            raise _damaged() from exc

    def instant(self, value: datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def to_instant(self, raw: Any) -> Any:
        try:
            return None if raw is None else from_microseconds(raw)
        except _UNREADABLE as exc:
            raise _damaged() from exc

    def open_end(self, value: datetime | None) -> int:
        return INFINITY if value is None else to_microseconds(value)

    def to_open_end(self, raw: Any) -> datetime | None:
        return None if raw == INFINITY else self.to_instant(raw)

    def json(self, value: Any) -> str | None:
        return None if value is None else encode_json(value)

    def to_json(self, raw: Any) -> Any:
        try:
            return None if raw is None else decode_json(raw)
        except _UNREADABLE as exc:
            raise _damaged() from exc

    def array(self, values: Sequence[Any]) -> str:
        return encode_json([_element(value) for value in values])

    def vector(self, packed: bytes) -> bytes:
        return packed

    def to_vector(self, raw: Any) -> bytes:
        try:
            return bytes(raw)
        except _UNREADABLE as exc:
            raise _damaged() from exc


def _damaged() -> CorruptStore:
    return CorruptStore("A value in the file is damaged.", hint=DAMAGED_HINT)


def _element(value: Any) -> Any:
    """One member of an array: queries say `unhex(value)` for ids."""
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return to_microseconds(value.astimezone(UTC))
    return value


class SqliteFilters:
    """`FilterDialect`: conditions on built-in columns and inside metadata."""

    def typed(self, parameter: str, kind: FieldKind) -> str:
        return f":{parameter}"

    def member(self, column: str, parameter: str, kind: FieldKind) -> str:
        return f"({column} IN (SELECT value FROM json_each(:{parameter})))"

    def selective(self, condition: str) -> str:
        # Without statistics every index that begins with the tenant looks alike.
        return f"likelihood({condition}, 0.001)"

    def metadata(self, column: str, comparison: Compare, bind: Callable[[Any], str]) -> str:
        path, operator, operand = comparison.path, comparison.operator, comparison.operand
        where = bind(json_path(path))
        kind = f"json_type({column}, :{where})"
        if operator == "$exists":
            return f"({kind} IS {'NOT ' if operand else ''}NULL)"
        if operator == "$contains":
            # A text never equals a list or an object, so only members of lists come here.
            return f"({kind} = 'array' AND llmspell_json_holds({column} -> :{where}, :{bind(encode_json(operand))}))"
        if operator in ("$in", "$nin"):
            found = self._any(column, where, kind, operand, bind)
            return found if operator == "$in" else f"({kind} IS NOT NULL AND NOT {found})"
        if operator in ("$eq", "$ne"):
            equal = self._equal(column, where, kind, operand, bind)
            return equal if operator == "$eq" else f"({kind} IS NOT NULL AND NOT {equal})"
        return self._ordered(column, where, kind, _SYMBOLS[operator], operand, bind)

    def _any(self, column: str, where: str, kind: str, operands: tuple[Any, ...], bind: Callable[[Any], str]) -> str:
        if not operands:
            return "FALSE"
        if all(isinstance(operand, str) for operand in operands):
            members = bind(encode_json(list(operands)))
            return f"coalesce({kind} = 'text' AND {column} ->> :{where} IN (SELECT value FROM json_each(:{members})), FALSE)"
        members = bind(encode_json([[operand] for operand in operands]))
        return (
            f"coalesce({kind} IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(:{members}) AS member "
            f"WHERE llmspell_json_equal({column} -> :{where}, member.value -> '$[0]')), FALSE)"
        )

    def _equal(self, column: str, where: str, kind: str, operand: Any, bind: Callable[[Any], str]) -> str:
        """Two-valued: FALSE where the key is missing."""
        if operand is None:
            return f"coalesce({kind} = 'null', FALSE)"
        if isinstance(operand, bool):
            return f"coalesce({kind} = '{'true' if operand else 'false'}', FALSE)"
        if isinstance(operand, str):
            return f"coalesce({kind} = 'text' AND {column} ->> :{where} = :{bind(operand)}, FALSE)"
        if isinstance(operand, (int, float)):
            return f"coalesce({kind} IN ('integer', 'real') AND {column} ->> :{where} = :{bind(operand)}, FALSE)"
        return f"coalesce(llmspell_json_equal({column} -> :{where}, :{bind(encode_json(operand))}), FALSE)"

    def _ordered(
        self, column: str, where: str, kind: str, symbol: str, operand: Any, bind: Callable[[Any], str]
    ) -> str:
        kinds = "'text'" if isinstance(operand, str) else "'integer', 'real'"
        return f"({kind} IN ({kinds}) AND {column} ->> :{where} {symbol} :{bind(operand)})"


def json_path(path: tuple[str, ...]) -> str:
    """Return a path as the JSON functions take it. Keys hold no quote and no backslash: the contract refuses them."""
    return "$" + "".join(f'."{key}"' for key in path)


def register_functions(connection: apsw.Connection) -> None:
    """Teach a connection to compare lists and objects as the contract does: the built-in functions compare their text."""
    connection.create_scalar_function(
        "llmspell_json_equal", _json_equal, 2, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
    )
    connection.create_scalar_function(
        "llmspell_json_holds", _json_holds, 2, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
    )


def _json_equal(*pair: Any) -> bool | None:
    left, right = pair
    if left is None or right is None:
        return None
    return same(decode_json(left), decode_json(right))


def _json_holds(*pair: Any) -> bool | None:
    values, member = pair
    if values is None or member is None:
        return None
    wanted, held = decode_json(member), decode_json(values)
    # The planner may ask before it has looked at the type beside this condition.
    return isinstance(held, list) and any(same(value, wanted) for value in held)


def same(left: Any, right: Any) -> bool:
    """Compare JSON values strictly: numbers by value, true is not 1, order matters in lists only."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
