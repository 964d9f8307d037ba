"""A server's and an agent's process on a node of the bed: dying, beginning again, and what only the host can tell."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.e2e.looking import PATIENT
from tests.e2e.trapped_agent import SPRUNG, TRAP
from tests.testbed import Host, Node
from tests.testbed.libvirtd import environment
from tests.testbed.nodes import Popen

ROOT = Path(__file__).resolve().parents[2]
TAIL = 60
"""Lines of each log that a failure shows."""


class Process:
    """A program on a node that dies and begins again; the argv and the log stay the same."""

    def __init__(self, node: Node, argv: Sequence[str | Path], log: str) -> None:
        self.log = node.dir / "log" / log
        self._node, self._argv = node, argv
        self._running: Popen | None = None

    @property
    def pid(self) -> int:
        """AssertionError when it does not run."""
        assert self._running is not None
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.poll() is None

    def start(self) -> None:
        """Begin; AssertionError when it runs already."""
        assert not self.alive, f"{self.log.stem} runs already"
        self._running = self._node.start(self._argv, log=self.log.name, env=self._environment())

    def _environment(self) -> dict[str, str] | None:
        return None

    def kill(self) -> None:
        """End it as a power cut does (kill -9); no harm if it is dead."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end (SIGTERM); its exit code."""
        return self._end(signal.SIGTERM)

    def wait(self) -> None:
        """Block until it is dead."""
        if self._running is not None:
            self._running.wait(PATIENT)

    def said(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL:]) if self.log.exists() else ""

    def _end(self, how: signal.Signals) -> int:
        running, self._running = self._running, None
        if running is None:
            return 0
        running.send_signal(how)  # does nothing to one that has ended
        return running.wait(PATIENT)


class Agent(Process):
    """The agent of one host, and what only the host itself can tell of its machines."""

    def __init__(self, host: Host, url: str) -> None:
        self.host, self.folder = host, host.dir / "nano"
        self.credentials = self.folder / "credentials.json"
        words: list[str | Path] = [
            "--server",
            url,
            "--credentials",
            self.credentials,
            "--data",
            self.folder,
            "--bridge",
            host.bridge,
        ]
        program: list[str | Path] = [sys.executable, ROOT / "tests/e2e/trapped_agent.py", self.folder]
        super().__init__(host, [*program, "agent", *words, "--libvirt-uri", "qemu:///system"], "agent.log")
        self.volumes = self.folder / "volumes"
        self.folder.mkdir(mode=0o711)

    def _environment(self) -> dict[str, str]:
        return environment()

    # --- the trap ---

    def set_trap(self, machine: str, step: str, nth: int, victim: int) -> None:
        """Kill the process `victim` right after the agent has done that step of the machine for the nth time."""
        self.disarm()
        trap = {"machine": machine, "step": step, "nth": nth, "victim": victim}
        (self.folder / "new-trap").write_text(json.dumps(trap))
        (self.folder / "new-trap").rename(self.folder / TRAP)

    @property
    def sprung(self) -> bool:
        """Whether the trap has done its work."""
        return (self.folder / SPRUNG).exists()

    def disarm(self) -> None:
        """Take the trap away."""
        for name in (TRAP, SPRUNG):
            (self.folder / name).unlink(missing_ok=True)

    def steps(self, machine: str) -> list[str]:
        """The names of all steps that it has done to that machine, as its log says."""
        lines = self.log.read_text(errors="replace").splitlines()
        done = (line for line in lines if " step done " in line and f" machine={machine} " in line)
        return [line.rpartition(" step=")[2] for line in done]

    # --- what is there ---

    def domains(self) -> list[str]:
        """The names of all domains, on and off."""
        return sorted(self.virsh("list", "--all", "--name").split())

    def runs(self, machine: str) -> int:
        """The process of the running machine, 0 when it is off."""
        with suppress(OSError, ValueError):
            pid = int(self.host.own(f"/run/libvirt/qemu/{machine}.pid").read_text())
            return pid if Path(f"/proc/{pid}").exists() else 0
        return 0

    def starts(self, machine: str) -> int:
        """How often QEMU was started for a machine of that name, as libvirt noted it, with or without success."""
        file = self.host.own(f"/var/log/libvirt/qemu/{machine}.log")
        return file.read_text(errors="replace").count(": starting up libvirt version") if file.exists() else 0

    def forget_images(self) -> None:
        """Empty the image cache, when no machine is there: the next one fetches its image anew."""
        shutil.rmtree(self.folder / "agent/images")

    def virsh(self, *words: str) -> str:
        """What virsh says on that host; AssertionError with its complaint."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self.host.uri, *words], capture_output=True, text=True, timeout=PATIENT, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def console(self, uuid: str) -> str:
        """All that a guest has said on its serial line."""
        file = self.folder / "agent/consoles" / f"{uuid}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def devices(self) -> set[str]:
        """The network devices of the host."""
        return {path.name for path in Path(f"/proc/{self.host.pid}/root/sys/class/net").iterdir()}

    def leftovers(self) -> list[str]:
        """What is there of any machine: domains, QEMU, disks, firmware, TPMs, taps, notes, consoles."""
        own = [self.host.own(f"/var/lib/libvirt/{one}") for one in ("qemu/nvram", "swtpm")]
        nets = sorted(name for name in self.devices() if name not in {"lo", "up0", self.host.bridge})
        found = [f"domain {one}" for one in self.domains()] + [f"device {one}" for one in nets]
        folders = [self.volumes, *own, self.folder / "agent/consoles", self.folder / "agent/machines"]
        found += [str(file) for folder in folders if folder.is_dir() for file in folder.iterdir()]
        return [f"{self.host.name}: {one}" for one in found]
