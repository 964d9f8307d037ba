"""The bed: a fabric, a server, a client and hosts, made together and ended together."""

import contextlib
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.hosts import Host
from tests.testbed.nodes import Node
from tests.testbed.sweep import make_folder, sweep, sweep_stale
from tests.testbed.wires import Fabric

SUBNET = IPv4Network("10.77.0.0/16")
ROOT = Path(__file__).resolve().parents[2]


class Bed:
    """A context manager; see the package for what it offers. Several beds may run side by side."""

    def __init__(self, hosts: int = 1) -> None:
        assert os.geteuid() == 0, "the test bed makes namespaces: run it as root"
        sweep_stale()
        self.dir, self._claim = make_folder()
        self._undertaker = subprocess.Popen(
            [sys.executable, "-m", "tests.testbed.undertaker", str(self.dir)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=ROOT,
        )
        self.fabric = Fabric("fabric", "10.77.0.1", self.dir / "fabric")
        self.server = Node("server", "10.77.0.2", self.dir / "server")
        self.client = Node("client", "10.77.0.3", self.dir / "client")
        self.hosts = tuple(Host(number, self.dir, self.fabric) for number in range(1, hosts + 1))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failure:
            failure.callback(self.end)
            self._start()
            failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _start(self) -> None:
        nodes = (self.fabric, self.server, self.client, *self.hosts)
        (self.dir / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{n.address} {n.name}\n" for n in nodes))
        self.fabric.power_on()
        for node in (self.server, self.client):
            node.power_on()
            self.fabric.connect(node)
        for host in self.hosts:  # all at once, because each libvirtd takes its time
            host.libvirtd.configure()
            host.launch()
        for host in self.hosts:
            host.libvirtd.wait_until_ready()

    def end(self) -> None:
        """Ends everything in the bed and removes its files. Doing it again does nothing."""
        try:
            for node in (*self.hosts, self.client, self.server, self.fabric):
                node.power_off()
            for host in self.hosts:
                host.libvirtd.pass_on()
        finally:
            sweep(self.dir)
            self._undertaker.communicate()  # closes its pipe; it finds nothing left to do
            with contextlib.suppress(OSError):
                os.close(self._claim)
