"""Work that is run again without `await`: what its call ends with is decided as with it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmspell import Settings, connect_blocking
from llmspell.blocking import BlockingTenant, BlockingTransaction
from llmspell.errors import OutcomeUnknown, Unavailable


@pytest.fixture
def acme() -> Iterator[BlockingTenant]:
    with connect_blocking("memory://", settings=Settings(), embedder="hashing") as spell:
        yield spell.tenant("acme")


def test_a_lost_answer_that_cannot_be_found_out_stays_unknown(
    acme: BlockingTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = acme._inner._backend.transaction
    begun = []

    @contextlib.asynccontextmanager
    async def lossy(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        begun.append(args)
        if len(begun) > 1:
            raise Unavailable
        async with real(*args, **kwargs) as storages:
            yield storages
        raise OutcomeUnknown

    with monkeypatch.context() as broken:
        broken.setattr(acme._inner._backend, "transaction", lossy)
        with pytest.raises(OutcomeUnknown) as caught:
            acme.run(lambda tx: tx.kv.set("a", b"1"), idempotency_key="k")

    assert isinstance(caught.value.__cause__, Unavailable)
    assert acme.kv.get("a") == b"1"


def test_a_call_whose_repetition_fails_by_itself_had_no_effect(
    acme: BlockingTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    real = acme._inner._backend.transaction

    @contextlib.asynccontextmanager
    async def lossy(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        begun.append(args)
        if len(begun) == 1:
            raise OutcomeUnknown
        async with real(*args, **kwargs) as storages:
            yield storages

    def work(tx: BlockingTransaction) -> None:
        raise Unavailable

    monkeypatch.setattr(acme._inner._backend, "transaction", lossy)
    with pytest.raises(Unavailable):
        acme.run(work, idempotency_key="k")

    assert len(begun) == 2
