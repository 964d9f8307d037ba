"""The rules of the house that no linter knows, checked on the files of the repository itself."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import RANDOM, REAL_MACHINES, has_second_try

ROOT = Path(__file__).parent.parent
ROOMS = ("agent", "controllers", "portal", "resources")
SHELLS = ("controllers/runtime.py", "controllers/loops.py")
CATCHING = {
    "controllers/runtime.py": "the worker loop of the controllers",
    "agent/worker.py": "the worker loop of the agent",
    "portal/desired/keeping.py": "the worker loop of the directory of desired objects",
    "agent/hypervisor.py": "carries whatever a call of its thread raised to the task that waits for it",
}
"""Where everything may be caught, and why: nowhere else."""

# In two pieces each, so that this file does not name them either.
REGISTRY_HOSTS = [
    name + end
    for name, end in [
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("npmjs", ".org"),
        ("npmjs", ".com"),
        ("yarnpkg", ".com"),
        ("debian", ".org"),
        ("docker", ".io"),
        ("ghcr", ".io"),
    ]
]


@cache
def tracked() -> list[Path]:
    """Every file that git tracks, or would on the next `git add`, without the links."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    files = [ROOT / name for name in names.split("\0") if name]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def modules() -> dict[str, ast.Module]:
    """Every Python module of the four rooms, parsed, by its path."""
    python = [file for file in tracked() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in ROOMS]
    return {name(file): ast.parse(file.read_bytes()) for file in python}


def scripts() -> list[Path]:
    return [file for file in tracked() if file.parent in {ROOT / "scripts", ROOT / ".ci"}]


def swallowing(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    """Every `except Exception`, `except BaseException` or bare `except` that does not end in a bare `raise`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            last = node.body[-1]
            reraised = isinstance(last, ast.Raise) and last.exc is None
            if _caught(node) & {"Exception", "BaseException"} and not reraised:
                yield node


def _caught(handler: ast.ExceptHandler) -> set[str]:
    match handler.type:
        case None:
            return {"BaseException"}
        case ast.Tuple(elts=alternatives):
            return {ast.unparse(one) for one in alternatives}
        case one:
            return {ast.unparse(one)}


def shell_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call that hands a string to a shell."""
    shells = {"os.system", "os.popen", "asyncio.create_subprocess_shell", "subprocess.getoutput"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            shell = any(word.arg == "shell" and not _is_false(word.value) for word in node.keywords)
            if shell or ast.unparse(node.func) in shells:
                yield node


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def clock_reads(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call such as `datetime.now(UTC)` that reads the clock through datetime (import-linter sees `time`)."""
    clock = re.compile(r"(datetime|date)\.(now|today|utcnow)")
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and clock.fullmatch(ast.unparse(node.func)))


def test_the_rules_see_what_they_forbid() -> None:
    bad = ast.parse(
        "try: pass\nexcept (ValueError, Exception): pass\n"
        "try: pass\nexcept Exception:\n    undo()\n    raise\n"
        "subprocess.run('ls', shell=True)\nos.system('ls')\nsubprocess.run(['ls'], shell=False)\n"
        "datetime.now(UTC)\ndatetime.fromisoformat('')\n"
    )
    assert [handler.lineno for handler in swallowing(bad)] == [2]
    assert sorted(call.lineno for call in shell_calls(bad)) == [7, 8]
    assert [call.lineno for call in clock_reads(bad)] == [10]


def test_every_module_says_what_belongs_in_it() -> None:
    assert [path for path, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_only_the_worker_loops_catch_everything() -> None:
    places = [path for path, tree in modules().items() for _ in swallowing(tree)]
    assert sorted(places) == sorted(CATCHING), "once each, and nowhere else"


def test_nothing_reaches_a_shell() -> None:
    assert [f"{path}:{call.lineno}" for path, tree in modules().items() for call in shell_calls(tree)] == []


def test_planners_do_not_read_the_clock() -> None:
    planners = [path for path in modules() if path.startswith("controllers/") and path not in SHELLS]
    assert [f"{path}:{call.lineno}" for path in planners for call in clock_reads(modules()[path])] == []


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_linked_into_the_import_package(room: str) -> None:
    link = ROOT / ".src" / "nanovirt" / room
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / room


def test_the_import_package_has_the_four_rooms_and_nothing_else() -> None:
    assert sorted(link.name for link in (ROOT / ".src" / "nanovirt").iterdir()) == sorted(ROOMS)


@pytest.mark.parametrize("script", scripts(), ids=name)
def test_each_script_runs_and_says_what_it_does(script: Path) -> None:
    assert os.access(script, os.X_OK), f"{name(script)} is not executable"
    interpreter, comment, *_ = script.read_text().splitlines()
    assert interpreter.startswith("#!/usr/bin/env ")
    assert re.match(r"(# |\"\"\")\w.*", comment), "the second line says what the script does"


def test_no_file_names_a_registry_host() -> None:
    hosts = re.compile("|".join(map(re.escape, REGISTRY_HOSTS)).encode())
    assert [name(file) for file in tracked() if hosts.search(file.read_bytes())] == []


def test_every_locked_package_has_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    pins = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(pins) > 40
    assert [pin.split()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["agent"]]
    wanted += [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    names = {re.split(r"[^A-Za-z0-9._-]", entry)[0].lower() for entry in wanted}
    assert names - locked == set()


def test_only_tests_of_real_machines_and_clients_have_a_second_try(request: pytest.FixtureRequest) -> None:
    tried_twice = {Path(item.nodeid).parts[1] for item in request.session.items if item.get_closest_marker("flaky")}
    assert tried_twice <= {"agent", "conformance", "e2e"}
    assert has_second_try("tests/e2e/test_real_life.py::test_any", ())
    assert not has_second_try("tests/conformance/test_schema.py::test_any", ())
    assert all(list(ROOT.glob(f"tests/*/{name}.py")) for name in RANDOM)


def test_real_machines_keep_to_themselves(request: pytest.FixtureRequest) -> None:
    """Whoever wants a host or a guest is one of those that never run two at a time; see tests/conftest.py."""
    wanted = {"mini_guest", "two_hosts", "host", "machine"}
    real = {
        item.nodeid
        for item in request.session.items
        if item.nodeid.startswith(("tests/agent/", "tests/e2e/")) and wanted & {*getattr(item, "fixturenames", ())}
    }
    assert {nodeid for nodeid in real if not REAL_MACHINES.match(nodeid)} == set()
    assert not REAL_MACHINES.match("tests/portal/test_api.py::test_real_")
