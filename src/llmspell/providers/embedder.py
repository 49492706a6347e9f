"""What an embedder is, and how one is opened.

    embedder = open_embedder("local")                      # all-MiniLM-L6-v2 from files on this machine
    vectors = await embedder.embed(["Ana moved to Lisbon."])  # little-endian float32, norm 1

Not here: caching (`cache`), getting model files onto the machine (`models`).

Rule 1: a vendor's module is imported when its embedder is opened, so that what is not used need not be installed.
Rule 2: opening is cheap and says at once what is missing; weights and connections come with the first use.
Rule 3: the same model id and dimension mean the same vectors: they name the embedding space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from llmspell.codec import DIMENSIONS, require_text, unpack_vector
from llmspell.errors import InvalidLimit, InvalidSetting, InvalidText, ProviderProtocol

if TYPE_CHECKING:
    from pathlib import Path

    from llmspell.providers.endpoint import RetryPolicy
    from llmspell.settings import Secret

TEXTS_MAX = 10_000  # texts of one call
TEXT_MAX_BYTES = 1_048_576  # of one text; far more than any model reads
ESTIMATED_CHARACTERS_PER_TOKEN = 4
COMPONENT_BYTES = 4  # of a float32
KINDS = ("local", "hashing", "openai", "none")


class TokenCounter(Protocol):
    """Says how long a text is to a model."""

    @property
    def exact_tokens(self) -> bool:
        """Whether `count_tokens` uses the model's own tokenizer; otherwise its answers are estimates, shown as such."""
        ...

    def count_tokens(self, text: str) -> int:
        """The tokens of a text, without the markers that a model puts around it."""
        ...


class Embedder(TokenCounter, Protocol):
    """Turns texts into vectors of norm 1."""

    @property
    def model(self) -> str:
        """A stable id, such as "all-MiniLM-L6-v2": with `dimension` it names the embedding space."""
        ...

    @property
    def dimension(self) -> int:
        """Components of every vector: 384, 768, 1536 or 3072."""
        ...

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text, as `count_tokens` counts them, the model reads; local models cut the rest off."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Return one vector for each text, in the given order: `dimension` little-endian float32, norm 1.

        Raises:
            InvalidText, InvalidLimit: a text or their number was refused; nothing was computed.
            ProviderError: the model could not be used; `retryable` says whether trying again may help.
        """
        ...

    async def aclose(self) -> None:
        """Release what the embedder holds. Safe to call twice."""
        ...


class EstimatedTokens:
    """A `TokenCounter` for models whose tokenizer is not at hand: a token per four characters, rounded up.

    Four characters per token is the rule of thumb that vendors give for English; other scripts need more tokens.
    """

    exact_tokens = False

    def count_tokens(self, text: str) -> int:
        return -(-len(text) // ESTIMATED_CHARACTERS_PER_TOKEN)


def require_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list when an embedder can take them: at most 10,000 texts of at most 1 MiB.

    They have no NUL and no lone surrogates. An empty text is allowed: models give it a vector.

    Raises:
        InvalidText: one text was refused, or a single `str` came instead of a sequence.
        InvalidLimit: too many texts.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidText("texts", "must be a sequence of texts, not one text", given=texts)
    if len(texts) > TEXTS_MAX:
        raise InvalidLimit("texts", f"must be at most {TEXTS_MAX:,} in one call", given=len(texts))
    return [require_text(text, field=f"texts[{i}]", max_bytes=TEXT_MAX_BYTES) for i, text in enumerate(texts)]


def checked_vectors(vectors: Sequence[bytes], *, count: int, dimension: int) -> list[bytes]:
    """Return what an embedder answered when it is one vector of the right size, finite and not zero, for each text.

    Six microseconds for 384 components: imports of thousands of texts pass through here, on the event loop.

    Raises:
        ProviderProtocol: anything else; an embedder may be anybody's.
    """
    if isinstance(vectors, (str, bytes)) or not isinstance(vectors, Sequence):
        raise ProviderProtocol(f"The embedder gave {type(vectors).__name__} where a list of vectors was expected.")
    if len(vectors) != count:
        raise ProviderProtocol(f"The embedder gave {len(vectors)} vectors for {count} texts.")
    size_bytes = dimension * COMPONENT_BYTES
    for position, vector in enumerate(vectors):
        if not isinstance(vector, bytes):
            raise ProviderProtocol(f"Vector {position} of the embedder is {type(vector).__name__} and not bytes.")
        if len(vector) != size_bytes:
            raise ProviderProtocol(
                f"Vector {position} of the embedder has {len(vector)} bytes where {dimension} float32 take {size_bytes}."
            )
        components = unpack_vector(vector)
        # A sum of float32 as float64 cannot overflow, so it is finite exactly when every component is.
        if not math.isfinite(sum(components)):
            raise ProviderProtocol(f"Vector {position} of the embedder is not finite.")
        if not any(components):
            raise ProviderProtocol(f"Vector {position} of the embedder is zero: cosine similarity to it is undefined.")
    return list(vectors)


def require_dimension(dimension: int, *, model: str) -> int:
    """Return `dimension` when the stores have a table for it (VEC-01).

    Raises:
        InvalidSetting: any other number.
    """
    if dimension not in DIMENSIONS:
        sizes = ", ".join(map(str, DIMENSIONS))
        raise InvalidSetting(
            f"The model {model} has {dimension} dimensions; vectors of {sizes} dimensions can be stored."
        )
    return dimension


def open_embedder(
    spec: str,
    *,
    models_folder: Path | None = None,
    base_url: str | None = None,
    api_key: Secret | str | None = None,
    dimensions: int | None = None,
    batch_size: int | None = None,
    retry: RetryPolicy | None = None,
) -> Embedder | None:
    """Open the embedder that `spec` names; None for "none".

    - `local`, `local:all-MiniLM-L6-v2`: a known model from `models_folder` (default: the user's) or from its package
    - `local:/path/to/directory`: a model in sentence-transformers form; anything with a path separator is a path
    - `hashing`, `hashing:768`: deterministic and without meaning, for tests
    - `openai:text-embedding-3-small`: any endpoint of that form; `base_url`, `api_key`, `dimensions`, `batch_size`
      and `retry` go to it; `dimensions` also sizes `hashing`

    Raises:
        InvalidSetting: no such kind, or arguments that do not fit.
        MissingExtra: the extra `local`, `onnx` or `openai` is not installed.
        ModelMissing: the local model is not on this machine.
    """
    kind, _, name = spec.partition(":")
    if kind == "none" and not name:
        return None
    if kind == "hashing":
        from llmspell.providers.hashing import DEFAULT_DIMENSION, HashingEmbedder

        if name and not name.isdecimal():
            raise InvalidSetting(f"The embedder {spec!r} must name a dimension, such as hashing:384.")
        return HashingEmbedder(int(name) if name else dimensions or DEFAULT_DIMENSION)
    if kind == "local":
        from llmspell.providers.local import open_local

        return open_local(name, models_folder=models_folder)
    if kind == "openai":
        from llmspell.providers.openai import DEFAULT_MODEL, OpenAIEmbedder

        return OpenAIEmbedder(
            name or DEFAULT_MODEL,
            base_url=base_url,
            api_key=api_key,
            dimensions=dimensions,
            batch_size=batch_size,
            retry=retry,
        )
    raise InvalidSetting(f"There is no embedder {spec!r}.", hint=f"Use one of: {', '.join(KINDS)}; such as `local`.")
