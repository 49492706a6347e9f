"""House rules that a reader would otherwise have to remember. Each message says what to do instead.

The words that are refused are written here in two halves, so that this file passes its own rules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.meta.source import CODE_FOLDERS, PACKAGE, ROOT, complaint, docstrings, inside, python_files, shown, tree

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
POSITIONAL_MAX = 4
REFUSED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "impl"})
TEXT_KINDS = frozenset({".py", ".sql", ".md", ".toml", ".sh", ".txt", ".lua", ".json"})
TOP_FILES = ("Makefile", ".ci/run", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml")
REFUSED_WORDS = {
    rf"\b(?:{'|'.join(('TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'))})\b": "do it now, or leave it out and say so",
    rf"\b{'Pha' + 'se'} \d": "say what the thing is; when it was made is for the changelog",
    rf"(?<![\w.]){'/wo' + 'rk'}/": "no path of one machine",
    rf"(?i)\b{'iss' + 'ue'}s? #?\d": "say the reason itself, or write a page in docs/decisions/",
    rf"(?i){'pypi' + '[.]org'}|{'python' + 'hosted'}|{'npm' + 'js[.]'}": "name no registry's host; the user's own index decides",
}
BACKEND_WORDS = re.compile(r"sqlite|postgres", re.IGNORECASE)
BACKEND_URL = re.compile(r"sqlite:///|postgresql://")
BACKEND_ROOMS = (
    "storage/sqlite/",
    "storage/postgres/",
    "storage/open.py",
    "settings.py",
    "_store_sections.py",
    "ops/",
    "cli/commands/dev.py",
    "cli/commands/storage.py",
    "cli/commands/database.py",
    "cli/commands/backup.py",
)
DATABASE_ROOMS = ("storage/sqlite/", "storage/postgres/", "ops/")
EXECUTING_MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"})
CLOCK_CALLS = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns", "time.localtime"}
)
SQL = re.compile(r"\b(?:SELECT|INSERT INTO|UPDATE \w|DELETE FROM|CREATE \w|ALTER \w|DROP \w|GRANT \w)")
STATEMENT = re.compile(r"\s*(?:SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|WITH \w+ AS)\b")
# Tests that may pause, and what they wait for.
SLEEPING = {
    "tests/unit/ops/test_embedded_postgres.py": "processes that end when the kernel gets to them; a bounded poll"
}
# Where SQL is put together in Python. What goes in is written by us: identifiers and names of parameters.
BUILT_SQL = {
    "storage/sqlite/dialect.py": "conditions of a filter: columns from our code, values as parameters",
    "storage/postgres/dialect.py": "the same for the other dialect",
    "storage/postgres/tenancy.py": "policies of tables whose names are checked identifiers",
    "storage/sqlite/snapshot.py": "digests of tables, whose names the catalogue gives",
    "storage/postgres/restoring.py": "roles and databases as quoted identifiers, and a number of ours",
    "storage/postgres/schema_repair.py": "objects of our schema, by the names that schema.sql has",
    "storage/sqlite/schema_verify.py": "the names of our indexes and triggers, as the migrations make them",
    "ops/inspection.py": "advice to people: statements that nobody runs here",
    "storage/postgres/vector_indexes.py": "indexes of our tables and partitions, whose names the catalogue gives",
    "storage/postgres/vector_partitions.py": "partitions that are named by a dimension and a number",
}


def below_src(*rooms: str) -> Iterator[Path]:
    """Python files of `src`, without those in `rooms` (folders with a stroke at the end, or files)."""
    for path in python_files("src"):
        if not any(inside(path) == room or (room.endswith("/") and inside(path).startswith(room)) for room in rooms):
            yield path


def texts() -> Iterator[Path]:
    """Every file that people read."""
    folders = (*CODE_FOLDERS, "docs", "changelog.d")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in TEXT_KINDS)
    yield from (path for path in sorted(found) if "__pycache__" not in path.parts)
    yield from (ROOT / name for name in TOP_FILES)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression, as far as it is made of names."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the last two parts of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, ".".join(dotted(node.func).split(".")[-2:])


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def documentation_lines(path: Path) -> set[int]:
    """The lines of a file that belong to a docstring."""
    nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant))
    documentation = docstrings(tree(path))
    return {
        line
        for node in nodes
        if id(node) in documentation
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def test_files_are_short() -> None:
    files = python_files() + sorted(path for path in PACKAGE.rglob("*.sql") if path.name != "schema.sql")
    lengths = {path: path.read_text("utf-8").count("\n") for path in files}
    long = [f"{shown(path)}: {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES_MAX]

    assert not long, complaint(f"Split it by concern; {FILE_LINES_MAX} lines are the limit, 400 are usual.", long)


def test_functions_fit_a_screen() -> None:
    long = [
        f"{shown(path)}:{node.lineno} {node.name}: {(node.end_lineno or node.lineno) - node.lineno + 1} lines"
        for path in python_files()
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]

    assert not long, complaint(f"Decide in one function and act in another; {FUNCTION_LINES_MAX} lines at most.", long)


def test_functions_take_few_positional_arguments() -> None:
    """Commands and tests are exempt, because their arguments are passed by name; so are private functions."""
    long = []
    for path in python_files("src"):
        for node in functions(path):
            arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            decorated = inside(path).startswith("cli/commands/") and node.decorator_list
            private = node.name.startswith("_") and node.name != "__init__"
            by_name = decorated or private or node.name.startswith("test_")
            if len(arguments) > POSITIONAL_MAX and not by_name:
                long.append(f"{shown(path)}:{node.lineno} {node.name}({', '.join(arguments)})")

    assert not long, complaint("Make the rest keyword-only (after `*`), or hand over a record.", long)


def test_modules_are_named_after_what_they_hold() -> None:
    named = [shown(path) for path in python_files() if path.stem in REFUSED_NAMES or path.parent.name in REFUSED_NAMES]

    assert not named, complaint("Name the module after the concern: rooms without a name on the door fill up.", named)


@pytest.mark.parametrize("pattern", REFUSED_WORDS)
def test_refused_words_stand_nowhere(pattern: str) -> None:
    word = re.compile(pattern)
    found = [
        f"{shown(path)}:{number} {line.strip()[:80]}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if word.search(line)
    ]

    assert not found, complaint(f"Refused: {REFUSED_WORDS[pattern]}.", found)


def test_backends_are_named_only_where_they_are_made() -> None:
    """URLs in a docstring are what the user types; anywhere else a URL of a backend is a decision."""
    found = []
    for path in below_src(*BACKEND_ROOMS):
        documented = documentation_lines(path)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if BACKEND_WORDS.search(BACKEND_URL.sub("", line) if number in documented else line):
                found.append(f"{shown(path)}:{number} {line.strip()[:80]}")

    assert not found, complaint("Ask for a capability, or move the code below storage; comments count too.", found)


def test_a_broad_catch_says_why() -> None:
    """One that cleans up and raises again needs no reason."""
    found = []
    for path in python_files():
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in kinds)
            reason = re.sub(r"noqa: *[A-Z0-9, ]*", "", lines[node.lineno - 1].partition("#")[2]).strip(" -#")
            passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not passed_on and not reason:
                found.append(f"{shown(path)}:{node.lineno} {lines[node.lineno - 1].strip()}")

    assert not found, complaint("Catch what you expect; at the edge of a process say why beside the line.", found)


def test_only_the_command_line_prints() -> None:
    found = [
        f"{shown(path)}:{node.lineno}" for path in below_src("cli/") for node, name in calls(path) if name == "print"
    ]

    assert not found, complaint("Return it, or log it through `llmspell.observe`.", found)


def test_time_comes_from_the_clock() -> None:
    found = [
        f"{shown(path)}:{node.lineno} {name}()"
        for path in below_src("clock.py")
        for node, name in calls(path)
        if name in CLOCK_CALLS
    ]

    assert not found, complaint("Take a Clock as an argument: tests then decide what time it is.", found)


def test_tests_never_sleep() -> None:
    """`asyncio.sleep(0)` only lets the other tasks run."""
    found = [
        f"{shown(path)}:{node.lineno} {name}()"
        for path in [*python_files("tests"), *(PACKAGE / "testing").rglob("*.py")]
        if shown(path) not in SLEEPING
        for node, name in calls(path)
        if name in ("time.sleep", "asyncio.sleep")
        and not (name == "asyncio.sleep" and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]

    assert not found, complaint("Advance a ManualClock, or wait for the event itself with a limit.", found)


def test_the_environment_is_read_in_one_module() -> None:
    found = [
        f"{shown(path)}:{node.lineno}"
        for path in below_src("settings.py", "directories.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv", "os.environb")
    ]

    assert not found, complaint("Add a setting, and take its value as an argument.", found)


def test_nothing_that_is_read_can_run() -> None:
    found = []
    for path in python_files("src"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                bad = [name for name in names if name.partition(".")[0] in EXECUTING_MODULES]
                found += [f"{shown(path)}:{node.lineno} imports {name}" for name in bad]
        found += [
            f"{shown(path)}:{node.lineno} {name}()" for node, name in calls(path) if name in ("eval", "exec", "compile")
        ]

    assert not found, complaint(
        "Read plain data: JSON through `codec`, TOML through `settings`, records through msgspec.", found
    )


def test_sql_is_never_built_from_values() -> None:
    found = []
    for path in below_src(*BUILT_SQL):
        documentation = docstrings(tree(path))
        for node in ast.walk(tree(path)):
            text = built_text(node)
            if text is not None and SQL.search(text) and id(node) not in documentation:
                found.append(f"{shown(path)}:{node.lineno} {text.strip()[:70]}")  # type: ignore[attr-defined]

    assert not found, complaint("Put the query into queries/<stem>.sql with named parameters.", found)


def built_text(node: ast.AST) -> str | None:
    """The fixed parts of a text that is put together when it is used; None for anything else."""
    if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in node.values):
        return " ".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
        fixed = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
        return " ".join(map(str, fixed)) if len(fixed) == 1 and isinstance(fixed[0], str) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return node.func.value.value if isinstance(node.func.value, ast.Constant) else None  # type: ignore[return-value]
    return None


@pytest.mark.parametrize(
    "code",
    [
        "f'SELECT a FROM {table}'",
        "'SELECT a FROM ' + table",
        "'SELECT a FROM %s' % table",
        "'DELETE FROM {}'.format(table)",
    ],
)
def test_every_way_to_build_sql_is_seen(code: str) -> None:
    node = ast.parse(code, mode="eval").body

    assert SQL.search(built_text(node) or "")


def test_sql_stands_in_sql_files() -> None:
    found = []
    for path in below_src(*DATABASE_ROOMS):
        documentation = docstrings(tree(path))
        for node in ast.walk(tree(path)):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in documentation else None
            if isinstance(text, str) and STATEMENT.match(text):
                found.append(f"{shown(path)}:{node.lineno} {text.strip()[:70]}")  # type: ignore[attr-defined]

    assert not found, complaint("Put the query into queries/<stem>.sql of both dialects.", found)


def test_the_list_of_built_sql_has_no_dead_entry() -> None:
    gone = [name for name in BUILT_SQL if not (PACKAGE / name).is_file()]

    assert not gone, complaint("Remove the entry from BUILT_SQL.", gone)
