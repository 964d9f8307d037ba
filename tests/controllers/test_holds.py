"""A restored store: who says what it holds, when it is let go, and that nothing is done before."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from nanovirt.controllers import holds
from nanovirt.controllers.loops import Loops
from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import defaults, made
from nanovirt.resources.engine import Engine
from nanovirt.resources.hold import HOLD, Hold, HoldSpec, held
from nanovirt.resources.host import ACCOUNTED, Host
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import HeldNic, Holding, HostFacts, HostReport
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Delete, transact
from nanovirt.resources.volume import Volume
from tests.controllers.test_instances import WEB
from tests.controllers.universe import SMALL, Universe, obeyed

RESTORED = datetime(2026, 11, 22, tzinfo=UTC)
LATE = Holding(
    uuid="33333333-3333-4333-8333-000000000001",
    name="default.late",
    state="Running",
    nics=(HeldNic(mac="52:54:00:00:00:09", ip="10.87.1.0"),),
    epoch=1,
)


def hold() -> Hold:
    return Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=7, restored=RESTORED))


@pytest.fixture
def restored() -> Universe:
    """Two hosts of which nothing was heard, a machine on one of them, and the store is held."""
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.host("node-2")
    universe.instance(scheduling={"host": "node-1"})
    universe.settle()
    obeyed(universe)
    universe.settle()
    for name in ("node-1", "node-2"):
        universe.reports.forget(Key("hosts", "", name))
    universe.create(hold())
    universe.settle()
    return universe


def machine(universe: Universe, **changes: object) -> Holding:
    """What node-1 has of the machine."""
    uid = universe.web().metadata.uid
    return Holding(uuid=uid, name="default.web-1", state="Running", epoch=1).model_copy(update=changes)


def accounted(universe: Universe, name: str) -> tuple[str, str]:
    found = find(universe.get(Host, name).status.conditions, ACCOUNTED)
    return (found.status, found.reason) if found else ("", "")


def test_hold_ends_when_every_host_has_said_what_it_holds(restored: Universe) -> None:
    assert accounted(restored, "node-1") == ("False", "NotAccounted")
    restored.hear("node-1", holdings=(machine(restored),))
    restored.settle()
    assert accounted(restored, "node-1") == ("True", "Accounted")
    assert held(restored.engine)
    restored.hear("node-2", holdings=())
    restored.settle()
    assert not held(restored.engine)
    assert accounted(restored, "node-1") == accounted(restored, "node-2") == ("", "")
    assert restored.writes() == []


def test_report_that_does_not_say_what_a_host_holds_is_not_enough(restored: Universe) -> None:
    for name in ("node-1", "node-2"):
        restored.hear(name)
    restored.settle()
    assert held(restored.engine)
    assert accounted(restored, "node-2") == ("False", "NotAccounted")


def test_host_that_has_spoken_needs_not_do_so_again_after_a_start_of_the_server(restored: Universe) -> None:
    restored.hear("node-1", holdings=(machine(restored),))
    restored.settle()
    restored.reports.forget(Key("hosts", "", "node-1"))
    restored.settle()
    assert accounted(restored, "node-1") == ("True", "Accounted")
    restored.hear("node-2", holdings=())
    restored.settle()
    assert not held(restored.engine)


def test_what_was_said_to_an_earlier_restore_does_not_count(restored: Universe) -> None:
    restored.hear("node-1", holdings=(machine(restored),))
    restored.settle()
    restored.reports.forget(Key("hosts", "", "node-1"))
    restored.stage(Delete(HOLD), Create(HOLD, hold().to_json()))
    restored.patch(Key("hosts", "", "node-2"), enabled=False)
    assert list(holds.plan(restored.get(Hold, HOLD.name), restored.world, RESTORED)) == []
    restored.settle()
    assert accounted(restored, "node-1") == ("False", "NotAccounted")


@pytest.mark.parametrize(("spec", "waits"), [({"enabled": False}, False), ({}, True)])
def test_disabled_host_without_machines_is_not_waited_for(
    restored: Universe, spec: dict[str, bool], waits: bool
) -> None:
    restored.patch(Key("hosts", "", "node-2"), **spec)
    restored.hear("node-1", holdings=(machine(restored),))
    restored.settle()
    assert bool(held(restored.engine)) is waits


def test_disabled_host_with_machines_is_waited_for(restored: Universe) -> None:
    restored.patch(Key("hosts", "", "node-1"), enabled=False)
    restored.hear("node-2", holdings=())
    restored.settle()
    assert held(restored.engine)


def test_machine_on_another_host_than_the_store_says_keeps_the_hold(restored: Universe) -> None:
    restored.hear("node-1", holdings=())
    restored.hear("node-2", holdings=(machine(restored, epoch=2),))
    restored.settle()
    assert accounted(restored, "node-2") == ("False", "HoldsElsewhere")
    assert held(restored.engine)
    restored.hear("node-2", holdings=())
    restored.settle()
    assert not held(restored.engine)


def test_addresses_of_unknown_domains_are_given_to_nobody(restored: Universe) -> None:
    """They are noted before the hold ends, so there is no moment in which one could be given away."""
    taken = str(restored.get(Placement, WEB.name, "default").spec.nics[0].ip)
    free = [f"10.87.1.{number}" for number in range(3) if f"10.87.1.{number}" != taken]
    nics = tuple(HeldNic(mac=f"52:54:00:00:01:0{number}", ip=ip) for number, ip in enumerate(free))
    restored.hear("node-1", holdings=(machine(restored), LATE.model_copy(update={"nics": nics})))
    restored.hear("node-2", holdings=())
    restored.settle()
    host = restored.get(Host, "node-1")
    assert (host.status.unclaimed, [str(ip) for ip in host.status.unclaimed_addresses]) == (("default.late",), free)
    assert not held(restored.engine)
    restored.instance("web-2")
    restored.settle()
    given = str(restored.get(Placement, "web-2-1", "default").spec.nics[0].ip)
    assert given not in free
    wished = [{"name": "nic0", "addressPool": "lan", "ip": free[0]}]
    restored.instance("web-3", nics=wished)
    restored.settle()
    ready = find(restored.web("web-3").status.conditions, "Ready")
    assert ready is not None
    assert (ready.reason, ready.params["instance"]) == ("AddressInUse", "an unclaimed domain of node-1")
    restored.hear("node-1")
    restored.settle()
    assert restored.get(Host, "node-1").status.unclaimed_addresses == ()
    assert restored.world.leases.stranger(host.status.unclaimed_addresses[0]) == ""


def test_work_goes_on_above_the_epoch_that_a_host_has_obeyed() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    obeyed(universe)
    universe.settle()
    before = universe.get(Placement, WEB.name, "default")
    universe.report(WEB, epoch=4)
    universe.settle()
    after = universe.get(Placement, "web-1-5", "default")
    assert after.spec == before.spec.model_copy(update={"epoch": 5})
    assert universe.get(Placement, WEB.name, "default").deleting
    assert universe.get(Volume, "web-1.system", "default").status.in_use_by == "web-1-5"
    assert universe.web().status.placement == "web-1-5"
    obeyed(universe)
    universe.settle()
    assert [key.name for key in universe.all("placements")] == ["web-1-5"]
    assert universe.web().status.phase == "Running"
    assert universe.writes() == []
    universe.delete(universe.web().key)
    universe.settle()
    obeyed(universe)
    universe.settle()
    assert [*universe.all("placements"), *universe.all("volumes"), *universe.all("addresses")] == []


def test_instance_goes_only_when_its_older_placement_is_gone_too() -> None:
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.instance()
    universe.settle()
    universe.report(WEB, epoch=4)
    universe.settle()
    universe.delete(universe.web().key)
    universe.settle()
    newest = Key("placements", "default", "web-1-5")
    done = [
        {"uid": one.uid, "state": "Succeeded"}
        for one in universe.get(Placement, newest.name, "default").spec.operations
    ]
    universe.report(newest, state="Stopped", operations=done, released=True)
    universe.settle()
    assert len(universe.all("placements")) == 2
    universe.report(WEB, state="Stopped", released=True)
    universe.settle()
    assert [*universe.all("placements"), *universe.all("instances"), *universe.all("volumes")] == []


# --- the loops ---


async def test_controllers_do_nothing_but_observe_until_the_hold_ends() -> None:
    store, reports = Engine(MemoryLog()), Reports(0.0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.run())]
        await transact(store, [Create(thing.key, thing.to_json()) for thing in defaults()], "test")
        host = made("Host", "node-1", bridges=[{"network": "default", "device": "br0"}])
        web = made("Instance", "web-1", "default", disks=[{"name": "system", "size": "1Gi"}])
        await transact(store, [Create(one.key, one.to_json()) for one in (host, web, hold())], "test")
        loops = Loops(store, reports)
        tasks.append(group.create_task(loops.run()))
        orphan = Key("systemtemplates", "", "orphan")
        parent = store.get(Key("namespaces", "", "shared")).uid
        owners = [{"apiVersion": "v1", "kind": "Namespace", "name": "shared", "uid": parent}]
        await transact(store, [Create(orphan, {"metadata": {"name": "orphan", "ownerReferences": owners}})], "test")
        await transact(store, [Delete(Key("namespaces", "", "shared"))], "test")
        facts = HostFacts(accelerator="simulated", capacity=SMALL)
        reports.hear("node-1", HostReport(facts=facts), asyncio.get_running_loop().time())
        async with asyncio.timeout(10):
            while b"NotAccounted" not in store.get(host.key).raw:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert store.list("placements") == store.list("addresses") == []
        assert b"conditions" not in store.get(web.key).raw.partition(b'"status"')[2].replace(b'"conditions":[]', b"")
        assert store.peek(orphan)
        await transact(store, [Delete(HOLD)], "admin")
        async with asyncio.timeout(10):
            while not store.list("placements") or store.peek(orphan):
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
