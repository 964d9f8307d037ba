"""Tables of what a running machine takes at once and of what it awaits a start for; no libvirt, no loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.agent.changes import (
    AttachCard,
    AttachDisk,
    AttachDrive,
    Change,
    ChangeMedium,
    DetachCard,
    DetachDisk,
    DetachDrive,
    LimitCard,
    LimitCpu,
    LimitDisk,
    MoveCard,
    ResizeDisk,
    SetCpus,
    SetMemory,
)
from nanovirt.agent.hardware import Hardware
from nanovirt.agent.live import differences
from nanovirt.agent.simulated_hardware import changed, started
from nanovirt.resources.placement import PlacementSpec
from nanovirt.resources.qos import DiskQos, NetworkQos
from tests.agent.placements import SHA, spec

MIB, GIB = 2**20, 2**30
FOLDER = "/var/lib/nano/volumes"
MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
OTHER_SHA = "cd" * 32


def disk(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "file": f"{FOLDER}/{name}.qcow2", "size": "1Gi", **more}


def card(mac: str = MAC, **more: Any) -> dict[str, Any]:
    return {"name": "lan" if mac == MAC else "backup", "mac": mac, "bridge": "br0", **more}


def drive(name: str = "cd0", sha256: str = "") -> dict[str, Any]:
    return {"name": name, "image": {"image": "iso", "sha256": sha256} if sha256 else None}


def machine(**changes: Any) -> PlacementSpec:
    base: dict[str, Any] = {
        "cpu": 2, "max_cpu": 4, "memory": "1Gi", "max_memory": "2Gi",
        "volumes": [disk("system"), disk("data")], "nics": [card()], "media": [drive("cd0", SHA)],
    }  # fmt: skip
    return spec(**(base | changes))


def legacy(**changes: Any) -> PlacementSpec:
    """With disks and drives that nobody plugs in."""
    devices = {"machine": "i440fx", "firmware": "BIOS", "disk_bus": "Ide", "nic_model": "Rtl8139", "video": "Vga"}
    base: dict[str, Any] = {
        "domain": {**dict(spec().domain), **devices},
        "volumes": [disk("system", bus="Ide")],
        "nics": [card(model="Rtl8139")],
    }
    return machine(**(base | changes))


def sizes(wanted: PlacementSpec) -> dict[str, int]:
    return {volume.file: GIB for volume in wanted.volumes}


def found(wanted: PlacementSpec, hardware: Hardware) -> tuple[list[Change], list[str]]:
    """What is done, and the paths of what awaits the next start."""
    both = differences(wanted, hardware, sizes(wanted))
    return [one.change for one in both.changes], [one.path for one in both.awaiting]


TWO = [disk("system"), disk("data")]
NEW = disk("new")
QOS = DiskQos.model_validate({"readBytesPerSecond": "1Mi"})
RATE = NetworkQos.model_validate({"inboundBitsPerSecond": "8M"})

ROWS: list[tuple[str, PlacementSpec, PlacementSpec, list[Change], list[str]]] = [
    ("more processors", machine(), machine(cpu=4), [SetCpus(4)], []),
    ("fewer processors", machine(), machine(cpu=1), [], ["spec.cpus"]),
    ("more than the most", machine(), machine(cpu=5), [], ["spec.cpus", "spec.maxCpus"]),
    ("another most", machine(), machine(max_cpu=8), [], ["spec.maxCpus"]),
    ("no word of a most", machine(), machine(max_cpu=None), [], []),
    ("more memory", machine(), machine(memory="2Gi"), [SetMemory(2 * GIB)], []),
    ("less memory", machine(), machine(memory="512Mi"), [SetMemory(512 * MIB)], []),
    ("memory without a most", machine(), machine(memory="512Mi", max_memory=None), [], ["spec.memory"]),
    ("memory above the most", machine(), machine(memory="3Gi"), [], ["spec.memory", "spec.maxMemory"]),
    ("another most of memory", machine(), machine(max_memory="4Gi"), [], ["spec.maxMemory"]),
    ("priority", machine(), machine(qos={"priority": "High"}), [LimitCpu(2048, 0)], []),
    ("limit", machine(), machine(qos={"limit": "1500m"}), [LimitCpu(1024, 1500)], []),
    ("limit taken away", machine(qos={"priority": "Low", "limit": "2"}), machine(), [LimitCpu(1024, 0)], []),
    ("disk", machine(), machine(volumes=[*TWO, NEW]), [AttachDisk("new")], []),
    ("scsi disk", machine(), machine(volumes=[*TWO, {**NEW, "bus": "Scsi"}]), [AttachDisk("new")], []),
    ("sata disk", machine(), machine(volumes=[*TWO, {**NEW, "bus": "Sata"}]), [], ["spec.disks[new]"]),
    ("ide disk", legacy(), legacy(volumes=[disk("system", bus="Ide"), {**NEW, "bus": "Ide"}]), [], ["spec.disks[new]"]),
    ("disk gone", machine(), machine(volumes=[disk("system")]), [DetachDisk("data")], []),
    ("the system's disk gone", machine(), machine(volumes=[disk("data")]), [], ["spec.disks[system]"]),
    ("a disk for another", machine(), machine(volumes=[disk("system"), NEW]),
     [DetachDisk("data"), AttachDisk("new")], []),
    ("another file", machine(), machine(volumes=[disk("system", file="/a/b.qcow2"), disk("data")]), [],
     ["spec.disks[system]"]),
    ("made anew", machine(), machine(volumes=[disk("system", file="/a/b.qcow2", rebuild=1), disk("data")]), [],
     ["spec.disks[system].rebuild"]),
    ("growth", machine(), machine(volumes=[disk("system"), disk("data", size="2Gi")]),
     [ResizeDisk("data", 2 * GIB)], []),
    ("shrinking", machine(), machine(volumes=[disk("system"), disk("data", size="512Mi")]), [],
     ["spec.disks[data].size"]),
    ("disk limit", machine(), machine(volumes=[disk("system"), disk("data", qos=QOS)]), [LimitDisk("data", QOS)], []),
    ("disk limit gone", machine(volumes=[disk("system", qos=QOS)]), machine(volumes=[disk("system")]),
     [LimitDisk("system", DiskQos())], []),
    ("bus", machine(), machine(volumes=[disk("system", bus="Scsi"), disk("data")]), [], ["spec.systemTemplate"]),
    ("card", machine(), machine(nics=[card(), card(OTHER_MAC)]), [AttachCard(OTHER_MAC)], []),
    ("card that q35 cannot plug", machine(), machine(nics=[card(), card(OTHER_MAC, model="E1000")]), [],
     ["spec.nics[backup]"]),
    ("card that an older machine can", legacy(), legacy(nics=[card(model="Rtl8139"), card(OTHER_MAC, model="E1000")]),
     [AttachCard(OTHER_MAC)], []),
    ("card gone", machine(), machine(nics=[]), [DetachCard(MAC)], []),
    ("another bridge", machine(), machine(nics=[card(bridge="br1")]), [MoveCard(MAC, "br1")], []),
    ("a VLAN", machine(), machine(nics=[card(vlan=40)]), [MoveCard(MAC, "br0.40")], []),
    ("out of a VLAN", machine(nics=[card(vlan=40)]), machine(), [MoveCard(MAC, "br0")], []),
    ("card limit", machine(), machine(nics=[card(qos=RATE)]), [LimitCard(MAC, RATE)], []),
    ("mtu", machine(), machine(nics=[card(mtu=9000)]), [], ["spec.nics[lan].mtu"]),
    ("model", machine(), machine(nics=[card(model="E1000")]), [], ["spec.nics[lan].model"]),
    ("from the pool's address to none", machine(nics=spec().nics), machine(nics=[card(bridge="nano0")]), [],
     ["spec.nics[lan].addressPool"]),
    ("medium", machine(), machine(media=[drive("cd0", OTHER_SHA)]), [ChangeMedium("cd0", OTHER_SHA)], []),
    ("ejected", machine(), machine(media=[drive("cd0")]), [ChangeMedium("cd0", "")], []),
    ("drive", machine(), machine(media=[drive("cd0", SHA), drive("cd1", SHA)]), [AttachDrive("cd1")], []),
    ("empty drive", machine(), machine(media=[drive("cd0", SHA), drive("cd1")]), [], ["spec.media[cd1]"]),
    ("drive gone", machine(), machine(media=[]), [DetachDrive("cd0")], []),
    ("ide drive gone", legacy(), legacy(media=[]), [], ["spec.media[cd0]"]),
    ("ide medium", legacy(), legacy(media=[drive("cd0")]), [ChangeMedium("cd0", "")], []),
    ("boot order", machine(), machine(boot_order=["cd0", "system"]), [], ["spec.bootOrder"]),
    ("boot order as it is", machine(), machine(boot_order=["system", "data", "cd0"]), [], []),
    ("template", machine(), legacy(volumes=TWO, nics=[card()]), [], ["spec.systemTemplate"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "changes", "awaits"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_change_is_live_or_awaits_a_start(
    before: PlacementSpec, after: PlacementSpec, changes: list[Change], awaits: list[str]
) -> None:
    assert found(after, started(before)) == (changes, awaits)


@pytest.mark.parametrize(("before", "after"), [row[1:3] for row in ROWS], ids=[row[0] for row in ROWS])
def test_reverted_wish_leaves_nothing_to_await(before: PlacementSpec, after: PlacementSpec) -> None:
    """Whatever of it was taken goes back too; but for processors, which are never taken out."""
    hardware = started(before)
    for change in found(after, hardware)[0]:
        hardware = changed(hardware, after, change)
    back = found(before, hardware)[0]
    for change in back:
        hardware = changed(hardware, before, change)
    left = ["spec.cpus"] if SetCpus(4) in found(after, started(before))[0] else []
    assert found(before, hardware) == ([], left)


@pytest.mark.parametrize("wanted", [machine(), legacy(), spec(), machine(boot_order=["cd0"])])
def test_machine_that_has_just_started_differs_in_nothing(wanted: PlacementSpec) -> None:
    assert found(wanted, started(wanted)) == ([], [])


def test_no_more_is_plugged_in_than_there_are_ports() -> None:
    hardware = replace(started(machine()), ports=1)
    wanted = machine(volumes=[*TWO, NEW, disk("newer")])
    assert found(wanted, hardware) == ([AttachDisk("new")], ["spec.disks[newer]"])


def test_empty_drive_that_awaits_a_start_is_told_apart_from_nothing() -> None:
    wanted = machine(media=[drive("cd0")])
    (entry,) = differences(wanted, started(machine(media=[])), sizes(wanted)).awaiting
    assert (entry.path, entry.current, entry.desired) == ("spec.media[cd0]", None, "empty")


def test_machine_without_a_controller_awaits_one() -> None:
    """One that was started before every machine had it."""
    hardware = replace(started(machine(media=[])), scsi=False)
    wanted = machine(volumes=[*TWO, {**NEW, "bus": "Scsi"}], media=[drive("cd1", SHA)])
    assert found(wanted, hardware) == ([], ["spec.disks[new]", "spec.media[cd1]"])


def test_guest_that_has_not_taken_its_memory_yet_is_said() -> None:
    hardware = replace(started(machine()), memory=2 * GIB)
    both = differences(machine(memory="2Gi"), hardware, {})
    assert both.changes == ()
    assert [(one.path, one.current, one.desired) for one in both.awaiting] == [("spec.memory", "1Gi", "2Gi")]


def test_block_that_a_guest_does_not_give_back_is_no_difference() -> None:
    hardware = replace(started(machine()), memory=GIB + 2 * MIB, taken_memory=GIB + 12 * MIB)
    assert found(machine(), hardware) == ([], [])


def test_entry_says_what_is_and_what_is_wished() -> None:
    both = differences(machine(cpu=1, nics=[card(mtu=1400)]), started(machine()), sizes(machine()))
    assert [(one.path, one.current, one.desired, one.operation) for one in both.awaiting] == [
        ("spec.cpus", 2, 1, "Restart"),
        ("spec.nics[lan].mtu", None, 1400, "Restart"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (card(), card(vlan=40), "vlan"),
        (card(vlan=40), card(), "vlan"),
        (card(vlan=40), card(vlan=50), "vlan"),
        (card(), card(bridge="br1"), "network"),
        (card(vlan=40), card(bridge="br1", vlan=40), "network"),
        (card(), card(bridge="br01"), "network"),
        (card(bridge="br0.lan"), card(bridge="br0.wan"), "network"),
        (card(bridge="br0.lan"), card(bridge="br0.lan", vlan=4094), "vlan"),
        (card(bridge="enp129s0f0np0"), card(bridge="enp129s0f0np0", vlan=40), "vlan"),
        (card(bridge="enp129s0f0np0", vlan=40), card(bridge="enp129s0f0np0", vlan=50), "vlan"),
        (card(bridge="enp129s0f0np0", vlan=40), card(bridge="enp129s0f0np1", vlan=40), "network"),
    ],
)
def test_card_that_moves_says_what_of_it_was_changed(before: dict[str, Any], after: dict[str, Any], path: str) -> None:
    (change,) = differences(machine(nics=[after]), started(machine(nics=[before])), {}).changes
    assert change.otherwise.path == f"spec.nics[lan].{path}"


def test_rate_that_the_kernel_rounds_is_the_same_rate() -> None:
    odd = NetworkQos.model_validate({"inboundBitsPerSecond": "1000001"})
    hardware = started(machine(nics=[card(qos={"inboundBitsPerSecond": "1M"})]))
    assert found(machine(nics=[card(qos=odd)]), hardware) == ([], [])


# --- any wish from any hardware ---

DISKS = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3)
BUS = st.sampled_from(["Virtio", "Scsi", "Sata"])
LIMIT = st.sampled_from([None, "1Mi", "5Mi"])


@st.composite
def wishes(draw: st.DrawFn) -> PlacementSpec:
    names, cpu = draw(DISKS), draw(st.integers(1, 8))
    memory = draw(st.sampled_from(["256Mi", "1Gi", "1100Mi", "3Gi"]))
    macs = draw(st.lists(st.sampled_from([MAC, OTHER_MAC]), unique=True))
    qos: dict[str, Any] = {"priority": draw(st.sampled_from(["High", "Medium", "Low", None]))}
    return machine(
        cpu=cpu,
        max_cpu=draw(st.sampled_from([None, 2, 8])),
        memory=memory,
        max_memory=draw(st.sampled_from([None, "2Gi", "4Gi"])),
        qos=qos | {"limit": draw(st.sampled_from([None, "500m", "2"]))},
        volumes=[disk("system"), *(disk(n, bus=draw(BUS), qos={"readBytesPerSecond": draw(LIMIT)}) for n in names)],
        nics=[card(mac, bridge=draw(st.sampled_from(["br0", "br1"]))) for mac in macs],
        media=[drive(name, draw(st.sampled_from(["", SHA, OTHER_SHA]))) for name in draw(DISKS)],
        boot_order=draw(st.sampled_from([(), ("system",), ("a", "system")])),
    )


@settings(max_examples=200)
@given(first=wishes(), second=wishes(), kills=st.integers(0, 5))
def test_any_wish_is_reached_as_far_as_it_goes_and_then_nothing_is_left_to_do(
    first: PlacementSpec, second: PlacementSpec, kills: int
) -> None:
    """Also when the agent dies between two changes, or after one that it has not noted."""
    hardware = started(first)
    for _ in range(kills):
        for change in found(second, hardware)[0][:1]:
            hardware = changed(changed(hardware, second, change), second, change)
    for change in found(second, hardware)[0]:
        hardware = changed(hardware, second, change)
    left, awaits = found(second, hardware)
    assert left == []
    assert found(second, hardware) == (left, awaits)
    assert found(second, started(second)) == ([], [])
