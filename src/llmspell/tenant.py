"""Tenants: what a tenant id may be.

Not here: the handle that users hold (`spell`), the registry (`storage/contracts/tenants`), quotas (`tenancy`).
"""

from __future__ import annotations

from typing import NewType

from llmspell.codec import require_text
from llmspell.errors import InvalidTenant

TenantId = NewType("TenantId", str)

DEFAULT_TENANT = TenantId("default")
NO_TENANT = TenantId("")
"""Bound where the operator works on all tenants; no row has it, and nobody can name it."""
STORE_TENANT = TenantId(" store")
"""Owns the jobs of the store as a whole. It begins with a space, so nobody can name it as a tenant, or have it as one."""
TENANT_MAX_BYTES = 128


def tenant_id(value: str) -> TenantId:
    """Check a tenant id: 1 to 128 bytes of UTF-8, no control characters, no space at either end.

    Raises:
        InvalidTenant: anything else.
    """
    require_text(value, field="tenant", max_bytes=TENANT_MAX_BYTES, error=InvalidTenant, empty=False)
    if value != value.strip() or any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise InvalidTenant("tenant", "must have no control characters and no space at either end", given=value)
    return TenantId(value)
