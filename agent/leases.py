"""Which cards of a host are given which addresses: Placements become reservations, which DHCP servers hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from nanovirt.agent.dhcp.answer import Reservation
from nanovirt.agent.dhcp.server import DhcpServer
from nanovirt.agent.segments import device_of
from nanovirt.resources.errors import Unavailable
from nanovirt.resources.placement import PlacedNic, PlacementSpec

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """A reservation on a bridge, which may be that of a VLAN."""

    bridge: str
    reservation: Reservation


def reservations(spec: PlacementSpec) -> tuple[Served, ...]:
    """What the cards of a machine are to be given; a card without address or lease gets its address elsewhere."""
    found = ((device_of(nic), _reservation(nic, spec.hostname)) for nic in spec.nics)
    return tuple(Served(bridge, reservation) for bridge, reservation in found if reservation is not None)


def _reservation(nic: PlacedNic, hostname: str) -> Reservation | None:
    if nic.ip is None or nic.lease is None or nic.lease.provider != "DHCP":
        return None
    lease = nic.lease
    return Reservation(
        mac=nic.mac,
        ip=nic.ip,
        subnet=lease.subnet,
        gateway=lease.gateway,
        dns=lease.dns,
        domain=lease.domain,
        hostname=hostname,
        lease_seconds=lease.seconds,
        mtu=nic.mtu,
    )


class Leases(Protocol):
    """Who gets an address on this host. Nothing here fails: a bridge that is not there yet is served when it comes."""

    def serve(self, uuid: str, served: Served) -> None:
        """Answer a card of that machine from now on, in the place of what its MAC was given before."""
        ...

    def withhold(self, uuid: str, mac: str) -> None:
        """Be silent to a card from now on."""
        ...

    def served(self, uuid: str) -> tuple[Served, ...]:
        """What the cards of a machine are given now."""
        ...

    def leased(self, uuid: str) -> frozenset[str]:
        """The MACs of a machine that have taken what they are given."""
        ...

    def refresh(self) -> None:
        """Mend what the host changed (bridges that came or went); called every few seconds."""
        ...


class Book:
    """Which machine has which reservations; what every implementation of Leases stands on."""

    def __init__(self) -> None:
        self._machines: dict[str, dict[str, Served]] = {}

    def put(self, uuid: str, served: Served) -> Served | None:
        """Note a reservation; gives the one that it replaces."""
        cards = self._machines.setdefault(uuid, {})
        before = cards.get(served.reservation.mac)
        cards[served.reservation.mac] = served
        return before

    def drop(self, uuid: str, mac: str) -> Served | None:
        """Strike a reservation out; gives what it was."""
        cards = self._machines.get(uuid, {})
        gone = cards.pop(mac, None)
        if not cards:
            self._machines.pop(uuid, None)
        return gone

    def of(self, uuid: str) -> tuple[Served, ...]:
        """The reservations of a machine."""
        cards = self._machines.get(uuid)
        return tuple(cards.values()) if cards else ()


class Bridges:
    """Leases given by one DHCP server for each bridge that has a reservation or is named at the start."""

    def __init__(self, bridges: tuple[str, ...] = ()) -> None:
        self._book = Book()
        self._named = frozenset(bridges)
        self._servers: dict[str, DhcpServer] = {name: DhcpServer(name) for name in bridges}
        self._complaints: dict[str, str] = {}

    @property
    def servers(self) -> Mapping[str, DhcpServer]:
        """The DHCP server of each bridge, for figures and tests."""
        return self._servers

    def serve(self, uuid: str, served: Served) -> None:
        """See Leases."""
        before = self._book.put(uuid, served)
        if before is not None and before.bridge != served.bridge:
            self._remove(before)
        fresh = served.bridge not in self._servers
        self._servers.setdefault(served.bridge, DhcpServer(served.bridge)).put(served.reservation)
        if fresh:
            with suppress(Unavailable):  # the next refresh says so: a bridge may be about to be made
                self._servers[served.bridge].refresh()

    def withhold(self, uuid: str, mac: str) -> None:
        """See Leases."""
        gone = self._book.drop(uuid, mac)
        if gone is not None:
            self._remove(gone)

    def _remove(self, served: Served) -> None:
        """A bridge may go with the last card on it: its server goes too, unless it was there from the start.

        It may have gone already, with a card of another machine that has the same MAC.
        """
        server = self._servers.get(served.bridge)
        if server is None:
            return
        server.remove(served.reservation.mac)
        if not server.reservations and served.bridge not in self._named:
            server.close()
            del self._servers[served.bridge]
            self._complaints.pop(served.bridge, None)

    def served(self, uuid: str) -> tuple[Served, ...]:
        """See Leases."""
        return self._book.of(uuid)

    def leased(self, uuid: str) -> frozenset[str]:
        """See Leases."""
        return frozenset(
            mac for bridge, reservation in self._book.of(uuid) if self._took(bridge, mac := reservation.mac)
        )

    def _took(self, bridge: str, mac: str) -> bool:
        server = self._servers.get(bridge)
        answered = server.answered.get(mac) if server is not None else None
        return answered is not None and answered.leased is not None

    def refresh(self) -> None:
        """See Leases."""
        for server in self._servers.values():
            self._refresh(server)

    def _refresh(self, server: DhcpServer) -> None:
        """A bridge that cannot be served is said once, not every few seconds."""
        try:
            server.refresh()
            self._complaints.pop(server.bridge, None)
        except Unavailable as error:
            if self._complaints.get(server.bridge) != str(error):
                log.warning("DHCP is not served", extra={"bridge": server.bridge, "detail": str(error)})
            self._complaints[server.bridge] = str(error)

    def close(self) -> None:
        """Stop listening everywhere."""
        for server in self._servers.values():
            server.close()
