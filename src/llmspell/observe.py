"""Logs, timings and query counts, on the standard library alone.

Rule 1: nothing is measured or formatted unless somebody listens: the silent path costs well under a microsecond.
Rule 2: secrets never reach a log line: every handler made here redacts (SCR-03, AMB-069).
Rule 3: logs go to stderr; stdout belongs to data.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

from llmspell.errors import InvalidSetting

LOGGER_NAME: Final = "llmspell"
LEVELS: Final = ("debug", "info", "warning", "error", "off")
DEBUG_THRESHOLD_S: Final = 0.1  # C16: a step of 100 ms is worth a debug line
WARNING_THRESHOLD_S: Final = 1.0  # C16: a step of 1,000 ms is worth a warning
CHECKPOINTS_MAX: Final = 100
SEARCHES_KEPT: Final = 10_000
PERCENTILES: Final = (50, 95, 99)  # HNS-26
REDACTED: Final = "***"

logger: Final = logging.getLogger(LOGGER_NAME)
logger.addHandler(logging.NullHandler())  # a library is silent until its user configures logging


# --- queries ----------------------------------------------------------------------------------------------------------


class Observer(Protocol):
    """Who wants to know of every query. Called in the thread that ran it, after it ended; it must return quickly."""

    def query(self, name: str, seconds: float, rows: int) -> None:
        """One query ended: its name in the catalogue, how long it took, how many rows it gave or changed."""
        ...

    def round_trip(self, name: str) -> None:
        """One exchange with the database ended; a pipeline of many queries is one round trip."""
        ...


class QueryCounts:
    """An observer that counts: tests assert how many queries and round trips an operation takes."""

    def __init__(self) -> None:
        self.queries: Counter[str] = Counter()
        self.round_trips: Counter[str] = Counter()
        self.rows = 0
        self.seconds = 0.0

    def query(self, name: str, seconds: float, rows: int) -> None:
        self.queries[name] += 1
        self.seconds += seconds
        self.rows += rows

    def round_trip(self, name: str) -> None:
        self.round_trips[name] += 1


_observers: tuple[Observer, ...] = ()


def observed() -> bool:
    """Say whether anybody listens: storage asks before it reads a clock."""
    return bool(_observers)


def notify_query(name: str, seconds: float, rows: int) -> None:
    """Tell every observer that a query ended. Does nothing, in a tenth of a microsecond, when there is none."""
    for observer in _observers:
        observer.query(name, seconds, rows)


def notify_round_trip(name: str) -> None:
    """Tell every observer that an exchange with the database ended."""
    for observer in _observers:
        observer.round_trip(name)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Attach `observer` for the length of a block, in every thread and task of the process."""
    global _observers  # one tuple per process, replaced whole: readers need no lock
    _observers = (*_observers, observer)
    try:
        yield
    finally:
        remaining = list(_observers)
        remaining.remove(observer)
        _observers = tuple(remaining)


@contextmanager
def counting_queries() -> Iterator[QueryCounts]:
    """Count queries and round trips within a block."""
    counts = QueryCounts()
    with observing(counts):
        yield counts


# --- searches of vectors ----------------------------------------------------------------------------------------------


class SearchObserver(Protocol):
    """Who wants to know of searches of vectors and of their indexes. Called in the thread that did it; it must return quickly."""

    def search(self, path: str, seconds: float, candidates: int) -> None:
        """One search for neighbours ended: by "exact" or "ann", how long it took, how many vectors it scored in full. A server
        scores by itself: then `candidates` are those that its index was asked for, or the hits where it compared all."""
        ...

    def index(self, tenant: str, space_id: str, file_bytes: int, memory_bytes: int) -> None:
        """The index of a tenant's space was built, loaded or let go: what its file takes, and what the space takes of memory."""
        ...


_search_observers: tuple[SearchObserver, ...] = ()


def searches_observed() -> bool:
    """Say whether anybody listens: a search asks before it reads a clock."""
    return bool(_search_observers)


def notify_search(path: str, seconds: float, candidates: int) -> None:
    """Tell every observer that a search ended. Does nothing, in a tenth of a microsecond, when there is none."""
    for observer in _search_observers:
        observer.search(path, seconds, candidates)


def notify_index(tenant: str, space_id: str, file_bytes: int, memory_bytes: int) -> None:
    """Tell every observer what the index of a space takes from now on; zeros when it is gone."""
    for observer in _search_observers:
        observer.index(tenant, space_id, file_bytes, memory_bytes)


@contextmanager
def observing_searches(observer: SearchObserver) -> Iterator[None]:
    """Attach `observer` for the length of a block, in every thread and task of the process."""
    global _search_observers  # as above
    _search_observers = (*_search_observers, observer)
    try:
        yield
    finally:
        remaining = list(_search_observers)
        remaining.remove(observer)
        _search_observers = tuple(remaining)


class SearchFigures:
    """A search observer that keeps what HNS-26 wants exported: latencies by path, and what indexes take now.

    Of each path the latest 10,000 searches count. Safe to share between threads.
    """

    def __init__(self) -> None:
        self.searches: Counter[str] = Counter()
        self.candidates: Counter[str] = Counter()
        self._latest: dict[str, deque[float]] = {}
        self._indexes: dict[tuple[str, str], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def search(self, path: str, seconds: float, candidates: int) -> None:
        with self._lock:
            self.searches[path] += 1
            self.candidates[path] += candidates
            self._latest.setdefault(path, deque(maxlen=SEARCHES_KEPT)).append(seconds)

    def index(self, tenant: str, space_id: str, file_bytes: int, memory_bytes: int) -> None:
        with self._lock:
            if file_bytes or memory_bytes:
                self._indexes[tenant, space_id] = file_bytes, memory_bytes
            else:
                self._indexes.pop((tenant, space_id), None)

    def percentiles_ms(self, path: str) -> dict[int, float]:
        """Return the 50th, 95th and 99th percentile of the latencies of a path, in milliseconds; empty without a search."""
        with self._lock:
            latest = sorted(self._latest.get(path, ()))
        return {
            percent: latest[max(0, math.ceil(len(latest) * percent / 100) - 1)] * 1_000
            for percent in PERCENTILES
            if latest
        }

    @property
    def file_bytes(self) -> int:
        """What the files of all indexes take."""
        with self._lock:
            return sum(file_bytes for file_bytes, _ in self._indexes.values())

    @property
    def memory_bytes(self) -> int:
        """What all indexes take of this process's memory."""
        with self._lock:
            return sum(memory_bytes for _, memory_bytes in self._indexes.values())


# --- timings ----------------------------------------------------------------------------------------------------------


class TimingGuard:
    """Times a block and logs it when it was slow: debug from 100 ms, warning from 1,000 ms (C16).

        with TimingGuard("context") as timing:
            …
            timing.checkpoint("candidates")

    The log line carries the time at each checkpoint. A block that raises is logged by the same thresholds.
    """

    __slots__ = ("_checkpoints", "_elapsed", "_started", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._checkpoints: list[tuple[str, float]] = []
        self._elapsed: float | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> TimingGuard:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._elapsed = elapsed = time.perf_counter() - self._started
        if elapsed < DEBUG_THRESHOLD_S:
            return
        level = logging.WARNING if elapsed >= WARNING_THRESHOLD_S else logging.DEBUG
        if logger.isEnabledFor(level):
            fields: dict[str, object] = {"elapsed_ms": round(elapsed * 1000, 3), "failed": exception[0] is not None}
            fields.update({f"at_{label}_ms": round(seconds * 1000, 3) for label, seconds in self._checkpoints})
            logger.log(level, "slow: %s took %.0f ms", self.name, elapsed * 1000, extra={"fields": fields})

    def checkpoint(self, label: str) -> None:
        """Remember how long it took to get here; at most 100 per block are kept."""
        if len(self._checkpoints) < CHECKPOINTS_MAX:
            self._checkpoints.append((label, time.perf_counter() - self._started))

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the block began, or its whole length once it ended."""
        return (time.perf_counter() - self._started if self._elapsed is None else self._elapsed) * 1000

    @property
    def checkpoints_ms(self) -> dict[str, float]:
        """Milliseconds from the beginning to each checkpoint, in order."""
        return {label: seconds * 1000 for label, seconds in self._checkpoints}


# --- redaction --------------------------------------------------------------------------------------------------------

# Each pattern keeps what tells a reader which secret it was, and replaces the rest. All repetitions are bounded or run
# over a class that excludes their terminator, so that a hostile line costs linear time.
_FIELD_NAMES = (
    r"passw(?:or)?d|passphrase|secret|client_?secret|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?token"
    r"|access[_-]?token|refresh[_-]?token|token|credentials?|cookie"
)
_NAMED = rf"(?:\b|_|\bPG)({_FIELD_NAMES})[\"']?\s{{0,3}}[=:]\s{{0,3}}"
_SECRET_FIELD: Final = re.compile(rf"(?:^|_)(?:{_FIELD_NAMES})$", re.IGNORECASE)
_SECRETS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.{0,8000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        REDACTED,
    ),
    (re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@'\"]{0,200}):[^\s/'\"]{1,500}@"), rf"\1:{REDACTED}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,4000}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{4,4000}\.[A-Za-z0-9_-]{0,1000}"), REDACTED),
    (re.compile(r"\bsk-(?:[a-z]{2,12}-)?[A-Za-z0-9_-]{16,200}"), f"sk-{REDACTED}"),
    (re.compile(r"\b(lsk_[a-z0-9]{1,210}_[A-Za-z0-9]{1,40})_[A-Za-z0-9_-]{8,200}"), rf"\1_{REDACTED}"),
    (re.compile(r"\b(lsmk_|lstk_)[A-Za-z0-9_-]{8,200}"), rf"\1{REDACTED}"),
    (re.compile(r"\b(gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_)[A-Za-z0-9_-]{16,255}"), rf"\1{REDACTED}"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), rf"\1{REDACTED}"),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{35}"), f"AIza{REDACTED}"),
    (re.compile(rf"({_NAMED})([\"'])(?:(?!\3)[^\n]){{1,500}}\3", re.IGNORECASE), rf"\1\3{REDACTED}\3"),
    (re.compile(rf"({_NAMED})[^\s,;&\"']{{1,500}}", re.IGNORECASE), rf"\1{REDACTED}"),
)
_PERSONAL: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"), REDACTED),
    (re.compile(r"\b\d{3}-\d{2}-\d{4}\b"), REDACTED),
    (re.compile(r"\b\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}\b"), REDACTED),
    (re.compile(r"\b3[47]\d{2}([ -]?)\d{6}\1\d{5}\b"), REDACTED),
    (re.compile(r"((?:\b|_)session[_-]?id[\"']?\s{0,3}[=:]\s{0,3})[^\s,;&]{1,200}", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,200}\.[A-Za-z]{2,20}\b"), REDACTED),
)


def redact(text: str, *, personal: bool = False) -> str:
    """Return `text` with secrets replaced by `***`.

    Covers SCR-03 and newer shapes (AMB-069): keys that begin with `sk-`, bearer and basic credentials, passwords in
    URLs, `password=…` and its relatives up to the end of the value, JWTs, private keys, tokens of code hosts and of
    clouds, our own keys. `personal` also removes IPv4 addresses, session ids, e-mail addresses, and numbers in the form of credit
    cards and of US social security (C16); it is off because an audit needs those.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    if personal:
        for pattern, replacement in _PERSONAL:
            text = pattern.sub(replacement, text)
    return text


# --- logs -------------------------------------------------------------------------------------------------------------


class _Formatter(logging.Formatter):
    """One redacted line per record: JSON, or `time level logger message name=value`."""

    def __init__(self, *, as_json: bool, personal: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._personal = personal

    def format(self, record: logging.LogRecord) -> str:
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        # Redacted before it is encoded: behind JSON's escapes a quoted secret no longer looks like one.
        message = redact(message, personal=self._personal)
        fields = {name: self._safe(name, value) for name, value in getattr(record, "fields", {}).items()}
        level = record.levelname.lower()
        if self._as_json:
            document = {**fields, "time": instant, "level": level, "logger": record.name, "message": message}
            return json.dumps(document, ensure_ascii=False)
        named = "".join(f" {name}={value}" for name, value in fields.items())
        return f"{instant} {level:7} {record.name} {message}{named}"

    def _safe(self, name: str, value: object) -> object:
        if _SECRET_FIELD.search(name):
            return REDACTED
        return value if isinstance(value, (bool, int, float)) else redact(str(value), personal=self._personal)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that moment: it may be replaced while the process runs."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(
    level: str = "warning", *, as_json: bool = False, stream: TextIO | None = None, redact_personal: bool = False
) -> None:
    """Send llmspell's log lines to `stream` (stderr), redacted. Calling it again replaces the former set-up.

    For applications and the CLI; the library itself never calls it.

    Raises:
        InvalidSetting: `level` is not one of debug, info, warning, error, off.
    """
    if level not in LEVELS:
        raise InvalidSetting(f"the log level must be one of {', '.join(LEVELS)}; got {level!r}.")
    for handler in list(logger.handlers):
        if isinstance(handler.formatter, _Formatter):
            logger.removeHandler(handler)
    if level == "off":
        logger.setLevel(logging.CRITICAL + 1)
        return
    handler = logging.StreamHandler(stream) if stream is not None else _StderrHandler()
    handler.setFormatter(_Formatter(as_json=as_json, personal=redact_personal))
    logger.addHandler(handler)
    logger.setLevel(getattr(logging, level.upper()))
