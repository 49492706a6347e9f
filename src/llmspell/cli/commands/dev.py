"""`llmspell dev`: a private PostgreSQL for development, without Docker and without root.

Not here: what a cluster is and how it is guarded (`ops.embedded_postgres`).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import current_output, group
from llmspell.cli.problems import ExitCode
from llmspell.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmspell.ops.embedded_postgres import ClusterStatus, EmbeddedCluster

NEXT = (
    "Next, with these variables in your shell:",
    "  llmspell database migrate          make the tables, or bring them up to date",
    "  llmspell tenants create default    a server serves registered tenants only",
)
"""What `start` says to do, on stderr: a server that was just made has no schema and no tenant."""

data_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--data",
    "data_dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the cluster.  [default: llmspell/postgres in the user's data folder]",
)


@group()
def dev() -> None:
    """Run a private database server for development."""


@dev.group()
def postgres() -> None:
    """A private PostgreSQL 18 with pgvector, from the extra `embedded-postgres`."""


@postgres.command()
@data_option
@click.option("--port", type=click.IntRange(1, 65_535), help="Listen on 127.0.0.1 too, with a password.")
def start(data_dir: Path | None, port: int | None) -> None:
    """Start the server unless it runs, and print its URLs.

    A shell can evaluate the output: out=$(llmspell dev postgres start) && eval "$out". Written so, a start that fails is
    not taken for one that worked.
    """
    cluster = _cluster(data_dir, port=port)
    started = cluster.start()
    status = cluster.status()
    output = current_output()
    output.note(
        f"PostgreSQL {'started' if started else 'already runs'}: process {status.pid}, data in {status.data_dir}"
    )
    for line in NEXT:
        output.note(line)
    urls = _urls(cluster, tcp=port is not None)
    output.emit(
        {"started": started, **_document(status), "urls": urls},
        lines=lambda: [f"export {name}={shlex.quote(url)}" for name, url in urls.items()],
    )


@postgres.command()
@data_option
def status(data_dir: Path | None) -> ExitCode:
    """Say whether the server runs: exit code 0, or 1 when it does not."""
    found = _cluster(data_dir).status()
    where = f"on port {found.port}" if found.port else f"in {found.socket_dir}"
    text = f"running: process {found.pid}, listening {where}" if found.running else "not running"
    current_output().emit(_document(found), lines=lambda: [f"{text}, data in {found.data_dir}"])
    return ExitCode.OK if found.running else ExitCode.FAILED


@postgres.command()
@data_option
@click.option("--admin", "role", flag_value="admin", help="The URL of the owner, who migrates.")
@click.option("--operator", "role", flag_value="operator", help="The URL of the operator, who sees all tenants.")
@click.option("--app", "role", flag_value="app", default="app", help="The URL that serves tenants.  [default]")
@click.option("--tcp", is_flag=True, help="By 127.0.0.1 and password; needs a start with --port.")
def url(data_dir: Path | None, role: str, tcp: bool) -> None:
    """Print one URL, for use in $(…)."""
    from llmspell.ops.embedded_postgres import APP_ROLE, OPERATOR_ROLE, OWNER_ROLE

    roles = {"app": APP_ROLE, "admin": OWNER_ROLE, "operator": OPERATOR_ROLE}
    cluster = _cluster(data_dir)
    if data_dir is not None and not cluster.status().running:
        raise Unavailable(
            "The embedded PostgreSQL is not running.",
            hint=f"Run: llmspell dev postgres start --data {shlex.quote(str(data_dir))}",
            data_dir=str(cluster.data_dir),
        )
    found = cluster.url(role=roles[role], tcp=tcp)
    current_output().emit({"url": found}, lines=lambda: [found])


@postgres.command()
@data_option
def stop(data_dir: Path | None) -> None:
    """Stop the server. The data stay."""
    cluster = _cluster(data_dir)
    stopped = cluster.stop()
    text = "stopped" if stopped else "was not running"
    current_output().emit(
        {"stopped": stopped, "data_dir": str(cluster.data_dir)},
        lines=lambda: [f"PostgreSQL {text}, data in {cluster.data_dir}"],
    )


def _cluster(data_dir: Path | None, *, port: int | None = None) -> EmbeddedCluster:
    from llmspell.ops.embedded_postgres import EmbeddedCluster
    from llmspell.ops.postgres_installation import default_data_dir, server_account

    if data_dir is None:
        from llmspell.directories import directories

        account, named = server_account(), directories().data
        data_dir = default_data_dir(named, account)
        # A folder that the environment names is a wish; that of root's home is only where everybody's would be.
        if data_dir.parent != named and named != directories({}).data:
            current_output().warn(
                f"The data folder {named} is not used: PostgreSQL, started by root, runs as uid {account.uid},"
                f" which cannot enter {account.first_unreachable(named / data_dir.name)}. Using {data_dir}."
            )
    return EmbeddedCluster(data_dir, port=port)


def _urls(cluster: EmbeddedCluster, *, tcp: bool) -> dict[str, str]:
    from llmspell.ops.embedded_postgres import OPERATOR_ROLE, OWNER_ROLE

    return {
        "DATABASE_URL": cluster.url(tcp=tcp),
        "DATABASE_ADMIN_URL": cluster.url(role=OWNER_ROLE, tcp=tcp),
        "DATABASE_OPERATOR_URL": cluster.url(role=OPERATOR_ROLE, tcp=tcp),
    }


def _document(status: ClusterStatus) -> dict[str, object]:
    return {name: getattr(status, name) for name in status.__struct_fields__}
