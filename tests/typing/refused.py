"""What a strict type checker must refuse. An `ignore` that hides nothing is an error, so each of these lines must be wrong."""

from __future__ import annotations

import llmspell
from llmspell import Tenant
from llmspell.blocking import BlockingTenant


async def mistakes(acme: Tenant) -> None:
    await acme.memory.add("Ada moved.", kind="rumour")  # type: ignore[arg-type]
    await acme.memory.add()  # type: ignore[call-arg]
    await acme.memory.add("Ada moved.", "s1")  # type: ignore[call-arg]
    await acme.memory.list(order="title")  # type: ignore[arg-type]
    await acme.memory.search("Ada", limit="5")  # type: ignore[arg-type]
    await acme.graph.assert_fact("Ada", "lives_in")  # type: ignore[call-arg]
    await acme.graph.assert_fact("Ada", "lives_in", "Zurich", cardinality="two")  # type: ignore[arg-type]
    await acme.graph.neighbours("Ada", direction="up")  # type: ignore[arg-type]
    await acme.kv.set("k", "text")  # type: ignore[arg-type]
    acme.kv.get("k")  # type: ignore[unused-coroutine]
    len(await acme.kv.get("k"))  # type: ignore[arg-type]
    await acme.sessions.begin()  # type: ignore[attr-defined]
    with acme.transaction():  # type: ignore[attr-defined]
        pass


def mistakes_of_the_twin(acme: BlockingTenant) -> None:
    acme.memory.add("Ada moved.", kind="rumour")  # type: ignore[arg-type]
    acme.memory.add()  # type: ignore[call-arg]
    acme.graph.neighbours("Ada", direction="up")  # type: ignore[arg-type]
    acme.kv.set("k", "text")  # type: ignore[arg-type]
    len(acme.kv.get("k"))  # type: ignore[arg-type]
    acme.tenant("other")  # type: ignore[attr-defined]
    llmspell.connect_blocking(url="memory://", tenant="acme")  # type: ignore[call-arg]
