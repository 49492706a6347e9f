"""`llmspell add`: keep one memory, or a file of them.

Not here: what a file may look like (`cli.conversations`).

Rule 1: a file is checked to its end before the first item is kept: one wrong line, and nothing is imported.
Rule 2: importing a file again adds nothing; what is there already with another text is left as it is, and said.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from llmspell.cli.output import async_command, command, counted, current_output
from llmspell.cli.session import current_settings, open_tenant
from llmspell.cli.values import JsonObject
from llmspell.errors import QuotaExceeded
from llmspell.storage.contracts.memories import MemoryKind, MemoryRecord

if TYPE_CHECKING:
    from llmspell.cli.conversations import Malformed, Reader
    from llmspell.cli.output import Output
    from llmspell.memory.memory_input import MemoryInput
    from llmspell.spell import Tenant

PROBLEMS_SHOWN = 10
BATCH = 256
SPOOL_BYTES = 16 * 1024 * 1024
"""What comes through a pipe is read twice; beyond this size it waits in a temporary file."""


@command()
@click.argument("text", required=False)
@click.option("--from", "source", metavar="FILE|-", help="Import JSON or JSON Lines; - reads standard input.")
@click.option("--session", help="The conversation it belongs to.")
@click.option("--role", help="Who said it.")
@click.option("--at", help="When it was said: ISO 8601, with an offset or as a bare date; default: now.")
@click.option("--kind", type=click.Choice(get_args(MemoryKind)), default="conversation", help="What sort of memory.")
@click.option("--metadata", type=JsonObject(), metavar="JSON", help="An object to filter by.")
@click.option("--id", "id_", metavar="UUID", help="Its id, so that a repeated call is an error and not a copy.")
@click.option("--dry-run", is_flag=True, help="Check everything and count, keep nothing.")
@async_command
async def add(text: str | None, source: str | None, *, dry_run: bool, **fields: Any) -> None:
    """Keep a memory, or a file of them.

    A file has objects with text and, as they are known, session, role (or speaker), at, id, kind and metadata: as a JSON
    list, under "turns" or "memories" of an object, or one per line. An id that is no UUID is kept under metadata.id.
    """
    if (text is None) == (source is None):
        raise click.UsageError("give a text, or --from FILE")
    if source is None:
        if dry_run:
            raise click.UsageError("--dry-run belongs to --from")
        await _add_one(str(text), fields)
        return
    given = [name for name, value in fields.items() if value not in (None, "conversation")]
    if given:
        raise click.UsageError(f"--{given[0].rstrip('_')} does not go with --from: the file says it")
    await _add_file(source, dry_run=dry_run)


async def _add_one(text: str, fields: dict[str, Any]) -> None:
    output, id_ = current_output(), fields.pop("id_")
    async with open_tenant(creates=True) as tenant:
        record = await tenant.memory.add(text, id=id_, **fields)
    output.emit(record, render=lambda console: console.print(f"Kept as {record.id}"), lines=lambda: [str(record.id)])
    if record.embedding_state == "pending":
        output.warn("its embedding is pending: it is found by its words only.", hint="Run: llmspell embed --pending")


async def _add_file(source: str, *, dry_run: bool) -> None:
    from llmspell.cli.conversations import Reader
    from llmspell.clock import SystemClock

    output = current_output()
    current_settings()  # a wrong configuration is said before a long file is read
    with _opened(source) as stream:
        reader = Reader(stream, clock=SystemClock())
        total = _check(reader)
        document: dict[str, Any] = {"file": source, "items": total, "dry_run": dry_run}
        if dry_run:
            output.emit(document, lines=lambda: [f"{counted(total, 'item')} well-formed; nothing was kept"])
            return
        async with open_tenant(creates=True) as tenant:
            document |= await _import(tenant, reader, total, output)
    output.emit(document, lines=lambda: [_summary(document)])
    if different := document["different"]:
        were = (
            "was there already with another text; it is as it was"
            if different == 1
            else ("were there already with another text; they are as they were")
        )
        output.warn(f"{different:,} {were}.")
    if pending := document["pending"]:
        are = "is pending: its memory is" if pending == 1 else "are pending: their memories are"
        output.warn(f"{counted(pending, 'embedding')} {are} found by words only.", hint="Run: llmspell embed --pending")


def _summary(document: dict[str, Any]) -> str:
    skipped = document["skipped"]
    there = f", {skipped:,} {'was' if skipped == 1 else 'were'} there already" if skipped else ""
    return f"{document['added']:,} of {counted(document['items'], 'item')} kept{there}"


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    """Open a file that can be read twice."""
    if source != "-":
        path = Path(source)
        if not path.is_file():
            raise click.BadParameter(f"there is no file {source!r}", param_hint="--from")
        with path.open("rb") as stream:
            if stream.seekable():
                yield stream
                return
            with _spooled(stream) as copy:
                yield copy
        return
    with _spooled(sys.stdin.buffer) as copy:
        yield copy


@contextmanager
def _spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as copy:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            copy.write(chunk)
        copy.seek(0)
        yield copy


def _check(reader: Reader) -> int:
    """Read everything once, and count.

    Raises:
        Several: something is wrong; the first ten problems are named, in the order of the file.
        click.ClickException: there is nothing in it.
    """
    from llmspell.cli.conversations import Malformed
    from llmspell.cli.problems import Several

    total, wrong = 0, 0
    problems: list[Malformed] = []
    for item in reader.read():
        total += 1
        if isinstance(item, Malformed):
            wrong += 1
            problems += [item] if len(problems) < PROBLEMS_SHOWN else []
    if problems:
        first = f"; the first {PROBLEMS_SHOWN}:" if wrong > PROBLEMS_SHOWN else ":"
        are = "is" if wrong == 1 else "are"
        raise Several(f"{wrong:,} of {counted(total, 'item')} {are} wrong, nothing was imported{first}", problems)
    if total == 0:
        raise click.ClickException("the file has no items: nothing was imported")
    return total


async def _import(tenant: Tenant, reader: Reader, total: int, output: Output) -> dict[str, int]:
    """Keep every item, batch by batch. Whatever ends it early, how much is kept by then is said."""
    added = skipped = different = pending = 0
    again = "Run the same command again: it goes on where this one stopped, and keeps nothing twice."
    items = reader.read()
    try:
        with output.progress(total, "Importing") as progress:
            while batch := _batch(items):
                records = await tenant.memory.add_many(batch, skip_existing=True)
                kept = {record.id for record in records}
                there = [item for item in batch if item.id not in kept]
                added += len(records)
                skipped += len(there)
                pending += _pending(records)
                different += await _different(tenant, there)
                progress.advance(len(batch))
    except QuotaExceeded:
        again = (
            f"Up to {BATCH} items are kept or refused together. Have the quota raised, then run the same command again."
        )
        raise
    finally:
        if added + skipped < total:  # an error, or Ctrl-C, which arrives here as a cancellation
            output.warn(
                f"the import stopped early: {added + skipped:,} of {counted(total, 'item')} are in the store.",
                hint=again,
            )
    return {"added": added, "skipped": skipped, "different": different, "pending": pending}


def _batch(items: Iterator[MemoryInput | Malformed]) -> list[MemoryInput]:
    """Take the next items; a file that has changed since it was checked ends the import.

    Raises:
        click.ClickException: an item is wrong now.
    """
    from llmspell.cli.conversations import Malformed

    batch: list[MemoryInput] = []
    for item in islice(items, BATCH):
        if isinstance(item, Malformed):
            raise click.ClickException(f"{item.sentence} The file has changed while it was read; import it again")
        batch.append(item)
    return batch


def _pending(records: Sequence[MemoryRecord]) -> int:
    return sum(record.embedding_state == "pending" for record in records)


async def _different(tenant: Tenant, there: Sequence[MemoryInput]) -> int:
    """Count items that are there with another text."""
    count = 0
    for item in there:
        record = None if item.id is None else await tenant.memory.get(item.id)
        count += record is not None and record.content != item.text
    return count
