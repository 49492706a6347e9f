"""What somebody was told, as a text that two runs can be compared by, and what a tenant has, as digests that show any change.

Rule: where two answers are compared, names that were given stand as what they are (`<memory_id>`), and what differs from call to
call (new ids, hashes over them, signed cursors) stands as the how-manieth of its kind it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import sqlite3
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from tests.tenancy.belongings import MARK, Belongings

from llmspell.errors import LlmspellError
from llmspell.observe import LOGGER_NAME, observing
from llmspell.spell import Spell
from llmspell.storage.inmemory.backend import InMemoryBackend
from llmspell.storage.inmemory.store import TABLES

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HASH = re.compile(r"\b[0-9a-f]{36,64}\b")
_CURSOR = re.compile(r"(cursor='?)([A-Za-z0-9_-]{40,})")
_TOOK = re.compile(r"(took_ms|embedding_ms|latency_ms|stored_bytes|saved_by_compression_bytes)=[\d.-]+")
_SEALED = re.compile(r"(sealed|key_hash)=b(['\"]).*?\2(?=[,)])")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
TENANT_COLUMN = "tenant_id"


class Presented:
    """Belongings that note what of them somebody asked with."""

    def __init__(self, names: Belongings) -> None:
        self._names = names
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._names, name)
        self.asked |= set(MARK.findall(repr(value)))
        return value


class Told(msgspec.Struct):
    """What a call gave: what it comes to, what it cost in queries, and everything that was said meanwhile."""

    outcome: str
    error: LlmspellError | None
    queries: Counter[tuple[str, int]]
    everything: str
    asked: set[str]
    lines: int
    """How many lines were logged."""


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.__dict__!r}")


class _Queries:
    def __init__(self) -> None:
        self.seen: Counter[tuple[str, int]] = Counter()

    def query(self, name: str, seconds: float, rows: int) -> None:
        self.seen[name, rows] += 1

    def round_trip(self, name: str) -> None: ...


@contextmanager
def listening() -> Iterator[tuple[list[str], Counter[tuple[str, int]]]]:
    """Hear all log lines and see all queries while the block runs."""
    listener, queries = _Listener(), _Queries()
    log = logging.getLogger(LOGGER_NAME)
    before = log.level
    with ExitStack() as stack:
        stack.callback(log.setLevel, before)
        stack.callback(log.removeHandler, listener)
        log.setLevel(logging.DEBUG)
        log.addHandler(listener)
        stack.enter_context(observing(queries))
        yield listener.lines, queries.seen


async def told(attack: Callable[[Any, Any], Awaitable[Any]], caller: Any, names: Belongings, *, me: str) -> Told:
    """Let somebody call, and return what they are told."""
    presented = Presented(names)
    with listening() as (lines, queries):
        try:
            result = await attack(caller, presented)
        except (LlmspellError, TypeError, AttributeError, ValueError) as error:
            return _refused(error, presented, lines, queries, me)
    text = repr(ordered(result))
    outcome = compared(text, names, me)
    return Told(outcome, None, queries, f"{text} {result} {_decoded(text)} {lines}", presented.asked, len(lines))


def ordered(value: Any) -> Any:
    """The same value, its mappings in the order of their keys: what is kept by key has no order of its own."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return type(value)(map(ordered, value))
    if isinstance(value, msgspec.Struct):
        mappings = {name: inner for name in value.__struct_fields__ if isinstance(inner := getattr(value, name), dict)}
        inside = {
            name: inner for name in value.__struct_fields__ if isinstance(inner := getattr(value, name), msgspec.Struct)
        }
        changed = {name: ordered(inner) for name, inner in (mappings | inside).items()}
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def _refused(
    error: Exception, presented: Presented, lines: list[str], queries: Counter[tuple[str, int]], me: str
) -> Told:
    fields = getattr(error, "fields", {})
    said = f"{type(error).__name__} {getattr(error, 'code', '')} {error} {error.args!r} {fields!r} {error!r}"
    chain = "".join(traceback.format_exception(error)) + repr([error.__cause__, error.__context__])
    outcome = compared(f"raised {said} {getattr(error, 'hint', '')}", presented._names, me)
    known = error if isinstance(error, LlmspellError) else None
    return Told(outcome, known, queries, f"{said} {chain} {lines}", presented.asked, len(lines))


def _decoded(text: str) -> str:
    """What a reader of a cursor can see in it."""
    found = []
    for _, cursor in _CURSOR.findall(text):
        try:
            found.append(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("latin-1"))
        except binascii.Error:
            continue
    return " ".join(found)


def compared(text: str, names: Belongings, me: str) -> str:
    """Return a text in which nothing is left that must differ between two callers or two sets of names."""
    text = text.replace(me, "<me>")
    for given, called in names.told().items():
        text = text.replace(given, called)
    for pattern, kind in ((_UUID, "id"), (_HASH, "hash")):
        seen: dict[str, str] = {}
        text = pattern.sub(lambda found, seen=seen, kind=kind: seen.setdefault(found[0], f"<{kind} {len(seen)}>"), text)
    text = _CURSOR.sub(r"\1<cursor>", text)
    text = _SEALED.sub(r"\1=<bytes>", text)
    return _ADDRESS.sub("<address>", _TOOK.sub(r"\1=<some>", text))


def digests(spell: Spell, tenant: str, *, url: str) -> dict[str, str]:
    """Return a digest of everything that a tenant has, by table. `url`: of the file, or of the server's superuser."""
    backend = spell._backend
    if isinstance(backend, InMemoryBackend):
        state = backend.tenants._stores[tenant].committed  # type: ignore[index]
        return {name: _hashed(repr(getattr(state, name).items())) for name in TABLES}
    return _file_digests(url, tenant) if url.startswith("sqlite:///") else _server_digests(url, tenant)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digests(url: str, tenant: str) -> dict[str, str]:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {}
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if TENANT_COLUMN in columns:
                rows = connection.execute(f"SELECT * FROM {table} WHERE tenant_id = ?", (tenant,)).fetchall()
                found[table] = _hashed(repr(sorted(map(repr, rows))))
    connection.close()
    return found


def _server_digests(url: str, tenant: str) -> dict[str, str]:
    import psycopg
    from psycopg import sql

    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attname = 'tenant_id'"
            " WHERE relnamespace = 'llmspell'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        ).fetchall()
        parts = [
            sql.SQL(
                "SELECT {name}, md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {table} t"
                " WHERE t.tenant_id = {tenant}"
            ).format(name=sql.Literal(name), table=sql.Identifier("llmspell", name), tenant=sql.Literal(tenant))
            for (name,) in tables
        ]
        return dict(connection.execute(sql.SQL(" UNION ALL ").join(parts)).fetchall())
