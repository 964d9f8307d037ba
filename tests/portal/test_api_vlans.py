"""Admission of VLANs: what the host of a machine does not carry, and pools with the same addresses."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.kind import Key
from nanovirt.resources.store import Half, Update
from tests.portal.api_world import INSTANCES, MERGE, NANO, World, instance, pool, world

POOLS, HOSTS = f"{NANO}/addresspools", f"{NANO}/hosts"
CARD = {"name": "lan", "network": "default", "vlan": 10}


def causes(doc: Any) -> list[tuple[str, str]]:
    return [(one["field"], one["reason"]) for one in doc["details"].get("causes", [])]


def host(*vlans: Any) -> dict[str, Any]:
    bridge = {"network": "default", "device": "br0", "vlans": list(vlans)}
    return {"apiVersion": "nano/v1", "kind": "Host", "metadata": {"name": "node-1"}, "spec": {"bridges": [bridge]}}


def tagged(name: str, vlan: int, network: str = "default") -> dict[str, Any]:
    doc = pool(name)
    doc["spec"] |= {"vlan": vlan, "network": network}
    return doc


async def placed(w: World, *nics: dict[str, Any]) -> None:
    """An instance that node-1 runs, which carries VLANs 10 to 19."""
    await w.make(HOSTS, host("10-19"))
    await w.make(INSTANCES, instance("web-1", nics=list(nics or [CARD])))
    status = {"host": "node-1", "placement": "web-1-1"}
    key = Key("instances", "default", "web-1")
    w.store.stage([Update(key, {"status": status}, Half.STATUS)], "test")


async def test_set_that_takes_a_card_home_and_brings_a_pool_is_one_thing() -> None:
    async with world() as w:
        await w.make(POOLS, tagged("ten", 10))
        nic = {"name": "lan", "addressPool": "ten", "vlan": 7}
        await w.make(INSTANCES, instance("web-1", nics=[nic]))
        refused = await w.call("POST", POOLS, tagged("twenty", 20))
        assert causes(refused.doc) == [("spec.subnet", "SubnetOverlapsStray")]
        home = instance("web-1", nics=[{"name": "lan", "addressPool": "ten"}])
        home["metadata"]["namespace"] = "default"
        writes = [{"verb": "create", "object": tagged("twenty", 20)}, {"verb": "update", "object": home}]
        said = await w.call("POST", f"{NANO}/transactions", {"writes": writes})
        assert said.code == 200, said.doc


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"vlan": 11}, 200),
        ({"vlan": 20}, 422),
        ({"vlan": None}, 422),
        ({"network": "elsewhere", "vlan": 20}, 200),
        ({"mtu": 1400}, 200),
    ],
)
async def test_placed_machine_does_not_go_to_a_vlan_that_its_host_lacks(change: dict[str, Any], code: int) -> None:
    async with world() as w:
        await placed(w)
        nic = {name: value for name, value in (CARD | change).items() if value is not None}
        for query in ({"dryRun": "All"}, {}):
            said = await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"nics": [nic]}}, headers=MERGE, params=query)
            assert said.code == code, said.doc
            if code == 422:
                assert causes(said.doc) == [("spec.nics[0].vlan", "ChangeRefused")]
                assert "node-1 for network default does not carry" in said.doc["message"]


async def test_new_card_of_a_pool_is_held_to_its_pools_vlan() -> None:
    async with world() as w:
        await placed(w)
        await w.make(POOLS, tagged("far", 20))
        nics = [CARD, {"name": "second", "addressPool": "far"}]
        said = await w.call("PATCH", f"{INSTANCES}/web-1", {"spec": {"nics": nics}}, headers=MERGE)
        assert (said.code, causes(said.doc)) == (422, [("spec.nics[1].vlan", "ChangeRefused")])


async def test_card_that_stays_is_accepted_after_the_list_was_narrowed() -> None:
    async with world() as w:
        await placed(w)
        bridges = host("30")["spec"]
        assert (await w.call("PATCH", f"{HOSTS}/node-1", {"spec": bridges}, headers=MERGE)).code == 200
        change = {"spec": {"cpus": 2, "nics": [CARD | {"mtu": 1400}]}}
        assert (await w.call("PATCH", f"{INSTANCES}/web-1", change, headers=MERGE)).code == 200


async def test_unplaced_machine_may_wait_for_a_host() -> None:
    async with world() as w:
        await w.make(HOSTS, host("10"))
        assert (await w.call("POST", INSTANCES, instance("web-2", nics=[CARD | {"vlan": 20}]))).code == 201


async def test_pools_of_two_vlans_may_have_the_same_addresses() -> None:
    async with world() as w:
        await w.make(POOLS, tagged("ten", 10))
        await w.make(POOLS, tagged("twenty", 20))
        said = await w.call("POST", POOLS, tagged("more", 20))
        assert (said.code, causes(said.doc)) == (422, [("spec.subnet", "SubnetOverlaps")])
        assert "VLAN 20" in said.doc["message"]
        said = await w.call("PATCH", f"{POOLS}/ten", {"spec": {"vlan": 20}}, headers=MERGE)
        assert (said.code, causes(said.doc)) == (422, [("spec.subnet", "SubnetOverlaps")])
        assert (await w.call("PATCH", f"{POOLS}/ten", {"spec": {"vlan": 30}}, headers=MERGE)).code == 200


@pytest.mark.parametrize(("vlan", "code"), [(0, 201), (10, 201), (20, 422), (30, 422)])
async def test_card_does_not_leave_its_pools_vlan_when_another_has_its_addresses(vlan: int, code: int) -> None:
    async with world() as w:
        await w.make(POOLS, tagged("ten", 10))
        await w.make(POOLS, tagged("twenty", 20))
        said = await w.call("POST", INSTANCES, instance(nics=[{"name": "lan", "addressPool": "ten", "vlan": vlan}]))
        assert said.code == code, said.doc
        if code == 422:
            assert causes(said.doc) == [("spec.nics[0].vlan", "VlanOfPoolOnly")]


@pytest.mark.parametrize("first", ["ten", "twenty"])
async def test_pool_does_not_come_while_a_card_is_outside_of_its_pools_vlan(first: str) -> None:
    async with world() as w:
        vlans = {"ten": 10, "twenty": 20}
        second = next(name for name in vlans if name != first)
        await w.make(POOLS, tagged(first, vlans[first]))
        await w.make(INSTANCES, instance("web-1", nics=[{"name": "lan", "addressPool": "ten", "vlan": 30}]))
        said = await w.call("POST", POOLS, tagged(second, vlans[second]))
        assert (said.code, causes(said.doc)) == (422, [("spec.subnet", "SubnetOverlapsStray")])
        assert "default/web-1" in said.doc["message"]
        assert (await w.call("POST", POOLS, tagged(second, vlans[second], "elsewhere"))).code == 201


async def test_card_that_its_host_keeps_in_the_former_vlan_counts_too() -> None:
    async with world() as w:
        await w.make(POOLS, tagged("ten", 10))
        nic = {"name": "lan", "mac": "52:54:00:00:00:01", "ip": "10.20.0.55", "addressPool": "ten", "bridge": "br0"}
        uid = "11111111-1111-1111-1111-111111111111"
        domain = {"uuid": uid, "name": "default.web-1"}
        spec = {"instance": "web-1", "instanceUid": uid, "host": "node-1", "epoch": 1, "domain": domain, "cpu": 1}
        placement = {"spec": spec | {"memory": "1Gi", "hostname": "web-1", "nics": [nic | {"vlan": 30}]}}
        await w.store_raw(Key("placements", "default", "web-1-1"), placement)
        said = await w.call("POST", POOLS, tagged("thirty", 30))
        assert (said.code, causes(said.doc)) == (422, [("spec.subnet", "SubnetOverlapsStray")])
