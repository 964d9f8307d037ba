"""Tables of what becomes of a changed wish of a placed instance: what is followed, held, freed, refused."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement, PlacementSpec
from nanovirt.resources.report import ImageProgress
from nanovirt.resources.volume import Volume
from tests.controllers.universe import Universe, obeyed

WEB = Key("placements", "default", "web-1-1")
INSTANCE = Key("instances", "default", "web-1")
SYSTEM = {"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}}
DATA = {"name": "data", "size": "5Gi"}
LAN = {"name": "lan", "addressPool": "lan"}
CD = {"name": "cd0", "image": "shared/rescue"}


@pytest.fixture
def one(one: Universe) -> Universe:
    """A running machine on the one host."""
    one.instance(nics=[LAN])
    one.settle()
    obeyed(one)
    one.settle()
    return one


def spec(universe: Universe) -> PlacementSpec:
    return universe.get(Placement, "web-1-1", "default").spec


def ready(universe: Universe) -> tuple[str, str]:
    found = find(universe.web().status.conditions, "Ready")
    assert found is not None
    return found.status, found.reason


def wish(universe: Universe, **fields: Any) -> None:
    universe.patch(INSTANCE, **fields)
    universe.settle()


def told(universe: Universe, state: str = "Succeeded", **status: Any) -> None:
    """The host says how the orders of the Placement ended."""
    done = [{"uid": one.uid, "state": state, "detail": "no"} for one in spec(universe).operations]
    universe.report(WEB, operations=done, **status)
    universe.settle()


def volumes(universe: Universe) -> list[str]:
    return sorted(key.name for key in universe.all("volumes"))


def addresses(universe: Universe) -> list[str]:
    return sorted(key.name for key in universe.all("addresses"))


def medium(universe: Universe, name: str = "rescue", kind: str = "Media") -> None:
    universe.create(made("Image", name, "shared", type=kind, source={"file": f"{name}.iso"}))
    progress = ImageProgress(phase="Ready", size=10, virtual_size=2**20, sha256="b" * 64, format="raw")
    universe.reports.note_image(Key("images", "shared", name), progress)
    universe.settle()


# --- disks ---


def test_disk_is_added_with_its_volume_in_one_transaction(one: Universe) -> None:
    one.patch(INSTANCE, disks=[SYSTEM, DATA])
    (action,) = one.writes()
    assert sorted(op.key.plural for op in action.ops) == ["instances", "placements", "volumes"]
    one.settle()
    assert [(volume.name, volume.size) for volume in spec(one).volumes] == [("system", 10 * 2**30), ("data", 5 * 2**30)]
    assert one.get(Volume, "web-1.data", "default").spec.file == spec(one).volumes[1].file


def test_disk_that_goes_is_held_until_its_host_has_removed_it(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA])
    file = spec(one).volumes[1].file
    wish(one, disks=[SYSTEM])
    (order,) = spec(one).operations
    assert (order.verb, order.volume, order.frees) == ("RemoveVolume", file, "web-1.data")
    assert [volume.name for volume in spec(one).volumes] == ["system"]
    assert volumes(one) == ["web-1.data", "web-1.system"]
    told(one)
    assert (volumes(one), spec(one).operations) == (["web-1.system"], ())


def test_disk_that_comes_back_is_another_file_and_another_volume(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA])
    first = spec(one).volumes[1]
    wish(one, disks=[SYSTEM])
    wish(one, disks=[SYSTEM, DATA])
    second = spec(one).volumes[1]
    assert first.file != second.file
    assert len(volumes(one)) == 3
    told(one)
    assert volumes(one) == sorted(["web-1.system", second.volume])


def test_disk_grows_with_its_volume_as_far_as_the_host_has_room(one: Universe) -> None:
    wish(one, disks=[SYSTEM | {"size": "20Gi"}])
    assert spec(one).volumes[0].size == 20 * 2**30
    assert one.get(Volume, "web-1.system", "default").spec.size == 20 * 2**30
    wish(one, cpus=2, disks=[SYSTEM | {"size": "900Gi"}])
    assert (spec(one).volumes[0].size, spec(one).cpu) == (20 * 2**30, 2)
    assert ready(one) == ("False", "HostHasNoRoom")
    (refused,) = [each for each in one.web().status.restart_awaiting_changes if each.operation == "Refused"]
    assert (refused.path, refused.current, refused.desired) == ("spec.disks[system]", "20Gi", "900Gi")
    wish(one, disks=[SYSTEM | {"size": "20Gi"}])
    assert "Refused" not in {each.operation for each in one.web().status.restart_awaiting_changes}


def test_disk_gets_smaller_by_an_order_and_only_while_the_machine_is_off(one: Universe) -> None:
    wish(one, disks=[SYSTEM | {"size": "8Gi"}])
    assert (spec(one).operations, spec(one).volumes[0].size) == ((), 10 * 2**30)
    assert ready(one) == ("False", "ShrinkNeedsStop")
    wish(one, powerState="Stopped")
    one.report(WEB, state="Stopped")
    one.settle()
    (order,) = spec(one).operations
    assert (order.verb, order.size, spec(one).volumes[0].size) == ("ShrinkVolume", 8 * 2**30, 8 * 2**30)
    assert one.get(Volume, "web-1.system", "default").spec.size == 10 * 2**30
    told(one)
    assert (spec(one).operations, one.get(Volume, "web-1.system", "default").spec.size) == ((), 8 * 2**30)


def test_order_that_fails_is_said_and_can_be_taken_back(one: Universe) -> None:
    wish(one, powerState="Stopped")
    one.report(WEB, state="Stopped")
    wish(one, disks=[SYSTEM | {"size": "8Gi"}])
    told(one, "Failed")
    assert ready(one) == ("False", "OperationFailed")
    wish(one, disks=[SYSTEM])
    assert (spec(one).operations, spec(one).volumes[0].size) == ((), 10 * 2**30)
    assert ready(one) == ("True", "StoppedAsDesired")


def test_rebuild_makes_a_new_file_and_keeps_the_other_disks(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA])
    system, data = spec(one).volumes
    wish(one, disks=[SYSTEM | {"rebuild": 1}, DATA])
    anew, kept = spec(one).volumes
    assert kept == data
    assert (anew.rebuild, anew.file != system.file, anew.source) == (1, True, system.source)
    (order,) = spec(one).operations
    assert (order.verb, order.volume) == ("RemoveVolume", system.file)
    told(one)
    assert volumes(one) == sorted([anew.volume, "web-1.data"])


def test_retained_disk_stays_as_a_volume_of_nobody_and_can_be_used_again(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA | {"reclaim": "Retain"}])
    file = spec(one).volumes[1].file
    wish(one, disks=[SYSTEM])
    assert [order.verb for order in spec(one).operations] == ["ReleaseVolume"]
    assert one.get(Volume, "web-1.data", "default").metadata.owner_references
    told(one)
    free = one.get(Volume, "web-1.data", "default")
    assert (free.metadata.owner_references, free.status.in_use_by, free.spec.file) == ((), "", file)
    wish(one, disks=[SYSTEM, {"name": "back", "source": {"volume": "web-1.data"}}])
    assert (spec(one).volumes[1].file, spec(one).volumes[1].volume) == (file, "web-1.data")
    taken = one.get(Volume, "web-1.data", "default")
    assert (taken.metadata.owner_references[0].name, taken.status.in_use_by) == ("web-1", "web-1-1")


def test_retained_disk_survives_its_instance_and_begins_another_one_on_its_host(one: Universe) -> None:
    one.host("node-0")
    wish(one, disks=[SYSTEM, DATA | {"reclaim": "Retain"}])
    one.delete(INSTANCE)
    one.settle()
    assert [order.volume for order in spec(one).operations] == ["system"]
    obeyed(one)
    one.settle()
    assert volumes(one) == ["web-1.data"]
    one.instance("web-2", disks=[SYSTEM, {"name": "data", "source": {"volume": "web-1.data"}}])
    one.settle()
    placed = one.get(Placement, "web-2-1", "default").spec
    assert (placed.host, placed.volumes[1].volume, placed.volumes[1].size) == ("node-1", "web-1.data", 5 * 2**30)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ({"name": "data", "source": {"volume": "nothing"}}, "VolumeNotFound"),
        ({"name": "data", "source": {"volume": "web-1.system"}}, "VolumeTaken"),
        ({"name": "data", "source": {"image": "shared/none"}}, "ImageNotFound"),
        ({"name": "data", "source": {"image": "shared/rescue"}}, "ImageOfOtherType"),
    ],
)
def test_disk_that_cannot_be_waits_and_all_else_is_followed(one: Universe, disk: dict[str, Any], reason: str) -> None:
    medium(one)
    wish(one, disks=[SYSTEM, disk], cpus=2)
    assert ([volume.name for volume in spec(one).volumes], spec(one).cpu) == (["system"], 2)
    assert ready(one) == ("False", reason)


# --- cards ---


def test_card_is_added_and_its_address_stays_held_until_it_is_gone(one: Universe) -> None:
    (first,) = addresses(one)
    wish(one, nics=[LAN, {"name": "second", "addressPool": "lan"}])
    assert len(addresses(one)) == 2
    kept, added = spec(one).nics
    assert (f"lan.{kept.ip}", added.lease) == (first, kept.lease)
    wish(one, nics=[LAN])
    (order,) = spec(one).operations
    assert (order.verb, order.frees, order.mac) == ("ReleaseAddress", f"lan.{added.ip}", added.mac)
    assert len(addresses(one)) == 2
    told(one)
    assert (addresses(one), spec(one).operations) == ([first], ())


def test_card_that_comes_back_in_time_has_its_address_and_mac_again(one: Universe) -> None:
    (before,) = spec(one).nics
    wish(one, nics=[])
    assert spec(one).nics == ()
    wish(one, nics=[LAN])
    assert (spec(one).nics, spec(one).operations) == ((before,), ())


@pytest.mark.parametrize(
    "fields",
    [
        {"mtu": 1400},
        {"model": "E1000"},
        {"mac": "52:54:00:00:00:77"},
        {"mtu": 9000, "mac": "52:54:00:00:00:77"},
    ],
)
def test_address_is_kept_on_every_other_change(one: Universe, fields: dict[str, Any]) -> None:
    held = addresses(one)
    (before,) = spec(one).nics
    wish(one, nics=[LAN | fields])
    (after,) = spec(one).nics
    assert (after.ip, addresses(one), spec(one).operations) == (before.ip, held, ())
    assert {name: after.to_json()[name] for name in fields} == fields
    assert one.web().status.addresses[0].mac == after.mac


def test_chosen_address_takes_the_place_of_the_given_one(one: Universe) -> None:
    (before,) = addresses(one)
    wish(one, nics=[LAN | {"ip": "10.87.2.9"}])
    assert (str(spec(one).nics[0].ip), addresses(one)) == ("10.87.2.9", sorted([before, "lan.10.87.2.9"]))
    assert spec(one).nics[0].mac == one.web().status.addresses[0].mac
    told(one)
    assert addresses(one) == ["lan.10.87.2.9"]
    wish(one, nics=[LAN])
    assert addresses(one) == ["lan.10.87.2.9"]


def test_card_moves_to_another_pool(one: Universe) -> None:
    ranges = [{"name": "all", "first": "10.99.0.10", "last": "10.99.0.11"}]
    one.create(made("AddressPool", "wan", subnet="10.99.0.0/24", gateway="10.99.0.1", ranges=ranges))
    (before,) = spec(one).nics
    wish(one, nics=[LAN | {"addressPool": "wan"}])
    (after,) = spec(one).nics
    assert (str(after.ip), after.mac, after.address_pool) == ("10.99.0.10", before.mac, "wan")
    assert after.lease is not None
    assert str(after.lease.gateway) == "10.99.0.1"
    told(one)
    assert addresses(one) == ["wan.10.99.0.10"]


def test_card_whose_address_somebody_has_keeps_the_one_that_it_has(one: Universe) -> None:
    (before,) = spec(one).nics
    one.instance("web-2", nics=[LAN | {"ip": "10.87.2.9"}])
    one.settle()
    wish(one, nics=[LAN | {"ip": "10.87.2.9"}])
    assert (spec(one).nics, ready(one)) == ((before,), ("False", "AddressInUse"))
    wish(one, nics=[{"name": "lan", "network": "storage"}])
    assert (spec(one).nics, ready(one)) == ((before,), ("False", "HostLacksNetwork"))


def test_card_of_which_nothing_is_said_stays_when_the_pool_of_new_machines_changes(one: Universe) -> None:
    one.instance("web-2")
    one.settle()
    before = one.get(Placement, "web-2-1", "default").spec.nics
    one.create(
        made(
            "AddressPool",
            "wan",
            subnet="10.99.0.0/24",
            ranges=[{"name": "a", "first": "10.99.0.10", "last": "10.99.0.11"}],
        )
    )
    one.patch(Key("computepools", "", "default"), addressPool="wan")
    one.settle()
    assert one.get(Placement, "web-2-1", "default").spec.nics == before


# --- processors, memory, limits, media, template ---


def test_growth_beyond_the_host_is_refused_and_all_else_is_kept(one: Universe) -> None:
    wish(one, cpus=17, memory="2Gi", displayName="Web")
    assert (spec(one).cpu, spec(one).memory) == (1, 2 * 2**30)
    assert ready(one) == ("False", "HostHasNoRoom")
    wish(one, cpus=2)
    assert (spec(one).cpu, ready(one)) == (2, ("True", "AsDesired"))


def test_ceilings_are_four_times_within_the_host_and_stay_when_the_machine_grows(one: Universe) -> None:
    assert (spec(one).max_cpu, spec(one).max_memory) == (4, 4 * 2**30)
    wish(one, cpus=3, memory="3Gi")
    assert (spec(one).max_cpu, spec(one).max_memory) == (4, 4 * 2**30)
    wish(one, cpus=6, memory="5Gi")
    assert (spec(one).max_cpu, spec(one).max_memory) == (6, 8 * 2**30)


def test_ceiling_that_is_taken_back_is_what_the_running_machine_has(one: Universe) -> None:
    wish(one, maxCpus=8)
    assert spec(one).max_cpu == 8
    one.report(WEB, awaiting=[{"path": "spec.maxCpus", "current": 4, "desired": 8}])
    one.settle()
    status = one.web().status
    assert [change.path for change in status.restart_awaiting_changes] == ["spec.maxCpus"]
    assert status.hardware is not None
    assert status.hardware.max_cpus == 4
    assert (found := find(status.conditions, "RestartRequired")) is not None
    assert found.status == "True"
    doc = one.doc(INSTANCE)
    del doc["spec"]["maxCpus"]
    wish_doc(one, doc)
    assert spec(one).max_cpu == 4


def wish_doc(universe: Universe, doc: dict[str, Any]) -> None:
    from nanovirt.resources.store import Update  # noqa: PLC0415

    universe.stage(Update(INSTANCE, doc))
    universe.settle()


def test_limits_are_the_disks_the_instances_and_the_pools(one: Universe) -> None:
    pool = {
        "cpu": {"priority": "Low"},
        "disk": {"readIops": 10, "writeIops": 10},
        "network": {"inboundBitsPerSecond": "1M"},
    }
    one.patch(Key("computepools", "", "default"), qos=pool)
    own = {"cpu": {"limit": "500m"}, "disk": {"readIops": 20}, "network": {"outboundBitsPerSecond": "2M"}}
    wish(one, qos=own, disks=[SYSTEM | {"qos": {"writeBytesPerSecond": "1Mi"}}])
    assert spec(one).qos.to_json() == {"priority": "Low", "limit": "500m"}
    assert spec(one).volumes[0].qos.to_json() == {"readIops": 20, "writeIops": 10, "writeBytesPerSecond": "1Mi"}
    assert spec(one).nics[0].qos.to_json() == {"inboundBitsPerSecond": "1M", "outboundBitsPerSecond": "2M"}


def test_medium_is_inserted_exchanged_and_ejected(one: Universe) -> None:
    medium(one)
    wish(one, media=[CD], bootOrder=["cd0", "system"])
    (drive,) = spec(one).media
    assert drive.image is not None
    assert (drive.image.sha256, spec(one).boot_order) == ("b" * 64, ("cd0", "system"))
    wish(one, media=[{"name": "cd0"}])
    assert spec(one).media[0].image is None
    wish(one, media=[], bootOrder=[])
    assert (spec(one).media, spec(one).boot_order) == ((), ())


def test_medium_that_is_a_disk_image_is_refused(one: Universe) -> None:
    wish(one, media=[{"name": "cd0", "image": "shared/mini"}])
    assert (spec(one).media, ready(one)) == ((), ("False", "ImageOfOtherType"))


def test_other_template_gives_other_devices_and_an_edited_one_does_not(one: Universe) -> None:
    wish(one, systemTemplate="legacy")
    placed = spec(one)
    assert (placed.domain.disk_bus, placed.volumes[0].bus, placed.nics[0].model) == ("Ide", "Ide", "Rtl8139")
    one.patch(Key("systemtemplates", "", "legacy"), diskBus="Sata")
    one.settle()
    assert spec(one).domain.disk_bus == "Ide"
    doc = one.doc(INSTANCE)
    del doc["spec"]["systemTemplate"]
    wish_doc(one, doc)
    assert (spec(one).domain.disk_bus, spec(one).volumes[0].bus) == ("Virtio", "Virtio")


def test_deletion_while_orders_stand_removes_what_they_are_about(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA])
    wish(one, disks=[SYSTEM], nics=[])
    one.delete(INSTANCE)
    one.settle()
    assert {order.verb for order in spec(one).operations} == {"RemoveVolume"}
    obeyed(one)
    one.settle()
    assert (one.all("instances"), volumes(one), addresses(one)) == ([], [], [])


def test_restored_store_goes_on_with_what_is_wished(one: Universe) -> None:
    wish(one, disks=[SYSTEM, DATA])
    one.report(WEB, epoch=4)
    one.settle()
    placed = one.get(Placement, "web-1-5", "default")
    assert [volume.name for volume in placed.spec.volumes] == ["system", "data"]
    assert one.get(Volume, "web-1.data", "default").status.in_use_by == "web-1-5"
    assert isinstance(one.web(), Instance)
