"""Real DHCP clients on a real bridge: they get what was reserved, keep it, and nobody else gets to answer them."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.l2 import Ether

from nanovirt.agent import firewall
from nanovirt.agent.dhcp.server import DhcpServer
from nanovirt.agent.filtering import Card
from nanovirt.resources.errors import Unavailable
from tests.agent.dhcp_client import IP_OF_MAC, MAC, RESERVATION, SERVER_MAC, STRANGER, asking, read
from tests.e2e.dhcp_fabric import BRIDGE, Fabric, Guest, dnsmasq, fabric, inside, make_bridge, run

SHORT = dataclasses.replace(RESERVATION, lease_seconds=8)
SECONDS_FOR_T2 = dataclasses.replace(RESERVATION, lease_seconds=24)  # dhclient waits a second or two past T2
MORE = 0.6
"""Seconds in which whatever answers at all on an idle machine has answered."""
PATIENT = 40.0
DISCOVER = ("message-type", "discover")
REQUEST = ("message-type", "request")
OF_A_STRANGER = asking(DISCOVER, mac=STRANGER)
RIGHT_IP = ("requested_addr", IP_OF_MAC)
PHYSICAL = "52:54:00:00:00:55"
HOST_ADDRESS = "10.20.0.1/24"


@pytest.fixture
def bridged() -> Iterator[Fabric]:
    with fabric(HOST_ADDRESS) as made:
        yield made


@pytest.fixture
def addressless() -> Iterator[Fabric]:
    with fabric(None) as made:
        yield made


async def filtering(place: Fabric) -> None:
    """The filter, with a card for each port of the bridge that is called like one of ours."""
    filters = firewall.Firewall()
    for guest in place.guests:
        if guest.port.startswith(("nvl", "nvx")):
            ip = IPv4Address(IP_OF_MAC) if guest.port.startswith("nvl") else None
            filters.expect(guest.port, (Card(guest.port, guest.mac, ip),))
    await filters.settle()


@asynccontextmanager
async def serving(place: Fabric, *reservations: object, contained: bool = False) -> AsyncIterator[DhcpServer]:
    server = DhcpServer(BRIDGE)
    for reservation in reservations:
        server.put(reservation)  # type: ignore[arg-type]
    with inside(place.host):
        if contained:
            await filtering(place)
        server.open()
    try:
        yield server
    finally:
        server.close()


async def heard(ear: socket.socket, answers: int = 0, port: int = 68) -> list[bytes]:
    """Every IPv4 frame to that UDP port that arrives until so many have, and for a while afterwards."""
    found: list[bytes] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(MORE if not answers else PATIENT) as time:
            while True:
                frame = await loop.sock_recv(ear, 2048)
                if frame[23] == 17 and frame[36:38] == port.to_bytes(2):
                    found.append(frame)
                    if len(found) == answers:
                        time.reschedule(loop.time() + MORE)
    except TimeoutError:
        return found


async def told(guest: Guest, *frames: bytes, answers: int = 0) -> list[bytes]:
    """What a card hears to frames that are sent from it, so many at least."""
    with guest.ear() as ear:
        for frame in frames:
            ear.send(frame)
        return await heard(ear, answers)


def sent(frame: bytes) -> Any:
    return Ether(frame)


UDHCPC = {
    "ip": IP_OF_MAC,
    "subnet": "255.255.255.0",
    "mask": "24",
    "router": "10.20.0.1",
    "dns": "10.20.0.1 1.1.1.1",
    "hostname": "web-1",
    "domain": "lab.example",
    "mtu": "1450",
    "broadcast": "10.20.0.255",
    "serverid": "10.20.0.1",
    "lease": "86400",
}

DHCLIENT = {
    "new_ip_address": IP_OF_MAC,
    "new_subnet_mask": "255.255.255.0",
    "new_routers": "10.20.0.1",
    "new_domain_name_servers": "10.20.0.1 1.1.1.1",
    "new_host_name": "web-1",
    "new_domain_name": "lab.example",
    "new_interface_mtu": "1450",
    "new_broadcast_address": "10.20.0.255",
    "new_dhcp_server_identifier": "10.20.0.1",
    "new_dhcp_lease_time": "86400",
    "new_dhcp_renewal_time": "43200",
    "new_dhcp_rebinding_time": "75600",
}


async def test_udhcpc_gets_everything(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION, contained=True) as server, guest.udhcpc("-O", "mtu"):
        bound = await guest.event("bound")
    assert {key: bound.get(key) for key in UDHCPC} == UDHCPC
    assert (server.answered[MAC].acks, server.answered[MAC].naks) == (1, 0)
    assert server.answered[MAC].leased is not None


async def test_dhclient_gets_everything(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION, contained=True), guest.dhclient():
        bound = await guest.event("BOUND")
    assert {key: bound.get(key) for key in DHCLIENT} == DHCLIENT


async def test_lease_is_renewed_at_t1_by_unicast(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, SHORT, contained=True), guest.dhclient():
        await guest.event("BOUND")
        with bridged.ear() as witness:
            for turn in range(3):
                renewed = await guest.event("RENEW", after=turn)
                assert renewed["new_ip_address"] == IP_OF_MAC
            requests = await heard(witness, port=67)
    assert {(sent(frame).dst, sent(frame)["IP"].dst) for frame in requests} == {(SERVER_MAC, "10.20.0.1")}
    assert not [event for event in guest.events() if event["event"] in ("EXPIRE", "FAIL")]


async def test_lease_is_rebound_at_t2_by_broadcast(bridged: Fabric) -> None:
    """A guest that moved asks its old host at T1, in vain; T2 reaches whoever serves it now, under another address."""
    guest = bridged.plug("nvl0", MAC)
    async with guest.dhclient():
        async with serving(bridged, SECONDS_FOR_T2, contained=True):
            await guest.event("BOUND")
        bridged.set_address("10.20.0.3/24")
        with bridged.ear() as witness:
            async with serving(bridged, SECONDS_FOR_T2, contained=True):
                rebound = await guest.event("RENEW", "REBIND", seconds=60)
            requests = await heard(witness, port=67)
    assert rebound["new_ip_address"] == IP_OF_MAC
    assert rebound["new_dhcp_server_identifier"] == "10.20.0.3"
    assert {sent(frame).dst for frame in requests} == {"ff:ff:ff:ff:ff:ff"}
    assert not [event for event in guest.events() if event["event"] in ("EXPIRE", "FAIL")]


async def test_bridge_without_an_address_serves_under_another(addressless: Fabric) -> None:
    guest = addressless.plug("nvl0", MAC)
    async with serving(addressless, RESERVATION, contained=True) as server, guest.dhclient():
        bound = await guest.event("BOUND")
    assert bound["new_ip_address"] == IP_OF_MAC
    assert bound["new_dhcp_server_identifier"] == str(server.server_ip) == "169.254.169.254"


async def test_udhcpc_keeps_its_lease_through_t1(bridged: Fabric) -> None:
    """It takes no lease for shorter than 30 s, so T1 is after 15."""
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, SHORT, contained=True), guest.udhcpc():
        await guest.event("bound")
        assert (await guest.event("renew"))["ip"] == IP_OF_MAC
    assert len([event for event in guest.events() if event["event"] == "deconfig"]) == 1


async def test_lease_outlives_a_restart_of_the_server(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with guest.dhclient():
        async with serving(bridged, SHORT):
            await guest.event("BOUND")
        async with serving(bridged, SHORT) as again:
            assert (await guest.event("RENEW"))["new_ip_address"] == IP_OF_MAC
            assert again.answered[MAC].naks == 0
    assert not [event for event in guest.events() if event["event"] in ("EXPIRE", "FAIL")]


async def test_changed_reservation_moves_the_guest_at_its_next_request(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    moved = dataclasses.replace(SHORT, ip=SHORT.ip + 1)
    async with serving(bridged, SHORT) as server, guest.dhclient():
        await guest.event("BOUND")
        server.put(moved)
        assert (await guest.event("BOUND", after=1))["new_ip_address"] == str(moved.ip)
        assert server.answered[MAC].naks >= 1


async def test_stranger_gets_silence(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", STRANGER)
    wrong = ("requested_addr", "10.20.0.99")
    async with serving(bridged, RESERVATION) as server:
        questions = (asking(DISCOVER, mac=STRANGER), asking(REQUEST, wrong, mac=STRANGER))
        assert await told(guest, *questions) == []
        assert server.strangers == 2
        async with guest.udhcpc("-n") as client:
            assert await client.wait() != 0
    assert server.answered == {}


async def test_flood_of_strangers_does_not_keep_a_known_card_from_its_answer(bridged: Fabric) -> None:
    flood, guest = bridged.plug("nvl1", STRANGER), bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION) as server:
        with flood.ear() as source:
            for _ in range(3000):
                source.send(OF_A_STRANGER)
        assert len(await told(guest, asking(DISCOVER), answers=1)) == 1
        assert server.strangers == 3000


async def test_removed_card_is_a_stranger(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION) as server:
        assert len(await told(guest, asking(DISCOVER), answers=1)) == 1
        server.remove(MAC)
        assert await told(guest, asking(DISCOVER)) == []
        server.set({MAC: RESERVATION})
        assert len(await told(guest, asking(DISCOVER), answers=1)) == 1


async def test_answer_on_the_wire_is_sound(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION, contained=True):
        (offer,) = await told(guest, asking(DISCOVER), answers=1)
        (nak,) = await told(guest, asking(REQUEST, ("requested_addr", "10.20.0.99")), answers=1)
    assert (read(offer).frame.src, read(offer).frame.dst) == (SERVER_MAC, MAC)
    assert read(nak).options["message-type"] == 6


async def test_garbage_and_tagged_frames_are_survived(bridged: Fabric) -> None:
    guest = bridged.plug("nvl0", MAC)
    frame = asking(DISCOVER)
    bad = [frame[:length] for length in range(14, len(frame), 7)]
    tagged = frame[:12] + b"\x81\x00\x00\x28" + frame[12:]
    async with serving(bridged, RESERVATION):
        assert await told(guest, *bad, tagged) == []
        assert len(await told(guest, frame, answers=1)) == 1


async def test_bridge_made_anew_is_found_again(bridged: Fabric) -> None:
    bridged.plug("nvl0", MAC)
    async with serving(bridged, RESERVATION) as server:
        run("ip", "-n", bridged.host, "link", "del", BRIDGE)
        with inside(bridged.host), pytest.raises(Unavailable, match="br0"):
            server.refresh()
        make_bridge(bridged.host)
        run("ip", "-n", bridged.host, "link", "set", "nvl0", "master", BRIDGE, "up")
        with inside(bridged.host):
            server.refresh()
        (offer,) = await told(bridged.guests[0], asking(DISCOVER), answers=1)
        assert read(offer).options["server_id"] == "169.254.169.254"
        bridged.set_address(HOST_ADDRESS)
        with inside(bridged.host):
            server.refresh()
        (offer,) = await told(bridged.guests[0], asking(DISCOVER), answers=1)
        assert read(offer).options["server_id"] == "10.20.0.1"


async def test_other_server_on_the_lan_never_answers_a_leased_card(bridged: Fabric) -> None:
    lan = bridged.plug("lan0", "52:54:00:00:01:01", "10.20.0.2/24")
    known, unknown, physical = (bridged.plug(*card) for card in (("nvl0", MAC), ("nvl1", STRANGER), ("nvx0", PHYSICAL)))
    async with dnsmasq(lan.namespace, "eth0", lan.folder), serving(bridged, RESERVATION, contained=True):
        await _only_the_physical_card_is_served_by_dnsmasq(known, unknown, physical)
        with lan.ear() as outside:
            await told(known, asking(DISCOVER), asking(REQUEST, ("server_id", "10.20.0.2"), RIGHT_IP))
            assert await heard(outside, port=67) == []
            await told(physical, asking(DISCOVER, mac=PHYSICAL))
            assert len(await heard(outside, 1, 67)) == 1


async def test_other_server_on_the_host_never_answers_a_leased_card(bridged: Fabric) -> None:
    """It sits on port 67 of the very bridge, and is answered around."""
    known, unknown, physical = (bridged.plug(*card) for card in (("nvl0", MAC), ("nvl1", STRANGER), ("nvx0", PHYSICAL)))
    async with dnsmasq(bridged.host, BRIDGE, bridged.folder), serving(bridged, RESERVATION, contained=True):
        await _only_the_physical_card_is_served_by_dnsmasq(known, unknown, physical)


async def test_other_server_answers_where_no_rules_stand(bridged: Fabric) -> None:
    """So that the two tests above can fail."""
    unknown = bridged.plug("nvl1", STRANGER)
    async with dnsmasq(bridged.host, BRIDGE, bridged.folder), serving(bridged, RESERVATION):
        assert len(await told(unknown, asking(DISCOVER, mac=STRANGER, flags=0x8000), answers=1)) == 1


async def test_rogue_answer_from_any_port_is_dropped(bridged: Fabric) -> None:
    rogue, leased, physical = (bridged.plug(*card) for card in (("lan0", MAC), ("nvl0", STRANGER), ("nvx0", PHYSICAL)))
    async with serving(bridged, contained=True):
        with rogue.ear() as source, leased.ear() as deaf, physical.ear() as hearing:
            for port in (67, 1067):
                source.send(_offer_from(port))
            assert await heard(deaf) == []
            assert len(await heard(hearing, 2)) == 2


async def test_guest_cannot_play_the_server(bridged: Fabric) -> None:
    rogue, physical = (bridged.plug(*card) for card in (("nvl0", STRANGER), ("nvx0", PHYSICAL)))
    async with serving(bridged, contained=True):
        with rogue.ear() as source, physical.ear() as hearing:
            for port in (67, 1067):
                source.send(_offer_from(port))
            assert await heard(hearing) == []


async def test_missing_bridge_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no-such-bridge"):
        DhcpServer("no-such-bridge").open()


async def _only_the_physical_card_is_served_by_dnsmasq(known: Guest, unknown: Guest, physical: Guest) -> None:
    async with known.udhcpc("-q"), unknown.udhcpc("-n"), physical.udhcpc("-q"):
        assert (await known.event("bound"))["ip"] == IP_OF_MAC
        assert (await physical.event("bound"))["ip"].startswith("10.20.0.1")
        await unknown.event("leasefail")
    assert not [event for event in unknown.events() if event["event"] == "bound"]


def _offer_from(port: int) -> bytes:
    return asking(("message-type", "offer"), port=68).replace(b"\0\x44\0\x44", port.to_bytes(2) + b"\0\x44")
