"""What is foreseen is what happens when nothing else comes first, and foreseeing changes nothing."""

from __future__ import annotations

from typing import Any

from nanovirt.controllers.forecasting import forecast
from nanovirt.resources.codec import JSON
from nanovirt.resources.defaults import made
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.store import Change, Create, Update
from tests.controllers.universe import Universe, obeyed

DISKS = [{"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}}]


def coming(one: Universe, *names: str, **spec: Any) -> list[Change]:
    """New instances as a dry run leads to them."""
    things = [made("Instance", name, "default", **{"disks": DISKS, **spec}) for name in names]
    ops = [Create(thing.key, thing.to_json()) for thing in things]
    entries = one.engine.stage(ops, "test", dry=True).outcome.entries
    return [Change(op.key, None, entry) for op, entry in zip(ops, entries, strict=True)]


def foreseen(one: Universe, changes: list[Change]) -> dict[str, JSON]:
    return {key.name: told for key, told in forecast(one.engine, one.world, changes).items()}


def two_hosts() -> Universe:
    """Two hosts, one ready image."""
    universe = Universe()
    universe.image()
    universe.host("node-1")
    universe.host("node-2")
    universe.settle()
    return universe


def test_what_is_foreseen_is_what_happens() -> None:
    one = two_hosts()
    one.instance("before")
    one.settle()
    told = foreseen(one, coming(one, "a", "b", "c"))
    for name in ("a", "b", "c"):
        one.instance(name)
    one.settle()
    happened = {}
    for name in ("a", "b", "c"):
        placement = one.get(Placement, f"{name}-1", "default").spec
        (nic,) = placement.nics
        happened[name] = {
            "host": placement.host,
            "addresses": [{"nic": "nic0", "addressPool": "lan", "ip": str(nic.ip)}],
        }
    assert told == happened
    assert {one["host"] for one in told.values()} == {"node-1", "node-2"}


def test_address_that_was_given_back_is_foreseen_as_late_as_it_is_given_again() -> None:
    one = two_hosts()
    first, _ = one.instance("a"), one.instance("b")
    one.settle()
    one.delete(first)
    one.settle()
    obeyed(one)
    one.settle()
    told = foreseen(one, coming(one, "c"))["c"]
    one.instance("c")
    one.settle()
    (nic,) = one.get(Placement, "c-1", "default").spec.nics
    assert [address["ip"] for address in told["addresses"]] == [str(nic.ip)]


def test_last_address_given_is_no_longer_held_and_yet_not_foreseen() -> None:
    one = two_hosts()
    one.instance("a")
    last = one.instance("b")
    one.settle()
    one.delete(last)
    one.settle()
    obeyed(one)
    one.settle()
    told = foreseen(one, coming(one, "c"))["c"]
    one.instance("c")
    one.settle()
    (nic,) = one.get(Placement, "c-1", "default").spec.nics
    assert [address["ip"] for address in told["addresses"]] == [str(nic.ip)]


def test_foreseeing_changes_nothing() -> None:
    one = two_hosts()
    before = (one.engine.committed, list(one.keys), one.world.loads.of("node-1"), one.world.leases.used("lan"))
    foreseen(one, coming(one, "a", "b"))
    assert (one.engine.committed, list(one.keys), one.world.loads.of("node-1"), one.world.leases.used("lan")) == before
    assert one.engine.peek(Key("instances", "default", "a")) is None
    assert one.writes() == []


def test_what_comes_with_the_set_counts_and_what_goes_does_not() -> None:
    one = two_hosts()
    pool = made("AddressPool", "dmz", network="default", subnet="10.9.0.0/24", ranges=[
        {"name": "one", "first": "10.9.0.7", "last": "10.9.0.8"},
    ])  # fmt: skip
    entry = one.engine.stage([Create(pool.key, pool.to_json())], "test", dry=True).outcome.entries[0]
    changes = [*coming(one, "a", nics=[{"name": "n", "addressPool": "dmz"}]), Change(pool.key, None, entry)]
    told = foreseen(one, changes)["a"]
    assert told["addresses"] == [{"nic": "n", "addressPool": "dmz", "ip": "10.9.0.7"}]
    image = Key("images", "shared", "mini")
    gone = Change(image, one.engine.peek(image), None)
    assert foreseen(one, [gone, *coming(one, "a")])["a"]["reason"] == "ImageNotFound"


def test_reason_why_it_would_wait_is_told_for_the_one_that_finds_no_room() -> None:
    one = two_hosts()
    told = foreseen(one, coming(one, "a", "b", "c", memory="8Gi"))
    assert [told[name].get("host") for name in ("a", "b", "c")].count(None) == 1
    assert told["c"]["reason"] == "NoHostFits"
    assert "memory is free" in told["c"]["message"]


def test_host_that_comes_with_the_set_is_known_and_not_ready() -> None:
    one = two_hosts()
    things = [made("ComputePool", "edge", storagePool="local"), made("Host", "edge-1", computePool="edge")]
    ops = [Create(thing.key, thing.to_json()) for thing in things]
    entries = one.engine.stage(ops, "test", dry=True).outcome.entries
    changes = [Change(op.key, None, entry) for op, entry in zip(ops, entries, strict=True)]
    told = foreseen(one, [*changes, *coming(one, "a", computePool="edge")])["a"]
    assert (told["reason"], "edge-1: not ready" in told["message"]) == ("NoHostFits", True)


def test_members_of_a_set_are_foreseen_as_they_are_then_placed() -> None:
    one = two_hosts()
    template = {"spec": {"disks": DISKS, "memory": "3Gi"}}
    thing = made("InstanceSet", "web", "default", replicas=5, template=template)
    (entry,) = one.engine.stage([Create(thing.key, thing.to_json())], "test", dry=True).outcome.entries
    (told,) = foreseen(one, [Change(thing.key, None, entry)]).values()
    one.create(thing)
    one.settle()
    happened = []
    for number in range(1, 5):
        placement = one.get(Placement, f"web-{number}-1", "default").spec
        ips = [{"nic": nic.name, "addressPool": "lan", "ip": str(nic.ip)} for nic in placement.nics]
        happened.append({"name": f"web-{number}", "host": placement.host, "addresses": ips})
    assert told["members"][:4] == happened
    assert (told["members"][4]["name"], told["members"][4]["reason"]) == ("web-5", "NoHostFits")


def test_only_new_members_of_a_larger_set_are_foreseen() -> None:
    one = two_hosts()
    thing = made("InstanceSet", "web", "default", replicas=2, template={"spec": {"disks": DISKS}})
    one.create(thing)
    one.settle()
    before = one.engine.peek(thing.key)
    doc = one.doc(thing.key)
    larger = Update(thing.key, {**doc, "spec": {**doc["spec"], "replicas": 3}})
    (entry,) = one.engine.stage([larger], "test", dry=True).outcome.entries
    (told,) = foreseen(one, [Change(thing.key, before, entry)]).values()
    assert [each["name"] for each in told["members"]] == ["web-3"]
    assert foreseen(one, [Change(thing.key, before, before)]) == {}
