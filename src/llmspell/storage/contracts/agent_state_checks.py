"""What `agent_state` accepts, and what its checksum means; every backend calls the same functions."""

from __future__ import annotations

import hashlib
from typing import Any

from llmspell.codec import encode_json, require_key, require_limit
from llmspell.errors import CorruptStore, LlmspellError, NotFound, VersionConflict
from llmspell.storage.contracts.agent_state import AGENT_ID_MAX_BYTES, AGENT_TYPE_MAX_BYTES, VERSION_MAX


def require_agent_id(agent_id: object) -> str:
    """Return the id of an agent: text of 1 to 255 bytes."""
    return require_key(agent_id, field="agent_id", max_bytes=AGENT_ID_MAX_BYTES)


def optional_agent_type(agent_type: object) -> str | None:
    """Return the type of an agent, 1 to 100 bytes, or None."""
    if agent_type is None:
        return None
    return require_key(agent_type, field="agent_type", max_bytes=AGENT_TYPE_MAX_BYTES)


def optional_schema_version(version: object) -> int | None:
    """Return a schema version, or None."""
    return None if version is None else require_limit(version, field="schema_version", maximum=VERSION_MAX)


def checksum_of(encoded: str) -> str:
    """Return the SHA-256 of canonical JSON."""
    return hashlib.sha256(encoded.encode()).hexdigest()


def is_intact(data: Any, checksum: str) -> bool:
    """Say whether stored data, as it was read, is what the checksum was made of."""
    try:
        return isinstance(data, dict) and checksum_of(encode_json(data)) == checksum
    except (ValueError, RecursionError, UnicodeError):  # no JSON that was ever accepted
        return False


def damaged(agent_id: str) -> CorruptStore:
    """Return the error of a state that does not match its checksum."""
    return CorruptStore(
        "The state of an agent does not match its checksum; it was changed by something else than this store.",
        agent_id=agent_id,
        hint="Restore it from a backup, save it anew, or delete it; `agent_state.verify()` finds all of them.",
    )


def not_expected(agent_id: str, *, expected: int, current: int | None) -> LlmspellError:
    """Return why a state was not replaced; `current` is the version found, None when there is no state."""
    if current is None and expected > 0:
        return NotFound("There is no state of this agent.", agent_id=agent_id)
    return VersionConflict(agent_id=agent_id, expected=expected, current=current or 0)
