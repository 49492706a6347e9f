"""Checks of what `Artifacts` takes, before anything is read or written; every backend calls the same ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from llmspell.codec import require_key, require_limit, require_metadata, require_size, require_text
from llmspell.errors import InvalidInput, InvalidKey, InvalidMetadata
from llmspell.ids import parse_id
from llmspell.storage.contracts.artifacts import (
    ARTIFACT_TYPES,
    CREATED_BY_MAX_CHARACTERS,
    MIME_TYPE_MAX_CHARACTERS,
    NAME_MAX_CHARACTERS,
    TAG_MAX_BYTES,
    TAGS_MAX,
    ArtifactType,
)

REVISION_MAX = 2**31 - 1
_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(0|[1-9][0-9]{0,18}):([0-9a-f]{64})")


class ArtifactKey(Struct, frozen=True):
    """The parts of an artifact's id."""

    session: UUID
    sequence: int
    content_hash: str

    def __str__(self) -> str:
        return f"{self.session}:{self.sequence}:{self.content_hash}"


class Details(Struct, frozen=True, kw_only=True):
    """A checked description of a new artifact."""

    session: UUID
    name: str
    type: ArtifactType
    mime_type: str
    metadata: dict[str, Any]
    tags: list[str]
    created_by: str | None
    parent: ArtifactKey | None


class Change(Struct, frozen=True, kw_only=True):
    """A checked update: what is UNSET stays as it is."""

    name: str | UnsetType
    tags: list[str] | UnsetType
    metadata: dict[str, Any] | UnsetType


def parse_artifact_id(value: object, *, field: str = "id") -> ArtifactKey:
    """Return the parts of an artifact's id.

    Raises:
        InvalidKey: it has another form.
    """
    match = _ID.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidKey(field, "must be the id of an artifact: session:sequence:hash", given=value)
    return ArtifactKey(UUID(match[1]), int(match[2]), match[3])


def require_details(
    *,
    session: UUID | str,
    name: object,
    type: object,
    mime_type: object,
    metadata: object,
    tags: object,
    created_by: object,
    parent: object,
) -> Details:
    """Return a checked description.

    Raises:
        InvalidInput: names the argument.
    """
    return Details(
        session=parse_id(session, field="session"),
        name=require_name(name),
        type=require_type(type),
        mime_type=require_text(
            mime_type, field="mime_type", max_characters=MIME_TYPE_MAX_CHARACTERS, empty=False, error=InvalidKey
        ),
        metadata=require_metadata(metadata),
        tags=require_tags(tags),
        created_by=None
        if created_by is None
        else require_text(
            created_by, field="created_by", max_characters=CREATED_BY_MAX_CHARACTERS, empty=False, error=InvalidKey
        ),
        parent=None if parent is None else parse_artifact_id(parent, field="parent"),
    )


def require_name(value: object) -> str:
    """Return a name: 1 to 255 characters.

    Raises:
        InvalidKey: anything else.
    """
    return require_text(value, field="name", max_characters=NAME_MAX_CHARACTERS, empty=False, error=InvalidKey)


def require_type(value: object) -> ArtifactType:
    """Return a type.

    Raises:
        InvalidInput: unknown.
    """
    for known in ARTIFACT_TYPES:
        if value == known:
            return known
    raise InvalidInput("type", f"must be one of {', '.join(ARTIFACT_TYPES)}", given=value)


def require_tags(value: object) -> list[str]:
    """Return tags: at most 50, each of 1 to 64 bytes.

    Raises:
        InvalidInput: no list.
        InvalidLimit: too many.
        InvalidKey: one that is no tag.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise InvalidInput("tags", "must be a list of texts", given=value)
    require_size(value, field="tags", maximum=TAGS_MAX)
    return [require_key(tag, field=f"tags[{n}]", max_bytes=TAG_MAX_BYTES) for n, tag in enumerate(value)]


def require_change(*, name: object, tags: object, metadata: object) -> Change:
    """Return a checked update.

    Raises:
        InvalidInput: names the argument.
    """
    if metadata is None:  # of a new artifact it means nothing; here it would erase
        raise InvalidMetadata("metadata", "must be an object", given=metadata)
    return Change(
        name=UNSET if name is UNSET else require_name(name),
        tags=UNSET if tags is UNSET else require_tags(tags),
        metadata=UNSET if metadata is UNSET else require_metadata(metadata),
    )


def require_expected(value: object) -> int | None:
    """Return an expected revision.

    Raises:
        InvalidLimit: not a whole number from 1.
    """
    return None if value is None else require_limit(value, field="expected_revision", maximum=REVISION_MAX)
