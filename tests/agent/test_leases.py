"""From Placements to reservations, and the DHCP servers that hold them, on bridges that may not be there."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv4Network

import pytest

from nanovirt.agent.dhcp.answer import Reservation
from nanovirt.agent.leases import Book, Bridges, Served, reservations
from tests.agent.placements import MAC, UUID, spec, uuid

SERVED = reservations(spec())[0]
NIC = spec().nics[0]


def test_card_with_an_address_and_a_lease_becomes_a_reservation() -> None:
    lease = NIC.lease
    assert lease is not None
    full = NIC.model_copy(update={"mtu": 1400, "lease": lease.model_copy(update={"domain": "lab", "seconds": 600})})
    assert reservations(spec(nics=[full])) == (
        Served(
            "nano0",
            Reservation(
                mac=MAC,
                ip=IPv4Address("10.20.0.1"),
                subnet=IPv4Network("10.20.0.0/16"),
                gateway=IPv4Address("10.20.255.254"),
                dns=(IPv4Address("10.20.255.254"),),
                domain="lab",
                hostname="web-1",
                lease_seconds=600,
                mtu=1400,
            ),
        ),
    )


@pytest.mark.parametrize("without", ["ip", "lease"])
def test_card_of_the_physical_network_is_not_served(without: str) -> None:
    assert reservations(spec(nics=[NIC.model_copy(update={without: None})])) == ()


def test_book_knows_what_it_replaces_and_what_is_gone() -> None:
    book, moved = Book(), SERVED._replace(bridge="nano1")
    assert book.put(UUID, SERVED) is None
    assert book.put(UUID, moved) == SERVED
    assert book.of(UUID) == (moved,)
    assert book.of(uuid(2)) == ()
    assert book.drop(UUID, MAC) == moved
    assert book.drop(UUID, MAC) is None
    assert book.of(UUID) == ()


async def test_bridge_that_is_missing_is_said_once_and_served_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    bridges = Bridges(("nosuch0",))
    with caplog.at_level(logging.WARNING):
        bridges.serve(UUID, SERVED._replace(bridge="nosuch1"))
        for _ in range(3):
            bridges.refresh()
    said = [record.__dict__["bridge"] for record in caplog.records if record.message == "DHCP is not served"]
    assert sorted(said) == ["nosuch0", "nosuch1"]
    assert bridges.served(UUID) == (SERVED._replace(bridge="nosuch1"),)
    bridges.close()


async def test_card_that_moves_to_another_bridge_is_served_there_only() -> None:
    bridges = Bridges()
    bridges.serve(UUID, SERVED._replace(bridge="nosuch0"))
    bridges.serve(UUID, SERVED._replace(bridge="nosuch1"))
    held = {name: list(server._reservations) for name, server in bridges.servers.items()}
    assert held == {"nosuch1": [bytes.fromhex(MAC.replace(":", ""))]}
    assert bridges.leased(UUID) == frozenset()
    bridges.withhold(UUID, MAC)
    bridges.withhold(UUID, MAC)
    assert not bridges.servers  # the bridge may have been there for this card alone
    assert bridges.served(UUID) == ()
    bridges.close()


async def test_same_address_in_two_vlans_is_given_to_each_on_its_own_bridge() -> None:
    bridges, other = Bridges(), uuid(2)
    cards = {UUID: NIC.model_copy(update={"vlan": 10})}
    cards[other] = NIC.model_copy(update={"vlan": 20, "mac": "52:54:00:00:00:22"})
    for one, nic in cards.items():
        (served,) = reservations(spec(nics=[nic]))
        assert served.bridge == f"nano0.{nic.vlan}"
        bridges.serve(one, served)
    held = {name: list(server.reservations.values()) for name, server in bridges.servers.items()}
    assert {name: [(one.mac, one.ip) for one in found] for name, found in held.items()} == {
        f"nano0.{nic.vlan}": [(nic.mac, nic.ip)] for nic in cards.values()
    }
    bridges.withhold(UUID, MAC)
    assert [served.bridge for served in bridges.served(other)] == ["nano0.20"]
    bridges.close()


async def test_machine_whose_mac_another_had_too_is_withheld_without_a_server() -> None:
    bridges, served = Bridges(), SERVED._replace(bridge="nosuch0")
    for one in (UUID, uuid(2)):
        bridges.serve(one, served)
    bridges.withhold(UUID, MAC)
    assert not bridges.servers
    assert bridges.leased(uuid(2)) == frozenset()
    bridges.withhold(uuid(2), MAC)
    assert bridges.served(uuid(2)) == ()
    bridges.close()
