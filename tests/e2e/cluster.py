"""A real cluster in the test bed: a server, an agent on each host, and what tests wait for, kill and look at there."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nanovirt.resources import kubeconfig
from nanovirt.resources.client import Client, Patience
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.looking import PATIENT, is_ready, look, names, runs, until
from tests.e2e.trapped_agent import SPRUNG, TRAP
from tests.testbed import Bed, Host, Node
from tests.testbed.nodes import Popen

ROOT = Path(__file__).resolve().parents[2]
NANOCTL = [sys.executable, "-m", "nanovirt.portal"]
TAIL = 60
"""Lines of each log that a failure shows."""
SUBNET, GATEWAY, DNS, DOMAIN = "10.77.0.0/16", "10.77.0.1", "10.77.0.3", "bed.example"
FIRST, LAST = "10.77.2.1", "10.77.2.60"
LEASE = 3600
"""Seconds of a DHCP lease, unless a test wants to see renewals."""
GUEST = {"memory": "160Mi", "systemTemplate": "linux-bios"}
"""The quickest machine that there is; UEFI needs 512Mi and twice the time."""
HELD = ("instances", "placements", "volumes", "addresses")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)


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
        self._running = self._node.start(self._argv, log=self.log.name)

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
        running.send_signal(how)
        return running.wait(PATIENT)


class Agent(Process):
    """The agent of one host, and what only the host itself can tell of its machines."""

    def __init__(self, host: Host, url: str) -> None:
        self.host, self.folder = host, host.dir / "nano"
        self.credentials = self.folder / "credentials.json"
        words = ["--server", url, "--credentials", self.credentials, "--data", self.folder, "--bridge", host.bridge]
        program = [sys.executable, ROOT / "tests/e2e/trapped_agent.py", self.folder]
        super().__init__(host, [*program, "agent", *words, "--libvirt-uri", "qemu:///system"], "agent.log")
        self.volumes = self.folder / "volumes"
        self.folder.mkdir(mode=0o711)

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
            ["virsh", "-q", "-c", self.host.uri, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def console(self, uuid: str) -> str:
        """All that a guest has said on its serial line."""
        file = self.folder / "agent/consoles" / f"{uuid}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def devices(self) -> set[str]:
        """The network devices of the host."""
        return set(os.listdir(f"/proc/{self.host.pid}/root/sys/class/net"))

    def leftovers(self) -> list[str]:
        """What is there of any machine: domains, QEMU, disks, firmware, taps, notes, consoles."""
        own = self.host.own("/var/lib/libvirt/qemu/nvram")
        nets = sorted(name for name in self.devices() if name not in {"lo", "up0", self.host.bridge})
        found = [f"domain {one}" for one in self.domains()] + [f"device {one}" for one in nets]
        folders = [self.volumes, own, self.folder / "agent/consoles", self.folder / "agent/machines"]
        found += [str(file) for folder in folders if folder.is_dir() for file in folder.iterdir()]
        return [f"{self.host.name}: {one}" for one in found]


class Cluster:
    """`server`, and an agent for each host of `bed`, by the host's name."""

    url = "https://10.77.0.2:5870"

    def __init__(self, bed: Bed, image: Path, lease: int = LEASE) -> None:
        self.bed = bed
        self.data = bed.server.dir / "data"
        self.server = Process(bed.server, [*NANOCTL, "server", "--data", self.data], "server.log")
        self.agents = {host.name: Agent(host, self.url) for host in bed.hosts}
        self._image, self._lease = image, lease

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator, on the server's own machine."""
        return self.data / "admin.kubeconfig"

    def client(self) -> Client:
        """A client with all rights."""
        access = replace(kubeconfig.from_kubeconfig(self.kubeconfig), server=self.url)
        return Client(access, Patience(request=30.0))

    async def begin(self) -> None:
        """Start everything for the first time, and wait until instances can be made."""
        self.server.start()
        await self.until_up()
        (self.data / "images/incoming").mkdir(parents=True, exist_ok=True)
        new = self.data / "mini.qcow2"
        shutil.copyfile(self._image, new)
        os.utime(new, (0, 0))
        new.rename(self.data / "images/incoming/mini.qcow2")
        async with self.client() as client:
            for doc in objects(self._lease):
                await client.create(doc)
            await client.patch(Key("computepools", "", "default"), {"spec": {"addressPool": "bed"}})
            for agent in self.agents.values():
                await self.join(client, agent)
            await until(client, Key("images", "shared", "mini"), lambda doc: doc["status"]["phase"] == "Ready")
            for name in self.agents:
                await until(client, Key("hosts", "", name), is_ready)

    async def join(self, client: Client, agent: Agent) -> None:
        """Make a host of the cluster as `nanoctl host add` says, with a storage path of its own."""
        name, bridge = agent.host.name, f"default={agent.host.bridge}"
        words = ["host", "add", name, "--data", self.data, "--bridge", bridge, "--server", self.url]
        await asyncio.to_thread(self.bed.server.run, [*NANOCTL, *words, "-o", agent.credentials])
        paths = [{"storagePool": "local", "path": str(agent.volumes)}]
        await client.patch(Key("hosts", "", name), {"spec": {"storagePaths": paths}})
        agent.start()

    def end(self) -> None:
        """Kill server and agents; guests run on until their host ends."""
        for one in (*self.agents.values(), self.server):
            one.kill()

    def said(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {one.log}\n{one.said()}" for one in (self.server, *self.agents.values()))

    async def until_up(self) -> None:
        """Return once the server answers, with everything that it remembers."""
        seconds = 0.0
        while not self.kubeconfig.exists():
            assert self.server.alive, self.server.said()
            await asyncio.sleep(0.05)
            seconds += 0.05
            assert seconds < PATIENT
        async with self.client() as client:
            await look("server", lambda: names(client, "namespaces"), lambda found: "default" in found)

    async def restart_server(self) -> None:
        """Begin again after a death, and wait until it answers."""
        self.server.start()
        await self.until_up()

    def leftovers(self) -> list[str]:
        """What the hosts hold of any machine."""
        return [one for agent in self.agents.values() for one in agent.leftovers()]


def objects(lease: int) -> Iterator[JSON]:
    """What the cluster has besides the defaults."""
    ranges = [{"name": "guests", "first": FIRST, "last": LAST}]
    pool = {"subnet": SUBNET, "gateway": GATEWAY, "dns": [DNS], "domain": DOMAIN, "ranges": ranges}
    yield _doc("AddressPool", "bed", {**pool, "network": "default", "leaseSeconds": lease})
    image = {"systemTemplate": "linux-bios", "source": {"file": "mini.qcow2"}}
    yield {**_doc("Image", "mini", image), "metadata": {"name": "mini", "namespace": "shared"}}


def instance(name: str, **spec: object) -> JSON:
    """A small quick machine."""
    disks = [{"name": "system", "source": {"image": "shared/mini"}}]
    return {**_doc("Instance", name, {**GUEST, "disks": disks, **spec})}


def instance_key(name: str) -> Key:
    """Where an instance of the namespace `default` stands."""
    return Key("instances", "default", name)


async def run(client: Client, name: str, host: str = "", **spec: object) -> JSON:
    """A new instance, once its machine runs."""
    where = {"scheduling": {"host": host}} if host else {}
    await client.create(instance(name, **where, **spec))
    return await until(client, instance_key(name), runs)


async def placement_of(client: Client, name: str) -> JSON:
    """The Placement of an instance."""
    doc = await client.get(instance_key(name))
    return await client.get(Key("placements", "default", doc["status"]["placement"]))


def _doc(kind: str, name: str, spec: JSON) -> JSON:
    return {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextmanager
def inside(node: Node) -> Iterator[None]:
    """This thread, what it starts and what it opens, belongs to the node's network meanwhile."""
    with Path("/proc/thread-self/ns/net").open() as home:
        _enter(Path(f"/proc/{node.pid}/ns/net"))
        try:
            yield
        finally:
            assert _LIBC.setns(home.fileno(), _NEW_NETWORK) == 0


def _enter(namespace: Path) -> None:
    with namespace.open() as there:
        if _LIBC.setns(there.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


@contextmanager
def real_cluster(image: Path, hosts: int = 2, lease: int = LEASE) -> Iterator[Cluster]:
    """A cluster that has begun, seen from the bed's client; says what it logged when the block fails."""
    with Bed(hosts=hosts) as bed, inside(bed.client):
        cluster = Cluster(bed, image, lease)
        try:
            asyncio.run(cluster.begin())
            yield cluster
        except BaseException:
            print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with the failure
            raise
        finally:
            cluster.end()
