from __future__ import annotations

import asyncio
import math
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmspell.clock import ManualClock
from llmspell.errors import InvalidSetting, ProviderProtocol, ProviderUnavailable, StorageError
from llmspell.providers.cache import (
    CacheConfig,
    CachedEmbedder,
    CacheMetrics,
    EmbeddingCache,
    cache_key,
    key_digest,
    namespace_of,
)
from llmspell.providers.hashing import HashingEmbedder
from llmspell.tenant import TenantId

ANA, BEN = TenantId("ana"), TenantId("ben")


class Counting(HashingEmbedder):
    """Remembers what it was asked, and waits or fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.closed = 0

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        self.asked.append(list(texts))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await super().embed(texts)

    async def aclose(self) -> None:
        self.closed += 1


Opened = Callable[..., CachedEmbedder]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opened(clock: ManualClock) -> Opened:
    def build(embedder: Counting, **config: object) -> CachedEmbedder:
        return CachedEmbedder(embedder, EmbeddingCache(CacheConfig(**config), clock=clock))  # type: ignore[arg-type]

    return build


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_text_is_computed_once(opened: Opened) -> None:
    embedder = Counting()
    cached = opened(embedder)

    first = await cached.embed(["a", "b"])
    second = await cached.embed(["b", "c", "a"])
    await cached.aclose()

    assert embedder.asked == [["a", "b"], ["c"]]
    assert second == [first[1], second[1], first[0]]
    assert first == await HashingEmbedder().embed(["a", "b"])


async def test_a_text_that_a_call_repeats_is_asked_for_once(opened: Opened) -> None:
    embedder = Counting()
    cached = opened(embedder)

    vectors = await cached.embed(["a", "b", "a"])
    await cached.aclose()

    assert embedder.asked == [["a", "b"]]
    assert vectors[0] == vectors[2] != vectors[1]


async def test_equal_questions_at_once_share_one_call(opened: Opened) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()
    cached = opened(embedder)

    calls = [asyncio.create_task(cached.embed(texts)) for texts in (["a"], ["a"], ["a", "b"])]
    await turns()
    embedder.gate.set()
    answers = await asyncio.gather(*calls)
    await cached.aclose()

    assert embedder.asked == [["a"], ["b"]]
    assert answers[0][0] == answers[1][0] == answers[2][0]


async def test_a_caller_who_leaves_takes_nothing_from_those_who_joined(opened: Opened) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()
    cached = opened(embedder)
    leaves, stays = asyncio.create_task(cached.embed(["a"])), asyncio.create_task(cached.embed(["a"]))
    await turns()

    leaves.cancel()
    await turns()
    embedder.gate.set()

    assert len(await stays) == 1
    assert leaves.cancelled()
    await cached.aclose()


async def test_closing_answers_who_waits_and_gives_up_what_nobody_waits_for(opened: Opened) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()
    cached = opened(embedder)

    waiting = asyncio.create_task(cached.embed(["wanted"]))
    leaving = asyncio.create_task(cached.embed(["given up"]))
    while len(embedder.asked) < 2:
        await asyncio.sleep(0)
    joining = asyncio.create_task(cached.embed(["wanted"]))
    await asyncio.sleep(0)
    leaving.cancel()
    waiting.cancel()
    await asyncio.gather(leaving, waiting, return_exceptions=True)
    closing = asyncio.create_task(cached.aclose())
    while len(cached._questions) > 1:
        await asyncio.sleep(0)
    assert not closing.done()
    embedder.gate.set()
    await closing

    assert len((await joining)[0]) == cached.dimension * 4
    assert embedder.asked == [["wanted"], ["given up"]]
    assert embedder.closed == 1


async def test_closing_does_not_wait_for_an_answer_that_nobody_awaits(opened: Opened) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()  # never set: a provider that does not answer
    cached = opened(embedder)
    leaving = asyncio.create_task(cached.embed(["given up"]))
    while not embedder.asked:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    async with asyncio.timeout(5):
        await cached.aclose()

    assert embedder.closed == 1


async def test_a_failure_reaches_the_caller_and_is_not_remembered(opened: Opened) -> None:
    embedder = Counting()
    embedder.failure = ProviderUnavailable("down")
    cached = opened(embedder)

    with pytest.raises(ProviderUnavailable):
        await cached.embed(["a"])
    embedder.failure = None

    assert len(await cached.embed(["a"])) == 1
    await cached.aclose()


async def test_who_joined_a_call_that_failed_asks_by_itself_once(opened: Opened) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()
    embedder.failure = ProviderUnavailable("down")
    cached = opened(embedder)
    leader = asyncio.create_task(cached.embed(["a", "poison"]))
    await turns()
    follower = asyncio.create_task(cached.embed(["a"]))
    await turns()

    embedder.gate.set()
    with pytest.raises(ProviderUnavailable):
        await leader
    with pytest.raises(ProviderUnavailable):
        await follower
    await cached.aclose()

    assert embedder.asked == [["a", "poison"], ["a"]]


async def test_entries_survive_a_restart(opened: Opened, tmp_path: Path) -> None:
    before = opened(Counting(), persistence_path=tmp_path)
    expected = await before.embed(["a", "b"])
    await before.aclose()
    embedder = Counting()

    after = opened(embedder, persistence_path=tmp_path)
    vectors = await after.embed(["a", "b"])
    await after.aclose()

    assert vectors == expected
    assert embedder.asked == []
    assert (after.metrics.hits, after.metrics.misses) == (2, 0)


async def test_another_process_finds_what_this_one_wrote_while_both_run(opened: Opened, tmp_path: Path) -> None:
    embedder = Counting()
    one, other = opened(Counting(), persistence_path=tmp_path), opened(embedder, persistence_path=tmp_path)

    await one.embed(["a"])
    await one.cache.flush()
    await other.embed(["a"])
    await one.aclose()
    await other.aclose()

    assert embedder.asked == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "foreign", "empty"])
async def test_a_damaged_file_is_a_miss_and_is_removed(opened: Opened, tmp_path: Path, damage: str) -> None:
    before = opened(Counting(), persistence_path=tmp_path)
    expected = await before.embed(["a", "b"])
    await before.aclose()
    name = cache_key("hashing-384", 384, "a").removeprefix("emb:")
    (path,) = tmp_path.rglob(name)
    content = path.read_bytes()
    (stranger,) = tmp_path.rglob(cache_key("hashing-384", 384, "b").removeprefix("emb:"))
    damaged = {
        "truncate": content[:-1],
        "flip": content[:80] + bytes([content[80] ^ 1]) + content[81:],
        "foreign": stranger.read_bytes(),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    embedder = Counting()
    after = opened(embedder, persistence_path=tmp_path)

    vectors = await after.embed(["a"])
    await after.aclose()

    assert (vectors, embedder.asked) == (expected[:1], [["a"]])
    assert path.read_bytes() == content  # written anew


@pytest.mark.parametrize("on_disk", [False, True])
async def test_an_entry_is_forgotten_after_its_ttl(
    opened: Opened, clock: ManualClock, tmp_path: Path, on_disk: bool
) -> None:
    embedder = Counting()
    cached = opened(embedder, ttl_seconds=60, persistence_path=tmp_path if on_disk else None)
    await cached.embed(["a"])
    await cached.cache.flush()

    clock.advance(seconds=59)
    await cached.embed(["a"])
    clock.advance(seconds=1)
    await cached.embed(["a"])
    await cached.aclose()

    assert embedder.asked == [["a"], ["a"]]


async def test_reading_an_entry_from_disk_does_not_lengthen_its_life(
    opened: Opened, clock: ManualClock, tmp_path: Path
) -> None:
    before = opened(Counting(), ttl_seconds=60, persistence_path=tmp_path)
    await before.embed(["a"])
    await before.aclose()
    embedder = Counting()
    cached = opened(embedder, ttl_seconds=60, persistence_path=tmp_path)

    clock.advance(seconds=40)
    await cached.embed(["a"])
    clock.advance(seconds=40)
    await cached.embed(["a"])
    await cached.aclose()

    assert embedder.asked == [["a"]]


async def test_memory_holds_no_more_than_its_bound_and_drops_the_least_used(opened: Opened) -> None:
    embedder = Counting()
    cached = opened(embedder, max_entries=2)

    for text in ("a", "b", "a", "c", "a", "b"):
        await cached.embed([text])
    await cached.aclose()

    assert embedder.asked == [["a"], ["b"], ["c"], ["b"]]


async def test_the_folder_holds_no_more_than_its_bound_and_drops_the_oldest(
    opened: Opened, clock: ManualClock, tmp_path: Path
) -> None:
    cached = opened(Counting(), max_entries=20, persistence_path=tmp_path)
    for number in range(60):
        await cached.embed([f"text {number}"])
        clock.advance(seconds=1)
    await cached.aclose()

    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}

    assert len(names) <= 20
    assert key_digest("hashing-384", 384, "text 59").hex() in names
    assert key_digest("hashing-384", 384, "text 0").hex() not in names


async def test_a_tenants_entries_are_its_own_and_erased_with_it(opened: Opened, tmp_path: Path) -> None:
    embedder = Counting()
    cached = opened(embedder, per_tenant=True, persistence_path=tmp_path)
    ana, ben = cached.for_tenant(ANA), cached.for_tenant(BEN)
    for view in (ana, ben, ana, ben):
        await view.embed(["same words"])

    await cached.erase_tenant(ANA)
    left = {path.relative_to(tmp_path / "v1").parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    await ana.embed(["same words"])
    await ben.embed(["same words"])
    await cached.aclose()

    assert embedder.asked == [["same words"]] * 3
    assert left == {namespace_of(BEN)}
    assert embedder.closed == 1


async def test_what_was_asked_for_before_an_erasure_is_answered_and_not_kept(opened: Opened, tmp_path: Path) -> None:
    embedder = Counting()
    embedder.gate = asyncio.Event()
    cached = opened(embedder, per_tenant=True, persistence_path=tmp_path)
    asking = [asyncio.create_task(cached.for_tenant(tenant).embed(["words"])) for tenant in (ANA, BEN)]
    while len(embedder.asked) < 2:
        await asyncio.sleep(0)

    await cached.erase_tenant(ANA)
    embedder.gate.set()
    answers = await asyncio.gather(*asking)
    await cached.cache.flush()
    left = {path.relative_to(tmp_path / "v1").parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    await cached.for_tenant(ANA).embed(["words"])
    await cached.aclose()

    assert answers[0] == answers[1]
    assert left == {namespace_of(BEN)}
    assert len(embedder.asked) == 3


async def test_what_is_being_read_while_it_is_erased_is_not_remembered(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(Counting(), per_tenant=True, persistence_path=tmp_path)
    await before.for_tenant(ANA).embed(["words"])
    await before.aclose()
    embedder = Counting()
    cached = opened(embedder, per_tenant=True, persistence_path=tmp_path)
    found, go_on = threading.Event(), threading.Event()
    real = cached.cache._read_all

    def slowly(*arguments: object) -> object:
        entries = real(*arguments)  # type: ignore[arg-type]
        found.set()
        go_on.wait(30)
        return entries

    monkeypatch.setattr(cached.cache, "_read_all", slowly)
    reading = asyncio.create_task(cached.for_tenant(ANA).embed(["words"]))
    await asyncio.to_thread(found.wait, 30)

    await cached.erase_tenant(ANA)
    go_on.set()
    await reading
    await cached.for_tenant(ANA).embed(["words"])
    await cached.aclose()

    assert embedder.asked == [["words"]]


async def test_a_tenant_is_erased_after_the_cache_was_closed(opened: Opened, tmp_path: Path) -> None:
    cached = opened(Counting(), per_tenant=True, persistence_path=tmp_path)
    await cached.for_tenant(ANA).embed(["words"])
    await cached.aclose()

    await cached.erase_tenant(ANA)

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_a_tenant_is_erased_from_a_folder_that_could_not_be_used(opened: Opened, tmp_path: Path) -> None:
    before = opened(Counting(), per_tenant=True, persistence_path=tmp_path)
    await before.for_tenant(ANA).embed(["words"])
    await before.aclose()
    tmp_path.chmod(0o777)
    cached = opened(Counting(), per_tenant=True, persistence_path=tmp_path)
    await cached.for_tenant(ANA).embed(["other words"])

    await cached.erase_tenant(ANA)
    await cached.aclose()

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("closed", [False, True])
async def test_an_erasure_that_fails_says_so(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    cached = opened(Counting(), per_tenant=True, persistence_path=tmp_path)
    await cached.for_tenant(ANA).embed(["words"])
    await cached.cache.flush()
    if closed:
        await cached.aclose()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("llmspell.providers.cache_files.shutil.rmtree", refuse)
    with pytest.raises(StorageError, match="cannot be removed"):
        await cached.erase_tenant(ANA)
    await cached.aclose()


async def test_vectors_that_are_not_finite_are_not_kept(opened: Opened) -> None:
    class Broken(Counting):
        async def embed(self, texts: Sequence[str]) -> list[bytes]:
            self.asked.append(list(texts))
            return [struct.pack("<f", math.nan) * self.dimension for _ in texts]

    embedder = Broken()
    cached = opened(embedder)
    for _ in range(2):
        with pytest.raises(ProviderProtocol):
            await cached.embed(["a"])
    await cached.aclose()

    assert len(embedder.asked) == 2


async def test_without_per_tenant_all_tenants_share(opened: Opened) -> None:
    embedder = Counting()
    cached = opened(embedder)

    await cached.for_tenant(ANA).embed(["same words"])
    await cached.for_tenant(BEN).embed(["same words"])
    await cached.aclose()

    assert embedder.asked == [["same words"]]


async def test_the_folder_belongs_to_its_user_alone(opened: Opened, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    cached = opened(Counting(), persistence_path=folder)
    await cached.embed(["a"])
    await cached.aclose()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in folder.rglob("*"))


async def test_a_folder_that_cannot_be_used_costs_nothing_but_the_cache(opened: Opened, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    embedder = Counting()
    cached = opened(embedder, persistence_path=occupied)

    await cached.embed(["a"])
    await cached.embed(["a"])
    await cached.aclose()

    assert embedder.asked == [["a"]]


async def test_hits_and_misses_are_counted_once_per_text(opened: Opened) -> None:
    cached = opened(Counting())

    await cached.embed(["a", "a", "b"])
    await cached.embed(["a", "b", "c"])
    await cached.aclose()

    assert (cached.metrics.hits, cached.metrics.misses) == (2, 3)
    assert cached.metrics.hit_rate == pytest.approx(0.4)


def test_the_hit_rate_of_an_unused_cache_is_zero() -> None:
    metrics = CacheMetrics()
    assert metrics.hit_rate == 0

    metrics.record_hit()
    metrics.record_miss()
    assert metrics.hit_rate == 0.5


def test_keys_differ_in_every_part_and_have_no_ambiguity() -> None:
    keys = {
        cache_key("m", 384, "text"),
        cache_key("n", 384, "text"),
        cache_key("m", 768, "text"),
        cache_key("m", 384, "texts"),
        cache_key("m", 384, "text", tenant=ANA),
        cache_key("m", 384, "text", tenant=BEN),
        cache_key("m3", 84, "text"),
        cache_key("m", 384, "textana"),
    }

    assert len(keys) == 8
    assert all(key.startswith("emb:") and len(key) == 4 + 64 for key in keys)


def test_the_production_preset_has_the_required_values() -> None:
    config = CacheConfig.production()

    assert (config.max_entries, config.ttl_seconds, config.compression_threshold) == (100_000, 3_600, 1_024)
    assert config.persistence_path == Path("/var/cache/llmspell/embeddings")


@pytest.mark.parametrize("config", [{"max_entries": 0}, {"ttl_seconds": 0}, {"compression_threshold": -1}])
def test_a_cache_that_can_hold_nothing_is_refused(config: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting):
        CacheConfig(**config)  # type: ignore[arg-type]
