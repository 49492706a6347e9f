"""What a backend can do, in one reviewed table.

A backend that lacks a capability raises `Unsupported`; nothing answers "ok" without having done it. A row that is
taken away from a backend needs a page in docs/decisions.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec

BackendType: TypeAlias = Literal["memory", "sqlite", "postgresql"]


class Capability(enum.Enum):
    """What a caller may ask for; a contract test names the ones it needs."""

    PERSISTENT = "persistent"  # survives a restart
    MULTI_PROCESS = "multi_process"  # several processes may share one store
    CONCURRENT_WRITERS = "concurrent_writers"  # two transactions may be open at once
    DATABASE_ISOLATION = "database_isolation"  # the database itself keeps tenants apart
    ANN_PROMOTION = "ann_promotion"  # large spaces can be moved into an approximate index by command


CAPABILITIES: dict[BackendType, frozenset[Capability]] = {
    "memory": frozenset(),
    "sqlite": frozenset({Capability.PERSISTENT, Capability.MULTI_PROCESS}),
    "postgresql": frozenset(Capability),
}


class Characteristics(msgspec.Struct, frozen=True, kw_only=True):
    """Introspection of a backend (STO-11). Latencies are the order of magnitude that BKE-01…03 state, in microseconds."""

    backend: BackendType
    persistent: bool
    transactional: bool
    multi_tenant: bool
    multi_writer: bool
    supports_prefix_scan: bool
    supports_atomic_ops: bool
    avg_read_latency_us: int
    avg_write_latency_us: int
    scalability: str
    use_case: str


CHARACTERISTICS: dict[BackendType, Characteristics] = {
    "memory": Characteristics(
        backend="memory",
        persistent=False,
        transactional=True,
        multi_tenant=True,
        multi_writer=False,
        supports_prefix_scan=True,
        supports_atomic_ops=True,
        avg_read_latency_us=1,
        avg_write_latency_us=2,
        scalability="one process, bounded by its memory",
        use_case="tests, and stores below 1,000 items",
    ),
    "sqlite": Characteristics(
        backend="sqlite",
        persistent=True,
        transactional=True,
        multi_tenant=True,
        multi_writer=False,
        supports_prefix_scan=True,
        supports_atomic_ops=True,
        avg_read_latency_us=50,
        avg_write_latency_us=200,
        scalability="one machine, several processes",
        use_case="laptops, edge boxes and embedded production below 1M items",
    ),
    "postgresql": Characteristics(
        backend="postgresql",
        persistent=True,
        transactional=True,
        multi_tenant=True,
        multi_writer=True,
        supports_prefix_scan=True,
        supports_atomic_ops=True,
        avg_read_latency_us=500,
        avg_write_latency_us=1_000,
        scalability="many machines, read replicas",
        use_case="multi-tenant production, isolation enforced by the database",
    ),
}
