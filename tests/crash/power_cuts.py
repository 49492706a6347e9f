"""What a disk holds after a power cut: images rebuilt from a recording, with a random part of what was not synced.

The model, as pessimistic as the file systems and disks that SQLite is made for:

- What a sync covered when it began is durable from its end on. It covers its own file, and nothing else.
- Until then each sector of 512 bytes is for itself: it holds what it held at the last sync, or what any one of the later writes
  left there. So a write can be lost, kept or torn between sectors, and a later one kept although an earlier one is lost. A sector
  is never half written, and a write harms no sector that it does not touch (what SQLite calls powersafe overwrite).
- The size of a file is for itself too: that of the last sync, or that after any later write or truncation. Where the size was kept
  and a sector was not, there are zeros, noise, or what a deleted file left on the disk.
- Names are for themselves: a file created or deleted since the last sync of the folder may be there or not, whatever was synced
  into it. Syncing a file does not keep its name.
- A sync that failed keeps of each sector whatever it likes, and forgets the rest for good: a later sync that succeeds does not
  write it (as Linux does, whose pages count as clean after the error).
- The shared memory beside the database may survive as noise.

Not in the model: a disk that says "synced" and lies, and damage to what was durable already (see `test_damaged_files.py`).

Rule: an image follows from its recording, a seed and its number, and from nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec
from tests.crash.recording_files import Operation, Recording

SECTOR: Final = 512
NEAR_RARE_CHANCE: Final = 0.3
NEAR: Final = 8
KEPT_BY_FAILED_SYNC: Final = 0.2
STALE_MAX: Final = 1 << 20
NOISY_MEMORY_CHANCE: Final = 0.1
MEMORY_BYTES: Final = 32_768

Files: TypeAlias = dict[str, bytes]


class Losses(msgspec.Struct):
    """What became of the operations that no sync had covered."""

    lost: int = 0
    torn: int = 0
    reordered: int = 0
    sizes: int = 0
    names: int = 0

    def kinds(self) -> Counter[str]:
        """Count 1 for each kind that occurred."""
        return Counter({kind: 1 for kind, many in msgspec.structs.asdict(self).items() if many})


class Image(msgspec.Struct):
    """The files after one cut, what was lost, and how many operations there had been."""

    number: int
    cut: int
    files: Files
    losses: Losses


class _File:
    """The content of one file: what is durable, and what was asked for since."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.pending: list[tuple[int, Operation]] = []

    def sync(self, begun: int) -> None:
        for at, operation in self.pending:
            if at < begun:
                _apply(self.durable, operation)
        self.pending = [(at, operation) for at, operation in self.pending if at >= begun]

    def after_cut(self, choose: random.Random, stale: bytes, losses: Losses) -> bytearray:
        """Choose what is left of the pending operations."""
        fate = choose.random()
        if not self.pending or fate < 0.1:
            left = bytearray(self.durable)
            for _, operation in self.pending:
                _apply(left, operation)
            return left
        if fate < 0.2:
            losses.lost += len(self.pending)
            return bytearray(self.durable)
        return _Sectors(self.durable, [operation for _, operation in self.pending]).choose(
            choose,
            stale,
            losses,
            keeps=choose.random(),  # of some cuts nearly all is left, of others nearly nothing
        )


class _Sectors:
    """Every version that each sector had since the last sync."""

    def __init__(self, durable: bytearray, pending: list[Operation]) -> None:
        self._durable = durable
        self._versions: dict[int, list[bytes]] = {}
        self._sizes = [len(durable)]
        self._touched: list[dict[int, int]] = []
        """For each write: its sectors, and which version of each it made."""
        for operation in pending:
            if operation.kind == "write":
                self._write(operation)
            else:
                self._truncate(operation.number)

    def _latest(self, sector: int) -> list[bytes]:
        known = self._versions.get(sector)
        if known is None:
            durable = bytes(self._durable[sector * SECTOR : (sector + 1) * SECTOR])
            known = self._versions[sector] = [durable.ljust(SECTOR, b"\0")]
        return known

    def _write(self, operation: Operation) -> None:
        offset, data = operation.number, operation.data
        end = offset + len(data)
        touched = {}
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            start = sector * SECTOR
            first, last = max(offset, start), min(end, start + SECTOR)
            versions = self._latest(sector)
            before = versions[-1]
            versions.append(before[: first - start] + data[first - offset : last - offset] + before[last - start :])
            touched[sector] = len(versions) - 1
        self._touched.append(touched)
        self._sizes.append(max(self._sizes[-1], end))

    def _truncate(self, size: int) -> None:
        for sector in range(size // SECTOR, -(-self._sizes[-1] // SECTOR)):
            versions = self._latest(sector)
            kept = max(0, size - sector * SECTOR)
            versions.append(versions[-1][:kept].ljust(SECTOR, b"\0"))
        self._sizes.append(size)

    def choose(self, choose: random.Random, stale: bytes, losses: Losses, *, keeps: float) -> bytearray:
        """Choose a version of each sector: the latest with the chance `keeps`, else any."""
        size_at = len(self._sizes) - 1 if choose.random() < 0.5 else choose.randrange(len(self._sizes))
        losses.sizes += self._sizes[size_at] != self._sizes[-1]
        left = bytearray(self._durable)
        highest = max([self._sizes[size_at], *((sector + 1) * SECTOR for sector in self._versions)])
        left.extend(bytes(max(0, highest - len(left))))
        chosen: dict[int, int] = {}
        for sector, versions in self._versions.items():
            at = len(versions) - 1 if choose.random() < keeps else choose.randrange(len(versions))
            chosen[sector] = at
            content = versions[at]
            if at == 0 and sector * SECTOR >= len(self._durable):
                content = _never_written(choose, stale)
            left[sector * SECTOR : (sector + 1) * SECTOR] = content
        self._count(chosen, losses)
        del left[self._sizes[size_at] :]
        return left

    def _count(self, chosen: dict[int, int], losses: Losses) -> None:
        missing = False
        for touched in self._touched:
            kept = sum(chosen[sector] >= version for sector, version in touched.items())
            losses.lost += kept == 0
            losses.torn += 0 < kept < len(touched)
            losses.reordered += missing and kept > 0
            missing = missing or kept < len(touched)


class Disk:
    """The disk as the operations come in: contents and names, durable and pending."""

    def __init__(self, recording: Recording, seed: str) -> None:
        self._operations = recording.operations
        self._seed = seed
        self._done = 0
        self._stale = b""
        self._contents = {name: _File(content) for name, content in recording.files.items()}
        """What each name means now."""
        self._names: dict[str, list[_File | None]] = {name: [file] for name, file in self._contents.items()}
        """What each name meant since the last sync of the folder, that meaning first."""

    def advance(self, to: int) -> None:
        """Let the operations before number `to` happen."""
        for at in range(self._done, to):
            self._take(at, self._operations[at])
        self._done = max(self._done, to)

    def _take(self, at: int, operation: Operation) -> None:
        name = operation.file
        match operation.kind:
            case "write" | "truncate":
                self._contents[name].pending.append((at, operation))
            case "sync":
                self._contents[name].sync(operation.number)
            case "failed sync":
                self._forget(self._contents[name], at)
            case "create":
                self._contents[name] = _File()
                self._names.setdefault(name, [None]).append(self._contents[name])
            case "delete":
                gone = self._contents.pop(name)
                self._stale = bytes(gone.durable[:STALE_MAX])
                self._names[name].append(None)
            case "sync folder":
                self._names = {name: [meant[-1]] for name, meant in self._names.items()}

    def _forget(self, file: _File, at: int) -> None:
        choose = random.Random(f"{self._seed}-failed-{at}")
        sectors = _Sectors(file.durable, [operation for _, operation in file.pending])
        file.durable = sectors.choose(choose, self._stale, Losses(), keeps=KEPT_BY_FAILED_SYNC)
        file.pending = []

    def cut(self, choose: random.Random, number: int) -> Image:
        """Return what is left when the power fails now."""
        losses = Losses()
        files: Files = {}
        for name, meanings in sorted(self._names.items()):
            at = len(meanings) - 1 if choose.random() < 0.5 else choose.randrange(len(meanings))
            losses.names += at != len(meanings) - 1
            meaning = meanings[at]
            if meaning is not None:
                files[name] = bytes(meaning.after_cut(choose, self._stale, losses))
        if choose.random() < NOISY_MEMORY_CHANCE:
            for name in [name for name in files if name.endswith("-wal")]:
                files[f"{name.removesuffix('-wal')}-shm"] = choose.randbytes(MEMORY_BYTES)
        return Image(number, self._done, files, losses)


def images(recording: Recording, seed: str, numbers: Iterable[int]) -> Iterator[Image]:
    """Rebuild the images of these numbers, in the order of their cuts."""
    chosen = []
    rare = [at for at in range(recording.begins_at, len(recording.operations)) if _is_rare(recording.operations[at])]
    for number in numbers:
        choose = random.Random(f"{seed}-{number}")
        chosen.append((_moment(recording, rare, choose), number, choose))
    disk = Disk(recording, seed)
    for cut, number, choose in sorted(chosen, key=lambda one: one[:2]):
        disk.advance(cut)
        yield disk.cut(choose, number)


def _is_rare(operation: Operation) -> bool:
    return operation.kind not in ("write", "begin", "end") and not (
        operation.kind == "sync" and operation.file.endswith("-wal")
    )


def _moment(recording: Recording, rare: list[int], choose: random.Random) -> int:
    """When the power fails: at any moment, or around one of the operations of which there are few."""
    if rare and choose.random() < NEAR_RARE_CHANCE:
        return min(choose.choice(rare) + choose.randrange(NEAR), len(recording.operations))
    return choose.randint(recording.begins_at, len(recording.operations))


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        content.extend(bytes(max(0, operation.number - len(content))))
        del content[operation.number :]
        return
    content.extend(bytes(max(0, operation.number - len(content))))
    content[operation.number : operation.number + len(operation.data)] = operation.data


def _never_written(choose: random.Random, stale: bytes) -> bytes:
    """What is read from a sector that belongs to the file and was never written."""
    fate = choose.random()
    if fate < 0.5 or (fate < 0.75 and len(stale) < SECTOR):
        return bytes(SECTOR)
    if fate < 0.75:
        start = choose.randrange(len(stale) // SECTOR) * SECTOR
        return stale[start : start + SECTOR]
    return choose.randbytes(SECTOR)
