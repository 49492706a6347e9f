"""What this backend declares: what a server can do.

Reviewed together with the others in docs/reference/capabilities.md.
"""

from __future__ import annotations

from llmspell.storage.contracts.capabilities import Capability, Characteristics

CAPABILITIES: frozenset[Capability] = frozenset(Capability)

CHARACTERISTICS = Characteristics(
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
)
