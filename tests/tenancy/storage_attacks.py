"""The storages below the handles, called with things that may be another tenant's: no check of a handle is in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from tests.tenancy.belongings import EVENT_AT, FAR, FINGERPRINT, VALID_FROM, Belongings

from llmspell.codec import pack_vector
from llmspell.storage.contracts.access_keys import KeyHash, NewAccessKey, Successor
from llmspell.storage.contracts.api_keys import NewApiKey, ResealedApiKey
from llmspell.storage.contracts.graph import FactCorrection, NewFact
from llmspell.storage.contracts.memories import EmbeddingSpace, MemoryChange, MemoryPosition, MemoryQuery, NewMemory
from llmspell.storage.contracts.vectors import VectorEntry

SPACE = EmbeddingSpace(space_id="hashing-384@384", model="hashing-384", dimension=384)
"""The space that everybody has who uses the same embedder."""
WIDER = (768, 1536, 3072)
SEALED = b"sealed" * 10
OTHER_ID = UUID(int=0x0190_0000_0001 << 80 | 0x7 << 76 | 0b10 << 62 | 1)


def where(x: Belongings) -> dict[str, Any]:
    return {f"metadata.{x.metadata_key}": x.metadata_value}


def memories(t: Any) -> Any:
    return t._storages.memories


def vectors(t: Any) -> Any:
    return t._storages.vectors


def graph(t: Any) -> Any:
    return t._storages.graph


def api_keys(t: Any) -> Any:
    return t._storages.api_keys


def access_keys(t: Any) -> Any:
    return t._storages.access_keys


def idempotency(t: Any) -> Any:
    return t._storages.idempotency


async def embedded(t: Any, x: Belongings, **given: Any) -> Any:
    """Add a memory with a ready vector to the space that everybody has."""
    await memories(t).ensure_space(SPACE)
    new = NewMemory(content="mine", at=EVENT_AT, embeddings=(pack_vector(x.memory_embedding, dimension=384),), **given)
    return await memories(t).add([new], space_id=SPACE.space_id)


async def ranked(t: Any, x: Belongings, **given: Any) -> Any:
    await memories(t).ensure_space(SPACE)
    vector = pack_vector(x.memory_embedding, dimension=384)
    return await memories(t).search(MemoryQuery(text=x.word, embedding=vector, space_id=SPACE.space_id, **given))


async def attached(t: Any, x: Belongings) -> Any:
    await memories(t).ensure_space(SPACE)
    vector = pack_vector(x.memory_embedding, dimension=384)
    return await memories(t).attach_embeddings(
        SPACE.space_id, [(x.memory_id, version, (vector,)) for version in (1, 2)]
    )


async def claimed(t: Any, x: Belongings) -> Any:
    """Take somebody's key, and record a result under it."""
    keys = idempotency(t)
    before = await keys.claim(x.idempotency_key, operation="mine", fingerprint=FINGERPRINT)
    return (
        before,
        await keys.record(x.idempotency_key, b"mine"),
        await keys.find(x.idempotency_key, operation="mine", fingerprint=FINGERPRINT),
    )


def wide(call: Callable[[Any, Belongings, int], Awaitable[Any]]) -> Callable[[Any, Belongings], Awaitable[Any]]:
    """A call that is made for the vectors of each other dimension too."""

    async def calls(t: Any, x: Belongings) -> Any:
        return [await call(t, x, dimension) for dimension in WIDER]

    return calls


async def search_again(t: Any, x: Belongings) -> Any:
    """Search what is kept in memory before and after one of it was deleted."""
    first = await vectors(t).search(x.embedding)
    (made,) = await vectors(t).insert([VectorEntry(embedding=x.embedding)])
    second = await vectors(t).search(x.embedding)
    return first, second, await vectors(t).delete([made]), await vectors(t).search(x.embedding)


def wide_id(x: Belongings, dimension: int) -> UUID:
    return UUID(int=x.vector_id.int + dimension)


def wide_vector(x: Belongings, dimension: int) -> list[float]:
    return x.embedding * (dimension // 384)


def hashed() -> KeyHash:
    return KeyHash(key_hash=bytes(32), pepper="store")


STORAGE_ATTACKS: dict[str, list[Callable[[Any, Belongings], Awaitable[Any]]]] = {
    "tenant.usage": [lambda t, x: t.usage()],
    "tenant.check_quota": [lambda t, x: t.check_quota("vectors", 1)],
    "tenant.record_usage": [lambda t, x: t.record_usage("embeddings", 1)],
    "storages.memories.ensure_space": [
        lambda t, x: memories(t).ensure_space(SPACE),
        lambda t, x: memories(t).ensure_space(EmbeddingSpace(space_id=SPACE.space_id, model=x.word, dimension=768)),
    ],
    "storages.memories.add": [
        lambda t, x: memories(t).add([NewMemory(id=x.memory_id, content="mine", at=EVENT_AT)]),
        lambda t, x: memories(t).add(
            [
                NewMemory(
                    id=x.memory_id, content="mine", at=EVENT_AT, embeddings=(pack_vector(x.embedding, dimension=384),)
                )
            ],
            space_id=SPACE.space_id,
        ),
        lambda t, x: embedded(t, x, id=x.deleted_memory_id),
        lambda t, x: embedded(t, x, id=OTHER_ID),
    ],
    "storages.memories.get": [lambda t, x: memories(t).get(x.memory_id)],
    "storages.memories.get_batch": [lambda t, x: memories(t).get_batch([x.memory_id, x.deleted_memory_id])],
    "storages.memories.update": [
        lambda t, x: memories(t).update(x.memory_id, MemoryChange(content="mine")),
        lambda t, x: memories(t).update(x.memory_id, MemoryChange(session="mine"), expected_version=2),
    ],
    "storages.memories.delete": [lambda t, x: memories(t).delete(x.memory_id, expected_version=2)],
    "storages.memories.restore": [lambda t, x: memories(t).restore(x.deleted_memory_id)],
    "storages.memories.forget": [lambda t, x: memories(t).forget(x.memory_id)],
    "storages.memories.history": [lambda t, x: memories(t).history(x.deleted_memory_id)],
    "storages.memories.list": [
        lambda t, x: memories(t).list(filters=where(x)),
        lambda t, x: memories(t).list(after=MemoryPosition(EVENT_AT, x.memory_id), descending=False),
        lambda t, x: memories(t).list(order="created_at"),
        lambda t, x: memories(t).list(order="created_at", descending=False),
    ],
    "storages.memories.list_paginated": [lambda t, x: memories(t).list_paginated(filters=where(x), limit=1)],
    "storages.memories.count": [lambda t, x: memories(t).count(filters={"session": x.memory_session})],
    "storages.memories.search": [
        lambda t, x: ranked(t, x),
        lambda t, x: ranked(t, x, filters=where(x)),
        lambda t, x: memories(t).search(MemoryQuery(text=f"{x.word} said the and")),
        lambda t, x: memories(t).search(
            MemoryQuery(embedding=pack_vector(x.memory_embedding, dimension=384), space_id=SPACE.space_id)
        ),
    ],
    "storages.memories.adjacent": [
        lambda t, x: memories(t).adjacent([x.memory_id]),
        lambda t, x: memories(t).adjacent([x.memory_id], filters={"session": x.memory_session}),
    ],
    "storages.memories.pending": [
        lambda t, x: memories(t).pending(),
        lambda t, x: memories(t).pending(space_id="another@384"),
    ],
    "storages.memories.taken": [lambda t, x: memories(t).taken([x.memory_id, x.deleted_memory_id])],
    "storages.memories.attach_embeddings": [attached],
    "storages.memories.mark_embedding_failed": [
        lambda t, x: memories(t).mark_embedding_failed([x.memory_id]),
        lambda t, x: memories(t).mark_embedding_failed([x.memory_id], space_id="another@384"),
    ],
    "storages.memories.touch": [lambda t, x: memories(t).touch([x.memory_id])],
    "storages.memories.mark_processed": [lambda t, x: memories(t).mark_processed([x.memory_id])],
    "storages.memories.unprocessed_sessions": [lambda t, x: memories(t).unprocessed_sessions()],
    "storages.memories.delete_before": [lambda t, x: memories(t).delete_before(FAR)],
    "storages.memories.delete_expired": [lambda t, x: memories(t).delete_expired()],
    "storages.vectors.insert": [
        lambda t, x: vectors(t).insert([VectorEntry(id=x.vector_id, embedding=x.embedding, scope=x.scope)]),
        lambda t, x: vectors(t).insert([VectorEntry(id=x.vector_id, embedding=[1.0] * 768)]),
        wide(lambda t, x, n: vectors(t).insert([VectorEntry(id=wide_id(x, n), embedding=wide_vector(x, n))])),
        lambda t, x: vectors(t).insert([VectorEntry(id=OTHER_ID, embedding=x.embedding)]),
    ],
    "storages.vectors.get": [
        lambda t, x: vectors(t).get(x.vector_id),
        wide(lambda t, x, n: vectors(t).get(wide_id(x, n))),
    ],
    "storages.vectors.search": [
        lambda t, x: vectors(t).search(x.embedding),
        lambda t, x: vectors(t).search(x.embedding, scope=x.scope, filters=where(x)),
        wide(lambda t, x, n: vectors(t).search(wide_vector(x, n))),
        wide(lambda t, x, n: vectors(t).search(wide_vector(x, n), filters=where(x))),
        wide(lambda t, x, n: vectors(t).search(wide_vector(x, n), scope=x.scope)),
    ],
    "storages.vectors.update_metadata": [
        lambda t, x: vectors(t).update_metadata(x.vector_id, {}),
        wide(lambda t, x, n: vectors(t).update_metadata(wide_id(x, n), {})),
    ],
    "storages.vectors.delete": [
        search_again,
        lambda t, x: vectors(t).delete([x.vector_id]),
        wide(lambda t, x, n: vectors(t).delete([wide_id(x, n)])),
    ],
    "storages.vectors.delete_scope": [lambda t, x: vectors(t).delete_scope(x.scope)],
    "storages.vectors.index_status": [lambda t, x: vectors(t).index_status()],
    "storages.vectors.sample": [
        lambda t, x: vectors(t).sample("free-384"),
        wide(lambda t, x, n: vectors(t).sample(f"free-{n}", limit=3)),
    ],
    "storages.vectors.build_index": [lambda t, x: vectors(t).build_index(dimension=384)],
    "storages.vectors.stats": [lambda t, x: vectors(t).stats(scope=x.scope)],
    "storages.graph.assert_fact": [
        lambda t, x: graph(t).assert_fact(NewFact(subject=x.entity, predicate=x.predicate, object=x.other_entity)),
        lambda t, x: graph(t).assert_fact(
            NewFact(subject=x.entity, predicate=x.predicate, object="mine", valid_from=VALID_FROM), cardinality="one"
        ),
    ],
    "storages.graph.correct": [lambda t, x: graph(t).correct(x.fact_id, FactCorrection(object="mine"))],
    "storages.graph.declare": [lambda t, x: graph(t).declare(x.single_predicate, "many")],
    "storages.graph.delete_before": [lambda t, x: graph(t).delete_before(FAR)],
    "storages.graph.delete_entity": [lambda t, x: graph(t).delete_entity(x.entity_id)],
    "storages.graph.entity_history": [lambda t, x: graph(t).entity_history(x.entity)],
    "storages.graph.facts": [lambda t, x: graph(t).facts(subject=x.entity, any_time=True)],
    "storages.graph.get_entity": [lambda t, x: graph(t).get_entity(x.entity)],
    "storages.graph.history": [lambda t, x: graph(t).history(x.fact_id)],
    "storages.graph.list_entities": [lambda t, x: graph(t).list_entities(after=x.entity[:3])],
    "storages.graph.mentioned": [lambda t, x: graph(t).mentioned([x.entity])],
    "storages.graph.neighbours": [lambda t, x: graph(t).neighbours(x.entity)],
    "storages.graph.paths": [lambda t, x: graph(t).paths(x.entity, x.other_entity)],
    "storages.graph.predicates": [lambda t, x: graph(t).predicates()],
    "storages.graph.retract": [lambda t, x: graph(t).retract(x.entity, x.predicate, x.other_entity)],
    "storages.graph.stats": [lambda t, x: graph(t).stats()],
    "storages.graph.traverse": [lambda t, x: graph(t).traverse(x.entity)],
    "storages.graph.upsert_entity": [lambda t, x: graph(t).upsert_entity(x.entity, properties={"mine": 1})],
    "storages.api_keys.set": [
        lambda t, x: api_keys(t).set(NewApiKey(key_id=x.api_key_id, service="mine", sealed=SEALED)),
        lambda t, x: api_keys(t).set(NewApiKey(key_id=OTHER_ID, service=x.service, sealed=SEALED)),
    ],
    "storages.api_keys.rotate": [
        lambda t, x: api_keys(t).rotate(NewApiKey(key_id=x.api_key_id, service=x.service, sealed=SEALED)),
        lambda t, x: api_keys(t).rotate(NewApiKey(key_id=OTHER_ID, service=x.service, sealed=SEALED)),
    ],
    "storages.api_keys.get": [lambda t, x: api_keys(t).get(x.service)],
    "storages.api_keys.find_sealed": [lambda t, x: api_keys(t).find_sealed(x.service)],
    "storages.api_keys.list": [lambda t, x: api_keys(t).list(service=x.service)],
    "storages.api_keys.list_sealed": [
        lambda t, x: api_keys(t).list_sealed(),
        lambda t, x: api_keys(t).list_sealed(after=x.api_key_id),
    ],
    "storages.api_keys.note_use": [lambda t, x: api_keys(t).note_use(x.api_key_id)],
    "storages.api_keys.deactivate": [lambda t, x: api_keys(t).deactivate(x.service)],
    "storages.api_keys.delete": [lambda t, x: api_keys(t).delete(x.service)],
    "storages.api_keys.expire": [lambda t, x: api_keys(t).expire()],
    "storages.api_keys.prune": [lambda t, x: api_keys(t).prune(before=FAR)],
    "storages.api_keys.reseal": [
        lambda t, x: api_keys(t).reseal([ResealedApiKey(key_id=x.api_key_id, expected=x.sealed, sealed=SEALED)])
    ],
    "storages.api_keys.stats": [lambda t, x: api_keys(t).stats()],
    "storages.access_keys.pepper": [lambda t, x: access_keys(t).pepper()],
    "storages.access_keys.add": [
        lambda t, x: access_keys(t).add(
            NewAccessKey(key_id=x.access_key_id, name="mine", principal=x.principal, scopes=["read"], hashed=hashed())
        )
    ],
    "storages.access_keys.find": [lambda t, x: access_keys(t).find(x.access_key_id)],
    "storages.access_keys.get": [lambda t, x: access_keys(t).get(x.access_key_id)],
    "storages.access_keys.list": [lambda t, x: access_keys(t).list(status="revoked")],
    "storages.access_keys.note_use": [lambda t, x: access_keys(t).note_use(x.access_key_id)],
    "storages.access_keys.rehash": [
        lambda t, x: access_keys(t).rehash(x.access_key_id, hashed(), expected_pepper=x.pepper),
    ],
    "storages.access_keys.revoke": [lambda t, x: access_keys(t).revoke(x.access_key_id)],
    "storages.access_keys.rotate": [
        lambda t, x: access_keys(t).rotate(x.access_key_id, Successor(key_id=OTHER_ID, hashed=hashed()))
    ],
    "storages.access_keys.expire": [lambda t, x: access_keys(t).expire()],
    "storages.access_keys.prune": [lambda t, x: access_keys(t).prune(before=FAR)],
    "storages.idempotency.find": [
        lambda t, x: idempotency(t).find(x.idempotency_key, operation="mine", fingerprint=FINGERPRINT)
    ],
    "storages.idempotency.claim": [claimed],
    "storages.idempotency.record": [lambda t, x: idempotency(t).record(x.idempotency_key, b"mine")],
    "storages.idempotency.expire": [lambda t, x: idempotency(t).expire()],
}
