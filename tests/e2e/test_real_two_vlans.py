"""The same address in two VLANs of one host: each card gets its own answers, and passes the one filter by itself."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from nanovirt.agent.filtering import Card
from nanovirt.agent.firewall import Firewall
from nanovirt.agent.leases import Bridges, Served
from nanovirt.agent.taps import LEASED
from tests.agent.dhcp_client import IP_OF_MAC, RESERVATION
from tests.e2e.dhcp_fabric import BRIDGE, Fabric, Guest, fabric, inside, run

SEGMENTS = {f"{BRIDGE}.10": "10.20.0.1", f"{BRIDGE}.20": "10.20.0.2"}
"""The bridges of two VLANs, and the gateway of each."""
RESERVATIONS = {
    bridge: dataclasses.replace(RESERVATION, mac=f"52:54:00:00:01:{at:02}", gateway=IPv4Address(gateway))
    for at, (bridge, gateway) in enumerate(SEGMENTS.items())
}


@pytest.fixture
def host() -> Iterator[Fabric]:
    with fabric(None) as made:
        for bridge in SEGMENTS:
            run("ip", "-n", made.host, "link", "add", bridge, "type", "bridge", "forward_delay", "0")
            run("ip", "-n", made.host, "link", "set", bridge, "up")
        yield made


def plug(host: Fabric, bridge: str, port: str, mac: str, address: str | None = None) -> Guest:
    guest = host.plug(port, mac, address)
    run("ip", "-n", host.host, "link", "set", port, "master", bridge)
    return guest


def pings(guest: Guest, ip: str, seconds: int) -> bool:
    command = ("ip", "netns", "exec", guest.namespace, "ping", "-c", "1", "-W", str(seconds), ip)
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


async def test_same_address_in_two_vlans_is_answered_and_filtered_in_each(host: Fabric) -> None:
    guests, filters, leases = {}, Firewall(), Bridges()
    for at, (bridge, gateway) in enumerate(SEGMENTS.items()):
        mac = RESERVATIONS[bridge].mac
        port = LEASED + mac.replace(":", "")
        guests[bridge] = plug(host, bridge, port, mac)
        plug(host, bridge, f"lan{at}", f"02:00:00:00:00:0{at}", f"{gateway}/24")
        filters.expect(bridge, (Card(port, mac, IPv4Address(IP_OF_MAC)),))
    with inside(host.host):
        await filters.settle()
        for bridge, reservation in RESERVATIONS.items():
            leases.serve(bridge, Served(bridge, reservation))
    try:
        for bridge, guest in guests.items():
            async with guest.udhcpc():
                bound = await guest.event("bound")
            assert (bound["ip"], bound["router"]) == (IP_OF_MAC, SEGMENTS[bridge])
            assert leases.leased(bridge) == {guest.mac}
        for bridge, guest in guests.items():  # both are there now, with one address
            for other, gateway in SEGMENTS.items():
                mine = other == bridge
                assert pings(guest, gateway, seconds=10 if mine else 1) == mine
    finally:
        leases.close()
