"""Conversations in files: JSON or JSON Lines, checked to the last item before anything is kept.

    {"text": "Hello", "session": "s1", "role": "Ada", "at": "2026-05-01T09:30:00Z", "id": "m-1", "metadata": {"lang": "en"}}

A JSON file is a list of such objects, an object with a list under "turns" or "memories", or a list of such objects
(conversations, each with an "id", which then leads the names of its sessions). JSON Lines hold one object per line and
are read as a stream, however long they are.

Rule 1: what is wrong is named by its line (or its place in the list) and its field.
Rule 2: an item gets the same id whenever it is read, so that importing a file again adds nothing: a UUID stays, any other id
        (kept under the metadata key "id") and a missing one become a UUIDv5 of the session and the id or the content.
Rule 3: items of one session that carry one instant are moved apart by microseconds, so that their order is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import IO, Any, NamedTuple
from uuid import UUID, uuid5

from llmspell.cli.values import decode
from llmspell.clock import MICROSECOND, Clock, parse_instant
from llmspell.codec import require_key, require_metadata, require_text
from llmspell.errors import InvalidInput, InvalidLimit, InvalidTime
from llmspell.memory.memory import ROLE_MAX_BYTES
from llmspell.memory.memory_input import MemoryInput
from llmspell.storage.contracts.memories import CONTENT_MAX_CHARACTERS, MEMORY_KINDS

NAMESPACE = UUID("6f1d7c1e-6a5b-5f0e-9d57-0d5a3c1b7e42")
"""The namespace of the UUIDv5s of imported items; a constant of ours."""
ITEMS_MAX = 1_000_000
"""Items of one file: their ids are held in memory, to find one that is given twice."""
JSON_MAX_BYTES = 256 * 1024 * 1024
"""A JSON file is read whole; JSON Lines have no such limit."""
LINE_MAX_CHARACTERS = 1_000_000
FIELDS = frozenset({"text", "session", "role", "speaker", "kind", "at", "id", "metadata"})
CARRIED = frozenset({"seq"})
"""Fields of well-known exports that say nothing beyond the order of the file."""
LISTS = ("turns", "memories")


class Malformed(NamedTuple):
    """What is wrong with one item: where it stands ("line 7", "turns[3]") and what the matter is, with a period."""

    where: str
    problem: str

    @property
    def sentence(self) -> str:
        """The two in one line."""
        return f"{self.where}: {self.problem}"


class Reader:
    """Reads the items of one file. `read` may be called again: it gives the same items with the same ids."""

    def __init__(self, stream: IO[bytes], *, clock: Clock) -> None:
        """`stream` is seekable; `clock` gives the time of items that carry none."""
        self._stream = stream
        self._started = clock.now()
        self._whole: list[tuple[str, str, object]] | None = None
        self._is_lines: bool | None = None
        self._times: dict[str | None, tuple[datetime, int]] = {}
        self._seen: Counter[bytes] = Counter()
        self._ids: dict[UUID, str] = {}

    def read(self) -> Iterator[MemoryInput | Malformed]:
        """Yield every item in order, checked, or what is wrong with it.

        Raises:
            InvalidInput: the file as a whole cannot be read.
            InvalidLimit: it has more than a million items, or is a JSON document of more than 256 MiB.
        """
        self._times, self._seen, self._ids = {}, Counter(), {}
        for number, (where, prefix, found) in enumerate(self._objects()):
            if number == ITEMS_MAX:
                raise InvalidLimit("file", f"must have at most {ITEMS_MAX:,} items", hint="Split it.")
            if isinstance(found, Malformed):
                yield found
                continue
            try:
                yield self._item(found, where, prefix)
            except InvalidInput as error:
                yield Malformed(where, error.detail)

    def _objects(self) -> Iterator[tuple[str, str, object]]:
        if self._is_lines is None:
            self._is_lines = self._looks_like_lines()
        if self._is_lines:
            yield from self._lines()
            return
        if self._whole is None:
            self._whole = list(_places(self._document()))
        yield from self._whole

    def _looks_like_lines(self) -> bool:
        """JSON Lines when the first line that is not empty is an object of its own."""
        self._stream.seek(0)
        first = b""
        for line in iter(lambda: self._stream.readline(LINE_MAX_CHARACTERS), b""):
            first = line.removeprefix(b"\xef\xbb\xbf").strip()
            if first:
                break
        if not first.startswith(b"{"):
            return not first.startswith(b"[")
        try:
            document = json.loads(first)
        except ValueError:
            # Either the first line of a JSON object that is laid out, or a broken line. A laid-out one breaks after "{".
            return first != b"{" and b'"text"' in first and not any(f'"{name}"'.encode() in first for name in LISTS)
        return not any(name in document for name in LISTS)

    def _lines(self) -> Iterator[tuple[str, str, object]]:
        self._stream.seek(0)
        reader = iter(lambda: self._stream.readline(LINE_MAX_CHARACTERS * 4), b"")
        for number, line in enumerate(reader, 1):
            where = f"line {number}"
            try:
                text = line.decode().removeprefix("\ufeff").strip()
                if text:
                    yield where, "", decode(text)
            except UnicodeDecodeError:
                yield where, "", Malformed(where, "is not UTF-8.")
            except (ValueError, RecursionError) as error:
                yield where, "", Malformed(where, f"is not JSON: {error}.")

    def _document(self) -> Any:
        self._stream.seek(0)
        data = self._stream.read(JSON_MAX_BYTES + 1)
        if len(data) > JSON_MAX_BYTES:
            raise InvalidLimit("file", "must be at most 256 MiB as one JSON document", hint="Use JSON Lines.")
        try:
            return decode(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InvalidInput("file", f"is not JSON: {error}") from error

    def _item(self, found: object, where: str, prefix: str) -> MemoryInput:
        if not isinstance(found, Mapping):
            raise InvalidInput("item", "must be an object", given=found)
        unknown = sorted(map(str, set(found) - FIELDS - CARRIED))
        if unknown:
            raise InvalidInput(unknown[0], f"is no field of a memory; known: {', '.join(sorted(FIELDS))}")
        session, role, kind, metadata = _checked_names(found, prefix)
        text = require_text(found.get("text"), field="text", max_characters=CONTENT_MAX_CHARACTERS, empty=False)
        if not text.strip():
            raise InvalidInput("text", "must not be blank", given=text)
        given = found.get("at")
        at = self._started if given is None else parse_instant(given, field="at")
        id = self._identity(found.get("id"), (session, role, None if given is None else at.isoformat(), text), metadata)
        if id in self._ids:
            raise InvalidInput("id", f"is given twice, first at {self._ids[id]}", given=found.get("id"))
        self._ids[id] = where
        if "id" in found and found["id"] is not None and str(found["id"]) != str(id):
            metadata = require_metadata({**metadata, "id": found["id"]})
        return MemoryInput(
            text=text, session=session, role=role, kind=kind, at=self._apart(session, at), metadata=metadata, id=id
        )

    def _identity(self, given: object, content: tuple[str | None, ...], metadata: Mapping[str, Any]) -> UUID:
        if given is None:
            digest = hashlib.sha256(json.dumps(content).encode()).digest()
            self._seen[digest] += 1
            return uuid5(NAMESPACE, f"content:{digest.hex()}:{self._seen[digest]}")
        if isinstance(given, bool) or not isinstance(given, (str, int)):
            raise InvalidInput("id", "must be text or a whole number", given=given)
        name = require_key(str(given), field="id")
        if "id" in metadata:
            raise InvalidInput("metadata", "must not have the key `id` beside an `id` of the item")
        try:
            return UUID(name)
        except ValueError:
            return uuid5(NAMESPACE, json.dumps(["id", content[0], name]))

    def _apart(self, session: str | None, at: datetime) -> datetime:
        """Move an item behind the one before it in its session when both carry one instant."""
        last, count = self._times.get(session, (None, 0))
        count = count + 1 if last == at else 0
        self._times[session] = (at, count)
        try:
            return at + count * MICROSECOND
        except OverflowError as exc:
            raise InvalidTime(
                "at", "leaves no later instant for an item behind another of its session", given=at.isoformat()
            ) from exc


def _checked_names(found: Mapping[str, Any], prefix: str) -> tuple[str | None, str | None, Any, dict[str, Any]]:
    if found.get("role") is not None and found.get("speaker") is not None:
        raise InvalidInput("speaker", "must not be given together with `role`")
    session, role = found.get("session"), found.get("role", found.get("speaker"))
    role = found.get("speaker") if role is None else role
    kind = found.get("kind") or "conversation"
    if kind not in MEMORY_KINDS:
        raise InvalidInput("kind", f"must be one of {', '.join(MEMORY_KINDS)}", given=kind)
    if session is not None:
        session = require_key(session, field="session")
    if prefix:
        session = require_key(f"{prefix}/{session}" if session else prefix, field="session")
    if role is not None:
        role = require_key(role, field="role", max_bytes=ROLE_MAX_BYTES)
    return session, role, kind, require_metadata(found.get("metadata"))


def _places(document: Any) -> Iterator[tuple[str, str, object]]:
    """Yield every item of a JSON document with its place and what leads its session's name."""
    if isinstance(document, Mapping):
        yield from _inside(document, "", "")
        return
    if not isinstance(document, list):
        raise InvalidInput("file", "must be a list of items, or an object with `turns` or `memories`")
    several = sum(isinstance(entry, Mapping) and _is_conversation(entry) for entry in document) > 1
    for number, entry in enumerate(document):
        if isinstance(entry, Mapping) and _is_conversation(entry):
            prefix = str(entry.get("id") or number) if several else ""
            yield from _inside(entry, f"[{number}].", prefix)
        else:
            yield f"[{number}]", "", entry


def _is_conversation(entry: Mapping[str, Any]) -> bool:
    return any(name in entry for name in LISTS)


def _inside(conversation: Mapping[str, Any], where: str, prefix: str) -> Iterator[tuple[str, str, object]]:
    names = [name for name in LISTS if name in conversation]
    if len(names) != 1 or not isinstance(conversation[names[0]], list):
        raise InvalidInput("file", "must have one list, under `turns` or under `memories`")
    for number, entry in enumerate(conversation[names[0]]):
        yield f"{where}{names[0]}[{number}]", prefix, entry
