"""The strict mode: whoever can inject SQL into a statement of tenant A cannot make it one of tenant B.

Raw SQL runs here as `llmspell_app`, on a connection that is bound to A with A's good signature. The same attacks on a server that
demands no signatures succeed, which shows that they are attacks.
"""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import STRICT, PostgresDatabase
from tests.fixtures.soak import tell
from tests.tenancy.injections import READS, WRITES
from tests.tenancy.two_tenants import BIND, FAR, KEY, MARKER, REFUSED, Pair, attack, fill, rows_of, signature

from llmspell.clock import SystemClock
from llmspell.storage.postgres import signing
from llmspell.storage.postgres.tenant_key import new_tenant_key, read_tenant_key


@pytest.fixture
def pair(postgres_strict_shared: PostgresDatabase) -> Pair:
    return fill(postgres_strict_shared)


# --- injected reads and writes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", READS)
def test_an_injected_tenant_brings_no_row_of_another_to_light(pair: Pair, position: str) -> None:
    loot, _ = attack(pair, READS[position])

    tell(injections=1, leaks=int(MARKER in loot))
    assert MARKER not in loot
    assert pair.b not in loot


@pytest.mark.parametrize("name", WRITES)
def test_an_injected_tenant_changes_no_row_of_another(pair: Pair, name: str) -> None:
    attack(pair, WRITES[name], commit=True)

    tell(injections=1)
    assert rows_of(pair.database, pair.b) == [(MARKER, MARKER)]


def test_a_function_that_runs_as_the_owner_uses_up_nothing_of_another(pair: Pair) -> None:
    taken = "SELECT llmspell.take_embeddings(%s, 5, 20000)"
    with psycopg.connect(pair.database.superuser_url) as superuser:
        register = "INSERT INTO llmspell.tenants (tenant_id, name) VALUES (%s, 'a tenant')"
        superuser.cursor().executemany(register, [(pair.a,), (pair.b,)])
    for bound in (pair.a, pair.b):
        with pair.as_a() as connection:
            connection.execute("SELECT set_config('app.current_tenant_id', %s, true)", (bound,))
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(taken.encode(), (pair.b,))
        assert refused.value.sqlstate == REFUSED

    with psycopg.connect(pair.database.superuser_url) as superuser:
        query = "SELECT count(*) FROM llmspell.tenant_embeddings WHERE tenant_id = %s"
        assert superuser.execute(query, (pair.b,)).fetchall() == [(0,)]
    with pair.as_a() as connection:
        assert connection.execute(taken.encode(), (pair.a,)).fetchall() == [(5,)]


@pytest.mark.skipif(STRICT, reason="every database of this run is strict")
def test_the_same_attacks_succeed_where_no_signature_is_demanded(postgres_shared_database: PostgresDatabase) -> None:
    plain = fill(postgres_shared_database)

    reads = {position for position, statements in READS.items() if MARKER in attack(plain, statements)[0]}
    writes = set()
    for name, statements in WRITES.items():
        target = fill(postgres_shared_database)
        attack(target, statements, commit=True)
        if rows_of(target.database, target.b) != [(MARKER, MARKER)]:
            writes.add(name)

    assert len(reads) >= 15, reads
    assert len(writes) >= 6, writes


def test_a_tenant_with_a_good_signature_is_served(pair: Pair) -> None:
    with pair.as_a() as connection:
        for table in ("kv_store", "memories", "event_log"):
            query = f"SELECT tenant_id FROM llmspell.{table}"
            assert connection.execute(query.encode()).fetchall() == [(pair.a,)]


def test_without_a_tenant_there_are_no_rows_and_no_error(pair: Pair) -> None:
    for tenant in (None, ""):
        with psycopg.connect(pair.database.app_url) as connection:
            if tenant is not None:
                connection.execute(BIND, (tenant, signature(pair.a)))
            assert connection.execute("SELECT count(*) FROM llmspell.kv_store").fetchall() == [(0,)]


# --- forged signatures ------------------------------------------------------------------------------------------------


def forgeries(pair: Pair) -> Iterator[tuple[str, str]]:
    """Signatures that are none for B, and what is wrong with each."""
    good = signature(pair.b)
    yield "absent", ""
    yield "of another tenant", signature(pair.a)
    yield "expired", signature(pair.b, until=int(SystemClock().now().timestamp()) - 1)
    yield "expired long ago", signature(pair.b, until=0)
    yield "by another key", read_tenant_key(new_tenant_key()).sign(pair.b.encode(), until=FAR).decode()
    yield (
        "by another key under our id",
        KEY.id + read_tenant_key(new_tenant_key()).sign(pair.b.encode(), until=FAR)[16:].decode(),
    )
    yield "in capitals", good.upper()
    yield "with a blank", good + " "
    yield "with a longer life", good.replace(str(FAR), str(FAR + 1))
    yield "only zeros", "0" * len(good)
    yield "a plain hash", f"{KEY.id}.{FAR}." + hmac.digest(b"", pair.b.encode(), "sha256").hex()
    yield "a wildcard", "%" * len(good)
    for end in range(1, len(good)):
        yield f"cut after {end}", good[:end]
    for at, old in enumerate(good):
        yield f"changed at {at}", good[:at] + ("0" if old != "0" else "1") + good[at + 1 :]


def test_no_forged_signature_is_accepted_and_all_are_refused_alike(pair: Pair) -> None:
    answers = set()
    count = 0
    with psycopg.connect(pair.database.app_url, autocommit=True) as connection:
        for what, forged in forgeries(pair):
            try:
                with connection.transaction():
                    connection.execute(BIND, (pair.b, forged))
                    rows = connection.execute("SELECT key FROM llmspell.kv_store").fetchall()
                pytest.fail(f"a signature {what} was accepted: {rows}")
            except psycopg.Error as refused:
                answers.add((refused.sqlstate, refused.diag.message_primary, refused.diag.message_detail))
                count += 1
        with connection.transaction():  # the genuine one, so that the refusals above say something
            connection.execute(BIND, (pair.b, signature(pair.b)))
            assert connection.execute("SELECT key FROM llmspell.kv_store").fetchall() == [(MARKER,)]

    tell(forgeries=count)
    assert count > 190
    assert answers == {(REFUSED, "the tenant of this statement is not signed, or its signature has expired", None)}


@pytest.mark.parametrize("tenant", ["x", "x.y", f"{FAR}.x", "ü", "a" * 128, " store"])
def test_a_signature_is_for_exactly_one_tenant(postgres_strict_shared: PostgresDatabase, tenant: str) -> None:
    others = [tenant[1:], f"{tenant} ", f".{tenant}", tenant.upper() if tenant.isalpha() else tenant + "x"]
    with psycopg.connect(postgres_strict_shared.app_url, autocommit=True) as connection:
        for bound in [tenant, *filter(None, others)]:
            accepted = True
            try:
                with connection.transaction():
                    connection.execute(BIND, (bound, signature(tenant)))
                    assert connection.execute("SELECT llmspell.signed_tenant()").fetchall() == [(bound,)]
            except psycopg.Error as refused:
                accepted = refused.sqlstate != REFUSED
            assert accepted == (bound == tenant), bound


# --- the key, the function, what they show ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM llmspell_private.signing_keys",
        "TABLE llmspell_private.signing_mode",
        "COPY llmspell_private.signing_keys TO STDOUT",
        "UPDATE llmspell_private.signing_mode SET enforced = false",
        "SELECT currval('llmspell_private.x')",
        "CREATE OR REPLACE FUNCTION llmspell.signed_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'b' $$",
        "ALTER FUNCTION llmspell.signed_tenant() SECURITY INVOKER",
        "ALTER FUNCTION llmspell.signed_tenant() SET search_path = pg_temp",
        "DROP POLICY tenant_signature ON llmspell.kv_store",
        "ALTER POLICY tenant_signature ON llmspell.kv_store USING (true)",
        "CREATE FUNCTION pg_temp.signed_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'b' $$",
        "GRANT USAGE ON SCHEMA llmspell_private TO PUBLIC",
    ],
)
def test_the_key_the_function_and_the_policies_are_out_of_reach(pair: Pair, statement: str) -> None:
    _, state = attack(pair, [statement])

    assert state == psycopg.errors.InsufficientPrivilege.sqlstate


def test_statistics_and_definitions_show_no_key(pair: Pair) -> None:
    shown = """
        SELECT coalesce(string_agg(line, ' '), '') FROM (
            SELECT s::text AS line FROM pg_stats AS s WHERE schemaname = 'llmspell_private'
            UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE pronamespace = 'llmspell'::regnamespace
            UNION ALL SELECT query FROM pg_stat_activity
        ) AS lines
    """
    inner, outer = KEY.blocks()
    with psycopg.connect(pair.database.admin_url, autocommit=True) as owner:
        owner.execute("ANALYZE llmspell_private.signing_keys")
    with pair.as_a() as connection:
        ((text,),) = connection.execute(shown.encode()).fetchall()

    assert "signed_tenant" in text
    assert not any(secret.hex() in text for secret in (inner, outer))


SHADOWS = (
    "CREATE FUNCTION pg_temp.signed_tenant() RETURNS text LANGUAGE sql AS $$ SELECT '{B}'::text $$",
    "CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT '{B}'::text $$",
    "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
    "CREATE FUNCTION pg_temp.yes(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
    "CREATE FUNCTION pg_temp.yes(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
    "CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.yes, LEFTARG = text, RIGHTARG = text)",
    "CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.yes, LEFTARG = bytea, RIGHTARG = bytea)",
    "CREATE TEMPORARY TABLE signing_keys (key_id text, inner_block bytea, outer_block bytea)",
)


def test_functions_and_operators_of_the_attacker_stand_in_for_none_of_ours(
    postgres_strict_database: PostgresDatabase,
) -> None:
    pair = fill(postgres_strict_database)
    grant = "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO llmspell_app', current_database()); END $$"
    with psycopg.connect(pair.database.superuser_url, autocommit=True) as superuser:
        superuser.execute(grant)  # as if the first lock had failed: without it nothing temporary can be made at all
    first = "SET LOCAL search_path = pg_temp, llmspell, pg_catalog"

    for reads in (
        "SELECT tenant_id, key FROM llmspell.kv_store",
        f"SELECT tenant_id, key FROM kv_store WHERE key = '{MARKER}'",
    ):
        loot, state = attack(pair, [*SHADOWS, first, "SELECT set_config('app.current_tenant_id', '{B}', true)", reads])
        assert (state, MARKER in loot) == (REFUSED, False)
        loot, state = attack(pair, [*SHADOWS, first, reads])
        assert (state, MARKER in loot, pair.b in loot) == (None, False, False)


def test_a_function_that_tells_what_it_sees_sees_no_foreign_row(postgres_strict_database: PostgresDatabase) -> None:
    pair = fill(postgres_strict_database)
    peek = """
        CREATE FUNCTION public.peek(what text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS $$ BEGIN RAISE NOTICE 'saw %', what; RETURN true; END $$
    """
    with psycopg.connect(pair.database.superuser_url, autocommit=True) as superuser:
        superuser.execute(peek)

    loot, state = attack(pair, ["SELECT count(*) FROM llmspell.kv_store WHERE public.peek(key)"])

    assert (state, MARKER in loot) == (None, False)
    assert "saw marker-of-a" in loot  # it did tell


def test_neither_plans_nor_errors_show_a_signature(pair: Pair) -> None:
    mac = signature(pair.a).rpartition(".")[2]
    loot, state = attack(pair, ["EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM llmspell.kv_store"])
    assert state is None
    assert "signed_tenant" in loot

    for position, statements in READS.items():
        if position != "the signature of A beside":  # that one asks for the signature, which is its own
            loot += attack(pair, statements)[0]
    assert mac not in loot
    assert KEY.id not in loot


def test_a_prepared_statement_serves_each_tenant_its_own_and_an_unsigned_one_nothing(pair: Pair) -> None:
    query = "SELECT key FROM llmspell.kv_store"
    with psycopg.connect(pair.database.app_url, autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        for tenant, marker in itertools.islice(itertools.cycle(((pair.a, "marker-of-a"), (pair.b, MARKER))), 20):
            with connection.transaction():
                connection.execute(BIND, (tenant, signature(tenant)))
                assert connection.execute(query, prepare=True).fetchall() == [(marker,)]
        prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        connection.autocommit = False
        connection.execute(BIND, (pair.b, signature(pair.a)))
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(query, prepare=True)

    assert prepared[0][0] >= 1
    assert refused.value.sqlstate == REFUSED


def test_a_right_that_came_back_on_a_partition_is_bound_by_signatures_too(
    postgres_strict_database: PostgresDatabase,
) -> None:
    pair = fill(postgres_strict_database)
    with psycopg.connect(pair.database.operator_url, autocommit=True) as operator:  # made after the mode was turned on
        operator.execute("SELECT llmspell.create_event_log_partition('2031-05-01', '2031-06-01')")
        operator.execute("SELECT llmspell.create_event_log_partition('2019-03-01', '2019-04-01')")
        operator.execute(
            "INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)"
            " SELECT t, gen_random_uuid(), t, gen_random_uuid(), at, 9, '{}'"
            " FROM unnest(%s::text[]) AS t, unnest('{2031-05-05, 2019-03-05}'::timestamptz[]) AS at",
            ([pair.a, pair.b],),
        )
        operator.execute("SELECT llmspell.archive_event_log_partitions('2019-04-01')")
    with psycopg.connect(pair.database.admin_url, autocommit=True) as owner:
        owner.execute("GRANT SELECT ON llmspell.event_log_2031_05 TO llmspell_app")
        owner.execute("GRANT USAGE ON SCHEMA llmspell_archive TO llmspell_app")
        owner.execute("GRANT SELECT ON llmspell_archive.event_log_2019_03 TO llmspell_app")

    for table in ("llmspell.event_log_2031_05", "llmspell_archive.event_log_2019_03"):
        with pair.as_a() as connection:
            query = f"SELECT tenant_id FROM {table}"
            assert connection.execute(query.encode()).fetchall() == [(pair.a,)]
        _, state = attack(pair, ["SELECT set_config('app.current_tenant_id', '{B}', true)", query])
        assert state == REFUSED


async def test_a_restored_database_that_lacks_the_keys_believes_nobody_until_it_is_enabled_anew(
    postgres_strict_database: PostgresDatabase,
) -> None:
    pair = fill(postgres_strict_database)
    with psycopg.connect(pair.database.superuser_url, autocommit=True) as superuser:
        superuser.execute("DROP SCHEMA llmspell_private CASCADE")  # what a backup without the keys gives

    loot, state = attack(pair, ["SELECT tenant_id, key FROM llmspell.kv_store"])
    assert (loot.count("marker"), state) == (0, "42P01")
    with psycopg.connect(pair.database.app_url, autocommit=True) as app:  # what needs no tenant goes on
        assert len(app.execute("SELECT llmspell.ensure_future_event_log_partitions()").fetchall()) == 4
    assert not signing.status(pair.database.admin_url).enforced
    assert signing.enable(pair.database.admin_url, KEY).enforced
    assert "marker-of-a" in attack(pair, ["SELECT tenant_id, key FROM llmspell.kv_store"])[0]


# --- what goes on without a signature ---------------------------------------------------------------------------------


def test_the_operator_and_the_owner_work_without_a_signature(pair: Pair) -> None:
    with psycopg.connect(pair.database.operator_url) as operator:
        found = operator.execute(
            "SELECT tenant_id FROM llmspell.kv_store WHERE tenant_id IN (%s, %s)", (pair.a, pair.b)
        )
        assert len(found.fetchall()) == 2
    with psycopg.connect(pair.database.admin_url) as owner:
        owner.execute("SELECT set_config('app.current_tenant_id', %s, true)", (pair.a,))
        assert owner.execute("SELECT key FROM llmspell.kv_store").fetchall() == [("marker-of-a",)]


def test_the_serving_role_makes_partitions_without_a_tenant(pair: Pair) -> None:
    with psycopg.connect(pair.database.app_url) as app:
        assert len(app.execute("SELECT llmspell.ensure_future_event_log_partitions()").fetchall()) == 4
