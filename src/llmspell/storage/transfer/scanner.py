"""One JSON object, read as it comes: keys and values where they are wanted, without ever holding more than one record.

Rule 1: any layout is read. Records that stand on a line each, as exports have them, are found by their line feed; others by
their brackets.
Rule 2: whatever is wrong is told with the byte at which it stands, counted from the beginning of the unpacked file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import msgspec

from llmspell.errors import TransferError

RECORD_BYTES_MAX: Final = 128 * 1024 * 1024
"""A longer value is no record of ours: the largest value of a row has 16 MiB."""
_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_STRUCTURE: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]"]', re.DOTALL)
"""A text, a bracket, or the beginning of a text that has not ended yet."""
_SCALAR: Final = re.compile(rb"[^,\]} \t\n\r]+")
_COMPACT_BYTES: Final = 1024 * 1024
_BETWEEN: Final = b"},\n{"
"""What stands between two records of an export, which have a line each."""
_WIDEST: Final = 4
"""Bytes of one character of UTF-32."""
_SAVED_ANEW: Final = (
    "A shell or an editor has saved it anew (`>` of Windows PowerShell does). Export with --output FILE; or convert it:"
    " iconv -f UTF-16 -t UTF-8."
)
_EMPTY: Final = "What wrote it has written nothing: export again, and look at what that says."
_OTHER_FILES: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"LSBK", "a backup of llmspell", "Restore it: llmspell backup restore."),
    (b"PGDMP", "a dump of pg_dump", "Restore it with pg_restore."),
    (b"PK\x03\x04", "a zip archive", "Unpack it first, or pack exports as .gz or .zst."),
    (b"\xfd7zXZ\0", "packed by xz", "Unpack it first, or pack exports as .gz or .zst."),
    (b"BZh", "packed by bzip2", "Unpack it first, or pack exports as .gz or .zst."),
)
_LONGEST_MARK: Final = max(len(mark) for mark, _, _ in _OTHER_FILES)
_OPENING: Final = frozenset(b"{[")


class Scanner:
    """A position in a stream."""

    def __init__(self, read: Callable[[], bytes], *, path: str) -> None:
        """`read` gives the next piece, and nothing at the end."""
        self._read = read
        self._path = path
        self._buffer = b""
        self._at = 0
        self._before = 0
        self._ended = False
        self._by_lines = True

    @property
    def offset(self) -> int:
        """How many bytes were read before this position."""
        return self._before + self._at

    def fail(self, problem: str, *, offset: int | None = None, hint: str = "") -> NoReturn:
        """Raise what is wrong here.

        Raises:
            TransferError: always.
        """
        at = self.offset if offset is None else offset
        raise TransferError(problem, hint=hint, path=self._path, byte=at)

    def begin(self) -> None:
        """Pass the mark that some editors put before a text in UTF-8, and refuse what is no text in UTF-8 by its name.

        Raises:
            TransferError: it is empty, in another encoding, or a file of another kind.
        """
        while len(self._buffer) < _LONGEST_MARK and self._more():
            pass
        start = self._buffer[:_LONGEST_MARK]
        for mark, what, hint in _OTHER_FILES:
            if start.startswith(mark):
                self.fail(f"This is no export but {what}.", offset=0, hint=hint)
        if start.startswith(codecs.BOM_UTF8):
            self._at = len(codecs.BOM_UTF8)
        elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:_WIDEST]:
            self.fail("The export is not in UTF-8 but in UTF-16 or UTF-32.", offset=0, hint=_SAVED_ANEW)
        while not self._buffer[self._at :].strip():
            self._at = len(self._buffer)
            if not self._more():
                self.fail("The export is empty.", offset=0, hint=_EMPTY)

    def _more(self) -> bool:
        """Read on; say whether there was anything."""
        if self._ended:
            return False
        piece = self._read()
        if not piece:
            self._ended = True
            return False
        if self._at >= _COMPACT_BYTES or self._at == len(self._buffer):
            self._before += self._at
            self._buffer = self._buffer[self._at :] + piece
            self._at = 0
        else:
            self._buffer += piece
        return True

    def peek(self) -> bytes:
        """Return the next byte that is no space, without passing it.

        Raises:
            TransferError: the stream ends here.
        """
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                self.fail("The export ends in the middle: it was cut off.")

    def expect(self, wanted: bytes) -> None:
        """Pass one byte.

        Raises:
            TransferError: another one stands here.
        """
        found = self.peek()
        if found != wanted:
            self.fail(f"The export is no valid JSON: {wanted.decode()!r} expected, {found.decode('latin-1')!r} found.")
        self._at += 1

    def end(self) -> None:
        """Require that nothing follows.

        Raises:
            TransferError: something does.
        """
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer):
                self.fail("Something follows the export.")
            if not self._more():
                return

    def entries(self) -> Iterator[str]:
        """Yield the keys of the object that begins here; its consumer passes each value before it asks for the next key.

        Raises:
            TransferError: it is no object, or a key is repeated.
        """
        self.expect(b"{")
        seen: set[str] = set()
        if self.peek() == b"}":
            self._at += 1
            return
        while True:
            at = self.offset
            raw = self.value()
            key = self._decoded(raw, at)
            if not isinstance(key, str):
                self.fail("The export is no valid JSON: a key must be a string.", offset=at)
            if key in seen:
                self.fail(f"The key {key!r} stands twice.", offset=at)
            seen.add(key)
            self.expect(b":")
            yield key
            if self.peek() == b",":
                self._at += 1
                continue
            self.expect(b"}")
            return

    def _decoded(self, raw: bytes, at: int) -> object:
        try:
            return msgspec.json.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            self.fail(f"The export is no valid JSON: {exc}.", offset=at)

    def members(self) -> Iterator[tuple[int, bytes]]:
        """Yield the members of the list that begins here, each with the byte at which it stands.

        Raises:
            TransferError: it is no list.
        """
        more = self.begins_list()
        while more:
            at = self.offset
            yield at, self.value()
            more = self.goes_on()

    def begins_list(self) -> bool:
        """Pass the beginning of a list, and say whether it has a member, which begins here then.

        Raises:
            TransferError: it is no list.
        """
        self.expect(b"[")
        self._by_lines = True
        if self.peek() == b"]":
            self._at += 1
            return False
        return True

    def goes_on(self) -> bool:
        """Pass what stands behind a member of a list, and say whether another one follows, which begins here then.

        Raises:
            TransferError: neither a comma nor the end of the list stands here.
        """
        # As exports are written: a value, a comma, a line feed. What is not so takes the longer way.
        if self._buffer[self._at : self._at + 3] == b",\n{":
            self._at += 2
            return True
        if self.peek() == b",":
            self._at += 1
            self.peek()
            return True
        self.expect(b"]")
        return False

    def lines(self) -> bytes:
        """Return as many members of a list as were read already and seem to have a line each, with what stands between them.

        Nothing is passed, and nothing is returned where that cannot be said. Only their decoder knows whether they are so.
        """
        while self._by_lines:
            stop = self._buffer.rfind(_BETWEEN, self._at) + 1
            if stop > 0:
                return self._buffer[self._at : stop]
            if len(self._buffer) - self._at > _COMPACT_BYTES or not self._more():
                break
        return b""

    def pass_over(self, passed: bytes) -> None:
        """Pass what `lines` returned."""
        self._at += len(passed)

    def value(self) -> bytes:
        """Pass one value, and return its bytes. Brackets match in it; whether it is JSON is for its decoder to say.

        Raises:
            TransferError: the stream ends in it, or it is too long for a record.
        """
        first = self.peek()
        if first[0] in _OPENING:
            line = self._line() if self._by_lines else None
            return self._bracketed() if line is None else line
        if first == b'"':
            return self._text()
        return self._scalar()

    def _line(self) -> bytes | None:
        """Return the value when it is the whole rest of the line, as exports are written."""
        end = self._buffer.find(b"\n", self._at)
        while end < 0 and len(self._buffer) - self._at < RECORD_BYTES_MAX:
            if len(self._buffer) - self._at > _COMPACT_BYTES and self._buffer.find(b"},{", self._at) >= 0:
                break
            if not self._more():
                break
            end = self._buffer.find(b"\n", self._at)
        if end < 0:
            self._by_lines = False
            return None
        stop = end
        while stop > self._at and self._buffer[stop - 1] in b", \t\r":
            stop -= 1
        value = self._buffer[self._at : stop]
        if not _is_whole(value):
            self._by_lines = False
            return None
        self._at = stop
        return value

    def _bracketed(self) -> bytes:
        depth, position = 0, self._at
        while True:
            for found in _STRUCTURE.finditer(self._buffer, position):
                mark = found[0]
                if mark == b'"':
                    position = found.start()
                    break
                if mark in (b"{", b"["):
                    depth += 1
                elif mark in (b"}", b"]"):
                    depth -= 1
                    if depth == 0:
                        value = self._buffer[self._at : found.end()]
                        self._at = found.end()
                        return value
            else:
                position = len(self._buffer)
            position = self._grow(position)

    def _grow(self, position: int) -> int:
        """Read on, and return where `position` is then."""
        if len(self._buffer) - self._at > RECORD_BYTES_MAX:
            self.fail(f"A record is longer than {RECORD_BYTES_MAX:,} bytes.")
        relative = position - self._at
        if not self._more():
            self.fail("The export ends in the middle: it was cut off.")
        return self._at + relative

    def _text(self) -> bytes:
        position = self._at
        while True:
            found = _STRUCTURE.match(self._buffer, self._at)
            if found is not None and len(found[0]) > 1:
                self._at = found.end()
                return found[0]
            position = self._grow(position)

    def _scalar(self) -> bytes:
        while True:
            found = _SCALAR.match(self._buffer, self._at)
            if found is None:
                self.fail("The export is no valid JSON: a value is missing.")
            if found.end() < len(self._buffer) or not self._more():
                value = found[0]
                self._at += len(value)
                return value

    def skip(self) -> None:
        """Pass one value, whatever its size, without keeping it.

        Raises:
            TransferError: the stream ends in it.
        """
        first = self.peek()
        if first == b"[":
            for _ in self.members():
                pass
        elif first == b"{":
            for _ in self.entries():
                self.skip()
        else:
            self.value()


def _is_whole(value: bytes) -> bool:
    """Say whether a line is one value."""
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True
