"""DHCP with a real guest: nobody else answers it, its lease goes on for ever, and strangers hear nothing from us."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from tests.agent.dhcp_client import STRANGER, asking
from tests.e2e.cluster import Cluster, instance, instance_key, placement_of, real_cluster
from tests.e2e.looking import PATIENT, address, is_off, look, names, runs, until, until_answers, until_gone
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)

LEASE = 16
"""Seconds, the least that busybox believes: the guest renews every eight."""
HOST, OTHER = "10.77.1.1", "10.77.0.1"
"""Our server's address, and that of the one that nobody asked for."""
DISCOVER = ("message-type", "discover")
BROADCAST = 0x8000
ONLY_ALL = """
table bridge test {
  chain heard { type filter hook prerouting priority -300; ether daddr != ff:ff:ff:ff:ff:ff udp dport 67 counter drop; }
}
"""


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """One host, and from the beginning a foreign DHCP server on the same fabric."""
    with real_cluster(mini_guest, hosts=1, lease=LEASE) as cluster, foreign_server(cluster):
        yield cluster
    assert leftovers() == []


@contextmanager
def foreign_server(cluster: Cluster) -> Iterator[None]:
    """A dnsmasq that gives 10.77.9.x to anybody who asks, quickly and with authority."""
    fabric = cluster.bed.fabric
    fixed = ["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=sw0", "--bind-interfaces"]
    more = ["--dhcp-authoritative", "--dhcp-rapid-commit", "--no-ping", "--log-dhcp", "--log-facility=-", "--user=root"]
    ranges = ["--dhcp-range=10.77.9.1,10.77.9.99,1h", f"--dhcp-leasefile={fabric.dir}/leases"]
    process = fabric.start(["dnsmasq", *fixed, *more, *ranges], log="dnsmasq.log")
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def guest(client: Client) -> JSON:
    """The instance whose guest answers; made if this is the first test that wants it."""
    if "web" not in await names(client, "instances"):
        await client.create(instance("web"))
    doc = await until(client, instance_key("web"), runs)
    await until_answers(address(doc))
    return doc


def said_by_the_other(cluster: Cluster) -> str:
    """The log of the foreign server."""
    return (cluster.bed.fabric.dir / "log/dnsmasq.log").read_text()


async def renewed(cluster: Cluster, doc: JSON, times: int) -> None:
    """Return when the guest has renewed its lease so often from now on."""
    agent, uid = cluster.agents["h1"], doc["metadata"]["uid"]

    async def count() -> int:
        return agent.console(uid).count(f"lease {LEASE} renew")

    wanted = await count() + times
    await look("renewals", count, lambda found: found >= wanted, times * LEASE + 60)


async def offers(frame: bytes, first: str = OTHER, more: float = 1.0) -> dict[str, str]:
    """What a neighbour on the fabric is offered when it sends that frame: addresses, by the server's own.

    It waits for the offer of `first`, and some seconds more for others.
    """
    found: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as ear:
        ear.bind(("eth0", 0x0800))
        ear.setblocking(False)
        ear.send(frame)
        try:
            async with asyncio.timeout(PATIENT) as time:
                while True:
                    heard = await loop.sock_recv(ear, 2048)
                    if heard[23] == 17 and heard[36:38] == (68).to_bytes(2):
                        told = BOOTP(heard[42:])
                        server = dict(one for one in told[DHCP].options if len(one) == 2)["server_id"]
                        if server == first and server not in found:
                            time.reschedule(loop.time() + more)
                        found[server] = told.yiaddr
        except TimeoutError:
            return found


async def test_foreign_server_never_gets_to_answer_our_guest(cluster: Cluster, client: Client) -> None:
    doc = await guest(client)
    mac, uid = doc["status"]["addresses"][0]["mac"], doc["metadata"]["uid"]
    told = f"nano-guest: eth0 {address(doc)}/16 gw 10.77.0.1 dns 10.77.0.3 hostname web lease {LEASE} bound"
    assert told in cluster.agents["h1"].console(uid)
    assert mac not in said_by_the_other(cluster)
    found = await offers(asking(DISCOVER, mac=STRANGER, flags=BROADCAST))
    assert list(found) == [OTHER]  # it is there, and willing
    assert STRANGER in said_by_the_other(cluster)


async def test_guest_keeps_its_address_through_renewals(cluster: Cluster, client: Client) -> None:
    doc = await guest(client)
    before = await until_answers(address(doc))
    await renewed(cluster, doc, 1)
    agent = cluster.agents["h1"]
    agent.kill()
    agent.start()
    await renewed(cluster, doc, 1)
    agent.host.run(["nft", "-f", "-"], stdin=ONLY_ALL)  # what is meant for us alone is lost, as after T2
    try:
        await renewed(cluster, doc, 1)
    finally:
        agent.host.run(["nft", "delete", "table", "bridge", "test"])
    after = await until_answers(address(doc))
    assert after.boot_id == before.boot_id
    console = agent.console(doc["metadata"]["uid"])
    assert console.count(" bound ") == 1  # it never had to begin anew
    assert doc["status"]["addresses"][0]["mac"] not in said_by_the_other(cluster)
    assert (await placement_of(client, "web"))["status"]["started"] == 1


async def test_only_cards_of_placed_machines_are_answered(cluster: Cluster, client: Client) -> None:
    """A stopped machine's card, played by a neighbour, hears us; a stranger's never, a deleted one's no more."""
    await client.create(instance("off", powerState="Stopped"))
    doc = await until(client, instance_key("off"), is_off)
    known = asking(DISCOVER, mac=doc["status"]["addresses"][0]["mac"], flags=BROADCAST)
    assert (await offers(known, HOST))[HOST] == address(doc)
    stranger = asking(DISCOVER, mac="52:54:00:00:00:98", flags=BROADCAST)
    assert list(await offers(stranger)) == [OTHER]
    await client.delete(instance_key("off"))
    await until_gone(client, instance_key("off"))
    assert list(await offers(known)) == [OTHER]
