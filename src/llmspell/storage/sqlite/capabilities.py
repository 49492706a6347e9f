"""What this backend declares: what a file shared by the processes of one machine can do.

Reviewed together with the others in docs/reference/capabilities.md.
"""

from __future__ import annotations

from llmspell.storage.contracts.capabilities import Capability, Characteristics

CAPABILITIES: frozenset[Capability] = frozenset({Capability.PERSISTENT, Capability.MULTI_PROCESS})

CHARACTERISTICS = Characteristics(
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
)
