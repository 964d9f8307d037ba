"""A host's own libvirtd: its settings, and starting, stopping and killing it without touching its guests."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from uuid import uuid4

from tests.testbed.nodes import Node, Popen

PRIVATE = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
BIN = Path(__file__).resolve().parent / "bin"  # tools that stand before this machine's own
STOCK = Path("/etc/libvirt")  # the machine's own, for the stock network filters
START_SECONDS = 60.0

# What a libvirtd learned by asking QEMU, seconds of work under emulation. libvirt itself sees when it is stale.
LEARNED = Path(os.environ.get("NANO_CACHE", "/var/cache/nano")) / "testbed-capabilities"
CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"

# For tests only. No virtlogd runs here, hence stdio_handler; hosts differ by host_uuid, or migration says "same host".
LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
cgroup_controllers = [ "cpu", "cpuacct", "blkio" ]
"""


def environment() -> dict[str, str]:
    """What a host's programs begin with: tools play what this machine's kernel lacks, where a host would have it."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


class Libvirtd:
    """The daemon of `node`. Guests are not its children: they live on when it stops or is killed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._process: Popen | None = None
        self.socket = node.own("/run/libvirt/libvirt-sock")
        self.uri = f"qemu+unix:///system?socket={self.socket}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"libvirtd of {self._node.name} is not running")
        return self._process.pid

    def configure(self) -> None:
        """Writes its settings, once in the life of a host."""
        settings = self._node.own("/etc/libvirt")
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid4(), address=self._node.address))
        (settings / "qemu.conf").write_text(QEMU_CONF)
        if (STOCK / "nwfilter").is_dir():
            shutil.copytree(STOCK / "nwfilter", settings / "nwfilter", dirs_exist_ok=True)

        if LEARNED.is_dir():
            shutil.copytree(LEARNED, self._node.own(CAPABILITIES), dirs_exist_ok=True)

    def pass_on(self) -> None:
        """Leaves what it learned about QEMU to the hosts of later beds."""
        for file in self._node.own(CAPABILITIES).glob("*.xml"):
            LEARNED.mkdir(parents=True, exist_ok=True)
            draft = LEARNED / f".{file.name}.{self._node.place.replace('/', '.')}"
            with contextlib.suppress(OSError):  # only a cache
                shutil.copyfile(file, draft)
                draft.rename(LEARNED / file.name)

    def start(self) -> None:
        """Starts it and returns when it answers. Raises RuntimeError with its log if it does not."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts it without waiting."""
        assert not self.running, f"libvirtd of {self._node.name} is running"
        self._process = self._node.start(["libvirtd", "--listen"], log="libvirtd.log", env=environment())

    def wait_until_ready(self) -> None:
        """Returns when it answers. Raises RuntimeError with its log if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while not (self.socket.exists() and self._answers()):
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"libvirtd of {self._node.name} does not answer: {self._log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it cleanly (SIGTERM)."""
        self._end("terminate")

    def kill(self) -> None:
        """Ends it like a crash (SIGKILL)."""
        self._end("kill")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(timeout=START_SECONDS)

    def _answers(self) -> bool:
        argv = ["virsh", "-q", "-c", self.uri, "uri"]
        return subprocess.run(argv, capture_output=True, timeout=START_SECONDS, check=False).returncode == 0

    def _log(self) -> str:
        files = (self._node.dir / "log/libvirtd.log", self._node.own("/var/log/libvirt/libvirtd.log"))
        return "\n".join(file.read_text()[-2000:] for file in files if file.exists())
