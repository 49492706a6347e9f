"""Take, list, verify, restore and delete backups of a whole store. Everything here blocks: use a thread where that matters.

    backups = Backups(load_settings())
    record = backups.create()
    backups.restore(record.id, into="copy.db")

Rule 1: a backup counts when it was restored somewhere else and its digests were the same. Until then it is listed as unverified.
Rule 2: the content is put first, and its record last: what has no record is not a backup.
Rule 3: a live store is replaced after its current state was backed up, by a backup that is verified.
Rule 4: any number of processes may do this at once, and each may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from llmspell.clock import Clock, SystemClock
from llmspell.codec import require_key
from llmspell.directories import directories
from llmspell.errors import (
    AccessRefused,
    Conflict,
    CorruptStore,
    LlmspellError,
    MasterKeyMissing,
    MissingExtra,
    NotFound,
    SealBroken,
    Unavailable,
    Unsupported,
)
from llmspell.ops.backup.container import Opened, Packing, pack, unpack
from llmspell.ops.backup.file_store import FileStore, file_of
from llmspell.ops.backup.places import CONTENT, RECORD, Found, Place, open_place, read_small
from llmspell.ops.backup.records import FORMAT_VERSION, Kind, Listed, Manifest, Record
from llmspell.ops.backup.retention import Keeping, to_delete
from llmspell.ops.backup.server_store import ServerStore
from llmspell.ops.backup.state import INTERVALS, BackupState, judge
from llmspell.ops.backup.taken import Taken
from llmspell.security.keyring import read_keyring
from llmspell.settings import Settings, masked
from llmspell.storage.contracts.snapshot import differences

Step = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and of how much; 0 when that is not known."""
RANDOM_BYTES: Final = 4
DIFFERENCES_SHOWN: Final = 3
LATEST: Final = "latest"


class RestorePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore would do: `steps` in their order. `replaces`: there is a store at the target, which is backed up first."""

    backup: Record
    target: str
    replaces: bool
    steps: list[str]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did. `safety`: the backup of what was there before, when something was."""

    backup: Record
    target: str
    safety: Record | None


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted, or with `dry_run` would be. `databases`: what verifications that were killed left on their server."""

    deleted: list[Listed]
    databases: Sequence[str]
    freed_bytes: int
    dry_run: bool


class Backups:
    """The backups of the configured store in one place."""

    def __init__(
        self,
        settings: Settings,
        *,
        location: str | None = None,
        clock: Clock | None = None,
        progress: Step = lambda _step, _done, _total: None,
        going_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Name the store and the place; nothing is asked of either yet.

        Args:
            settings: which store, its roles, its keys, and `[backup]`.
            location: another place than the settings name: a folder, or s3://bucket/prefix.
            progress: hears how far it is.
            going_on: asked between steps; what it raises ends the work, and nothing half-done counts.

        Raises:
            InvalidSetting: the location names no place.
            MissingExtra: it is a bucket, and the extra `s3` is not installed.
        """
        self._settings = settings
        self._clock = clock if clock is not None else SystemClock()
        self._progress = progress
        self._going_on = going_on
        self._keyring = read_keyring(settings.security.master_keys)
        self.place: Place = open_place(location, settings.backup, directories().data / "backups")

    # --- taking -------------------------------------------------------------------------------------------------------

    def create(self, *, verify: bool | None = None, encrypt: bool | None = None, level: int | None = None) -> Record:
        """Take a backup of the configured store, and verify it.

        Args:
            verify: False leaves it unverified, so that it does not count yet. None: as `backup.verify` says.
            encrypt: None: as `backup.encryption` says.
            level: of the compression, 1 to 19, or 0 for none. None: as the settings say.

        Raises:
            MasterKeyMissing: it shall be encrypted, and there is no master key.
            Unsupported: the store is in memory; or there is nothing to verify it with, and it is kept unverified.
            CorruptStore: it was restored and was not the same; it is kept, and marked as damaged.
            InvalidSetting, MissingExtra, NotFound, UnsafeRole, Unavailable, StorageError, DiskFull.
        """
        chosen = self._settings.backup
        packing = self._packing(encrypt=chosen.encryption if encrypt is None else encrypt, level=level)
        store = self._store()
        now = self._clock.now()
        id = f"{now:%Y%m%dT%H%M%S}{now.microsecond:06d}Z-{secrets.token_hex(RANDOM_BYTES)}"
        with store.taking(self._going_on) as taken:
            manifest = self._manifest(id, now, store.kind, taken)
            record = self._put(manifest, taken, packing)
        # It was made here a moment ago, whatever proves that.
        return self.verify(record.id, trust=True) if (chosen.verify if verify is None else verify) else record

    def plan_create(self, *, verify: bool | None = None, encrypt: bool | None = None) -> list[str]:
        """Say what `create` would do, and do nothing.

        Raises:
            MasterKeyMissing, Unsupported: as `create`.
        """
        chosen = self._settings.backup
        packing = self._packing(encrypt=chosen.encryption if encrypt is None else encrypt, level=None)
        store = self._store()
        signed = "" if packing.signed_by is None else f", signed under {packing.signed_by}"
        how = f"unencrypted{signed}" if packing.key_id is None else f"encrypted under {packing.key_id}"
        steps = [f"take one snapshot of {masked(self._settings.storage.url)} ({store.kind})"]
        steps.append(f"keep it in {self.place.shown}, {how}")
        if chosen.verify if verify is None else verify:
            steps.append("restore it elsewhere, and compare every table")
        return steps

    def _put(self, manifest: Manifest, taken: Taken, packing: Packing) -> Record:
        content, stored = _Counted(), _Counted()
        pieces = pack(
            manifest, content.through(taken.content, self._told("taking", 0)), keyring=self._keyring, packing=packing
        )
        name = manifest.id + CONTENT
        try:
            self.place.put(name, stored.through(pieces, lambda _: self._going_on()))
            record = Record(
                id=manifest.id,
                created_at=manifest.created_at,
                kind=manifest.kind,
                store=manifest.store,
                store_id=manifest.store_id,
                schema_version=manifest.schema_version,
                rows=manifest.rows,
                tenants=len(manifest.tenants),
                stored_bytes=stored.size,
                content_bytes=content.size,
                sha256=stored.digest.hexdigest(),
                compressed=packing.level > 0,
                key_id=packing.key_id,
                signed_by=packing.signed_by,
            )
            self._write(record)
        except BaseException:
            self.place.delete(name)
            raise
        return record

    # --- looking ------------------------------------------------------------------------------------------------------

    def list(self) -> list[Listed]:
        """Return every backup of the place, the latest first, with what those that did not end have left.

        Raises:
            AccessRefused, Unavailable, StorageError: the place cannot be read.
        """
        now, found = self._clock.now(), self.place.list()
        sizes: dict[str, int] = {}
        for file in found:
            sizes[_id_of(file)] = sizes.get(_id_of(file), 0) + file.size_bytes
        records = {file.name.removesuffix(RECORD) for file in found if file.name.endswith(RECORD)}
        contents = {file.name.removesuffix(CONTENT) for file in found if file.name.endswith(CONTENT)}
        listed = []
        for id in records & contents:
            try:
                record = self._read(id)
            except NotFound:  # deleted meanwhile
                continue
            except CorruptStore:
                listed.append(Listed(id=id, state="damaged", stored_bytes=sizes[id], age_s=_age(found, id, now)))
                continue
            age_s = (now - record.created_at).total_seconds()
            listed.append(Listed(id=id, state=record.state, stored_bytes=sizes[id], age_s=age_s, record=record))
        listed += [
            Listed(id=id, state="incomplete", stored_bytes=size, age_s=_age(found, id, now))
            for id, size in sizes.items()
            if id not in records & contents
        ]
        return sorted(listed, key=lambda each: each.id, reverse=True)

    def get(self, id: str) -> Record:
        """Return a backup by its id, or by `latest`: the last verified one of the configured store.

        Where the place has none of it, as after a move to another machine, it is that of the only store that there are backups of.

        Raises:
            NotFound: there is none.
            Conflict: `latest` may be of one store or of another.
            CorruptStore: its record is damaged.
        """
        if id == LATEST:
            return self._latest()
        require_key(id, field="id")
        if "/" in id or "\\" in id or id.startswith("."):
            raise NotFound("There is no such backup.", id=id, place=self.place.shown)
        try:
            return self._read(id)
        except NotFound as exc:
            raise NotFound(
                "There is no such backup.", hint="Run: llmspell backup list", id=id, place=self.place.shown
            ) from exc

    def _latest(self) -> Record:
        good = [each.record for each in self.list() if each.record is not None and each.state == "verified"]
        if not good:
            raise NotFound("There is no verified backup.", place=self.place.shown)
        here = str(masked(self._settings.storage.url))
        candidates = [record for record in good if record.store == here] or good
        if len({record.store_id for record in candidates}) > 1:
            raise Conflict(
                "The backups are of several stores, and which one is meant is not clear.",
                hint="Name one by its id: llmspell backup list",
                stores=", ".join(sorted({record.store for record in candidates})),
                place=self.place.shown,
            )
        return candidates[0]

    def state(self) -> BackupState:
        """Judge whether the store is backed up as it should be: what health shows. Errors: as `list`."""
        return backup_state(self._settings, clock=self._clock, backups=self)

    # --- verifying ----------------------------------------------------------------------------------------------------

    def verify(self, id: str, *, trust: bool = False) -> Record:
        """Restore a backup somewhere else, compare digests, and note that it counts.

        Args:
            trust: as for `restore`; an embedded server, and a file, ask for none.

        Raises:
            AccessRefused: nothing proves who made it, and it would run as a superuser of the server that is to verify it.
            NotFound: there is none of this id.
            CorruptStore, SealBroken: it is not what it was; it is marked as damaged.
            MasterKeyMissing, MissingExtra, Unsupported, Unavailable, StorageError, DiskFull: it could not be found out.
        """
        record = self.get(id)
        stored = _Counted()
        store = self._store(record.kind)
        try:
            opened = self._open(record, stored, "verifying")
            trusted = trust or opened.packing.genuine
            facts = store.verify(opened, record.content_bytes, self._going_on, trust=trusted)
            for _ in opened.content:  # whoever restores may stop at the end of what it understands
                pass
            said = differences(opened.manifest.tables, facts.tables)
            if stored.digest.hexdigest() != record.sha256:
                said.append("its file is not the one that its record describes")
            if said:
                shown = "; ".join(said[:DIFFERENCES_SHOWN])
                raise CorruptStore(f"The backup does not restore to what it should: {shown}.", differences=len(said))
        except (CorruptStore, SealBroken) as error:
            if not _lacks_key(error):
                self._write(msgspec.structs.replace(record, verified_at=None, failure=error.detail))
            raise
        record = msgspec.structs.replace(record, verified_at=self._clock.now(), failure="")
        self._write(record)
        return record

    # --- restoring ----------------------------------------------------------------------------------------------------

    def plan_restore(
        self, id: str, *, into: str | None = None, backup_current: bool = True, trust: bool = False
    ) -> RestorePlan:
        """Say what a restore would do, and change nothing. Errors: as `restore`, as far as they can be seen beforehand."""
        record = self.get(id)
        store = self._store_for(record, into)
        opened = self._open(record, _Counted(), "")
        trusted = trust or opened.packing.genuine
        if not trusted and self._keyring.active is not None:
            raise _unproved(
                "Master keys are configured here, and this backup is neither encrypted nor signed by one", record
            )
        steps = [] if record.state == "verified" else [f"verify {record.id}, which was not"]
        if isinstance(store, FileStore):
            target = store.target(into)
            replaces, shown = target.exists(), str(target)
        else:
            found = store.look(opened.manifest, into)
            if not trusted and found.superuser:
                raise _unproved(f"It would run as `{found.role}`, which is a superuser", record)
            if not trusted and not store.keeps_to_statements(found):
                raise _unproved(
                    "The psql found here would also run commands of this machine that stand in a dump", record
                )
            replaces, shown = found.has_store, masked(store.target_url(into))
            steps += [f"create the role {role.name}" for role in found.missing_roles]
            steps += [] if found.has_vector else ["create the extension vector"]
        steps = [*([f"back up what is at {shown}"] if replaces and backup_current else []), *steps]
        place = "in its place" if replaces else f"to {shown}"
        steps.append(f"restore {record.id} ({record.rows:,} rows of {record.store}) {place}")
        return RestorePlan(backup=record, target=shown, replaces=replaces, steps=steps)

    def restore(
        self, id: str, *, into: str | None = None, backup_current: bool = True, trust: bool = False
    ) -> Restored:
        """Restore a backup: in the place of the configured store, or into a new file or an empty database.

        Args:
            into: a file that is not there, or a database without a store: its URL, or its name on the configured server.
            backup_current: False restores over a store without backing it up: for one that is too damaged for that.
            trust: restore it although no key proves who made it, where that matters: master keys are configured, or it would run
                as a superuser.

        Raises:
            AccessRefused: nothing proves who made it, and `trust` is False.
            Conflict: the target holds something already, or stays in use; nothing was changed.
            NotFound, CorruptStore, SealBroken, MasterKeyMissing, MissingExtra, InvalidSetting, Unsupported, AccessRefused,
            MissingExtension, Unavailable, StorageError, DiskFull: nothing was changed.
        """
        plan = self.plan_restore(id, into=into, backup_current=backup_current, trust=trust)
        record = plan.backup if plan.backup.state == "verified" else self.verify(plan.backup.id, trust=trust)
        safety = self._safety() if plan.replaces and backup_current else None
        opened = self._open(record, _Counted(), "restoring")
        if not (trust or opened.packing.genuine) and self._keyring.active is not None:
            raise _unproved("The file of this backup was exchanged meanwhile", record)
        self._store_for(record, into).restore(opened, into, self._going_on)
        return Restored(backup=record, target=plan.target, safety=safety)

    def _safety(self) -> Record:
        try:
            return self.create()
        except (CorruptStore, MasterKeyMissing) as error:
            raise type(error)(
                f"The current state could not be backed up, so nothing was restored: {error.detail}",
                hint="Restore with --into somewhere else, or over it as it is: --without-backup.",
                **error.fields,
            ) from error

    # --- deleting -----------------------------------------------------------------------------------------------------

    def delete(self, id: str, *, even_last: bool = False) -> Listed:
        """Delete a backup, or what one that did not end has left.

        Raises:
            NotFound: there is none.
            Conflict: it is the last verified one of its store, and `even_last` is False.
        """
        found = self.list()
        wanted = next((each for each in found if each.id == id), None)
        if wanted is None:
            raise NotFound("There is no such backup.", hint="Run: llmspell backup list", id=id)
        if not even_last and wanted.record is not None and wanted.state == "verified":
            store_id = wanted.record.store_id
            others = [
                each for each in found if each.state == "verified" and each.record is not None and each.id != id
                if each.record.store_id == store_id
            ]  # fmt: skip
            if not others:
                raise Conflict(
                    "It is the last verified backup of its store; it was left as it is.",
                    hint="Take another one first, or insist: --even-last.",
                    id=id,
                )
        self._delete(wanted)
        return wanted

    def prune(
        self, *, days: int | None = None, count: int | None = None, most: int | None = None, dry_run: bool = False
    ) -> Pruned:
        """Delete what need not be kept any longer; what is None is as the settings say. See `retention` for the rules.

        Raises:
            InvalidLimit: a number is out of range.
            AccessRefused, Unavailable, StorageError: the place cannot be used.
        """
        chosen = self._settings.backup
        keeping = Keeping(
            days=chosen.retention_days if days is None else days,
            count=chosen.retention_count if count is None else count,
            most=chosen.retention_max if most is None else most,
        )
        going = to_delete(self.list(), keeping, self._clock.now())
        if not dry_run:
            for each in going:
                self._going_on()
                self._delete(each)
        databases = self._sweep(dry_run=dry_run)
        return Pruned(
            deleted=going, databases=databases, freed_bytes=sum(each.stored_bytes for each in going), dry_run=dry_run
        )

    def _sweep(self, *, dry_run: bool) -> Sequence[str]:
        """Drop what is left of verifications. That the server for them is away keeps nobody from deleting backups."""
        try:
            return ServerStore(self._settings.backup, operator_url=None, admin_url=None).sweep(dry_run=dry_run)
        except (Unavailable, AccessRefused, MissingExtra) as error:
            self._progress(f"not looked at: {error.detail}", 0, 0)
            return []

    def _delete(self, listed: Listed) -> None:
        """The record first: from then on it is no backup any more, whatever happens."""
        self.place.delete(listed.id + RECORD)
        self.place.delete(listed.id + CONTENT)
        for file in self.place.list():
            if _id_of(file) == listed.id:
                self.place.delete(file.name)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _packing(self, *, encrypt: bool, level: int | None) -> Packing:
        chosen = self._settings.backup
        wanted = (chosen.compression_level if chosen.compression else 0) if level is None else level
        if encrypt and self._keyring.active is None:
            raise MasterKeyMissing(
                "Backups are encrypted under a master key, and none is configured.",
                hint="Make one with `llmspell keys new` and set LLMSPELL_MASTER_KEY_FILE to it; or back up without:"
                " --no-encryption, or backup.encryption = false.",
            )
        return Packing(wanted, self._keyring.active) if encrypt else Packing(wanted, None, self._keyring.active)

    def _manifest(self, id: str, now: datetime, kind: Kind, taken: Taken) -> Manifest:
        facts = taken.facts
        return Manifest(
            format_version=FORMAT_VERSION,
            id=id,
            created_at=now,
            kind=kind,
            store=str(masked(self._settings.storage.url)),
            store_id=facts.store_id,
            schema_version=facts.schema_version,
            tenants=facts.tenants,
            tables=facts.tables,
            software={"llmspell": version("llmspell"), **facts.software},
            owner=taken.owner,
            roles=list(taken.roles),
            signed=taken.signed,
            vector_schema=taken.vector_schema,
        )

    def _store(self, kind: Kind | None = None) -> FileStore | ServerStore:
        storage = self._settings.storage
        wanted = kind if kind is not None else storage.backend
        if wanted == "postgresql":
            server = storage.postgres
            return ServerStore(self._settings.backup, operator_url=server.operator_url, admin_url=server.admin_url)
        if wanted != "sqlite":
            raise Unsupported("A store in memory ends with its process; there is nothing to back up.")
        path = file_of(storage.url) if storage.backend == "sqlite" else Path.cwd() / "none"
        return FileStore(
            path,
            busy_timeout_s=storage.sqlite.busy_timeout_secs,
            progress=lambda done, total: self._progress("copying", done, total),
        )

    def _store_for(self, record: Record, into: str | None) -> FileStore | ServerStore:
        """Return the store that a restore goes to: a backup of a file restores to a file, one of a server to a server."""
        if into is None and self._settings.storage.backend != record.kind:
            raise Unsupported(
                f"The backup is of a store of the kind {record.kind}, and the configured one is {self._settings.storage.backend}.",
                hint="Restore with --into, then move what it holds: llmspell storage transfer.",
            )
        return self._store(record.kind)

    def _open(self, record: Record, stored: _Counted, step: str) -> Opened:
        look = self._told(step, record.stored_bytes) if step else lambda _: self._going_on()
        pieces = stored.through(self.place.read(record.id + CONTENT), look)
        opened = unpack(pieces, keyring=self._keyring)
        if opened.manifest.id != record.id or opened.manifest.kind != record.kind:
            raise CorruptStore(
                "The record and the content of the backup do not belong together.",
                id=record.id,
                content=opened.manifest.id,
            )
        return opened

    def _read(self, id: str) -> Record:
        try:
            record = msgspec.json.decode(read_small(self.place, id + RECORD), type=Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise CorruptStore("The record of the backup cannot be read.", id=id, reason=str(exc)) from exc
        if record.format_version > FORMAT_VERSION:
            raise CorruptStore("A newer llmspell made this backup.", hint="Upgrade llmspell to read it.", id=id)
        if record.id != id:
            raise CorruptStore("The record of the backup is another one's.", id=id, record=record.id)
        return record

    def _write(self, record: Record) -> None:
        self.place.put(record.id + RECORD, [msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"])

    def _told(self, step: str, total: int) -> Callable[[int], None]:
        """Return what is called with the bytes that are done: it asks whether to go on, and tells how far it is."""

        def look(done: int) -> None:
            self._going_on()
            self._progress(step, done, total)

        return look


def backup_state(settings: Settings, *, clock: Clock | None = None, backups: Backups | None = None) -> BackupState:
    """Judge whether the configured store is backed up as the settings ask: what health shows. Blocks.

    Raises:
        InvalidSetting, MissingExtra, AccessRefused, Unavailable, StorageError: the place cannot be read.
    """
    chosen = settings.backup
    asked = backups if backups is not None else Backups(settings, clock=clock)
    mine = [each for each in asked.list() if each.record is None or each.record.store == masked(settings.storage.url)]
    by_interval = (
        INTERVALS * chosen.interval_s if chosen.enabled else None
    )  # who takes them by hand says what is too old
    stale_after_s = by_interval if chosen.stale_after_s is None else chosen.stale_after_s
    now = (clock if clock is not None else SystemClock()).now()
    return judge(mine, now, enabled=chosen.enabled, stale_after_s=stale_after_s)


class _Counted:
    """The size and the SHA-256 of what passes through."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()

    def through(self, pieces: Iterable[bytes], look: Callable[[int], None]) -> Iterator[bytes]:
        for piece in pieces:
            self.size += len(piece)
            self.digest.update(piece)
            look(self.size)
            yield piece


def _id_of(file: Found) -> str:
    for ending in (CONTENT, RECORD):
        name, found, _ = file.name.partition(ending)
        if found:
            return name
    return file.name


def _age(found: Iterable[Found], id: str, now: datetime) -> float:
    return (now - max(file.modified_at for file in found if _id_of(file) == id)).total_seconds()


def _unproved(why: str, record: Record) -> AccessRefused:
    return AccessRefused(
        f"Nothing proves who made this backup, and whoever did decides what is run. {why}; nothing was changed.",
        hint="Restore one that is encrypted or signed; on a server, as the role that owns the schema; or where you know that"
        " nobody else can write to this place: --trust.",
        id=record.id,
    )


def _lacks_key(error: LlmspellError) -> bool:
    """Say whether a backup did not open because its key is not here, which says nothing of the backup."""
    return isinstance(error, SealBroken) and "master_key_id" in error.fields
