"""Bad input gets one clear error of our tree on every backend, names its field, and leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import llmspell
from llmspell import Settings, Spell, Tenant, connect_blocking
from llmspell.errors import (
    InvalidFilter,
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    InvalidTenant,
    InvalidText,
    InvalidTime,
    InvalidUrl,
    InvalidVector,
    LlmspellError,
    NotADatabase,
    SchemaTooNew,
    Unavailable,
)

GOOD = [1.0] * 384
NAN, INFINITE = [math.nan, *GOOD[1:]], [math.inf, *GOOD[1:]]
HUGE = 10**12
LATER, EARLIER = "2026-05-02", "2026-05-01"
NAIVE = datetime(2026, 5, 1)  # noqa: DTZ001 - that it has no offset is the point
SURROGATE = "a\ud800b"


class Case(NamedTuple):
    """A call that must be refused, and how."""

    call: Callable[[Tenant], Awaitable[object]]
    error: type[InvalidInput]
    field: str


def adding(**given: Any) -> Callable[[Tenant], Awaitable[object]]:
    return lambda acme: acme.memory.add(**({"text": "Ada moved."} | given))


def searching(**given: Any) -> Callable[[Tenant], Awaitable[object]]:
    return lambda acme: acme.memory.search(**({"query": "Ada"} | given))


def asserting(*parts: str, **given: Any) -> Callable[[Tenant], Awaitable[object]]:
    return lambda acme: acme.graph.assert_fact(*(parts or ("Ada", "lives_in", "Zurich")), **given)


def inserting(**given: Any) -> Callable[[Tenant], Awaitable[object]]:
    """The second of two entries is the bad one: the first must not be kept either."""
    return lambda acme: acme.vectors.insert([{"embedding": GOOD}, {"embedding": GOOD} | given])


def nearest(**given: Any) -> Callable[[Tenant], Awaitable[object]]:
    return lambda acme: acme.vectors.search(**({"embedding": GOOD} | given))


def filtering(filters: Mapping[str, Any]) -> Callable[[Tenant], Awaitable[object]]:
    return lambda acme: acme.memory.list(filters=filters)


CASES: dict[str, Case] = {
    "a vector with NaN": Case(inserting(embedding=NAN), InvalidVector, "entries[1].embedding[0]"),
    "an infinite vector": Case(inserting(embedding=INFINITE), InvalidVector, "entries[1].embedding[0]"),
    "a vector beyond float32": Case(inserting(embedding=[1e300, *GOOD[1:]]), InvalidVector, "entries[1].embedding[0]"),
    "a zero vector": Case(inserting(embedding=[0.0] * 384), InvalidVector, "entries[1].embedding"),
    "a vector of a wrong size": Case(inserting(embedding=[1.0] * 383), InvalidVector, "entries[1].embedding"),
    "a vector of texts": Case(inserting(embedding=["x"] * 384), InvalidVector, "entries[1].embedding"),
    "a scope with NUL": Case(inserting(scope="a\0b"), InvalidKey, "entries[1].scope"),
    "metadata of a vector with NaN": Case(
        inserting(metadata={"a": math.nan}), InvalidMetadata, "entries[1].metadata.a"
    ),
    "a search with NaN": Case(nearest(embedding=NAN), InvalidVector, "embedding[0]"),
    "a search for nothing": Case(nearest(embedding=[0.0] * 384), InvalidVector, "embedding"),
    "a vector limit of 0": Case(nearest(limit=0), InvalidLimit, "limit"),
    "a huge vector limit": Case(nearest(k=HUGE), InvalidLimit, "k"),
    "a score above 1": Case(nearest(min_score=1.5), InvalidLimit, "min_score"),
    "an unknown filter of vectors": Case(nearest(filters={"session": "s"}), InvalidFilter, "filters"),
    "text with NUL": Case(adding(text="a\0b"), InvalidText, "text"),
    "text with a lone surrogate": Case(adding(text=SURROGATE), InvalidText, "text"),
    "no text": Case(adding(text=""), InvalidText, "text"),
    "blank text": Case(adding(text=" \n"), InvalidText, "text"),
    "text that is too long": Case(adding(text="x" * 32_769), InvalidText, "text"),
    "text that is bytes": Case(adding(text=b"x"), InvalidText, "text"),
    "a session with NUL": Case(adding(session="a\0b"), InvalidKey, "session"),
    "a session with a lone surrogate": Case(adding(session=SURROGATE), InvalidKey, "session"),
    "an empty session": Case(adding(session=""), InvalidKey, "session"),
    "an unknown kind": Case(adding(kind="rumour"), InvalidInput, "kind"),
    "a naive instant": Case(adding(at=NAIVE), InvalidTime, "at"),
    "an instant that is no instant": Case(adding(at="yesterday"), InvalidTime, "at"),
    "metadata with NUL": Case(adding(metadata={"a": "\0"}), InvalidMetadata, "metadata.a"),
    "metadata with infinity": Case(adding(metadata={"a": [math.inf]}), InvalidMetadata, "metadata.a[0]"),
    "metadata beyond 64 bits": Case(adding(metadata={"a": 2**63}), InvalidMetadata, "metadata.a"),
    "metadata that is no JSON": Case(adding(metadata={"a": object()}), InvalidMetadata, "metadata.a"),
    "an id that is no id": Case(adding(id="7"), InvalidKey, "id"),
    "a lifetime of 0": Case(adding(ttl_s=0), InvalidLimit, "ttl_s"),
    "a memory's vector of a wrong size": Case(adding(embedding=[1.0] * 768), InvalidVector, "embedding"),
    "a memory's vector with NaN": Case(adding(embedding=NAN), InvalidVector, "embedding[0]"),
    "a bad item among good ones": Case(
        lambda acme: acme.memory.add_many([{"text": "good"}, {"text": "a\0b"}]), InvalidText, "items[1].text"
    ),
    "an item with an unknown field": Case(
        lambda acme: acme.memory.add_many([{"text": "good"}, {"text": "x", "tex": 1}]), InvalidInput, "items[1]"
    ),
    "an empty question": Case(searching(query=""), InvalidText, "query"),
    "a question with NUL": Case(searching(query="a\0b"), InvalidText, "query"),
    "a limit of 0": Case(searching(limit=0), InvalidLimit, "limit"),
    "a negative limit": Case(searching(limit=-1), InvalidLimit, "limit"),
    "a huge limit": Case(searching(limit=HUGE), InvalidLimit, "limit"),
    "a limit that is a truth": Case(searching(top_k=True), InvalidLimit, "top_k"),
    "a list limit of 0": Case(lambda acme: acme.memory.list(limit=0), InvalidLimit, "limit"),
    "a huge list limit": Case(lambda acme: acme.memory.list(limit=HUGE), InvalidLimit, "limit"),
    "a negative offset": Case(lambda acme: acme.memory.list_paginated(offset=-1), InvalidLimit, "offset"),
    "an unknown operator": Case(filtering({"metadata.a": {"$like": "x"}}), InvalidFilter, "filters.metadata.a"),
    "an unknown field": Case(filtering({"topic": "x"}), InvalidFilter, "filters"),
    "an empty alternative": Case(filtering({"$or": []}), InvalidFilter, "filters.$or"),
    "a naive instant in a filter": Case(filtering({"at": {"$gt": NAIVE}}), InvalidFilter, "filters.at.$gt"),
    "a filter of NaN": Case(filtering({"metadata.a": math.nan}), InvalidFilter, "filters.metadata.a"),
    "a filter that searches": Case(
        searching(filters={"metadata.a": {"$near": 1}}), InvalidFilter, "filters.metadata.a"
    ),
    "a reversed period": Case(asserting(valid_from=LATER, valid_to=EARLIER), InvalidTime, "valid_to"),
    "an empty period": Case(asserting(valid_from=LATER, valid_to=LATER), InvalidTime, "valid_to"),
    "a naive period": Case(asserting(valid_from=NAIVE), InvalidTime, "valid_from"),
    "an empty subject": Case(asserting("", "lives_in", "Zurich"), InvalidKey, "subject"),
    "a predicate with NUL": Case(asserting("Ada", "lives\0in", "Zurich"), InvalidKey, "predicate"),
    "an object that is too long": Case(asserting("Ada", "lives_in", "x" * 501), InvalidKey, "object"),
    "a confidence above 1": Case(asserting(confidence=1.1), InvalidLimit, "confidence"),
    "an unknown cardinality": Case(asserting(cardinality="two"), InvalidInput, "cardinality"),
    "properties with NaN": Case(asserting(properties={"a": math.nan}), InvalidMetadata, "properties.a"),
    "a naive as_of": Case(lambda acme: acme.graph.neighbours("Ada", as_of=NAIVE), InvalidTime, "as_of"),
    "a naive known_at": Case(lambda acme: acme.graph.neighbours("Ada", known_at=NAIVE), InvalidTime, "known_at"),
    "a huge graph limit": Case(lambda acme: acme.graph.neighbours("Ada", limit=HUGE), InvalidLimit, "limit"),
    "a depth of 7": Case(lambda acme: acme.graph.traverse("Ada", max_depth=7), InvalidLimit, "max_depth"),
    "facts of nothing": Case(lambda acme: acme.graph.facts(), InvalidInput, "subject"),
    "an empty key": Case(lambda acme: acme.kv.set("", b"v"), InvalidKey, "key"),
    "a key with NUL": Case(lambda acme: acme.kv.set("a\0b", b"v"), InvalidKey, "key"),
    "a key with a lone surrogate": Case(lambda acme: acme.kv.set(SURROGATE, b"v"), InvalidKey, "key"),
    "a key that is too long": Case(lambda acme: acme.kv.set("x" * 1_025, b"v"), InvalidKey, "key"),
    "a key that is read and impossible": Case(lambda acme: acme.kv.get("a\0b"), InvalidKey, "key"),
    "a value that is text": Case(lambda acme: acme.kv.set("k", "v"), InvalidInput, "value"),  # type: ignore[arg-type]
    "a lifetime without end": Case(lambda acme: acme.kv.set("k", b"v", ttl_s=math.inf), InvalidLimit, "ttl_s"),
    "a key limit of 0": Case(lambda acme: acme.kv.list_keys(limit=0), InvalidLimit, "limit"),
    "a budget of 0": Case(lambda acme: acme.context("Ada", max_tokens=0), InvalidLimit, "max_tokens"),
    "a huge budget": Case(lambda acme: acme.context("Ada", max_tokens=HUGE), InvalidLimit, "max_tokens"),
    "a context of nothing": Case(lambda acme: acme.context(""), InvalidText, "query"),
    "a context as of a naive instant": Case(lambda acme: acme.context("Ada", as_of=NAIVE), InvalidTime, "as_of"),
}


async def kept(acme: Tenant) -> tuple[int, int, int, int, int]:
    """How much of everything a tenant has."""
    graph, vectors = await acme.graph.stats(), await acme.vectors.stats()
    keys, memories = await acme.kv.list_keys(), await acme.memory.count()
    return len(keys), memories, graph.entity_versions, graph.fact_versions, vectors.total_vectors


@pytest.mark.parametrize("name", CASES)
async def test_bad_input_is_refused_by_name_and_leaves_nothing(spell: Spell, name: str) -> None:
    call, error, field = CASES[name]
    acme = spell.tenant("acme")

    with pytest.raises(InvalidInput) as caught:
        await call(acme)

    assert (type(caught.value), caught.value.field) == (error, field)
    assert await kept(acme) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", ["a zero vector", "text with NUL", "a reversed period", "a value that is text"])
async def test_bad_input_in_a_transaction_takes_the_good_along(spell: Spell, name: str) -> None:
    acme = spell.tenant("acme")

    async def mixed() -> None:
        async with acme.transaction() as tx:
            await tx.kv.set("good", b"v")
            await CASES[name].call(tx)  # type: ignore[arg-type]  # it has the concerns of a tenant

    with pytest.raises(CASES[name].error):
        await mixed()

    assert await kept(acme) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("id", ["", "x" * 129, "a\0b", SURROGATE])
async def test_a_bad_tenant_id_is_refused_wherever_one_is_given(spell: Spell, id: str) -> None:
    with pytest.raises(InvalidTenant):
        spell.tenant(id)
    with pytest.raises(InvalidTenant):
        await spell.tenants.create(id)
    with pytest.raises(InvalidTenant):
        await spell.tenants.get(id)


async def test_an_error_never_shows_a_long_value_whole(spell: Spell) -> None:
    with pytest.raises(InvalidText) as caught:
        await spell.tenant("acme").memory.add("secret " * 10_000)

    assert len(str(caught.value)) < 300


async def refused(url: str) -> LlmspellError:
    with pytest.raises(LlmspellError) as caught:
        async with llmspell.connect(url, settings=Settings(), embedder="hashing") as spell:
            await spell.tenant("acme").kv.set("k", b"v")
    return caught.value


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite:///", "sqlite:///:memory:", "nonsense"])
async def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    assert type(await refused(url)) is InvalidUrl


@pytest.mark.parametrize("url", ["sqlite://agent.db", "sqlite:agent.db", "SQLITE://agent.db"])
async def test_a_url_of_a_file_with_too_few_slashes_is_answered_with_the_right_one(url: str) -> None:
    error = await refused(url)

    assert type(error) is InvalidUrl
    assert "Three slashes for a file beside you: sqlite:///agent.db" in error.hint


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    file = folder / "letter.txt"
    file.write_text("Dear Ada, " * 1_000)
    before = file.read_bytes()

    error = await refused(f"sqlite:///{file}")

    assert type(error) is NotADatabase
    assert str(file) in str(error)
    assert file.read_bytes() == before


async def test_a_file_that_is_newer_than_the_code_is_refused(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "newer.db"
    url = f"sqlite:///{file}"
    async with llmspell.connect(url, settings=Settings(), embedder="hashing") as spell:
        newest = (await spell.admin.migration_status()).applied[-1]
    with sqlite3.connect(file) as connection:
        connection.execute(
            "UPDATE schema_migrations SET version = 999, name = 'V999__later' WHERE version = ?", (int(newest[1:4]),)
        )

    assert type(await refused(url)) is SchemaTooNew


async def test_a_folder_that_is_missing_is_said_to_be() -> None:
    assert type(await refused("sqlite:////no/such/folder/store.db")) is Unavailable


async def test_a_server_that_cannot_be_reached_is_said_to_be(tmp_path: Path) -> None:
    assert type(await refused(f"postgresql://llmspell_app@/db?host={tmp_path}")) is Unavailable


def test_the_synchronous_twin_refuses_alike() -> None:
    with connect_blocking("memory://", settings=Settings(), embedder="hashing") as spell:
        with pytest.raises(InvalidVector) as caught:
            spell.tenant().vectors.insert([{"embedding": GOOD}, {"embedding": NAN}])

        assert caught.value.field == "entries[1].embedding[0]"
        assert spell.tenant().vectors.stats().total_vectors == 0


def test_the_cases_cover_every_class_of_bad_input() -> None:
    assert {case.error for case in CASES.values()} >= {
        InvalidVector,
        InvalidText,
        InvalidKey,
        InvalidTime,
        InvalidMetadata,
        InvalidFilter,
        InvalidLimit,
    }
