"""llmspell: the memory and state database for LLM agents.

Importing this module loads nothing else: each public name is imported when it is first used (PEP 562).
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llmspell._sections import Secret as Secret
    from llmspell.blocking import connect_blocking as connect_blocking
    from llmspell.clock import Clock as Clock
    from llmspell.clock import ManualClock as ManualClock
    from llmspell.clock import SystemClock as SystemClock
    from llmspell.errors import LlmspellError as LlmspellError
    from llmspell.memory.state import StateScope as StateScope
    from llmspell.security.secrets import SecretRef as SecretRef
    from llmspell.settings import Settings as Settings
    from llmspell.settings import load_settings as load_settings
    from llmspell.spell import Spell as Spell
    from llmspell.spell import Tenant as Tenant
    from llmspell.spell import Transaction as Transaction
    from llmspell.spell import connect as connect
    from llmspell.storage.contracts.audit import AuditHead as AuditHead
    from llmspell.storage.contracts.audit import NewAuditEntry as NewAuditEntry
    from llmspell.storage.contracts.event_log import NewEvent as NewEvent
    from llmspell.storage.contracts.hook_history import LONG_RETENTION as LONG_RETENTION
    from llmspell.storage.contracts.hook_history import SHORT_RETENTION as SHORT_RETENTION
    from llmspell.storage.contracts.hook_history import NewHookExecution as NewHookExecution
    from llmspell.storage.contracts.hook_history import RetentionPolicy as RetentionPolicy
    from llmspell.storage.contracts.tenants import QuotaLimits as QuotaLimits
    from llmspell.storage.contracts.vector_index import HnswConfig as HnswConfig
    from llmspell.storage.contracts.vector_index import configure_hnsw_for_scale as configure_hnsw_for_scale

# Every public name and its one home. `tests/meta/test_exports.py` compares this table with the imports above.
_HOMES = {
    "AuditHead": "llmspell.storage.contracts.audit",
    "Clock": "llmspell.clock",
    "HnswConfig": "llmspell.storage.contracts.vector_index",
    "LONG_RETENTION": "llmspell.storage.contracts.hook_history",
    "LlmspellError": "llmspell.errors",
    "ManualClock": "llmspell.clock",
    "NewAuditEntry": "llmspell.storage.contracts.audit",
    "NewEvent": "llmspell.storage.contracts.event_log",
    "NewHookExecution": "llmspell.storage.contracts.hook_history",
    "QuotaLimits": "llmspell.storage.contracts.tenants",
    "RetentionPolicy": "llmspell.storage.contracts.hook_history",
    "SHORT_RETENTION": "llmspell.storage.contracts.hook_history",
    "Secret": "llmspell._sections",
    "SecretRef": "llmspell.security.secrets",
    "Settings": "llmspell.settings",
    "Spell": "llmspell.spell",
    "StateScope": "llmspell.memory.state",
    "SystemClock": "llmspell.clock",
    "Tenant": "llmspell.spell",
    "Transaction": "llmspell.spell",
    "configure_hnsw_for_scale": "llmspell.storage.contracts.vector_index",
    "connect": "llmspell.spell",
    "connect_blocking": "llmspell.blocking",
    "load_settings": "llmspell.settings",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmspell' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
