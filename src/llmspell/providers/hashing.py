"""An embedder without a model: words and character trigrams hashed into a vector.

FOR TESTS ONLY. It is deterministic, needs no file and finds texts that share words or parts of words. It knows nothing
of meaning, so no figure about recall may come from it, and nothing that a user sees may rest on it.

Signed feature hashing: Weinberger et al. 2009 (arXiv:0902.2206). A word weighs 1, a trigram 0.5.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence

from llmspell.codec import pack_vector
from llmspell.providers.embedder import EstimatedTokens, require_dimension, require_texts

DEFAULT_DIMENSION = 384
MAX_TOKENS = 8_192
WORD_WEIGHT = 1.0
TRIGRAM_WEIGHT = 0.5
_WORDS = re.compile(r"\w+")


class HashingEmbedder(EstimatedTokens):
    """Deterministic vectors for tests: equal on every machine, in every process and version of Python."""

    max_tokens = MAX_TOKENS

    def __init__(self, dimension: int = DEFAULT_DIMENSION) -> None:
        """`dimension`: 384, 768, 1536 or 3072."""
        self.model = f"hashing-{dimension}"
        self.dimension = require_dimension(dimension, model=self.model)

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        return [self._vector(text) for text in require_texts(texts)]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _vector(self, text: str) -> bytes:
        components = [0.0] * self.dimension
        for feature, weight in _features(text.casefold()):
            self._add(components, feature, weight)
        norm = math.sqrt(math.fsum(c * c for c in components))
        if norm == 0:  # no words, or features that cancel: still a vector, one axis that the text decides
            self._add(components, f"text:{text}", 1.0)
            norm = 1.0
        return pack_vector([c / norm for c in components], dimension=self.dimension)

    def _add(self, components: list[float], feature: str, weight: float) -> None:
        digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
        components[(digest >> 1) % self.dimension] += weight if digest & 1 else -weight


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORDS.findall(text):
        yield f"word:{word}", WORD_WEIGHT
        padded = f" {word} "
        for start in range(len(padded) - 2):
            yield f"trigram:{padded[start : start + 3]}", TRIGRAM_WEIGHT
