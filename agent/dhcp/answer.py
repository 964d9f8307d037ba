"""Answering: what a client gets to its request, as the bytes of a whole Ethernet frame or silence."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network
from typing import Final, assert_never

from nanovirt.agent.dhcp.packet import (
    BROADCAST_FLAG,
    CLIENT_PORT,
    COOKIE,
    ETHERTYPE_IPV4,
    IPV4,
    NOWHERE,
    PROTOCOL_UDP,
    SERVER_PORT,
    UDP,
    Message,
    Option,
    Request,
)

FALLBACK_SERVER: Final = IPv4Address("169.254.169.254")

_EVERY_MAC = b"\xff" * 6
_EVERYWHERE = b"\xff" * 4
_KINDS = (Message.OFFER, Message.ACK, Message.NAK)
_SMALLEST = 300  # bytes of a BOOTP message; some clients and relays drop shorter ones (RFC 1542, 2.1)
_ROOM = 308  # bytes of options that every client takes (RFC 2131, section 2: 312 with the cookie)
_HEADERS = struct.Struct("!6s6sHHHHHHH4s4sHHHH")  # Ethernet, IPv4 and UDP
_VERSION, _WHOLE, _TTL_UDP = 0x4500, 0x4000, 64 << 8 | PROTOCOL_UDP  # IPv4's first, fourth and fifth word
_START = struct.Struct("!BBBBIHH4s4s")  # a BOOTP message up to yiaddr
_REST = struct.Struct("!4s4s16s64s128s4s")  # and from siaddr to the cookie


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one network card is given: `mac` in lower case with colons, `lease_seconds` from 1 to 2**32 - 1."""

    mac: str
    ip: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    domain: str
    hostname: str
    lease_seconds: int
    mtu: int | None


class Reply(Enum):
    """What a client is told: an address for the asking, its address, settings alone (for INFORM), or to start anew."""

    OFFER = auto()
    ACK = auto()
    SETTINGS = auto()
    NAK = auto()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A reservation as bytes: for each reply all that follows yiaddr, but for the client id and the end option."""

    chaddr: bytes
    ip: bytes
    server_ip: bytes
    server_mac: bytes
    offer: bytes
    ack: bytes
    settings: bytes
    nak: bytes


def prepare(reservation: Reservation, server_ip: IPv4Address, server_mac: str) -> Prepared:
    """Build a reservation's options once: T1 is half the lease, T2 seven eighths (RFC 2131, 4.4.5).

    Options that do not fit into the 308 bytes that every client takes are left out, the least needed ones first.
    Raises ValueError for a MAC that is none.
    """
    chaddr, times, server = raw_mac(reservation.mac), _times(reservation), _option(Option.SERVER_ID, server_ip.packed)
    rest = _REST.pack(NOWHERE, NOWHERE, chaddr, b"", b"", COOKIE)
    offer, ack, nak = (rest + _option(Option.MESSAGE_TYPE, bytes((kind,))) + server for kind in _KINDS)
    settings = _fitting(_settings(reservation), _ROOM - (len(ack) - len(rest)) - len(times) - 1)
    return Prepared(
        chaddr=chaddr,
        ip=reservation.ip.packed,
        server_ip=server_ip.packed,
        server_mac=raw_mac(server_mac),
        offer=offer + times + settings,
        ack=ack + times + settings,
        settings=ack + settings,
        nak=nak,
    )


def raw_mac(mac: str) -> bytes:
    """The six bytes of `52:54:00:1a:2b:3c`; ValueError for anything else."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"{mac!r} is not a MAC address of six bytes")
    return raw


def answer(request: Request, prepared: Prepared | None) -> bytes | None:
    """The whole Ethernet frame to send back, or None for silence."""
    reply = decide(request, prepared)
    return render(request, prepared, reply) if prepared and reply else None


def decide(request: Request, prepared: Prepared | None) -> Reply | None:
    """What a client is told (RFC 2131, 4.3); None is silence.

    Silence for a MAC without a reservation, for a frame that came from another MAC than its client's, for relayed
    requests, for requests meant for another server, and for messages that want no answer.
    """
    if prepared is None or not request.chaddr == request.ethernet_source == prepared.chaddr:
        return None
    if request.giaddr != NOWHERE or request.server_id not in (None, prepared.server_ip):
        return None
    match request.message:
        case Message.DISCOVER:
            return Reply.OFFER
        case Message.REQUEST:
            return _to_request(request, prepared.ip)
        case Message.INFORM if request.ciaddr == prepared.ip:
            return Reply.SETTINGS
        case _:
            return None


def _to_request(request: Request, ip: bytes) -> Reply | None:
    """SELECTING and INIT-REBOOT name the address in an option, RENEWING and REBINDING in ciaddr (RFC 2131, 4.3.2)."""
    wanted = request.ciaddr if request.requested_ip is None else request.requested_ip
    if wanted == NOWHERE:
        return None
    return Reply.ACK if wanted == ip else Reply.NAK


def render(request: Request, prepared: Prepared, reply: Reply) -> bytes:
    """Write the decision as a whole Ethernet frame, so that neither ARP nor an IP stack is needed to send it."""
    destination_mac, destination = _destination(request, prepared, reply)
    bootp = _bootp(request, prepared, reply)
    length = UDP.size + len(bootp)
    total = IPV4.size + length
    addresses = int.from_bytes(prepared.server_ip + destination)
    header = _VERSION + total + _WHOLE + _TTL_UDP + addresses
    datagram = addresses + PROTOCOL_UDP + length + SERVER_PORT + CLIENT_PORT + length + int.from_bytes(bootp)
    # fmt: off
    return _HEADERS.pack(
        destination_mac, prepared.server_mac, ETHERTYPE_IPV4,
        _VERSION, total, 0, _WHOLE, _TTL_UDP, checksum(header), prepared.server_ip, destination,
        SERVER_PORT, CLIENT_PORT, length, checksum(datagram) or 0xFFFF,
    ) + bootp
    # fmt: on


def _destination(request: Request, prepared: Prepared, reply: Reply) -> tuple[bytes, bytes]:
    """MAC and IP to send to (RFC 2131, 4.1): a refusal goes to all, since the client may have no right address."""
    if reply is Reply.NAK:
        return _EVERY_MAC, _EVERYWHERE
    if request.ciaddr != NOWHERE:
        return prepared.chaddr, request.ciaddr
    if request.broadcast:
        return _EVERY_MAC, _EVERYWHERE
    return prepared.chaddr, prepared.ip


def _bootp(request: Request, prepared: Prepared, reply: Reply) -> bytes:
    """The message, its fixed fields as in RFC 2131's table 3; the client id comes back (RFC 6842). Even length."""
    flags, ciaddr, yiaddr = request.flags & BROADCAST_FLAG, NOWHERE, NOWHERE
    match reply:
        case Reply.OFFER:
            yiaddr, rest = prepared.ip, prepared.offer
        case Reply.ACK:
            ciaddr, yiaddr, rest = request.ciaddr, prepared.ip, prepared.ack
        case Reply.SETTINGS:
            ciaddr, rest = request.ciaddr, prepared.settings
        case Reply.NAK:
            flags, rest = BROADCAST_FLAG, prepared.nak
        case _:
            assert_never(reply)
    start = _START.pack(2, 1, 6, 0, request.xid, 0, flags, ciaddr, yiaddr)
    client = _option(Option.CLIENT_ID, request.client_id) if request.client_id else b""
    message = start + rest + client + b"\xff"
    return message.ljust(max(_SMALLEST, len(message) + len(message) % 2), b"\0")


def _times(reservation: Reservation) -> bytes:
    lease = reservation.lease_seconds
    return (
        _option(Option.LEASE_SECONDS, lease.to_bytes(4))
        + _option(Option.RENEWAL_SECONDS, (lease // 2).to_bytes(4))
        + _option(Option.REBINDING_SECONDS, (lease * 7 // 8).to_bytes(4))
    )


def _settings(reservation: Reservation) -> Iterator[bytes]:
    """The options of a reservation, the most needed first; the netmask has to precede the router (RFC 2132, 3.3)."""
    yield _option(Option.NETMASK, reservation.subnet.netmask.packed)
    if reservation.gateway is not None:
        yield _option(Option.ROUTER, reservation.gateway.packed)
    if reservation.mtu is not None:
        yield _option(Option.MTU, reservation.mtu.to_bytes(2))
    if reservation.dns:
        yield _option(Option.DNS, b"".join(server.packed for server in reservation.dns))
    if reservation.hostname:
        yield _option(Option.HOSTNAME, reservation.hostname.encode("ascii", "replace"))
    if reservation.domain:
        yield _option(Option.DOMAIN, reservation.domain.encode("ascii", "replace"))
    if reservation.subnet.prefixlen < 31:  # RFC 3021: a /31 has no broadcast address
        yield _option(Option.BROADCAST, reservation.subnet.broadcast_address.packed)


def _fitting(options: Iterator[bytes], room: int) -> bytes:
    kept = b""
    for option in options:
        if option and len(kept) + len(option) <= room:
            kept += option
    return kept


def _option(code: int, value: bytes) -> bytes:
    """One option; nothing for a value that is too long for its length byte."""
    return bytes((code, len(value))) + value if len(value) < 256 else b""


def checksum(number: int) -> int:
    """The Internet checksum (RFC 1071) of 16-bit words, given as their sum or as the one long number that they spell.

    Either works because 2**16 leaves 1 when divided by 65535: ones' complement addition is arithmetic modulo 65535.
    """
    return (0xFFFF - number % 0xFFFF) % 0xFFFF
