"""Are the backups well? Decided from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from llmspell.ops.backup.records import Listed

INTERVALS = 3
"""So many intervals without a verified backup are too many, unless `backup.stale_after_s` says otherwise."""
Health: TypeAlias = Literal["ok", "degraded", "red", "off"]


class BackupState(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement with its reason. `age_s`: of the last verified backup; None when there is none. `off`: none is asked for."""

    status: Health
    reason: str
    last_verified_id: str | None
    last_verified_at: datetime | None
    age_s: float | None
    backups: int
    unverified: int
    damaged: int
    stored_bytes: int


def judge(found: Sequence[Listed], now: datetime, *, enabled: bool, stale_after_s: float | None) -> BackupState:
    """Judge the backups of one store.

    Red: there is no verified one although backups are asked for (`enabled`), or the last is older than `stale_after_s`; None
    judges no age. Degraded: the latest backup is damaged or was not verified. Off: there is none, and none is asked for.
    """
    records = sorted((each.record for each in found if each.record is not None), key=lambda record: record.created_at)
    good = [record for record in records if record.state == "verified"]
    last = good[-1] if good else None
    age_s = None if last is None else (now - last.created_at).total_seconds()
    status: Health = "ok"
    reason = "" if age_s is None else f"the last verified backup is {age_s:,.0f} s old"
    if last is None and not enabled and not records:
        status, reason = "off", "backups are not turned on (backup.enabled), and there is none"
    elif last is None:
        status, reason = "red" if enabled else "degraded", "there is no verified backup"
    elif age_s is not None and stale_after_s is not None and age_s > stale_after_s:
        status, reason = "red", f"{reason}; it should not be older than {stale_after_s:,.0f} s"
    elif records[-1].state != "verified":
        status, reason = "degraded", f"the latest backup is {records[-1].state}; {reason}"
    return BackupState(
        status=status,
        reason=reason,
        last_verified_id=None if last is None else last.id,
        last_verified_at=None if last is None else last.created_at,
        age_s=age_s,
        backups=len(records),
        unverified=sum(record.state == "unverified" for record in records),
        damaged=sum(record.state == "damaged" for record in records),
        stored_bytes=sum(each.stored_bytes for each in found),
    )
