"""What a bridge carries decides where machines go, and pools of two VLANs may have the same addresses."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import PlacedNic, Placement
from tests.controllers.universe import Universe, obeyed

NODE = Key("hosts", "", "node-1")
INSTANCE = Key("instances", "default", "web-1")
TAGGED = {"name": "lan", "network": "default", "vlan": 40}
RANGES = [{"name": "all", "first": "10.99.0.10", "last": "10.99.0.12"}]


def carry(universe: Universe, *vlans: str, host: Key = NODE) -> None:
    limit = {"vlans": list(vlans)} if vlans else {}
    universe.patch(host, bridges=[{"network": "default", "device": "br0", **limit}])
    universe.settle()


def pool(universe: Universe, name: str, vlan: int) -> None:
    universe.create(made("AddressPool", name, subnet="10.99.0.0/24", ranges=RANGES, vlan=vlan))
    universe.settle()


def run(universe: Universe, name: str = "web-1", *nics: dict[str, Any]) -> PlacedNic:
    universe.instance(name, nics=list(nics or [TAGGED]))
    universe.settle()
    obeyed(universe)
    universe.settle()
    return card(universe, name)


def card(universe: Universe, name: str = "web-1") -> PlacedNic:
    return universe.get(Placement, f"{name}-1", "default").spec.nics[0]


def ready(universe: Universe, name: str = "web-1") -> tuple[str, dict[str, Any]]:
    found = find(universe.web(name).status.conditions, "Ready")
    assert found is not None
    return found.reason, found.params


def test_machine_goes_where_its_vlan_is_carried(one: Universe) -> None:
    one.host("node-2")
    one.settle()
    carry(one, "0", "10-39")
    run(one)
    assert one.web().status.host == "node-2"


@pytest.mark.parametrize(
    ("nic", "lacks"),
    [
        (TAGGED, "VLAN 40"),
        ({"name": "lan", "network": "default"}, "frames without a tag (VLAN 0)"),
        ({"name": "lan", "addressPool": "tagged"}, "VLAN 50"),
    ],
    ids=["its own", "none", "its pool's"],
)
def test_host_that_does_not_carry_it_says_so_and_takes_it_once_it_does(
    one: Universe, nic: dict[str, Any], lacks: str
) -> None:
    pool(one, "tagged", 50)
    carry(one, "10-39")
    one.instance(nics=[nic])
    one.settle()
    reason, params = ready(one)
    assert (reason, params["hosts"]) == ("NoHostFits", f"node-1: its bridge for network default does not carry {lacks}")
    carry(one, "0", "10-60")
    assert one.web().status.host == "node-1"


def test_list_that_is_narrowed_stops_nothing_and_is_said(one: Universe) -> None:
    before = run(one)
    carry(one, "10-39")
    assert card(one) == before
    assert ready(one) == (
        "VlanWithdrawn",
        {"nic": "lan", "host": "node-1", "network": "default", "vlan": "VLAN 40"},
    )
    one.patch(INSTANCE, nics=[TAGGED | {"mtu": 1400}])
    one.settle()
    assert card(one).mtu == 1400  # all else of the card goes on being followed
    carry(one)
    obeyed(one)
    one.settle()
    assert ready(one)[0] == "AsDesired"


def test_card_does_not_go_to_what_its_host_does_not_carry(one: Universe) -> None:
    carry(one, "0", "40")
    before = run(one)
    one.patch(INSTANCE, nics=[TAGGED | {"vlan": 50}])
    one.settle()
    assert card(one) == before
    assert ready(one)[0] == "HostLacksVlan"
    (waiting,) = one.web().status.restart_awaiting_changes
    assert (waiting.path, waiting.operation) == ("spec.nics[lan]", "Refused")
    carry(one, "0", "40-50")
    assert card(one).vlan == 50


def test_two_vlans_have_the_same_addresses(one: Universe) -> None:
    pool(one, "ten", 10)
    pool(one, "twenty", 20)
    first = run(one, "web-1", {"name": "lan", "addressPool": "ten", "ip": "10.99.0.10"})
    second = run(one, "web-2", {"name": "lan", "addressPool": "twenty", "ip": "10.99.0.10"})
    assert (first.ip, first.vlan, second.vlan) == (second.ip, 10, 20)
    assert first.mac != second.mac
    assert [key.name for key in one.all("addresses")] == ["ten.10.99.0.10", "twenty.10.99.0.10"]


def test_card_stays_in_its_pools_vlan_while_another_pool_has_its_addresses(one: Universe) -> None:
    pool(one, "ten", 10)
    pool(one, "twenty", 20)
    one.instance(nics=[{"name": "lan", "addressPool": "ten", "vlan": 20}])
    one.settle()
    assert ready(one) == ("VlanOfPoolOnly", {"pool": "ten", "other": "twenty", "vlan": "VLAN 10"})
    one.patch(INSTANCE, nics=[{"name": "lan", "addressPool": "ten", "vlan": 10}])
    one.settle()
    before = card(one)
    assert before.vlan == 10
    one.patch(INSTANCE, nics=[{"name": "lan", "addressPool": "ten", "vlan": 30}])
    one.settle()
    assert (card(one), ready(one)[0]) == (before, "VlanOfPoolOnly")
