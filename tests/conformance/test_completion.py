"""Completion of `nanoctl` where it happens: in an interactive bash on a terminal, with the Tab key."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance.cluster import Cluster, running_cluster

BINARIES = Path(__file__).resolve().parents[2] / ".venv" / "bin"
SECONDS = 30
PROMPT = "ready> "


class Terminal:
    """A bash that believes that somebody sits before it."""

    def __init__(self, env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        command = ["bash", "--norc", "--noprofile", "-i"]
        self._bash = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, close_fds=True)
        os.close(theirs)
        self._shown = ""

    def type(self, keys: str, wanted: str) -> str:
        """Press the keys; what is shown from then on, as soon as it has `wanted`."""
        self._shown = ""
        os.write(self._ours, keys.encode())
        until = time.monotonic() + SECONDS
        while wanted not in self._shown:
            assert time.monotonic() < until, f"no {wanted!r} in {self._shown!r}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self._shown += os.read(self._ours, 4096).decode(errors="replace").replace("\a", "")  # the bell
        return self._shown

    def close(self) -> None:
        """Hang up."""
        self._bash.kill()
        self._bash.wait()
        with suppress(OSError):
            os.close(self._ours)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, sim-1 and sim-2."""
    with running_cluster(tmp_path_factory.mktemp("completion")) as cluster:
        yield cluster


@pytest.fixture
def terminal(cluster: Cluster) -> Iterator[Terminal]:
    """A bash that has read the script of `nanoctl completion bash`."""
    path = f"{BINARIES}:/usr/bin:/bin"
    env = {"PATH": path, "NANO_KUBECONFIG": str(cluster.server.kubeconfig), "TERM": "dumb", "PS1": PROMPT}
    made = Terminal({**env, "INPUTRC": "/dev/null", "HOME": str(cluster.server.folder)})
    try:
        made.type("source <(nanoctl completion bash); echo do''ne\n", "done")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("nanoctl descr\t", "nanoctl describe "),
        ("nanoctl get systemtem\t", "nanoctl get systemtemplates "),
        ("nanoctl get host/sim\t", "nanoctl get host/sim-"),
        ("nanoctl get hosts sim-\t\t", "sim-2"),
        ("nanoctl get systemtemplates leg\t", "nanoctl get systemtemplates legacy "),
        ("nanoctl completion fi\t", "nanoctl completion fish "),
    ],
)
def test_tab_completes_commands_kinds_and_names(terminal: Terminal, keys: str, wanted: str) -> None:
    terminal.type(keys, wanted)


def test_completed_command_runs(terminal: Terminal) -> None:
    assert "Windows" in terminal.type("nanoctl get systemtem\twind\t\n", "windows   ")
