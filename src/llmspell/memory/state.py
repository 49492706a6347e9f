"""Scoped state: JSON values under keys, apart for each user, session, agent, tool, workflow, hook or scope of one's own.

    await acme.state.set(StateScope.Agent("planner"), "mood", {"calm": True}, ttl_s=60)

A value is kept in `kv`, under `state:<kind>:<id>:<key>`. In the id, `%` and `:` are written `%25` and `%3A`; so the third colon
always ends it, two scopes never share a key, whatever they are called, and the keys of a scope are those of one prefix.

Not here: whole states of agents (`agent_state`) and workflows (`workflow_state`), bytes (`kv`).

Rule 1: a value is durable when the call returns. Nothing is buffered, and nothing is cached: another process may have written.
Rule 2: what is made of an older value (`update`, `initialize_scope`) is made in a transaction, and again when another was first.
Rule 3: a sealed value opens for its tenant, its scope and its key alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, get_args

import msgspec

from llmspell.codec import KEY_MAX_BYTES, decode_json, require_key, require_limit, require_size, require_text
from llmspell.errors import ConfigError, CorruptStore, InvalidInput, InvalidKey
from llmspell.storage.contracts.checks import encode_data
from llmspell.storage.contracts.kv import BATCH_MAX, KV
from llmspell.tenant import TenantId

ScopeKind: TypeAlias = Literal["global", "user", "session", "agent", "tool", "workflow", "hook", "custom"]
T = TypeVar("T")

PREFIX = "state"
LIST_MAX = 10_000
ITEMS_MAX = 1_000
_PLAIN, _SEALED = b"\x01", b"\x02"
"""The first byte of a stored value: canonical JSON follows, or sealed canonical JSON."""


class Sealer(Protocol):
    """Encrypts what a store is not to see (STA-06)."""

    def seal(self, plaintext: bytes, *, bound_to: Sequence[str]) -> bytes:
        """Encrypt, so that it opens with the same `bound_to` only."""
        ...

    def open(self, sealed: bytes, *, bound_to: Sequence[str]) -> bytes:
        """Decrypt what `seal` gave, or raise."""
        ...


class StateScope(msgspec.Struct, frozen=True):
    """Whose state it is. Make one by its kind: `StateScope.User("ada")`, `StateScope.Custom("tenant:acme")` (STA-01, TEN-05)."""

    kind: ScopeKind
    id: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScopeKind):
            raise InvalidInput("scope", f"must be one of {', '.join(get_args(ScopeKind))}", given=self.kind)
        if self.kind == "global":
            if self.id != "":
                raise InvalidKey("scope.id", "must be empty for the global scope", given=self.id)
        else:
            require_key(self.id, field="scope.id")

    @classmethod
    def Global(cls) -> StateScope:
        """The scope of the whole tenant."""
        return cls("global")

    @classmethod
    def User(cls, id: str) -> StateScope:
        """The scope of a user."""
        return cls("user", id)

    @classmethod
    def Session(cls, id: str) -> StateScope:
        """The scope of a session."""
        return cls("session", id)

    @classmethod
    def Agent(cls, id: str) -> StateScope:
        """The scope of an agent."""
        return cls("agent", id)

    @classmethod
    def Tool(cls, id: str) -> StateScope:
        """The scope of a tool."""
        return cls("tool", id)

    @classmethod
    def Workflow(cls, id: str) -> StateScope:
        """The scope of a workflow."""
        return cls("workflow", id)

    @classmethod
    def Hook(cls, id: str) -> StateScope:
        """The scope of a hook."""
        return cls("hook", id)

    @classmethod
    def Custom(cls, id: str) -> StateScope:
        """A scope of one's own; its id may hold colons."""
        return cls("custom", id)


def encode_key(scope: StateScope, key: str) -> str:
    """Return the key in `kv` of a key in a scope.

    Raises:
        InvalidKey: the key is no text of at least 1 byte, or both together are longer than 1,024 bytes.
    """
    encoded = prefix_of(scope) + require_key(key)
    size = len(encoded.encode())
    if size > KEY_MAX_BYTES:
        raise InvalidKey("key", f"must be, with its scope, at most {KEY_MAX_BYTES:,} bytes", given=size)
    return encoded


def decode_key(encoded: str) -> tuple[StateScope, str]:
    """Return what `encode_key` was given.

    Raises:
        InvalidKey: it is not a key of scoped state.
    """
    parts = encoded.split(":", 3)
    if len(parts) == 4 and parts[0] == PREFIX and parts[1] in get_args(ScopeKind):
        id = parts[2].replace("%3A", ":").replace("%25", "%")
        scope, key = StateScope(cast("ScopeKind", parts[1]), id), parts[3]
        if encode_key(scope, key) == encoded:  # one that only looks like it would come back as another one
            return scope, key
    raise InvalidKey("key", f"must be {PREFIX}:<kind>:<id>:<key>", given=encoded)


def prefix_of(scope: StateScope) -> str:
    """Return what the keys of a scope begin with, and no key of another scope."""
    if not isinstance(scope, StateScope):
        raise InvalidInput("scope", "must be a StateScope", given=scope, hint='Such as `StateScope.User("ada")`.')
    id = scope.id.replace("%", "%25").replace(":", "%3A")
    return f"{PREFIX}:{scope.kind}:{id}:"


class Atomically(Protocol):
    """Runs a function over a tenant's keys in a transaction, again from the beginning while another one was first."""

    async def __call__(self, work: Callable[[ScopedState], Awaitable[T]]) -> T:
        """Run `work` over the state of the transaction."""
        ...


class ScopedState:
    """A tenant's state (STA-01, STA-02). Values are JSON of at most 4 MiB; keys, with their scopes, of 1,024 bytes."""

    def __init__(
        self,
        kv: KV,
        tenant: TenantId,
        *,
        atomically: Atomically | None = None,
        sealer: Sealer | None = None,
        seals: bool = True,
    ) -> None:
        """`atomically` is None inside of a transaction. A `sealer` opens what is sealed; every value that is set is sealed too,
        unless `seals` is False.
        """
        self._kv = kv
        self._tenant = tenant
        self._atomically = atomically
        self._sealer = sealer
        self._seals = seals

    async def get(self, scope: StateScope, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` when the key is absent or expired."""
        raw = await self._kv.get(encode_key(scope, key))
        return default if raw is None else self._value(raw, scope, key)

    async def get_many(self, scope: StateScope, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of the keys that exist, as they were at one moment; at most 10,000 keys."""
        require_size(keys, field="keys", maximum=BATCH_MAX)
        places = {encode_key(scope, key): key for key in keys}
        found = await self._kv.get_batch(list(places))
        return {key: self._value(found[place], scope, key) for place, key in places.items() if place in found}

    async def set(self, scope: StateScope, key: str, value: Any, *, ttl_s: float | None = None) -> None:
        """Store a value, replacing any; with `ttl_s` it expires that many seconds from now."""
        await self._kv.set(encode_key(scope, key), self._stored(value, scope, key), ttl_s=ttl_s)

    async def set_many(self, scope: StateScope, values: Mapping[str, Any], *, ttl_s: float | None = None) -> None:
        """Store all values or none; at most 10,000."""
        await self._kv.set_batch(self._all_stored(scope, values), ttl_s=ttl_s)

    async def update(
        self,
        scope: StateScope,
        key: str,
        change: Callable[[Any], Any],
        *,
        default: Any = None,
        ttl_s: float | None = None,
    ) -> Any:
        """Replace a value by `change(value)` without losing anybody else's update, and return the new one.

        `change` gets `default` when the key is absent. It may be called several times, so it does nothing but compute.

        Raises:
            Conflict: others were first, at every try of 30 s.
        """
        place = encode_key(scope, key)
        if not callable(change) or inspect.iscoroutinefunction(change):
            raise InvalidInput("change", "must be a plain function of the value", given=change)
        if self._atomically is not None:
            return await self._atomically(lambda tx: tx.update(scope, key, change, default=default, ttl_s=ttl_s))
        raw = await self._kv.get(place)
        encoded = encode_data(change(default if raw is None else self._value(raw, scope, key)), field="value")
        await self._kv.set(place, self._sealed(encoded, scope, key), ttl_s=ttl_s)
        return decode_json(encoded)

    async def initialize_scope(self, scope: StateScope, values: Mapping[str, Any]) -> list[str]:
        """Store the values whose keys are absent, all or none, and return those keys in byte order (STA-01)."""
        rows = self._all_stored(scope, values)
        if self._atomically is not None:
            return await self._atomically(lambda tx: tx.initialize_scope(scope, values))
        there = await self._kv.get_batch(list(rows))
        absent = {place: value for place, value in rows.items() if place not in there}
        await self._kv.set_batch(absent)
        return [decode_key(place)[1] for place in sorted(absent)]

    async def delete(self, scope: StateScope, key: str) -> bool:
        """Delete a key and say whether it was there (an expired key was not)."""
        return await self._kv.delete(encode_key(scope, key))

    async def list_keys(
        self, scope: StateScope, prefix: str = "", *, after: str | None = None, limit: int = 1_000
    ) -> list[str]:
        """Return at most `limit` keys of a scope that start with `prefix` and lie beyond `after`, in byte order."""
        begin = prefix_of(scope)
        require_text(prefix, field="prefix")
        start = None if after is None else begin + require_text(after, field="after")
        require_limit(limit, maximum=LIST_MAX)
        found = await self._kv.list_keys(begin + prefix, after=start, limit=limit)
        return [place[len(begin) :] for place in found]

    async def items(
        self, scope: StateScope, prefix: str = "", *, after: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """Return the keys of `list_keys` with their values; a key that has gone meanwhile is left out."""
        require_limit(limit, maximum=ITEMS_MAX)
        return await self.get_many(scope, await self.list_keys(scope, prefix, after=after, limit=limit))

    async def clear(self, scope: StateScope) -> int:
        """Delete every key of one scope, 10,000 in each step, and return how many there were; no other scope loses any."""
        begin, gone = prefix_of(scope), 0
        after: str | None = None
        # Each step begins behind the one before, so it ends whatever is written meanwhile at keys already passed.
        while places := await self._kv.list_keys(begin, after=after, limit=BATCH_MAX):
            gone += await self._kv.delete_batch(places)
            after = places[-1]
        return gone

    def _all_stored(self, scope: StateScope, values: Mapping[str, Any]) -> dict[str, bytes]:
        if not isinstance(values, Mapping):
            raise InvalidInput("values", "must be keys with their values", given=values)
        require_size(values, field="values", maximum=BATCH_MAX)
        return {encode_key(scope, key): self._stored(value, scope, key) for key, value in values.items()}

    def _stored(self, value: Any, scope: StateScope, key: str) -> bytes:
        return self._sealed(encode_data(value, field="value"), scope, key)

    def _sealed(self, encoded: str, scope: StateScope, key: str) -> bytes:
        if self._sealer is None or not self._seals:
            return _PLAIN + encoded.encode()
        return _SEALED + self._sealer.seal(encoded.encode(), bound_to=self._place(scope, key))

    def _value(self, raw: bytes, scope: StateScope, key: str) -> Any:
        kind, content = raw[:1], raw[1:]
        if kind == _SEALED:
            if self._sealer is None:
                raise ConfigError(
                    "The value is sealed, and the store was opened without a master key.",
                    scope=scope,
                    key=key,
                    hint="Set security.master_keys to the key that sealed it (or LLMSPELL_MASTER_KEY).",
                )
            content = self._sealer.open(content, bound_to=self._place(scope, key))
        elif kind != _PLAIN:
            raise CorruptStore("There is no state under this key, but something else.", scope=scope, key=key)
        return decode_json(content)

    def _place(self, scope: StateScope, key: str) -> tuple[str, ...]:
        return (PREFIX, self._tenant, scope.kind, scope.id, key)
