"""A migration that was released never changes: somebody's database has run it.

`frozen.json` holds the SHA-256 of each file of each dialect. A new migration is added to it by
`python -m tests.migrations.test_frozen`, which refuses to change what is there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.migrations.schemas import POSTGRES, SQLITE

from llmspell.storage.relational.migrations import load

FROZEN = Path(__file__).with_name("frozen.json")


def hashes(package: str) -> dict[str, str]:
    return {migration.name: migration.sha256 for migration in load(package)}


@pytest.mark.parametrize("package", [SQLITE, POSTGRES])
def test_a_released_migration_is_as_it_was_and_a_new_one_is_frozen_too(package: str) -> None:
    assert hashes(package) == json.loads(FROZEN.read_text("utf-8"))[package]


def freeze() -> None:
    """Add new migrations to the list.

    Raises:
        SystemExit: a released one differs.
    """
    frozen: dict[str, dict[str, str]] = json.loads(FROZEN.read_text("utf-8")) if FROZEN.exists() else {}
    for package in (SQLITE, POSTGRES):
        now = hashes(package)
        changed = [name for name, digest in frozen.get(package, {}).items() if now.get(name) != digest]
        if changed:
            raise SystemExit(
                f"error: released migrations differ: {', '.join(changed)}. Restore them, and add a new one."
            )
        frozen[package] = now
    FROZEN.write_text(json.dumps(frozen, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    freeze()
