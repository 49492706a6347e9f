"""Backups of a whole store: taken while it is in use, verified by restoring them, kept in a folder or a bucket, and restored.

The way in is `Backups`; what health asks is `backup_state`. A module each: what a backup is made of (`container`, `records`), where
it lies (`places`, `bucket`), how a store gives and takes one (`file_store`, `server_store` with `programs`), which may go
(`retention`), and whether all is well (`state`).

Not here: moving rows between kinds of stores (`storage.transfer`), single months of events (`storage.postgres.partitions`).
"""

from __future__ import annotations

from llmspell.ops.backup.records import Listed, Manifest, Record
from llmspell.ops.backup.service import Backups, Pruned, Restored, RestorePlan, backup_state
from llmspell.ops.backup.state import BackupState

__all__ = [
    "BackupState",
    "Backups",
    "Listed",
    "Manifest",
    "Pruned",
    "Record",
    "RestorePlan",
    "Restored",
    "backup_state",
]
