"""From any start, with events repeated, reordered and lost: the same laws hold, and a settled world plans nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.resources.conditions import holds
from nanovirt.resources.defaults import made
from nanovirt.resources.errors import AlreadyExists
from nanovirt.resources.host import Host
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.volume import Volume
from tests.controllers.universe import SMALL, Universe, obeyed

NAMES = ["a", "b", "c", "d", "e"]
MEMBERS = ["s-1", "s-2", "s-3"]
"""Names that the set `s` gives its members, and that others may have before."""
SET = Key("instancesets", "default", "s")
HOSTS = ["node-1", "node-2"]
STATES = ["", "Preparing", "Starting", "Running", "Stopped", "Failed", "Unknown"]

disks = st.builds(
    lambda name, size, reclaim: {"name": name, "size": size, "reclaim": reclaim},
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["1Gi", "2Gi", "60Gi"]),
    st.sampled_from(["Delete", "Retain"]),
)
nics = st.builds(
    lambda name, where: {"name": name, **where},
    st.sampled_from(["nic0", "other"]),
    st.sampled_from([{"addressPool": "lan"}, {"network": "default"}, {"addressPool": "lan", "ip": "10.87.1.2"}]),
)
moves = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(NAMES), st.sampled_from(["1Gi", "3Gi", "9Gi"])),
    st.tuples(st.just("create"), st.sampled_from(MEMBERS), st.just("1Gi")),
    st.tuples(st.just("delete"), st.sampled_from(NAMES + MEMBERS), st.none()),
    st.tuples(st.just("protect"), st.sampled_from(MEMBERS), st.booleans()),
    st.tuples(st.just("scale"), st.none(), st.integers(0, 4)),
    st.tuples(st.just("remake"), st.none(), st.booleans()),
    st.tuples(st.just("power"), st.sampled_from(NAMES), st.sampled_from(["Running", "Stopped"])),
    st.tuples(st.just("disks"), st.sampled_from(NAMES), st.lists(disks, max_size=3, unique_by=lambda one: one["name"])),
    st.tuples(
        st.just("nics"),
        st.sampled_from(NAMES),
        st.none() | st.lists(nics, max_size=2, unique_by=lambda one: one["name"]),
    ),
    st.tuples(st.just("silence"), st.sampled_from(HOSTS), st.none()),
    st.tuples(st.just("hear"), st.sampled_from(HOSTS), st.none()),
    st.tuples(st.just("disable"), st.sampled_from(HOSTS), st.booleans()),
    st.tuples(st.just("state"), st.sampled_from(NAMES), st.sampled_from(STATES)),
    st.tuples(st.just("obey"), st.none(), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
)


def small() -> Universe:
    """Two hosts, and a pool of four addresses for five possible names."""
    universe = Universe()
    universe.image()
    for name in HOSTS:
        universe.host(name)
    four = [{"name": "four", "first": "10.87.1.1", "last": "10.87.1.4"}]
    universe.patch(Key("addresspools", "", "lan"), ranges=four)
    universe.settle()
    return universe


def carry_out(universe: Universe, verb: str, name: Any, value: Any) -> None:
    key = Key("instances", "default", name or "")
    match verb:
        case "create":
            try:
                universe.instance(name, memory=value)
            except AlreadyExists:
                return
        case "delete" if key in universe.keys:
            universe.delete(key)
        case "protect" if key in universe.keys:
            universe.patch(key, deletionProtection=value)
        case "scale" if SET in universe.keys:
            universe.patch(SET, replicas=value)
        case "scale":
            template = {"spec": {"memory": "1Gi", "disks": [{"name": "system", "size": "1Gi"}]}}
            universe.create(made("InstanceSet", "s", "default", replicas=value, template=template))
        case "remake" if SET in universe.keys:
            universe.delete(SET)
            if value:
                carry_out(universe, "scale", None, 2)
        case "power" if key in universe.keys:
            universe.patch(key, powerState=value)
        case "disks" if key in universe.keys:
            universe.patch(key, disks=value)
        case "nics" if key in universe.keys:
            universe.patch(key, nics=value)
        case "silence":
            universe.monotonic += 100.0
        case "hear":
            universe.hear(name)
        case "disable":
            universe.patch(Key("hosts", "", name), enabled=not value)
        case "state":
            for placement in universe.all("placements"):
                if placement.name.startswith(name):
                    universe.report(placement, state=value)
        case "obey":
            obeyed(universe)
        case "settle":
            universe.settle()
        case _:
            return


def laws(universe: Universe) -> None:
    """What must hold at every moment."""
    placements = [universe.get(Placement, key.name, key.namespace) for key in universe.all("placements")]
    assert max(Counter(one.spec.instance_uid for one in placements).values(), default=1) == 1
    used = Counter(str(nic.ip) for one in placements for nic in one.spec.nics if nic.ip is not None)
    assert max(used.values(), default=1) == 1, "an address twice"
    held = {f"lan.{ip}" for ip in used}
    leaving = {order.frees for one in placements for order in one.spec.operations if order.verb == "ReleaseAddress"}
    there = {key.name for key in universe.all("addresses")}
    assert held <= there, "an address in use that nobody holds"
    gone = [one for one in placements if one.deleting]
    assert not leaving & held
    assert there - held == leaving - held or gone, "an address that is held for nobody"
    files = Counter(volume.file for one in placements for volume in one.spec.volumes)
    assert max(files.values(), default=1) == 1, "a file twice"
    volumes = [universe.get(Volume, key.name, key.namespace) for key in universe.all("volumes")]
    assert set(files) <= {volume.spec.file for volume in volumes}, "a disk without a Volume"
    assert len({volume.spec.file for volume in volumes}) == len(volumes), "two Volumes of one file"
    for name in HOSTS:
        memory = sum(one.spec.memory for one in placements if one.spec.host == name)
        assert memory <= SMALL.memory, "a host beyond its room"


@pytest.mark.timeout(180)
@settings(max_examples=120)
@given(st.lists(moves, max_size=25))
def test_any_history_ends_settled_with_every_law_kept(history: list[tuple[str, Any, Any]]) -> None:
    universe = small()
    for verb, name, value in history:
        carry_out(universe, verb, name, value)
        laws(universe)
    for host in HOSTS:
        universe.patch(Key("hosts", "", host), enabled=True)
        universe.hear(host)
    universe.settle()
    for _ in range(3):
        obeyed(universe)
        universe.settle()
        laws(universe)
    assert universe.writes() == []
    assert all(holds(universe.get(Host, name).status.conditions, "Ready") for name in HOSTS)
    assert not [
        one
        for key in universe.all("placements")
        for one in universe.get(Placement, key.name, key.namespace).spec.operations
    ]
    for key in universe.all("instances"):
        thing = universe.web(key.name)
        assert not thing.deleting, "a deletion did not end"
        assert thing.status.phase in (thing.spec.power_state, "Pending")
    wished = universe.get(InstanceSet, "s", "default").spec.replicas if SET in universe.keys else 0
    live = members(universe)
    free = [member for member in live if not member.spec.deletion_protection]
    assert len(live) == wished or (len(live) > wished and not free), "the set has as many as it is to have"


def members(universe: Universe) -> list[Instance]:
    """Those of the set that is there, or of one that was."""
    things = [universe.web(key.name) for key in universe.all("instances")]
    return [one for one in things if "nano/instance-set" in one.metadata.labels and one.metadata.owner_references]


@settings(max_examples=30)
@given(st.permutations(NAMES))
def test_order_of_creation_does_not_change_how_many_run(names: list[str]) -> None:
    universe = small()
    for name in names:
        universe.instance(name, memory="2Gi")
    universe.settle()
    obeyed(universe)
    universe.settle()
    phases = Counter(universe.web(name).status.phase for name in names)
    assert phases == {"Running": 4, "Pending": 1}, "the pool has four addresses"
