"""`llmspell database pool`: how large the pool of a process should be, and whether the server allows it. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from llmspell.cli.output import async_command, command, counted, current_output
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings

if TYPE_CHECKING:
    from llmspell.ops.pool_sizing import PoolPlan


@command("pool")
@click.option(
    "--cores", type=click.IntRange(1, 4_096), help="CPU cores of the database server; default: of this machine."
)
@click.option(
    "--spindles", type=click.IntRange(0, 1_024), default=1, show_default=True, help="Disks of the server; 1 for an SSD."
)
@click.option(
    "--instances",
    type=click.IntRange(1, 10_000),
    default=3,
    show_default=True,
    help="Processes that have a pool of their own.",
)
@click.option(
    "--max-connections", type=click.IntRange(1, 262_143), help="The server's limit; default: what the server says."
)
@click.option("--size", type=click.IntRange(1, 262_143), help="Check this pool size instead of the computed one.")
@async_command
async def pool(
    cores: int | None, spindles: int, instances: int, max_connections: int | None, size: int | None
) -> ExitCode:
    """Compute a pool size, and check it and the configured one against what the server allows.

    Pool size = cores x 2 + spindles, rounded up to a multiple of 5. All instances need pool size x instances + 10 for
    administrators + 30 as a margin. A server on this machine is asked for its limit, and has the cores of this machine; of
    another the cores must be given. With --cores no server is needed. Exit code 1 when the server allows less than is needed.
    """
    from llmspell.clock import SystemClock
    from llmspell.ops.pool_sizing import plan
    from llmspell.ops.server_limits import configured_size, cores_of, is_server, limits_of

    settings = current_settings()
    document: dict[str, Any] = {"configured": None, "server": None}
    if cores is None or (max_connections is None and is_server(settings)):
        limits = await asyncio.to_thread(limits_of, settings, clock=SystemClock())
        cores = cores_of(limits) if cores is None else cores
        max_connections = limits.max_connections if max_connections is None else max_connections
        document["server"] = {"max_connections": limits.max_connections, "used": limits.used, "here": limits.here}
    planned = plan(cores=cores, spindles=spindles, instances=instances, max_connections=max_connections, size=size)
    in_use: PoolPlan | None = None
    if size is None and document["server"] is not None:
        given = configured_size(settings)
        in_use = plan(cores=cores, spindles=spindles, instances=instances, max_connections=max_connections, size=given)
        document["configured"] = {"pool_size": given, "connections": in_use.connections, "fits": in_use.fits}
    document = {**{name: getattr(planned, name) for name in planned.__struct_fields__}, **document}
    current_output().emit(document, lines=lambda: _lines(planned, in_use, document["server"], given=size is not None))
    fits = in_use.fits if in_use is not None else planned.fits
    return ExitCode.FAILED if fits is False else ExitCode.OK


def _lines(planned: PoolPlan, in_use: PoolPlan | None, server: dict[str, Any] | None, *, given: bool) -> Iterable[str]:
    computed = f"{counted(planned.cores, 'core')} x 2 + {planned.spindles} = {planned.computed}"
    yield f"pool_size        {planned.pool_size}  ({'as given' if given else f'{computed}, rounded up to a multiple of 5'})"
    yield f"max_connections  {planned.connections}  ({_sum(planned)})"
    yield from _verdict(planned)
    if in_use is not None:
        yield f"configured       {in_use.pool_size}, which needs {in_use.connections}  ({_sum(in_use)})"
        yield from _verdict(in_use)
    if server is not None:
        yield f"in use           {server['used']} of {server['max_connections']} connections, by all programs"


def _sum(planned: PoolPlan) -> str:
    return (
        f"{planned.pool_size} x {counted(planned.instances, 'instance')}"
        f" + {planned.admin_reserve} for administrators + {planned.margin} margin"
    )


def _verdict(planned: PoolPlan) -> Iterable[str]:
    if planned.fits:
        yield f"fits             yes: the server allows {planned.max_connections}"
    elif planned.fits is False:
        yield f"fits             no: the server allows {planned.max_connections}"
        smaller = f", use a pool_size of {planned.pool_size_that_fits}," if planned.pool_size_that_fits else ","
        yield (
            f"                 raise max_connections to {planned.connections}{smaller}"
            " or put a transaction pooler in front"
        )
