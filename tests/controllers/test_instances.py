"""Tables of what the instance controller decides: pure plans over the pending state, no event loop."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.address import Address
from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.host import Amounts
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.store import Update
from nanovirt.resources.volume import Volume
from tests.controllers.universe import Universe, obeyed

WEB = Key("placements", "default", "web-1-1")


def ready(universe: Universe, name: str = "web-1") -> tuple[str, str]:
    found = find(universe.web(name).status.conditions, "Ready")
    assert found is not None
    return found.status, found.reason


def test_placement_address_and_volume_are_made_in_one_transaction(one: Universe) -> None:
    key = one.instance()
    (composed,) = [action for action in one.writes() if any(op.key.plural == "placements" for op in action.ops)]
    kinds = sorted(op.key.plural for op in composed.ops)
    assert kinds == ["addresses", "events", "instances", "placements", "volumes"]
    one.settle()
    assert one.web().status.phase == "Provisioning"
    assert one.web().status.host == "node-1"
    assert key in one.keys


def test_running_machine_is_ready_with_its_address(one: Universe) -> None:
    one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    status = one.web().status
    assert (status.phase, ready(one)) == ("Running", ("True", "AsDesired"))
    placed = one.get(Placement, "web-1-1", "default").spec
    assert [(a.nic, a.ip, a.mac) for a in status.addresses] == [("nic0", str(placed.nics[0].ip), placed.nics[0].mac)]


def generations(universe: Universe) -> dict[str, int | None]:
    return {one.type: one.observed_generation for one in universe.web().status.conditions}


def test_all_is_well_is_said_of_a_change_only_when_the_host_has_looked_at_it(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    assert set(generations(one).values()) == {1}
    one.patch(key, cpus=2)
    one.settle()
    assert one.web().status.observed_generation == 2
    assert ready(one) == ("True", "AsDesired")
    assert generations(one) == {"Ready": 1, "Scheduled": 2, "VolumesReady": 2, "RestartRequired": 1}
    one.report(WEB, observedGeneration=2)
    one.settle()
    assert set(generations(one).values()) == {2}


def test_change_that_no_host_has_to_look_at_is_well_at_once(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    one.patch(key, displayName="The web")
    one.settle()
    assert set(generations(one).values()) == {2}


def test_settled_world_plans_nothing(one: Universe) -> None:
    one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    assert one.writes() == []


def test_volume_is_named_by_instance_and_disk_and_its_file_by_uid(one: Universe) -> None:
    one.instance()
    one.settle()
    volume = one.get(Volume, "web-1.system", "default")
    assert volume.status.in_use_by == "web-1-1"
    assert volume.spec.file == f"/var/lib/nano/volumes/{one.web().metadata.uid}.system.qcow2"
    assert volume.metadata.owner_references[0].uid == one.web().metadata.uid


def test_own_storage_path_of_a_host_is_used(one: Universe) -> None:
    one.host("node-0", storagePaths=[{"storagePool": "local", "path": "/data/vm"}])
    one.settle()
    one.instance(scheduling={"host": "node-0"})
    one.settle()
    assert one.get(Volume, "web-1.system", "default").spec.file.startswith("/data/vm/")


def test_chosen_ip_and_mac_are_kept(one: Universe) -> None:
    one.instance(nics=[{"name": "lan", "addressPool": "lan", "ip": "10.87.2.9", "mac": "52:54:00:00:00:09"}])
    one.settle()
    address = one.get(Address, "lan.10.87.2.9")
    assert (address.spec.mac, address.spec.instance) == ("52:54:00:00:00:09", "default/web-1")


def test_card_on_a_network_gets_no_address_of_ours(one: Universe) -> None:
    one.instance(nics=[{"name": "lan", "network": "default"}])
    one.settle()
    nic = one.get(Placement, "web-1-1", "default").spec.nics[0]
    assert (nic.ip, nic.lease, one.all("addresses")) == (None, None, [])


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"computePool": "other"}, "PoolNotFound"),
        ({"disks": [{"name": "system", "source": {"image": "missing"}}]}, "ImageNotFound"),
        ({"systemTemplate": "beos"}, "SystemTemplateNotFound"),
        ({"nics": [{"name": "a", "addressPool": "wan"}]}, "AddressPoolNotFound"),
        ({"memory": "9Gi"}, "NoHostFits"),
        ({"cpus": 17}, "NoHostFits"),
        ({"scheduling": {"host": "node-9"}}, "NoHostFits"),
        ({"nics": [{"name": "a", "network": "storage"}]}, "NoHostFits"),
        ({"disks": [{"name": "system", "size": "1Mi", "source": {"image": "shared/mini"}}]}, "DiskSmallerThanImage"),
        ({"disks": [{"name": "system", "size": "300Gi"}]}, "NoHostFits"),
    ],
)
def test_what_is_missing_is_said(one: Universe, spec: dict[str, Any], reason: str) -> None:
    one.instance(**spec)
    one.settle()
    assert (one.web().status.phase, ready(one)) == ("Pending", ("False", reason))
    assert one.all("placements") + one.all("addresses") + one.all("volumes") == []


def test_full_pool_says_for_each_host_why(one: Universe) -> None:
    one.host("node-2", enabled=False)
    one.host("node-3", capacity=Amounts(cpus=1, memory=Bytes("64Mi"), disk=Bytes("1Ti")))
    one.settle()
    one.instance(memory="9Gi")
    one.settle()
    found = find(one.web().status.conditions, "Scheduled")
    assert found is not None
    assert found.params["hosts"] == (
        "node-1: 8Gi of the asked 9Gi memory is free; node-2: disabled; node-3: 64Mi of the asked 9Gi memory is free"
    )


def test_waiting_instance_is_placed_once_there_is_room(one: Universe) -> None:
    one.instance(memory="9Gi")
    one.settle()
    one.host("node-2", capacity=Amounts(cpus=4, memory=Bytes("16Gi"), disk=Bytes("1Ti")))
    one.settle()
    assert one.web().status.host == "node-2"


def test_lighter_host_is_taken_first_and_pack_takes_the_fuller(one: Universe) -> None:
    one.host("node-2")
    one.settle()
    for number in range(4):
        one.instance(f"web-{number}")
        one.settle()
    assert sorted(one.web(f"web-{number}").status.host for number in range(4)) == [
        "node-1",
        "node-1",
        "node-2",
        "node-2",
    ]
    one.patch(Key("computepools", "", "default"), strategy="Pack")
    for number in range(4, 7):
        one.instance(f"web-{number}")
        one.settle()
    assert len({one.web(f"web-{number}").status.host for number in range(4, 7)}) == 1


def test_full_address_pool_is_said_and_a_freed_address_is_given_again(one: Universe) -> None:
    ranges = [{"name": "two", "first": "10.87.1.1", "last": "10.87.1.2"}]
    one.patch(Key("addresspools", "", "lan"), ranges=ranges)
    for name in ("a", "b", "c"):
        one.instance(name)
        one.settle()
    assert ready(one, "c") == ("False", "AddressPoolFull")
    one.delete(Key("instances", "default", "a"))
    one.settle()
    obeyed(one)
    one.settle()
    assert one.web("c").status.phase == "Provisioning"


def test_power_wish_reaches_the_placement(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    one.patch(key, powerState="Stopped", stopGraceSeconds=5)
    one.settle()
    placed = one.get(Placement, "web-1-1", "default").spec
    assert (placed.power_state, placed.stop_grace_seconds) == ("Stopped", 5)
    assert ready(one) == ("False", "Stopping")
    obeyed(one)
    one.settle()
    assert (one.web().status.phase, ready(one)) == ("Stopped", ("True", "StoppedAsDesired"))


def test_change_that_waits_for_a_restart_is_listed_until_reverted(one: Universe) -> None:
    key = one.instance()
    one.settle()
    one.report(WEB, state="Running")
    one.patch(key, cpus=2)
    one.settle()
    assert one.web().status.restart_awaiting_changes == (), "its host has not said that it cannot be had now"
    one.report(WEB, awaiting=[{"path": "spec.cpus", "current": 1, "desired": 2}])
    one.settle()
    assert [(c.path, c.current, c.desired) for c in one.web().status.restart_awaiting_changes] == [("spec.cpus", 1, 2)]
    one.patch(key, cpus=1)
    one.report(WEB, awaiting=[])
    one.settle()
    assert one.web().status.restart_awaiting_changes == ()


def test_silent_host_makes_its_instance_unknown_and_frees_nothing(one: Universe) -> None:
    one.instance()
    one.settle()
    obeyed(one)
    one.settle()
    one.monotonic = 100.0
    one.settle()
    assert (one.web().status.phase, ready(one)) == ("Unknown", ("Unknown", "HostUnreachable"))
    assert len(one.all("addresses")) == len(one.all("placements")) == len(one.all("volumes")) == 1
    one.hear("node-1")
    one.settle()
    assert (one.web().status.phase, ready(one)) == ("Running", ("True", "AsDesired"))


def test_deletion_frees_only_what_the_host_has_released(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.delete(key)
    one.settle()
    placement = one.get(Placement, "web-1-1", "default")
    assert (placement.deleting, placement.spec.power_state) == (True, "Stopped")
    assert [(order.verb, order.volume) for order in placement.spec.operations] == [("RemoveVolume", "system")]
    assert (one.web().status.phase, len(one.all("addresses"))) == ("Deleting", 1)
    one.report(WEB, state="Stopped", released=True, operations=[])
    one.settle()
    assert len(one.all("volumes")) == 1, "the order to remove the file was not confirmed"
    obeyed(one)
    one.settle()
    left = [k for k in one.keys if k.plural in ("instances", "placements", "volumes", "addresses")]
    assert left == []


def test_host_that_vanishes_while_its_instance_is_deleted_keeps_everything(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.delete(key)
    one.monotonic = 100.0
    one.settle()
    assert ready(one) == ("Unknown", "HostUnreachable")
    assert one.web().status.phase == "Deleting"
    assert len(one.all("addresses")) == len(one.all("placements")) == len(one.all("volumes")) == 1


def test_unplaced_instance_is_deleted_at_once(one: Universe) -> None:
    key = one.instance(memory="900Gi")
    one.settle()
    one.delete(key)
    one.settle()
    assert key not in one.keys


@pytest.mark.parametrize(
    ("status", "phase", "reason"),
    [
        ({"state": "Preparing"}, "Provisioning", "Provisioning"),
        ({"state": "Starting"}, "Starting", "Starting"),
        ({"state": "Stopped", "reason": "GuestShutdown"}, "Stopped", "GuestShutdown"),
        ({"state": "Failed", "reason": "RestartBudgetSpent", "params": {"count": 3}}, "Failed", "RestartBudgetSpent"),
        ({"state": "Preparing", "reason": "ImageFetchFailed", "params": {}}, "Provisioning", "ImageFetchFailed"),
        ({"state": "Unknown"}, "Unknown", "Provisioning"),
    ],
)
def test_what_the_agent_reports_becomes_the_phase(
    one: Universe, status: dict[str, Any], phase: str, reason: str
) -> None:
    one.instance()
    one.settle()
    one.report(WEB, **status)
    one.settle()
    assert (one.web().status.phase, ready(one)[1]) == (phase, reason)


def test_order_to_restart_is_not_as_desired_until_it_was_carried_out(one: Universe) -> None:
    key = one.instance()
    one.settle()
    obeyed(one)
    one.patch(key, restart={"at": "2026-11-22T06:00:00Z", "mode": "Hard"})
    one.settle()
    assert ready(one) == ("False", "Starting")
    one.report(WEB, restartedAt="2026-11-22T06:00:00Z")
    one.settle()
    assert ready(one) == ("True", "AsDesired")


def test_disabled_host_gets_nothing_new_and_keeps_what_it_has(one: Universe) -> None:
    one.instance()
    one.settle()
    obeyed(one)
    one.patch(Key("hosts", "", "node-1"), enabled=False)
    one.instance("web-2")
    one.settle()
    assert (one.web().status.phase, one.web("web-2").status.phase) == ("Running", "Pending")


def test_owner_label_is_inherited_by_what_belongs_to_the_instance(one: Universe) -> None:
    one.instance()
    doc = one.doc(Key("instances", "default", "web-1"))
    doc["metadata"]["labels"] = {"nano/owner": "alice", "app": "web"}
    one.stage(Update(Key("instances", "default", "web-1"), doc))
    one.settle()
    for plural in ("placements", "volumes", "addresses"):
        assert one.doc(one.all(plural)[0])["metadata"]["labels"] == {"nano/owner": "alice"}


def test_changed_address_pool_reaches_the_leases_of_its_cards(one: Universe) -> None:
    one.instance()
    one.settle()
    before = one.get(Placement, "web-1-1", "default").spec.nics[0]
    one.patch(Key("addresspools", "", "lan"), dns=["9.9.9.9"], leaseSeconds=60)
    one.settle()
    after = one.get(Placement, "web-1-1", "default").spec.nics[0]
    assert after.lease is not None
    assert ([str(ip) for ip in after.lease.dns], after.lease.seconds) == (["9.9.9.9"], 60)
    assert (after.ip, after.mac) == (before.ip, before.mac)


@pytest.mark.parametrize(("own", "pools", "vlan"), [(0, 0, 0), (40, 0, 40), (0, 50, 50), (40, 50, 40)])
def test_card_is_in_its_own_vlan_or_else_in_its_pools(one: Universe, own: int, pools: int, vlan: int) -> None:
    one.patch(Key("addresspools", "", "lan"), vlan=pools)
    one.instance(nics=[{"name": "lan", "addressPool": "lan", "vlan": own}])
    one.settle()
    assert one.get(Placement, "web-1-1", "default").spec.nics[0].vlan == vlan


def test_changed_vlan_of_an_address_pool_reaches_its_cards(one: Universe) -> None:
    one.instance()
    one.settle()
    before = one.get(Placement, "web-1-1", "default").spec.nics[0]
    one.patch(Key("addresspools", "", "lan"), vlan=40)
    one.settle()
    assert one.get(Placement, "web-1-1", "default").spec.nics[0] == before.model_copy(update={"vlan": 40})


@pytest.mark.parametrize(
    ("nic", "reason"),
    [
        ({"ip": "10.99.0.1"}, "AddressReserved"),
        ({"ip": "10.99.0.40"}, "NotInRanges"),
        ({"mac": "52:54:00:00:00:07"}, "MacInUse"),
    ],
)
def test_card_asked_for_before_its_pool_came_still_gets_nothing_that_is_not_free(
    one: Universe, nic: dict[str, str], reason: str
) -> None:
    one.instance("first", nics=[{"name": "a", "addressPool": "lan", "mac": "52:54:00:00:00:07"}])
    one.settle()
    one.instance(nics=[{"name": "a", "addressPool": "late", **nic}])
    one.settle()
    ranges = [{"name": "r", "first": "10.99.0.1", "last": "10.99.0.30"}]
    one.create(made("AddressPool", "late", subnet="10.99.0.0/24", gateway="10.99.0.1", ranges=ranges))
    one.settle()
    assert ready(one) == ("False", reason)


def test_parameters_that_a_host_made_up_do_no_harm(one: Universe) -> None:
    one.instance()
    one.settle()
    made_up = {"status": "True", "reason": "AsDesired", "instance": "x", "self": 1, "now": 2}
    one.report(WEB, state="Failed", reason="HypervisorRefused", params=made_up)
    one.settle()
    assert ready(one) == ("False", "HypervisorRefused")


def guarded_by(universe: Universe, name: str, space: str, **spec: Any) -> Key:
    group = made("SecurityGroup", name, space, **spec)
    universe.create(group)
    return group.key


def rules_of(universe: Universe, name: str = "web-1-1") -> list[tuple[str, str, str, tuple[str, ...]]]:
    rules = universe.get(Placement, name, "default").spec.nics[0].rules
    return [(one.direction, one.action, one.protocol, one.ports) for one in rules]


GUARDED = [{"name": "lan", "addressPool": "lan", "securityGroups": ["web", "shared/ssh"]}]
WEB_RULE = {"name": "http", "direction": "Inbound", "protocol": "TCP", "ports": ["80"]}
SSH_RULE = {"name": "ssh", "direction": "Inbound", "protocol": "TCP", "ports": ["22"]}


def test_rules_of_several_groups_stand_in_their_order_and_the_strictest_word_comes_last(one: Universe) -> None:
    guarded_by(one, "web", "default", inbound="Accept", rules=[WEB_RULE])
    guarded_by(one, "ssh", "shared", inbound="Drop", rules=[SSH_RULE])
    one.instance(nics=GUARDED)
    one.settle()
    assert rules_of(one) == [
        ("Inbound", "Accept", "TCP", ("80",)),
        ("Inbound", "Accept", "TCP", ("22",)),
        ("Inbound", "Drop", "Any", ()),
        ("Outbound", "Accept", "Any", ()),
    ]


def test_group_that_is_missing_is_waited_for(one: Universe) -> None:
    guarded_by(one, "web", "default")
    one.instance(nics=GUARDED)
    one.settle()
    assert (ready(one), one.all("placements")) == (("False", "SecurityGroupNotFound"), [])
    guarded_by(one, "ssh", "shared")
    one.settle()
    assert one.web().status.placement == "web-1-1"


def test_edit_of_a_shared_group_reaches_every_machine_that_uses_it(one: Universe) -> None:
    guarded_by(one, "web", "default")
    group = guarded_by(one, "ssh", "shared", rules=[SSH_RULE])
    keys = {one.instance(f"web-{number}", nics=GUARDED) for number in (1, 2)}
    one.instance("web-3")
    one.settle()
    assert one.world.guarded.of(group) == keys
    one.patch(group, rules=[])
    one.settle()
    for name in ("web-1-1", "web-2-1"):
        assert rules_of(one, name) == [("Inbound", "Drop", "Any", ()), ("Outbound", "Accept", "Any", ())]
    assert rules_of(one, "web-3-1") == []
    assert one.writes() == []


def test_groups_of_a_placed_machine_may_be_exchanged(one: Universe) -> None:
    guarded_by(one, "web", "default")
    group = guarded_by(one, "ssh", "shared", rules=[SSH_RULE])
    key = one.instance(nics=GUARDED)
    one.settle()
    one.patch(key, nics=[{**GUARDED[0], "securityGroups": []}])
    one.settle()
    assert (rules_of(one), one.world.guarded.of(group)) == ([], set())


def test_rules_stay_when_their_group_is_gone(one: Universe) -> None:
    guarded_by(one, "web", "default")
    group = guarded_by(one, "ssh", "shared", rules=[SSH_RULE])
    one.instance(nics=GUARDED)
    one.settle()
    before = rules_of(one)
    one.delete(group)
    one.settle()
    assert rules_of(one) == before
