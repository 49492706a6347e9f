"""A process that opens damaged stores and asks them everything, each in a fork of its own: a crash or a hang ends the fork alone.

    python damaged_reader.py MASTER_KEY        then one path on stdin for each store

For each store it prints one line of JSON: how the fork ended, and for each question its answer, the code of our error, or what was
raised instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

import llmspell
from llmspell.settings import Secret, SecuritySettings, Settings, SqliteSettings, StorageSettings
from llmspell.spell import Tenant
from llmspell.storage.sqlite import backend  # noqa: F401 - imported before the first fork

TENANT = "acme"
SERVICE = "openai"
LIMIT_S = 30
BUSY_S = 2.0


def settings(master: str) -> Settings:
    return Settings(
        security=SecuritySettings(master_keys=Secret(master)),
        storage=StorageSettings(sqlite=SqliteSettings(busy_timeout_secs=BUSY_S)),
    )


async def keys(tenant: Tenant) -> Any:
    found = await tenant.kv.get_batch(await tenant.kv.list_keys())
    return {key: value.hex() for key, value in sorted(found.items())}


async def memories(tenant: Tenant) -> Any:
    return [[str(one.id), one.content, one.metadata, str(one.at)] async for one in tenant.memory.iterate()]


async def found(tenant: Tenant) -> Any:
    return [[str(hit.id), hit.text] for hit in await tenant.memory.search("What is memory 7 about?", limit=5)]


async def facts(tenant: Tenant) -> Any:
    return sorted(
        ([fact.predicate, fact.object, fact.properties] for fact in await tenant.graph.facts(subject="Ada")), key=repr
    )


async def agent_states(tenant: Tenant) -> Any:
    names = [f"agent-{number}" for number in range(6)]
    states = [await tenant.agent_state.get(name) for name in names]
    return [None if state is None else state.data for state in states]


async def workflow_states(tenant: Tenant) -> Any:
    state = await tenant.workflow_state.get("workflow")
    return None if state is None else [state.data, state.status]


async def events(tenant: Tenant) -> Any:
    return [[one.sequence, one.type, one.payload] for one in (await tenant.event_log.list(limit=100)).items]


async def sessions(tenant: Tenant) -> Any:
    return [[str(one.id), one.data] for one in (await tenant.sessions.list()).items]


async def artifacts(tenant: Tenant) -> Any:
    return sorted(([one.name, one.content_hash] for one in (await tenant.artifacts.list()).items), key=repr)


async def contents(tenant: Tenant) -> Any:
    """What the artifacts hold, by the hash that their ids ask for: served wrong it would differ."""
    served = {}
    for one in (await tenant.artifacts.list()).items:
        content = await tenant.artifacts.read(one.id)
        served[one.id.rpartition(":")[2]] = None if content is None else blake3(content).hexdigest()
    return served


async def audit(tenant: Tenant) -> Any:
    # Without their numbers: a list takes those from an index, and the chain is that of the rows.
    entries = [[one.resource, one.details] for one in (await tenant.audit.list(limit=100)).items]
    return [(await tenant.audit.verify()).intact, entries]


async def provider_key(tenant: Tenant) -> Any:
    secret = await tenant.api_keys.reveal(SERVICE)
    return None if secret is None else secret.reveal()


QUESTIONS: dict[str, Callable[[Tenant], Awaitable[Any]]] = {
    question.__name__: question
    for question in (
        keys, memories, found, facts, agent_states, workflow_states, events, sessions, artifacts, contents, audit, provider_key
    )
}  # fmt: skip


async def answers(path: str, master: str) -> dict[str, Any]:
    """Ask a store every question, and return for each ["answer", …], ["error", code] or ["raised", what]."""
    heard: dict[str, Any] = {}
    try:
        async with llmspell.connect(f"sqlite:///{path}", settings=settings(master), embedder="hashing") as spell:
            for name, question in QUESTIONS.items():
                heard[name] = await one_answer(question(spell.tenant(TENANT)))
    except llmspell.LlmspellError as error:
        return {name: ["error", error.code] for name in QUESTIONS} | heard
    except Exception as error:  # noqa: BLE001 - to be reported: it must not be
        return {name: ["raised", repr(error)] for name in QUESTIONS} | heard
    return heard


async def one_answer(question: Awaitable[Any]) -> list[Any]:
    try:
        return ["answer", await question]
    except llmspell.LlmspellError as error:
        return ["error", error.code]
    except Exception as error:  # noqa: BLE001 - to be reported: it must not be
        return ["raised", repr(error)]


def main(master: str) -> None:
    for line in sys.stdin:
        path = line.strip()
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            try:
                Path(f"{path}.json").write_text(json.dumps(asyncio.run(answers(path, master))))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
