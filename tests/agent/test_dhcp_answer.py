"""What each message of a client gets in each of its states, read back by scapy."""

import dataclasses
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from nanovirt.agent.dhcp.answer import Prepared, answer, checksum, prepare, raw_mac
from nanovirt.agent.dhcp.packet import parse_frame
from tests.agent.dhcp_client import (
    IP_OF_MAC,
    MAC,
    RESERVATION,
    SERVER_IP,
    SERVER_MAC,
    STRANGER,
    XID,
    Answer,
    asking,
    prepared,
    read,
)
from tests.conftest import Golden

WRONG = "10.20.0.99"
SETTINGS = {
    "subnet_mask": "255.255.255.0",
    "router": "10.20.0.1",
    "name_server": ["10.20.0.1", "1.1.1.1"],
    "hostname": b"web-1",
    "domain": b"lab.example",
    "interface-mtu": 1450,
    "broadcast_address": "10.20.0.255",
}
TIMES = {"lease_time": 86400, "renewal_time": 43200, "rebinding_time": 75600}

DISCOVER = ("message-type", "discover")
REQUEST = ("message-type", "request")
INFORM = ("message-type", "inform")
OURS = ("server_id", SERVER_IP)
ANOTHER = ("server_id", "10.20.0.2")
RIGHT_IP = ("requested_addr", IP_OF_MAC)
WRONG_IP = ("requested_addr", WRONG)

OFFERED = {
    "a new client": asking(DISCOVER),
    "a client that remembers another address": asking(DISCOVER, WRONG_IP),
    "a client that cannot take unicast": asking(DISCOVER, flags=0x8000),
}
ACKNOWLEDGED = {
    "SELECTING": asking(REQUEST, OURS, RIGHT_IP),
    "INIT-REBOOT": asking(REQUEST, RIGHT_IP),
    "RENEWING": asking(REQUEST, ciaddr=IP_OF_MAC, to=SERVER_IP),
    "REBINDING": asking(REQUEST, ciaddr=IP_OF_MAC),
}
REFUSED = {
    "SELECTING": asking(REQUEST, OURS, WRONG_IP),
    "INIT-REBOOT": asking(REQUEST, WRONG_IP),
    "RENEWING": asking(REQUEST, ciaddr=WRONG, to=SERVER_IP),
    "REBINDING": asking(REQUEST, ciaddr=WRONG),
}
UNANSWERED = {
    "SELECTING another server": asking(REQUEST, ANOTHER, RIGHT_IP),
    "SELECTING another server and address": asking(REQUEST, ANOTHER, WRONG_IP),
    "REQUEST for nothing": asking(REQUEST),
    "REQUEST for 0.0.0.0": asking(REQUEST, ("requested_addr", "0.0.0.0")),
    "RELEASE": asking(("message-type", "release"), OURS, ciaddr=IP_OF_MAC, to=SERVER_IP),
    "DECLINE": asking(("message-type", "decline"), OURS, RIGHT_IP),
    "INFORM from another address": asking(INFORM, ciaddr=WRONG),
    "INFORM without an address": asking(INFORM),
    "OFFER": asking(("message-type", "offer")),
    "ACK": asking(("message-type", "ack"), ciaddr=IP_OF_MAC),
    "NAK": asking(("message-type", "nak")),
    "a relayed DISCOVER": asking(DISCOVER, giaddr="10.20.0.3"),
    "a relayed REQUEST for a wrong address": asking(REQUEST, WRONG_IP, giaddr="10.20.0.3"),
    "DISCOVER sent by another card": asking(DISCOVER, source=STRANGER),
    "REQUEST for a wrong address sent by another card": asking(REQUEST, WRONG_IP, source=STRANGER),
}


def answered(frame: bytes, ready: Prepared | None = None) -> Answer:
    reply = silent_or_answered(frame, ready or prepared())
    assert reply is not None
    return reply


def silent_or_answered(frame: bytes, ready: Prepared | None) -> Answer | None:
    request = parse_frame(frame)
    assert request is not None
    reply = answer(request, ready)
    return None if reply is None else read(reply)


@pytest.mark.parametrize("frame", OFFERED.values(), ids=OFFERED.keys())
def test_discover_is_offered_the_reserved_address(frame: bytes) -> None:
    offer = answered(frame)
    assert offer.options == {"message-type": 2, "server_id": SERVER_IP, **TIMES, **SETTINGS}
    assert (offer.bootp.yiaddr, offer.bootp.ciaddr, offer.bootp.siaddr) == (IP_OF_MAC, "0.0.0.0", "0.0.0.0")
    assert (offer.bootp.op, offer.bootp.xid, offer.bootp.chaddr[:6]) == (2, XID, raw_mac(MAC))


@pytest.mark.parametrize("frame", ACKNOWLEDGED.values(), ids=ACKNOWLEDGED.keys())
def test_request_for_the_reserved_address_is_acknowledged(frame: bytes) -> None:
    ack = answered(frame)
    assert ack.options == {"message-type": 5, "server_id": SERVER_IP, **TIMES, **SETTINGS}
    assert ack.bootp.yiaddr == IP_OF_MAC
    assert ack.bootp.ciaddr == Ether(frame)["BOOTP"].ciaddr


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED.keys())
def test_request_for_a_wrong_address_is_refused_to_all(frame: bytes) -> None:
    """RFC 2131, 4.3.2: broadcast, since the client's present address may be of no use."""
    nak = answered(frame)
    assert nak.options == {"message-type": 6, "server_id": SERVER_IP}
    assert (nak.bootp.yiaddr, nak.bootp.ciaddr) == ("0.0.0.0", "0.0.0.0")
    assert (nak.frame.dst, nak.frame[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")


@pytest.mark.parametrize("frame", UNANSWERED.values(), ids=UNANSWERED.keys())
def test_known_card_hears_nothing_to_that(frame: bytes) -> None:
    assert silent_or_answered(frame, prepared()) is None


@pytest.mark.parametrize("states", [OFFERED, ACKNOWLEDGED, REFUSED, UNANSWERED])
def test_stranger_gets_silence(states: dict[str, bytes]) -> None:
    assert [silent_or_answered(frame, None) for frame in states.values()] == [None] * len(states)


def test_reservation_of_another_card_is_not_given_away() -> None:
    assert silent_or_answered(asking(DISCOVER, mac=STRANGER), prepared()) is None


def test_inform_gets_settings_without_an_address() -> None:
    """RFC 2131, 4.3.5: no lease time, no yiaddr, unicast to the client's address."""
    ack = answered(asking(INFORM, ciaddr=IP_OF_MAC))
    assert ack.options == {"message-type": 5, "server_id": SERVER_IP, **SETTINGS}
    assert (ack.bootp.yiaddr, ack.frame[IP].dst, ack.frame.dst) == ("0.0.0.0", IP_OF_MAC, MAC)


@pytest.mark.parametrize(
    ("frame", "mac", "ip"),
    [
        (asking(DISCOVER), MAC, IP_OF_MAC),
        (asking(DISCOVER, flags=0x8000), "ff:ff:ff:ff:ff:ff", "255.255.255.255"),
        (asking(REQUEST, OURS, RIGHT_IP), MAC, IP_OF_MAC),
        (asking(REQUEST, OURS, RIGHT_IP, flags=0x8000), "ff:ff:ff:ff:ff:ff", "255.255.255.255"),
        (asking(REQUEST, ciaddr=IP_OF_MAC, flags=0x8000), MAC, IP_OF_MAC),
    ],
)
def test_answer_goes_where_the_client_can_hear_it(frame: bytes, mac: str, ip: str) -> None:
    """RFC 2131, 4.1: to ciaddr if there is one, else to all if the flag asks for it, else to the new address."""
    sent = answered(frame).frame
    assert (sent.dst, sent[IP].dst) == (mac, ip)
    assert (sent.src, sent[IP].src, sent[UDP].sport, sent[UDP].dport) == (SERVER_MAC, SERVER_IP, 67, 68)


def test_client_id_comes_back() -> None:
    """RFC 6842; in a refusal too."""
    for frame in (
        asking(DISCOVER, ("client_id", b"\xff\x01\x02")),
        asking(REQUEST, WRONG_IP, ("client_id", b"\xff\x01\x02")),
    ):
        assert answered(frame).options["client_id"] == b"\xff\x01\x02"


def test_answer_is_never_shorter_than_bootp() -> None:
    assert answered(asking(REQUEST, WRONG_IP)).frame[UDP].len == 8 + 300


def test_what_a_reservation_lacks_is_not_sent() -> None:
    bare = dataclasses.replace(RESERVATION, gateway=None, dns=(), domain="", hostname="", mtu=None)
    options = answered(asking(DISCOVER), prepared(bare)).options
    assert options.keys() - TIMES.keys() == {"message-type", "server_id", "subnet_mask", "broadcast_address"}


@pytest.mark.parametrize(("lease", "t1", "t2"), [(1, 0, 0), (8, 4, 7), (2**32 - 1, 2**31 - 1, 3758096383)])
def test_times_are_half_and_seven_eighths_of_the_lease(lease: int, t1: int, t2: int) -> None:
    options = answered(asking(DISCOVER), prepared(dataclasses.replace(RESERVATION, lease_seconds=lease))).options
    assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (lease, t1, t2)


def test_too_long_settings_lose_the_least_needed() -> None:
    """308 bytes is what every client takes: a resolver is worth more than a domain of 200 letters."""
    long = dataclasses.replace(RESERVATION, hostname="h" * 63, domain="d" * 200, dns=RESERVATION.dns * 10)
    options = answered(asking(DISCOVER), prepared(long)).options
    assert "domain" not in options
    assert len(options["name_server"]) == 20
    assert options["hostname"] == b"h" * 63


@given(
    prefix=st.integers(0, 32),
    dns=st.lists(st.ip_addresses(v=4), max_size=100),
    hostname=st.text(max_size=300),
    domain=st.text(max_size=300),
    lease=st.integers(1, 2**32 - 1),
    mtu=st.none() | st.integers(68, 65535),
)
def test_any_reservation_makes_a_readable_answer(
    prefix: int, dns: list[IPv4Address], hostname: str, domain: str, lease: int, mtu: int | None
) -> None:
    subnet = IPv4Network((RESERVATION.ip, prefix), strict=False)
    ready = prepared(
        dataclasses.replace(
            RESERVATION, subnet=subnet, dns=tuple(dns), hostname=hostname, domain=domain, lease_seconds=lease, mtu=mtu
        )
    )
    offer = answered(asking(DISCOVER), ready)
    assert offer.options["subnet_mask"] == str(subnet.netmask)
    assert offer.options["lease_time"] == lease
    assert offer.frame[UDP].len <= 548


@given(st.binary(max_size=600))
def test_checksum_of_what_carries_its_checksum_is_zero(octets: bytes) -> None:
    """RFC 1071: that is how a receiver verifies it."""
    even = octets + bytes(len(octets) % 2)
    carried = checksum(int.from_bytes(even)).to_bytes(2)
    assert checksum(int.from_bytes(even + carried)) == 0


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "52:54:00:00:00:01:02", "not a MAC"])
def test_a_mac_that_is_none_is_refused(mac: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|hexadecimal"):
        prepare(dataclasses.replace(RESERVATION, mac=mac), IPv4Address(SERVER_IP), SERVER_MAC)


GOLDEN: dict[str, Any] = {
    "offer": asking(DISCOVER),
    "offer-broadcast": asking(DISCOVER, flags=0x8000),
    "ack-selecting": asking(REQUEST, OURS, RIGHT_IP, ("client_id", b"\x01" + raw_mac(MAC))),
    "ack-renewing": asking(REQUEST, ciaddr=IP_OF_MAC, to=SERVER_IP),
    "ack-inform": asking(INFORM, ciaddr=IP_OF_MAC),
    "nak": asking(REQUEST, WRONG_IP),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_answer_is_the_golden_one(name: str, golden: Golden) -> None:
    request = parse_frame(GOLDEN[name])
    assert request is not None
    reply = answer(request, prepared())
    assert reply is not None
    read(reply)
    golden(f"dhcp/{name}.frame", reply)
