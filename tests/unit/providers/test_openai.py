from __future__ import annotations

import json
import logging
import math
import struct
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
import stamina

from llmspell.clock import ManualClock, SystemClock
from llmspell.errors import (
    InvalidSetting,
    InvalidText,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from llmspell.providers.endpoint import Endpoint, RetryPolicy
from llmspell.providers.openai import BATCH_MAX_BYTES, OpenAIEmbedder, read_answer, split_batches
from llmspell.settings import Secret

from .conftest import PlannedEndpoint, embeddings, vectors_for

KEY = "sk-test-0123456789abcdefghij"
QUICK = RetryPolicy(deadline_s=10, first_wait_s=0.001)


def opened(endpoint: PlannedEndpoint, *, retry: RetryPolicy = QUICK, **arguments: Any) -> OpenAIEmbedder:
    named = {"dimensions": 384, "api_key": Secret(KEY), **arguments}
    return OpenAIEmbedder("text-embedding-3-small", base_url=endpoint.base_url, retry=retry, **named)


def expected(texts: list[str], dimension: int = 384) -> np.ndarray[Any, Any]:
    rows = vectors_for(texts, dimension).astype(float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def unpacked(vectors: list[bytes]) -> np.ndarray[Any, Any]:
    return np.array([np.frombuffer(vector, "<f4") for vector in vectors])


async def test_texts_become_normalised_vectors_in_their_order(endpoint: PlannedEndpoint) -> None:
    embedder = opened(endpoint)
    texts = ["one", "three", "eleven"]

    vectors = await embedder.embed(texts)
    await embedder.aclose()

    assert np.abs(unpacked(vectors) - expected(texts)).max() < 1e-6
    assert endpoint.requests[0] == {
        "model": "text-embedding-3-small",
        "encoding_format": "base64",
        "dimensions": 384,
        "input": texts,
    }
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_answers_are_put_in_order_by_their_index(endpoint: PlannedEndpoint) -> None:
    endpoint.replies.append(lambda body: (200, {}, embeddings(body, order=lambda data: data[::-1])))
    embedder = opened(endpoint)

    vectors = await embedder.embed(["a", "bb", "ccc"])
    await embedder.aclose()

    assert np.abs(unpacked(vectors) - expected(["a", "bb", "ccc"])).max() < 1e-6


async def test_lists_of_numbers_are_taken_where_base64_was_asked_for(endpoint: PlannedEndpoint) -> None:
    endpoint.replies.append(lambda body: (200, {}, embeddings({**body, "encoding_format": "float"})))
    embedder = opened(endpoint)

    vectors = await embedder.embed(["plain"])
    await embedder.aclose()

    assert np.abs(unpacked(vectors) - expected(["plain"])).max() < 1e-6


async def test_a_server_that_refuses_the_encoding_is_asked_for_lists(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(400, b'{"error": {"message": "unknown field encoding_format"}}')
    embedder = opened(endpoint)

    await embedder.embed(["first"])
    await embedder.embed(["second"])
    await embedder.aclose()

    assert ["encoding_format" in request for request in endpoint.requests] == [True, False, False]


async def test_many_texts_travel_in_batches_of_a_hundred(endpoint: PlannedEndpoint) -> None:
    embedder = opened(endpoint)
    texts = [f"{'x' * (i % 9)}" for i in range(250)]

    vectors = await embedder.embed(texts)
    await embedder.aclose()

    assert sorted(len(request["input"]) for request in endpoint.requests) == [50, 100, 100]
    assert len(vectors) == 250
    assert unpacked(vectors)[-1][0] == pytest.approx(expected([texts[-1]])[0][0], abs=1e-6)


def test_batches_are_bounded_in_bytes_and_lose_no_text() -> None:
    texts = ["é" * 200_000, "b" * 700_000, "c" * (BATCH_MAX_BYTES + 5), "d"]

    batches = list(split_batches(texts))

    assert [text for batch in batches for text in batch] == texts
    assert [len(batch) for batch in batches] == [1, 1, 1, 1]
    assert len(next(split_batches(["é" * 200_000, "b" * 600_000]))) == 2


async def test_a_server_error_is_retried_until_it_passes(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(500, b"oops")
    endpoint.plan(503, b"oops")
    embedder = opened(endpoint)

    assert len(await embedder.embed(["again"])) == 1
    await embedder.aclose()

    assert len(endpoint.requests) == 3


async def test_retries_are_bounded(endpoint: PlannedEndpoint) -> None:
    for _ in range(9):
        endpoint.plan(500, b'{"error": {"message": "overloaded\\nfor now"}}')
    embedder = opened(endpoint)

    with pytest.raises(ProviderUnavailable, match="HTTP 500: overloaded for now") as failed:
        await embedder.embed(["again"])
    await embedder.aclose()

    assert len(endpoint.requests) == 1 + QUICK.retries
    assert failed.value.retryable


async def test_retry_after_is_waited_for(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(429, b"{}", Retry_After="0.05")
    embedder = opened(endpoint)
    clock = SystemClock()
    started = clock.monotonic()

    await embedder.embed(["later"])
    await embedder.aclose()

    assert clock.monotonic() - started >= 0.05
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("seconds", ["11", "3600"])
async def test_a_retry_after_beyond_its_cap_ends_the_request_at_once(endpoint: PlannedEndpoint, seconds: str) -> None:
    endpoint.plan(429, b"{}", Retry_After=seconds)
    embedder = opened(endpoint, retry=RetryPolicy(deadline_s=7_200))

    with pytest.raises(ProviderUnavailable, match="429"):
        await embedder.embed(["later"])
    await embedder.aclose()

    assert len(endpoint.requests) == 1


async def test_a_retry_after_beyond_the_deadline_ends_the_request_at_once(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(503, b"{}", Retry_After="5")
    embedder = opened(endpoint, retry=RetryPolicy(deadline_s=4))

    with pytest.raises(ProviderUnavailable, match="503"):
        await embedder.embed(["later"])
    await embedder.aclose()

    assert len(endpoint.requests) == 1


def test_retry_after_may_be_a_date() -> None:
    clock = ManualClock()
    endpoint = Endpoint("http://127.0.0.1:1", clock=clock)

    assert endpoint._seconds(format_datetime(clock.now() + timedelta(seconds=7), usegmt=True)) == 7
    assert endpoint._seconds(format_datetime(clock.now() - timedelta(seconds=7), usegmt=True)) == 0
    assert [endpoint._seconds(unreadable) for unreadable in ("soon", "nan", None)] == [None, None, None]


async def test_a_server_that_stalls_is_left_at_the_deadline(endpoint: PlannedEndpoint) -> None:
    endpoint.plan_stall()
    embedder = opened(endpoint, retry=RetryPolicy(deadline_s=0.15))

    with pytest.raises(ProviderUnavailable, match=r"within 0\.15 s") as failed:
        await embedder.embed(["slow"])
    await embedder.aclose()

    assert failed.value.retryable


async def test_an_unreachable_server_is_unavailable() -> None:
    embedder = OpenAIEmbedder(base_url="http://127.0.0.1:9", retry=RetryPolicy(first_wait_s=0.001))

    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        await embedder.embed(["nobody"])
    await embedder.aclose()


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_final_and_never_shown(endpoint: PlannedEndpoint, status: int) -> None:
    endpoint.plan(status, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode())
    embedder = opened(endpoint)

    with pytest.raises(ProviderRefused) as refused:
        await embedder.embed(["x"])
    await embedder.aclose()

    assert len(endpoint.requests) == 1
    assert "Incorrect" not in str(refused.value)
    assert KEY not in str(refused.value) + repr(refused.value) + repr(embedder) + repr(embedder._endpoint)


async def test_a_key_that_the_provider_quotes_is_masked(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(422, json.dumps({"detail": "the key plain-key-1 may not do this"}).encode())
    embedder = opened(endpoint, api_key="plain-key-1")

    with pytest.raises(ProviderRefused, match="HTTP 422: the key •••• may not do this"):
        await embedder.embed(["x"])
    await embedder.aclose()


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b'{"data": 1}'), (200, b'{"data": []}'), (200, b"[]"), (302, b""), (200, b"[" * 100_000)],
)
async def test_a_malformed_answer_is_a_protocol_error_and_not_retried(
    endpoint: PlannedEndpoint, status: int, body: bytes
) -> None:
    endpoint.plan(status, body)
    embedder = opened(endpoint)

    with pytest.raises(ProviderProtocol):
        await embedder.embed(["x"])
    await embedder.aclose()

    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"embedding": None},
        {"embedding": [1.0] * 3},
        {"embedding": [0.0] * 4},
        {"embedding": [math.nan, 1, 1, 1]},
        {"embedding": [math.inf, 1, 1, 1]},
        {"embedding": ["a", 1, 1, 1]},
        {"embedding": [[1, 2], [3, 4]]},
        {"embedding": [10**400, 1, 1, 1]},
        {"embedding": "not base64!"},
        {"embedding": "AAAA"},
        {"index": 1, "embedding": [1.0] * 4},
        {"index": -1, "embedding": [1.0] * 4},
        {"index": True, "embedding": [1.0] * 4},
        7,
    ],
)
def test_an_item_that_is_no_vector_is_refused(item: object) -> None:
    with pytest.raises(ProviderProtocol):
        read_answer({"data": [item]}, count=1, dimension=4)


def test_an_index_that_comes_twice_is_refused() -> None:
    item = {"index": 0, "embedding": [1.0, 0, 0, 0]}

    with pytest.raises(ProviderProtocol, match="index"):
        read_answer({"data": [item, item]}, count=2, dimension=4)


def test_a_vector_is_normalised_and_packed_little_endian() -> None:
    (vector,) = read_answer({"data": [{"embedding": [3, 4, 0, 0]}]}, count=1, dimension=4)

    assert struct.unpack("<4f", vector) == pytest.approx((0.6, 0.8, 0, 0))


@pytest.mark.parametrize(
    ("model", "dimensions", "dimension"),
    [
        ("text-embedding-3-small", None, 1536),
        ("text-embedding-3-small", 768, 768),
        ("text-embedding-3-large", None, 3072),
        ("text-embedding-ada-002", None, 1536),
        ("bge-base", 768, 768),
    ],
)
def test_the_size_follows_from_the_model(model: str, dimensions: int | None, dimension: int) -> None:
    assert OpenAIEmbedder(model, dimensions=dimensions).dimension == dimension


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [
        ("text-embedding-ada-002", 768),
        ("text-embedding-3-small", 3072),
        ("text-embedding-3-small", 512),
        ("unknown", None),
    ],
)
def test_a_size_that_the_model_does_not_have_is_refused(model: str, dimensions: int | None) -> None:
    with pytest.raises(InvalidSetting):
        OpenAIEmbedder(model, dimensions=dimensions)


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "http://", "https://user:secret@host/v1"])
def test_a_base_url_that_cannot_be_used_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        OpenAIEmbedder(base_url=url)

    assert "secret" not in str(refused.value)


def test_a_key_with_a_line_break_is_refused() -> None:
    with pytest.raises(InvalidSetting) as refused:
        OpenAIEmbedder(api_key="abc\nX-Injected: 1")

    assert "abc" not in str(refused.value)


async def test_a_bad_text_is_refused_before_anything_is_sent(endpoint: PlannedEndpoint) -> None:
    embedder = opened(endpoint)

    with pytest.raises(InvalidText):
        await embedder.embed(["fine", "\ud800"])
    await embedder.aclose()

    assert endpoint.requests == []


async def test_an_empty_text_is_sent_as_a_space_and_no_texts_send_nothing(endpoint: PlannedEndpoint) -> None:
    embedder = opened(endpoint)

    assert await embedder.embed([]) == []
    await embedder.embed([""])
    await embedder.aclose()

    assert [request["input"] for request in endpoint.requests] == [[" "]]


async def test_the_first_failing_batch_fails_the_call(endpoint: PlannedEndpoint) -> None:
    endpoint.plan(400, b"{}")
    endpoint.plan(400, b"{}")
    endpoint.plan(400, b"{}")
    embedder = opened(endpoint)

    with pytest.raises(ProviderRefused):
        await embedder.embed(["x"] * 201)
    await embedder.aclose()


async def test_a_closed_embedder_says_so(endpoint: PlannedEndpoint) -> None:
    embedder = opened(endpoint)
    await embedder.aclose()
    await embedder.aclose()

    with pytest.raises(ProviderError, match="closed"):
        await embedder.embed(["late"])


async def test_a_retry_is_told_at_debug_by_our_logger_and_by_nobody_else(
    endpoint: PlannedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.plan(503, b"")
    embedder = opened(endpoint)

    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="llmspell"):
        await embedder.embed(["a"])
        await embedder.aclose()

    told = [record for record in caplog.records if record.name in ("stamina", "llmspell")]
    assert [(record.name, record.levelno) for record in told] == [("llmspell", logging.DEBUG)]
    assert f"asking {endpoint.base_url} again" in told[0].getMessage()


async def test_the_retries_of_others_are_told_as_before(
    endpoint: PlannedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.plan(503, b"")
    embedder = opened(endpoint)
    await embedder.embed(["a"])
    await embedder.aclose()
    caplog.clear()

    async for attempt in stamina.retry_context(on=KeyError, attempts=2, wait_initial=0, wait_jitter=0):
        with attempt:
            if attempt.num == 1:
                raise KeyError

    assert [record.getMessage() for record in caplog.records if record.name == "stamina"] == ["stamina.retry_scheduled"]
