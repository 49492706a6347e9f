"""A bucket of S3, or of anything that speaks like it, as a place for backups.

Rule 1: large content goes in parts of 8 MiB, and becomes an object with the last one; a transfer that breaks off leaves none. What
it sent is then aborted; of a process that was killed it stays until the bucket's own rule for unfinished uploads removes it.
Rule 2: credentials come from the settings, or from where the SDKs of AWS look for them; they are never shown.
Rule 3: a request is repeated by the client a bounded number of times and then fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from llmspell.errors import (
    AccessRefused,
    InvalidSetting,
    LlmspellError,
    MissingExtra,
    NotFound,
    StorageError,
    Unavailable,
)
from llmspell.observe import redact
from llmspell.ops.backup.places import CONTENT, RECORD, S3, Found

if TYPE_CHECKING:
    from llmspell.settings import BackupSettings

PART_BYTES: Final = 8 * 1024 * 1024
PARTS_AT_ONCE: Final = 2
RETRIES: Final = 5
RETRY_S: Final = 60
READ_BYTES: Final = 1_048_576
MESSAGE_CHARACTERS: Final = 300


class Bucket:
    """The objects below a prefix of one bucket."""

    def __init__(self, store: Any, shown: str) -> None:
        self._store = store
        self._shown = shown

    @property
    def shown(self) -> str:
        return self._shown

    def list(self) -> list[Found]:
        import obstore

        with self._translated():
            objects = [each for batch in obstore.list(self._store) for each in batch]
        return sorted(
            Found(str(each["path"]), int(each["size"]), each["last_modified"])
            for each in objects
            if str(each["path"]).endswith((CONTENT, RECORD)) and "/" not in str(each["path"])
        )

    def put(self, name: str, pieces: Iterable[bytes]) -> int:
        import obstore

        size, failed = 0, None

        def counted() -> Iterator[bytes]:
            nonlocal size, failed
            try:
                for piece in pieces:
                    size += len(piece)
                    yield piece
            except BaseException as exc:
                failed = exc  # the client hands on an error of its own
                raise

        try:
            with self._translated():
                obstore.put(
                    self._store,
                    name,
                    counted(),
                    use_multipart=True,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        except LlmspellError:
            if failed is not None:
                raise failed from None
            raise
        return size

    def read(self, name: str) -> Iterator[bytes]:
        import obstore

        with self._translated(name):
            for piece in obstore.get(self._store, name).stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    def delete(self, name: str) -> None:
        import obstore

        try:
            with self._translated(name):
                obstore.delete(self._store, name)
        except NotFound:
            return

    @contextmanager
    def _translated(self, name: str = "") -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as exc:
            if "NoSuchBucket" in str(exc):
                raise NotFound("There is no such bucket.", place=self._shown) from exc
            raise NotFound("There is no such object among the backups.", name=name, place=self._shown) from exc
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as exc:
            raise AccessRefused(
                "The bucket refused the credentials.",
                hint="Check backup.s3_access_key_id and backup.s3_secret_access_key, or the AWS_… variables.",
                place=self._shown,
            ) from exc
        except exceptions.GenericError as exc:
            if "NoSuchBucket" in str(exc):
                raise NotFound("There is no such bucket.", place=self._shown) from exc
            raise Unavailable(f"The bucket cannot be used: {_brief(exc)}", place=self._shown) from exc
        except exceptions.BaseError as exc:
            raise StorageError(f"The bucket refused: {_brief(exc)}", place=self._shown) from exc


def open_bucket(location: str, settings: BackupSettings) -> Bucket:
    """Return the bucket of s3://bucket/prefix. Nothing is asked of it yet.

    Raises:
        InvalidSetting: it names no bucket.
        MissingExtra: the extra `s3` is not installed.
    """
    parts = urlsplit(location)
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidSetting(
            "This names no bucket.", hint="Write s3://bucket/prefix.", given=f"{S3}{parts.hostname or ''}"
        )
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError as exc:
        raise MissingExtra("s3", needed_for="Keeping backups in a bucket") from exc
    prefix = parts.path.strip("/")
    given: dict[str, Any] = {"virtual_hosted_style_request": settings.s3_endpoint is None}
    if settings.s3_endpoint is not None:
        given["endpoint"] = settings.s3_endpoint
    if settings.s3_region is not None:
        given["region"] = settings.s3_region
    if settings.s3_access_key_id is not None and settings.s3_secret_access_key is not None:
        given["access_key_id"] = settings.s3_access_key_id.reveal()
        given["secret_access_key"] = settings.s3_secret_access_key.reveal()
    plain = settings.s3_endpoint is not None and settings.s3_endpoint.startswith("http://")
    store = S3Store(
        parts.netloc,
        prefix=f"{prefix}/" if prefix else None,
        client_options={"allow_http": plain, "timeout": timedelta(seconds=RETRY_S)},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        **given,
    )
    return Bucket(store, f"{S3}{parts.netloc}/{prefix}")


def _brief(exc: BaseException) -> str:
    return redact(" ".join(str(exc).split()))[:MESSAGE_CHARACTERS]
