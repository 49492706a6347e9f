"""One JSON request to a model provider over HTTP: deadline, bounded retries, errors of our tree.

Not here: what is asked and what the answer means (one file per vendor).

Rule 1: the deadline covers a request with all its retries and waits; nothing waits longer.
Rule 2: retried are connection errors, 408, 429 and 5xx. A refusal or a malformed answer is final.
Rule 3: the key is revealed to the HTTP client only; no error, log line or `repr` shows it.
Rule 4: a retry is told at debug, by our logger alone: the error that ends the retries says the rest. Hooks of stamina,
        which are the process's, stay as they are for everybody else's retries.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmspell.clock import Clock, SystemClock
from llmspell.errors import (
    InvalidSetting,
    MissingExtra,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from llmspell.observe import logger, redact
from llmspell.settings import MASK, Secret

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import httpx2
    from stamina.instrumentation import RetryDetails
    from stamina.typing import RetryHook

ANSWER_MAX_BYTES = 64_000_000  # 100 vectors of 3,072 numbers as JSON text are about 7 MB
REASON_MAX_CHARACTERS = 300
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})
REFUSED_STATUSES = frozenset({401, 403})
_asked: ContextVar[str | None] = ContextVar("llmspell_asked", default=None)
"""The base URL that this task retries, while it does."""
_hooking = threading.Lock()
_hooked = False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often a request is tried."""

    deadline_s: float = 30.0
    """For one request with all its retries and waits."""
    retries: int = 3
    """After the first attempt."""
    first_wait_s: float = 0.1
    """Doubles with every retry."""
    retry_after_max_s: float = 10.0
    """The longest `Retry-After` that is waited for; a longer one ends the request at once."""


class _Retryable(ProviderUnavailable):
    """An attempt failed in a way that may pass."""

    wait_s: float | None = None


class Endpoint:
    """A provider's base URL with its key. Belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: Secret | str | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        extra: str = "openai",
    ) -> None:
        """Nothing is connected yet.

        Raises:
            InvalidSetting: not an http or https URL, or one with credentials inside.
            MissingExtra: the packages of `extra` are not installed.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSetting("The provider's `base_url` must begin with https:// or http:// and name a host.")
        if parts.username or parts.password:
            raise InvalidSetting(
                "The provider's `base_url` must not contain credentials.", hint="Use `api_key` for the key."
            )
        try:
            import httpx2  # noqa: F401 - said when the embedder is opened, not at its first use
            import stamina  # noqa: F401
        except ImportError as exc:
            raise MissingExtra(extra, needed_for=f"The provider at {parts.hostname}") from exc
        self.base_url = base_url.rstrip("/")
        self._key = Secret(api_key) if isinstance(api_key, str) else api_key
        if self._key is not None and not (self._key.reveal().isascii() and self._key.reveal().isprintable()):
            raise InvalidSetting("The provider's `api_key` has characters that no key has (a line break, perhaps).")
        self._retry = retry or RetryPolicy()
        self._clock = clock or SystemClock()
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Post `body` as JSON to `path` and return the decoded answer.

        Raises:
            ProviderUnavailable: unreachable, overloaded, or not answered within the deadline.
            ProviderRefused: the credentials or the request were refused.
            ProviderProtocol: the answer is not JSON, or larger than 64 MB.
        """
        import stamina

        if self._closed:
            raise ProviderError(f"The connection to {self.base_url} is closed.")
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        ends = self._clock.monotonic() + self._retry.deadline_s

        def backoff(error: Exception) -> bool | float:
            if not isinstance(error, _Retryable):
                return False
            if error.wait_s is None:
                return True
            # Waiting in vain helps nobody: a wait that does not fit is an answer now.
            fits = error.wait_s <= self._retry.retry_after_max_s and self._clock.monotonic() + error.wait_s < ends
            return max(error.wait_s, self._retry.first_wait_s) if fits else False

        _hook_once()
        telling = _asked.set(self.base_url)
        try:
            async with asyncio.timeout(self._retry.deadline_s):
                async for attempt in stamina.retry_context(
                    on=backoff,
                    attempts=self._retry.retries + 1,
                    timeout=self._retry.deadline_s,
                    wait_initial=self._retry.first_wait_s,
                    wait_max=self._retry.retry_after_max_s,
                    wait_jitter=self._retry.first_wait_s / 2,
                ):
                    with attempt:
                        return await self._attempt(path, payload)
        except TimeoutError as exc:
            raise ProviderUnavailable(
                f"{self.base_url} did not answer within {self._retry.deadline_s:g} s, retries included."
            ) from exc
        except _Retryable as exc:
            raise ProviderUnavailable(exc.detail, hint=exc.hint) from exc
        finally:
            _asked.reset(telling)
        raise AssertionError("a retry context ends by a return or by an error")

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _attempt(self, path: str, payload: bytes) -> Any:
        import httpx2

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        try:
            async with self._connected().stream(
                "POST", self.base_url + path, content=payload, headers=headers
            ) as response:
                answer = await self._read(response)
                status, retry_after = response.status_code, response.headers.get("Retry-After")
        except httpx2.DecodingError as exc:
            raise ProviderProtocol(f"{self.base_url} sent a body whose encoding is broken.") from exc
        except httpx2.TransportError as exc:
            # The class says what happened; the text of the exception may quote the request.
            raise _Retryable(f"{self.base_url} cannot be reached ({type(exc).__name__}).") from None
        if status == 200:
            return self._decode(answer)
        raise self._error(status, answer, retry_after)

    def _connected(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=self._retry.deadline_s, follow_redirects=False)
        return self._client

    async def _read(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > ANSWER_MAX_BYTES:
                raise ProviderProtocol(f"{self.base_url} sent more than {ANSWER_MAX_BYTES:,} bytes.")
        return bytes(body)

    def _decode(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as exc:
            raise ProviderProtocol(f"{self.base_url} answered 200 with something that is not JSON.") from exc

    def _error(self, status: int, answer: bytes, retry_after: str | None) -> ProviderError:
        if status in REFUSED_STATUSES:
            # The body is not shown: providers quote the key in it.
            return ProviderRefused(
                f"{self.base_url} refused the credentials (HTTP {status}).",
                hint="Check the API key, and what it may be used for." if self._key else "Set the provider's API key.",
            )
        said = f"{self.base_url} answered HTTP {status}{self._reason(answer)}."
        if status in RETRIED_STATUSES:
            error = _Retryable(said)
            error.wait_s = self._seconds(retry_after)
            return error
        if 400 <= status < 500:
            return ProviderRefused(said)
        return ProviderProtocol(
            said, hint="Check `base_url`: redirects are not followed." if 300 <= status < 400 else ""
        )

    def _reason(self, answer: bytes) -> str:
        """The provider's own words, shortened, on one line, without secrets; "" when it said nothing readable."""
        try:
            said = json.loads(answer)
            inner = said.get("error", said) if isinstance(said, dict) else said
            text = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
        except (ValueError, RecursionError):
            text = answer.decode(errors="replace")
        if not isinstance(text, str) or not text.strip():
            return ""
        if self._key is not None and self._key.reveal():
            text = text.replace(self._key.reveal(), MASK)
        line = "".join(c if c.isprintable() else " " for c in redact(text[: 4 * REASON_MAX_CHARACTERS]))
        return f": {' '.join(line.split())[:REASON_MAX_CHARACTERS]}"

    def _seconds(self, retry_after: str | None) -> float | None:
        """`Retry-After` in seconds (RFC 9110 §10.2.3: seconds or a date); None when it is absent or unreadable."""
        if retry_after is None:
            return None
        try:
            seconds = float(retry_after)
        except ValueError:
            try:
                when = parsedate_to_datetime(retry_after)
            except ValueError:
                return None
            if when.tzinfo is None:
                return None
            seconds = (when - self._clock.now()).total_seconds()
        return max(0.0, seconds) if math.isfinite(seconds) else None


def _hook_once() -> None:
    """Tell our retries by our logger, and keep them from the hooks that are set; later ones are the application's choice.

    stamina has one list of hooks for the process, and by default it warns of every retry on stderr.
    """
    global _hooked
    with _hooking:
        if not _hooked:
            from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

            set_on_retry_hooks([_tell_own, *(_unless_own(hook) for hook in get_on_retry_hooks())])
            _hooked = True


def _tell_own(details: RetryDetails) -> None:
    base_url = _asked.get()
    if base_url is not None:
        logger.debug("asking %s again (%d) in %.2f s", base_url, details.retry_num, details.wait_for)


def _unless_own(hook: RetryHook) -> RetryHook:
    def told(details: RetryDetails) -> AbstractContextManager[None] | None:
        return hook(details) if _asked.get() is None else None

    return told
