"""A DHCP client made of scapy: writes requests and reads answers, independently of the code under test."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from nanovirt.agent.dhcp.answer import Prepared, Reservation, prepare

MAC = "52:54:00:00:00:01"
STRANGER = "52:54:00:00:00:99"
SERVER_MAC = "02:00:00:00:00:fe"
SERVER_IP = "10.20.0.1"
IP_OF_MAC = "10.20.0.50"
XID = 0x12345678

RESERVATION = Reservation(
    mac=MAC,
    ip=IPv4Address(IP_OF_MAC),
    subnet=IPv4Network("10.20.0.0/24"),
    gateway=IPv4Address("10.20.0.1"),
    dns=(IPv4Address("10.20.0.1"), IPv4Address("1.1.1.1")),
    domain="lab.example",
    hostname="web-1",
    lease_seconds=86400,
    mtu=1450,
)


def prepared(reservation: Reservation = RESERVATION) -> Prepared:
    return prepare(reservation, IPv4Address(SERVER_IP), SERVER_MAC)


def asking(  # one keyword per thing that a client may say
    *options: tuple[Any, ...],
    mac: str = MAC,
    source: str | None = None,
    ciaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    flags: int = 0,
    to: str = "255.255.255.255",
    port: int = 67,
) -> bytes:
    """The frame of a client; `source` is the sender's MAC if it is not the client's."""
    chaddr = bytes.fromhex(mac.replace(":", ""))
    frame = (
        Ether(src=source or mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src=ciaddr, dst=to)
        / UDP(sport=68, dport=port)
        / BOOTP(op=1, chaddr=chaddr, xid=XID, ciaddr=ciaddr, giaddr=giaddr, flags=flags)
        / DHCP(options=[*options, "end"])
    )
    return bytes(frame)


@dataclass(frozen=True)
class Answer:
    """What scapy reads in an answer."""

    frame: Any
    options: dict[str, Any]

    @property
    def bootp(self) -> Any:
        return self.frame[BOOTP]


def read(frame: bytes) -> Answer:
    """Decode an answer; AssertionError if a length or a checksum is not what scapy itself would have written."""
    decoded = Ether(frame)
    again = Ether(frame)
    for layer, fields in ((IP, ("len", "chksum", "ihl")), (UDP, ("len", "chksum"))):
        for field in fields:
            delattr(again[layer], field)
    assert bytes(again) == frame
    found = {}
    for option in decoded[DHCP].options:
        if isinstance(option, tuple):
            found[option[0]] = option[1] if len(option) == 2 else list(option[1:])
    return Answer(decoded, found)
