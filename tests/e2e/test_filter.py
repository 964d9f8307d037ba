"""The filter on real ports of a real bridge: what guests make up does not pass, groups decide, and edits act at once.

A guest is a namespace behind a veth that bears the name of a tap: the bridge and its filter see no difference.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, LLC, STP, Dot1Q, Dot3, Ether
from scapy.packet import Raw

from nanovirt.agent.filtering import Card
from nanovirt.agent.firewall import Firewall, remove, standing
from nanovirt.agent.taps import LEASED, PHYSICAL
from nanovirt.resources.placement import PlacedRule
from tests.e2e.dhcp_fabric import Fabric, Guest, fabric, inside, run

EVIL, GOOD, FAR = "52:54:00:00:00:66", "52:54:00:00:00:77", "52:54:00:00:00:88"
EVIL_IP, GOOD_IP, FAR_IP, GATEWAY = "10.20.0.66", "10.20.0.77", "10.20.0.88", "10.20.0.1"
OTHER = "52:54:00:00:00:99"
EVERY, STP_MAC, LLDP_MAC = "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:00", "01:80:c2:00:00:0e"
MARK = b"made up by a guest"


def rule(direction: str, action: str, protocol: str = "Any", *ports: str, remotes: tuple[str, ...] = ()) -> PlacedRule:
    return PlacedRule.model_validate(
        {"direction": direction, "action": action, "protocol": protocol, "ports": ports, "remotes": remotes}
    )


CLOSED, OPEN = rule("Inbound", "Drop"), rule("Outbound", "Accept")


def name(kind: str, mac: str) -> str:
    return kind + mac.replace(":", "")


class Place:
    """A bridge with two guests of this host and a machine of the LAN, and the filter as the agent keeps it."""

    def __init__(self, made: Fabric) -> None:
        self.fabric, self.filters = made, Firewall()
        self.evil = made.plug(name(LEASED, EVIL), EVIL, f"{EVIL_IP}/24")
        self.good = made.plug(name(LEASED, GOOD), GOOD, f"{GOOD_IP}/24")
        self.far = made.plug("lan0", FAR, f"{FAR_IP}/24")

    async def guard(self, *rules: PlacedRule, ip: str | None = EVIL_IP) -> None:
        """Both guests with addresses of a pool; the evil one with these rules."""
        self.filters.expect("evil", (Card(self.evil.port, EVIL, (ip and IPv4Address(ip)) or None, rules),))
        self.filters.expect("good", (Card(self.good.port, GOOD, IPv4Address(GOOD_IP)),))
        with inside(self.fabric.host):
            await self.filters.settle()

    async def edit(self, *rules: PlacedRule) -> float:
        """Other rules for the evil one, as the agent learns of them; the seconds until they are in force."""
        begun = time.monotonic()
        self.filters.expect("evil", (Card(self.evil.port, EVIL, IPv4Address(EVIL_IP), rules),))
        with inside(self.fabric.host):
            await self.filters.follow(0.05)
        return time.monotonic() - begun


@pytest.fixture
def place() -> Iterator[Place]:
    with fabric(f"{GATEWAY}/24") as made:
        yield Place(made)


async def arrived(sender: Guest, frames: dict[str, bytes], *listeners: Guest) -> set[str]:
    """Which of the frames, by their names, any of the listeners gets to see."""
    found: set[str] = set()
    with sender.tap() as mouth:
        ears = [listener.tap() for listener in listeners]
        opened = [ear.__enter__() for ear in ears]
        try:
            for frame in frames.values():
                mouth.send(frame)
            await asyncio.sleep(0.4)
            for one in opened:
                seen = b"".join(_all(one))
                found |= {
                    word for word, frame in frames.items() if frame[18:60] in seen
                }  # the kernel takes a tag off before it is seen
        finally:
            for ear in ears:
                ear.__exit__(None, None, None)
    return found


def _all(ear: socket.socket) -> Iterator[bytes]:
    try:
        while True:
            yield ear.recv(4096)
    except BlockingIOError:
        return


def _dhcp(kind: str, source: str, chaddr: str, ports: tuple[int, int]) -> bytes:
    made = IP(src=source, dst="255.255.255.255") / UDP(sport=ports[0], dport=ports[1])
    raw = bytes.fromhex(chaddr.replace(":", ""))
    return bytes(
        Ether(src=EVIL, dst=EVERY) / made / BOOTP(chaddr=raw, xid=7) / DHCP(options=[("message-type", kind), "end"])
    )


SPOOFED = {
    "an ARP answer for the gateway": Ether(src=EVIL, dst=GOOD)
    / ARP(op=2, hwsrc=EVIL, psrc=GATEWAY, hwdst=GOOD, pdst=GOOD_IP),
    "an ARP answer with another's MAC": Ether(src=EVIL, dst=GOOD)
    / ARP(op=2, hwsrc=OTHER, psrc=EVIL_IP, hwdst=GOOD, pdst=GOOD_IP),
    "a gratuitous ARP for the gateway": Ether(src=EVIL, dst=EVERY)
    / ARP(op=1, hwsrc=EVIL, psrc=GATEWAY, pdst=GATEWAY),
    "another's IP address": Ether(src=EVIL, dst=GOOD) / IP(src=FAR_IP, dst=GOOD_IP) / UDP(sport=9, dport=9) / MARK,
    "another's MAC": Ether(src=OTHER, dst=GOOD) / IP(src=EVIL_IP, dst=GOOD_IP) / UDP(sport=8, dport=8) / MARK,
    "IPv6": Ether(src=EVIL, dst=GOOD) / IPv6(src="fe80::66", dst="fe80::77") / UDP(sport=7, dport=7) / MARK,
    "a router advertisement": Ether(src=EVIL, dst="33:33:00:00:00:01")
    / IPv6(src="fe80::66", dst="ff02::1")
    / ICMPv6ND_RA(),
    "a neighbour advertisement": Ether(src=EVIL, dst="33:33:00:00:00:01")
    / IPv6(src="fe80::66", dst="ff02::1")
    / ICMPv6ND_NA(tgt="fe80::1")
    / ICMPv6NDOptDstLLAddr(lladdr=EVIL),
    "a DHCP offer": _dhcp("offer", EVIL_IP, GOOD, (67, 68)),
    "a DHCP offer from another port": _dhcp("offer", EVIL_IP, FAR, (1067, 68)),
    "a DHCP request for another's MAC": _dhcp("request", "0.0.0.0", OTHER, (68, 67)),
    "a VLAN tag": Ether(src=EVIL, dst=GOOD) / Dot1Q(vlan=40) / IP(src=EVIL_IP, dst=GOOD_IP) / UDP() / MARK,
    "two VLAN tags": Ether(src=EVIL, dst=GOOD, type=0x88A8) / Dot1Q(vlan=1) / Dot1Q(vlan=40) / IP(src=EVIL_IP) / MARK,
    "a spanning tree's word": Dot3(src=EVIL, dst=STP_MAC) / LLC() / STP(rootid=0),
    "LLDP": Ether(src=EVIL, dst=LLDP_MAC, type=0x88CC) / Raw(MARK * 2),
    "LLDP to everybody": Ether(src=EVIL, dst=EVERY, type=0x88CC) / Raw(MARK * 3),
    "what is no protocol of ours": Ether(src=EVIL, dst=EVERY, type=0x88B5) / Raw(MARK * 4),
}  # fmt: skip
LEGAL = {
    "an ARP question": Ether(src=EVIL, dst=EVERY) / ARP(op=1, hwsrc=EVIL, psrc=EVIL_IP, pdst=FAR_IP),
    "an ARP probe": Ether(src=EVIL, dst=EVERY) / ARP(op=1, hwsrc=EVIL, psrc="0.0.0.0", pdst=EVIL_IP),
    "UDP": Ether(src=EVIL, dst=FAR) / IP(src=EVIL_IP, dst=FAR_IP) / UDP(sport=5, dport=5) / MARK,
    "a broadcast": Ether(src=EVIL, dst=EVERY) / IP(src=EVIL_IP, dst="10.20.0.255") / UDP(sport=4, dport=4) / MARK,
    "ICMP": Ether(src=EVIL, dst=FAR) / IP(src=EVIL_IP, dst=FAR_IP) / ICMP() / MARK,
    "what QEMU says after a move": Ether(src=EVIL, dst=EVERY, type=0x8035)
    / ARP(op=3, hwsrc=EVIL, psrc="0.0.0.0", hwdst=EVIL, pdst="0.0.0.0"),
}
FROM_PHYSICAL = {
    "another's IP address",
    "a neighbour advertisement",
    "an ARP answer for the gateway",
    "a gratuitous ARP for the gateway",
}
"""What a card whose address nobody knows may say."""


def wired(frames: Mapping[str, object]) -> dict[str, bytes]:
    return {word: bytes(frame).ljust(60, b"\0") for word, frame in frames.items()}  # type: ignore[call-overload]


async def test_nothing_that_a_guest_makes_up_passes(place: Place) -> None:
    await place.guard()
    assert await arrived(place.evil, wired(SPOOFED), place.good, place.far) == set()


async def test_everything_passes_where_no_filter_stands(place: Place) -> None:
    """So that the test above can fail; bridges keep LLDP and tell apart what has two tags."""
    passed = await arrived(place.evil, wired(SPOOFED), place.good, place.far)
    assert set(SPOOFED) - passed <= {"LLDP"}


async def test_what_a_guest_may_send_passes(place: Place) -> None:
    await place.guard()
    assert await arrived(place.evil, wired(LEGAL), place.good, place.far) == set(LEGAL)


async def test_card_without_a_pool_may_have_any_address_and_no_other_mac(place: Place) -> None:
    await place.guard(ip=None)
    assert await arrived(place.evil, wired(SPOOFED), place.good, place.far) == FROM_PHYSICAL
    assert await arrived(place.evil, wired(LEGAL), place.far) == set(LEGAL)


async def test_card_that_nobody_has_named_is_mute_and_deaf(place: Place) -> None:
    await place.guard()
    stranger = place.fabric.plug(name(PHYSICAL, OTHER), OTHER, "10.20.0.99/24")
    frames = {"UDP": bytes(Ether(src=OTHER, dst=EVERY) / IP(src="10.20.0.99") / UDP() / MARK)}
    assert await arrived(stranger, frames, place.good, place.far) == set()
    back = {"UDP": bytes(Ether(src=FAR, dst=EVERY) / IP(src=FAR_IP, dst="255.255.255.255") / UDP() / MARK)}
    assert await arrived(place.far, back, stranger) == set()


async def test_tagged_frames_and_ipv6_of_the_lan_do_not_reach_a_guest(place: Place) -> None:
    await place.guard()
    frames = {
        "tag": Ether(src=FAR, dst=EVIL) / Dot1Q(vlan=40) / IP(src=FAR_IP, dst=EVIL_IP) / UDP(sport=3) / MARK,
        "RA": Ether(src=FAR, dst="33:33:00:00:00:01") / IPv6(src="fe80::88", dst="ff02::1") / ICMPv6ND_RA(),
        "UDP": Ether(src=FAR, dst=EVIL) / IP(src=FAR_IP, dst=EVIL_IP) / UDP() / MARK,
    }
    assert await arrived(place.far, wired(frames), place.evil) == {"UDP"}


# --- groups ---


@contextmanager
def listening(guest: Guest, port: int) -> Iterator[socket.socket]:
    with inside(guest.namespace):
        made = socket.create_server(("", port))
    with closing(made):
        made.setblocking(False)
        yield made


async def opens(source: Guest, ip: str, port: int, seconds: float = 0.7) -> bool:
    """Whether a connection can be opened from there."""
    with inside(source.namespace):
        made = socket.socket()
    with closing(made):
        made.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(made, (ip, port))
        except (TimeoutError, OSError):
            return False
        return True


@asynccontextmanager
async def talking(
    server: Guest, ip: str, port: int, client: Guest
) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A connection from `client` to `server`: both its ends."""
    loop = asyncio.get_running_loop()
    with listening(server, port) as door:
        with inside(client.namespace):
            here = socket.socket()
        here.setblocking(False)
        async with asyncio.timeout(5):
            await loop.sock_connect(here, (ip, port))
            there, _ = await loop.sock_accept(door)
        there.setblocking(False)
        with here, there:
            yield here, there


async def said(mouth: socket.socket, ear: socket.socket, seconds: float = 1.0) -> bool:
    """Whether what one end says is heard at the other."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(mouth, b"x")
    try:
        async with asyncio.timeout(seconds):
            return await loop.sock_recv(ear, 10) != b""
    except TimeoutError:
        return False


def pings(source: Guest, ip: str, size: int = 56) -> bool:
    try:
        run("ip", "netns", "exec", source.namespace, "ping", "-c", "1", "-W", "1", "-s", str(size), ip)
    except Exception:  # noqa: BLE001 - whatever went wrong, it was not answered
        return False
    return True


async def test_only_what_a_rule_names_comes_in(place: Place) -> None:
    await place.guard(rule("Inbound", "Accept", "TCP", "80", "8000-8099"), CLOSED, OPEN)
    with listening(place.evil, 80), listening(place.evil, 8050), listening(place.evil, 22):
        assert [await opens(place.far, EVIL_IP, port) for port in (80, 8050, 22)] == [True, True, False]
        assert [await opens(place.good, EVIL_IP, port) for port in (80, 22)] == [True, False]
    assert not pings(place.far, EVIL_IP)


async def test_answers_come_in_whatever_the_rules_say(place: Place) -> None:
    await place.guard(CLOSED, OPEN)
    async with talking(place.far, FAR_IP, 5000, place.evil) as (guest, other):
        assert await said(guest, other)
        assert await said(other, guest)
    assert pings(place.evil, FAR_IP)
    assert pings(place.evil, FAR_IP, 4000), "in pieces"
    assert not pings(place.far, EVIL_IP)


async def test_answers_go_out_whatever_the_rules_say(place: Place) -> None:
    await place.guard(rule("Inbound", "Accept"), rule("Outbound", "Drop"))
    async with talking(place.evil, EVIL_IP, 5000, place.far) as (other, guest):
        assert await said(other, guest)
        assert await said(guest, other)
    with listening(place.far, 5001):
        assert not await opens(place.evil, FAR_IP, 5001)
    assert pings(place.far, EVIL_IP, 4000), "in pieces"
    assert not pings(place.evil, FAR_IP)


async def test_first_rule_that_matches_decides(place: Place) -> None:
    not_far = rule("Inbound", "Drop", remotes=(f"{FAR_IP}/32",))
    http = rule("Inbound", "Accept", "TCP", "80")
    with listening(place.evil, 80):
        await place.guard(not_far, http, CLOSED, OPEN)
        assert [await opens(one, EVIL_IP, 80) for one in (place.far, place.good)] == [False, True]
        await place.edit(http, not_far, CLOSED, OPEN)
        assert [await opens(one, EVIL_IP, 80) for one in (place.far, place.good)] == [True, True]


async def test_edit_acts_at_once_in_both_directions(place: Place) -> None:
    await place.guard(CLOSED, OPEN)
    with listening(place.evil, 80), listening(place.far, 81):
        assert [await opens(place.far, EVIL_IP, 80), await opens(place.evil, FAR_IP, 81)] == [False, True]
        seconds = await place.edit(rule("Inbound", "Accept"), rule("Outbound", "Drop"))
        assert [await opens(place.far, EVIL_IP, 80), await opens(place.evil, FAR_IP, 81)] == [True, False]
    assert seconds < 2


async def test_edit_ends_the_connections_that_it_forbids_and_no_others(place: Place) -> None:
    await place.guard(rule("Inbound", "Accept", "TCP", "80", "81"), CLOSED, OPEN)
    async with (
        talking(place.evil, EVIL_IP, 80, place.far) as (on_80, at_80),
        talking(place.evil, EVIL_IP, 81, place.far) as (on_81, at_81),
        talking(place.far, FAR_IP, 82, place.evil) as (guest, other),
    ):
        for end, far_end in ((on_80, at_80), (on_81, at_81), (guest, other)):
            assert await said(end, far_end)
        await place.edit(rule("Inbound", "Accept", "TCP", "81"), CLOSED, OPEN)
        assert await said(at_81, on_81), "the guest's side speaks first"
        assert await said(on_81, at_81)
        assert await said(other, guest), "opened by the guest, spoken to by the other side"
        assert not await said(on_80, at_80)
        assert not await said(at_80, on_80)


# --- what the filter survives ---


async def test_restart_of_the_agent_changes_nothing(place: Place) -> None:
    await place.guard(CLOSED, OPEN)
    with inside(place.fabric.host):
        before = await standing()
        again = Firewall()
        assert not await again.settle(), "it knows no machine yet, and leaves what has a tap"
        again.expect("evil", place.filters._wished["evil"])
        again.expect("good", place.filters._wished["good"])
        assert not await again.settle()
        assert await standing() == before


async def test_damage_is_mended(place: Place) -> None:
    await place.guard(CLOSED, OPEN)
    with inside(place.fabric.host):
        before = await standing()
        assert before is not None
        chain = next(chain for chain in before.chains if chain.startswith("s_"))
        for damage in (
            ("flush", "ruleset"),
            ("flush", "chain", "bridge", "nano", chain),
            ("delete", "element", "bridge", "nano", "senders", f"{{ {place.evil.port} }}"),
        ):
            run("nft", *damage)
            assert await place.filters.settle()
            assert await standing() == before


async def test_machine_that_is_gone_leaves_nothing_and_others_keep_all(place: Place) -> None:
    await place.guard(CLOSED, OPEN)
    run("ip", "-n", place.fabric.host, "link", "del", place.evil.port)
    place.filters.expect("evil", ())
    with inside(place.fabric.host):
        await place.filters.settle()
        left = await standing()
        assert left is not None
        assert left.keys() == {GOOD.replace(":", "")}
        await remove()
        await remove()
        assert await standing() is None


async def test_address_of_the_rules_is_read_as_a_network(place: Place) -> None:
    assert rule("Inbound", "Drop", remotes=("10.0.0.0/8",)).remotes == (IPv4Network("10.0.0.0/8"),)
    await place.guard(rule("Inbound", "Accept", "ICMP", remotes=("10.20.0.0/28", "10.20.0.80/28")), CLOSED, OPEN)
    assert (pings(place.far, EVIL_IP), pings(place.good, EVIL_IP)) == (True, False)
    assert TCP is not None
