"""The raw socket of a bridge, and what the kernel says of the bridge; the only place of the server that does I/O."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import IPv4Address
from typing import Final

from nanovirt.agent.dhcp.packet import ETHERTYPE_IPV4, PROTOCOL_UDP, SERVER_PORT
from nanovirt.resources.errors import Unavailable

# What Linux's headers call these; the socket module lacks them.
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFHWADDR: Final = 0x8927
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_NAME_SIZE: Final = 16

MARK: Final = 0x6E616E6F
"""The mark of our own answers, by which the firewall knows them from other servers' on the same machine."""

_RECEIVE_BUFFER: Final = 4 << 20
_LONGEST: Final = 2048  # bytes of a frame; what is longer arrives cut and is not parsed

# Classic BPF: what tcpdump would make of "inbound and udp dst port 67". A frame of a VLAN arrives here without its tag,
# but as one for another host; an answer to it would be untagged.
_DROP: Final = 12
_FILTER: Final = (
    (0x28, 0, 0, 0xFFFFF004),  # 0: packet type: to us, to all and to many come first
    (0x25, _DROP - 2, 0, socket.PACKET_MULTICAST),
    (0x28, 0, 0, 12),  # 2: ethertype
    (0x15, 0, _DROP - 4, ETHERTYPE_IPV4),
    (0x30, 0, 0, 23),  # 4: protocol
    (0x15, 0, _DROP - 6, PROTOCOL_UDP),
    (0x28, 0, 0, 20),  # 6: fragment offset
    (0x45, _DROP - 8, 0, 0x1FFF),
    (0xB1, 0, 0, 14),  # 8: x = length of the IP header
    (0x48, 0, 0, 16),  # 9: destination port
    (0x15, 0, _DROP - 11, SERVER_PORT),
    (0x06, 0, 0, 0xFFFF),  # 11: take it whole
    (0x06, 0, 0, 0),  # 12: drop
)


@dataclass(frozen=True, slots=True)
class Place:
    """A bridge as the kernel has it now; `ip` is its first IPv4 address."""

    bridge: str
    index: int
    mac: str
    ip: IPv4Address | None


def locate(bridge: str) -> Place:
    """Look the bridge up; Unavailable if there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            mac = _ask(asking, _SIOCGIFHWADDR, bridge)[2:8].hex(":")
            return Place(bridge, socket.if_nametoindex(bridge), mac, _own_ip(asking, bridge))
    except OSError as error:
        raise Unavailable(f"bridge {bridge} cannot be used: {error.strerror}; make it, or name another one") from error


def _own_ip(asking: socket.socket, bridge: str) -> IPv4Address | None:
    try:
        return IPv4Address(_ask(asking, _SIOCGIFADDR, bridge)[4:8])
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise


def _ask(asking: socket.socket, question: int, bridge: str) -> bytes:
    """The sockaddr of a struct ifreq (netdevice(7))."""
    name = bridge.encode()
    if not 0 < len(name) < _NAME_SIZE or b"\0" in name:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return ioctl(asking, question, struct.pack("16s24x", name))[16:]


def listen(place: Place) -> socket.socket:
    """A non-blocking socket that hears exactly the DHCP requests on that bridge; Unavailable if the kernel refuses."""
    # Protocol 0 hears nothing: no foreign frame is queued before the filter stands.
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        raise Unavailable(f"no raw socket for {place.bridge}: {error.strerror}; the agent needs CAP_NET_RAW") from error
    try:
        _configure(opened)
        opened.bind((place.bridge, ETHERTYPE_IPV4))
    except OSError as error:
        opened.close()
        raise Unavailable(f"cannot listen on {place.bridge}: {error.strerror}; will be tried again") from error
    return opened


def _configure(opened: socket.socket) -> None:
    code = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
    steps = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FILTER), ctypes.addressof(steps)))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    opened.settimeout(0)


def receive(opened: socket.socket) -> bytes | None:
    """Take the next frame; None if there is none now, also because the bridge went down or away."""
    try:
        return opened.recv(_LONGEST)
    except OSError:  # the kernel tells an error once and then clears it
        return None


def send(opened: socket.socket, frame: bytes) -> bool:
    """Send a frame; False if the bridge is down or its queue full: the client asks again."""
    try:
        return opened.send(frame) == len(frame)
    except OSError:
        return False
