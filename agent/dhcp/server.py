"""The DHCP server of one bridge: a raw socket that hears the machines on the bridge and answers those it knows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import socket
from types import MappingProxyType
from typing import Final, NamedTuple

from nanovirt.agent.dhcp import link
from nanovirt.agent.dhcp.answer import FALLBACK_SERVER, Prepared, Reply, Reservation, decide, prepare, raw_mac, render
from nanovirt.agent.dhcp.packet import Message, parse_frame
from nanovirt.resources.errors import Unavailable

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # frames per wake-up, so that a flood cannot keep the loop from its other work
_STRANGERS_PER_SECOND: Final = 10


class Answered(NamedTuple):
    """What one card was told since its reservation was made; times are seconds since the epoch, None = never."""

    offers: int = 0
    acks: int = 0
    settings: int = 0
    naks: int = 0
    last_seen: float | None = None
    leased: float | None = None

    def after(self, reply: Reply, now: float) -> Answered:
        """Add one answer, given at `now`."""
        return Answered(
            self.offers + (reply is Reply.OFFER),
            self.acks + (reply is Reply.ACK),
            self.settings + (reply is Reply.SETTINGS),
            self.naks + (reply is Reply.NAK),
            now,
            now if reply is Reply.ACK else self.leased,
        )


@dataclass(frozen=True, slots=True)
class _Ear:
    """An open socket, the bridge as it was then, and the loop that reads it."""

    place: link.Place
    socket: socket
    loop: asyncio.AbstractEventLoop


class DhcpServer:
    """Answers the reservations it was given, on one bridge, from memory; everybody else hears nothing.

    All methods belong to the thread of the event loop that `open` ran in.
    """

    def __init__(self, bridge: str, clock: Callable[[], float] = time.time) -> None:
        self.bridge = bridge
        self._clock = clock
        self._ear: _Ear | None = None
        self._reservations: dict[bytes, Reservation] = {}
        self._prepared: dict[bytes, Prepared] = {}
        self._answered: dict[str, Answered] = {}
        self._strangers = Strangers()

    @property
    def server_ip(self) -> IPv4Address:
        """The server identifier: the bridge's own address, or 169.254.169.254 when it has none (or is not open)."""
        return (self._ear and self._ear.place.ip) or FALLBACK_SERVER

    @property
    def reservations(self) -> Mapping[str, Reservation]:
        """What is held now, by MAC."""
        return {held.mac: held for held in self._reservations.values()}

    @property
    def answered(self) -> Mapping[str, Answered]:
        """What each card with a reservation was told, by MAC; a card that never asked is not in it."""
        return MappingProxyType(self._answered)

    @property
    def strangers(self) -> int:
        """Frames of MACs without a reservation since the server was made."""
        return self._strangers.total

    def set(self, reservations: Mapping[str, Reservation]) -> None:
        """Hold exactly these, by MAC; what did not change keeps its counters. ValueError for a MAC that is none."""
        wanted = {raw_mac(mac): reservation for mac, reservation in reservations.items()}
        for gone in self._reservations.keys() - wanted.keys():
            self._forget(gone)
        for chaddr, reservation in wanted.items():
            self._hold(chaddr, reservation)

    def put(self, reservation: Reservation) -> None:
        """Add one, or change it. ValueError for a MAC that is none."""
        self._hold(raw_mac(reservation.mac), reservation)

    def remove(self, mac: str) -> None:
        """Be silent to that MAC from now on; nothing happens if it is not known."""
        self._forget(raw_mac(mac))

    def _hold(self, chaddr: bytes, reservation: Reservation) -> None:
        if self._reservations.get(chaddr) == reservation:
            return
        self._forget(chaddr)
        self._reservations[chaddr] = reservation

    def _forget(self, chaddr: bytes) -> None:
        self._prepared.pop(chaddr, None)
        gone = self._reservations.pop(chaddr, None)
        if gone is not None:
            self._answered.pop(gone.mac, None)

    def open(self) -> None:
        """Listen, in the running event loop. Does nothing if it listens already.

        Raises Unavailable if the bridge is missing or the socket is refused (it needs CAP_NET_RAW).
        """
        if self._ear is None:
            self._listen(link.locate(self.bridge))

    def refresh(self) -> None:
        """Be open, anew if the bridge was made anew or has another address or MAC; to be called every few seconds.

        Raises Unavailable if the bridge is missing or the socket is refused; the server is then closed, and the next
        call tries again.
        """
        try:
            place = link.locate(self.bridge)
        except Unavailable:
            self.close()
            raise
        if self._ear is None or self._ear.place != place:
            self.close()
            self._listen(place)

    def close(self) -> None:
        """Stop listening; reservations and counters stay. Does nothing if it does not listen."""
        if self._ear is None:
            return
        self._ear.loop.remove_reader(self._ear.socket)
        self._ear.socket.close()
        self._ear = None
        self._prepared.clear()
        log.info("DHCP server closed", extra={"bridge": self.bridge})

    def _listen(self, place: link.Place) -> None:
        ear = self._ear = _Ear(place, link.listen(place), asyncio.get_running_loop())
        ear.loop.add_reader(ear.socket, self._read, ear)
        log.info("DHCP server listens", extra={"bridge": self.bridge, "server_ip": str(self.server_ip)})

    def _read(self, ear: _Ear) -> None:
        """Answer what has arrived; what is left wakes the loop again."""
        for _ in range(_AT_ONCE):
            frame = link.receive(ear.socket)
            if frame is None:
                return
            # An answer needs the sender's MAC to be the client's, so a stranger costs one look-up and no parsing.
            if frame[6:12] in self._reservations:
                self._known(ear, frame)
            else:
                self._strange(frame)

    def _known(self, ear: _Ear, frame: bytes) -> None:
        request = parse_frame(frame)
        if request is None:
            return
        prepared = self._prepared.get(request.ethernet_source) or self._prepare(request.ethernet_source, ear.place)
        reply = decide(request, prepared)
        if reply is not None and link.send(ear.socket, render(request, prepared, reply)):
            self._count(request.chaddr, reply)
        elif request.message is Message.DECLINE:
            log.warning("guest declined its address: is it in use twice?", extra={"mac": request.chaddr.hex(":")})

    def _prepare(self, chaddr: bytes, place: link.Place) -> Prepared:
        made = self._prepared[chaddr] = prepare(self._reservations[chaddr], place.ip or FALLBACK_SERVER, place.mac)
        return made

    def _count(self, chaddr: bytes, reply: Reply) -> None:
        mac = self._reservations[chaddr].mac
        known = self._answered.get(mac)
        self._answered[mac] = (known or Answered()).after(reply, self._clock())

    def _strange(self, frame: bytes) -> None:
        if self._strangers.seen(self._clock()):
            log.debug("request of an unknown MAC ignored", extra={"bridge": self.bridge, "mac": frame[6:12].hex(":")})


class Strangers:
    """Counts unknown MACs, and says which of them are worth a line in the log: a few per second."""

    def __init__(self) -> None:
        self.total = 0
        self._second = 0
        self._in_second = 0

    def seen(self, now: float) -> bool:
        """Count one frame that came at `now`; True for the first ten of a second."""
        self.total += 1
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += 1
        return self._in_second <= _STRANGERS_PER_SECOND
