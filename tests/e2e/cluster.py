"""A real cluster in the test bed: a server, an agent on each host, and the objects that tests begin with."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nanovirt.resources import kubeconfig
from nanovirt.resources.client import Client, Patience
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.looking import PATIENT, insist, is_ready, look, names, runs, until, until_gone
from tests.e2e.processes import Agent, Process
from tests.testbed import Bed, Node

NANOCTL = [sys.executable, "-m", "nanovirt.portal"]
SUBNET, GATEWAY, DNS, DOMAIN = "10.77.0.0/16", "10.77.0.1", "10.77.0.3", "bed.example"
FIRST, LAST = "10.77.2.1", "10.77.2.60"
LEASE = 3600
"""Seconds of a DHCP lease, unless a test wants to see renewals."""
GUEST = {"memory": "160Mi", "systemTemplate": "linux-bios"}
"""The quickest machine that there is; UEFI needs 512Mi and twice the time."""
HELD = ("instances", "placements", "volumes", "addresses")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)


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
            async with asyncio.TaskGroup() as group:
                for agent in self.agents.values():
                    group.create_task(self.join(client, agent))
            await until(client, Key("images", "shared", "mini"), lambda doc: doc["status"]["phase"] == "Ready")
            for name in self.agents:
                await until(client, Key("hosts", "", name), is_ready)

    async def join(self, client: Client, agent: Agent) -> None:
        """Make a host of the cluster as `nanoctl host add` says, with a storage path of its own."""
        name, bridge = agent.host.name, f"default={agent.host.bridge}"
        words: list[str | Path] = ["host", "add", name, "--data", self.data, "--bridge", bridge, "--server", self.url]
        words += ["--address", agent.host.address]
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

    async def restart_dead(self) -> None:
        """Begin again whatever does not run."""
        for one in (self.server, *self.agents.values()):
            if not one.alive:
                one.kill()
                one.start()
        for agent in self.agents.values():
            agent.disarm()
        await self.until_up()

    def leftovers(self) -> list[str]:
        """What the hosts hold of any machine."""
        return [one for agent in self.agents.values() for one in agent.leftovers()]

    async def until_empty(self) -> None:
        """Return once no host holds anything of any machine; an agent's note goes when it hears of the end."""

        async def left() -> list[str]:
            return self.leftovers()

        await look("hosts", left, lambda found: not found)


def objects(lease: int) -> Iterator[JSON]:
    """What the cluster has besides the defaults."""
    ranges = [{"name": "guests", "first": FIRST, "last": LAST}]
    pool = {"subnet": SUBNET, "gateway": GATEWAY, "dns": [DNS], "domain": DOMAIN, "ranges": ranges}
    yield _doc("AddressPool", "bed", {**pool, "network": "default", "leaseSeconds": lease})
    image = {"systemTemplate": "linux-bios", "source": {"file": "mini.qcow2"}}
    yield {**_doc("Image", "mini", image), "metadata": {"name": "mini", "namespace": "shared"}}


BLANK: list[JSON] = [{"name": "system", "size": "16Mi"}]
"""Disks of a machine that need not boot, which costs seconds of a processor: it finds nothing to start, and idles."""


def instance(name: str, **spec: object) -> JSON:
    """A small quick machine with a guest."""
    disks = [{"name": "system", "source": {"image": "shared/mini"}}]
    return {**_doc("Instance", name, {**GUEST, "disks": disks, **spec})}


def instance_key(name: str) -> Key:
    """Where an instance of the namespace `default` stands."""
    return Key("instances", "default", name)


async def run(client: Client, name: str, host: str = "", **spec: object) -> JSON:
    """A new machine without a guest, once it runs."""
    where = {"scheduling": {"host": host}} if host else {}
    await client.create(instance(name, disks=BLANK, **where, **spec))
    return await until(client, instance_key(name), runs)


async def remove_all(client: Client) -> None:
    """Delete every instance, and wait until they are gone."""
    doomed = await names(client, "instances")
    for name in doomed:
        await insist(lambda name=name: client.delete(instance_key(name)))  # type: ignore[misc]
    for name in doomed:
        await until_gone(client, instance_key(name))


async def placement_of(client: Client, name: str) -> JSON:
    """The Placement of an instance."""
    doc = await client.get(instance_key(name))
    return await client.get(Key("placements", "default", doc["status"]["placement"]))


def _doc(kind: str, name: str, spec: JSON) -> JSON:
    return {"apiVersion": "nano/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextmanager
def inside(node: Node) -> Iterator[None]:
    """The thread, what it starts and what it opens, belongs to the node's network meanwhile."""
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
