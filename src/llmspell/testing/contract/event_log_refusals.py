"""What `EventLog` refuses, with the same error everywhere, and the values at its limits that it keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from llmspell.errors import InvalidInput, InvalidKey, InvalidLimit, InvalidMetadata, InvalidTime
from llmspell.storage.contracts.backend import Backend
from llmspell.storage.contracts.event_log import PAYLOAD_MAX_BYTES, PRUNE_MAX, NewEvent
from llmspell.testing.contract import open_tenant, refused


class EventLogRefusalsContract:
    """Subclass it in a test module; see the package."""

    @pytest.mark.parametrize(
        "type",
        [
            "",
            "nodots",
            ".a",
            "a.",
            "a..b",
            "a b.c",
            "a.b*",
            "ä.b",
            "a.b\n",
            "a.\0",
            "a.\ud800",
            "a." + "x" * 254,
            1,
            None,
        ],
        ids=ascii,
    )
    async def test_a_type_that_is_no_dotted_name_is_refused(self, backend: Backend, type: Any) -> None:
        log = (await open_tenant(backend)).event_log

        async with refused(InvalidKey, "event_type"):
            await log.append(type)
        assert await log.count() == 0

    async def test_the_refusal_of_a_type_says_which_letters_it_may_have(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        with pytest.raises(InvalidKey, match="names of A-Z, a-z, 0-9, _ and -, with dots between them"):
            await log.append("größe.geändert")

    async def test_the_refusal_of_a_batch_counts_its_events(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log

        with pytest.raises(InvalidLimit) as caught:
            await log.append_many([NewEvent(type="a.b")] * 10_001)

        assert str(caught.value) == "`events` must be at most 10,000; got 10,001."

    async def test_the_longest_type_is_kept(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        longest = "a." + "x" * 253

        await log.append(longest)

        assert await log.count(type=longest) == 1
        assert await log.count(type=longest + "*") == 1

    @pytest.mark.parametrize("pattern", ["", "nodots", "a*b", "**", "*.a", "a b*", "a.\0*", "a.%*", 1], ids=ascii)
    async def test_a_pattern_that_is_none_is_refused(self, backend: Backend, pattern: Any) -> None:
        log = (await open_tenant(backend)).event_log

        async with refused(InvalidKey, "type"):
            await log.list(type=pattern)
        async with refused(InvalidKey, "type"):
            await log.tail(type=pattern)

    async def test_a_payload_at_its_limit_is_kept_and_one_byte_more_is_refused(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        empty = len('{"x":""}')

        event = await log.append("test.event", {"x": "é" * ((PAYLOAD_MAX_BYTES - empty) // 2)})
        async with refused(InvalidMetadata, "payload"):
            await log.append("test.event", {"x": "x" * (PAYLOAD_MAX_BYTES - empty + 1)})

        assert await log.get(event.id) == event
        assert await log.count() == 1

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ({"x": -0.0}, "payload.x"),
            ({"x": float("inf")}, "payload.x"),
            ({"x": 2**63}, "payload.x"),
            ({"x": "\0"}, "payload.x"),
            ({"x": ["\ud800"]}, "payload.x[0]"),
            ({"x": {1, 2}}, "payload.x"),
            ({1: "x"}, "payload key"),
            ([], "payload"),
            ("{}", "payload"),
        ],
        ids=lambda value: ascii(value)[:20],
    )
    async def test_a_payload_that_not_every_backend_keeps_is_refused(
        self, backend: Backend, payload: Any, field: str
    ) -> None:
        log = (await open_tenant(backend)).event_log

        async with refused(InvalidMetadata, field):
            await log.append("test.event", payload)
        assert await log.count() == 0

    async def test_other_arguments_are_checked(self, backend: Backend) -> None:
        log = (await open_tenant(backend)).event_log
        bad: list[tuple[type[InvalidInput], str, Callable[[], Awaitable[Any]]]] = [
            (InvalidInput, "language", lambda: log.append("a.b", language="cobol")),  # type: ignore[arg-type]
            (InvalidKey, "id", lambda: log.append("a.b", id="x")),
            (InvalidKey, "correlation_id", lambda: log.append("a.b", correlation_id="x")),
            (InvalidTime, "at", lambda: log.append("a.b", at=datetime(2026, 1, 1))),  # noqa: DTZ001
            (InvalidTime, "at", lambda: log.append("a.b", at="yesterday")),
            (InvalidKey, "id", lambda: log.get("x")),
            (InvalidTime, "at", lambda: log.get(uuid4(), at="2026-01-01T00:00:00")),
            (InvalidTime, "since", lambda: log.list(since="2026-13-01")),
            (InvalidTime, "until", lambda: log.count(since="2026-01-02", until="2026-01-01")),
            (InvalidTime, "until", lambda: log.stats(since="2026-01-01", until="2026-01-01")),
            (InvalidKey, "correlation_id", lambda: log.list(correlation_id="x")),
            (InvalidLimit, "limit", lambda: log.list(limit=0)),
            (InvalidLimit, "limit", lambda: log.list(limit=1_001)),
            (InvalidLimit, "limit", lambda: log.tail(limit=True)),
            (InvalidLimit, "after_sequence", lambda: log.tail(after_sequence=-1)),
            (InvalidLimit, "after_sequence", lambda: log.tail(after_sequence=2**63)),
            (InvalidTime, "before", lambda: log.prune("x")),
            (InvalidLimit, "limit", lambda: log.prune("2026-01-01", limit=PRUNE_MAX + 1)),
            (InvalidInput, "descending", lambda: log.list(descending="no")),  # type: ignore[arg-type]
            (InvalidInput, "events", lambda: log.append_many(NewEvent(type="a.b") for _ in range(2))),  # type: ignore[arg-type]
            (InvalidInput, "events", lambda: log.append_many(None)),  # type: ignore[arg-type]
            (InvalidInput, "events", lambda: log.append_many("a.b")),  # type: ignore[arg-type]
        ]
        for error, field, call in bad:
            async with refused(error, field):
                await call()
        assert await log.count() == 0
