"""What belongs to a change beside its code: pins, benchmarks, changelog fragments, decision pages, the tools themselves."""

from __future__ import annotations

import re
import subprocess
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.meta.source import ROOT, complaint

FRAGMENT = re.compile(r"\+[a-z0-9]+(?:-[a-z0-9]+)*\.(?:added|changed|fixed|removed|security)\.md")
FRAGMENT_LINES_MAX = 8
DECISION = re.compile(r"(\d{4})-[a-z0-9]+(?:-[a-z0-9]+)*\.md")
SHELL_TIMEOUT_S = 10


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    wrong = [
        text
        for text in wanted
        if (need := Requirement(text)).name != "llmspell"
        and not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))
    ]

    assert not wrong, complaint("Pin it in constraints.txt, within the bound of pyproject.toml.", wrong)


def test_every_benchmark_is_run_by_make_and_can_print_json() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    wrong = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text("utf-8")
        if "__main__" in text and f"benchmarks/{path.name}" not in makefile:
            wrong.append(f"{path.name} is not in `make bench`")
        if "__main__" in text and '"--json"' not in text:
            wrong.append(f"{path.name} does not take --json")

    assert not wrong, complaint("A benchmark that nobody runs rots.", wrong)


def test_fragments_are_named_after_what_they_change() -> None:
    fragments = sorted((ROOT / "changelog.d").iterdir())
    wrong = [path.name for path in fragments if not FRAGMENT.fullmatch(path.name)]
    wrong += [f"{path.name} is long" for path in fragments if path.read_text("utf-8").count("\n") > FRAGMENT_LINES_MAX]

    assert not wrong, complaint("Name it +topic.kind.md (CONTRIBUTING.md), in a few sentences for a user.", wrong)


def test_decisions_are_numbered_without_gaps_and_say_what_and_why() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [int(match[1]) for page in pages if (match := DECISION.fullmatch(page.name))]

    assert numbers == list(range(1, len(pages) + 1)), "Name it NNNN-what-it-is-about.md, with the next number."
    unsaid = [
        page.name
        for page in pages
        for heading in ("## Decision", "## Reason")
        if heading not in page.read_text("utf-8")
    ]
    assert not unsaid, complaint("A decision has the headings Decision and Reason (decision 0001).", unsaid)


def test_the_shell_scripts_can_be_run() -> None:
    wrong = []
    for name in (".ci/run", "scripts/set_up.sh"):
        done = subprocess.run(
            ["sh", "-n", name], cwd=ROOT, capture_output=True, text=True, timeout=SHELL_TIMEOUT_S, check=False
        )
        if done.returncode or not (ROOT / name).stat().st_mode & 0o100:
            wrong.append(f"{name} {done.stderr}")

    assert not wrong, complaint("It must be executable, in plain sh.", wrong)
