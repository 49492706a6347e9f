"""The embedded PostgreSQL: its life cycle, its guards, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from llmspell.errors import InvalidSetting, MissingExtra, StorageError, Unavailable
from llmspell.ops import postgres_installation
from llmspell.ops.embedded_postgres import OPERATOR_ROLE, OWNER_ROLE, SUPERUSER, EmbeddedCluster
from llmspell.ops.postgres_installation import ServerAccount, default_data_dir, server_account
from llmspell.ops.postgres_processes import read_postmaster, server_processes

WAIT_S = 20.0
is_root = os.geteuid() == 0
pytestmark = pytest.mark.usefixtures("embedded_package")
root_only = pytest.mark.skipif(not is_root, reason="only root drops privileges")


def pgdata_of(cluster: EmbeddedCluster) -> Path:
    return cluster.data_dir / "pgdata"


def wait_until(condition: Callable[[], bool]) -> bool:
    """Look until it holds, for a bounded time: processes end when the kernel gets to them."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- life cycle ---------------------------------------------------------------------------------------------------


def test_a_start_prepares_the_database_its_extension_and_the_three_roles(cluster: EmbeddedCluster) -> None:
    assert cluster.start() is True

    assert cluster.run_sql("SELECT extname FROM pg_extension WHERE extname = 'vector'", database="llmspell_dev") == (
        "vector\n"
    )
    roles = cluster.run_sql(
        "SELECT rolname, rolcanlogin, rolcreaterole, rolsuper, rolbypassrls FROM pg_roles"
        " WHERE rolname LIKE 'llmspell%' ORDER BY 1"
    )
    assert roles.split() == ["llmspell|t|t|f|f", "llmspell_app|t|f|f|f", "llmspell_operator|t|f|f|f"]
    owner = cluster.run_sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'llmspell_dev'")
    assert owner == "llmspell\n"


def test_the_owner_may_administer_the_roles_that_serve(cluster: EmbeddedCluster) -> None:
    cluster.start()

    cluster.run_sql("SET ROLE llmspell; ALTER ROLE llmspell_app SET statement_timeout = '5s';")

    assert "statement_timeout=5s" in cluster.run_sql("SELECT rolconfig FROM pg_roles WHERE rolname = 'llmspell_app'")


def test_a_second_start_finds_the_server_running(cluster: EmbeddedCluster) -> None:
    cluster.start()
    before = cluster.status()

    assert EmbeddedCluster(cluster.data_dir).start() is False
    assert cluster.status() == before


def test_two_starts_at_once_make_one_server(folder: Path) -> None:
    code = "import sys; from llmspell.ops.embedded_postgres import EmbeddedCluster as C; print(C(sys.argv[1]).start())"
    command = [sys.executable, "-c", code, str(folder / "data")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    finally:
        EmbeddedCluster(folder / "data").stop()

    assert said == ["False", "True"]


def test_the_status_follows_start_and_stop(cluster: EmbeddedCluster) -> None:
    before = cluster.status()
    cluster.start()
    during = cluster.status()
    cluster.stop()
    after = cluster.status()

    assert [before.running, during.running, after.running] == [False, True, False]
    assert during.pid in server_processes(pgdata_of(cluster)) or during.pid is not None
    assert (before.pid, after.pid) == (None, None)


def test_a_stop_leaves_neither_process_nor_socket(cluster: EmbeddedCluster) -> None:
    cluster.start()
    pids = server_processes(pgdata_of(cluster))
    sockets = Path(cluster.status().socket_dir or "")

    assert cluster.stop() is True

    assert len(pids) > 1
    assert not [pid for pid in pids if Path("/proc", str(pid), "exe").exists()]
    assert not sockets.exists()


def test_a_stop_when_nothing_runs_says_so(cluster: EmbeddedCluster) -> None:
    assert cluster.stop() is False
    cluster.start()
    cluster.stop()

    assert cluster.stop() is False


def test_the_data_survive_a_restart(cluster: EmbeddedCluster) -> None:
    cluster.start()
    cluster.run_sql("CREATE TABLE kept (n integer); INSERT INTO kept VALUES (7);", database="llmspell_dev")
    cluster.stop()
    cluster.start()

    assert cluster.run_sql("SELECT n FROM kept", database="llmspell_dev") == "7\n"


def test_a_cluster_is_durable_unless_it_is_told_otherwise(folder: Path, cluster: EmbeddedCluster) -> None:
    cluster.start()
    durable = EmbeddedCluster(folder / "durable")
    durable.start()
    try:
        settings = [each.run_sql("SHOW fsync").strip() for each in (cluster, durable)]
    finally:
        durable.stop()

    assert settings == ["off", "on"]


def test_the_callers_variables_do_not_redirect_the_programs(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "/nowhere",
        "PGOPTIONS": "-c nonsense=1",
        "PGDATA": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)

    cluster.start()

    assert cluster.run_sql("SELECT 1") == "1\n"


def test_an_error_of_psql_is_ours_and_names_the_cause(cluster: EmbeddedCluster) -> None:
    cluster.start()

    with pytest.raises(StorageError, match='relation "missing" does not exist'):
        cluster.run_sql("SELECT * FROM missing")


def test_a_variable_reaches_a_script_as_a_literal(cluster: EmbeddedCluster) -> None:
    cluster.start()

    assert cluster.run_sql("SELECT :'value'", variables={"value": "a'; DROP TABLE x --"}) == "a'; DROP TABLE x --\n"


# --- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d" * 120, "with a space, and a comma", 'quo"te$(x)', "ünïcode"])
def test_a_path_that_no_socket_can_have_gets_a_short_private_one(folder: Path, name: str) -> None:
    cluster = EmbeddedCluster(folder / name, durable=False)
    cluster.start()
    try:
        sockets = Path(cluster.status().socket_dir or "")
        status = sockets.stat()
        answer = cluster.run_sql("SELECT 1")
    finally:
        cluster.stop(immediate=True)

    assert answer == "1\n"
    assert sockets.parent == Path("/tmp")
    assert (status.st_mode & 0o777, status.st_uid) == (0o700, server_account().uid)
    assert not sockets.exists()


@root_only
def test_a_socket_folder_that_somebody_else_made_is_refused_and_left_alone(cluster: EmbeddedCluster) -> None:
    sockets = cluster.data_dir / "socket"
    sockets.mkdir(parents=True)
    (sockets / ".s.PGSQL.5432").touch()
    os.chown(sockets, 12_345, -1)

    with pytest.raises(InvalidSetting, match="mode 0700"):
        cluster.start()

    assert [file.name for file in sockets.iterdir()] == [".s.PGSQL.5432"]


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "file").write_text("x")

    with pytest.raises(InvalidSetting, match="cannot be used"):
        EmbeddedCluster(folder / "file").start()


def test_the_data_folder_is_closed_to_others(cluster: EmbeddedCluster) -> None:
    cluster.start()

    assert pgdata_of(cluster).stat().st_mode & 0o077 == 0


# --- after a crash ------------------------------------------------------------------------------------------------


def test_a_killed_server_is_replaced_at_the_next_start(cluster: EmbeddedCluster) -> None:
    cluster.start()
    first = cluster.status().pid
    os.kill(first or 0, signal.SIGKILL)
    assert wait_until(lambda: not cluster.status().running)

    assert cluster.start() is True

    assert cluster.status().pid not in {first, None}
    assert cluster.run_sql("SELECT 1") == "1\n"


def test_a_pid_file_that_names_a_strangers_process_is_not_believed(cluster: EmbeddedCluster) -> None:
    cluster.start()
    cluster.stop()
    pgdata = pgdata_of(cluster)
    # In the worst case it works in our folder, as a developer's shell may.
    stranger = subprocess.Popen(["sleep", "60"], cwd=pgdata, **server_account().popen_arguments())
    try:
        (pgdata / "postmaster.pid").write_text(f"{stranger.pid}\n{pgdata}\n0\n5432\n/tmp\n\n0\nready\n")

        assert cluster.status().running is False
        assert cluster.stop() is False
        (pgdata / "postmaster.pid").write_text(f"{stranger.pid}\n{pgdata}\n0\n5432\n/tmp\n\n0\nready\n")
        assert cluster.start() is True
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_initdb_is_begun_again(cluster: EmbeddedCluster) -> None:
    draft = cluster.data_dir / "pgdata.new"
    draft.mkdir(parents=True)
    (draft / "half").write_text("x")

    assert cluster.start() is True
    assert not draft.exists()


def test_a_failed_start_shows_the_log_and_leaves_no_process(cluster: EmbeddedCluster) -> None:
    cluster.start()
    cluster.stop()
    with (pgdata_of(cluster) / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(Unavailable, match="no_such_setting"):
        cluster.start()

    assert server_processes(pgdata_of(cluster)) == frozenset()
    assert cluster.status().running is False


def test_a_start_whose_preparation_fails_leaves_no_process(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: EmbeddedCluster) -> None:
        raise StorageError("no roles today")

    monkeypatch.setattr(EmbeddedCluster, "_provision", refuse)

    with pytest.raises(StorageError, match="no roles today"):
        cluster.start()

    assert server_processes(pgdata_of(cluster)) == frozenset()


def test_data_of_another_major_version_are_refused(cluster: EmbeddedCluster) -> None:
    cluster.start()
    cluster.stop()
    (pgdata_of(cluster) / "PG_VERSION").write_text("17\n")

    with pytest.raises(StorageError, match=r"made by PostgreSQL 17, and this is 18"):
        cluster.start()


# --- TCP ----------------------------------------------------------------------------------------------------------


def test_tcp_asks_for_the_password_and_never_lets_the_superuser_in(folder: Path) -> None:
    psycopg = pytest.importorskip("psycopg")
    cluster = EmbeddedCluster(folder / "data", durable=False, port=free_port())
    cluster.start()
    try:
        url = cluster.url(role=OPERATOR_ROLE, tcp=True)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (OPERATOR_ROLE,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace(url.split(":")[2].split("@")[0], "wrong"))
        with pytest.raises(psycopg.OperationalError, match="rejects"):
            psycopg.connect(cluster.url(role=SUPERUSER, tcp=True))
        assert (cluster.data_dir / "tcp_password").stat().st_mode & 0o777 == 0o600
    finally:
        cluster.stop(immediate=True)


def test_without_a_port_nothing_listens_on_tcp(cluster: EmbeddedCluster) -> None:
    cluster.start()

    assert cluster.run_sql("SHOW listen_addresses") == "\n"
    assert cluster.status().port is None
    with pytest.raises(Unavailable, match="no TCP port"):
        cluster.url(tcp=True)


def test_another_port_is_refused_while_the_server_runs(cluster: EmbeddedCluster) -> None:
    cluster.start()

    with pytest.raises(InvalidSetting, match="already runs with no port"):
        EmbeddedCluster(cluster.data_dir, port=free_port()).start()


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_out_of_range_is_refused(folder: Path, port: int) -> None:
    with pytest.raises(InvalidSetting, match="1 to 65535"):
        EmbeddedCluster(folder, port=port)


# --- URLs ---------------------------------------------------------------------------------------------------------


def test_the_url_of_each_role_connects_as_that_role(cluster: EmbeddedCluster) -> None:
    psycopg = pytest.importorskip("psycopg")
    cluster.start()

    for role in ("llmspell_app", OWNER_ROLE, OPERATOR_ROLE):
        with psycopg.connect(cluster.url(role=role)) as connection:
            assert connection.execute("SELECT current_user, current_database()").fetchone() == (role, "llmspell_dev")


def test_a_url_of_a_stopped_cluster_is_an_error_that_says_what_to_type(cluster: EmbeddedCluster) -> None:
    with pytest.raises(Unavailable, match="llmspell dev postgres start"):
        cluster.url()


# --- temporary clusters -------------------------------------------------------------------------------------------

HOLDER = """
import sys
from llmspell.ops.embedded_postgres import EmbeddedCluster
with EmbeddedCluster.temporary() as cluster:
    print(cluster.data_dir, flush=True)
    sys.stdin.read()
"""


def test_a_temporary_cluster_goes_with_its_block() -> None:
    with EmbeddedCluster.temporary() as cluster:
        pgdata = pgdata_of(cluster)
        pids = server_processes(pgdata)
        assert cluster.run_sql("SELECT 1") == "1\n"

    assert pids
    assert not [pid for pid in pids if Path("/proc", str(pid), "exe").exists()]
    assert not cluster.data_dir.parent.exists()


def test_a_killed_parent_leaves_neither_server_nor_folder() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    data_dir = Path(holder.stdout.readline().strip())
    pids = server_processes(data_dir / "pgdata")
    watchdogs = _watchdogs_of(data_dir.parent)

    holder.kill()
    holder.communicate()

    assert pids
    assert len(watchdogs) == 1
    assert wait_until(lambda: not any(Path("/proc", str(pid), "exe").exists() for pid in pids))
    assert wait_until(lambda: not data_dir.parent.exists())
    assert wait_until(lambda: not any(Path("/proc", str(pid), "exe").exists() for pid in watchdogs))


@pytest.mark.parametrize("made", ["cluster", "cluster/pgdata.new", "cluster/pgdata", "cluster/pgdata/postmaster.pid"])
def test_a_parent_killed_in_the_middle_of_a_start_leaves_nothing(folder: Path, made: str) -> None:
    environment = {**os.environ, "TMPDIR": str(folder)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert wait_until(lambda: any(folder.glob(f"*/{made}")))
    root = next(folder.iterdir())

    holder.kill()
    holder.communicate()

    assert wait_until(lambda: not root.exists())
    assert wait_until(lambda: not _watchdogs_of(root))
    assert _processes_that_mention(root) == []


def _watchdogs_of(root: Path) -> list[int]:
    return [pid for pid in _processes_that_mention(root) if "postgres_processes" in _command(pid)]


def _processes_that_mention(folder: Path) -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal() and str(folder) in _command(int(p.name))]


def _command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


# --- users --------------------------------------------------------------------------------------------------------


@root_only
def test_root_runs_the_server_as_an_unprivileged_account(cluster: EmbeddedCluster) -> None:
    cluster.start()

    owners = set()
    for pid in server_processes(pgdata_of(cluster)):
        with suppress(FileNotFoundError):  # a worker of the server's that has ended meanwhile
            owners.add(Path("/proc", str(pid)).stat().st_uid)
    assert owners == {server_account().uid}
    assert 0 not in owners


@root_only
def test_a_folder_that_the_account_cannot_enter_is_named(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(InvalidSetting, match=f"cannot enter {closed}"):
        EmbeddedCluster(closed / "data").start()

    assert list(closed.iterdir()) == []


@root_only
def test_data_of_another_user_are_refused(cluster: EmbeddedCluster) -> None:
    cluster.start()
    cluster.stop()
    os.chown(pgdata_of(cluster), 12_345, -1)

    with pytest.raises(StorageError, match="belongs to another user"):
        cluster.start()
    os.chown(pgdata_of(cluster), server_account().uid, -1)


@root_only
@pytest.mark.parametrize("step", ["start", "stop", "status", "url"])
def test_a_folder_that_somebody_else_closed_is_an_error_of_our_tree(cluster: EmbeddedCluster, step: str) -> None:
    cluster.start()
    cluster.stop()
    cluster.data_dir.chmod(0o700)
    os.seteuid(server_account().uid)
    try:
        with pytest.raises(StorageError, match="belongs to another user"):
            getattr(EmbeddedCluster(cluster.data_dir), step)()
    finally:
        os.seteuid(0)
        cluster.data_dir.chmod(0o711)


@root_only
@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_packages_in_a_closed_folder_are_not_called_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    closed = folder / "closed"
    packages = closed if mode == 0o711 else closed / "site-packages"
    packages.mkdir(parents=True)
    closed.chmod(mode)
    monkeypatch.setattr(sys, "path", [str(folder / "absent"), str(packages)])
    os.seteuid(server_account().uid)
    try:
        with pytest.raises(StorageError, match=rf"{closed} is closed to it") as caught:
            postgres_installation._installation()
    finally:
        os.seteuid(0)

    assert "chmod" in caught.value.hint


def test_a_package_that_is_not_there_is_a_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(folder)])

    with pytest.raises(MissingExtra):
        postgres_installation._installation()


@root_only
def test_programs_out_of_reach_are_copied_once_and_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_installation, "SYSTEM_CACHE", folder / "cache")
    installation = postgres_installation._installation()

    copy = postgres_installation._copy_for_everybody(installation)
    again = postgres_installation._copy_for_everybody(installation)

    for program in ("postgres", "initdb", "psql"):
        shown = subprocess.run(
            [copy / "bin" / program, "--version"],
            capture_output=True,
            text=True,
            cwd="/",
            check=True,
            **server_account().popen_arguments(),
        )
        assert " 18" in shown.stdout
    assert again == copy
    assert len(list((folder / "cache").iterdir())) == 1


@root_only
def test_roots_default_folder_moves_when_the_server_cannot_enter_home(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)

    assert default_data_dir(closed, server_account()) == Path("/var/lib/llmspell/postgres")
    assert default_data_dir(folder, server_account()) == folder / "postgres"


def test_an_ordinary_user_reaches_whatever_it_reaches(tmp_path: Path) -> None:
    account = ServerAccount(uid=1000, gid=1000, dropped=False)

    assert account.first_unreachable(tmp_path) is None
    assert default_data_dir(tmp_path, account) == tmp_path / "postgres"


def test_a_pid_file_that_is_still_being_written_is_no_server(tmp_path: Path) -> None:
    for content in ("", "12", "12\n/data\n0\n", "junk\n\n\nx\n"):
        (tmp_path / "postmaster.pid").write_text(content)

        assert read_postmaster(tmp_path) is None
