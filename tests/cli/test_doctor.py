"""`doctor` on machines on which something is missing or broken."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import Any

import apsw
import psycopg
import pytest
from tests.cli.conftest import Ran, Shell
from tests.fixtures.postgres import PostgresDatabase

from llmspell.ops import doctor
from llmspell.storage.postgres import limits


@pytest.fixture
def server(shell: Shell, postgres_database: PostgresDatabase) -> Shell:
    shell.environment.delenv("LLMSPELL_STORAGE__URL")
    shell.environment.setenv("DATABASE_URL", postgres_database.app_url)
    shell.environment.setenv("DATABASE_ADMIN_URL", postgres_database.admin_url)
    shell.environment.setenv("DATABASE_OPERATOR_URL", postgres_database.operator_url)
    return shell


def lines(ran: Ran) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in ran.document["lines"]}


def verdict(ran: Ran, name: str) -> str:
    return str(lines(ran)[name]["verdict"])


def test_without_a_store_everything_else_is_looked_at_and_no_file_is_made(shell: Shell) -> None:
    ran = shell("doctor", "--json")

    assert (ran.code, ran.document["verdict"]) == (0, "warn")
    assert [name for name in lines(ran) if not name.startswith("extra")] == [
        *("python", "packages", "settings", "store", "embedder", "master key", "cache", "clock")
    ]
    assert "storage validate" in lines(ran)["store"]["hint"]
    assert not shell.file.exists()


def test_a_store_in_a_file_is_checked_in_every_way(empty: Shell) -> None:
    found = lines(empty("doctor", "--json"))

    assert found["store integrity"]["verdict"] == found["store disk"]["verdict"] == "ok"
    assert found["store vector_storage"]["said"] == "No vectors indexed"


def test_settings_that_cannot_be_used_are_a_line_and_not_the_end(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_STORAGE__URL", "nowhere://")

    ran = shell("doctor", "--json")

    assert (ran.code, verdict(ran, "settings"), verdict(ran, "python")) == (1, "fail", "ok")


def test_a_server_is_named_with_its_roles_and_versions(server: Shell) -> None:
    ran = server("doctor", "--json")

    found = lines(ran)
    assert {"server", "extension", "roles", "clocks", "tenant key", "store isolation"} <= set(found)
    assert {line["verdict"] for line in found.values()} <= {"ok", "warn"}
    assert ran.code == 0


def test_roles_that_are_not_named_are_a_warning(server: Shell) -> None:
    server.environment.delenv("DATABASE_ADMIN_URL")
    server.environment.delenv("DATABASE_OPERATOR_URL")

    ran = server("doctor", "--json")

    assert verdict(ran, "roles") == "warn"
    assert "DATABASE_OPERATOR_URL" in lines(ran)["roles"]["said"]


def test_a_server_that_is_not_there_is_a_line_with_what_to_do(shell: Shell) -> None:
    ran = shell("doctor", "--json", "--store", f"postgresql://llmspell_app:hunter2@/nowhere?host={shell.folder}")

    assert (ran.code, verdict(ran, "store")) == (1, "fail")
    assert "hunter2" not in ran.out + ran.err


def test_a_hole_in_the_isolation_fails(server: Shell, postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.superuser_url, autocommit=True) as connection:
        connection.execute("DROP POLICY tenant_isolation_select ON llmspell.kv_store")

    ran = server("doctor", "--json")

    assert (ran.code, verdict(ran, "store isolation")) == (1, "fail")


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)", "apply"),
        (f"UPDATE schema_migrations SET sha256 = '{'0' * 64}' WHERE version = 1", "repair"),
        (f"INSERT INTO schema_migrations VALUES (999, 'V999__later', '{'0' * 64}', 0)", "newer"),
    ],
    ids=["pending", "modified", "newer"],
)
def test_a_schema_that_does_not_fit_says_what_to_do_and_stays_as_it_is(empty: Shell, statement: str, hint: str) -> None:
    connection = apsw.Connection(str(empty.file))
    connection.execute(statement)
    connection.close()
    before = empty.file.read_bytes()

    ran = empty("doctor", "--json")

    assert (ran.code, verdict(ran, "schema"), hint in lines(ran)["schema"]["hint"]) == (1, "fail", True)
    assert empty.file.read_bytes() == before


def test_clocks_that_are_apart_fail(server: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    real = limits.read_limits
    monkeypatch.setattr(
        limits,
        "read_limits",
        lambda url, *, clock: limits.ServerLimits(
            **{name: getattr(real(url, clock=clock), name) for name in limits.ServerLimits.__struct_fields__}
            | {"clock_ahead_s": -60.0}
        ),
    )

    ran = server("doctor", "--json")

    assert verdict(ran, "clocks") == "fail"
    assert "60 s behind" in lines(ran)["clocks"]["said"]


def test_an_embedder_that_is_not_there_fails_with_how_to_get_it(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_EMBEDDING__PROVIDER", "local")
    shell.environment.setenv("LLMSPELL_EMBEDDING__MODEL", str(shell.folder / "no-model"))

    ran = shell("doctor", "--json")

    assert (ran.code, verdict(ran, "embedder")) == (1, "fail")
    assert lines(ran)["embedder"]["hint"]


def test_a_provider_elsewhere_is_not_asked(shell: Shell) -> None:
    shell.environment.setenv("LLMSPELL_EMBEDDING__PROVIDER", "openai")
    shell.environment.setenv("LLMSPELL_EMBEDDING__BASE_URL", "http://127.0.0.1:9/v1")
    shell.environment.setenv("LLMSPELL_EMBEDDING__API_KEY", "sk-abc")

    ran = shell("doctor", "--json")

    assert verdict(ran, "embedder") == "ok"
    assert "sk-abc" not in ran.out + ran.err


def test_an_extra_that_the_settings_need_and_is_not_installed_fails(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.environment.setenv("LLMSPELL_MASTER_KEY", "lsmk_nonsense")
    there = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "cryptography" else there(name))

    ran = shell("doctor", "--json")

    assert verdict(ran, "extra encryption") == "fail"
    assert "pip install" in lines(ran)["extra encryption"]["hint"]
    assert verdict(ran, "master key") == "fail"
    assert "nonsense" not in ran.out + ran.err


def test_every_extra_is_looked_at() -> None:
    offered = set(importlib.metadata.metadata("llmspell").get_all("Provides-Extra") or ())

    assert set(doctor.EXTRAS) == offered - {"all", "dev"}


def test_a_package_out_of_its_bounds_is_a_warning(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "msgspec" else real(name))

    ran = shell("doctor", "--json")

    assert verdict(ran, "packages") == "warn"
    assert "msgspec 0.1 is not" in lines(ran)["packages"]["said"]


def test_a_disk_without_room_for_the_cache_is_a_warning(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))

    assert verdict(shell("doctor", "--json"), "cache") == "warn"


@pytest.mark.parametrize(
    ("version", "sign", "bound", "within"),
    [
        ("3.3.1", ">=", "3.3", True),
        ("3.3", ">=", "3.3.0", True),
        ("3.2.9", ">=", "3.3", False),
        ("3.4", "<", "3.4", False),
        ("3.10", "<", "3.4", False),
        ("3.4rc1", ">=", "3.4", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, sign: str, bound: str, within: bool) -> None:
    assert doctor._within(version, sign, bound) is within
