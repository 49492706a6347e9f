"""Old months of the event log: dumped to files, verified, dropped, and brought back (EVT-14…16, AMB-073, AMB-108).

Not here: what is done to the database (`storage.postgres.event_months`).

A month that is taken out goes: attached → archived (detached, no way in for tenants) → dumped to a file → the file read back and
compared → noted on the table as verified → dropped. Each step is found again by what it left, so whoever was killed between two
of them runs the same command again.

Rule 1: a file counts when a manifest stands beside it, which is written last, and its name says which rows it holds by SHA-256.
Rule 2: a file is never overwritten: another content of the same month gets another name.
Rule 3: nothing is dropped but what a file in reach holds, unless it is asked for in so many words.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmspell.clock import SystemClock
from llmspell.directories import directories
from llmspell.errors import Conflict, CorruptStore, InvalidSetting, NotFound, StorageError, Unsupported
from llmspell.ops.backup.programs import Programs, find_programs, running
from llmspell.ops.named_store import require_owner_url

if TYPE_CHECKING:
    from llmspell.settings import Settings
    from llmspell.storage.postgres.event_months import EventMonth, Returned

__all__ = ["Dump", "EventArchive", "EventMonth", "Manifest", "default_folder"]

FORMAT = "llmspell events 1"
SUFFIX, PART, MANIFEST = ".dump", ".part", ".dump.json"
COPIES_MAX = 1_000
BLOCK_BYTES = 262_144
ONE_TABLE = "This store keeps events in one table, so it has no months."
PRUNE_HINT = "Delete old events by tenant.event_log.prune(before), or name a server: --store postgresql://…"
_COPY = re.compile(rb"COPY (?:\w+\.)?(\w+) \(([\w\", ]+)\) FROM stdin;")

Announce = Callable[[str], None]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a dump holds. `content_sha256` is of the rows in order of their key, `file_sha256` of the file."""

    format: str
    table: str
    database: str
    starts_at: datetime
    ends_at: datetime
    columns: tuple[str, ...]
    rows: int
    content_sha256: str
    file_sha256: str
    file_bytes: int
    server_version: int
    verified_at: datetime


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """A dump in a folder."""

    file: Path
    manifest: Manifest


def default_folder() -> Path:
    """Return where dumps go unless a folder is named: `event-archive` among the user's data."""
    return directories().data / "event-archive"


class EventArchive:
    """The archive of one server's events."""

    def __init__(self, settings: Settings, *, folder: Path | None = None, announce: Announce = lambda _: None) -> None:
        """Raises Unsupported when the store keeps events in one table."""
        if settings.storage.backend != "postgresql":
            raise Unsupported(ONE_TABLE, hint=PRUNE_HINT)
        self._settings = settings
        self._folder = (default_folder() if folder is None else folder).absolute()
        self._announce = announce

    def months(self) -> list[EventMonth]:
        """Return every month, and the default partition; the earliest first."""
        from llmspell.storage.postgres import event_months

        return event_months.listed(self._settings.storage.url)

    def ensure(self, *, dry_run: bool = False) -> list[str]:
        """Make the current month and the next three; a line for each."""
        from llmspell.storage.postgres import event_months

        server = self._settings.storage.postgres
        return event_months.ensure(server.operator_url or self._settings.storage.url, dry_run=dry_run)

    def detach(self, before: datetime, *, dry_run: bool = False) -> list[str]:
        """Take the months that ended by `before` out of the log; a line for each. Nothing is dropped.

        Raises:
            InvalidSetting: no URL of the operator's role is configured.
        """
        from llmspell.storage.postgres import event_months

        if dry_run:
            return [_line("WOULD ARCHIVE", name) for name in event_months.detachable(self._operator, before=before)]
        return event_months.detach(self._operator, before=before)

    def archive(self, before: datetime, *, drop: bool = False, dry_run: bool = False) -> list[str]:
        """Detach the months that ended by `before`, dump and verify every archived month, and drop them when asked to.

        Months that were archived before and have no verified dump yet are dumped too. Return a line for each step.

        Raises:
            InvalidSetting: a URL of the operator's role or of the owner is missing.
            Unsupported: no pg_dump fits the server.
            Conflict: another such command is under way.
            StorageError, CorruptStore: a dump failed, or does not hold what it should; nothing was dropped.
        """
        from llmspell.storage.postgres import event_months

        if dry_run:
            lines = self.detach(before, dry_run=True)
            waiting = [m.name for m in self.months() if m.state == "archived"]
            waiting += [line.split()[2] for line in lines]
            for name in waiting:
                lines += [] if self._verified(name) else [_line("WOULD DUMP", name)]
                lines += [_line("WOULD DROP", name)] if drop else []
            return lines
        owner_url, operator_url = self._owner, self._operator
        with event_months.turn(owner_url) as owner:
            lines = []
            for line in event_months.detach(operator_url, before=before):
                self._announce(line)
                lines.append(line)
            for month in self.months():
                if month.state != "archived":
                    continue
                lines += self._dumped(owner, month)
                if drop:
                    lines.append(self._dropped(owner, month.name))
        return lines

    def drop(self, names: Sequence[str], *, without_dump: bool = False, dry_run: bool = False) -> list[str]:
        """Drop archived months whose verified dump is in the folder; a line for each.

        Raises:
            NotFound: one of them is not archived.
            Conflict: one has no verified dump in the folder, and `without_dump` is False; none was dropped.
            CorruptStore: its rows, or the file, are not those that were verified; it was not dropped.
        """
        from llmspell.storage.postgres import event_months

        archived = {month.name for month in self.months() if month.state == "archived"}
        for name in names:
            event_months.bounds_of(name)
            if name not in archived:
                raise NotFound(
                    "No such month is archived here.", hint="Run: llmspell database partitions list", name=name
                )
            if not without_dump and self._verified(name) is None:
                raise Conflict(
                    "The month has no verified dump in the folder; nothing was dropped.",
                    hint="Dump it: llmspell database partitions archive; name the folder (--folder); or lose it (--without-dump).",
                    month=name,
                    folder=str(self._folder),
                )
        if dry_run:
            return [_line("WOULD DROP", name) for name in names]
        with event_months.turn(self._owner) as owner:
            return [self._dropped(owner, name, without_dump=without_dump) for name in names]

    def restore(self, name: str, *, dry_run: bool = False) -> list[str]:
        """Bring a month back, from the archive or from its dump: `name` is that of the month, or of a file.

        Raises:
            NotFound: neither the archive nor the folder has it.
            Conflict: several dumps of the month are in the folder, or its rows differ from what the log holds.
            CorruptStore: the file is not what was verified; nothing was changed.
        """
        from llmspell.storage.postgres import event_months

        archived = {month.name for month in self.months() if month.state == "archived"}
        if name in archived:
            if dry_run:
                return [_line("WOULD ATTACH", name)]
            with event_months.turn(self._owner) as owner:
                of = event_months.columns(owner)
                return [_returned("ATTACHED", event_months.attach(owner, self._operator, name, of=of))]
        dump = self._dump_named(name)
        if dry_run:
            return [_line("WOULD RESTORE", dump.manifest.table) + f" from {dump.file}"]
        with event_months.turn(self._owner) as owner:
            known = event_months.columns(owner)
            unknown = set(dump.manifest.columns) - set(known)
            if unknown:
                raise StorageError("The dump is of a newer release.", columns=", ".join(sorted(unknown)))
            self._announce(f"Reading {dump.file}")
            self._require_intact(dump)
            expected = event_months.Content(dump.manifest.rows, dump.manifest.content_sha256)
            version = max(owner.info.server_version // 10_000, dump.manifest.server_version)
            of, table = dump.manifest.columns, dump.manifest.table
            with _rows(dump.file, self._programs(version), of=of, table=table) as blocks:
                returned = event_months.load(owner, self._operator, table, blocks, of=of, expected=expected)
        return [_returned("RESTORED", returned) + f" from {dump.file}"]

    # --- steps ----------------------------------------------------------------------------------------------------------

    def _dumped(self, owner: Any, month: EventMonth) -> list[str]:
        """Have a verified dump of an archived month in the folder, and note it on the table; a line when something was done."""
        from llmspell.storage.postgres import event_months

        if self._verified(month.name) is not None:
            return []
        of = event_months.columns(owner)
        found = event_months.content(self._operator, month.name, of=of)
        dump = next((one for one in self._dumps(month.name) if one.manifest.content_sha256 == found.sha256), None)
        if dump is None:
            dump = self._write(owner, month.name, of, found)
        self._require_intact(dump)
        self._announce(f"Verified {dump.file}")
        event_months.record(owner, month.name, content_sha256=found.sha256, file_sha256=dump.manifest.file_sha256)
        line = f"DUMPED: {month.name} {dump.manifest.rows} rows to {dump.file}"
        self._announce(line)
        return [line]

    def _write(self, owner: Any, name: str, of: tuple[str, ...], found: Any) -> Dump:
        programs = self._programs(owner.info.server_version // 10_000)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._free_name(name)
        part = file.with_name(f"{file.name}{PART}")
        part.unlink(missing_ok=True)  # of who was killed
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            return self._verified_dump(owner, name, of, found, part=part, file=file, programs=programs)
        finally:
            part.unlink(missing_ok=True)

    def _verified_dump(
        self, owner: Any, name: str, of: tuple[str, ...], found: Any, *, part: Path, file: Path, programs: Programs
    ) -> Dump:
        """Dump a month, read that back, and only then give it its name and a manifest."""
        from llmspell.storage.postgres import event_months
        from llmspell.storage.postgres.snapshot import program_environment

        self._announce(f"Dumping {name}")
        # Row-level security is forced on the owner too, whose dump would be empty; the operator sees all tenants by policy.
        options = ["--enable-row-security", "-E", "UTF8", "-t", f"llmspell_archive.{name}", "-F", "c", "-f", str(part)]
        environment = program_environment(self._operator)
        with running(programs, "pg_dump", *options, environment=environment, feeds=False) as dump:
            for _ in dump.output():
                pass
        _sync(part)
        self._announce(f"Reading {name} back")
        with _rows(part, programs, of=of, table=name) as blocks:
            read = event_months.read_back(owner, blocks, of=of)
        if read != found:
            raise CorruptStore(
                "The dump does not hold the rows of the month; it was not kept, and nothing was dropped.",
                month=name,
                rows=found.rows,
                dumped=read.rows,
            )
        starts_at, ends_at = event_months.bounds_of(name)
        manifest = Manifest(
            format=FORMAT,
            table=name,
            database=owner.info.dbname,
            starts_at=starts_at,
            ends_at=ends_at,
            columns=of,
            rows=read.rows,
            content_sha256=read.sha256,
            file_sha256=_sha256(part),
            file_bytes=part.stat().st_size,
            server_version=owner.info.server_version // 10_000,
            verified_at=SystemClock().now(),
        )
        part.replace(file)
        self._announce(f"Wrote {file}")
        text_file = _manifest_of(file)
        draft = text_file.with_name(f"{text_file.name}{PART}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        _sync(draft)
        draft.replace(text_file)
        _sync(self._folder)
        return Dump(file=file, manifest=manifest)

    def _dropped(self, owner: Any, name: str, *, without_dump: bool = False) -> str:
        from llmspell.storage.postgres import event_months

        dump = self._verified(name)
        if dump is None and not without_dump:
            raise Conflict("The month has no verified dump in the folder; it was not dropped.", month=name)
        if dump is not None and not without_dump:
            self._require_intact(dump)
        self._announce(f"Dropping {name}")
        rows = event_months.drop(
            owner,
            self._operator,
            name,
            of=event_months.columns(owner) if dump is None else dump.manifest.columns,
            expected=None if dump is None or without_dump else dump.manifest.content_sha256,
        )
        line = f"DROPPED: {name} {rows} rows" + (
            " without a dump" if without_dump else f", kept in {dump and dump.file}"
        )
        self._announce(line)
        return line

    # --- files ----------------------------------------------------------------------------------------------------------

    def _verified(self, name: str) -> Dump | None:
        """Return the dump that is noted on the table of a month, when it is in the folder."""
        noted = next((m.dump for m in self.months() if m.name == name and m.state == "archived"), None)
        if noted is None:
            return None
        return next(
            (d for d in self._dumps(name) if (d.manifest.content_sha256, d.manifest.file_sha256) == noted), None
        )

    def _dumps(self, name: str) -> list[Dump]:
        found = []
        for path in sorted(self._folder.glob(f"{name}*{MANIFEST}")):
            file = path.with_name(path.name.removesuffix(".json"))
            dump = Dump(file=file, manifest=_read_manifest(path))
            if dump.manifest.table == name and file.is_file():
                found.append(dump)
        return found

    def _dump_named(self, name: str) -> Dump:
        if name.endswith(SUFFIX) or "/" in name:
            file = Path(name)
            return Dump(file=file, manifest=_read_manifest(_manifest_of(file)))
        found = self._dumps(name)
        if not found:
            raise NotFound(
                "Neither the archive nor the folder has this month.",
                hint="Run: llmspell database partitions list; name the folder of the dumps (--folder), or a file.",
                name=name,
                folder=str(self._folder),
            )
        if len(found) > 1:
            raise Conflict(
                f"The folder has several dumps of this month: {', '.join(str(dump.file) for dump in found)}.",
                hint="Name the file to restore; each holds other events, so restore one after the other.",
            )
        return found[0]

    def _free_name(self, name: str) -> Path:
        for number in range(1, COPIES_MAX):
            file = self._folder / (f"{name}{SUFFIX}" if number == 1 else f"{name}-{number}{SUFFIX}")
            # Without a manifest it is what somebody left who was killed: it was never a dump that counted.
            if not _manifest_of(file).exists():
                return file
        raise Conflict("The folder is full of dumps of one month.", month=name, folder=str(self._folder))

    def _require_intact(self, dump: Dump) -> None:
        if not dump.file.is_file():
            raise NotFound("The file of the dump is not there.", file=str(dump.file))
        if _sha256(dump.file) != dump.manifest.file_sha256:
            raise CorruptStore("The file is not the one that was verified.", file=str(dump.file))

    def _programs(self, version: int) -> Programs:
        return find_programs(version, folder=self._settings.backup.programs_dir)

    @property
    def _owner(self) -> str:
        return require_owner_url(
            self._settings, without_server=ONE_TABLE, as_owner="Months are dropped and brought back"
        )

    @property
    def _operator(self) -> str:
        url = self._settings.storage.postgres.operator_url
        if url is None:
            raise InvalidSetting(
                "Months hold the events of all tenants, and no URL of the operator's role is configured.",
                hint="Set DATABASE_OPERATOR_URL, or storage.postgres.operator_url.",
            )
        return url


@contextmanager
def _rows(file: Path, programs: Programs, *, of: Sequence[str], table: str) -> Iterator[Iterator[bytes]]:
    """Hand out the rows of a dump, as COPY takes them. What the file says of its columns must be what is expected of it.

    Raises:
        CorruptStore: the file holds something else.
        StorageError: pg_restore cannot read it.
    """
    options = ["--data-only", "-f", "-", str(file.absolute())]
    with running(programs, "pg_restore", *options, environment={}, feeds=False) as restore:
        lines = _lines(restore.output())
        head = next((match for line in lines if (match := _COPY.fullmatch(line))), None)
        named = [] if head is None else [name.strip('" ') for name in head[2].decode().split(",")]
        if head is None or head[1].decode() != table or named != list(of):
            raise CorruptStore("The file does not hold the events of this month.", file=str(file), month=table)
        yield _blocks(lines)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def _blocks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Gather the rows, and read what follows them to its end: only then has the program succeeded."""
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        if line == b"\\.":
            break
        gathered.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield b"\n".join(gathered) + b"\n"
            gathered, size = [], 0
    if gathered:
        yield b"\n".join(gathered) + b"\n"
    for _ in lines:
        pass


def _manifest_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise NotFound("There is no such dump, or no manifest beside it.", file=str(path)) from None
    except (msgspec.DecodeError, ValueError) as exc:
        raise CorruptStore("The manifest of a dump cannot be read.", file=str(path), reason=str(exc)) from exc
    if manifest.format != FORMAT:
        raise Unsupported(
            f"The dump has the format {manifest.format!r}; this release reads {FORMAT!r}.", file=str(path)
        )
    return manifest


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(word: str, name: str) -> str:
    from llmspell.storage.postgres.event_months import bounds_of

    starts_at, ends_at = bounds_of(name)
    return f"{word}: {name} ({starts_at:%Y-%m-%d} to {ends_at:%Y-%m-%d})"


def _returned(word: str, returned: Returned) -> str:
    said = _line(word, returned.name) + f" {returned.rows} rows"
    if returned.merged:
        said += ", into the month that late events had made"
    return said + (f", and {returned.strays} that had come since" if returned.strays else "")
