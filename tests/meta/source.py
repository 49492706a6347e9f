"""Our own source, as the house rules read it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "llmspell"
CODE_FOLDERS = ("src", "tests", "benchmarks", "scripts")


def python_files(*folders: str) -> list[Path]:
    """Every Python file below folders of the repository, all code by default."""
    found = (path for folder in folders or CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


def shown(path: Path) -> str:
    """A path as messages name it."""
    return path.relative_to(ROOT).as_posix()


def inside(path: Path) -> str:
    """A path below `src/llmspell`, or the empty text."""
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


@lru_cache(maxsize=1_000)
def tree(path: Path) -> ast.Module:
    """A file as a syntax tree."""
    return ast.parse(path.read_text("utf-8"), str(path))


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first name of everything that a file imports, wherever in the file; relative imports are our own."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def docstrings(module: ast.Module) -> set[int]:
    """The identities of the nodes that are documentation: a text that stands as a statement of its own."""
    return {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def complaint(rule: str, violations: list[str]) -> str:
    """The message of a broken rule: what to do instead, then where it is broken."""
    return "\n  ".join([f"{rule}\nFound {len(violations)}:", *violations])
