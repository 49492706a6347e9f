"""Sentence models that run on this machine, from files, without torch.

A model is a directory in sentence-transformers form: config.json, tokenizer.json, 1_Pooling/config.json,
sentence_bert_config.json, and weights as model.safetensors (run by numpy) or onnx/model.onnx (run by onnxruntime).

Refused: pickled weights; files of a known model that are not the pinned ones; modules between encoder and vector that
are not pooling and normalising.

Rule 1: a model runs in threads of its own, one batch in each and at most four, so the event loop and other queries go
        on: a query waits for one batch at most, not for a whole import.
Rule 2: weights and tokenizer are loaded with the first use and verified before.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from llmspell.errors import InvalidSetting, MissingExtra, ProviderError, ProviderProtocol
from llmspell.providers.batches import Pooling, plan_batches
from llmspell.providers.blas import one_thread_per_product
from llmspell.providers.embedder import require_dimension, require_texts
from llmspell.providers.models import (
    DEFAULT_MODEL,
    KNOWN,
    ONNX,
    WEIGHTS,
    find_model,
    known_model,
    model_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from llmspell.providers.weights import Floats

R = TypeVar("R")

DEFAULT_MAX_TOKENS = 512
SPECIAL_TOKENS = 2  # one marker before a text and one after it, in every model that is run here
TOKENIZE_MAX_TEXTS = 256  # of one turn in a model's thread
THREADS_MAX = 4  # batches of a model that run beside each other, each on one processor
SETTING_FILE_MAX_BYTES = 10_000_000
_PASSIVE_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})


class Encoder(Protocol):
    """Runs one batch of token ids."""

    def encode(self, texts: Sequence[Sequence[int]]) -> Floats:
        """Return (texts, dimension) float32 vectors of norm 1."""
        ...


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's directory says of itself."""

    model: str
    """Its stable id: the name of a known model where every pinned file is there, else name and digest of all of them."""
    path: Path
    weights: Path
    config: dict[str, Any]
    pooling: Pooling
    max_tokens: int
    """With the markers."""


def read_model_files(path: Path, *, named: str = "", models_folder: Path | None = None) -> ModelFiles:
    """Read the small files of a model directory and choose its weights.

    Of a known model they are the pinned ones; of another, ONNX where there is one, else safetensors. A copy of a known
    model elsewhere is the same embedding space; another pooling or tokenizer makes another one of the same weights.

    Raises:
        InvalidSetting: not a directory in sentence-transformers form, one with parts that are not computed here, or one
            that has the name of a known model (or was asked for by it, `named`) and is not that.
    """
    config = _read_json(path / "config.json", required=True)
    if not (path / "tokenizer.json").is_file():
        raise InvalidSetting(f"{path} has no tokenizer.json.", hint="Save the model with a fast tokenizer.")
    for module in _read_modules(path / "modules.json"):
        if module.rpartition(".")[2] not in _PASSIVE_MODULES:
            raise InvalidSetting(f"{path} has a module {module!r}, which is not computed here.")
    pooling = _read_json(path / "1_Pooling" / "config.json")
    modes = [mode for mode, wanted in pooling.items() if mode.startswith("pooling_mode") and wanted is True]
    mode = pooling.get("pooling_mode") or (modes or ["pooling_mode_mean_tokens"])[0]
    known_modes: dict[object, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "mean": "mean",
        "cls": "cls",
    }
    if len(modes) > 1 or mode not in known_modes:
        raise InvalidSetting(f"{path} pools by {', '.join(modes) or mode}; mean and cls are computed here.")
    positions = int(config.get("max_position_embeddings") or DEFAULT_MAX_TOKENS)
    read = _read_json(path / "sentence_bert_config.json").get("max_seq_length")
    known = known_model(path, named=named, folder=models_folder)
    weights = path / WEIGHTS if known is not None else _choose_weights(path)
    return ModelFiles(
        model=known.name if known is not None else _identify(path, weights, models_folder),
        path=path,
        weights=weights,
        config=config,
        pooling=known_modes[mode],
        max_tokens=min(int(read or positions), positions),
    )


def open_local(name: str = "", *, models_folder: Path | None = None) -> LocalEmbedder:
    """Open a known model by name, or a directory by path.

    Raises:
        ModelMissing: it is not on this machine.
        MissingExtra: the extra `local` (or, for an ONNX file, `onnx`) is not installed.
        InvalidSetting: the directory is not a model that is run here.
    """
    if find_spec("tokenizers") is None:
        raise MissingExtra("local", needed_for="The local embedder")
    named = name or DEFAULT_MODEL
    files = read_model_files(
        find_model(name, folder=models_folder), named=named if named in KNOWN else "", models_folder=models_folder
    )
    if files.weights.suffix == ".onnx" and find_spec("onnxruntime") is None:
        raise MissingExtra("onnx", needed_for=f"The model in {files.path}")
    return LocalEmbedder(files)


class LocalEmbedder:
    """A sentence model on this machine. Any event loop may use it; `aclose` ends its threads."""

    exact_tokens = True

    def __init__(self, files: ModelFiles) -> None:
        """The weights are loaded with the first text."""
        self.model = files.model
        self.dimension = require_dimension(int(files.config.get("hidden_size") or 0), model=self.model)
        self.max_tokens = files.max_tokens - SPECIAL_TOKENS
        self._files = files
        self._loading = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._encoder: Encoder | None = None
        self._width = min(THREADS_MAX, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(max_workers=self._width, thread_name_prefix=f"llmspell-{self.model}")
        self._closed = False

    def __repr__(self) -> str:
        return f"LocalEmbedder({self.model!r}, {str(self._files.path)!r})"

    @property
    def runtime(self) -> str:
        """What computes the vectors: "numpy" or "onnxruntime"."""
        return "onnxruntime" if self._files.weights.suffix == ".onnx" else "numpy"

    def count_tokens(self, text: str) -> int:
        """Exact, by the model's tokenizer, without the markers."""
        return len(self._loaded_tokenizer().encode(text, add_special_tokens=False).ids)

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """As `Embedder.embed`; a text's tokens beyond `max_tokens` are cut off."""
        checked = require_texts(texts)
        token_ids: list[list[int]] = []
        for start in range(0, len(checked), TOKENIZE_MAX_TEXTS):
            token_ids += await self._run(self._tokenize, checked[start : start + TOKENIZE_MAX_TEXTS])
        vectors = [b""] * len(checked)
        batches = list(plan_batches([len(ids) for ids in token_ids]))
        for start in range(0, len(batches), self._width):
            turn = batches[start : start + self._width]
            runs = [self._run(self._compute, [token_ids[position] for position in batch]) for batch in turn]
            for batch, computed in zip(turn, await asyncio.gather(*runs), strict=True):
                for position, vector in zip(batch, computed, strict=True):
                    vectors[position] = vector
        return vectors

    async def aclose(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown, wait=True)

    async def _run(self, work: Callable[[list[Any]], R], given: list[Any]) -> R:
        if self._closed:
            raise ProviderError(f"The embedder {self.model} is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, given)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        tokenizer = self._loaded_tokenizer()
        limit = self._files.max_tokens
        found = [tokenizer.encode(text).ids for text in texts]
        # Cut before the closing marker, which the model expects at the end of every text.
        return [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in found]

    def _compute(self, token_ids: list[list[int]]) -> list[bytes]:
        encoder = self._loaded_encoder()
        with one_thread_per_product():
            rows = encoder.encode(token_ids)
        if rows.shape != (len(token_ids), self.dimension) or not np.isfinite(rows).all():
            raise ProviderProtocol(f"The model {self.model} computed vectors of the wrong shape, or not finite.")
        return [row.tobytes() for row in rows.astype("<f4")]

    def _loaded_tokenizer(self) -> Tokenizer:
        with self._loading:
            if self._tokenizer is None:
                from tokenizers import Tokenizer

                tokenizer = Tokenizer.from_file(str(self._files.path / "tokenizer.json"))
                tokenizer.no_padding()
                tokenizer.no_truncation()
                if tokenizer.num_special_tokens_to_add(is_pair=False) != SPECIAL_TOKENS:
                    raise InvalidSetting(
                        f"The tokenizer of {self._files.path} does not put one marker at each end of a text."
                    )
                self._tokenizer = tokenizer
            return self._tokenizer

    def _loaded_encoder(self) -> Encoder:
        with self._loading:
            if self._encoder is None:
                self._encoder = _load_encoder(self._files)
            return self._encoder


def _load_encoder(files: ModelFiles) -> Encoder:
    if files.weights.suffix == ".onnx":
        from llmspell.providers.onnx import OnnxEncoder

        return OnnxEncoder(files.weights, pooling=files.pooling)
    from llmspell.providers.bert import BertEncoder
    from llmspell.providers.weights import read_weights

    return BertEncoder(read_weights(files.weights), files.config, pooling=files.pooling)


def _identify(path: Path, weights: Path, models_folder: Path | None) -> str:
    return f"{path.resolve().name}@{model_digest(path, weights, folder=models_folder)[:12]}"


def _choose_weights(path: Path) -> Path:
    for name in (ONNX, "model.onnx", WEIGHTS):
        if (path / name).is_file():
            return path / name
    pickled = sorted(found.name for found in path.glob("*.bin")) + sorted(found.name for found in path.glob("*.pt"))
    if pickled:
        raise InvalidSetting(
            f"{path} has only pickled weights ({', '.join(pickled[:3])}).",
            hint="They are never read, because reading them runs code. Save the model as model.safetensors.",
        )
    raise InvalidSetting(f"{path} has neither {WEIGHTS} nor {ONNX}.")


def _read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise InvalidSetting(
                f"{path.parent} has no {path.name}, so it is not a model in sentence-transformers form."
            )
        return {}
    content = _load_json(path)
    if not isinstance(content, dict):
        raise InvalidSetting(f"{path} is not a JSON object.")
    return content


def _read_modules(path: Path) -> list[str]:
    content = _load_json(path) if path.is_file() else []
    if not isinstance(content, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in content
    ):
        raise InvalidSetting(f"{path} is not a list of modules.")
    return [entry["type"] for entry in content]


def _load_json(path: Path) -> Any:
    if path.stat().st_size > SETTING_FILE_MAX_BYTES:
        raise InvalidSetting(f"{path} is larger than {SETTING_FILE_MAX_BYTES:,} bytes.")
    try:
        return json.loads(path.read_bytes())
    except ValueError as exc:
        raise InvalidSetting(f"{path} is not JSON.") from exc
