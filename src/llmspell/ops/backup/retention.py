"""Which backups may go, decided from their records alone.

Rule 1: a backup goes when it is older than so many days, unless it is among the latest so many; and whatever its age when there are
more than the most that shall be kept.
Rule 2: the last verified backup of a store never goes.
Rule 3: what a backup that did not end has left goes after a day: until then somebody may still be writing it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from llmspell.codec import require_limit
from llmspell.ops.backup.records import Listed, Record

UNFINISHED_S: Final = 86_400.0


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """How long backups are kept: `days` (STA-04: 30), the latest `count` in any case (C10: 10), and at most `most`."""

    days: int
    count: int
    most: int | None = None

    def __post_init__(self) -> None:
        require_limit(self.days, field="days", maximum=36_500)
        require_limit(self.count, field="count", maximum=1_000_000)
        if self.most is not None:
            require_limit(self.most, field="most", maximum=1_000_000)


def to_delete(found: Sequence[Listed], keeping: Keeping, now: datetime) -> list[Listed]:
    """Return the backups that may go, the oldest first."""
    by_store: dict[str, list[Record]] = defaultdict(list)
    for each in found:
        if each.record is not None:
            by_store[each.record.store_id].append(each.record)
    going: set[str] = set()
    for records in by_store.values():
        records.sort(key=lambda record: (record.created_at, record.id), reverse=True)
        going |= {record.id for record in _too_many(records, keeping, now)}
    going |= {each.id for each in found if each.record is None and each.age_s > UNFINISHED_S}
    return sorted((each for each in found if each.id in going), key=lambda each: each.id)


def _too_many(records: Sequence[Record], keeping: Keeping, now: datetime) -> list[Record]:
    before = now - timedelta(days=keeping.days)
    last_good = next((record.id for record in records if record.state == "verified"), None)
    going, kept = [], 0
    for record in records:
        counts = record.state != "damaged"
        old = record.created_at < before and (kept >= keeping.count or not counts)
        beyond = keeping.most is not None and kept >= keeping.most
        if record.id != last_good and (old or beyond):
            going.append(record)
        elif counts:
            kept += 1
    return going
