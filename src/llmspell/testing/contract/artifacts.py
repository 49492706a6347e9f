"""What `Artifacts` promises of names, contents, versions and references."""

from __future__ import annotations

import io
import os
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import (
    InvalidInput,
    InvalidKey,
    InvalidLimit,
    InvalidMetadata,
    NotFound,
    VersionConflict,
)
from llmspell.storage.contracts.artifacts import (
    ARTIFACT_TYPES,
    CONTENT_MAX_BYTES,
    NAME_MAX_CHARACTERS,
    TAG_MAX_BYTES,
    TAGS_MAX,
    ArtifactRecord,
    Artifacts,
    ArtifactStats,
)
from llmspell.storage.contracts.backend import Backend, Storages
from llmspell.testing.contract import new_tenant, open_tenant, refused

MEBIBYTE = 1_048_576
NOTHING = ArtifactStats(
    artifacts=0,
    contents=0,
    logical_bytes=0,
    stored_bytes=0,
    saved_by_deduplication_bytes=0,
    saved_by_compression_bytes=0,
)
SOME_ID = "5f0c8a3e-3c1b-4a55-9d0e-0c6f3b9f2a10"
UNKNOWN = f"{SOME_ID}:0:{'a' * 64}"


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that no compression makes smaller."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - test data


async def open_session(backend: Backend) -> tuple[Storages, UUID]:
    """Return the storages of a new tenant, and a session of it."""
    storages = await open_tenant(backend)
    return storages, (await storages.sessions.create()).id


async def required(artifacts: Artifacts, id: str) -> ArtifactRecord:
    """Return an artifact that must be there."""
    record = await artifacts.get(id)
    assert record is not None
    return record


async def streamed(artifacts: Artifacts, id: str) -> list[bytes]:
    """Return the pieces of a content."""
    return [piece async for piece in artifacts.stream(id)]


async def pieces_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield a content in pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


class ArtifactsContract:
    """Subclass it in a test module; see the package."""

    async def test_an_artifact_comes_back_as_it_was_put(self, backend: Backend, clock: ManualClock) -> None:
        """SAA-04: name, type, mime type, version, tags, metadata, session and sequence."""
        storages, session = await open_session(backend)

        put = await storages.artifacts.put(
            session,
            "report.md",
            b"# Report",
            type="agent_output",
            mime_type="text/markdown",
            metadata={"pages": 3, "large": [1e22, 2**63 - 1], "none": None},
            tags=["draft", 'q"uo\\te', "é, {a}", "NULL"],
            created_by="writer",
        )

        assert await storages.artifacts.get(put.id) == put
        assert await storages.artifacts.read(put.id) == b"# Report"
        assert (put.name, put.type, put.mime_type) == ("report.md", "agent_output", "text/markdown")
        assert put.metadata == {"pages": 3, "large": [1e22, 2**63 - 1], "none": None}
        assert put.tags == ["draft", 'q"uo\\te', "é, {a}", "NULL"]
        assert (put.session, put.sequence, put.version, put.revision) == (session, 0, 1, 1)
        assert (put.created_by, put.parent, put.size_bytes) == ("writer", None, 8)
        assert put.created_at == put.updated_at == clock.now()

    async def test_its_id_is_session_sequence_and_the_blake3_of_the_content(self, backend: Backend) -> None:
        storages, session = await open_session(backend)

        put = await storages.artifacts.put(session, "n", b"abc")

        # The test vector of the reference implementation.
        digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        assert put.content_hash == digest
        assert put.id == f"{session}:0:{digest}"

    async def test_what_is_not_said_has_a_default(self, backend: Backend) -> None:
        storages, session = await open_session(backend)

        put = await storages.artifacts.put(str(session), "n", b"x")

        assert (put.type, put.mime_type) == ("custom", "application/octet-stream")
        assert (put.metadata, put.tags, put.created_by, put.parent) == ({}, [], None, None)

    @pytest.mark.parametrize("size", [0, 1, 10_240, 10_241, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 3 * MEBIBYTE])
    @pytest.mark.parametrize("kind", ["noise", "zeros"])
    async def test_a_content_of_any_size_comes_back_byte_for_byte(self, backend: Backend, size: int, kind: str) -> None:
        storages, session = await open_session(backend)
        content = bytes(size) if kind == "zeros" else noise(size)

        put = await storages.artifacts.put(session, "n", content)

        pieces = await streamed(storages.artifacts, put.id)
        into = io.BytesIO()
        assert await storages.artifacts.read(put.id) == content == b"".join(pieces)
        assert all(0 < len(piece) <= MEBIBYTE for piece in pieces)
        assert await storages.artifacts.download(put.id, into) == size == put.size_bytes
        assert into.getvalue() == content
        assert await storages.artifacts.verify(put.id)

    async def test_every_source_of_bytes_gives_the_same_artifact(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        content = noise(MEBIBYTE + 4_321)
        half_read = io.BytesIO(b"skipped" + content)
        half_read.seek(7)
        sources: list[Any] = [
            content,
            bytearray(content),
            memoryview(content),
            memoryview(content).cast("B", (len(content) // 7, 7)) if len(content) % 7 == 0 else content,
            io.BytesIO(content),
            half_read,
            io.BufferedReader(io.BytesIO(content)),
            pieces_of(content, 1_000),
            pieces_of(content, 3 * MEBIBYTE),
        ]

        put = [await storages.artifacts.put(session, "n", source) for source in sources]

        assert {one.content_hash for one in put} == {put[0].content_hash}
        assert (await storages.artifacts.stats()).contents == 1
        assert await storages.artifacts.read(put[-1].id) == content

    async def test_a_reader_that_gives_little_at_a_time_is_read_to_its_end(self, backend: Backend) -> None:
        class Trickle(io.RawIOBase):
            def __init__(self, content: bytes) -> None:
                self._content = content

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                given, self._content = self._content[:1_000], self._content[1_000:]
                buffer[: len(given)] = given
                return len(given)

        storages, session = await open_session(backend)
        content = noise(10_500)

        put = await storages.artifacts.put(session, "n", Trickle(content))  # type: ignore[arg-type]

        assert await storages.artifacts.read(put.id) == content

    async def test_a_file_is_left_where_it_stood(self, backend: Backend) -> None:
        """So a try that is repeated reads the same, and not the nothing after the end."""
        storages, session = await open_session(backend)
        file = io.BytesIO(b"skipped" + noise(MEBIBYTE + 4_321))
        file.seek(7)

        put = await storages.artifacts.put(session, "n", file)
        again = await storages.artifacts.put(session, "n", file)
        with pytest.raises(NotFound):
            await storages.artifacts.put(uuid4(), "n", file)

        assert file.tell() == 7
        assert put.content_hash == again.content_hash
        assert put.size_bytes == again.size_bytes == MEBIBYTE + 4_321

    async def test_a_file_that_is_refused_is_left_where_it_stood(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        file = io.StringIO("text")
        file.seek(2)

        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", file)  # type: ignore[arg-type]

        assert file.tell() == 2

    async def test_a_file_that_cannot_be_rewound_is_read_to_its_end(self, backend: Backend) -> None:
        class Response(io.BytesIO):
            """Says where it stands, as some of the network do, and cannot go there."""

            def seek(self, *_: int) -> int:
                raise io.UnsupportedOperation("seek")

        class ReadOnly:
            def __init__(self, content: bytes) -> None:
                self.read = io.BytesIO(content).read

        storages, session = await open_session(backend)
        content = noise(10_500)
        ends = os.pipe()
        with os.fdopen(ends[0], "rb") as pipe:
            os.write(ends[1], content)
            os.close(ends[1])
            sources: list[Any] = [Response(content), ReadOnly(content), pipe]

            put = [await storages.artifacts.put(session, "n", source) for source in sources]

        assert {one.content_hash for one in put} == {put[0].content_hash}
        assert await storages.artifacts.read(put[0].id) == content

    async def test_a_generator_that_was_read_already_is_no_empty_content(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        pieces = pieces_of(b"abc", 1)
        await storages.artifacts.put(session, "n", pieces)

        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", pieces)

        assert (await storages.artifacts.stats()).artifacts == 1

    @pytest.mark.parametrize("size", [10_500, 3 * MEBIBYTE])
    async def test_a_download_into_a_file_that_takes_little_at_a_time_is_whole(
        self, backend: Backend, size: int
    ) -> None:
        class Sip(io.RawIOBase):
            """Takes a part of what it is given, as a file without a buffer may."""

            def __init__(self) -> None:
                self.taken = bytearray()

            def write(self, piece: Any) -> int:
                part = bytes(memoryview(piece)[:100_000])
                self.taken += part
                return len(part)

        storages, session = await open_session(backend)
        content, into = noise(size), Sip()
        put = await storages.artifacts.put(session, "n", content)

        assert await storages.artifacts.download(put.id, into) == size  # type: ignore[arg-type]

        assert into.taken == content

    @pytest.mark.parametrize("answer", [None, 0, -1, 4, "3"])
    async def test_a_download_into_a_file_that_does_not_take_it_is_refused(self, backend: Backend, answer: Any) -> None:
        class Full(io.RawIOBase):
            def write(self, _: Any) -> Any:
                return answer

        storages, session = await open_session(backend)
        put = await storages.artifacts.put(session, "n", b"abc")

        async with refused(InvalidInput, "into"):
            await storages.artifacts.download(put.id, Full())  # type: ignore[arg-type]

    @pytest.mark.parametrize("data", ["text", None, 5, ["a"], io.StringIO("text"), {"a": 1}])
    async def test_what_gives_no_bytes_is_refused(self, backend: Backend, data: Any) -> None:
        storages, session = await open_session(backend)

        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", data)

        assert await storages.artifacts.stats() == NOTHING

    async def test_a_source_that_fails_leaves_nothing(self, backend: Backend) -> None:
        storages, session = await open_session(backend)

        async def failing() -> AsyncIterator[bytes]:
            yield noise(2 * MEBIBYTE)
            raise ZeroDivisionError

        async def textual() -> AsyncIterator[Any]:
            yield b"bytes"
            yield "text"

        with pytest.raises(ZeroDivisionError):
            await storages.artifacts.put(session, "n", failing())
        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", textual())

        assert await storages.artifacts.stats() == NOTHING
        assert (await storages.artifacts.put(session, "n", b"")).sequence == 0

    async def test_a_content_may_have_100_mebibytes_and_no_byte_more(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        largest = bytes(CONTENT_MAX_BYTES)

        put = await storages.artifacts.put(session, "n", largest)
        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", largest + b"\0")
        async with refused(InvalidInput, "data"):
            await storages.artifacts.put(session, "n", io.BytesIO(largest + b"\0"))

        assert put.size_bytes == CONTENT_MAX_BYTES == 104_857_600
        assert sum([len(piece) async for piece in storages.artifacts.stream(put.id)]) == CONTENT_MAX_BYTES
        assert (await storages.artifacts.stats()).artifacts == 1

    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("name", "", InvalidKey),
            ("name", "n" * (NAME_MAX_CHARACTERS + 1), InvalidKey),
            ("name", "a\0b", InvalidKey),
            ("name", "\ud800", InvalidKey),
            ("name", 5, InvalidKey),
            ("type", "picture", InvalidInput),
            ("type", None, InvalidInput),
            ("mime_type", "", InvalidKey),
            ("mime_type", "m" * 256, InvalidKey),
            ("created_by", "c" * 256, InvalidKey),
            ("created_by", "\0", InvalidKey),
            ("tags", "text", InvalidInput),
            ("tags", {"a": 1}, InvalidInput),
            ("tags", ["t"] * (TAGS_MAX + 1), InvalidLimit),
            ("tags[1]", ["t", "é" * 33], InvalidKey),
            ("tags[0]", [""], InvalidKey),
            ("tags[0]", [5], InvalidKey),
            ("metadata", [], InvalidMetadata),
            ("metadata", {f"k{number}": 1 for number in range(51)}, InvalidMetadata),
            ("metadata.n", {"n": -0.0}, InvalidMetadata),
            ("parent", "nonsense", InvalidKey),
            ("session", "nonsense", InvalidKey),
        ],
    )
    async def test_a_description_that_is_out_of_bounds_is_refused_and_nothing_is_read(
        self, backend: Backend, field: str, value: Any, error: type[InvalidInput]
    ) -> None:
        storages, session = await open_session(backend)
        source = io.BytesIO(b"content")
        arguments = {"session": session, "name": "n", field.partition("[")[0].partition(".")[0]: value}

        async with refused(error, field):
            await storages.artifacts.put(data=source, **arguments)

        assert source.tell() == 0
        assert await storages.artifacts.stats() == NOTHING

    async def test_a_description_at_its_bounds_is_kept(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        arguments: dict[str, Any] = {
            "mime_type": "m" * 255,
            "created_by": "😀" * 255,
            "tags": ["é" * (TAG_MAX_BYTES // 2)] * TAGS_MAX,
            "metadata": {"k" * 64: "x" * 16_000},
        }

        for type in ARTIFACT_TYPES:
            put = await storages.artifacts.put(session, "😀" * NAME_MAX_CHARACTERS, b"", type=type, **arguments)
            assert await storages.artifacts.get(put.id) == put

    @pytest.mark.parametrize(
        "id", ["", "x", SOME_ID, f"{SOME_ID}:0", f"{SOME_ID}:-1:{'a' * 64}", f"{SOME_ID}:00:{'a' * 64}", 5, None]
    )
    async def test_what_is_no_id_is_refused(self, backend: Backend, id: Any) -> None:
        artifacts = (await open_tenant(backend)).artifacts

        for call in (artifacts.get(id), artifacts.read(id), artifacts.update(id), artifacts.delete(id)):
            async with refused(InvalidKey, "id"):
                await call
        async with refused(InvalidKey, "id"):
            await streamed(artifacts, id)

    async def test_an_absent_artifact_is_none_or_not_found(self, backend: Backend) -> None:
        artifacts = (await open_tenant(backend)).artifacts

        assert await artifacts.get(UNKNOWN) is None
        assert await artifacts.read(UNKNOWN) is None
        assert not await artifacts.delete(UNKNOWN)
        for call in (
            streamed(artifacts, UNKNOWN),
            artifacts.download(UNKNOWN, io.BytesIO()),
            artifacts.verify(UNKNOWN),
            artifacts.update(UNKNOWN, name="n"),
            artifacts.update(UNKNOWN, name="n", expected_revision=1),
        ):
            with pytest.raises(NotFound):
                await call

    @pytest.mark.parametrize("size", [5, 2 * MEBIBYTE])
    async def test_a_session_or_a_parent_that_is_absent_is_not_found_and_nothing_is_kept(
        self, backend: Backend, size: int
    ) -> None:
        storages, session = await open_session(backend)

        with pytest.raises(NotFound, match="session"):
            await storages.artifacts.put(uuid4(), "n", noise(size))
        with pytest.raises(NotFound, match="parent"):
            await storages.artifacts.put(session, "n", noise(size), parent=UNKNOWN)
        with pytest.raises(NotFound, match="session"):
            await storages.artifacts.put(uuid4(), "n", noise(size), parent=UNKNOWN)

        assert await storages.artifacts.stats() == NOTHING
        assert await storages.artifacts.collect_garbage() == 0

    async def test_a_new_version_counts_from_its_parent(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        other = (await storages.sessions.create()).id
        first = await storages.artifacts.put(session, "n", b"1")

        second = await storages.artifacts.put(session, "n", b"2", parent=first.id)
        elsewhere = await storages.artifacts.put(other, "n", b"3", parent=second.id)

        assert [one.version for one in (first, second, elsewhere)] == [1, 2, 3]
        assert [one.parent for one in (first, second, elsewhere)] == [None, first.id, second.id]
        assert await storages.artifacts.get(elsewhere.id) == elsewhere

    async def test_a_version_outlives_its_parent(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        first = await storages.artifacts.put(session, "n", b"1")
        second = await storages.artifacts.put(session, "n", b"2", parent=first.id)

        assert await storages.artifacts.delete(first.id)

        assert await storages.artifacts.get(second.id) == second

    async def test_an_update_changes_the_description_and_nothing_else(
        self, backend: Backend, clock: ManualClock
    ) -> None:
        storages, session = await open_session(backend)
        put = await storages.artifacts.put(session, "n", b"x", tags=["a"], metadata={"m": 1})
        clock.advance(seconds=1)

        renamed = await storages.artifacts.update(put.id, name="m", expected_revision=1)
        described = await storages.artifacts.update(put.id, tags=[], metadata={"m": 2}, expected_revision=2)

        assert (renamed.name, renamed.tags, renamed.metadata, renamed.revision) == ("m", ["a"], {"m": 1}, 2)
        assert (described.name, described.tags, described.metadata) == ("m", [], {"m": 2})
        assert (described.revision, described.version, described.updated_at) == (3, 1, clock.now())
        assert described.created_at == put.created_at
        assert await storages.artifacts.get(put.id) == described
        assert (await storages.artifacts.list()).items[0].name == "m"

    async def test_an_update_at_another_revision_is_a_conflict_with_both(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        put = await storages.artifacts.put(session, "n", b"x")
        renamed = await storages.artifacts.update(put.id, name="m")

        with pytest.raises(VersionConflict) as caught:
            await storages.artifacts.update(put.id, name="o", expected_revision=1)

        assert (caught.value.fields["expected"], caught.value.fields["current"]) == (1, 2)
        assert await storages.artifacts.get(put.id) == renamed

    async def test_an_update_out_of_bounds_is_refused(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        put = await storages.artifacts.put(session, "n", b"x")

        async with refused(InvalidKey, "name"):
            await storages.artifacts.update(put.id, name="")
        async with refused(InvalidKey, "tags[0]"):
            await storages.artifacts.update(put.id, tags=["t" * 65])
        async with refused(InvalidMetadata, "metadata"):
            await storages.artifacts.update(put.id, metadata=None)  # type: ignore[arg-type]
        async with refused(InvalidMetadata, "metadata.a"):
            await storages.artifacts.update(put.id, metadata={"a": float("nan")})
        async with refused(InvalidLimit, "expected_revision"):
            await storages.artifacts.update(put.id, name="m", expected_revision=0)

        assert await storages.artifacts.get(put.id) == put

    async def test_what_the_caller_does_to_a_record_changes_nothing(self, backend: Backend) -> None:
        storages, session = await open_session(backend)
        metadata, tags = {"m": [1]}, ["a"]

        put = await storages.artifacts.put(session, "n", b"x", metadata=metadata, tags=tags)
        metadata["m"].append(2)
        tags.append("b")
        put.metadata["m"].append(3)
        put.tags.append("c")

        found = await required(storages.artifacts, put.id)
        assert (found.metadata, found.tags) == ({"m": [1]}, ["a"])

    async def test_another_tenant_sees_and_changes_nothing(self, backend: Backend) -> None:
        ours, session = await open_session(backend)
        theirs, their_session = await open_session(backend)
        put = await ours.artifacts.put(session, "n", noise(2 * MEBIBYTE))

        assert await theirs.artifacts.get(put.id) is None
        assert await theirs.artifacts.read(put.id) is None
        assert not await theirs.artifacts.delete(put.id)
        assert (await theirs.artifacts.list(session=session)).items == []
        assert await theirs.artifacts.stats() == await theirs.artifacts.stats(session=session) == NOTHING
        for call in (
            theirs.artifacts.update(put.id, name="m", expected_revision=1),
            theirs.artifacts.put(session, "n", b""),
            theirs.artifacts.put(their_session, "n", b"", parent=put.id),
            theirs.artifacts.verify(put.id),
        ):
            with pytest.raises(NotFound):
                await call

        assert await ours.artifacts.verify(put.id)

    async def test_the_same_content_of_two_tenants_is_not_shared(self, backend: Backend) -> None:
        ours, session = await open_session(backend)
        theirs, their_session = await open_session(backend)
        content = noise(2 * MEBIBYTE)
        put = await ours.artifacts.put(session, "n", content)
        their_put = await theirs.artifacts.put(their_session, "n", content)

        assert (await theirs.artifacts.stats()).stored_bytes == len(content)
        assert await ours.artifacts.delete(put.id)

        assert await theirs.artifacts.read(their_put.id) == content

    async def test_what_is_rolled_back_was_never_there(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)
        storages = backend.storages(tenant)
        session = (await storages.sessions.create()).id
        kept = await storages.artifacts.put(session, "kept", b"kept")

        async def fail() -> None:
            async with backend.transaction(tenant) as tx:
                await tx.artifacts.put(session, "small", b"small")
                large = await tx.artifacts.put(session, "large", noise(2 * MEBIBYTE))
                assert await tx.artifacts.read(large.id) == noise(2 * MEBIBYTE)
                assert await tx.artifacts.delete(kept.id)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert [one.id for one in (await storages.artifacts.list()).items] == [kept.id]
        assert await storages.artifacts.read(kept.id) == b"kept"
        assert (await storages.artifacts.stats()).contents == 1

    async def test_a_session_and_its_artifacts_are_one_transaction(self, backend: Backend) -> None:
        tenant = await new_tenant(backend)

        async with backend.transaction(tenant) as tx:
            session = await tx.sessions.create()
            with pytest.raises(NotFound):
                await tx.artifacts.put(uuid4(), "n", noise(2 * MEBIBYTE))
            put = await tx.artifacts.put(session.id, "n", b"x")

        storages = backend.storages(tenant)
        assert await storages.artifacts.get(put.id) == put
        assert (await storages.artifacts.stats()).contents == 1
