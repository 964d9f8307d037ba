"""A server in a process of its own, with its own folder and ports, that tests start, kill and restart as they like."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from nanovirt.resources import access, kubeconfig
from nanovirt.resources.client import Client, Patience
from nanovirt.resources.codec import JSON
from nanovirt.resources.segments import every_segment, parse, walk, written

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
NANOCTL = [sys.executable, "-m", "nanovirt.portal"]
PATIENT = 120.0
"""Seconds: what takes longer on a busy machine has failed."""
TAIL = 80
"""Lines of the log that a failure shows."""
CLAIMS: list[socket.socket] = []
"""What holds the ports that `free_port` gave."""


class ServerProcess:
    """`nanoctl server` with `options`: dead until `start`, and again after `kill` or `stop`; the folder stays."""

    program: Sequence[str] = NANOCTL
    """What is run; tests may run something of their own around it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self.api_port, self.portal_port = free_port(), free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._shown = 0

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator; there as soon as the server is ready."""
        return self.folder / "admin.kubeconfig"

    @property
    def pid(self) -> int:
        """The process; AssertionError when there is none."""
        assert self._process is not None
        return self._process.pid

    # --- life and death ---

    def begin(self) -> None:
        """Start the process; call it from the main thread, with which it ends at the latest."""
        assert self._process is None
        ports = ["--api-port", str(self.api_port), "--portal-port", str(self.portal_port)]
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
        command = [*dies_with_us, *self.program, "server", "--data", str(self.folder), *ports, *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)

    def wait_ready(self) -> None:
        """Block until /readyz answers ok; AssertionError when it ends, or takes too long."""
        until = time.monotonic() + PATIENT
        while not self._is_ready():
            assert self.alive, f"the server ended with {self._process and self._process.returncode}"
            assert time.monotonic() < until, "the server does not become ready"
            time.sleep(0.05)

    def start(self) -> None:
        """Begin, and block until it is ready."""
        self.begin()
        self.wait_ready()

    async def restart(self) -> None:
        """Begin again after a death, while agents in this process go on."""
        self.begin()
        await asyncio.to_thread(self.wait_ready)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Block until the process has ended; its exit code, negative for a signal."""
        assert self._process is not None
        code = self._process.wait(PATIENT)
        self._process = None
        return code

    def kill(self) -> None:
        """End it as a power cut does (kill -9); nothing happens when it has ended already."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def strike(self) -> None:
        """Send it kill -9 and go on at once; `wait` for its end."""
        assert self._process is not None
        self._process.kill()

    def stop(self) -> int:
        """Ask it to end, as an init system does (SIGTERM); its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    # --- asking it ---

    def client(self) -> Client:
        """A client with all rights; to be closed by whoever asks for it."""
        return Client(kubeconfig.from_kubeconfig(self.kubeconfig), Patience(request=PATIENT))

    def nanoctl(self, *arguments: str | Path) -> str:
        """What a command of the administrator prints; AssertionError, with what it complains of, when it fails."""
        env = {**os.environ, "NANO_KUBECONFIG": str(self.kubeconfig)}
        command = [*NANOCTL, *map(str, arguments)]
        done = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENT, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command[2:])}: {done.stdout}{done.stderr}"
        return done.stdout

    def host_credentials(self, name: str) -> Path:
        """Of the agent of that host, which is made if there is none."""
        file = self.folder.with_name(f"{self.folder.name}-{name}.json")
        if not file.exists():
            self.nanoctl("host", "add", name, "--data", self.folder, "--bridge", "default=nano0", "-o", file)
        return file

    def put_image(self, name: str) -> None:
        """Lay a small qcow2 image of that name into the image folder, as if it had been there for a while."""
        incoming = self.folder / "images" / "incoming"
        new = self.folder.with_name(name)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", new, "64M"], check=True, timeout=PATIENT)
        os.utime(new, (0, 0))
        until = time.monotonic() + PATIENT
        while not incoming.is_dir():
            assert time.monotonic() < until, f"there is no {incoming}"
            time.sleep(0.05)
        new.replace(incoming / name)

    def make_image(self) -> None:
        """The image of the demonstration, ready to be used."""
        self.nanoctl("apply", "-f", MANIFESTS / "demo/2-image.yaml")
        self.put_image("mini.qcow2")
        self.nanoctl("wait", "image/mini", "-n", "shared", "--for=status.phase=Ready")

    def records(self) -> Iterator[JSON]:
        """Every record of its log, oldest first, without touching anything; alive or dead.

        What is being written meanwhile may be seen with a hole, so a segment ends where its checksums do.
        """
        for path in every_segment(self.folder / "data"):
            content = written(path)
            first = parse(content, 0)
            if first is None:
                return  # the newest, which is being made
            start = first.end
            for frame in walk(content, first):
                yield orjson.loads(content[content.index(b"{", start) : frame.end])
                start = frame.end

    def open_files(self) -> int:
        """How many file descriptors the process has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def threads(self) -> int:
        """How many threads the process has."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """The end of what it has logged since this was asked before."""
        content = self.log.read_bytes() if self.log.exists() else b""
        new, self._shown = content[self._shown :], len(content)
        return "\n".join(new.decode(errors="replace").splitlines()[-TAIL:])

    def _is_ready(self) -> bool:
        if not self.kubeconfig.exists():
            return False
        tls = access.tls(kubeconfig.from_kubeconfig(self.kubeconfig))
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5, context=tls) as reply:  # noqa: S310 - our https
                return bool(reply.read() == b"ok")
        except (urllib.error.URLError, OSError):
            return False


def free_port() -> int:
    """A TCP port that nobody listens on, outside of those that the system gives to clients: a restart finds it free.

    It is this process's to its end: no test, in no process of this network namespace, is given it a second time.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0nano-test-port-{port}")  # a name that one process at most has, and loses with its life
            with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True):
                CLAIMS.append(claim)
                return port
        except OSError:
            claim.close()


@contextmanager
def running_server(folder: Path, *options: str, cls: type[ServerProcess] = ServerProcess) -> Iterator[ServerProcess]:
    """A server that is ready; it is dead after the block, and says what it logged when the block failed."""
    server = cls(folder, *options)
    try:
        server.start()
        yield server
    except BaseException:
        print(server.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        server.kill()
