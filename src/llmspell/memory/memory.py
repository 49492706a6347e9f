"""Memories as a user has them: kept with one call, found by meaning and by word, changed with a history.

Not here: how rankings are fused (`retrieval`), how a context is filled (`context`).

Rule 1: a memory is embedded before the store is touched; when the provider fails, or the tenant has had as many texts embedded
today as it may, it is kept all the same, found by its words, and its embedding is pending until `embed_pending`.
Rule 2: inside a transaction nothing is embedded: `add` takes a ready vector, or the embedding is pending.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from llmspell.clock import Clock, from_microseconds, optional_instant, to_microseconds
from llmspell.codec import VectorLike, pack_vector, require_key, require_limit, require_metadata, require_text
from llmspell.errors import InvalidInput, InvalidText, NotFound, ProviderError, QuotaExceeded, TransactionError
from llmspell.ids import IdSource, parse_id
from llmspell.memory.embedding import Embedding
from llmspell.memory.limits import one_limit
from llmspell.memory.memory_input import Instant, MemoryInput, as_input, jsonable, within
from llmspell.observe import logger
from llmspell.retrieval.explanation import Explanation, explain
from llmspell.retrieval.fusion import CANDIDATES_PER_RANKER, MEANING, WORDS, Candidate, Fused, convex_combination
from llmspell.storage.contracts.checks import require_score, require_ttl
from llmspell.storage.contracts.memories import (
    CONTENT_MAX_CHARACTERS,
    MEMORY_KINDS,
    QUERY_MAX_CHARACTERS,
    ListOrder,
    Memories,
    MemoryChange,
    MemoryKind,
    MemoryPosition,
    MemoryQuery,
    MemoryRankings,
    MemoryRecord,
    MemoryVersion,
    NewMemory,
)
from llmspell.storage.contracts.pages import Cursors, Page
from llmspell.storage.text.memory_text import memory_text

EMBED_MAX = 1_000_000
"""The most memories that one call of `embed_pending` embeds."""
BATCH = 256
"""Memories that `add_many` embeds and stores together."""
PROBE = "Is anybody there?"
ROLE_MAX_BYTES = 255


class MemoryHit(msgspec.Struct, frozen=True, kw_only=True):
    """A memory that a search found.

    `score` compares hits of one search (0 to 1). `similarity` is the cosine similarity to the question, None when the memory
    was found by its words alone. `explanation` says why, when asked for.
    """

    memory: MemoryRecord
    score: float
    similarity: float | None
    explanation: Explanation | None = None

    @property
    def id(self) -> UUID:
        """The id of the memory."""
        return self.memory.id

    @property
    def text(self) -> str:
        """What was said."""
        return self.memory.content


class Ranked(msgspec.Struct, frozen=True):
    """A fused ranking with what its explanation needs."""

    fused: list[Fused]
    rankings: MemoryRankings


class Memory:
    """A tenant's memories: `tenant.memory`."""

    def __init__(
        self,
        storage: Memories,
        *,
        embedding: Embedding,
        clock: Clock,
        ids: IdSource,
        cursors: Cursors,
        in_transaction: bool = False,
        ahead: Mapping[str, tuple[bytes, ...]] | None = None,
    ) -> None:
        """`ahead`: what a transaction may use of the embedder, embedded before it began: searchable texts with their windows."""
        self._storage = storage
        self._embedding = embedding
        self._clock = clock
        self._ids = ids
        self._cursors = cursors
        self._in_transaction = in_transaction
        self._ahead = ahead or {}
        self._registered = False

    async def add(
        self,
        text: str,
        *,
        session: str | None = None,
        role: str | None = None,
        kind: MemoryKind = "conversation",
        at: Instant | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: UUID | str | None = None,
        ttl_s: float | None = None,
        embedding: VectorLike | None = None,
        actor: str | None = None,
    ) -> MemoryRecord:
        """Keep a memory. It is durable and found by its words when this returns, and by meaning unless it is pending.

        Args:
            text: what to remember; 1 to 32,768 characters.
            session: the conversation it belongs to; any text.
            role: who said it ("user", "assistant", or a name); part of the searchable text.
            kind: conversation, knowledge, experience, skill or preference.
            at: when it was said (default: now); its date is part of the searchable text.
            metadata: JSON to filter by; at most 50 keys and 16 KiB.
            id: a UUID, to make a repeated call an error instead of a copy.
            ttl_s: seconds after which it is gone.
            embedding: a ready vector of shape (dimension,) for the model in use.

        Raises:
            InvalidInput: names the argument; nothing was kept.
            AlreadyExists: the id is taken.
        """
        item = MemoryInput(
            text=text, session=session, role=role, kind=kind, at=at, metadata=metadata or {}, id=id, ttl_s=ttl_s
        )
        new = self._checked(item, "")
        ready = None if embedding is None else pack_vector(embedding, dimension=self._embedding.space.dimension)
        (record,) = await self._keep([new], ready=ready, actor=actor)
        return record

    async def add_many(
        self,
        items: Iterable[MemoryInput | Mapping[str, Any]],
        *,
        actor: str | None = None,
        skip_existing: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[MemoryRecord]:
        """Keep many memories, in order, and return them; all are checked before the first is kept.

        They are kept in batches of 256, each whole or not at all. With `skip_existing` an item whose id is already there is
        left as it is and not returned, so that a broken run can be repeated. `progress` is called with the number of items
        done after each batch.
        """
        checked = [
            self._checked(as_input(item, position), f"items[{position}].") for position, item in enumerate(items)
        ]
        records: list[MemoryRecord] = []
        for start in range(0, len(checked), BATCH):
            batch = checked[start : start + BATCH]
            if skip_existing:
                there = await self._storage.taken([new.id for new in batch])
                batch = [new for new in batch if new.id not in there]
            records += await self._keep(batch, ready=None, actor=actor)
            if progress is not None:
                progress(min(start + BATCH, len(checked)))
        return records

    def _checked(self, item: MemoryInput, where: str) -> NewMemory:
        now = self._clock.now()
        if item.kind not in MEMORY_KINDS:
            raise InvalidInput(f"{where}kind", f"must be one of {', '.join(MEMORY_KINDS)}", given=item.kind)
        text = require_text(item.text, field=f"{where}text", max_characters=CONTENT_MAX_CHARACTERS, empty=False)
        if not text.strip():
            raise InvalidText(f"{where}text", "must not be blank", given=text)
        return NewMemory(
            id=self._ids.new() if item.id is None else parse_id(item.id, field=f"{where}id"),
            content=text,
            session=None if item.session is None else require_key(item.session, field=f"{where}session"),
            role=None if item.role is None else require_key(item.role, field=f"{where}role", max_bytes=ROLE_MAX_BYTES),
            kind=item.kind,
            metadata=require_metadata(item.metadata, field=f"{where}metadata"),
            at=optional_instant(item.at, field=f"{where}at") or now,
            expires_at=None
            if item.ttl_s is None
            else now + timedelta(seconds=require_ttl(item.ttl_s, field=f"{where}ttl_s")),
        )

    async def _keep(self, items: Sequence[NewMemory], *, ready: bytes | None, actor: str | None) -> list[MemoryRecord]:
        if not items:
            return []
        if ready is not None:
            items = [msgspec.structs.replace(items[0], embeddings=(ready,))]
        else:
            items = await self._embedded(items)
        embedded = any(item.embeddings for item in items)
        if embedded:
            await self._register()
        space_id = self._embedding.space.space_id if embedded else None
        return await self._storage.add(items, space_id=space_id, actor=actor)

    async def _embedded(self, items: Sequence[NewMemory]) -> list[NewMemory]:
        texts = [_searchable(item) for item in items]
        windows = await self._windows(texts)
        return [
            msgspec.structs.replace(item, embeddings=windows[text], token_count=self._embedding.count_tokens(text))
            if text in windows
            else item
            for item, text in zip(items, texts, strict=True)
        ]

    async def _windows(self, texts: Sequence[str]) -> Mapping[str, tuple[bytes, ...]]:
        """Embed texts; those without an embedding are left out: there is none to be had now, or a transaction has not got them."""
        if self._in_transaction:
            return self._ahead
        try:
            return dict(zip(texts, await self._embedding.texts(texts), strict=True))
        except (ProviderError, QuotaExceeded) as error:
            logger.warning("texts without an embedding, which wait for one: %d; %s", len(texts), error)
            return {}

    async def _ahead_of(self, verb: str, arguments: Mapping[str, Any]) -> Mapping[str, tuple[bytes, ...]]:
        """Embed what the call `verb(**arguments)` is going to keep, so that it can be kept inside of a transaction.

        Empty when that call embeds nothing.

        Raises:
            InvalidInput: names the argument.
        """
        if verb == "add" and arguments["embedding"] is None:
            fields = {name: value for name, value in arguments.items() if name in MemoryInput.__struct_fields__}
            items = [MemoryInput(**{**fields, "metadata": fields["metadata"] or {}})]
        elif verb == "add_many":
            items = [as_input(item, position) for position, item in enumerate(arguments["items"])]
        elif verb == "update":
            reworded = await self._rewording(parse_id(arguments["id"]), self._change(arguments))
            return {} if reworded is None else await self._windows([reworded])
        else:
            return {}
        return await self._windows([_searchable(self._checked(item, "")) for item in items])

    async def _register(self) -> None:
        if not self._registered:
            await self._storage.ensure_space(self._embedding.space)
            self._registered = True

    async def search(
        self,
        query: str,
        *,
        limit: int | None = None,
        k: int | None = None,
        top_k: int | None = None,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        embedding: VectorLike | None = None,
        explain: bool = False,
    ) -> list[MemoryHit]:
        """Find memories by meaning and by word, best first.

        Args:
            query: a question or words, up to 8,192 characters.
            limit: how many hits, 1 to 1,000 (default 10); `k` and `top_k` are accepted too.
            session: only this session.
            filters: as docs/reference/filters.md says; fields session, role, kind, at, created_at, updated_at,
                processed, version and metadata.….
            min_score: least cosine similarity, -1 to 1; memories found by words alone are then left out.
            embedding: a ready vector of the question, of shape (dimension,).
            explain: say for each hit why it was found.
        """
        least, wanted = require_score(min_score), one_limit(limit, k, top_k)
        question = await self.question(query, embedding)
        ranked = await self.rank(query, session=session, filters=filters, question=question, candidates=wanted)
        hits = [self._hit(one, ranked, query if explain else None) for one in ranked.fused]
        if least is not None:
            hits = [hit for hit in hits if hit.similarity is not None and hit.similarity >= least]
        return hits[:wanted]

    async def rank(
        self,
        query: str,
        *,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        question: bytes | None = None,
        candidates: int = CANDIDATES_PER_RANKER,
    ) -> Ranked:
        """Return the whole fused ranking of a search; without a `question` (see there) the words have to do."""
        where = within(session, filters)
        space_id = None if question is None else self._embedding.space.space_id
        asked = MemoryQuery(
            text=query,
            embedding=question,
            space_id=space_id,
            candidates=max(candidates, CANDIDATES_PER_RANKER),
            filters=where,
        )
        try:
            rankings = await self._storage.search(asked)
        except NotFound:  # this model has embedded nothing here yet; to register its space would be a write
            words_alone = msgspec.structs.replace(asked, embedding=None, space_id=None)
            rankings = await self._storage.search(words_alone)
        by_ranker = {
            WORDS: [Candidate(str(one.id), one.score) for one in rankings.text],
            MEANING: [Candidate(str(one.id), one.score) for one in rankings.dense],
        }
        return Ranked(convex_combination(by_ranker), rankings)

    async def question(self, query: str, embedding: VectorLike | None = None) -> bytes | None:
        """Embed a question before any connection is taken. None when there is no embedding to be had, and inside a transaction.

        Raises:
            InvalidText: the question cannot be searched for.
        """
        require_text(query, field="query", max_characters=QUERY_MAX_CHARACTERS, empty=False)
        if not query.strip():
            raise InvalidText("query", "must not be blank", given=query)
        if embedding is not None:
            return pack_vector(embedding, dimension=self._embedding.space.dimension)
        if self._in_transaction:
            return None
        try:
            return await self._embedding.query(query)
        except (ProviderError, QuotaExceeded) as error:
            logger.warning("searching by words alone: %s", error)
            return None

    def _hit(self, fused: Fused, ranked: Ranked, query: str | None) -> MemoryHit:
        record = ranked.rankings.records[UUID(fused.id)]
        said = None if query is None else explain(fused, role=record.role or "", at=record.at)
        return MemoryHit(memory=record, score=fused.score, similarity=fused.scores.get(MEANING), explanation=said)

    async def get(self, id: UUID | str) -> MemoryRecord | None:
        """Return a memory, or None when it is absent, deleted or expired."""
        return await self._storage.get(parse_id(id))

    async def list(
        self,
        *,
        filters: Mapping[str, Any] | None = None,
        session: str | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[MemoryRecord]:
        """Return a page of memories in the order of time (`at` or `created_at`), newest first unless told otherwise.

        A walk by `next_cursor` meets every memory that was there when it began exactly once, whatever is added meanwhile.
        """
        where = within(session, filters)
        query = [order, descending, jsonable(where)]
        position = await self._cursors.read(cursor, query=query)
        after = None
        if position is not None:
            after = MemoryPosition(from_microseconds(position["at"]), UUID(position["id"]))
        require_limit(limit)
        records = await self._storage.list(filters=where, order=order, descending=descending, after=after, limit=limit)
        if len(records) < limit:
            return Page(records, None)
        last = records[-1]
        instant = to_microseconds(last.at if order == "at" else last.created_at)
        return Page(records, await self._cursors.cursor({"at": instant, "id": str(last.id)}, query=query))

    async def list_paginated(
        self,
        *,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[builtins.list[MemoryRecord], int]:
        """Return an offset page, newest first by creation, and the total (PAG-01); prefer `list` for long walks."""
        return await self._storage.list_paginated(filters=within(session, filters), limit=limit, offset=offset)

    async def iterate(
        self,
        *,
        session: str | None = None,
        filters: Mapping[str, Any] | None = None,
        order: ListOrder = "at",
        descending: bool = True,
        page_size: int = 100,
    ) -> AsyncIterator[MemoryRecord]:
        """Yield memories in the order of `list`, fetching a page at a time; nothing is held between two pages."""
        cursor: str | None = None
        while True:
            page = await self.list(
                filters=filters, session=session, order=order, descending=descending, cursor=cursor, limit=page_size
            )
            for record in page.items:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

    async def count(self, *, filters: Mapping[str, Any] | None = None) -> int:
        """Count memories."""
        return await self._storage.count(filters=filters)

    async def update(
        self,
        id: UUID | str,
        *,
        text: str | msgspec.UnsetType = msgspec.UNSET,
        metadata: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET,
        session: str | msgspec.UnsetType | None = msgspec.UNSET,
        role: str | msgspec.UnsetType | None = msgspec.UNSET,
        kind: MemoryKind | msgspec.UnsetType = msgspec.UNSET,
        at: Instant | msgspec.UnsetType = msgspec.UNSET,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> MemoryRecord:
        """Change what is given, as a new version, and return the memory.

        Raises:
            NotFound: no such memory.
            VersionConflict: it has changed since `expected_version`.
        """
        identity = parse_id(id)
        change = self._change(
            {"text": text, "metadata": metadata, "session": session, "role": role, "kind": kind, "at": at}
        )
        space_id = None
        if self._ahead or not self._in_transaction:
            change, space_id = await self._reworded(identity, change)
        return await self._storage.update(
            identity, change, space_id=space_id, expected_version=expected_version, actor=actor, reason=reason
        )

    def _change(self, given: Mapping[str, Any]) -> MemoryChange:
        metadata, at = given["metadata"], given["at"]
        return MemoryChange(
            content=given["text"],
            metadata=msgspec.UNSET if metadata is msgspec.UNSET else require_metadata(metadata),
            session=given["session"],
            role=given["role"],
            kind=given["kind"],
            at=msgspec.UNSET if at is msgspec.UNSET else optional_instant(at, field="at") or self._clock.now(),
        )

    async def _reworded(self, id: UUID, change: MemoryChange) -> tuple[MemoryChange, str | None]:
        """Embed what the memory will say, and say what was embedded: a concurrent change may make it something else."""
        text = await self._rewording(id, change)
        windows = {} if text is None else await self._windows([text])
        if text is None or text not in windows:
            return change, None
        await self._register()
        embedded = msgspec.structs.replace(
            change, embeddings=windows[text], embedded_text=text, token_count=self._embedding.count_tokens(text)
        )
        return embedded, self._embedding.space.space_id

    async def _rewording(self, id: UUID, change: MemoryChange) -> str | None:
        """Return the searchable text that a change will make, or None when it stays as it is."""
        if all(field is msgspec.UNSET for field in (change.content, change.role, change.at)):
            return None
        old = await self._storage.get(id)
        if old is None:
            raise NotFound("There is no such memory.", id=id)
        content = require_text(
            old.content if change.content is msgspec.UNSET else change.content,
            field="text",
            max_characters=CONTENT_MAX_CHARACTERS,
            empty=False,
        )
        role = old.role if change.role is msgspec.UNSET else change.role
        at = old.at if change.at is msgspec.UNSET else change.at
        text = memory_text(content, role or "", at)
        return None if text == memory_text(old.content, old.role or "", old.at) else text

    async def delete(
        self,
        id: UUID | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Delete a memory and say whether it was there. Its history stays until `forget`; `restore` brings it back."""
        return await self._storage.delete(parse_id(id), expected_version=expected_version, actor=actor, reason=reason)

    async def restore(self, id: UUID | str, *, actor: str | None = None, reason: str | None = None) -> MemoryRecord:
        """Bring a deleted memory back; its embedding is pending.

        Raises:
            NotFound: it never existed, or was forgotten.
            AlreadyExists: it is not deleted.
        """
        return await self._storage.restore(parse_id(id), actor=actor, reason=reason)

    async def forget(self, id: UUID | str, *, actor: str | None = None, reason: str | None = None) -> bool:
        """Erase a memory and its history, leaving a tombstone without content; say whether there was anything to erase."""
        return await self._storage.forget(parse_id(id), actor=actor, reason=reason)

    async def history(self, id: UUID | str) -> builtins.list[MemoryVersion]:
        """Return every version of a memory, oldest first."""
        return await self._storage.history(parse_id(id))

    async def delete_expired(self, *, limit: int = 1_000) -> int:
        """Delete at most `limit` memories whose `ttl_s` has passed, and return how many; call again while it returns `limit`.

        Nobody sees them any more; this frees their space.
        """
        return await self._storage.delete_expired(limit=limit)

    async def embed_pending(self, *, limit: int = 1_000, progress: Callable[[int], None] | None = None) -> int:
        """Embed up to `limit` memories that wait for it, or have none by the model in use, and return how many got one.

        A memory that the provider refuses for good is marked as failed, and stays findable by its words.

        Raises:
            ProviderError: the provider failed in a way that may pass; what was embedded before stays.
            QuotaExceeded: the tenant may have no more embedded today, or keep no more vectors; what was embedded before stays.
            TransactionError: inside a transaction.
        """
        require_limit(limit, maximum=EMBED_MAX)
        if self._in_transaction:
            raise TransactionError(
                "Nothing is embedded inside a transaction: it would hold the store while the embedder works.",
                hint="Call `tenant.memory.embed_pending()` after it has ended.",
            )
        space_id, done = self._embedding.space.space_id, 0
        while done < limit:
            waiting = await self._storage.pending(space_id=space_id, limit=min(BATCH, limit - done))
            if not waiting:
                break
            items = await self._windows_of(waiting)
            await self._register()
            attached = await self._storage.attach_embeddings(space_id, items) if items else 0
            done += attached
            if progress is not None:
                progress(done)
            if len(items) == len(waiting) and not attached:
                break  # every one of them changed meanwhile: their writers embed them
        return done

    async def _provider_works(self) -> bool:
        """Say whether the provider embeds a text that nothing can be wrong with."""
        try:
            await self._embedding.query(PROBE)
        except ProviderError:
            return False
        return True

    async def _windows_of(self, records: Sequence[MemoryRecord]) -> builtins.list[tuple[UUID, int, tuple[bytes, ...]]]:
        """Embed memories; one that the provider will never take is marked as failed, and does not stop the others.

        Raises:
            ProviderError: trying again later may help, or the provider takes nothing at all (its key may be wrong).
            QuotaExceeded: the tenant may not have one more embedded today.
        """
        try:
            windows = await self._embedding.texts([_searchable(record) for record in records])
        except QuotaExceeded as error:
            if len(records) > 1:
                return await self._windows_of(
                    records[: len(records) // 2]
                )  # what is left of the day serves some of them
            if not 0 < int(str(error.fields["limit"])) < int(str(error.fields["asked"])):
                raise
            logger.warning("a memory cannot be embedded on any day: %s", error)
            await self._storage.mark_embedding_failed([records[0].id], space_id=self._embedding.space.space_id)
            return []
        except ProviderError as error:
            if error.retryable or not await self._provider_works():
                raise
            if len(records) == 1:
                logger.warning("a memory cannot be embedded: %s", error)
                await self._storage.mark_embedding_failed([records[0].id], space_id=self._embedding.space.space_id)
                return []
            middle = len(records) // 2
            return [*await self._windows_of(records[:middle]), *await self._windows_of(records[middle:])]
        return [(record.id, record.version, vectors) for record, vectors in zip(records, windows, strict=True)]


def _searchable(memory: NewMemory | MemoryRecord) -> str:
    return memory_text(memory.content, memory.role or "", memory.at)
