"""What scopes allow."""

from __future__ import annotations

from uuid import uuid4

import pytest

from llmspell.errors import InvalidKey
from llmspell.security.access_keys import Principal
from llmspell.tenant import TenantId


def principal(*scopes: str) -> Principal:
    return Principal(
        tenant=TenantId("acme"), subject="robot", key_id=uuid4(), name="ci", scopes=[*scopes], expires_at=None
    )


# Who has the scope in front may do what stands in the first list, and nothing of the second.
ALLOWED: dict[str, tuple[list[str], list[str]]] = {
    "read": (["read", "graph:read"], ["write", "admin", "graph:write", "graph:search", "graph:admin"]),
    "write": (["read", "write", "graph:read", "graph:write"], ["admin", "graph:search", "graph:admin"]),
    "admin": (["read", "write", "admin", "graph:read", "graph:search", "graph:admin"], []),
    "graph:read": (["graph:read"], ["read", "graph:write", "kv:read", "graph:search"]),
    "graph:write": (["graph:read", "graph:write"], ["read", "write", "kv:write", "graph:search"]),
    "graph:search": (["graph:search"], ["read", "graph:read", "kv:search"]),
    "graph:admin": (["graph:read", "graph:write", "graph:search", "graph:admin"], ["admin", "read", "kv:read"]),
}


@pytest.mark.parametrize("scope", ALLOWED)
def test_a_scope_allows_what_it_says_and_nothing_else(scope: str) -> None:
    yes, no = ALLOWED[scope]

    assert [wanted for wanted in yes if not principal(scope).allows(wanted)] == []
    assert [wanted for wanted in no if principal(scope).allows(wanted)] == []


def test_scopes_add_up() -> None:
    both = principal("graph:search", "read")

    assert both.allows("graph:search")
    assert both.allows("kv:read")
    assert not principal().allows("read")


@pytest.mark.parametrize("scope", ["", "reed", "*", "graph:*", ":read", "read:", "a:b:c", "READ"])
def test_what_is_no_scope_is_an_error_and_not_a_refusal(scope: str) -> None:
    with pytest.raises(InvalidKey):
        principal("admin").allows(scope)
