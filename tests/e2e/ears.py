"""Counting frames on a card: only those of interest are taken from the kernel, so that a flood overruns nobody."""

from __future__ import annotations

import ctypes
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_WORD, _HALF, _BYTE, _EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
IPV4, EVERYTHING = 0x0800, 0x0003
"""What a card receives of IPv4; everything, what it sends included."""
Part = tuple[int, int, int]
"""How many bytes at which place of a frame are which number."""


def sent_by(ip: str) -> Sequence[Part]:
    """IPv4 packets of that sender."""
    return ((2, 12, IPV4), (4, 26, int(IPv4Address(ip))))


def echoes_of(ip: str) -> Sequence[Part]:
    """ICMP echo requests of that sender."""
    return (*sent_by(ip), (1, 23, socket.IPPROTO_ICMP), (1, 34, 8))


def udp_to(port: int) -> Sequence[Part]:
    """UDP packets to that port."""
    return ((2, 12, IPV4), (1, 23, socket.IPPROTO_UDP), (2, 36, port))


class Ear:
    """What was heard so far: `times` of time.monotonic()."""

    def __init__(self, heard: socket.socket) -> None:
        self.times: list[float] = []
        self._heard, self._over = heard, False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def after(self, moment: float) -> list[float]:
        """When frames came after that moment."""
        return [at for at in self.times if at > moment]

    def close(self) -> None:
        """Hear nothing more."""
        self._over = True
        self._thread.join()

    def _listen(self) -> None:
        while not self._over:
            if select.select([self._heard], [], [], 0.1)[0]:
                self._heard.recv(128)
                self.times.append(time.monotonic())


@contextmanager
def ear(card: str, wanted: Sequence[Part], protocol: int = IPV4) -> Iterator[Ear]:
    """Of a card in the network of the calling thread."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as heard:
        program = b"".join(_instructions(wanted))
        room = ctypes.create_string_buffer(program)
        heard.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(room))
        )
        heard.bind((card, protocol))
        made = Ear(heard)
        try:
            yield made
        finally:
            made.close()


def _instructions(wanted: Sequence[Part]) -> Iterator[bytes]:
    """Classic BPF (Linux: Documentation/networking/filter.rst): a frame with all these parts, and no other."""
    left = 2 * len(wanted)
    for size, place, number in wanted:
        left -= 2
        yield struct.pack("HBBI", {1: _BYTE, 2: _HALF, 4: _WORD}[size], 0, 0, place)
        yield struct.pack("HBBI", _EQUAL, 0, left + 1, number)
    yield struct.pack("HBBI", _RETURN, 0, 0, 128)
    yield struct.pack("HBBI", _RETURN, 0, 0, 0)
