"""Write src/llmspell/blocking.pyi, what type checkers know of the synchronous twin, from the async classes.

    python scripts/generate_blocking_stub.py            rewrite it
    python scripts/generate_blocking_stub.py --check    exit 1 when it is out of date

A class `class BlockingX(_Twin, of=X)` of blocking.py has its own attributes and methods, and every other public method and
property of X without `async`. Annotations are copied as they are written, with the imports that they need.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from llmspell import blocking

STUB = Path(blocking.__file__).with_suffix(".pyi")
HEADER = '"""Written by scripts/generate_blocking_stub.py: what type checkers know of the synchronous twin."""\n'
KEPT_DUNDERS = ("__enter__", "__exit__")
FORMAT_TIMEOUT_S = 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Imports:
    """The imports of a stub, gathered from the modules that annotations come from."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.variables: set[str] = set()

    def need(self, annotation: ast.expr, module: ModuleType) -> None:
        """Import every name of an annotation as its module does, or from the module when it is defined there."""
        for node in ast.walk(annotation):
            if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
                self._add(node.id, module)

    def _add(self, name: str, module: ModuleType) -> None:
        if module is blocking and name.startswith("Blocking"):
            return
        if isinstance(getattr(module, name, None), TypeVar):
            self.lines["TypeVar"] = "from typing import TypeVar"
            self.variables.add(name)
            return
        line = imports_of(module).get(name)
        if line is None and hasattr(module, name):
            line = f"from {module.__name__} import {name}"
        if line is None:
            return  # a builtin
        known = self.lines.get(name)
        if known is not None and known != line and found(known, name) != found(line, name):
            raise SystemExit(f"{name} means two things: {known!r} and {line!r}")
        self.lines.setdefault(name, line)


def imports_of(module: ModuleType) -> dict[str, str]:
    """Return every name that a module imports, with the line that imports it."""
    lines: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            lines |= {alias.asname or alias.name: f"from {node.module} import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            lines |= {alias.name: f"import {alias.name}" for alias in node.names if alias.asname is None}
    return lines


def found(line: str, name: str) -> object:
    """Return what an import line gives."""
    home = line.split()[1]
    return getattr(importlib.import_module(home), name) if line.startswith("from") else importlib.import_module(home)


def class_of(name: str, module: ModuleType) -> ast.ClassDef:
    """Return the source of a class."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise SystemExit(f"{module.__name__} has no class {name}")


def signature(function: Function, module: ModuleType, imports: Imports, doc: str | None) -> str:
    """Return a function of the stub; `doc` is its one line."""
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None and argument.annotation is not None:
            imports.need(argument.annotation, module)
    for default in (*arguments.defaults, *arguments.kw_defaults):
        if default is not None:
            imports.need(default, module)
    if function.returns is None:
        raise SystemExit(f"{module.__name__}.{function.name} says nothing of what it returns")
    returns = function.returns
    if any(isinstance(mark, ast.Name) and mark.id == "contextmanager" for mark in function.decorator_list):
        imports.lines["AbstractContextManager"] = "from contextlib import AbstractContextManager"
        yielded = next(node.slice for node in ast.walk(returns) if isinstance(node, ast.Subscript))
        imports.need(yielded, module)
        returns = ast.Subscript(ast.Name("AbstractContextManager"), yielded)
    else:
        imports.need(returns, module)
    mark = "@property\n" if any(isinstance(m, ast.Name) and m.id == "property" for m in function.decorator_list) else ""
    body = f'    """{doc}"""' if doc else "    ..."
    return f"{mark}def {function.name}({ast.unparse(arguments)}) -> {ast.unparse(returns)}:\n{body}\n"


def public(function: Function) -> bool:
    """Whether a method belongs in the stub."""
    return not function.name.startswith("_") or function.name in KEPT_DUNDERS


def first_line(text: str | None) -> str | None:
    """Return the first line of a docstring."""
    return None if text is None else inspect.cleandoc(text).partition("\n")[0]


def members(twin: ast.ClassDef, imports: Imports) -> Iterator[str]:
    """Yield what a twin has: its own, then what it mirrors."""
    (mirrored,) = [ast.unparse(keyword.value) for keyword in twin.keywords if keyword.arg == "of"]
    of = getattr(blocking, mirrored)
    home = importlib.import_module(of.__module__)
    runtime = getattr(blocking, twin.name)
    yield f'"""{first_line(of.__doc__)}"""\n'
    own = set()
    for node in twin.body:
        if isinstance(node, ast.AnnAssign):
            imports.need(node.annotation, blocking)
            yield ast.unparse(node) + "\n"
        elif isinstance(node, ast.FunctionDef) and public(node):
            own.add(node.name)
            yield signature(node, blocking, imports, first_line(getattr(runtime, node.name).__doc__))
    for node in class_of(of.__name__, home).body:
        if isinstance(node, Function) and public(node) and node.name not in own:
            yield signature(node, home, imports, first_line(ast.get_docstring(node)))


def stub() -> str:
    """Return the whole stub, formatted."""
    imports, parts = Imports(), []
    for node in ast.parse(inspect.getsource(blocking)).body:
        if isinstance(node, ast.ClassDef) and any(keyword.arg == "of" for keyword in node.keywords):
            body = "".join(members(node, imports))
            indented = "".join(f"    {line}" if line.strip() else line for line in body.splitlines(keepends=True))
            bases = [name for name in map(ast.unparse, node.bases) if name != "_Twin"]
            parts.append(f"class {node.name}{f'({bases[0]})' if bases else ''}:\n{indented}")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts.append(signature(node, blocking, imports, first_line(ast.get_docstring(node))))
    lines = "\n".join(sorted(set(imports.lines.values())))
    variables = "".join(f'{name} = TypeVar("{name}")\n' for name in sorted(imports.variables))
    return formatted(f"{HEADER}\n{lines}\n\n{variables}" + "\n".join(parts))


def formatted(text: str) -> str:
    """Return a stub with its imports in order and laid out, as `make check` wants it."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"],
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=FORMAT_TIMEOUT_S,
            check=True,
        )
        text = done.stdout
    return text


def main(arguments: list[str]) -> int:
    """Rewrite or check the stub; return the exit code."""
    text = stub()
    if "--check" in arguments:
        if STUB.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write("src/llmspell/blocking.pyi is out of date\n")
        return 1
    STUB.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
