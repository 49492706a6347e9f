from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmspell.errors import InvalidSetting, InvalidText, ProviderError
from llmspell.providers import blas, models
from llmspell.providers.local import open_local, read_model_files


def matrix(vectors: list[bytes]) -> np.ndarray[Any, Any]:
    return np.array([np.frombuffer(vector, "<f4") for vector in vectors])


async def test_vectors_agree_with_the_reference_implementation(
    model_path: Path, golden: dict[str, Any], tmp_path: Path
) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)
    expected = np.array([item["embedding"] for item in golden["items"]])

    vectors = matrix(await embedder.embed([item["text"] for item in golden["items"]]))
    await embedder.aclose()

    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9999
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert (embedder.model, embedder.dimension, embedder.max_tokens) == ("all-MiniLM-L6-v2", 384, 254)


async def test_a_text_has_the_same_vector_alone_and_among_others(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)
    texts = [f"Note {i}: " + "the kettle in the kitchen is blue. " * (i % 7) for i in range(60)]

    together = matrix(await embedder.embed(texts))
    alone = matrix([(await embedder.embed([text]))[0] for text in texts[::12]])
    await embedder.aclose()

    assert np.abs(together[::12] - alone).max() < 1e-5


async def test_what_is_beyond_the_models_limit_changes_nothing(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)
    text = "word " * embedder.max_tokens

    full, longer, shorter = matrix(
        await embedder.embed([text, text + "and more", "word " * (embedder.max_tokens - 100) + "x"])
    )
    await embedder.aclose()

    assert embedder.count_tokens(text) == embedder.max_tokens
    assert np.array_equal(full, longer)
    assert not np.allclose(full, shorter, atol=1e-3)


async def test_tokens_are_counted_by_the_models_tokenizer_without_its_markers(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)

    assert embedder.exact_tokens
    assert [embedder.count_tokens(text) for text in ("", "hello world", "unaffable", "x " * 400)] == [0, 2, 3, 400]
    await embedder.aclose()


async def test_callers_at_once_get_their_own_answers_and_the_loop_goes_on(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)
    texts = [f"caller number {i}" for i in range(8)]
    expected = await embedder.embed(texts)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    answers = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    counting.cancel()
    await embedder.aclose()

    assert np.abs(matrix([answer[0] for answer in answers]) - matrix(expected)).max() < 1e-5
    assert turns > len(texts)


async def test_a_closed_embedder_says_so(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)
    await embedder.aclose()
    await embedder.aclose()

    with pytest.raises(ProviderError, match="closed"):
        await embedder.embed(["late"])


async def test_no_texts_give_no_vectors_and_a_bad_text_stops_all(model_path: Path, tmp_path: Path) -> None:
    embedder = open_local(str(model_path), models_folder=tmp_path)

    assert await embedder.embed([]) == []
    with pytest.raises(InvalidText):
        await embedder.embed(["fine", "not\0fine"])
    await embedder.aclose()


def test_the_setting_of_blas_is_restored() -> None:
    controls = blas._controls()
    if controls is None:
        pytest.skip("numpy here uses another BLAS")
    set_threads, threads = controls
    before = threads()
    set_threads(2)

    with blas.one_thread_per_product(), blas.one_thread_per_product():
        within = threads()
    after = threads()
    set_threads(before)

    assert (within, after) == (1, 2)


@pytest.fixture
def copied(model_path: Path, tmp_path: Path) -> Path:
    """The small files of the model, without weights."""
    target = tmp_path / "copied"
    for name in ("config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model_path / name, target / name)
    return target


def test_a_directory_with_pickled_weights_only_is_refused(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"\x80\x04")

    with pytest.raises(InvalidSetting, match="pickled") as refused:
        read_model_files(copied)

    assert "safetensors" in refused.value.hint


def test_a_copy_of_the_known_model_is_the_known_model(copied: Path, model_path: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").symlink_to(model_path / "model.safetensors")

    assert open_local(str(copied), models_folder=tmp_path / "models").model == "all-MiniLM-L6-v2"


def test_another_model_is_named_after_its_directory_and_its_files(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"other")
    name, _, digest = open_local(str(copied), models_folder=tmp_path / "models").model.partition("@")

    (copied / "model.safetensors").write_bytes(b"another")
    other_weights = open_local(str(copied), models_folder=tmp_path / "models").model

    assert (name, len(digest)) == ("copied", 12)
    assert other_weights not in (f"copied@{digest}", "all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true}'),
        ("sentence_bert_config.json", '{"max_seq_length": 128}'),
        ("modules.json", None),
        ("config.json", None),
    ],
)
def test_the_known_weights_with_other_settings_are_another_model(
    copied: Path, model_path: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    (copied / "model.safetensors").symlink_to(model_path / "model.safetensors")
    (copied / name).write_text((copied / name).read_text() + " " if content is None else content)

    model = open_local(str(copied), models_folder=tmp_path / "models").model
    named = copied.rename(tmp_path / "all-MiniLM-L6-v2")

    assert model.startswith("copied@")
    with pytest.raises(InvalidSetting, match="pinned"):
        open_local(str(named), models_folder=tmp_path / "models")


def test_a_known_model_runs_from_its_pinned_weights_though_an_onnx_file_lies_beside_them(
    copied: Path, model_path: Path, tmp_path: Path
) -> None:
    (copied / "model.safetensors").symlink_to(model_path / "model.safetensors")
    (copied / "onnx").mkdir()
    (copied / "onnx" / "model.onnx").write_bytes(b"anything")

    embedder = open_local(str(copied), models_folder=tmp_path / "models")

    assert (embedder.model, embedder.runtime) == ("all-MiniLM-L6-v2", "numpy")


def test_what_the_package_has_is_verified_when_it_is_asked_for_by_name(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(models, "_in_package", lambda known: copied)

    with pytest.raises(InvalidSetting, match="pinned"):
        open_local("", models_folder=tmp_path / "models")


def test_other_weights_under_a_known_name_are_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"other")
    named = copied.rename(tmp_path / "all-MiniLM-L6-v2")

    with pytest.raises(InvalidSetting, match="pinned"):
        open_local(str(named), models_folder=tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]'),
        ("modules.json", "{}"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}'),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}'),
    ],
)
def test_a_model_that_is_not_computed_here_is_refused_when_it_is_opened(copied: Path, name: str, content: str) -> None:
    (copied / "model.safetensors").write_bytes(b"x")
    (copied / name).write_text(content)

    with pytest.raises(InvalidSetting):
        read_model_files(copied)


def test_a_model_of_a_size_without_a_table_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"x")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "hidden_size": 512}))

    with pytest.raises(InvalidSetting, match="384, 768, 1536, 3072"):
        open_local(str(copied), models_folder=tmp_path / "models")
