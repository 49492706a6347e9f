"""The pytest plugin of the conformance suite: the clock, capabilities that tests need, and a table at the end of the run.

A test belongs to the table when its fixture `backend` is parametrised: the parameter is the name of the row.

Rule: every backend passes every contract test, or lacks a capability that the test needs; a run in which that does not
hold fails, whatever the tests said themselves. A backend that was skipped altogether has no say.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmspell.clock import ManualClock
from llmspell.storage.contracts.capabilities import Capability

pytest.register_assert_rewrite("llmspell.testing.contract")

BACKEND = "llmspell_backend"
CASE = "llmspell_contract"
LACKS = "llmspell_lacks"
MISSING_SHOWN_MAX = 10


class ContractTable:
    """The outcome of every contract test on every backend."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}

    def note(self, report: pytest.TestReport) -> None:
        """Take the report of one phase of a test."""
        properties = dict(report.user_properties)
        backend, case = properties.get(BACKEND), properties.get(CASE)
        if backend is None or case is None:
            return
        cases = self.outcomes.setdefault(str(backend), {})
        if report.failed:
            cases[str(case)] = "failed"
        elif report.skipped:
            cases[str(case)] = "not applicable" if LACKS in properties else "skipped"
        elif report.when == "call":
            cases.setdefault(str(case), "passed")

    def counted(self, backend: str, outcome: str) -> int:
        """How many tests of a backend ended so."""
        return sum(one == outcome for one in self.outcomes[backend].values())

    def missing(self) -> list[str]:
        """Return what was not run somewhere although it should have been: one line for each test and backend."""
        served = {name: cases for name, cases in self.outcomes.items() if set(cases.values()) != {"skipped"}}
        every = {case for cases in served.values() for case in cases}
        return [
            f"{name}: {case} was {cases.get(case, 'not run')}"
            for name, cases in sorted(served.items())
            for case in sorted(every)
            if cases.get(case, "skipped") == "skipped"
        ]

    def lines(self) -> Iterator[str]:
        """Yield the table."""
        yield f"{'backend':<14}{'passed':>8}{'not applicable':>16}{'failed':>8}{'skipped':>9}{'total':>7}"
        for name in sorted(self.outcomes):
            counts = (self.counted(name, one) for one in ("passed", "not applicable", "failed", "skipped"))
            passed, inapplicable, failed, skipped = counts
            yield f"{name:<14}{passed:>8}{inapplicable:>16}{failed:>8}{skipped:>9}{len(self.outcomes[name]):>7}"
        missing = self.missing()
        if missing:
            yield f"{len(missing)} contract tests lack an outcome without a declared missing capability:"
            yield from missing[:MISSING_SHOWN_MAX]


_table = pytest.StashKey[ContractTable]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and start the table."""
    config.addinivalue_line("markers", "needs(*capabilities): not applicable to backends without these capabilities")
    config.stash[_table] = ContractTable()
    config.pluginmanager.register(_Reports(config.stash[_table]), "llmspell-contract-reports")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which contract test on which backend each item is."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or "backend" not in callspec.params or "contract" not in item.path.parts:
            continue
        others = [ascii(value) for name, value in sorted(callspec.params.items()) if name != "backend"]
        name = "::".join([*item.nodeid.split("::")[:-1], getattr(item, "originalname", item.name)])
        item.user_properties.append((BACKEND, str(callspec.params["backend"])))
        item.user_properties.append((CASE, f"{name}[{'-'.join(others)}]" if others else name))


@pytest.fixture
def clock() -> ManualClock:
    """The clock that a backend under test goes by; it stands until a test moves it."""
    return ManualClock()


@pytest.fixture(autouse=True)
def _needed_capabilities(request: pytest.FixtureRequest) -> None:
    """Skip a test whose backend declares that it lacks what the test needs."""
    marker = request.node.get_closest_marker("needs")
    if marker is None:
        return
    backend = request.getfixturevalue("backend")
    lacking: list[Capability] = [one for one in marker.args if one not in backend.capabilities]
    if lacking:
        names = ", ".join(one.value for one in lacking)
        request.node.user_properties.append((LACKS, names))
        pytest.skip(f"not applicable: the backend lacks {names}")


class _Reports:
    """Hears the reports of one run."""

    def __init__(self, table: ContractTable) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._table.note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and self._table.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._table.outcomes:
            terminalreporter.section("contract tests per backend")
            for line in self._table.lines():
                terminalreporter.write_line(line)
