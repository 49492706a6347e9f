"""What a backup says of itself: inside, where it is sealed with the rest (`Manifest`), and beside it (`Record`).

Rule 1: names of tenants and digests of tables are inside alone; what stands beside a backup helps to choose one, and no more.
Rule 2: a backup counts as good when it was restored somewhere and its digests were the same: `verified_at` is then set.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from llmspell.storage.contracts.snapshot import TableDigest

FORMAT_VERSION = 1
Kind: TypeAlias = Literal["sqlite", "postgresql"]
State: TypeAlias = Literal["verified", "unverified", "damaged", "incomplete"]


class RoleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A role that owns something of a store in a server, or has rights or policies there. No password is kept."""

    name: str
    can_login: bool
    may_create_roles: bool


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    `store`: its URL without secrets. `store_id`: the random id of the store, in hexadecimal; `software`: versions of what made it.
    For a server also: `owner` of the schema, `roles` that its rights name, `signed`: it demanded signed tenants;
    `vector_schema`: where the extension `vector` is.
    """

    format_version: int
    id: str
    created_at: datetime
    kind: Kind
    store: str
    store_id: str
    schema_version: int
    tenants: list[str]
    tables: list[TableDigest]
    software: dict[str, str]
    owner: str = ""
    roles: list[RoleFacts] = []
    signed: bool = False
    vector_schema: str = "public"

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return sum(table.rows for table in self.tables)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A backup as a list shows it. Sizes are in bytes: `stored_bytes` as it lies there, `content_bytes` unpacked.

    `key_id`: the master key that sealed it; None when it is not encrypted, and `signed_by` the one that signed it then, if there is
    one. `failure`: why it does not count, when it does not.
    """

    format_version: int = FORMAT_VERSION
    id: str
    created_at: datetime
    kind: Kind
    store: str
    store_id: str
    schema_version: int
    rows: int
    tenants: int
    stored_bytes: int
    content_bytes: int
    sha256: str
    compressed: bool
    key_id: str | None
    verified_at: datetime | None = None
    failure: str = ""
    signed_by: str | None = None

    @property
    def state(self) -> State:
        """Whether it counts."""
        if self.failure:
            return "damaged"
        return "unverified" if self.verified_at is None else "verified"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list. `record` is None for what a backup that did not end has left: `incomplete`."""

    id: str
    state: State
    stored_bytes: int
    age_s: float
    record: Record | None = None
