"""A bridge in a network namespace of its own, guests on it in theirs, and real DHCP clients and servers in them."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

BRIDGE = "br0"
CARD = "eth0"

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

# One file per event, complete once it has its name; the address is set as a real script would set it.
_SCRIPT = """#!/bin/sh
event=${{reason:-$1}}
case "$event" in
bound|renew)
    ip address replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" ;;
BOUND|RENEW|REBIND|REBOOT)
    ip address replace "$new_ip_address/24" dev "$interface"
    ip route replace default via "$new_routers" ;;
PREINIT|deconfig)
    ip address flush dev "$interface" ;;
esac
at=$(date +%s%N)
{{ echo "event=$event"; env; }} > "{folder}/.$at"
mv "{folder}/.$at" "{folder}/$at"
"""

_DHCLIENT = """
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, host-name, interface-mtu;
initial-interval 1; backoff-cutoff 1; timeout 20; retry 2;
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets and processes that this thread makes meanwhile belong to that network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(there)
        os.close(home)


@contextmanager
def _ear(namespace: str, interface: str, protocol: int = 0x0800) -> Iterator[socket.socket]:
    with inside(namespace):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with opened:
        with inside(namespace):
            opened.bind((interface, protocol))
        opened.setblocking(False)
        yield opened


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True)
class Guest:
    """A namespace whose only card is a port of the bridge."""

    namespace: str
    mac: str
    folder: Path
    port: str = ""

    def ear(self) -> AbstractContextManager[socket.socket]:
        """A raw socket that hears and sends whole IPv4 frames on the guest's card."""
        return _ear(self.namespace, CARD)

    def tap(self) -> AbstractContextManager[socket.socket]:
        """A raw socket that hears and sends every frame on the guest's card."""
        return _ear(self.namespace, CARD, 0x0003)

    def events(self) -> list[dict[str, str]]:
        """What the clients told their scripts, in order."""
        files = sorted(path for path in self.folder.iterdir() if path.name.isdigit())
        return [dict(row.split("=", 1) for row in path.read_text().splitlines() if "=" in row) for path in files]

    async def event(self, *names: str, seconds: float = 45, after: int = 0) -> dict[str, str]:
        """Wait for the first event of these names, not counting the first `after` of them."""
        async with asyncio.timeout(seconds):
            while True:
                found = [event for event in self.events() if event["event"] in names]
                if len(found) > after:
                    return found[after]
                await asyncio.sleep(0.05)  # a shell script cannot wake us

    @asynccontextmanager
    async def udhcpc(self, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        script = self._script()
        command = ("udhcpc", "-f", "-i", CARD, "-s", script, "-t", "4", "-T", "1", "-A", "1", *more)
        async with running(self.namespace, *command) as process:
            yield process

    @asynccontextmanager
    async def dhclient(self) -> AsyncIterator[asyncio.subprocess.Process]:
        configuration, leases, pid = (self.folder / name for name in ("dhclient.conf", "leases", "pid"))
        configuration.write_text(_DHCLIENT)
        files = ("-cf", str(configuration), "-lf", str(leases), "-pf", str(pid), "-sf", self._script())
        async with running(self.namespace, "dhclient", "-4", "-d", *files, CARD) as process:
            yield process

    def _script(self) -> str:
        script = self.folder / "script"
        script.write_text(_SCRIPT.format(folder=self.folder))
        script.chmod(0o755)
        return str(script)


@dataclass
class Fabric:
    """A bridge; everything that is plugged into it is taken away with it."""

    host: str
    folder: Path
    undo: ExitStack
    guests: list[Guest] = field(default_factory=list)

    def plug(self, port: str, mac: str, address: str | None = None) -> Guest:
        """A new guest at a port of that name."""
        namespace = f"{self.host}-{len(self.guests)}"
        self.undo.enter_context(_namespace(namespace))
        run("ip", "-n", self.host, "link", "add", port, "type", "veth", "peer", "name", CARD, "netns", namespace)
        run("ip", "-n", self.host, "link", "set", port, "master", BRIDGE, "up")
        run("ip", "-n", namespace, "link", "set", CARD, "address", mac, "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        if address:
            run("ip", "-n", namespace, "address", "add", address, "dev", CARD)
        folder = self.folder / namespace
        folder.mkdir()
        guest = Guest(namespace, mac, folder, port)
        self.guests.append(guest)
        return guest

    def ear(self) -> AbstractContextManager[socket.socket]:
        """A raw socket that hears what arrives at the bridge itself."""
        return _ear(self.host, BRIDGE)

    def set_address(self, address: str | None) -> None:
        run("ip", "-n", self.host, "address", "flush", "dev", BRIDGE)
        if address:
            run("ip", "-n", self.host, "address", "add", address, "dev", BRIDGE)


@contextmanager
def fabric(address: str | None) -> Iterator[Fabric]:
    """A bridge with that address, or none; needs root."""
    host = f"nano-{uuid.uuid4().hex[:8]}"
    with ExitStack() as undo:
        folder = Path(undo.enter_context(TemporaryDirectory(prefix=host)))
        undo.enter_context(_namespace(host))
        run("ip", "-n", host, "link", "set", "lo", "up")
        make_bridge(host)
        made = Fabric(host, folder, undo)
        made.set_address(address)
        yield made


def make_bridge(host: str) -> None:
    run("ip", "-n", host, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    run("ip", "-n", host, "link", "set", BRIDGE, "address", "02:00:00:00:00:fe", "up")


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    run("ip", "netns", "add", name)
    try:
        yield
    finally:
        run("ip", "netns", "del", name)


@asynccontextmanager
async def running(namespace: str, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a namespace, ended with its children at the end of the block."""
    assert shutil.which(command[0]), f"{command[0]} is missing: scripts/env names the package"
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", namespace, *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)
            async with asyncio.timeout(3):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await process.wait()


@asynccontextmanager
async def dnsmasq(namespace: str, interface: str, folder: Path) -> AsyncIterator[None]:
    """A foreign DHCP server that gives 10.20.0.150 to .199 to anybody."""
    command = (
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={interface}",
        "--bind-dynamic", "--dhcp-authoritative", "--dhcp-range=10.20.0.150,10.20.0.199,1h", "--no-ping",
        f"--dhcp-leasefile={folder}/dnsmasq.leases", "--user=root", f"--pid-file={folder}/dnsmasq.pid",
    )  # fmt: skip
    async with running(namespace, *command):
        async with asyncio.timeout(30):
            while not (folder / "dnsmasq.pid").exists():
                await asyncio.sleep(0.02)
        yield
