"""The synchronous twin: the same verbs, the same errors, and no way to hang or to leave half of a write."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmspell import Settings, Spell, Tenant, Transaction, blocking, connect_blocking
from llmspell.admin import Admin, TenantRegistry
from llmspell.blocking import BlockingMemory, BlockingSpell, BlockingTenant, BlockingTransaction
from llmspell.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    InvalidLimit,
    NotFound,
    TransactionClosed,
    TransactionError,
    TransactionTimeout,
    Unavailable,
    Unsupported,
)
from llmspell.memory.knowledge import KnowledgeGraph
from llmspell.memory.memory import Memory
from llmspell.memory.vectors import VectorCollection
from llmspell.providers.hashing import HashingEmbedder
from llmspell.storage.contracts.artifacts import Artifacts
from llmspell.storage.contracts.kv import KV
from llmspell.storage.contracts.sessions import Sessions

ROOT = Path(__file__).resolve().parents[2]
TWINS = [
    (KV, blocking.BlockingKV),
    (Sessions, blocking.BlockingSessions),
    (Artifacts, blocking.BlockingArtifacts),
    (VectorCollection, blocking.BlockingVectorCollection),
    (KnowledgeGraph, blocking.BlockingKnowledgeGraph),
    (Memory, BlockingMemory),
    (TenantRegistry, blocking.BlockingTenantRegistry),
    (Admin, blocking.BlockingAdmin),
    (Spell, BlockingSpell),
    (Tenant, BlockingTenant),
    (Transaction, BlockingTransaction),
]
PROCESS_LIMIT_S = 60
TYPING_LIMIT_S = 240
WAIT_S = 30.0
TRIES_MAX = 1_000_000


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def spell(url: str) -> Iterator[BlockingSpell]:
    with connect_blocking(url, settings=Settings(), embedder="hashing") as opened:
        yield opened


@pytest.fixture
def acme(spell: BlockingSpell) -> BlockingTenant:
    return spell.tenant("acme")


class ScriptedEmbedder(HashingEmbedder):
    """Embeds after it has done what a test wants done in the portal."""

    def __init__(self, script: Callable[[], object]) -> None:
        super().__init__()
        self._script = script
        self.cancelled = False

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        try:
            done = self._script()
            if inspect.isawaitable(done):
                await done
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return await super().embed(texts)


async def interrupt_and_wait() -> None:
    """What Ctrl-C does while the portal works and the main thread waits for it."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    await asyncio.Event().wait()


def runner_of(twin: object) -> Any:
    """What runs the calls of a twin; users, and therefore the stub, know nothing of it."""
    return vars(twin)["_runner"]


@pytest.mark.parametrize(("original", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_a_twin_has_every_verb_and_every_verb_blocks(original: type, twin: type) -> None:
    verbs = {name for name in vars(original) if not name.startswith("_")}

    assert verbs <= set(dir(twin))
    assert not [name for name in verbs if inspect.iscoroutinefunction(getattr(twin, name))]


@pytest.mark.parametrize(("original", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_a_twin_is_documented_as_its_original(original: type, twin: type) -> None:
    verbs = [name for name in vars(original) if not name.startswith("_")]

    assert {name: getattr(twin, name).__doc__ for name in verbs} == {
        name: getattr(original, name).__doc__ for name in verbs
    }
    assert inspect.getdoc(twin) == inspect.getdoc(original)


def test_a_verb_shows_the_signature_of_its_original() -> None:
    assert inspect.signature(BlockingMemory.add) == inspect.signature(Memory.add)


def test_the_stub_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_blocking_stub.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, f"{done.stderr}Run python scripts/generate_blocking_stub.py."


def test_the_module_behind_the_stub_is_typed_too(tmp_path: Path) -> None:
    """A type checker that finds the stub never looks into the module, so it is shown a copy under another name."""
    copied = tmp_path / "twin_under_test.py"
    shutil.copy(blocking.__file__, copied)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(copied)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TYPING_LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_every_concern_answers(acme: BlockingTenant) -> None:
    acme.kv.set("k", b"v")
    kept = acme.memory.add("Ada moved to Zurich in May.", session="s1", role="user")
    acme.graph.assert_fact("Ada", "lives_in", "Zurich", valid_from="2026-05-01")
    (vector,) = acme.vectors.insert({"embedding": [1.0] * 384})

    assert acme.kv.get("k") == b"v"
    assert [hit.id for hit in acme.memory.search("zurich")] == [kept.id]
    assert [fact.object for fact in acme.graph.neighbours("Ada")] == ["Zurich"]
    assert [hit.id for hit in acme.vectors.search([1.0] * 384)] == [vector]
    assert "Ada lives in Zurich" in acme.context("where does Ada live?").text


def test_the_operators_side_answers(spell: BlockingSpell) -> None:
    created = spell.tenants.create("new", name="New")

    assert spell.tenants.get("new") == created
    assert spell.admin.migration_version() == spell.admin.migration_status().version
    assert spell.admin.pool_status().waiting == 0
    spell.admin.check()
    assert spell.backend in ("memory", "sqlite")
    assert isinstance(spell.capabilities, frozenset)


def test_tenants_of_a_twin_are_apart(spell: BlockingSpell) -> None:
    spell.tenant("a").kv.set("k", b"of a")

    assert spell.tenant("b").kv.get("k") is None
    assert spell.tenant().id == "default"


def test_an_error_keeps_its_type_its_fields_and_its_traceback(acme: BlockingTenant) -> None:
    with pytest.raises(InvalidLimit) as caught:
        acme.memory.search("x", limit=0)

    assert caught.value.field == "limit"
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[0] == "test_an_error_keeps_its_type_its_fields_and_its_traceback"
    assert frames[-1] == "require_limit"


def test_a_transaction_keeps_everything_together(acme: BlockingTenant) -> None:
    with acme.transaction() as tx:
        tx.kv.set("k", b"v")
        tx.memory.add("Ada moved.")
        tx.graph.assert_fact("Ada", "lives_in", "Zurich")
        tx.vectors.insert({"embedding": [1.0] * 384})

    assert acme.kv.get("k") == b"v"
    assert (acme.memory.count(), acme.graph.stats().facts, acme.vectors.stats().total_vectors) == (1, 1, 1)


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_a_block_left_by_an_exception_keeps_nothing_and_passes_it_on(
    acme: BlockingTenant, error: BaseException
) -> None:
    def leave() -> None:
        with acme.transaction() as tx:
            tx.kv.set("k", b"v")
            raise error

    with pytest.raises(type(error)) as caught:
        leave()

    assert caught.value is error
    assert acme.kv.get("k") is None


def test_a_savepoint_takes_back_its_block_alone(acme: BlockingTenant) -> None:
    with acme.transaction() as tx:
        tx.kv.set("a", b"1")
        with contextlib.suppress(ValueError), tx.savepoint():
            tx.kv.set("b", b"1")
            raise ValueError
        with tx.savepoint():
            tx.kv.set("c", b"1")
        assert tx.outcome == "open"

    assert tx.outcome == "committed"
    assert acme.kv.list_keys() == ["a", "c"]


def test_a_call_under_a_key_is_done_once(acme: BlockingTenant) -> None:
    first = acme.once("k").memory.add("Ada likes tea.")

    assert acme.once("k").memory.add("Ada likes tea.") == first
    with pytest.raises(IdempotencyConflict):
        acme.once("k").kv.set("a", b"1")
    assert acme.memory.count() == 1


def test_work_is_run_again_after_a_conflict_and_once_under_a_key(acme: BlockingTenant) -> None:
    runs = []

    def work(tx: BlockingTransaction) -> int:
        runs.append(tx)
        tx.kv.set(f"run-{len(runs)}", b"")
        if len(runs) < 3:
            raise Conflict
        return len(runs)

    assert [acme.run(work, idempotency_key="k") for _ in range(2)] == [3, 3]
    assert acme.kv.list_keys() == ["run-3"]
    with pytest.raises(Conflict, match="last"):
        acme.run(_always_second, attempts=2)


def test_async_work_is_refused_and_nothing_is_kept(acme: BlockingTenant) -> None:
    async def work(tx: BlockingTransaction) -> None:
        tx.kv.set("k", b"")

    with pytest.raises(InvalidInput, match="plain function"):
        acme.run(work)

    assert acme.kv.list_keys() == []


def test_a_write_beside_an_open_transaction_is_refused_at_once(acme: BlockingTenant) -> None:
    with ThreadPoolExecutor(1) as other:
        with acme.transaction() as tx:
            tx.kv.set("k", b"")
            with pytest.raises(TransactionError, match="write through the transaction itself"):
                acme.kv.set("beside", b"")
            with pytest.raises(TransactionError), acme.transaction():
                pass
            later = other.submit(acme.kv.set, "by another thread", b"")
        later.result(WAIT_S)

    acme.kv.set("after", b"")
    assert acme.kv.list_keys() == ["after", "by another thread", "k"]


def _always_second(tx: BlockingTransaction) -> None:
    raise Conflict("the last one")


def test_threads_that_read_and_write_back_lose_no_update(acme: BlockingTenant) -> None:
    acme.kv.set("n", b"0")

    def increment(tx: BlockingTransaction) -> None:
        tx.kv.set("n", str(int(tx.kv.get("n") or b"") + 1).encode())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: acme.run(increment, attempts=1_000), range(40)))

    assert acme.kv.get("n") == b"40"


def test_a_transaction_is_of_no_use_after_its_block(acme: BlockingTenant) -> None:
    with acme.transaction() as tx:
        tx.kv.set("k", b"v")

    with pytest.raises(TransactionClosed):
        tx.kv.set("k", b"later")
    assert acme.kv.get("k") == b"v"


def outlive(acme: BlockingTenant) -> None:
    with acme.transaction(timeout_s=0.01) as tx:
        for _ in range(TRIES_MAX):
            tx.kv.set("k", b"v")


def test_a_transaction_ends_at_its_limit_and_keeps_nothing(acme: BlockingTenant) -> None:
    with pytest.raises(TransactionTimeout):
        outlive(acme)

    assert acme.kv.get("k") is None


def test_a_block_that_hides_the_time_limit_is_told_all_the_same(acme: BlockingTenant) -> None:
    def hide() -> None:
        with acme.transaction(timeout_s=0.01) as tx, contextlib.suppress(TransactionTimeout):
            for _ in range(TRIES_MAX):
                tx.kv.set("k", b"v")

    with pytest.raises(TransactionTimeout):
        hide()


def test_an_impossible_time_limit_is_refused(acme: BlockingTenant) -> None:
    with pytest.raises(InvalidLimit) as caught, acme.transaction(timeout_s=0):
        pass

    assert caught.value.field == "timeout_s"


def test_an_interrupt_cancels_the_call_and_leaves_nothing_behind(url: str) -> None:
    embedder = ScriptedEmbedder(interrupt_and_wait)
    with connect_blocking(url, settings=Settings(), embedder=embedder) as spell:
        acme = spell.tenant("acme")

        with pytest.raises(KeyboardInterrupt):
            acme.memory.add("Ada moved.")

        assert embedder.cancelled
        assert acme.memory.count() == 0


def test_an_interrupt_in_a_transaction_rolls_it_back(acme: BlockingTenant) -> None:
    def interrupted() -> None:
        with acme.transaction() as tx:
            tx.kv.set("k", b"v")
            runner_of(tx).run(interrupt_and_wait)

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert acme.kv.get("k") is None


def test_a_block_that_hides_an_interrupt_is_told_that_nothing_was_kept(acme: BlockingTenant) -> None:
    def hide() -> None:
        with acme.transaction() as tx:
            tx.kv.set("k", b"v")
            with contextlib.suppress(KeyboardInterrupt):
                runner_of(tx).run(interrupt_and_wait)

    with pytest.raises(TransactionClosed, match="rolled back"):
        hide()

    assert acme.kv.get("k") is None


def write_until_interrupted(acme: BlockingTenant, rounds: list[int], interrupter: threading.Thread) -> None:
    interrupter.start()
    for number in range(TRIES_MAX):
        with acme.transaction() as tx:
            tx.kv.set("a", b"%d" % number)
            tx.kv.set("b", b"%d" % number)
        rounds.append(number)


@pytest.mark.parametrize("after", range(15))
def test_an_interrupt_at_any_moment_leaves_whole_transactions(acme: BlockingTenant, after: int) -> None:
    rounds: list[int] = []

    def interrupt() -> None:
        while len(rounds) < after:
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted(acme, rounds, thread)
    thread.join()

    assert acme.kv.get("a") == acme.kv.get("b")


def test_an_embedder_that_exits_does_not_take_the_portal_along(url: str) -> None:
    with connect_blocking(url, settings=Settings(), embedder=ScriptedEmbedder(lambda: sys.exit(3))) as spell:
        with pytest.raises(SystemExit):
            spell.tenant().memory.add("Ada moved.")

        assert spell.tenant().memory.count() == 0


def test_a_call_from_the_portal_itself_is_refused(acme: BlockingTenant) -> None:
    with pytest.raises(Unsupported, match="wait for itself"):
        acme.memory.add_many([{"text": "Ada moved."}], progress=lambda done: acme.kv.set("done", b"%d" % done))


async def test_a_thread_with_a_running_loop_may_block(url: str) -> None:
    with connect_blocking(url, settings=Settings(), embedder="hashing") as spell:
        spell.tenant().kv.set("k", b"v")

        assert spell.tenant().kv.get("k") == b"v"
    assert asyncio.get_running_loop().is_running()


def test_opening_makes_no_loop_the_current_one_of_the_caller() -> None:
    code = (
        "import asyncio, llmspell\n"
        "before = asyncio.get_event_loop_policy()._local.__dict__.get('_loop')\n"
        "llmspell.connect_blocking('memory://', settings=llmspell.Settings(), embedder='hashing').close()\n"
        "assert asyncio.get_event_loop_policy()._local.__dict__.get('_loop') is before\n"
    )

    assert _process(code).returncode == 0


def test_a_twin_may_be_shared_between_threads(acme: BlockingTenant) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            acme.kv.set(f"{thread}/{number}", b"v")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))

    assert len(acme.kv.list_keys()) == 160


def test_no_update_is_lost_between_threads(acme: BlockingTenant) -> None:
    acme.kv.set("n", b"0")

    def count(_: int) -> None:
        with acme.transaction() as tx:
            tx.kv.set("n", b"%d" % (int(tx.kv.get("n") or b"") + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(20)))

    assert acme.kv.get("n") == b"20"


def test_one_transaction_may_be_used_by_several_threads(acme: BlockingTenant) -> None:
    with acme.transaction() as tx, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: tx.kv.set(str(number), b"v"), range(40)))

    assert len(acme.kv.list_keys()) == 40


def test_closing_ends_the_thread_and_may_be_repeated(url: str) -> None:
    before = set(threading.enumerate())
    spell = connect_blocking(url, settings=Settings(), embedder="hashing")
    acme = spell.tenant("acme")

    spell.close()
    spell.close()

    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "llmspell-portal"]
    with pytest.raises(Unavailable, match="closed"):
        acme.kv.get("k")
    with pytest.raises(Unavailable, match="closed"), acme.transaction():
        pass


def test_a_store_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    with pytest.raises(Unavailable):
        connect_blocking(f"sqlite:///{tmp_path / 'missing' / 'store.db'}", settings=Settings(), embedder="hashing")

    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "llmspell-portal"]


def test_closing_inside_of_a_transaction_rolls_it_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    spell = connect_blocking(url, settings=Settings(), embedder="hashing")

    def close_inside() -> None:
        with spell.tenant().transaction() as tx:
            tx.kv.set("k", b"v")
            spell.close()

    with pytest.raises(Unavailable, match="closed"):
        close_inside()

    with connect_blocking(url, settings=Settings(), embedder="hashing") as again:
        assert again.tenant().kv.get("k") is None


def test_an_exception_of_the_block_outlives_a_store_closed_inside_of_it() -> None:
    spell = connect_blocking("memory://", settings=Settings(), embedder="hashing")

    def close_inside() -> None:
        with spell.tenant().transaction():
            spell.close()
            raise NotFound

    with pytest.raises(NotFound):
        close_inside()


def test_closing_lets_calls_of_other_threads_finish(url: str) -> None:
    started = threading.Event()
    portals: list[Any] = []

    async def until_closing() -> None:
        started.set()
        while portals[0]._closing is None:
            await asyncio.sleep(0)

    spell = connect_blocking(url, settings=Settings(), embedder=ScriptedEmbedder(until_closing))
    portals.append(runner_of(spell))
    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(spell.tenant().memory.add, "Ada moved.")
        assert started.wait(WAIT_S)
        spell.close()

        assert added.result(WAIT_S).content == "Ada moved."


def _process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_LIMIT_S,
        check=False,
    )


def test_a_store_left_open_does_not_keep_the_interpreter_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    left_open = _process(
        "import llmspell\n"
        f"spell = llmspell.connect_blocking({url!r}, settings=llmspell.Settings(), embedder='hashing')\n"
        "spell.tenant().kv.set('k', b'v')\n"
        "block = spell.tenant().transaction()\n"
        "block.__enter__().kv.set('half', b'v')\n"
    )

    assert (left_open.returncode, left_open.stderr) == (0, "")
    assert not (tmp_path / "store.db-wal").exists(), "it was not closed, only dropped"
    with connect_blocking(url, settings=Settings(), embedder="hashing") as again:
        assert again.tenant().kv.list_keys() == ["k"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_is_told_to_open_the_store_itself() -> None:
    done = _process(
        "import os, llmspell\n"
        "spell = llmspell.connect_blocking('memory://', settings=llmspell.Settings(), embedder='hashing')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        spell.tenant().kv.get('k')\n"
        "    except llmspell.LlmspellError as error:\n"
        "        os._exit(7 if error.code == 'LS-3001' else 8)\n"
        "    os._exit(9)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "spell.close()\n"
    )

    assert (done.returncode, done.stderr) == (0, "")
