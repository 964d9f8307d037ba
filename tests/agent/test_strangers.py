"""What is read from definitions that others made: facts, what keeps them from being adopted, and hostile ones."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.agent.strangers import described, files_of
from nanovirt.resources.report import DomainFacts, StrangeDisk, StrangeNic

DISK = (
    "<disk type='file' device='disk'><driver type='qcow2'/><source file='/v/a'/><target dev='vda' bus='virtio'/></disk>"
)
NIC = (
    "<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source bridge='br0'/>"
    "<model type='e1000e'/></interface>"
)


def xml(devices: str = DISK + NIC, more: str = "") -> str:
    return (
        "<domain type='kvm'><name>old</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>"
        f"<os><type machine='pc-q35-7.2'>hvm</type></os><clock offset='localtime'/>{more}"
        f"<devices>{devices}</devices></domain>"
    )


def facts(text: str, **more: Any) -> DomainFacts:
    return described(text, {"/v/a": 2**30}, **({"persistent": True} | more))


def test_domain_is_described_by_what_an_instance_can_be() -> None:
    found = facts(xml())
    assert (found.cpus, found.memory, found.machine, found.firmware, found.clock) == (
        2, 512 * 2**20, "q35", "BIOS", "LocalTime",
    )  # fmt: skip
    assert found.disks == (StrangeDisk(name="vda", file="/v/a", format="qcow2", size=2**30, bus="Virtio"),)  # type: ignore[arg-type]
    assert found.nics == (StrangeNic(mac="52:54:00:aa:00:01", bridge="br0", model="E1000"),)
    assert (found.beyond, found.problems) == ((), ())
    assert files_of(xml()) == ("/v/a",)


def test_what_an_instance_cannot_say_is_named() -> None:
    assert facts(xml(DISK + NIC + "<hostdev mode='subsystem'/>", "<cputune/>")).beyond == ("cputune", "devices/hostdev")


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        ("<disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='vda' bus='virtio'/></disk>", "no file"),
        (DISK.replace("qcow2", "vmdk"), "neither qcow2 nor raw"),
        (DISK.replace("/v/a", "/v/gone"), "cannot be looked at"),
        (DISK.replace("bus='virtio'", "bus='fdc'"), "bus that no instance has"),
        (DISK.replace("vda", "v d;a"), "none that a disk of an instance may have"),
        (DISK.replace("/v/a", "../a"), "no file"),
        ("<interface type='network'><mac address='52:54:00:aa:00:01'/></interface>", "on no bridge"),
        (DISK * 17, "more than 16 disks"),
    ],
)
def test_what_keeps_a_domain_from_being_adopted_is_said(devices: str, why: str) -> None:
    assert why in "; ".join(facts(xml(devices)).problems)


def test_transient_domain_has_to_be_defined_first() -> None:
    assert "transient" in facts(xml(), persistent=False).problems[0]


def test_hostile_definitions_are_bounded() -> None:
    for text in ("<a" * 10, "x" * 300_000, "<domain>" + "<!ENTITY x 'y'>" + "</domain>"):
        assert facts(text).problems
        assert files_of(text) == ()
    huge = facts(xml(NIC * 500, "<memory unit='TiB'>99999999999999999999</memory>"))
    assert len(huge.nics) == 8
    assert len(huge.problems) <= 20
    odd = facts(xml().replace(">512<", ">-5<").replace(">2<", ">many<"))
    assert (odd.cpus, odd.memory) == (0, 0)
    assert facts(xml().replace(">512<", ">99999999999999999999<")).memory <= 2**50
