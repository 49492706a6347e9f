"""Embeddings from any endpoint that speaks the OpenAI form: `POST {base_url}/embeddings`.

That is OpenAI itself, and servers such as vLLM, llama.cpp, LM Studio, Ollama and Infinity.

Refused: answers with the wrong number of vectors, of the wrong size, with numbers that are not finite, or all zero.

Rule 1: at most 100 texts and 1 MB of text travel in one request (RAG-09), and at most four requests at once.
Rule 2: vectors are put in order by `index`, and normalised here whatever the server does.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmspell.errors import InvalidSetting, ProviderProtocol, ProviderRefused
from llmspell.providers.embedder import EstimatedTokens, require_dimension, require_texts
from llmspell.providers.endpoint import Endpoint, RetryPolicy

if TYPE_CHECKING:
    from llmspell.clock import Clock
    from llmspell.settings import Secret

DEFAULT_MODEL = "text-embedding-3-small"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
BATCH_MAX_TEXTS = 100
BATCH_MAX_BYTES = 1_000_000
REQUESTS_MAX = 4
MAX_TOKENS = 8_191  # of OpenAI's embedding models; other servers have their own limit and refuse what is longer
KNOWN_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
SHORTENABLE = "text-embedding-3-"  # AMB-024: only these take the `dimensions` parameter


class OpenAIEmbedder(EstimatedTokens):
    """An embedding model behind HTTP. Token counts are estimates. Belongs to one event loop."""

    max_tokens = MAX_TOKENS

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        base_url: str | None = None,
        api_key: Secret | str | None = None,
        dimensions: int | None = None,
        batch_size: int | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`dimensions` shortens text-embedding-3-*, and says what to expect of a model that is not known here.

        Raises:
            InvalidSetting: a size that the model does not have, an unknown model without `dimensions`, a bad URL.
            MissingExtra: the extra `openai` is not installed.
        """
        self.model = model
        native = KNOWN_DIMENSIONS.get(model)
        if native is None and dimensions is None:
            raise InvalidSetting(f"The size of {model}'s vectors is not known here.", hint="Set `dimensions`.")
        self.dimension = require_dimension(dimensions or native or 0, model=model)
        if native is not None and self.dimension > native:
            raise InvalidSetting(f"The model {model} has {native} dimensions, which cannot become {dimensions}.")
        if native is not None and self.dimension < native and not model.startswith(SHORTENABLE):
            raise InvalidSetting(f"The model {model} always has {native} dimensions.")
        self._parameters: dict[str, Any] = {"model": model, "encoding_format": "base64"}
        if model.startswith(SHORTENABLE) and self.dimension != native:
            self._parameters["dimensions"] = self.dimension
        self._batch_size = max(1, min(batch_size or BATCH_MAX_TEXTS, BATCH_MAX_TEXTS))
        self._endpoint = Endpoint(base_url or DEFAULT_BASE_URL, api_key=api_key, retry=retry, clock=clock)
        self._requests = asyncio.Semaphore(REQUESTS_MAX)

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self.model!r}, base_url={self._endpoint.base_url!r}, dimension={self.dimension})"

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """As `Embedder.embed`. The deadline is that of each request of 100 texts; the first failure ends the rest."""
        checked = require_texts(texts)
        batches = list(split_batches(checked, self._batch_size))
        if len(batches) == 1:
            return await self._request(batches[0])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._request(batch)) for batch in batches]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [vector for task in tasks for vector in task.result()]

    async def aclose(self) -> None:
        await self._endpoint.aclose()

    async def _request(self, texts: list[str]) -> list[bytes]:
        async with self._requests:
            # An empty input is refused by most servers; a space means the same to every model.
            body = {**self._parameters, "input": [text or " " for text in texts]}
            try:
                answer = await self._endpoint.post("/embeddings", body)
            except ProviderRefused as refused:
                if "encoding_format" not in self._parameters or "encoding_format" not in refused.detail:
                    raise
                # A server that knows only lists of numbers: ask so from now on.
                self._parameters.pop("encoding_format")
                body.pop("encoding_format")
                answer = await self._endpoint.post("/embeddings", body)
        return read_answer(answer, count=len(texts), dimension=self.dimension)


def split_batches(texts: Sequence[str], size: int = BATCH_MAX_TEXTS) -> Iterator[list[str]]:
    """Yield runs of `texts` of at most `size` texts and 1 MB; a text that is longer than that travels alone."""
    batch: list[str] = []
    total_bytes = 0
    for text in texts:
        text_bytes = len(text.encode())
        if batch and (len(batch) >= size or total_bytes + text_bytes > BATCH_MAX_BYTES):
            yield batch
            batch, total_bytes = [], 0
        batch.append(text)
        total_bytes += text_bytes
    if batch:
        yield batch


def read_answer(answer: Any, *, count: int, dimension: int) -> list[bytes]:
    """Return the vectors of an answer in the order of their `index`, packed and of norm 1.

    Raises:
        ProviderProtocol: not the form, not `count` vectors with each index once, not `dimension` finite numbers, zero.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise ProviderProtocol("The provider's answer has no list `data`.")
    if len(data) != count:
        raise ProviderProtocol(f"The provider answered {len(data)} vectors for {count} texts.")
    vectors: list[bytes | None] = [None] * count
    for position, item in enumerate(data):
        index = item.get("index", position) if isinstance(item, dict) else None
        if (
            not isinstance(index, int)
            or isinstance(index, bool)
            or not 0 <= index < count
            or vectors[index] is not None
        ):
            raise ProviderProtocol(f"The provider's answer has a wrong or repeated index at position {position}.")
        vectors[index] = _normalised(item.get("embedding"), dimension)
    return [vector for vector in vectors if vector is not None]


def _normalised(embedding: object, dimension: int) -> bytes:
    try:
        if isinstance(embedding, str):
            numbers = np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float64)
        elif isinstance(embedding, list):
            numbers = np.array(embedding, dtype=np.float64)
        else:
            raise ProviderProtocol("The provider's answer has an item without `embedding`.")
    except (binascii.Error, ValueError, TypeError, OverflowError) as exc:
        raise ProviderProtocol("The provider sent an embedding that is neither numbers nor base64 of float32.") from exc
    if numbers.shape != (dimension,):
        raise ProviderProtocol(
            f"The provider sent a vector of {numbers.size} numbers where {dimension} were expected.",
            hint="Set `dimensions` to what the model gives.",
        )
    norm = float(np.sqrt(numbers @ numbers))
    if not np.isfinite(norm) or norm < 1e-12:
        raise ProviderProtocol("The provider sent a vector that is zero or not finite.")
    return (numbers / norm).astype("<f4").tobytes()
