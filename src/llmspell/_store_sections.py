"""Sections of the settings for one kind of store each.

Private to `llmspell.settings`, which gives them their public names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from llmspell._sections import Secret, Section, about


class PostgresSettings(Section, frozen=True, kw_only=True):
    """The connection to a PostgreSQL server (CFG-05). `[storage.postgresql]` is the same table."""

    url: Annotated[
        str | None, about("Server and database for the application role; `DATABASE_URL` sets it.", url=True)
    ] = None
    admin_url: Annotated[
        str | None, about("The same database for the role that migrates; `DATABASE_ADMIN_URL` sets it.", url=True)
    ] = None
    operator_url: Annotated[
        str | None,
        about(
            "The same database for the role that works on all tenants (workers, suspending, retention);"
            " `DATABASE_OPERATOR_URL` sets it.",
            url=True,
        ),
    ] = None
    tenant_key: Annotated[
        Secret | None,
        about(
            "Key that signs the tenant of each statement, where the database demands that (`llmspell database signing`);"
            " `LLMSPELL_TENANT_KEY` sets it."
        ),
    ] = None
    pool_size: Annotated[
        int, about("Connections at most: CPU cores x 2 + 1 for SSD.", row="BKE-08", ge=1, le=1_000)
    ] = 20
    pool_timeout_secs: Annotated[
        float, about("Wait this long for a free connection.", row="BKE-09", gt=0, le=3_600)
    ] = 30.0
    idle_timeout_secs: Annotated[float, about("Close idle connections after this.", row="BKE-09", gt=0, le=86_400)] = (
        600.0
    )
    max_lifetime_secs: Annotated[float, about("Replace connections after this.", row="BKE-09", gt=0, le=86_400)] = (
        1_800.0
    )
    enforce_tenant_isolation: Annotated[
        bool, about("Refuse to serve as a role that bypasses row-level security.", row="CFG-05")
    ] = True
    auto_migrate: Annotated[bool, about("Apply pending migrations when the store is opened.", row="CFG-05")] = False
    statement_cache_size: Annotated[
        int, about("Prepared statements kept per connection; 0 prepares none.", row="BKE-10", ge=0, le=10_000)
    ] = 100
    pooler: Annotated[
        Literal["none", "transaction"],
        about("What sits between: `transaction` for PgBouncer in that mode.", row="BKE-13"),
    ] = "none"


class SqliteSettings(Section, frozen=True, kw_only=True):
    """The embedded store."""

    synchronous: Annotated[
        Literal["FULL", "NORMAL"],
        about("FULL survives a power cut with every acknowledged commit; NORMAL may lose the latest, and is faster."),
    ] = "FULL"
    readers: Annotated[int, about("Connections that read beside the one that writes.", ge=1, le=64)] = 4
    busy_timeout_secs: Annotated[float, about("Wait this long for another process's write.", gt=0, le=600)] = 30.0
    vector_cache_mb: Annotated[
        int, about("Memory for vectors and their indexes, in MiB for each process.", ge=1, le=1_048_576)
    ] = 2_048
    index_threads: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1_024)] | None,
        about("Threads that build indexes in the background. Unset: half of the cores, at least one."),
    ] = None
    vector_mmap: Annotated[
        bool,
        about(
            "Map index files instead of reading them: processes share the memory, and a file that is harmed while it is open "
            "ends them.",
            row="HNS-19",
        ),
    ] = False
