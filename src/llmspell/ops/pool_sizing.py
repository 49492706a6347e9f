"""How many connections a pool should have, and whether the server allows them for every instance. Pure arithmetic.

Rule: a pool is sized by what the server can do at once, not by how many callers there are; callers wait for a connection.
"""

from __future__ import annotations

from typing import Final

import msgspec

from llmspell.errors import InvalidLimit

STEP: Final = 5
"""Sizes are rounded up to a multiple of it, as the examples of BKE-08 do (17 is 20, 33 is 35, 10 stays)."""
DEFAULT_SPINDLES: Final = 1
"""One for an SSD (AMB-039)."""
DEFAULT_INSTANCES: Final = 3
ADMIN_RESERVE: Final = 10
"""Connections left for administrators and their tools (BKE-11)."""
MARGIN: Final = 30
"""Connections left for what nobody thought of: migrations, backups, a deployment that overlaps the former one (BKE-11)."""
CORES_MAX: Final = 4_096
SPINDLES_MAX: Final = 1_024
INSTANCES_MAX: Final = 10_000
CONNECTIONS_MAX: Final = 262_143
"""The most that PostgreSQL accepts as max_connections."""


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pool size with the arithmetic behind it.

    `computed` is the formula before rounding. `connections` is what all instances and the reserves need together. `fits` says
    whether `max_connections` allows that, None when it was not given. `pool_size_that_fits` is the largest pool that the limit
    allows each instance, never more than `pool_size`; 0 when not one connection is left.
    """

    cores: int
    spindles: int
    instances: int
    computed: int
    pool_size: int
    admin_reserve: int
    margin: int
    connections: int
    max_connections: int | None
    fits: bool | None
    pool_size_that_fits: int


def pool_size(*, cores: int, spindles: int = DEFAULT_SPINDLES) -> int:
    """Return (cores x 2) + spindles, rounded up to a multiple of 5 (BKE-08, AMB-039).

    Args:
        cores: of the database server, not of the application.
        spindles: disks that can seek at the same time; 1 for an SSD.

    Raises:
        InvalidLimit: a number is out of range.
    """
    return _rounded_up(_formula(cores, spindles))


def plan(
    *,
    cores: int,
    spindles: int = DEFAULT_SPINDLES,
    instances: int = DEFAULT_INSTANCES,
    max_connections: int | None = None,
    size: int | None = None,
) -> PoolPlan:
    """Size a pool, and check pool size x instances + reserves against the server's limit (BKE-11, AMB-037).

    Args:
        instances: processes with a pool of their own.
        max_connections: the server's setting; without it nothing is checked.
        size: a pool size in use, checked instead of the one that the formula gives.

    Raises:
        InvalidLimit: a number is out of range.
    """
    computed = _formula(cores, spindles)
    _require(instances, "instances", INSTANCES_MAX)
    chosen = _rounded_up(computed) if size is None else _require(size, "size", CONNECTIONS_MAX)
    reserved = ADMIN_RESERVE + MARGIN
    connections = chosen * instances + reserved
    fits, fitting = None, chosen
    if max_connections is not None:
        _require(max_connections, "max_connections", CONNECTIONS_MAX)
        fits = connections <= max_connections
        fitting = min(chosen, max(0, (max_connections - reserved) // instances))
    return PoolPlan(
        cores=cores,
        spindles=spindles,
        instances=instances,
        computed=computed,
        pool_size=chosen,
        admin_reserve=ADMIN_RESERVE,
        margin=MARGIN,
        connections=connections,
        max_connections=max_connections,
        fits=fits,
        pool_size_that_fits=fitting,
    )


def _formula(cores: int, spindles: int) -> int:
    return _require(cores, "cores", CORES_MAX) * 2 + _require(spindles, "spindles", SPINDLES_MAX, least=0)


def _rounded_up(size: int) -> int:
    return -(-size // STEP) * STEP


def _require(value: int, field: str, most: int, *, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidLimit(field, f"must be a whole number from {least} to {most:,}", given=value)
    return value
