"""Completion of `nanoctl` where it happens: in interactive shells on a terminal, with the Tab key."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conformance.cluster import Cluster, running_cluster

BINARIES = Path(__file__).resolve().parents[2] / ".venv" / "bin"
SECONDS = 30
PROMPT = "ready> "


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(nanoctl completion bash); echo do''ne"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit && compinit -u -D && source <(nanoctl completion zsh); echo do''ne",
    ),
    "fish": (["fish", "--no-config", "-i"], "nanoctl completion fish | source; echo do''ne"),
}
"""How each shell is started without what its owner likes, and how it learns to complete."""


class Terminal:
    """A shell that believes that somebody sits before it."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        command = ["setsid", "--ctty", *command]
        self._shell = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, close_fds=True)
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
        self._shell.kill()
        self._shell.wait()
        with suppress(OSError):
            os.close(self._ours)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, sim-1 and sim-2."""
    with running_cluster(tmp_path_factory.mktemp("completion")) as cluster:
        yield cluster


@contextmanager
def opened(shell: str, cluster: Cluster) -> Iterator[Terminal]:
    """That shell, once it has read the script of `nanoctl completion`."""
    path = f"{BINARIES}:/usr/bin:/bin"
    env = {"PATH": path, "NANO_KUBECONFIG": str(cluster.server.kubeconfig), "PS1": PROMPT, "INPUTRC": "/dev/null"}
    env |= {"TERM": "dumb" if shell == "bash" else "vt100", "LANG": "C.UTF-8", "HOME": str(cluster.server.folder)}
    command, learn = SHELLS[shell]
    made = Terminal(command, env)
    try:
        made.type(f"{learn}\n", "done")
        yield made
    finally:
        made.close()


@pytest.fixture
def terminal(cluster: Cluster) -> Iterator[Terminal]:
    """A bash, which shows plainly what it completes."""
    with opened("bash", cluster) as made:
        yield made


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


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("nanoctl versi\t\n", "server "),
        ("nanoctl get systemtem\t\n", "Windows"),
        ("nanoctl get systemtem\twind\t\n", "Windows"),
        ("nanoctl get systemtemplate/wind\t\n", "Windows"),
        ("nanoctl get hosts -o wide --no-h\t\n", "simulated"),
    ],
    ids=["command", "kind", "name", "kind/name", "option"],
)
def test_completed_command_runs_in_every_shell(cluster: Cluster, shell: str, keys: str, wanted: str) -> None:
    """What is wanted shows only if the words were completed: as they are typed there is no such command or object."""
    with opened(shell, cluster) as terminal:
        terminal.type(keys, wanted)
