"""Host.status from reports and from their silence."""

from __future__ import annotations

from nanovirt.resources.conditions import find
from nanovirt.resources.host import Host
from nanovirt.resources.kind import Key
from nanovirt.resources.report import HostReport, StorageFact, Unclaimed, lost_after
from tests.controllers.universe import Universe

NODE = Key("hosts", "", "node-1")


def said(universe: Universe, kind: str = "Ready") -> tuple[str, str]:
    found = find(universe.get(Host, "node-1").status.conditions, kind)
    return (found.status, found.reason) if found else ("", "")


def test_reporting_host_is_ready_with_its_facts() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.settle()
    host = universe.get(Host, "node-1")
    assert said(universe) == ("True", "Reporting")
    assert said(universe, "StorageReady") == ("True", "StorageReady")
    assert (host.status.capacity.cpus, host.status.accelerator) == (4, "simulated")
    assert universe.writes() == []


def test_silence_longer_than_the_lease_with_margin_is_unknown_and_written_once() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.settle()
    universe.monotonic = 1.0 + lost_after() - 0.1
    universe.settle()
    assert said(universe) == ("True", "Reporting")
    for later in (0.1, 10.0, 1000.0):
        universe.monotonic = 1.0 + lost_after() + later
        universe.settle()
        assert said(universe) == ("Unknown", "LeaseExpired")
    assert universe.get(Host, "node-1").metadata.resource_version == universe.doc(NODE)["metadata"]["resourceVersion"]


def test_restarted_server_believes_the_stored_state_until_a_full_lease_has_passed() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.settle()
    universe.reports.forget(NODE)
    universe.reports.started = universe.monotonic = 500.0
    assert universe.writes() == []
    universe.monotonic = 500.0 + lost_after()
    universe.settle()
    assert said(universe) == ("Unknown", "NeverReported")


def test_hypervisor_that_does_not_answer_makes_the_host_not_ready() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.hear("node-1", hypervisor_error="libvirtd is away")
    universe.settle()
    assert said(universe) == ("False", "HypervisorDown")


def test_storage_path_that_cannot_be_used_is_said() -> None:
    universe = Universe()
    universe.host("node-1")
    universe.hear("node-1", storage=(StorageFact(path="/v", error="read-only"),))
    universe.settle()
    assert said(universe, "StorageReady") == ("False", "StoragePathUnusable")


def test_allocated_room_is_counted_from_placements_and_volumes() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance(cpus=2, memory="2Gi")
    universe.settle()
    status = universe.get(Host, "node-1").status
    assert (status.allocated.cpus, str(status.allocated.memory), str(status.allocated.disk)) == (2, "2Gi", "10Gi")
    assert status.instances == 1


def test_domains_that_nobody_asked_for_are_named_up_to_a_hundred() -> None:
    universe = Universe()
    universe.host("node-1")
    strangers = tuple(Unclaimed(uuid=str(number), name=f"vm-{number:03}") for number in range(200, 0, -1))
    facts = universe.reports.heard("node-1").report.facts  # type: ignore[union-attr]
    universe.reports.hear("node-1", HostReport(facts=facts, unclaimed=strangers), universe.monotonic)
    universe.settle()
    assert universe.get(Host, "node-1").status.unclaimed == tuple(f"vm-{number:03}" for number in range(1, 101))
    universe.hear("node-1")
    universe.settle()
    assert universe.get(Host, "node-1").status.unclaimed == ()
