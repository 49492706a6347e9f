"""Eight writers and one quota: what is stored is exactly the limit, and the counter says what the rows say.

Each thread has a store of its own, with its own connections (on SQLite: its own writer of the file), and all of them begin at once.
Nothing here is about durability, so the file is synchronised less.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.soak import size, tell
from tests.fixtures.stores import DATABASES, operator_url_of, url_of

import llmspell
from llmspell.blocking import BlockingSpell, BlockingTenant
from llmspell.errors import Conflict, QuotaExceeded
from llmspell.settings import PostgresSettings, Settings, SqliteSettings, StorageSettings
from llmspell.storage.contracts.tenants import MEGABYTE, NO_LIMITS, QuotaLimits, TenantUsage

THREADS = 8
EACH = 60
LIMIT = 100
ROUNDS = size(ci=20, soak=500)
MIXED_ROUNDS = size(ci=4, soak=200)
TRIES_MAX = 500
PROCESSES = 4
POOLED_EACH = size(ci=20, soak=EACH)
TAKING_EACH = 20
TAKING_ROUNDS = size(ci=5, soak=200)
VALUE = bytes(MEGABYTE // LIMIT)
VECTOR = [0.5] * 384
WAIT_S = 120
EVERYWHERE = (*DATABASES, "pgbouncer")


def remember(tenant: BlockingTenant, name: str) -> None:
    tenant.memory.add(name, embedding=VECTOR)


def keep(tenant: BlockingTenant, name: str) -> None:
    tenant.kv.set(name, VALUE)


def place(tenant: BlockingTenant, name: str) -> None:
    tenant.vectors.insert({"embedding": VECTOR, "metadata": {"name": name}})


def take(tenant: BlockingTenant, name: str) -> None:
    tenant.record_usage("embeddings", 1)


def together(tenant: BlockingTenant, name: str) -> None:
    """Write in a transaction, again from the beginning while another was first, as an application has to."""
    for _ in range(TRIES_MAX):
        try:
            with tenant.transaction() as tx:
                tx.kv.set(name, b"")
                tx.vectors.insert({"embedding": VECTOR})
            return
        except Conflict:
            continue
    raise AssertionError(f"another transaction was first {TRIES_MAX} times")


Write = Callable[[BlockingTenant, str], None]
WRITES: Sequence[tuple[Write, QuotaLimits, Callable[[TenantUsage], int]]] = (
    (place, QuotaLimits.only(max_vectors=LIMIT), lambda usage: usage.vectors.used),
    (remember, QuotaLimits.only(max_documents=LIMIT), lambda usage: usage.documents.used),
    (keep, QuotaLimits.only(max_storage_mb=1), lambda usage: usage.storage_bytes.used // len(VALUE)),
    (remember, QuotaLimits.only(max_vectors=LIMIT, max_documents=LIMIT + 1), lambda usage: usage.vectors.used),
)


def settings_of(backend: str, request: pytest.FixtureRequest) -> Settings:
    postgres = PostgresSettings(
        pool_size=1,
        operator_url=operator_url_of(backend, request),
        pooler="transaction" if backend == "pgbouncer" else "none",
    )
    return Settings(storage=StorageSettings(postgres=postgres, sqlite=SqliteSettings(readers=1, synchronous="NORMAL")))


@contextmanager
def opened_by_each(backend: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[list[BlockingSpell]]:
    settings, url = settings_of(backend, request), url_of(backend, request, folder)
    with ExitStack() as stack:
        yield [
            stack.enter_context(llmspell.connect_blocking(url, settings=settings, embedder="hashing"))
            for _ in range(THREADS)
        ]


@pytest.fixture(params=DATABASES)
def spells(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[BlockingSpell]]:
    """One store, opened by each thread."""
    with opened_by_each(request.param, request, tmp_path) as opened:
        yield opened


@pytest.fixture(params=EVERYWHERE)
def spells_everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[BlockingSpell]]:
    """The same, and through a pooler, where eight clients have four connections to the server."""
    with opened_by_each(request.param, request, tmp_path) as opened:
        yield opened


def registered(spell: BlockingSpell, quotas: QuotaLimits) -> str:
    id = f"race-{uuid4()}"
    spell.tenants.create(id, quotas=quotas)
    return id


def at_once(spells: Sequence[BlockingSpell], work: Callable[[int, BlockingSpell], Counter[str]]) -> Counter[str]:
    """Run `work` on every store at once, and return what all of them counted."""
    barrier = threading.Barrier(len(spells))

    def begin(number: int, spell: BlockingSpell) -> Counter[str]:
        barrier.wait(WAIT_S)
        return work(number, spell)

    with ThreadPoolExecutor(len(spells)) as pool:
        futures = [pool.submit(begin, number, spell) for number, spell in enumerate(spells)]
        return sum((future.result(WAIT_S) for future in futures), Counter())


def writing(tenant: str, write: Write, each: int = EACH) -> Callable[[int, BlockingSpell], Counter[str]]:
    def work(number: int, spell: BlockingSpell) -> Counter[str]:
        done: Counter[str] = Counter()
        handle = spell.tenant(tenant)
        for count in range(each):
            try:
                write(handle, f"{number}-{count}")
            except QuotaExceeded:
                done["refused"] += 1
            else:
                done["stored"] += 1
        return done

    return work


def recounted(spell: BlockingSpell, tenant: str) -> TenantUsage:
    """Return a tenant's use as the rows tell it, after its counters said the same."""
    counted = spell.tenants.usage(tenant)
    spell.tenants.update(tenant, quotas=NO_LIMITS)
    rows = spell.tenants.usage(tenant)
    for quota in ("documents", "storage_bytes", "vectors"):
        assert getattr(counted, quota).used == getattr(rows, quota).used, quota
    return rows


@pytest.mark.timeout(3_600)
def test_eight_writers_store_exactly_what_the_quota_grants(spells: list[BlockingSpell]) -> None:
    for number in range(ROUNDS):
        write, quotas, used = WRITES[number % len(WRITES)]
        tenant = registered(spells[0], quotas)

        done = at_once(spells, writing(tenant, write))

        assert done == {"stored": LIMIT, "refused": THREADS * EACH - LIMIT}, (number, write.__name__, done)
        assert used(recounted(spells[0], tenant)) == LIMIT
    tell(quota_races=ROUNDS, operations=ROUNDS * THREADS * EACH)


@pytest.mark.timeout(3_600)
def test_writers_through_a_pooler_store_exactly_what_the_quota_grants(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with opened_by_each("pgbouncer", request, tmp_path) as spells:
        for write, quotas, used in WRITES:
            tenant = registered(spells[0], quotas)

            done = at_once(spells, writing(tenant, write, POOLED_EACH))

            assert done == {"stored": LIMIT, "refused": THREADS * POOLED_EACH - LIMIT}, (write.__name__, done)
            assert used(recounted(spells[0], tenant)) == LIMIT
    tell(quota_races=len(WRITES), operations=len(WRITES) * THREADS * POOLED_EACH)


@pytest.mark.timeout(3_600)
def test_transactions_of_eight_writers_store_exactly_what_the_quota_grants(
    spells_everywhere: list[BlockingSpell],
) -> None:
    spells = spells_everywhere
    limit, each = 20, 4
    tenant = registered(spells[0], QuotaLimits.only(max_vectors=limit))

    done = at_once(spells, writing(tenant, together, each))

    assert done == {"stored": limit, "refused": THREADS * each - limit}
    assert recounted(spells[0], tenant).vectors.used == limit
    assert len(spells[0].tenant(tenant).kv.list_keys()) == limit, "a refused transaction left its key"


@pytest.mark.timeout(3_600)
def test_eight_callers_have_exactly_as_many_texts_embedded_as_the_quota_grants(
    spells_everywhere: list[BlockingSpell],
) -> None:
    for _ in range(TAKING_ROUNDS):
        tenant = registered(spells_everywhere[0], QuotaLimits.only(max_embeddings_per_day=LIMIT))

        done = at_once(spells_everywhere, writing(tenant, take, TAKING_EACH))

        assert done == {"stored": LIMIT, "refused": THREADS * TAKING_EACH - LIMIT}, done
        assert spells_everywhere[0].tenants.usage(tenant).embeddings.used == LIMIT
    tell(quota_races=TAKING_ROUNDS, operations=TAKING_ROUNDS * THREADS * TAKING_EACH)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(MIXED_ROUNDS))
def test_what_deletes_give_back_is_stored_again_and_no_more(spells: list[BlockingSpell], seed: int) -> None:
    limit = 20
    tenant = registered(spells[0], QuotaLimits.only(max_vectors=limit, max_storage_mb=1))

    def work(number: int, spell: BlockingSpell) -> Counter[str]:
        choice = random.Random(seed * THREADS + number)
        handle, done, mine = spell.tenant(tenant), Counter[str](), []
        for _ in range(EACH // 2):
            if mine and choice.random() < 0.45:
                assert handle.vectors.delete([mine.pop()]) == 1
                done["deleted"] += 1
                continue
            try:
                mine += handle.vectors.insert({"embedding": VECTOR})
                done["stored"] += 1
            except QuotaExceeded:
                done["refused"] += 1
        return done

    done = at_once(spells, work)

    assert min(done["refused"], done["deleted"]) > 0, "nobody met the limit"
    assert recounted(spells[0], tenant).vectors.used == done["stored"] - done["deleted"] <= limit


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(MIXED_ROUNDS))
def test_a_quota_that_is_set_while_eight_write_holds_from_then_on(spells: list[BlockingSpell], seed: int) -> None:
    """What was stored before it counts, what is stored after it fits; nobody falls between."""
    tenant = registered(spells[0], NO_LIMITS)
    choice = random.Random(seed)
    limits = [choice.randrange(5, LIMIT) for _ in range(6)]
    seen: list[tuple[int, int]] = []

    def work(number: int, spell: BlockingSpell) -> Counter[str]:
        if number:
            return writing(tenant, place if number % 2 else together, EACH // 4)(number, spell)
        for limit in limits:
            spell.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=limit))
            usage = spell.tenants.usage(tenant)
            seen.append((limit, usage.vectors.used))
            spell.tenants.update(tenant, quotas=NO_LIMITS)
        spell.tenants.update(tenant, quotas=QuotaLimits.only(max_vectors=limits[-1]))
        at_last = spell.tenants.usage(tenant).vectors.used
        return Counter(at_last=at_last)

    done = at_once(spells, work)

    total = recounted(spells[0], tenant).vectors.used
    assert total == done["stored"]
    assert total <= max(limits[-1], done["at_last"]), (limits, seen, done)


WRITER = textwrap.dedent("""
    import json, sys
    import llmspell
    from llmspell.errors import QuotaExceeded
    from llmspell.settings import PostgresSettings, Settings, StorageSettings

    url, pooler, tenant, each = *sys.argv[1:4], int(sys.argv[4])
    settings = Settings(storage=StorageSettings(postgres=PostgresSettings(pool_size=1, pooler=pooler)))
    with llmspell.connect_blocking(url, settings=settings, embedder="hashing") as spell:
        handle, stored, refused = spell.tenant(tenant), 0, 0
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(each):
            try:
                handle.vectors.insert({"embedding": [0.5] * 384})
                stored += 1
            except QuotaExceeded:
                refused += 1
    print(json.dumps({"stored": stored, "refused": refused}), flush=True)
""")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_processes_with_one_store_keep_exactly_what_the_quota_grants(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, settings = url_of(backend, request, tmp_path), settings_of(backend, request)
    with llmspell.connect_blocking(url, settings=settings, embedder="hashing") as spell:
        tenant = registered(spell, QuotaLimits.only(max_vectors=LIMIT))
    command = [sys.executable, "-c", WRITER, url, settings.storage.postgres.pooler, tenant, str(EACH)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    done: Counter[str] = Counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        answer, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
        done.update(json.loads(answer))

    assert done == {"stored": LIMIT, "refused": PROCESSES * EACH - LIMIT}
    with llmspell.connect_blocking(url, settings=settings, embedder="hashing") as spell:
        assert recounted(spell, tenant).vectors.used == LIMIT
