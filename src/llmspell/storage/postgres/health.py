"""The health of a server, as far as our roles may see it: what its state means for whoever serves from it.

Not here: what the server says (`vitals`), running the checks (`ops.health`).

Rule 1: facts are read once for all checks, as the owner where its URL is known, for it may see more; otherwise as the serving role.
Rule 2: what a role may not see is `unknown`, and the reason names the right that is missing.
Rule 3: thresholds are named here, with what they protect.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmspell.storage.contracts.health import Finding, HealthCheck, worst
from llmspell.storage.postgres.statements import bind_texts, fixed
from llmspell.storage.postgres.tenancy import rls_audit
from llmspell.storage.postgres.vitals import Vitals, read_vitals, vector_bytes

if TYPE_CHECKING:
    from llmspell.storage.postgres.link import Link
    from llmspell.storage.postgres.pool import Pool

GIBIBYTE: Final = 1024**3
CONNECTIONS_LOW, CONNECTIONS_RED = 0.8, 0.95
IDLE_TRANSACTION_S: Final = 600.0
"""MNT-08: idle for more than ten minutes, and in a transaction, which keeps vacuum from its work."""
TRANSACTION_S: Final = 3_600.0
"""A transaction of an hour keeps every row that died since."""
SLOT_KEPT_BYTES: Final = GIBIBYTE
LOG_FACTOR: Final = 2
"""The log is at most about max_wal_size; twice that is kept by something: a slot, or an archive command that fails."""
AGE_RED: Final = 1_600_000_000
"""The server stops accepting writes at 2^31 less three million transactions; this leaves a quarter to act in."""
DISK_LOW_BYTES, DISK_RED_BYTES = 2 * GIBIBYTE, 256 * 1024 * 1024
SHOWN: Final = 5
_AUDIT = fixed("health.audit", rls_audit())
_ROLE = fixed(
    "health.role",
    "SELECT rolname::text, rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user",
)


class ServerChecks:
    """The checks of one server. Facts are read when the first check wants them, and then kept."""

    def __init__(
        self,
        pool: Pool,
        *,
        missing_months: Callable[[], Awaitable[int]],
        owner: Callable[[], Awaitable[Link]] | None = None,
    ) -> None:
        """`owner` connects as the role that owns the schema; None where its URL is not known."""
        self._pool = pool
        self._owner = owner
        self._missing_months = missing_months
        self._reading: asyncio.Task[Vitals] | None = None

    def all(self) -> Sequence[HealthCheck]:
        """Return every check, the most important first."""
        judged = {
            "writable": writable,
            "connections": connections,
            "transactions": transactions,
            "replication": replication,
            "wal": log,
            "durability": durability,
            "wraparound": wraparound,
            "indexes": indexes,
            "disk": disk,
        }
        return (
            HealthCheck("isolation", self._isolation),
            HealthCheck("pool", self._pool_state),
            *(HealthCheck(name, self._judged(judge)) for name, judge in judged.items()),
            HealthCheck("partitions", self._partitions),
            HealthCheck("vector_storage", self._vectors),
        )

    def _judged(self, judge: Callable[[Vitals], Finding]) -> Callable[[], Awaitable[Finding]]:
        async def look() -> Finding:
            return judge(await self._vitals())

        return look

    async def _vitals(self) -> Vitals:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        # Shielded: a check that is given up must not take the facts from the others.
        return await asyncio.shield(self._reading)

    async def _read(self) -> Vitals:
        if self._owner is None:
            async with self._pool.link() as link:
                return await read_vitals(link)
        link = await self._owner()
        try:
            return await read_vitals(link)
        finally:
            link.close()

    async def _isolation(self) -> Finding:
        async with self._pool.link() as link:
            asked = tuple(map(bind_texts, (_ROLE, _AUDIT)))
            role, audit = (link.rows(one) for one in await link.exchange(asked, commits=False, name="health.isolation"))
        holes = [f"{subject}: {problem}" for subject, problem in audit]
        if role[0][1]:
            holes.insert(0, f"{role[0][0]}: row-level security does not bind this role")
        if not holes:
            return Finding(facts={"holes": 0})
        return Finding(
            status="unhealthy",
            reason=f"tenants are not kept apart: {_some(holes)}",
            hint="Run: llmspell database isolation; policies and rights that are missing: llmspell database migrations repair",
            facts={"holes": len(holes)},
        )

    async def _pool_state(self) -> Finding:
        state = self._pool.status()
        facts = {"size": state.size, "available": state.available, "waiting": state.waiting}
        if state.waiting:
            reason = f"{state.waiting} callers wait for a connection of this process"
            return Finding(status="degraded", reason=reason, hint="Run: llmspell database pool", facts=facts)
        return Finding(facts=facts)

    async def _partitions(self) -> Finding:
        missing = await self._missing_months()
        if missing:
            return Finding(
                status="degraded",
                reason=f"{missing} of the current month and the next three are not there: their events wait in one partition",
                hint="Run daily: llmspell database partitions ensure",
                facts={"missing": missing},
            )
        return Finding(facts={"missing": 0})

    async def _vectors(self) -> Finding:
        """HLT-03. What is there is measured in bytes: no tenant's rows are read."""
        async with self._pool.link() as link:
            size = await vector_bytes(link)
        if size:
            return Finding(facts={"bytes": size})
        hint = "Nothing was kept yet that is searched by meaning."
        return Finding(status="degraded", reason="No vectors indexed", hint=hint, facts={"bytes": 0})


def writable(vitals: Vitals) -> Finding:
    """Judge whether the server takes writes."""
    facts = {"in_recovery": vitals.server.in_recovery, "read_only": vitals.server.read_only}
    if vitals.server.in_recovery:
        hint = "Name the primary in DATABASE_URL, or promote this server."
        return Finding(
            status="unhealthy", reason="the server is a replica, and takes no writes", hint=hint, facts=facts
        )
    if vitals.server.read_only:
        hint = "Reset it for the database or the role: ALTER DATABASE … RESET default_transaction_read_only;"
        return Finding(status="unhealthy", reason="transactions are read-only by default", hint=hint, facts=facts)
    return Finding(facts=facts)


def connections(vitals: Vitals) -> Finding:
    """Judge how many connections of all programs are left (BKE-11)."""
    used, most = vitals.server.connections, max(1, vitals.server.connections_max)
    facts = {"used": used, "max": vitals.server.connections_max}
    if used < CONNECTIONS_LOW * most:
        return Finding(facts=facts)
    return Finding(
        status="unhealthy" if used >= CONNECTIONS_RED * most else "degraded",
        reason=f"{used} of {most} connections are taken",
        hint="Run: llmspell database pool, and end connections that nobody uses.",
        facts=facts,
    )


def transactions(vitals: Vitals) -> Finding:
    """Judge transactions that are open for too long (MNT-08)."""
    long = [
        f"process {one.process_id} of {one.role}, {one.state} for {one.state_s or one.transaction_s:,.0f} s"
        for one in vitals.sessions
        if one.transaction_s is not None
        and (
            one.transaction_s > TRANSACTION_S
            or (one.state.startswith("idle in transaction") and (one.state_s or 0) > IDLE_TRANSACTION_S)
        )
    ]
    long += [f"prepared transaction {name}, {age:,.0f} s" for name, age in vitals.prepared if age > TRANSACTION_S]
    hidden = sum(one.state == "hidden" for one in vitals.sessions)
    facts = {"long": len(long), "sessions": len(vitals.sessions), "hidden": hidden}
    if long:
        hint = "End it: SELECT pg_terminate_backend(PROCESS); a prepared one: ROLLBACK PREPARED 'NAME';"
        return Finding(status="degraded", reason=f"open for too long: {_some(long)}", hint=hint, facts=facts)
    if hidden:
        return Finding(
            status="unknown",
            reason=f"{hidden} of {len(vitals.sessions)} connections belong to roles that this one may not look at",
            hint="Give the owner the right: GRANT pg_monitor TO llmspell; and set DATABASE_ADMIN_URL.",
            facts=facts,
        )
    return Finding(facts=facts)


def replication(vitals: Vitals) -> Finding:
    """Judge replication slots, where there are any."""
    facts = {"slots": len(vitals.slots), "kept_bytes": max((slot.kept_bytes for slot in vitals.slots), default=0)}
    lost = [slot.name for slot in vitals.slots if slot.log_status in ("lost", "unreserved")]
    idle = [slot for slot in vitals.slots if not slot.active and slot.kept_bytes > SLOT_KEPT_BYTES]
    if lost:
        hint = "Make the replica anew, and drop the slot: SELECT pg_drop_replication_slot('NAME');"
        reason = f"slots whose replica cannot follow any more: {_some(lost)}"
        return Finding(status="unhealthy", reason=reason, hint=hint, facts=facts)
    if idle:
        named = [f"{slot.name} keeps {slot.kept_bytes:,} bytes" for slot in idle]
        hint = "Start the replica, or drop the slot: SELECT pg_drop_replication_slot('NAME');"
        return Finding(status="degraded", reason=f"slots that nobody reads: {_some(named)}", hint=hint, facts=facts)
    return Finding(facts=facts)


def log(vitals: Vitals) -> Finding:
    """Judge the write-ahead log: its size, and whether it is archived where it should be."""
    server = vitals.server
    facts = {"bytes": vitals.log_bytes, "max_bytes": server.log_max_bytes, "archiving": server.archiving}
    size = Finding(facts=facts)
    if vitals.log_bytes is None:
        reason = "the size of the write-ahead log is not shown to this role"
        size = Finding(status="unknown", reason=reason, hint="GRANT pg_monitor TO llmspell;", facts=facts)
    elif vitals.log_bytes > LOG_FACTOR * server.log_max_bytes:
        size = Finding(
            status="degraded",
            reason=f"the write-ahead log has {vitals.log_bytes:,} bytes, max_wal_size is {server.log_max_bytes:,}",
            hint="Look for a slot that nobody reads, or an archive command that fails.",
            facts=facts,
        )
    if server.archiving and server.archiving_fails:
        reason = f"archiving of the write-ahead log fails ({server.archive_failures:,} times so far)"
        hint = "Look into the server's log for the archive command; until it works the log only grows."
        return worst(Finding(status="unhealthy", reason=reason, hint=hint), size)
    return size


def durability(vitals: Vitals) -> Finding:
    """Judge whether an acknowledged commit survives."""
    server = vitals.server
    facts = {
        "fsync": server.fsync,
        "full_page_writes": server.full_page_writes,
        "synchronous_commit": server.synchronous_commit,
    }
    if not (server.fsync and server.full_page_writes):
        name = "fsync" if not server.fsync else "full_page_writes"
        hint = "Switch it on in postgresql.conf, or by ALTER SYSTEM as a superuser; then SELECT pg_reload_conf();"
        reason = f"{name} is off: a power cut can destroy the database"
        return Finding(status="degraded", reason=reason, hint=hint, facts=facts)
    if server.synchronous_commit == "off":
        reason = "synchronous_commit is off: a crash loses the latest commits"
        return Finding(status="degraded", reason=reason, hint="Set it to on for this role or database.", facts=facts)
    return Finding(facts=facts)


def wraparound(vitals: Vitals) -> Finding:
    """Judge whether vacuum keeps up: numbers of transactions are finite."""
    server = vitals.server
    facts = {"age": server.oldest_age, "max_age": server.freeze_max_age, "autovacuum": server.autovacuum}
    if server.oldest_age >= AGE_RED:
        return Finding(
            status="unhealthy",
            reason=f"the oldest row is {server.oldest_age:,} transactions old: the server will soon refuse writes",
            hint="Run VACUUM (FREEZE) in this database, and end what keeps it from working: long transactions, slots.",
            facts=facts,
        )
    if not server.autovacuum:
        hint = "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();"
        return Finding(status="degraded", reason="autovacuum is off", hint=hint, facts=facts)
    if server.oldest_age > server.freeze_max_age + server.freeze_max_age // 10:
        reason = f"the oldest row is {server.oldest_age:,} transactions old, autovacuum should act at {server.freeze_max_age:,}"
        hint = "See what keeps autovacuum from it: long transactions, slots, too few workers."
        return Finding(status="degraded", reason=reason, hint=hint, facts=facts)
    return Finding(facts=facts)


def indexes(vitals: Vitals) -> Finding:
    """Judge indexes that a broken CONCURRENTLY has left: they cost writes and answer nothing."""
    facts = {"invalid": list(vitals.invalid_indexes)}
    if not vitals.invalid_indexes:
        return Finding(facts=facts)
    reason = f"cannot be used: {_some(vitals.invalid_indexes)}"
    return Finding(status="degraded", reason=reason, hint="Run: llmspell database migrations repair", facts=facts)


def disk(vitals: Vitals) -> Finding:
    """Judge the room on the disk of the data, where it is a disk of this machine."""
    folder = Path(vitals.data_directory) if vitals.data_directory else None
    if folder is None or not folder.is_dir():
        why = "of another machine" if folder is not None else "that this role may not know"
        hint = "Watch the disk on the server itself" + ("." if folder else "; or GRANT pg_monitor TO llmspell;")
        return Finding(status="unknown", reason=f"the data are on a disk {why}", hint=hint)
    free = shutil.disk_usage(folder).free
    facts = {"free_bytes": free}
    if free >= DISK_LOW_BYTES:
        return Finding(facts=facts)
    return Finding(
        status="unhealthy" if free < DISK_RED_BYTES else "degraded",
        reason=f"{free:,} bytes are free on the disk of the data",
        hint="A full disk stops the server: make room, or move the data.",
        facts=facts,
    )


def _some(items: Sequence[str]) -> str:
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
