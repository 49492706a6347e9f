"""A store opens also when the months of its events cannot be made just now."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from llmspell.errors import Conflict, LlmspellError, OutcomeUnknown, Unavailable
from llmspell.storage.postgres import partitions
from llmspell.storage.relational.catalog import Query, load

if TYPE_CHECKING:
    from llmspell.storage.relational.database import Unit


class Server:
    """Says how many months are missing, and fails to make them."""

    def __init__(self, missing: int, error: LlmspellError) -> None:
        self._missing = missing
        self._error = error
        self.asked: list[str] = []

    async def value(self, query: Query, /, **_: Any) -> Any:
        self.asked.append(query.name)
        return self._missing

    async def rows(self, query: Query, /, **_: Any) -> Any:
        self.asked.append(query.name)
        raise self._error


async def start(server: Server) -> None:
    await partitions.ensure_at_start(cast("Unit", server), load("llmspell.storage.postgres"))


@pytest.mark.parametrize("error", [Conflict("A lock is held by another transaction."), Unavailable("It is busy.")])
async def test_a_failure_is_logged(error: LlmspellError, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="llmspell"):
        await start(Server(1, error))

    assert str(error) in caplog.text


async def test_nothing_is_made_when_nothing_is_missing() -> None:
    server = Server(0, Conflict())

    await start(server)

    assert server.asked == ["missing_partitions"]


async def test_a_lost_connection_is_no_failure_to_go_on_from() -> None:
    with pytest.raises(OutcomeUnknown):
        await start(Server(1, OutcomeUnknown()))
