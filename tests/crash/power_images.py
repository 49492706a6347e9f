"""Images of power cuts, opened and judged.

    python -m tests.crash.power_images RECORDING SEED FIRST LAST [--any-prefix]      judge images and print a report as JSON

One image is judged anew with LAST = FIRST + 1. Every image is recovered by SQLite and read as rows; some are also opened as the
store that they are, through the public API. `--any-prefix` is what `synchronous = NORMAL` promises: acknowledged writes may be
lost, but then everything that followed is lost too.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import msgspec
from tests.crash.power_cuts import Image, images
from tests.crash.power_workloads import OBSERVED, TENANT, settings
from tests.crash.recording_files import FILE, Recording, Value
from tests.crash.torn import contradictions

import llmspell
from llmspell.spell import Tenant
from llmspell.storage.contracts.pages import Page
from llmspell.storage.sqlite.pragmas import APPLICATION_ID

WHOLE_CHECK_EVERY = 10
OPENED_EVERY = 50
FAULTS_KEPT = 20
KEPT_IN_MEMORY = Path("/dev/shm")
FACTS_MAX = 1_000
AFTERWARDS = ("kv", "after the cut")
NOT_ASKED = ("vector",)
Seen: TypeAlias = dict[tuple[str, str], Value]


class Report(msgspec.Struct):
    """What was found in a number of images."""

    images: int = 0
    whole_checks: int = 0
    opened: int = 0
    harmed: int = 0
    """Images of which an operation without a sync was lost, torn or kept before an earlier one."""
    losses: dict[str, int] = {}
    unacknowledged_kept: int = 0
    faulty: int = 0
    faults: dict[str, int] = {}
    """Kinds of faults, by the number of images that had them."""
    examples: list[str] = []

    def add(self, other: Report) -> None:
        for name in ("images", "whole_checks", "opened", "harmed", "unacknowledged_kept", "faulty"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.losses = Counter(self.losses) + Counter(other.losses)
        self.faults = Counter(self.faults) + Counter(other.faults)
        self.examples.extend(other.examples[: FAULTS_KEPT - len(self.examples)])


class Fault(msgspec.Struct, frozen=True):
    """Something that must not be: its kind, and which."""

    kind: str
    which: str = ""


class Timeline:
    """When each write began and was acknowledged, and what each name of each kind was in turn."""

    def __init__(self, recording: Recording) -> None:
        self.began: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.refused: set[int] = set()
        for at, operation in enumerate(recording.operations):
            if operation.kind == "begin":
                self.began[operation.number] = at
            elif operation.kind == "end":
                self.ended[operation.number] = at
            elif operation.kind == "refused":
                self.refused.add(operation.number)
        self.turns: dict[tuple[str, str], list[tuple[int, Value]]] = {}
        for number, changes in enumerate(recording.writes):
            for kind, name, value in changes:
                self.turns.setdefault((kind, name), []).append((number, value))

    def judge(self, seen: Seen, cut: int, *, any_prefix: bool) -> tuple[list[Fault], int]:
        """Compare what is in an image with what was written before its cut; return also how many writes are there that nobody
        had heard of yet."""
        faults = [Fault("a record that nobody wrote", str(key)) for key in seen.keys() - self.turns.keys()]
        there: set[int] = set()
        missing: set[int] = set()
        for key, turns in self.turns.items():
            begun = [turn for turn in turns if self.began[turn[0]] < cut and turn[0] not in self.refused]
            values: list[Value] = [None, *(value for _, value in begun)]
            fits = [place for place, value in enumerate(values) if value == seen.get(key)]
            if not fits:
                faults.append(Fault("a value that was never written there", str(key)))
                continue
            there.update(number for place, (number, _) in enumerate(begun, 1) if place <= fits[0])
            missing.update(number for place, (number, _) in enumerate(begun, 1) if place > fits[-1])
        faults += [Fault("a write of which only a part is there", str(number)) for number in there & missing]
        acknowledged = {number for number, at in self.ended.items() if at < cut}
        if not any_prefix:
            faults += [Fault("an acknowledged write is lost", str(number)) for number in acknowledged & missing]
        latest = max((self.began[number] for number in there), default=-1)
        faults += [
            Fault("a write is there although one before it is lost", str(number))
            for number in missing & acknowledged
            if self.ended[number] < latest
        ]
        return faults, len(there - acknowledged)


def lay_out(image: Image, folder: Path) -> Path:
    """Write the files of an image, and nothing else."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in image.files.items():
        (folder / name).write_bytes(content)
    return folder / FILE


def tables_of(connection: apsw.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def look(connection: apsw.Connection) -> Seen:
    """Read every record that a workload may have written."""
    seen: Seen = {}
    tables = tables_of(connection)
    for kind, (table, query) in OBSERVED.items():
        if table in tables:
            for name, value in connection.execute(query):
                seen[kind, str(name)] = None if value is None else str(value)
    return seen


def migrated_by_steps(connection: apsw.Connection) -> list[Fault]:
    """A store is ours with its first migrations, all of them up to some number; or it is still empty."""
    ours = connection.pragma("application_id") == APPLICATION_ID
    tables = tables_of(connection)
    if not ours and not tables:
        return []
    if not ours or "schema_migrations" not in tables:
        return [Fault("a schema without its mark")]
    versions = [version for (version,) in connection.execute("SELECT version FROM schema_migrations ORDER BY 1")]
    return [] if versions == list(range(1, len(versions) + 1)) else [Fault("a migration is missing", str(versions))]


class Judge:
    """Judges images of one recording in one folder."""

    def __init__(self, recording: Recording, folder: Path, *, any_prefix: bool = False) -> None:
        self._recording = recording
        self._timeline = Timeline(recording)
        self._folder = folder
        self._any_prefix = any_prefix
        self.report = Report()

    def judge(self, image: Image) -> list[Fault]:
        report = self.report
        report.images += 1
        kinds = image.losses.kinds()
        report.losses = Counter(report.losses) + kinds
        report.harmed += bool(kinds)
        path = lay_out(image, self._folder)
        try:
            faults, seen = self._rows(path, image)
            if not faults and image.number % OPENED_EVERY == 0:
                report.opened += 1
                lay_out(image, self._folder)
                faults = asyncio.run(self._opened(path, seen))
        except (apsw.Error, llmspell.LlmspellError) as error:
            faults = [Fault("it cannot be read", f"{type(error).__name__}: {error}")]
        if faults:
            report.faulty += 1
            report.faults = Counter(report.faults) + Counter({fault.kind for fault in faults})
            if len(report.examples) < FAULTS_KEPT:
                report.examples.append(f"image {image.number}: {faults[0].kind} {faults[0].which}")
        return faults

    def _rows(self, path: Path, image: Image) -> tuple[list[Fault], Seen]:
        """Recover the image as the library does, and look at its rows."""
        if not path.exists():
            return self._timeline.judge({}, image.cut, any_prefix=self._any_prefix)[0], {}
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.wal_autocheckpoint(0)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            whole = image.number % WHOLE_CHECK_EVERY == 0
            self.report.whole_checks += whole
            found = connection.execute("PRAGMA integrity_check" if whole else "PRAGMA quick_check").fetchall()
            if found != [("ok",)]:
                return [Fault("the file is damaged", str(found[0]))], {}
            seen = look(connection)
            faults, kept = self._timeline.judge(seen, image.cut, any_prefix=self._any_prefix)
            self.report.unacknowledged_kept += kept > 0
            if self._recording.migrates:
                return faults + migrated_by_steps(connection), seen
            return faults + [Fault("half there", what) for what in contradictions(connection)], seen

    async def _opened(self, path: Path, seen: Seen) -> list[Fault]:
        """Open the image as a store: it answers like its rows, takes a write, and keeps it when it is opened again."""
        expected = {key: value for key, value in seen.items() if key[0] not in NOT_ASKED}
        for turn in range(2):
            async with llmspell.connect(f"sqlite:///{path}", settings=settings("FULL"), embedder="hashing") as spell:
                if (await spell.admin.migration_status()).pending:
                    return [Fault("migrations are pending after it was opened")]
                tenant = spell.tenant(TENANT)
                answers = await ask(tenant)
                if answers.pop(AFTERWARDS, None) != (None, "written")[turn]:
                    return [Fault("a write after the cut is lost")]
                if answers != expected:
                    differ = sorted(dict(answers.items() ^ expected.items()))
                    return [Fault("the store answers otherwise than its rows", str(differ[:3]))]
                if not (await tenant.audit.verify()).intact:
                    return [Fault("the audit chain does not hold")]
                await tenant.kv.set(AFTERWARDS[1], b"written")
        return []


async def ask(tenant: Tenant) -> Seen:
    """Read through the public API what a workload may have written; contents of artifacts are verified by their hash."""
    seen: Seen = {}
    for key, value in (await tenant.kv.get_batch(await tenant.kv.list_keys())).items():
        seen["kv", key] = value.decode()
    async for summary in every(tenant.agent_state.list):
        state = await tenant.agent_state.get(summary.agent_id)
        assert state is not None
        seen["state", state.agent_id] = state.data["step"]
    async for memory in tenant.memory.iterate():
        seen["memory", memory.id.hex] = memory.content
    async for event in every(tenant.event_log.list):
        seen["event", event.payload["n"]] = ""
    async for session in every(tenant.sessions.list):
        seen["session", session.id.hex] = ""
    async for artifact in every(tenant.artifacts.list):
        assert await tenant.artifacts.read(artifact.id) is not None
        seen["artifact", artifact.name] = artifact.content_hash
    async for entry in every(tenant.audit.list):
        if not entry.resource.startswith("tenant:"):
            seen["audit", entry.resource] = ""
    for fact in await tenant.graph.facts(subject="Ada", limit=FACTS_MAX):
        seen["fact", fact.subject] = seen["fact", fact.object] = ""
    return seen


async def every(list_page: Callable[..., Awaitable[Page[Any]]]) -> AsyncIterator[Any]:
    """Turn over all pages of a list."""
    cursor = None
    while True:
        page = await list_page(cursor=cursor)
        for item in page.items:
            yield item
        cursor = page.next_cursor
        if cursor is None:
            return


def judged(recording: Recording, seed: str, numbers: range, *, any_prefix: bool = False) -> Report:
    """Rebuild and judge the images of these numbers."""
    parent = KEPT_IN_MEMORY if KEPT_IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir=parent) as folder:
        judge = Judge(recording, Path(folder), any_prefix=any_prefix)
        for image in images(recording, seed, numbers):
            judge.judge(image)
    return judge.report


def main(arguments: list[str]) -> None:
    file, seed, first, last, *options = arguments
    recording = msgspec.msgpack.decode(Path(file).read_bytes(), type=Recording)
    report = judged(recording, seed, range(int(first), int(last)), any_prefix="--any-prefix" in options)
    print(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
