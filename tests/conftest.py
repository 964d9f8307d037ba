"""What every test may ask for: the fixture `golden`, and the option `--golden` that rewrites what it compares with.

Tests of real machines and clients have a second try; what the first one failed of stands before the summary. With
`-n 2`, as scripts/test runs them, real machines keep to themselves: one after the other, and before all others.
How long an example of hypothesis takes is nobody's failure. Its examples are the same each time as long as the test is,
so that what passes before a merge passes after it (docs/decisions/0022); scripts/test --long searches on.
"""

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FOLDER = Path(__file__).parent / "golden"
REAL_FOLDERS = ("tests/e2e/", "tests/conformance/")
RANDOM = ("test_schema", "test_kill_points", "test_transaction_kills", "test_repeated_requests", "test_summing_up")
"""Files in those folders whose tests go another way each time: what one of them finds is found."""
REAL_FIXTURES = {"host", "machine"}  # of tests/agent: a libvirt and its QEMU
REAL_MACHINES = re.compile(r"tests/(agent/|e2e/test_(real_|up|testbed)|conformance/test_schema)")
"""Tests that make hosts, networks and guests, or measure what they do: never two of them at a time."""
GIVEN_WAY = 5
"""By how much all others yield the processor to them (nice)."""
ADVICE = "If the change is meant: scripts/golden, then look at git diff."

settings.register_profile("long", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("gate", settings.get_profile("long"), derandomize=True)
settings.load_profile("gate")


@dataclass(frozen=True)
class Golden:
    """Compares with files under `folder`, or rewrites them; shows text as lines and bytes as rows of hexadecimal."""

    folder: Path
    rewrite: bool

    def __call__(self, path: str, actual: str | bytes) -> None:
        """Fails, showing the difference, unless the file `path` holds exactly `actual`."""
        __tracebackhide__ = True
        file = self.folder / path
        content = actual.encode() if isinstance(actual, str) else actual
        if self.rewrite:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        elif not file.is_file():
            pytest.fail(f"golden/{path} is not there. {ADVICE}")
        elif (expected := file.read_bytes()) != content:
            rows = text_rows if isinstance(actual, str) else byte_rows
            difference = difflib.unified_diff(rows(expected), rows(content), f"golden/{path}", "actual", lineterm="")
            pytest.fail("\n".join([*difference, ADVICE]))


def text_rows(content: bytes) -> list[str]:
    """The lines, with white space at their ends made visible."""
    lines = content.decode(errors="backslashreplace").split("\n")
    return [line if line.rstrip() == line else repr(line) for line in lines]


def byte_rows(content: bytes) -> list[str]:
    """Sixteen bytes a row, after their offset."""
    return [f"{at:04x}  {content[at : at + 16].hex(' ')}" for at in range(0, len(content), 16)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite golden files, running only the tests that have any")


def has_second_try(nodeid: str, fixtures: Iterable[str]) -> bool:
    """Where emulated guests and other people's programs keep the time; never where a random history found something."""
    if Path(nodeid.partition("::")[0]).stem in RANDOM:
        return False
    return nodeid.startswith(REAL_FOLDERS) or (nodeid.startswith("tests/agent/") and bool(REAL_FIXTURES & {*fixtures}))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if has_second_try(item.nodeid, getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if config.getoption("--golden"):
        others = [item for item in items if "golden" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if item not in others]
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Whoever runs out of tests is given the next piece, the one with the most tests first."""
    made = LoadScopeScheduling(config, log)
    made._split_scope = piece
    return made


def piece(nodeid: str) -> str:
    """What is given to one process: all real machines together, which are the most tests; of the others a file."""
    return "real machines" if REAL_MACHINES.match(nodeid) else nodeid.partition("::")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:  # nobody else may raise it again
        os.setpriority(os.PRIO_PROCESS, 0, 0 if REAL_MACHINES.match(item.nodeid) else GIVEN_WAY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.line(report.longreprtext)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden("domain/legacy.xml", xml)` compares with tests/golden/domain/legacy.xml; scripts/golden rewrites it."""
    return Golden(FOLDER, rewrite=request.config.getoption("--golden"))
