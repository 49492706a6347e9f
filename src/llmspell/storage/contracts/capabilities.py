"""What a backend may be able to do.

Each backend declares its own set; all sets stand side by side in docs/reference/capabilities.md, which a test compares. A
backend that lacks a capability raises `Unsupported`; nothing answers "ok" without having done it. A capability that is taken
away from a backend needs a page in docs/decisions.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

BackendType: TypeAlias = str
"""The name of a backend, as the scheme of its URL says it; for people and logs, never to branch on."""


class Capability(enum.Enum):
    """What a caller may ask for; a contract test names the ones it needs."""

    PERSISTENT = "persistent"  # survives a restart
    MULTI_PROCESS = "multi_process"  # several processes may share one store
    CONCURRENT_WRITERS = "concurrent_writers"  # two transactions may be open at once
    DATABASE_ISOLATION = "database_isolation"  # the database itself keeps tenants apart
    EVENT_PARTITIONS = "event_partitions"  # events are kept in months that are made ahead and archived whole
    ANN_PROMOTION = "ann_promotion"  # large spaces can be moved into an approximate index by command


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
