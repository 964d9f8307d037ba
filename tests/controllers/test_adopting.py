"""What an adopted domain becomes: its Placement and Volumes as its host reports it, and what is left when it goes."""

from __future__ import annotations

from datetime import UTC, datetime

from nanovirt.controllers.actions import LookAgain
from nanovirt.resources.codec import load
from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.differences import differences
from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.host import ACCOUNTED, Amounts, Host
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import ADOPTED_HOST_LABEL, ADOPTED_LABEL, ObjectMeta
from nanovirt.resources.placement import Placement
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import (
    DomainFacts,
    HeldNic,
    Holding,
    HostFacts,
    HostReport,
    StrangeDisk,
    StrangeNic,
    Unclaimed,
)
from nanovirt.resources.store import Create
from nanovirt.resources.volume import Volume
from tests.controllers.universe import Universe

OLD = "11111111-2222-4333-8444-555555555555"
FACTS = DomainFacts(
    cpus=1,
    memory=Bytes("1Gi"),
    disks=(
        StrangeDisk(name="vda", file="/old/a.qcow2", format="qcow2", size=Bytes("5Gi"), bus="Virtio"),
        StrangeDisk(name="sdb", file="/old/b.raw", format="raw", size=Bytes("1Gi"), bus="Sata"),
    ),
    nics=(StrangeNic(mac="52:54:00:aa:00:01", bridge="br0", vlan=40, model="E1000"),),
)
SEEN = HostFacts(accelerator="simulated", capacity=Amounts(cpus=4, memory=Bytes("8Gi"), disk=Bytes("100Gi")))


def adopting(*, reported: bool = True) -> Universe:
    one = Universe()
    one.host("node-1")
    one.settle()
    if reported:
        hear(one)
    disks = [{"name": disk.name, "size": str(disk.size), "reclaim": "Retain"} for disk in FACTS.disks]
    nics = [{"name": "nic0", "network": "default", "vlan": 40, "mac": FACTS.nics[0].mac}]
    doc = made("Instance", "web-1", "default", disks=disks, nics=nics, drift="Report").to_json()
    doc["metadata"]["labels"] = {ADOPTED_LABEL: OLD, ADOPTED_HOST_LABEL: "node-1", "nano/owner": "alice"}
    one.stage(Create(Key("instances", "default", "web-1"), doc))
    return one


def hear(one: Universe) -> None:
    stranger = Unclaimed(uuid=OLD, name="Old_Web", state="Running", facts=FACTS)
    one.reports.hear("node-1", HostReport(facts=SEEN, unclaimed=(stranger,)), one.monotonic)


def test_adopted_domain_keeps_its_uuid_name_disks_and_cards() -> None:
    one = adopting()
    one.settle()
    placement = one.get(Placement, "web-1-1", "default")
    spec = placement.spec
    assert (spec.host, spec.epoch, spec.domain.uuid, spec.domain.name) == ("node-1", 1, OLD, "Old_Web")
    assert [(disk.name, disk.file, disk.format, disk.bus, disk.adopted) for disk in spec.volumes] == [
        ("vda", "/old/a.qcow2", "qcow2", "Virtio", True),
        ("sdb", "/old/b.raw", "raw", "Sata", True),
    ]
    assert [(nic.name, nic.mac, nic.bridge, nic.vlan, nic.model, nic.ip) for nic in spec.nics] == [
        ("nic0", FACTS.nics[0].mac, "br0", 40, "E1000", None)
    ]
    assert placement.metadata.labels["nano/owner"] == "alice"
    assert one.get(Volume, "web-1.vda", "default").spec.reclaim == "Retain"


def test_adopted_card_reaches_no_vlan_that_its_bridge_does_not_carry_by_another_networks_name() -> None:
    one = adopting()
    one.settle()
    bridges = [{"network": "default", "device": "br0", "vlans": ["40"]}]
    one.patch(Key("hosts", "", "node-1"), bridges=bridges)
    for network, vlan in (("nowhere", 99), ("nowhere", 40)):
        nics = [{"name": "nic0", "network": network, "vlan": vlan, "mac": FACTS.nics[0].mac}]
        one.patch(Key("instances", "default", "web-1"), nics=nics)
        one.settle()
        (nic,) = one.get(Placement, "web-1-1", "default").spec.nics
        assert (nic.bridge, nic.vlan) == ("br0", 40)


def test_instance_waits_until_its_host_reports_the_domain() -> None:
    one = adopting(reported=False)
    actions = [*one.planned(Key("instances", "default", "web-1"))]
    assert LookAgain(2.0) in actions
    one.settle()
    ready = find(one.web().status.conditions, "Ready")
    assert ready is not None
    assert ready.reason == "DomainNotReported"
    hear(one)
    one.settle()
    assert one.web().status.placement == "web-1-1"


def test_files_that_nano_did_not_make_stay_when_the_instance_goes() -> None:
    one = adopting()
    one.settle()
    one.delete(Key("instances", "default", "web-1"))
    one.settle()
    entry = one.engine.peek(Key("placements", "default", "web-1-1"))
    assert entry is not None
    assert load(entry.raw)["spec"]["operations"] == []


def test_adopted_domain_is_no_stranger_to_a_restored_store() -> None:
    one = adopting()
    one.settle()
    one.create(Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=7, restored=datetime.now(UTC))))
    there = Holding(uuid=OLD, name="Old_Web", state="Running", nics=(HeldNic(mac=FACTS.nics[0].mac, ip="10.87.1.9"),))
    one.hear("node-1", holdings=(there,))
    one.settle()
    host = one.get(Host, "node-1")
    assert (host.status.unclaimed, host.status.unclaimed_addresses) == ((), ())
    key = Key("placements", "default", "web-1-1")
    entry, report = one.engine.peek(key), HostReport(facts=SEEN, holdings=(there,))
    assert entry is not None
    assert list(differences(["node-1"], [(key, entry)], {"node-1": report})) == []


def test_adopted_domain_on_another_host_than_the_store_says_is_told() -> None:
    one = adopting()
    one.host("node-2")
    one.settle()
    one.create(Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=7, restored=datetime.now(UTC))))
    one.hear("node-2", holdings=(Holding(uuid=OLD, name="Old_Web", state="Running"),))
    one.settle()
    accounted = find(one.get(Host, "node-2").status.conditions, ACCOUNTED)
    assert accounted is not None
    assert (accounted.status, accounted.reason) == ("False", "HoldsElsewhere")
