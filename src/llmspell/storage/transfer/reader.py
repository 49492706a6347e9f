"""An export, read: its header, then table after table in batches, and its summary.

Rule 1: every record is checked, counted and digested as it goes by; keys ascend, so that no row comes twice.
Rule 2: an error names the file, the table, the number of the record, from 1, and the byte at which it begins.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, cast

import msgspec

from llmspell.errors import InvalidInput, LlmspellError, TransferError
from llmspell.storage.contracts.transfer import BATCH_BYTES, BATCH_ROWS, Record, Table, TableCount
from llmspell.storage.contracts.transfer_tables import BY_PATH
from llmspell.storage.transfer.format import DATA, SUMMARY, Header, Summary, require_readable
from llmspell.storage.transfer.records import ENCODER, Digests, RecordReader
from llmspell.storage.transfer.scanner import Scanner
from llmspell.storage.transfer.streams import Input
from llmspell.tenant import STORE_TENANT, tenant_id

_GROUPS: Final = frozenset(path[0] for path in BY_PATH if len(path) > 1)
_HEADER: Final = frozenset(Header.__struct_fields__)
_DEMANDED: Final = frozenset({"version", "exported_at", "source_backend", "schema_version"})


class Batch(msgspec.Struct, frozen=True):
    """Records that follow each other: the number of the first, from 1, and where each stands in the file that they come from."""

    records: list[Record]
    first: int
    byte_of: Callable[[int], int] | None = None
    """The byte at which a record begins, by its place in the batch; it may read them again."""


class _Opened(NamedTuple):
    """A file that is read up to its data."""

    stack: contextlib.ExitStack
    scanner: Scanner
    entries: Iterator[str]
    at_data: bool


class ExportReader:
    """One file; it may be read several times where the input can."""

    def __init__(self, given: Input) -> None:
        self._given = given
        self._known: dict[str, Any] = {}
        self._opened: _Opened | None = None
        self.summary: Summary | None = None
        self.seen: set[str] = set()
        """Names of the tables that the file has."""
        self.counts: dict[str, TableCount] = {}
        """What was read, by the place of the table."""
        self.header = Header(version="", exported_at="", source_backend="")

    @property
    def path(self) -> str:
        """What the file is called."""
        return self._given.path

    @property
    def again(self) -> bool:
        """Whether another pass can be made."""
        return self._given.again

    def start(self) -> bool:
        """Open the file, read up to its data, and say whether the header is known; `tables` goes on from there.

        Raises:
            TransferError, ExportTooNew, Unavailable.
        """
        self.close()
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._given.open())
            scanner = Scanner(lambda: self._given.read(file), path=self.path)
            scanner.begin()
            entries = scanner.entries()
            at_data = False
            for key in entries:
                if key == DATA:
                    at_data = True
                    break
                self._take_key(scanner, key)
            if self._known.keys() >= _DEMANDED:
                self._take_header(scanner)
            self._opened = _Opened(stack.pop_all(), scanner, entries, at_data)
        return bool(self.header.version)

    def close(self) -> None:
        """Close a file that was opened and not read."""
        if self._opened is not None:
            self._opened.stack.close()
            self._opened = None

    def tables(self, wanted: Callable[[Table], bool]) -> Iterator[tuple[Table, Iterator[Batch]]]:
        """Yield the wanted tables in the order of the file; each must be read before the next.

        Raises:
            TransferError, ExportTooNew, Unavailable.
        """
        if self._opened is None:
            self.start()
        opened, self._opened = cast("_Opened", self._opened), None
        scanner = opened.scanner
        with opened.stack:
            if opened.at_data:
                yield from self._tables(scanner, wanted)
            for key in opened.entries:
                self._take_key(scanner, key)
            scanner.end()
            self._take_header(scanner)
            if not opened.at_data:
                scanner.fail("The export has no `data`.")

    def find_header(self) -> None:
        """Read all of a file, for its header stands behind the data.

        Raises:
            TransferError, ExportTooNew.
        """
        for _ in self.tables(lambda _table: False):
            pass

    def _take_key(self, scanner: Scanner, key: str) -> None:
        if key == SUMMARY:
            self.summary = self._value(scanner, Summary, key)
        elif key in _HEADER:
            self._known[key] = self._value(scanner, Any, key)
        else:
            scanner.fail(f"The key {key!r} is none of an export.")

    def _value(self, scanner: Scanner, kind: Any, key: str) -> Any:
        scanner.peek()
        at = scanner.offset
        try:
            return msgspec.json.decode(scanner.value(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            scanner.fail(f"`{key}` cannot be read: {exc}.", offset=at)

    def _take_header(self, scanner: Scanner) -> None:
        try:
            self.header = msgspec.convert(self._known, Header)
        except msgspec.ValidationError as exc:
            scanner.fail(f"The header of the export cannot be read: {exc}.", offset=0)
        require_readable(self.header)

    def _tables(self, scanner: Scanner, wanted: Callable[[Table], bool]) -> Iterator[tuple[Table, Iterator[Batch]]]:
        for key in scanner.entries():
            if key in _GROUPS:
                for inner in scanner.entries():
                    yield from self._table(scanner, (key, inner), wanted)
            else:
                yield from self._table(scanner, (key,), wanted)

    def _table(
        self, scanner: Scanner, path: tuple[str, ...], wanted: Callable[[Table], bool]
    ) -> Iterator[tuple[Table, Iterator[Batch]]]:
        table = BY_PATH.get(path)
        if table is None:
            scanner.fail(f"`data` has a table {'.'.join(path)!r}, which this llmspell does not know.")
        self.seen.add(table.name)
        if not wanted(table):
            scanner.skip()
            return
        if not self.header.version:
            scanner.fail("The header stands behind the data.")
        yield table, self._batches(scanner, table)

    def _batches(self, scanner: Scanner, table: Table) -> Iterator[Batch]:
        taking = _Taking(RecordReader(table, self.header.schema_version))
        more, one_by_one = scanner.begins_list(), 0
        while more:
            # Many at once where they have a line each, as exports are written. Where anything is amiss they are read again,
            # one by one: then an error says of which it is.
            lines = scanner.lines() if scanner.offset >= one_by_one else b""
            records = taking.many(lines) if lines else None
            if records is not None:
                first, offset = taking.count - len(records) + 1, scanner.offset
                scanner.pass_over(lines)
                for start in range(0, len(records), BATCH_ROWS):
                    yield Batch(records[start : start + BATCH_ROWS], first + start, _in_lines(lines, offset, start))
                more = scanner.goes_on()
                continue
            one_by_one = max(one_by_one, scanner.offset + len(lines))
            some: list[Record] = []
            offsets: list[int] = []
            size = 0
            while more and len(some) < BATCH_ROWS and size < BATCH_BYTES:
                offset = scanner.offset
                raw = scanner.value()
                try:
                    some.append(taking.one(raw))
                except _REFUSALS as exc:
                    raise self._refused(exc, table, taking.count + 1, offset) from exc
                offsets.append(offset)
                size += len(raw)
                more = scanner.goes_on()
            yield Batch(some, taking.count - len(some) + 1, offsets.__getitem__)
        self.counts[table.shown] = taking.result()

    def _refused(self, exc: Exception, table: Table, number: int, offset: int) -> LlmspellError:
        where: dict[str, Any] = {"path": self.path, "table": table.shown, "record": number, "byte": offset}
        if isinstance(exc, InvalidInput):
            return TransferError(f"A record of the export was refused: {exc.detail}", hint=exc.hint, **where)
        if isinstance(exc, LlmspellError):
            return TransferError(f"A record of the export was refused: {exc.detail}", **where)
        return TransferError(f"A record of the export cannot be read: {exc}.", **where)


_REFUSALS: Final = (ValueError, TypeError, OverflowError, RecursionError, LlmspellError)


class _Taking:
    """Takes the records of a table one after the other: each is checked, and counted and digested when it may follow the last."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._digests = Digests()
        self._last: tuple[Any, ...] | None = None

    @property
    def count(self) -> int:
        """How many were taken."""
        return self._digests.count

    def result(self) -> TableCount:
        """Return what was taken."""
        return self._digests.result()

    def one(self, raw: bytes) -> Record:
        """Take a record.

        Raises:
            ValueError, msgspec.MsgspecError, LlmspellError: it is none, or does not follow; the message says why.
        """
        record = self._reader.read(raw)
        key = self._reader.key(record)
        if self._last is not None and not self._last < key:
            raise ValueError("its key is not greater than that of the record before it")
        if self._last is None or self._last[0] != key[0]:
            _require_tenant(key[0])
        self._digests.add(key[0], ENCODER.encode(record) + b"\n")
        self._last = key
        return record

    def many(self, lines: bytes) -> list[Record] | None:
        """Take records with commas between them; None, and nothing is taken, when any of them would be refused."""
        try:
            records = self._reader.read_many(lines)
            keys = list(map(self._reader.key, records))
            if not all(map(operator.lt, keys, keys[1:])) or (self._last is not None and not self._last < keys[0]):
                return None
            for tenant in dict.fromkeys(key[0] for key in keys):
                _require_tenant(tenant)
        except _REFUSALS:
            return None
        self._digests.add_rows(records)
        self._last = keys[-1]
        return records


def _require_tenant(tenant: str) -> None:
    if tenant != STORE_TENANT:
        tenant_id(tenant)


def _in_lines(lines: bytes, offset: int, start: int) -> Callable[[int], int]:
    """Say where records stand in lines that begin at a byte, from the one at `start` on."""

    def byte_of(place: int) -> int:
        scanner = Scanner(iter([b"[", lines, b"]", b""]).__next__, path="")
        members = (at for at, _ in scanner.members())
        return offset - 1 + next(islice(members, start + place, None))

    return byte_of
