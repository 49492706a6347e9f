from __future__ import annotations

import hashlib

import numpy as np

from llmspell.providers.hashing import HashingEmbedder


def cosine(one: bytes, other: bytes) -> float:
    return float(np.frombuffer(one, "<f4") @ np.frombuffer(other, "<f4"))


async def test_vectors_are_the_same_on_every_machine() -> None:
    (vector,) = await HashingEmbedder().embed(["Ana moved to Lisbon."])

    assert hashlib.sha256(vector).hexdigest() == "d519f67eb12fc3c5f0bbebb7dbfbbb0f652ed87a43b5b83c6793f2cbdca019c8"


async def test_texts_that_share_words_are_nearer_than_others() -> None:
    question, near, far = await HashingEmbedder().embed(
        ["where does Ana live", "Ana lives in Lisbon", "quarterly tax report"]
    )

    assert cosine(question, near) > cosine(question, far) + 0.2


async def test_every_text_has_a_vector_of_norm_one() -> None:
    vectors = await HashingEmbedder(768).embed(["", " ", "!!", "word", "字"])

    assert [round(cosine(vector, vector), 5) for vector in vectors] == [1.0] * 5
    assert {len(vector) for vector in vectors} == {768 * 4}
