"""At most once: the verbs of a tenant under an idempotency key.

    await acme.once("order-4711").kv.set("order", b"placed")      # sent again, it does nothing and gives the same answer

Each call is a transaction of its own: it claims the key, has its effect and records its result, together.

Rule 1: a result is recorded as data and given back as the type that the verb returns.
Rule 2: a call that failed records nothing: the key is free for the next try.
Rule 3: an outcome that is unknown is found out by asking again; the key makes that safe.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, get_type_hints

import msgspec

from llmspell.errors import InvalidInput
from llmspell.fingerprint import fingerprint
from llmspell.gate import READS
from llmspell.storage.contracts.idempotency import Idempotency, require_idempotency_key

if TYPE_CHECKING:
    from llmspell.spell import Transaction

LONG_BYTES = 1024 * 1024
T = TypeVar("T")


class Keyed(msgspec.Struct, frozen=True, kw_only=True):
    """One call under a key: what it is, and how its result is written down."""

    key: str
    operation: str
    fingerprint: bytes
    returns: Any
    ttl_s: float

    async def claim(self, keys: Idempotency) -> Answer | None:
        """Take the key for the transaction of `keys`, or return the recorded answer.

        Raises:
            IdempotencyConflict, Conflict: as `Idempotency.claim` says.
        """
        recorded = await keys.claim(self.key, operation=self.operation, fingerprint=self.fingerprint, ttl_s=self.ttl_s)
        return None if recorded is None else self._answer(recorded)

    async def find(self, keys: Idempotency) -> Answer | None:
        """Return the recorded answer, or None."""
        recorded = await keys.find(self.key, operation=self.operation, fingerprint=self.fingerprint)
        return None if recorded is None else self._answer(recorded)

    async def record(self, keys: Idempotency, result: Any) -> Any:
        """Write the result down, and return it as it will be given back: the first answer is that of every repetition.

        Raises:
            InvalidInput: it is too large, no data, or not what was said to be returned.
        """
        try:
            written = msgspec.msgpack.encode(result)
            read = msgspec.msgpack.decode(written, type=self.returns)
        except (TypeError, msgspec.MsgspecError) as exc:
            raise InvalidInput(
                "result",
                f"must be data that can be recorded under an idempotency key: {exc}",
                given=type(result).__name__,
                hint="Return records, numbers, texts, bytes, lists or dicts, as the function is annotated.",
            ) from exc
        await keys.record(self.key, written)
        return read

    def _answer(self, recorded: bytes) -> Answer:
        return Answer(msgspec.msgpack.decode(recorded, type=self.returns))


class Answer(msgspec.Struct, frozen=True):
    """A recorded result; there may be one that is None."""

    result: Any


def keyed_work(work: Callable[..., Any], key: str, *, ttl_s: float) -> Keyed:
    """Return the call of a function of the caller's under a key: it is told by the key alone."""
    return Keyed(
        key=require_idempotency_key(key),
        operation="run",
        fingerprint=bytes(32),
        returns=_returned(work),
        ttl_s=ttl_s,
    )


def awaited(work: Callable[[Transaction], Awaitable[T]]) -> Callable[[Transaction], Awaitable[T]]:
    """Return work that is refused when it turns out to give nothing that can be awaited: a plain function."""

    async def run(tx: Transaction) -> T:
        made = work(tx)
        if not inspect.isawaitable(made):
            raise InvalidInput("work", "must be an async function", given=made, hint="Write `async def`.")
        return await made

    return run


def _returned(work: Callable[..., Any]) -> Any:
    """Return the type that a function is annotated to return. Other annotations may be for type checkers only."""
    function = inspect.unwrap(getattr(work, "__func__", work))
    annotation = getattr(function, "__annotations__", {}).get("return", Any)
    alone = SimpleNamespace(__annotations__={"return": annotation})
    try:
        return get_type_hints(alone, globalns=getattr(function, "__globals__", {}))["return"]
    except NameError as exc:
        raise InvalidInput(
            "work",
            f"must be annotated with types that exist when it runs: {exc}",
            hint="Import them outside TYPE_CHECKING.",
        ) from exc


class RunKeyed(Protocol):
    """How a keyed call is run: by the tenant that it belongs to."""

    async def __call__(
        self, keyed: Keyed, work: Callable[[Transaction], Awaitable[T]], *, arguments: Mapping[str, Any]
    ) -> T:
        """Run `work` in a transaction that claims the key, or return the recorded result. `arguments` are those of the verb."""
        ...


class OnceVerbs:
    """The verbs of one concern under a key. A verb that only reads is refused: it has no effect that could be had twice."""

    def __init__(self, concern: str, kind: type, key: str, *, ttl_s: float, run: RunKeyed) -> None:
        self._concern = concern
        self._kind = kind
        self._key = key
        self._ttl_s = ttl_s
        self._run = run

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._kind, verb)
        if verb.startswith("_") or verb in READS or not inspect.iscoroutinefunction(method):
            raise AttributeError(f"`{self._concern}.{verb}` changes nothing, so it takes no idempotency key")

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            operation = f"{self._concern}.{verb}"
            told = functools.partial(fingerprint, operation, method, args, kwargs)
            keyed = Keyed(
                key=self._key,
                operation=operation,
                fingerprint=await asyncio.to_thread(told) if _takes_long(args, kwargs) else told(),
                returns=_returned(method),
                ttl_s=self._ttl_s,
            )

            async def work(tx: Transaction) -> Any:
                return await getattr(getattr(tx, self._concern), verb)(*args, **kwargs)

            bound = inspect.signature(method).bind(None, *args, **kwargs)
            bound.apply_defaults()
            return await self._run(keyed, work, arguments=bound.arguments)

        return call


def _takes_long(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether telling a call takes so long that it must not hold up the event loop: it has a file, or much content."""
    return any(
        hasattr(value, "read") or (isinstance(value, (bytes, bytearray, memoryview)) and len(value) > LONG_BYTES)
        for value in (*args, *kwargs.values())
    )


def verbs_of(concerns: type, key: str, *, ttl_s: float, run: RunKeyed) -> dict[str, Any]:
    """Return, for every concern that a class of handles names, its verbs under a key."""
    kinds = cast("dict[str, type]", get_type_hints(concerns))
    return {name: OnceVerbs(name, kind, key, ttl_s=ttl_s, run=run) for name, kind in kinds.items()}
