"""Reading: from the bytes of an Ethernet frame to what a DHCP client asks, or None."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

COOKIE: Final = b"\x63\x82\x53\x63"
ETHERNET: Final = struct.Struct("!6s6sH")
IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
UDP: Final = struct.Struct("!HHHH")
BOOTP: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
BROADCAST_FLAG: Final = 0x8000
ETHERTYPE_IPV4: Final = 0x0800
PROTOCOL_UDP: Final = 17

NOWHERE: Final = bytes(4)

_FRAGMENT = 0x3FFF  # "more fragments" and the offset: all bits of the field but "don't fragment"
_IN_FILE, _IN_SNAME = 1, 2


class Option:
    """The options that are read or written here (RFC 2132).

    Plain numbers, since enum members as keys cost a third of the parsing.
    """

    PAD: Final = 0
    NETMASK: Final = 1
    ROUTER: Final = 3
    DNS: Final = 6
    HOSTNAME: Final = 12
    DOMAIN: Final = 15
    MTU: Final = 26
    BROADCAST: Final = 28
    REQUESTED_IP: Final = 50
    LEASE_SECONDS: Final = 51
    OVERLOAD: Final = 52
    MESSAGE_TYPE: Final = 53
    SERVER_ID: Final = 54
    PARAMETERS: Final = 55
    RENEWAL_SECONDS: Final = 58
    REBINDING_SECONDS: Final = 59
    CLIENT_ID: Final = 61
    END: Final = 255


class Message(IntEnum):
    """Option 53 (RFC 2132, 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


_MESSAGES: Final = {bytes((message,)): message for message in Message}


class Request(NamedTuple):
    """What a client asks; IPs are 4 and MACs 6 raw bytes. An option not sent is None, a list not sent is empty."""

    op: int
    xid: int
    flags: int
    ciaddr: bytes
    giaddr: bytes
    chaddr: bytes
    message: Message
    requested_ip: bytes | None
    server_id: bytes | None
    hostname: bytes | None
    client_id: bytes | None
    parameters: bytes
    ethernet_source: bytes

    @property
    def broadcast(self) -> bool:
        """The client cannot take unicast before it has an address (RFC 2131, 4.1)."""
        return bool(self.flags & BROADCAST_FLAG)


def parse_frame(frame: bytes) -> Request | None:
    """What the DHCP client behind an untagged Ethernet frame asks; None for anything else, whatever the bytes.

    Padding after the datagram is tolerated, fragments are not. The UDP checksum is not verified: a frame that comes
    straight from a tap has it only half computed. It is the sender's MAC, not a checksum, that decides about an answer.
    """
    if len(frame) < ETHERNET.size + IPV4.size:
        return None
    _, source, ethertype = ETHERNET.unpack_from(frame)
    payload = _udp_payload(frame) if ethertype == ETHERTYPE_IPV4 else None
    return None if payload is None else parse_bootp(payload, source)


def _udp_payload(frame: bytes) -> bytes | None:
    """The bytes of an IPv4/UDP datagram to the server's port; `frame` has room for both fixed headers up to IPv4's."""
    version, _, total, _, fragment, _, protocol, _, _, _ = IPV4.unpack_from(frame, ETHERNET.size)
    header = (version & 0x0F) * 4
    if version >> 4 != 4 or header < IPV4.size or protocol != PROTOCOL_UDP or fragment & _FRAGMENT:
        return None
    if total < header + UDP.size or ETHERNET.size + total > len(frame):
        return None
    start = ETHERNET.size + header
    _, port, length, _ = UDP.unpack_from(frame, start)
    if port != SERVER_PORT or not UDP.size <= length <= total - header:
        return None
    return frame[start + UDP.size : start + length]


def parse_bootp(payload: bytes, ethernet_source: bytes) -> Request | None:
    """What a BOOTP payload (a whole UDP datagram, RFC 2131 section 2) asks; None unless it is a well-formed request.

    Refused: other hardware than Ethernet, no message type, an option that runs over the end or has a wrong length.
    """
    if len(payload) < BOOTP.size:
        return None
    op, htype, hlen, _, xid, _, flags, ciaddr, _, _, giaddr, chaddr, sname, file, cookie = BOOTP.unpack_from(payload)
    if op != 1 or htype != 1 or hlen != 6 or cookie != COOKIE:
        return None
    options = _options(payload[BOOTP.size :], file, sname)
    message = _message(options) if options else None
    if not options or message is None:
        return None
    wanted, server = options.get(Option.REQUESTED_IP), options.get(Option.SERVER_ID)
    if (wanted is not None and len(wanted) != 4) or (server is not None and len(server) != 4):
        return None
    return Request(
        op=op,
        xid=xid,
        flags=flags,
        ciaddr=ciaddr,
        giaddr=giaddr,
        chaddr=chaddr[:6],
        message=message,
        requested_ip=wanted,
        server_id=server,
        hostname=options.get(Option.HOSTNAME),
        client_id=options.get(Option.CLIENT_ID),
        parameters=options.get(Option.PARAMETERS, b""),
        ethernet_source=ethernet_source,
    )


def _message(options: dict[int, bytes]) -> Message | None:
    """The message type, if it is one of RFC 2131's."""
    return _MESSAGES.get(options.get(Option.MESSAGE_TYPE, b""))


def _options(field: bytes, file: bytes, sname: bytes) -> dict[int, bytes] | None:
    """All options, those in the overloaded `file` and `sname` fields too, in that order (RFC 3396, section 5)."""
    found: dict[int, bytes] = {}
    if not _collect(field, found):
        return None
    overload = found.get(Option.OVERLOAD, b"\0")
    if len(overload) != 1 or overload[0] > _IN_FILE | _IN_SNAME:
        return None
    if overload[0] & _IN_FILE and not _collect(file, found):
        return None
    if overload[0] & _IN_SNAME and not _collect(sname, found):
        return None
    return found


def _collect(field: bytes, found: dict[int, bytes]) -> bool:
    """Add the options of one field; parts of one option are joined (RFC 3396). False if one runs over the end.

    A field that stops without the end option is accepted, as real clients send such.
    """
    at, end = 0, len(field)
    while at < end:
        code = field[at]
        if code == Option.END:
            return True
        if code == Option.PAD:
            at += 1
            continue
        if at + 2 > end or at + 2 + field[at + 1] > end:
            return False
        value = field[at + 2 : at + 2 + field[at + 1]]
        found[code] = found[code] + value if code in found else value
        at += 2 + len(value)
    return True
