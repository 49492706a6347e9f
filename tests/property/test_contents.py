"""Random contents: each comes back as it was, under the hash of its bytes, and under no other."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from blake3 import blake3
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import fresh_tenant, opened

from llmspell.spell import Tenant

SEED = usual(19)
CONTENTS = {
    "memory": size(ci=10_000, soak=200_000),
    "sqlite": size(ci=10_000, soak=200_000),
    "postgres": size(ci=600, soak=20_000),
}
AT_ONCE = {"memory": 1, "sqlite": 64, "postgres": 4}
WORDS = (b"", b"\0", b"a", b"again and again ", bytes(range(256)), b'{"a": 1}', "zo\u0308 zö".encode())


def content_of(choose: random.Random, before: list[bytes]) -> bytes:
    """Noise, repetitions that compress, one bit beside an earlier one, its beginning, or it itself."""
    kind = choose.randrange(6)
    if kind < 2 or not before:
        return choose.randbytes(choose.choice((0, 1, 7, 64, 1_000, 4_000)))
    if kind == 2:
        return choose.choice(WORDS) * choose.randrange(200)
    earlier = choose.choice(before)
    if kind == 3 and earlier:
        bit = choose.randrange(len(earlier) * 8)
        return earlier[: bit // 8] + bytes([earlier[bit // 8] ^ 1 << bit % 8]) + earlier[bit // 8 + 1 :]
    if kind == 4:
        return earlier[: choose.randrange(len(earlier) + 1)]
    return earlier


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("backend", CONTENTS)
async def test_every_content_comes_back_under_its_own_hash_and_no_other(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    choose, many = random.Random(SEED), CONTENTS[backend]
    contents: list[bytes] = []
    for _ in range(many):
        contents.append(content_of(choose, contents[-200:]))
    async with opened(backend, request, tmp_path, connections=AT_ONCE["postgres"]) as spell:
        tenant = await fresh_tenant(spell)
        session = (await tenant.sessions.create()).id
        turns = iter(contents)

        async def caller() -> None:
            for content in turns:
                await require_round_trip(tenant, str(session), content)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE[backend]):
                group.create_task(caller())

        stats = await tenant.artifacts.stats()
    different = {blake3(content).hexdigest(): content for content in contents}
    assert len(different) == len(set(contents)), "two contents of one hash"
    assert (stats.artifacts, stats.contents) == (many, len(different)), f"seed {SEED}"
    assert stats.logical_bytes == sum(map(len, contents))
    tell(contents=many)


async def require_round_trip(tenant: Tenant, session: str, content: bytes) -> None:
    artifact = await tenant.artifacts.put(session, "n", content)

    expected = blake3(content).hexdigest()
    assert artifact.content_hash == expected, f"seed {SEED}"
    assert artifact.id == f"{session}:{artifact.sequence}:{expected}"
    assert await tenant.artifacts.read(artifact.id) == content, f"seed {SEED}"
    # A hash that somebody claims: another content's, or that of nothing.
    for claimed in (blake3(content + b"!").hexdigest(), blake3(b"").hexdigest()):
        if claimed != expected:
            assert await tenant.artifacts.read(f"{session}:{artifact.sequence}:{claimed}") is None
