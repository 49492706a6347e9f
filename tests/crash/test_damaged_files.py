"""Files of an embedded store that rot or are torn: no crash, no hang, no error but ours, and what has a checksum is never answered
wrong.

SQLite has no checksum for its pages. So a bit that flips inside of a value that has none of its own is not noticed; which values
those are stands in `docs/explanation/durability.md`, and here as `UNCHECKED`. Damage to an artifact's rows through SQL, on both
databases: `test_damaged_artifacts.py`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from tests.crash.damaged_reader import QUESTIONS, SERVICE, TENANT, answers, settings
from tests.crash.torn import contradictions
from tests.fixtures.seeds import usual
from tests.fixtures.soak import size, tell

import llmspell
from llmspell.security.keyring import new_master_key
from llmspell.spell import Tenant

SEED = usual(11)
PAGE = 4_096
FLIPS = size(ci=200, soak=5_000)
TRUNCATIONS = size(ci=40, soak=1_000)
LOG_HARMS = size(ci=30, soak=2_000)
LIMIT_S = 3_000
UNCHECKED = {"keys", "memories", "found", "facts", "workflow_states", "events", "sessions", "artifacts"}
"""Questions whose answers have no checksum on the way from the disk."""
MASTER = new_master_key()


class Verdict(msgspec.Struct):
    """What a damaged store said: which questions it answered right, refused, answered otherwise; what it raised."""

    exit_code: int
    right: set[str]
    refused: set[str]
    differ: set[str]
    raised: list[str]
    heard: dict[str, Any]

    @property
    def kind(self) -> str:
        return "unnoticed" if self.differ else "detected" if self.refused else "harmless"


class Reader:
    """The process that opens damaged stores, and what the undamaged one answers."""

    def __init__(self, process: subprocess.Popen[str], expected: dict[str, Any], place: Path) -> None:
        self._process = process
        self.expected = expected
        self._place = place

    def judge(self, files: dict[str, bytes]) -> Verdict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for path in self._place.iterdir():
            path.unlink()
        for name, content in files.items():
            (self._place / name).write_bytes(content)
        self._process.stdin.write(f"{self._place / 'store.db'}\n")
        self._process.stdin.flush()
        exit_code = int(self._process.stdout.readline())
        heard = json.loads((self._place / "store.db.json").read_text()) if exit_code == 0 else {}
        verdict = Verdict(exit_code, set(), set(), set(), [], heard)
        for name, (what, answer) in heard.items():
            if what == "raised":
                verdict.raised.append(f"{name}: {answer}")
            elif what == "error":
                verdict.refused.add(name)
            else:
                (verdict.right if answer == self.expected[name] else verdict.differ).add(name)
        return verdict

    def require_sound(self, verdict: Verdict, what: str) -> None:
        """Require what holds whatever the damage."""
        assert verdict.exit_code == 0, f"{what}: the process ended with {verdict.exit_code} (-14: it hung)"
        assert verdict.raised == [], what
        assert verdict.differ <= UNCHECKED | self.absent(verdict), f"{what}: answered wrong, although it has a checksum"

    def absent(self, verdict: Verdict) -> set[str]:
        """Questions whose answer lacks something and holds no wrong value: a damaged key or index does not find its row."""
        heard = {name: answer for name, (what, answer) in verdict.heard.items() if what == "answer"}
        lacking = set()
        # A checksum is of the data alone: through a damaged index another agent's state may come, which is whole.
        if all(
            state is None or state in self.expected["agent_states"] for state in heard.get("agent_states", ["wrong"])
        ):
            lacking.add("agent_states")
        if "contents" in heard and all(served in (None, wanted) for wanted, served in heard["contents"].items()):
            lacking.add("contents")
        if heard.get("provider_key", "") is None:
            lacking.add("provider_key")
        if "audit" in heard:
            intact, entries = heard["audit"]
            if not intact or all(entry in self.expected["audit"][1] for entry in entries):
                lacking.add("audit")
        return lacking


async def fill(tenant: Tenant, *, seed: int = SEED) -> None:
    choose = random.Random(seed)
    await tenant.kv.set_batch({f"key-{number}": choose.randbytes(300) for number in range(20)})
    for number in range(12):
        await tenant.memory.add(
            f"Memory {number} is about {choose.random()}, and says so at some length.", metadata={"n": number}
        )
        await tenant.graph.assert_fact("Ada", "knows", f"number-{number}", properties={"n": number})
        await tenant.event_log.append("rot.begins", {"n": number, "pad": choose.random()})
        await tenant.audit.record("rot", principal="test", resource=f"r-{number}", details={"n": number})
    for number in range(6):
        await tenant.agent_state.save(f"agent-{number}", {"step": number, "pad": "x" * 600})
    await tenant.workflow_state.create("workflow", {"step": 1, "pad": "y" * 600})
    session = await tenant.sessions.create(data={"goal": "last"})
    for name, content in (
        ("plain", choose.randbytes(20_000)),
        ("compressed", b"again and again " * 9_000),
        ("chunks", choose.randbytes(1_100_000)),
    ):
        await tenant.artifacts.put(session.id, name, content)
    await tenant.api_keys.set(SERVICE, "sk-of-a-provider")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


@pytest.fixture
async def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a store that was closed: all of it is in the database."""
    (tmp_path / "whole").mkdir()
    url = f"sqlite:///{tmp_path / 'whole' / 'store.db'}"
    async with llmspell.connect(url, settings=settings(MASTER.reveal()), embedder="hashing") as spell:
        await fill(spell.tenant(TENANT))
    return files_in(tmp_path / "whole")


@pytest.fixture
async def logged(tmp_path: Path, whole: dict[str, bytes]) -> dict[str, bytes]:
    """The same with later writes that only the log holds, as after a kill."""
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "store.db").write_bytes(whole["store.db"])
    url = f"sqlite:///{tmp_path / 'logged' / 'store.db'}"
    async with llmspell.connect(url, settings=settings(MASTER.reveal()), embedder="hashing") as spell:
        for number in range(20):
            await spell.tenant(TENANT).kv.set(f"later-{number}", b"v" * 500)
            await spell.tenant(TENANT).memory.add(f"Later memory {number}.")
        files = files_in(tmp_path / "logged")
    assert files["store.db"] == whole["store.db"]
    assert len(files["store.db-wal"]) > 100_000
    return files


@pytest.fixture
async def reader(tmp_path: Path, whole: dict[str, bytes]) -> AsyncIterator[Reader]:
    place = tmp_path / "damaged"
    place.mkdir()
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "store.db").write_bytes(whole["store.db"])
    expected = json.loads(json.dumps(await answers(str(tmp_path / "asked" / "store.db"), MASTER.reveal())))
    assert {what for what, _ in expected.values()} == {"answer"}, expected
    command = [sys.executable, str(Path(__file__).parent / "damaged_reader.py"), MASTER.reveal()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield Reader(process, {name: answer for name, (_, answer) in expected.items()}, place)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0


def pages_in_use(files: dict[str, bytes], folder: Path) -> dict[str, list[int]]:
    """The numbers of the pages of each table and index, from 1; those that nothing uses are in none."""
    (folder / "pages.db").write_bytes(files["store.db"])
    pages: dict[str, list[int]] = {}
    with closing(apsw.Connection(str(folder / "pages.db"))) as connection:
        for name, page in connection.execute("SELECT name, pageno FROM dbstat ORDER BY pageno"):
            pages.setdefault(str(name), []).append(int(page))
    return pages


def page_of(files: dict[str, bytes], page: int) -> bytes:
    return files["store.db"][(page - 1) * PAGE : page * PAGE]


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.timeout(LIMIT_S)
async def test_a_flipped_bit_crashes_nothing_and_what_has_a_checksum_is_never_answered_wrong(
    whole: dict[str, bytes], reader: Reader, tmp_path: Path
) -> None:
    choose, found = random.Random(SEED), Counter[str]()
    trees = pages_in_use(whole, tmp_path)
    with_rows = [name for name in trees if b"\x00" * 4000 not in page_of(whole, trees[name][0])]
    for _ in range(FLIPS):
        # A tree first, then a page: by pages alone nearly all would hit contents, which are tried below. And of nine bytes in
        # ten those that hold something: most trees here are nearly empty.
        page = choose.choice(trees[choose.choice(with_rows)])
        used = [at for at, byte in enumerate(page_of(whole, page)) if byte] if choose.random() < 0.9 else range(PAGE)
        bit = ((page - 1) * PAGE + choose.choice(used)) * 8 + choose.randrange(8)

        verdict = reader.judge({"store.db": flip(whole["store.db"], bit)})

        reader.require_sound(verdict, f"bit {bit}")
        found[verdict.kind] += 1

    tell(
        bits_flipped=FLIPS,
        flips_detected=found["detected"],
        flips_harmless=found["harmless"],
        flips_unnoticed=found["unnoticed"],
    )
    assert found["detected"] > FLIPS // 10
    assert found["harmless"] > 0


@pytest.mark.timeout(LIMIT_S)
async def test_a_flipped_bit_in_a_content_is_always_found(
    whole: dict[str, bytes], reader: Reader, tmp_path: Path
) -> None:
    """The pages of the contents alone: nearly the whole file."""
    choose = random.Random(SEED)
    (tmp_path / "pages.db").write_bytes(whole["store.db"])
    with closing(apsw.Connection(str(tmp_path / "pages.db"))) as connection:
        query = (
            "SELECT pageno FROM dbstat WHERE name IN ('artifact_content', 'artifact_chunks') AND pagetype = 'overflow'"
        )
        pages = [page for (page,) in connection.execute(query)]
    for _ in range(FLIPS // 8):
        bit = (choose.choice(pages) - 1) * PAGE * 8 + choose.randrange(32, PAGE * 8)

        verdict = reader.judge({"store.db": flip(whole["store.db"], bit)})

        reader.require_sound(verdict, f"bit {bit}")
        assert "contents" in verdict.refused or verdict.kind == "harmless", f"bit {bit}: {verdict}"


@pytest.mark.timeout(LIMIT_S)
async def test_a_truncated_file_is_refused(whole: dict[str, bytes], reader: Reader) -> None:
    choose, content = random.Random(SEED), whole["store.db"]
    for _ in range(TRUNCATIONS):
        length = choose.randrange(1, len(content) - PAGE)

        verdict = reader.judge({"store.db": content[:length]})

        reader.require_sound(verdict, f"cut at {length}")
        assert verdict.refused == QUESTIONS.keys(), f"cut at {length}: {verdict}"
    tell(files_truncated=TRUNCATIONS)


@pytest.mark.timeout(LIMIT_S)
async def test_a_damaged_log_takes_back_the_latest_writes_and_never_a_part_of_one(
    logged: dict[str, bytes], whole: dict[str, bytes], reader: Reader, tmp_path: Path
) -> None:
    choose, log, lost = random.Random(SEED), logged["store.db-wal"], 0
    harms: list[Callable[[], bytes]] = [
        lambda: flip(log, choose.randrange(len(log) * 8)),
        lambda: log[: choose.randrange(len(log))],
        lambda: log[:32] + choose.randbytes(len(log) - 32),
    ]
    named = {"empty": b"", "nothing but noise": choose.randbytes(len(log)), "zeros": bytes(len(log))}
    for name, harmed in [*named.items(), *((f"harm {n}", harms[n % len(harms)]()) for n in range(LOG_HARMS))]:
        verdict = reader.judge({"store.db": logged["store.db"], "store.db-wal": harmed})

        reader.require_sound(verdict, name)
        assert not verdict.refused, f"{name}: {verdict.refused}"
        keys = verdict.heard["keys"][1]
        later = [key for key in keys if key.startswith("later-")]
        assert sorted(later) == sorted(f"later-{number}" for number in range(len(later))), f"{name}: not the first ones"
        memories = [one[1] for one in verdict.heard["memories"][1] if one[1].startswith("Later")]
        assert len(later) - len(memories) in (0, 1), name
        assert {key: value for key, value in keys.items() if key not in later} == reader.expected["keys"], name
        lost += len(later) < 20
        with closing(apsw.Connection(str(tmp_path / "damaged" / "store.db"))) as connection:
            assert connection.execute("PRAGMA integrity_check").get == "ok"
            assert [
                what for what in contradictions(connection) if "vector" not in what and "transaction" not in what
            ] == []
    tell(logs_damaged=LOG_HARMS + len(named))
    assert lost > LOG_HARMS // 2, "the damage met no write"


async def test_without_its_log_a_store_is_as_it_was_at_the_last_checkpoint(
    logged: dict[str, bytes], reader: Reader
) -> None:
    verdict = reader.judge({"store.db": logged["store.db"]})

    assert verdict.right == QUESTIONS.keys()


async def test_the_log_of_another_store_crashes_nothing_and_serves_no_wrong_content(
    logged: dict[str, bytes], reader: Reader, tmp_path: Path
) -> None:
    """The library takes it for its own, as its format wants it: answers are the other store's. Nothing can tell."""
    (tmp_path / "other").mkdir()
    url = f"sqlite:///{tmp_path / 'other' / 'store.db'}"
    async with llmspell.connect(url, settings=settings(MASTER.reveal()), embedder="hashing") as spell:
        await fill(spell.tenant(TENANT), seed=SEED + 1)
        other = files_in(tmp_path / "other")["store.db-wal"]

    verdict = reader.judge({"store.db": logged["store.db"], "store.db-wal": other})

    assert verdict.exit_code == 0
    assert verdict.raised == []
    assert "contents" in verdict.refused or "contents" in reader.absent(verdict)
