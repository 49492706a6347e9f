"""What the real store does while it is recorded: each workload says before a write what it will change, and after it that it was
acknowledged.

Names follow those that `test_sigkill` knows, so that its queries see what is half there. Every workload is seeded; what the event
loop interleaves is not, which is why a recording is kept with the images that fail.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import apsw
from blake3 import blake3
from tests.crash.recording_files import FILE, Change, Fault, Operation, Recording, Value, recorded
from tests.migrations.schemas import migrate_sqlite

import llmspell
from llmspell.settings import Settings, SqliteSettings, StorageSettings
from llmspell.spell import Spell, Tenant
from llmspell.storage.sqlite.pragmas import Synchronous, claim

TENANT = "acme"
NAMESPACE = UUID(int=7)
CALLERS = 12
CHECKPOINT_OFTEN = 12
OLD_VERSION = 17
"""The last migration of the old store: kv rows exist, memories do not."""

# What is in a file, for the kinds of `Change`: the names and values of a table, once it has its columns of today.
OBSERVED = {
    "kv": ("kv_store", "SELECT key, CAST(value AS TEXT) FROM kv_store"),
    "state": ("agent_states", "SELECT agent_id, state_data ->> 'step' FROM agent_states"),
    "event": ("event_log", "SELECT payload ->> 'n', '' FROM event_log"),
    "memory": ("memories", "SELECT lower(hex(memory_id)), content FROM memories"),
    "fact": ("entities", "SELECT name, '' FROM entities"),
    "vector": ("embedding_spaces", "SELECT lower(hex(owner_id)), '' FROM vector_embeddings_768"),
    "session": ("sessions", "SELECT lower(hex(session_id)), '' FROM sessions"),
    "artifact": ("artifacts", "SELECT name, content_hash FROM artifacts"),
    "audit": ("audit_log", "SELECT resource, '' FROM audit_log WHERE resource NOT LIKE 'tenant:%'"),
}


class Story:
    """Writes of a tenant, with what each changes noted around it."""

    def __init__(self, recording: Recording, tenant: Tenant) -> None:
        self._recording = recording
        self.tenant = tenant
        self.errors: list[llmspell.LlmspellError] = []
        self.tolerant = False
        """Go on after a write that failed, and keep its error; otherwise it ends the workload."""

    async def write(self, changes: Sequence[Change], call: Callable[[], Awaitable[Any]]) -> None:
        number = len(self._recording.writes)
        self._recording.writes.append(list(changes))
        self._recording.note(Operation("begin", number=number))
        try:
            await call()
        except llmspell.LlmspellError as error:
            if not self.tolerant:
                raise
            self.errors.append(error)
            if error.outcome == "failed":
                self._recording.note(Operation("refused", number=number))
            return
        self._recording.note(Operation("end", number=number))

    async def kv(self, name: str, value: Value) -> None:
        kv = self.tenant.kv
        await self.write(
            [("kv", name, value)], lambda: kv.delete(name) if value is None else kv.set(name, value.encode())
        )

    async def state(self, name: str, step: int) -> None:
        await self.write(
            [("state", name, str(step))],
            lambda: self.tenant.agent_state.save(name, {"step": str(step), "pad": "x" * 300}),
        )

    async def event(self, number: str) -> None:
        await self.write([("event", number, "")], lambda: self.tenant.event_log.append("power.cut", {"n": number}))

    async def audit(self, name: str) -> None:
        await self.write(
            [("audit", name, "")], lambda: self.tenant.audit.record("power.cut", principal="test", resource=name)
        )

    async def memory(self, name: str, text: str, *, new: bool = True) -> None:
        id = uuid5(NAMESPACE, name)
        memory = self.tenant.memory
        await self.write(
            [("memory", id.hex, text)], lambda: memory.add(text, id=id) if new else memory.update(id, text=text)
        )

    async def together(self, name: str) -> None:
        """Memory, key and fact in one transaction, and a vector of the caller's own."""
        id, vector_id = uuid5(NAMESPACE, name), uuid5(NAMESPACE, f"{name}-vector")
        text = f"In writing {name} everything is one."

        async def call() -> None:
            async with self.tenant.transaction() as tx:
                await tx.kv.set(f"tx-{name}", b"v" * 200)
                await tx.memory.add(text, id=id, embedding=[1.0] * 384, session="tx")
                await tx.graph.assert_fact("Ada", "wrote", f"tx-{name}")
                await tx.vectors.insert({"embedding": [1.0] * 768, "id": vector_id})
                await tx.audit.record("power.cut", principal="test", resource=f"tx-{name}")

        await self.write(
            [
                ("kv", f"tx-{name}", "v" * 200),
                ("memory", id.hex, text),
                ("fact", f"tx-{name}", ""),
                ("vector", vector_id.hex, ""),
                ("audit", f"tx-{name}", ""),
            ],
            call,
        )


async def small_writes(story: Story, _spell: Spell, choose: random.Random) -> None:
    """Many tasks that each write a little: groups share a commit."""

    async def caller(number: int, mine: random.Random) -> None:
        for turn in range(9):
            match mine.randrange(4):
                case 0:
                    await story.kv(f"{number}-{mine.randrange(3)}", f"{turn}-" + "v" * mine.randrange(900))
                case 1:
                    await story.kv(f"{number}-{mine.randrange(3)}", None)
                case 2:
                    await story.state(f"agent-{number}", turn)
                case _:
                    await story.event(f"{number}-{turn}")

    await together(caller(number, random.Random(choose.random())) for number in range(CALLERS))


async def transactions(story: Story, _spell: Spell, choose: random.Random) -> None:
    """Memories, facts and vectors, alone and in transactions that also fail."""
    for turn in range(14):
        await story.together(str(turn))
        await story.memory(f"m{turn}", f"Memory {turn} " + "with some words " * choose.randrange(30))
        if turn % 3 == 0:
            await story.memory(f"m{turn}", f"Memory {turn}, replaced by other words.", new=False)
        if turn % 4 == 0:  # rolled back: it changes nothing
            await story.write([], lambda: rolled_back(story.tenant))
        await story.event(str(turn))


async def rolled_back(tenant: Tenant) -> None:
    try:
        async with tenant.transaction() as tx:
            await tx.kv.set("never", b"v" * 5_000)
            raise _ChangedMind
    except _ChangedMind:
        pass


class _ChangedMind(Exception):
    pass


async def artifacts(story: Story, _spell: Spell, choose: random.Random) -> None:
    """Contents of one value and of chunks, shared by references; sessions that take theirs with them."""
    shared = choose.randbytes(1_300_000)
    sessions: list[tuple[UUID, list[str]]] = []
    for turn in range(7):
        id = uuid5(NAMESPACE, f"session-{turn}")
        await story.write([("session", id.hex, "")], lambda id=id: story.tenant.sessions.create(id=id))  # type: ignore[misc]
        mine = []
        for part, content in enumerate((shared, choose.randbytes(30_000), b"again and again " * 3_000)):
            name = f"{turn}-{part}"
            mine.append(name)
            change = ("artifact", name, blake3(content).hexdigest())
            await story.write(
                [change],
                lambda id=id, name=name, content=content: story.tenant.artifacts.put(id, name, content),  # type: ignore[misc]
            )
        sessions.append((id, mine))
        if len(sessions) > 2:
            gone, names = sessions.pop(choose.randrange(len(sessions)))
            changes: list[Change] = [("session", gone.hex, None), *(("artifact", name, None) for name in names)]
            await story.write(changes, lambda gone=gone: story.tenant.sessions.delete(gone))  # type: ignore[misc]


async def checkpoints(story: Story, spell: Spell, choose: random.Random) -> None:
    """One write after another, mixed, while the log is written back again and again; readers look on."""
    for turn in range(36):
        match turn % 6:
            case 0:
                await story.together(str(turn))
            case 1:
                await story.memory(f"m{turn}", f"Memory {turn}.")
            case 2:
                await story.state("agent", turn)
            case 3:
                await story.audit(str(turn))
            case 4:
                await story.kv(str(choose.randrange(4)), f"{turn}-" + "v" * choose.randrange(9_000))
            case _:
                await story.event(str(turn))
        await story.tenant.memory.search("everything", limit=3)
        assert spell.admin.pool_status().size > 1


async def few_writes(story: Story, _spell: Spell, _choose: random.Random) -> None:
    """Enough to meet every kind of write, few enough to be run once for each operation that can fail."""
    for turn in range(3):
        await story.kv(f"key-{turn}", f"{turn}-" + "v" * 3_000)
        await story.together(str(turn))
        await story.state("agent", turn)
        await story.memory("before", f"Memory, said {turn} times.", new=False)
    await together(story.kv(f"group-{number}", "v" * 100) for number in range(6))


Workload = Callable[[Story, Spell, random.Random], Awaitable[None]]
WORKLOADS: dict[str, Workload] = {
    "small writes": small_writes,
    "transactions": transactions,
    "artifacts": artifacts,
    "checkpoints": checkpoints,
    "few writes": few_writes,
}
CHECKPOINTED_OFTEN = ("checkpoints", "few writes")
MIGRATIONS = ("new store", "old store")


async def together(calls: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(call)


def settings(synchronous: Synchronous) -> Settings:
    return Settings(storage=StorageSettings(sqlite=SqliteSettings(synchronous=synchronous)))


async def set_the_scene(story: Story) -> None:
    """Rows that every query of `torn` needs."""
    await story.write(
        [("fact", "Ada", ""), ("fact", "nothing", "")],
        lambda: story.tenant.graph.assert_fact("Ada", "wrote", "nothing"),
    )
    await story.memory("before", "Before all writing there was this.")
    await story.event("before")


async def record(
    name: str,
    folder: Path,
    seed: str,
    *,
    synchronous: Synchronous = "FULL",
    fault: Fault | None = None,
) -> tuple[Recording, list[llmspell.LlmspellError]]:
    """Run a workload on the real store in `folder`, with its own connections and settings, and return what its disk saw.

    With a fault the errors of its writes are returned beside it, and the workload goes on.
    """
    often = CHECKPOINT_OFTEN if name in CHECKPOINTED_OFTEN else None
    with recorded(name, folder, fault=fault, pages_between_checkpoints=often) as layer:
        recording = layer.recording
        url = f"sqlite:///{folder / FILE}"
        async with llmspell.connect(url, settings=settings(synchronous), embedder="hashing") as spell:
            story = Story(recording, spell.tenant(TENANT))
            await set_the_scene(story)
            recording.begins_at = len(recording.operations)
            if fault is not None:
                layer.fail_below()
                story.tolerant = fault.armed = True
            await WORKLOADS[name](story, spell, random.Random(f"{name} {seed}"))
    return recording, story.errors


async def record_migration(name: str, folder: Path) -> Recording:
    """Open a new store, or one of an old release, and record how its schema comes up to date."""
    old: list[list[Change]] = []
    if name == "old store":
        with closing(apsw.Connection(str(folder / FILE))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            claim(connection)
            migrate_sqlite(connection, last=OLD_VERSION)
            for number in range(60):
                connection.execute(
                    "INSERT INTO kv_store (tenant_id, key, value, created_at, updated_at) VALUES (?, ?, ?, 0, 0)",
                    (TENANT, str(number), b"v" * number * 20),
                )
                old.append([("kv", str(number), "v" * number * 20)])
    with recorded(name, folder) as layer:
        recording = layer.recording
        recording.migrates = True
        for number, changes in enumerate(old):
            recording.writes.append(changes)
            recording.note(Operation("begin", number=number))
            recording.note(Operation("end", number=number))
        recording.begins_at = len(recording.operations)
        async with llmspell.connect(
            f"sqlite:///{folder / FILE}", settings=settings("FULL"), embedder="hashing"
        ) as spell:
            story = Story(recording, spell.tenant(TENANT))
            for number in range(5):
                await story.kv(f"first-{number}", "v" * 50)
    return recording
