"""The table of kubectl checks, for the oldest, a middle and the newest kubectl, with token and with certificate."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conformance.cluster import Cluster, running_cluster
from tests.conformance.kubectl_files import FILES
from tests.conformance.kubectl_table import SECTIONS, Check
from tests.kubectl import VERSIONS, Kubectl, kubectl
from tests.test_repository import ROOT

BY_CERTIFICATE = ("discovery", "rights", "creating", "changing")
AT_LEAST = 100
LOGGED = re.compile(r"[IWE]\d{4} ")
"""How what kubectl says only with -v=6 begins: each answer that it got, one a line."""
WATCHING = re.compile(r'watch=true"? (status=")?200 OK')
"""How an answered watch is logged by kubectl 1.20, and by newer ones."""
LOOKING_SECONDS = 2.0
BINARIES = ROOT / ".venv" / "bin"


class Desk:
    """Whoever types the commands: one kubectl with one HOME, and a folder with the files."""

    def __init__(self, version: str, cluster: Cluster, folder: Path) -> None:
        self.minor = int(version.partition(".")[2])
        self.cluster, self.folder = cluster, folder
        self.client = Kubectl(kubectl(version), cluster.server.kubeconfig)
        for name, text in FILES.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def carry_out(self, check: Check, context: str) -> list[str]:
        """What was not as it should be."""
        try:
            done = self._typed(check, context)
        except subprocess.TimeoutExpired:
            return ["it does not end"]
        wrong = list(said_wrong(check, done))
        for word, wanted in check.then.items():
            wrong += self._untrue(word, wanted)
        shown = f"\n--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-2000:]}"
        return [*wrong, shown] if wrong else []

    def _typed(self, check: Check, context: str) -> subprocess.CompletedProcess[str]:
        text = FILES[check.stdin] if check.stdin else None
        env = {"PATH": f"{BINARIES}:/usr/bin:/bin", "TMPDIR": str(self.folder), **check.env}
        words = self._words(check.run, context)
        if not check.meanwhile:
            return self.client.attempt(*words, input=text, folder=self.folder, env=env)
        with (self.folder / "said").open("w+") as said:
            assistant = threading.Thread(target=self._meanwhile, args=(check.meanwhile, context, Path(said.name)))
            assistant.start()
            try:
                done = self.client.attempt(*words, "-v=6", input=text, folder=self.folder, env=env, stderr=said)
            finally:
                assistant.join()
            said.seek(0)
            done.stderr = "".join(line for line in said if not LOGGED.match(line))
        return done

    def _meanwhile(self, commands: tuple[str, ...], context: str, said: Path) -> None:
        """Once the command waits for news; one that looks again and again instead is given a moment."""
        until = time.monotonic() + LOOKING_SECONDS
        while not WATCHING.search(said.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        for command in commands:
            self.client.attempt(*self._words(command, context), folder=self.folder)

    def _words(self, command: str, context: str) -> list[str]:
        def uid(match: re.Match[str]) -> str:
            return str(self.cluster.found(match[1], ".metadata.uid"))

        return [*shlex.split(re.sub(r"UID\(([^)]+)\)", uid, command)), f"--context={context}"]

    def _untrue(self, word: str, wanted: Mapping[str, object] | None) -> Iterator[str]:
        if wanted is None:
            if self.cluster.get(word) is not None:
                yield f"{word} is there"
            return
        if self.cluster.get(word) is None:
            yield f"{word} is not there"
            return
        for where, value in wanted.items():
            found = self.cluster.found(word, where)
            if found != value:
                yield f"{where} of {word} is {found!r}, not {value!r}"


def said_wrong(check: Check, done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """How the exit code and the outputs differ from what the check wants."""
    if done.returncode != check.code:
        yield f"exit code {done.returncode}, not {check.code}"
    for name, patterns, text in (("stdout", check.out, done.stdout), ("stderr", check.err, done.stderr)):
        for pattern in several(patterns):
            if not re.search(pattern, text, re.MULTILINE):
                yield f"{name} has no {pattern!r}"
    if done.returncode == 0 and done.stderr and not check.err and not check.warns:
        yield "it complains"
    for pattern in several(check.never):
        if re.search(pattern, done.stdout + done.stderr, re.MULTILINE):
            yield f"there is {pattern!r}"


def several(patterns: tuple[str, ...] | str) -> tuple[str, ...]:
    """One pattern or several as several."""
    return (patterns,) if isinstance(patterns, str) else patterns


@pytest.fixture(scope="module", params=VERSIONS)
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One server and one kubectl for all checks of a version."""
    folder = tmp_path_factory.mktemp("kubectl")
    with running_cluster(folder) as cluster:
        yield Desk(request.param, cluster, folder)


def run_section(desk: Desk, section: str, context: str) -> None:
    """Carry out every check in order, then say which went wrong."""
    wrong: dict[str, list[str]] = {}
    for number, check in enumerate(SECTIONS[section], 1):
        if check.known_to(desk.minor):
            complaints = desk.carry_out(check, context)
            if complaints:
                wrong[f"{number}. kubectl {check.run}"] = complaints
    desk.cluster.clear()
    if wrong:
        told = "\n\n".join("\n".join([name, *complaints]) for name, complaints in wrong.items())
        pytest.fail(f"{len(wrong)} of {len(SECTIONS[section])} checks failed:\n\n{told}", pytrace=False)


@pytest.mark.timeout(600)  # the first time, kubectl is fetched
@pytest.mark.parametrize("section", SECTIONS)
def test_kubectl_does_what_the_table_says(desk: Desk, section: str) -> None:
    run_section(desk, section, "nano")


@pytest.mark.timeout(600)  # the first time, kubectl is fetched
@pytest.mark.parametrize("section", BY_CERTIFICATE)
def test_kubectl_with_a_client_certificate_does_the_same(desk: Desk, section: str) -> None:
    run_section(desk, section, "nano-cert")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_its_hundred_checks(version: str) -> None:
    minor = int(version.partition(".")[2])
    known = [check for section in SECTIONS.values() for check in section if check.known_to(minor)]
    assert len(known) >= AT_LEAST
