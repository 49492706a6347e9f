"""The contract of `tenants`, on every backend."""

from __future__ import annotations

from llmspell.testing.contract.tenants import TenantsContract


class TestTenants(TenantsContract):
    pass
