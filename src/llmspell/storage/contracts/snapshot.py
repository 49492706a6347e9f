"""What is said of the content of a whole store at one instant: enough to tell later whether another one is the same."""

from __future__ import annotations

import msgspec


class TableDigest(msgspec.Struct, frozen=True):
    """How many rows a table has, and a digest of all of them. Digests compare within one kind of store."""

    name: str
    rows: int
    digest: str


class StoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A store at one instant.

    `store_id`: the random id that its first migration gave it, in hexadecimal. `software`: versions of what made this.
    """

    schema_version: int
    store_id: str
    tenants: list[str]
    tables: list[TableDigest]
    software: dict[str, str]


def differences(expected: list[TableDigest], found: list[TableDigest]) -> list[str]:
    """Say for each table that is not the same what is different; an empty list when all are."""
    wanted = {table.name: table for table in expected}
    present = {table.name: table for table in found}
    said = [f"{name}: it is missing" for name in wanted if name not in present]
    said += [f"{name}: nobody expected it" for name in present if name not in wanted]
    for name in wanted.keys() & present.keys():
        if wanted[name].rows != present[name].rows:
            said.append(f"{name}: {present[name].rows:,} rows, and there should be {wanted[name].rows:,}")
        elif wanted[name].digest != present[name].digest:
            said.append(f"{name}: other values in its {wanted[name].rows:,} rows")
    return sorted(said)
