"""The public surface: every name has one home, and type checkers see what the lazy table gives."""

from __future__ import annotations

import ast
from importlib import import_module

import pytest
from tests.meta.source import PACKAGE, complaint, tree

import llmspell

INIT = PACKAGE / "__init__.py"


def names_for_type_checkers() -> dict[str, str]:
    """What stands below `if TYPE_CHECKING:`, as public name and home."""
    found: dict[str, str] = {}
    for block in tree(INIT).body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for line in block.body:
                assert isinstance(line, ast.ImportFrom), "only `from … import name as name` stands there"
                assert line.module is not None
                found |= {alias.asname or alias.name: line.module for alias in line.names}
    return found


def test_the_lazy_table_is_what_type_checkers_see() -> None:
    assert names_for_type_checkers() == llmspell._HOMES, (
        "Name each public name twice in llmspell/__init__.py: in _HOMES, and imported below TYPE_CHECKING."
    )


def test_names_are_exported_explicitly() -> None:
    implicit = [
        alias.name
        for block in tree(INIT).body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
        if alias.asname != alias.name
    ]

    assert not implicit, complaint("Write `import Name as Name`: strict type checkers need it.", implicit)


@pytest.mark.parametrize("name", sorted(llmspell._HOMES))
def test_a_public_name_resolves_to_its_home(name: str) -> None:
    home = llmspell._HOMES[name]
    found = getattr(llmspell, name)

    assert found is getattr(import_module(home), name)
    assert getattr(found, "__module__", home) == home, (
        f"{name} is defined in {found.__module__}: name that as its home."
    )


def test_all_lists_the_public_names_once() -> None:
    assert len(set(llmspell.__all__)) == len(llmspell.__all__)
    assert set(llmspell.__all__) == {"__version__", *llmspell._HOMES}
    assert set(llmspell.__all__) <= set(dir(llmspell))


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llmspell.no_such_name
