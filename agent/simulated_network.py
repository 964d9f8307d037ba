"""The network of a simulated host: its guests take their leases from the bytes that a real one would get (RFC 2131)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from nanovirt.agent.dhcp.answer import FALLBACK_SERVER, Prepared, answer, prepare, raw_mac
from nanovirt.agent.dhcp.packet import (
    BOOTP,
    CLIENT_PORT,
    COOKIE,
    ETHERNET,
    ETHERTYPE_IPV4,
    IPV4,
    PROTOCOL_UDP,
    SERVER_PORT,
    UDP,
    parse_frame,
)
from nanovirt.agent.leases import Book, Served
from nanovirt.agent.segments import Segment

SERVER_MAC = "02:00:00:00:00:fe"

_EVERY_MAC, _NOWHERE, _EVERYWHERE = b"\xff" * 6, b"\0" * 4, b"\xff" * 4
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_OPTIONS_AT = ETHERNET.size + IPV4.size + UDP.size + BOOTP.size
_YIADDR_AT = ETHERNET.size + IPV4.size + UDP.size + 16
_TYPE, _REQUESTED, _SERVER, _END = 53, 50, 54, 255


class SimulatedLeases:
    """Leases without a socket: a guest that boots asks here."""

    def __init__(self) -> None:
        self._book = Book()
        self._prepared: dict[str, Prepared] = {}
        self._leased: dict[str, set[str]] = {}

    def serve(self, uuid: str, served: Served) -> None:
        """See Leases."""
        if self._book.put(uuid, served) != served:
            self._prepared.pop(served.reservation.mac, None)
            self._leased.get(uuid, set()).discard(served.reservation.mac)

    def withhold(self, uuid: str, mac: str) -> None:
        """See Leases."""
        self._book.drop(uuid, mac)
        self._prepared.pop(mac, None)
        self._leased.get(uuid, set()).discard(mac)

    def served(self, uuid: str) -> tuple[Served, ...]:
        """See Leases."""
        return self._book.of(uuid)

    def leased(self, uuid: str) -> frozenset[str]:
        """See Leases."""
        return frozenset(self._leased.get(uuid, ()))

    def refresh(self) -> None:
        """See Leases."""

    def forget_all(self) -> None:
        """The agent's process ended: nothing is answered until a new one serves again."""
        self._book, self._prepared, self._leased = Book(), {}, {}

    def ask(self, uuid: str, mac: str, xid: int) -> bool:
        """A card asks for its address; whether it got the one that is meant for it."""
        found = next((one for one in self._book.of(uuid) if one.reservation.mac == mac), None)
        if found is None:
            return False
        prepared = self._prepared.get(mac)
        if prepared is None:
            prepared = self._prepared[mac] = prepare(found.reservation, FALLBACK_SERVER, SERVER_MAC)
        if take_lease(mac, xid, prepared) != found.reservation.ip:
            return False
        self._leased.setdefault(uuid, set()).add(mac)
        return True


class SimulatedSegments:
    """Segments without devices: one goes at once when no machine is in it any more."""

    def __init__(self) -> None:
        self.made: set[Segment] = set()
        self._wished: dict[str, tuple[Segment, ...]] = {}

    def expect(self, uuid: str, segments: tuple[Segment, ...]) -> None:
        """See Segments."""
        self._wished[uuid] = segments
        self.made &= {one for held in self._wished.values() for one in held}

    def there(self, segments: Iterable[Segment]) -> frozenset[Segment]:
        """See Segments."""
        return frozenset(segments) & self.made

    async def make(self, segment: Segment) -> None:
        """See Segments."""
        self.made.add(segment)


def take_lease(mac: str, xid: int, prepared: Prepared | None) -> IPv4Address | None:
    """DISCOVER, OFFER, REQUEST, ACK; the address, or None when nobody answers or the answer is not what it must be."""
    chaddr = raw_mac(mac)
    offer = _ask(chaddr, xid, prepared, bytes((_TYPE, 1, _DISCOVER)))
    if offer is None or _option(offer, _TYPE) != bytes((_OFFER,)):
        return None
    wanted, server = offer[_YIADDR_AT : _YIADDR_AT + 4], _option(offer, _SERVER)
    asked = bytes((_TYPE, 1, _REQUEST, _REQUESTED, 4)) + wanted + bytes((_SERVER, 4)) + server
    ack = _ask(chaddr, xid, prepared, asked)
    if ack is None or _option(ack, _TYPE) != bytes((_ACK,)):
        return None
    return IPv4Address(ack[_YIADDR_AT : _YIADDR_AT + 4])


def _ask(chaddr: bytes, xid: int, prepared: Prepared | None, options: bytes) -> bytes | None:
    request = parse_frame(_frame(chaddr, xid, options))
    return None if request is None else answer(request, prepared)


def _frame(chaddr: bytes, xid: int, options: bytes) -> bytes:
    """A broadcast as a client without an address sends it; the UDP checksum is left out, as IPv4 allows."""
    body = BOOTP.pack(1, 1, 6, 0, xid, 0, 0, *[_NOWHERE] * 4, chaddr, b"", b"", COOKIE) + options + bytes((_END,))
    length = UDP.size + len(body)
    ip = IPV4.pack(0x45, 0, IPV4.size + length, 0, 0, 64, PROTOCOL_UDP, 0, _NOWHERE, _EVERYWHERE)
    udp = UDP.pack(CLIENT_PORT, SERVER_PORT, length, 0)
    return ETHERNET.pack(_EVERY_MAC, chaddr, ETHERTYPE_IPV4) + ip + udp + body


def _option(frame: bytes, code: int) -> bytes:
    """The value of an option in an answer of ours, which never overloads other fields; b"" if it is not there."""
    at = _OPTIONS_AT
    while at < len(frame) and frame[at] != _END:
        (length,) = struct.unpack_from("B", frame, at + 1)
        if frame[at] == code:
            return frame[at + 2 : at + 2 + length]
        at += 2 + length
    return b""
