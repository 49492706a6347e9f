"""What this backend declares: what plain Python in one process can do.

Reviewed together with the others in docs/reference/capabilities.md.
"""

from __future__ import annotations

from llmspell.storage.contracts.capabilities import Capability, Characteristics

CAPABILITIES: frozenset[Capability] = frozenset()

CHARACTERISTICS = Characteristics(
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
)
