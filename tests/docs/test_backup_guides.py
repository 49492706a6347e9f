"""The guides about backups are drills: their commands run as they stand, and what was lost is there again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.backups import fill, texts
from tests.fixtures.postgres import PostgresDatabase, PostgresServer, migrate

from llmspell.ops.postgres_installation import ENVIRONMENT, program_folder, server_account
from llmspell.settings import PostgresSettings, Settings, StorageSettings

GUIDES = Path(__file__).resolve().parents[2] / "docs"
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT_S = 120
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the guides are written for a POSIX shell")


def blocks(page: str) -> list[str]:
    return SHELL.findall((GUIDES / "how-to" / page).read_text("utf-8"))


def run(script: str, folder: Path, **environment: str) -> str:
    """Run commands in one shell that stops at the first failure, and return what they printed."""
    python = shlex.quote(sys.executable)
    done = subprocess.run(
        ["sh", "-eu", "-c", f'llmspell() {{ {python} -m llmspell "$@"; }}\n{script}'],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LLMSPELL_EMBEDDING__PROVIDER": "hashing",
            "TMPDIR": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def programs() -> str:
    return f"{program_folder(server_account())}{os.pathsep}{os.environ['PATH']}"


async def test_the_guide_on_a_file_brings_back_what_was_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    await fill(url, "Ada moved to Zurich.", tenant="default")
    steps = blocks("back-up-and-restore.md")[:6]
    assert "keys new" in steps[0]
    assert "prune" in steps[5]

    printed = run("\n".join(steps), tmp_path, LLMSPELL_STORAGE__URL=url)

    assert printed.count("verified\t") >= 4
    assert "Ada moved to Zurich." in printed
    assert await texts(url, tenant="default") == ["Ada moved to Zurich."]
    assert await texts(f"sqlite:///{tmp_path / 'look.db'}", tenant="default") == ["Ada moved to Zurich."]


def test_the_guide_on_a_server_does_too_and_by_the_servers_own_programs(
    postgres_cluster: PostgresServer,
    postgres_database: PostgresDatabase,
    postgres_empty_database: PostgresDatabase,
    tmp_path: Path,
) -> None:
    """STA-07, STA-08, STA-09 with AMB-093, and AMB-108: no dump is empty."""
    restored, into, alone, whole = blocks("back-up-and-restore.md")[6:10]
    insert = "INSERT INTO llmspell.kv_store (tenant_id, key, value) VALUES ('acme', 'k', 'v')"
    with psycopg.connect(postgres_database.operator_url, autocommit=True) as operator:
        operator.execute(insert)
    environment = {
        "PATH": programs(),
        "DATABASE_URL": postgres_database.app_url,
        "DATABASE_ADMIN_URL": postgres_database.admin_url,
        "DATABASE_OPERATOR_URL": postgres_database.operator_url,
        "OTHER_URL": postgres_empty_database.admin_url,
        "MAINTENANCE_URL": postgres_cluster.database("postgres").superuser_url,
        "LLMSPELL_BACKUP__ENCRYPTION": "false",
        "LLMSPELL_BACKUP__VERIFY_URL": postgres_database.superuser_url,
    }

    run(restored + into + alone, tmp_path, **environment)
    schema = (tmp_path / "schema.sql").read_text("utf-8")
    assert "CREATE TABLE llmspell.kv_store" in schema
    assert "COPY" not in schema
    with psycopg.connect(postgres_database.operator_url, autocommit=True) as operator:
        operator.execute("DELETE FROM llmspell.kv_store")
    run(whole, tmp_path, **environment)

    for database in (postgres_database, postgres_empty_database):
        with psycopg.connect(database.operator_url) as operator:
            assert operator.execute("SELECT tenant_id, key FROM llmspell.kv_store").fetchall() == [("acme", "k")]
        with psycopg.connect(database.app_url) as app:
            assert app.execute("SELECT count(*) FROM llmspell.kv_store").fetchone() == (0,)


def test_the_example_of_the_reference_runs(tmp_path: Path) -> None:
    (example,) = PYTHON.findall((GUIDES / "reference" / "backups.md").read_text("utf-8"))
    url = f"sqlite:///{tmp_path / 's.db'}"
    begin = f"url, folder = {url!r}, 'b'\n"
    (tmp_path / "example.py").write_text(begin + example)
    script = f"llmspell add 'a memory' >&2; {shlex.quote(sys.executable)} example.py"

    run(script, tmp_path, LLMSPELL_STORAGE__URL=url)


async def test_a_server_goes_back_to_the_moment_between_two_writes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """STA-10, AMB-115. The server of this test alone: base backup, a write, the moment, an accident, recovery."""
    once, daily, back, _ = blocks("recover-to-a-point-in-time.md")
    with server_folder(tmp_path_factory) as folder, own_server(folder) as database:
        settings = settings_of(database)
        environment = {name: str(folder / name.lower()) for name in ("PGDATA", "ARCHIVE", "BASE", "RESTORED")}
        environment["ADMIN_URL"] = database.superuser_url
        await fill(database.app_url, "Before the copy of the files.", settings=settings)
        as_server(once, folder, environment)
        as_server(daily, folder, environment)
        await fill(database.app_url, "Between the copy and the accident.", settings=settings)
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            ((moment,),) = superuser.execute("SELECT clock_timestamp()::text").fetchall()
            superuser.execute("DELETE FROM llmspell.memories; DELETE FROM llmspell.tenants")
        assert await texts_or_none(database, settings) is None

        as_server(back, folder, {**environment, "TARGET_TIME": moment})

        assert await texts(database.app_url, settings=settings) == [
            "Before the copy of the files.",
            "Between the copy and the accident.",
        ]
        await fill(database.app_url, "It goes on.", settings=settings)
        with psycopg.connect(database.superuser_url) as superuser:
            assert superuser.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone() == (2,)


async def texts_or_none(database: PostgresDatabase, settings: Settings) -> list[str] | None:
    with psycopg.connect(database.superuser_url) as superuser:
        rows = superuser.execute("SELECT 1 FROM llmspell.memories").fetchall()
    return await texts(database.app_url, settings=settings) if rows else None


def settings_of(database: PostgresDatabase) -> Settings:
    server = PostgresSettings(url=database.app_url, operator_url=database.operator_url)
    return Settings(storage=StorageSettings(url=database.app_url, backend="postgresql", postgres=server))


def as_server(script: str, folder: Path, environment: dict[str, str]) -> None:
    """Run commands as the user of the server. What they print goes to a file: a server that they start would hold a pipe open."""
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=folder,
            env={**ENVIRONMENT, "PATH": programs(), "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=LIMIT_S,
            check=False,
            **server_account().popen_arguments(),
        )
        said.seek(0)
        assert done.returncode == 0, said.read()


@contextmanager
def server_folder(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short folder that the user of the server owns: the path of a socket is short."""
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pitr-", dir=None if account.dropped else factory.getbasetemp()))
    if account.dropped:
        os.chown(folder, account.uid, account.gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def own_server(folder: Path) -> Iterator[PostgresDatabase]:
    """A server with a migrated store, that ends with the block whichever folder it runs on by then."""
    environment = {"PGDATA": str(folder / "pgdata")}
    as_server(
        'initdb -D "$PGDATA" -U postgres --auth=trust -E UTF8 --no-locale --no-sync --no-instructions > initdb.log'
        f"\nprintf \"listen_addresses = ''\\nunix_socket_directories = '{folder}'\\nfsync = off\\n\" >> \"$PGDATA/postgresql.conf\""
        '\npg_ctl -D "$PGDATA" -w -l server.log start',
        folder,
        environment,
    )
    server = PostgresServer(None, lambda role, name: f"postgresql://{role or 'postgres'}@/{name}?host={folder}")  # type: ignore[arg-type]
    try:
        with psycopg.connect(server.database("postgres").superuser_url, autocommit=True) as superuser:
            superuser.execute("CREATE ROLE llmspell LOGIN CREATEROLE")
            superuser.execute("CREATE DATABASE store OWNER llmspell")
        database = server.database("store")
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            superuser.execute("CREATE EXTENSION vector")
        migrate(database)
        yield database
    finally:
        stop = """for folder in pgdata restored; do
            ! [ -f "$folder/postmaster.pid" ] || pg_ctl -D "$folder" -m immediate -w stop
        done"""
        as_server(stop, folder, environment)
