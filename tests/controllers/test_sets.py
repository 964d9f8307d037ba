"""Tables of what the controller of instance sets decides: who is made, who goes first, and what the status says."""

from __future__ import annotations

from typing import Any

import pytest

from nanovirt.controllers import sets
from nanovirt.controllers.actions import LookAgain, Transact
from nanovirt.resources.codec import decode
from nanovirt.resources.conditions import find
from nanovirt.resources.defaults import made
from nanovirt.resources.host import Amounts
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.store import Create, Delete, Op, Update
from tests.controllers.universe import NOW, Universe, obeyed

WEB = Key("instancesets", "default", "web")
LARGE = Amounts(cpus=64, memory=Bytes("512Gi"), disk=Bytes("2Ti"))
DISK = {"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}}


@pytest.fixture
def one() -> Universe:
    """One large host, one ready image."""
    universe = Universe()
    universe.image()
    universe.host("node-1", LARGE)
    universe.settle()
    return universe


def a_set(universe: Universe, replicas: int, name: str = "web", owner: str = "alice", **spec: Any) -> None:
    template = spec.pop("template", {"metadata": {"labels": {"app": "web"}}, "spec": {"disks": [DISK]}})
    doc = {"replicas": replicas, "template": template, **spec}
    metadata = {"name": name, "namespace": "default", "labels": {OWNER_LABEL: owner}}
    universe.create(decode(InstanceSet, {"metadata": metadata, "spec": doc}))


def settled(universe: Universe) -> None:
    """Every agent obeys until nothing is left to do."""
    for _ in range(4):
        universe.settle()
        obeyed(universe)
    universe.settle()


def names(universe: Universe) -> list[str]:
    return sorted(key.name for key in universe.all("instances"))


def web(universe: Universe) -> InstanceSet:
    return universe.get(InstanceSet, "web", "default")


def ready(universe: Universe, kind: str = "Ready") -> tuple[str, str]:
    found = find(web(universe).status.conditions, kind)
    assert found is not None
    return found.status, found.reason


def counts(universe: Universe) -> tuple[int, int]:
    status = web(universe).status
    return status.replicas, status.ready_replicas


def scale(universe: Universe, replicas: int) -> None:
    universe.patch(WEB, replicas=replicas)


def planned(universe: Universe) -> list[Op]:
    """What the controller would write of instances now."""
    actions = list(sets.plan(web(universe), universe.world, NOW))
    ops = [op for action in actions if isinstance(action, Transact) for op in action.ops]
    return [op for op in ops if op.key.plural == "instances"]


def test_members_are_made_with_labels_owner_and_template(one: Universe) -> None:
    a_set(one, 3)
    settled(one)
    assert names(one) == ["web-1", "web-2", "web-3"]
    member = one.web("web-2")
    mark = web(one).spec.template.mark
    assert member.metadata.labels == {
        "app": "web", OWNER_LABEL: "alice", "nano/instance-set": "web", "nano/template": mark,
    }  # fmt: skip
    (owner,) = member.metadata.owner_references
    assert (owner.uid, owner.controller, owner.block_owner_deletion) == (web(one).metadata.uid, True, True)
    assert member.spec == web(one).spec.template.spec
    assert (counts(one), ready(one)) == ((3, 3), ("True", "MembersReady"))
    assert web(one).status.selector == "nano/instance-set=web"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("{name}-{index}", "web-1"), ("front{index}", "front1"), ("{index}-of-{name}", "1-of-web")],
)
def test_rule_names_the_members(one: Universe, rule: str, expected: str) -> None:
    a_set(one, 1, nameRule=rule)
    one.settle()
    assert names(one) == [expected]


def test_settled_world_plans_nothing(one: Universe) -> None:
    a_set(one, 3)
    settled(one)
    assert one.writes() == []
    scale(one, 1)
    settled(one)
    assert (one.writes(), names(one)) == ([], ["web-1"])


def test_labels_of_the_server_in_a_template_are_left_out(one: Universe) -> None:
    a_set(one, 1, template={"metadata": {"labels": {OWNER_LABEL: "eve", "nano/else": "x"}}, "spec": {}})
    one.settle()
    labels = one.web("web-1").metadata.labels
    assert (labels[OWNER_LABEL], "nano/else" in labels) == ("alice", False)


def test_highest_index_goes_first_among_healthy_ones(one: Universe) -> None:
    a_set(one, 11)
    settled(one)
    scale(one, 9)
    assert [op.key.name for op in planned(one)] == ["web-11", "web-10"]


def test_what_is_not_ready_goes_before_what_is_and_what_has_no_place_before_that(one: Universe) -> None:
    a_set(one, 4)
    settled(one)
    one.patch(Key("hosts", "", "node-1"), enabled=False)
    one.delete(Key("instances", "default", "web-1"))
    settled(one)
    one.report(Key("placements", "default", "web-2-1"), state="Stopped")
    one.settle()
    assert [one.web(name).status.phase for name in names(one)] == ["Pending", "Stopped", "Running", "Running"]
    scale(one, 3)
    assert [op.key.name for op in planned(one)] == ["web-1"]
    scale(one, 1)
    assert [op.key.name for op in planned(one)] == ["web-1", "web-2", "web-4"]


def test_protected_members_stay_and_the_set_says_so(one: Universe) -> None:
    a_set(one, 3)
    settled(one)
    one.patch(Key("instances", "default", "web-3"), deletionProtection=True)
    one.patch(Key("instances", "default", "web-2"), deletionProtection=True)
    scale(one, 2)
    settled(one)
    assert names(one) == ["web-2", "web-3"]
    assert ready(one) == ("True", "MembersReady")
    scale(one, 1)
    settled(one)
    assert (names(one), ready(one)) == (["web-2", "web-3"], ("False", "MembersProtected"))
    assert one.writes() == []


def test_member_deleted_by_hand_is_made_again_under_its_name(one: Universe) -> None:
    a_set(one, 3)
    settled(one)
    before = one.web("web-2").metadata.uid
    one.delete(Key("instances", "default", "web-2"))
    one.settle()
    assert (names(one), ready(one)) == (["web-1", "web-2", "web-3"], ("False", "MembersMissing"))
    assert counts(one) == (3, 2), "the one that goes is still there"
    settled(one)
    assert names(one) == ["web-1", "web-2", "web-3"]
    assert one.web("web-2").metadata.uid != before
    assert ready(one) == ("True", "MembersReady")


def test_scaling_up_again_waits_for_names_that_are_just_given_up(one: Universe) -> None:
    a_set(one, 4)
    settled(one)
    scale(one, 1)
    one.settle()
    scale(one, 3)
    one.settle()
    assert names(one) == ["web-1", "web-2", "web-3", "web-4"], "none beyond the names that will be free"
    settled(one)
    assert names(one) == ["web-1", "web-2", "web-3"]


def test_foreign_instance_is_left_alone_and_its_name_left_out(one: Universe) -> None:
    foreign = one.instance("web-2")
    one.settle()
    before = one.doc(foreign)
    a_set(one, 2)
    settled(one)
    assert names(one) == ["web-1", "web-2", "web-3"]
    assert ready(one, "NamesFree") == ("False", "NamesTaken")
    assert one.doc(foreign)["metadata"].get("ownerReferences") == before["metadata"].get("ownerReferences")
    scale(one, 0)
    settled(one)
    assert names(one) == ["web-2"]
    assert ready(one, "NamesFree") == ("True", "NamesFree")


def test_reference_to_a_set_alone_makes_no_member(one: Universe) -> None:
    a_set(one, 0)
    one.settle()
    owner = {"apiVersion": "nano/v1", "kind": "InstanceSet", "name": "web", "uid": web(one).metadata.uid}
    thing = made("Instance", "mine", "default")
    doc = thing.to_json()
    doc["metadata"]["ownerReferences"] = [owner]
    one.stage(Create(thing.key, doc))
    one.settle()
    assert counts(one) == (0, 0)
    assert names(one) == ["mine"]


def test_template_is_for_new_members_only(one: Universe) -> None:
    a_set(one, 2)
    settled(one)
    one.patch(WEB, template={"spec": {"disks": [DISK], "cpus": 2}})
    settled(one)
    assert [one.web(name).spec.cpus for name in names(one)] == [1, 1]
    assert (ready(one, "TemplateCurrent"), web(one).status.outdated_replicas) == (("False", "TemplateOlder"), 2)
    one.delete(Key("instances", "default", "web-1"))
    settled(one)
    assert [one.web(name).spec.cpus for name in names(one)] == [2, 1]
    assert web(one).status.outdated_replicas == 1
    assert one.writes() == []


def test_defaults_written_out_are_the_same_template(one: Universe) -> None:
    a_set(one, 1)
    settled(one)
    written = one.doc(WEB)["spec"]["template"]
    one.patch(WEB, template={**written, "spec": {**written["spec"], "cpus": 1, "description": ""}})
    settled(one)
    assert ready(one, "TemplateCurrent") == ("True", "TemplateCurrent")


def test_members_that_cannot_run_are_named_with_their_reasons(one: Universe) -> None:
    a_set(one, 12, template={"spec": {"disks": [{"name": "system", "source": {"image": "missing"}}]}})
    settled(one)
    failed = web(one).status.failed
    assert [(each.name, each.reason) for each in failed] == [(f"web-{n}", "ImageNotFound") for n in range(1, 11)]
    assert failed[0].message == "Image missing does not exist."
    assert ready(one) == ("False", "MembersNotReady")
    assert one.writes() == []


def test_many_members_are_made_and_deleted_step_by_step(one: Universe) -> None:
    a_set(one, 120)
    for expected, more in ((50, True), (100, True), (120, False)):
        actions = list(sets.plan(web(one), one.world, NOW))
        assert any(isinstance(action, LookAgain) for action in actions) == more
        (transaction,) = [action for action in actions if isinstance(action, Transact)]
        one.stage(*transaction.ops)
        assert len(names(one)) == expected == web(one).status.replicas
    settled(one)
    scale(one, 0)
    assert len(planned(one)) == 50
    settled(one)
    assert (names(one), counts(one)) == ([], (0, 0))


def test_large_template_is_copied_a_few_times_at_once(one: Universe) -> None:
    template = {"metadata": {"annotations": {"note": "x" * 250_000}}, "spec": {}}
    a_set(one, 9, template=template)
    assert len(planned(one)) == 4


def test_members_go_with_their_set(one: Universe) -> None:
    a_set(one, 3)
    settled(one)
    one.delete(WEB)
    settled(one)
    assert (names(one), one.all("placements"), one.all("addresses")) == ([], [], [])


def test_set_that_goes_in_the_foreground_waits_for_its_members_and_makes_none(one: Universe) -> None:
    a_set(one, 2)
    settled(one)
    doc = one.doc(WEB)
    one.stage(Update(WEB, {**doc, "metadata": {**doc["metadata"], "finalizers": ["foregroundDeletion"]}}), Delete(WEB))
    assert planned(one) == []
    one.settle()
    assert WEB in one.keys
    assert all(one.web(name).deleting for name in names(one))
    scale(one, 5)
    assert planned(one) == [], "nobody makes members for what goes"
    settled(one)
    assert (WEB in one.keys, names(one)) == (False, [])


def test_set_made_anew_gets_its_names_back(one: Universe) -> None:
    a_set(one, 2)
    settled(one)
    before = {one.web(name).metadata.uid for name in names(one)}
    one.delete(WEB)
    a_set(one, 2)
    settled(one)
    assert names(one) == ["web-1", "web-2"]
    assert before.isdisjoint(one.web(name).metadata.uid for name in names(one))
    assert ready(one) == ("True", "MembersReady")


def test_two_sets_with_one_rule_share_its_names(one: Universe) -> None:
    a_set(one, 2)
    a_set(one, 2, name="other", nameRule="web-{index}")
    settled(one)
    assert names(one) == ["web-1", "web-2", "web-3", "web-4"]
    assert one.writes() == []


def test_instance_is_created_and_deleted_only(one: Universe) -> None:
    assert not {"instances", "instances/update", "instances/status"}.intersection(sets.WRITES)
    a_set(one, 1)
    (op,) = planned(one)
    assert isinstance(op, Create)
    assert decode(Instance, op.doc).spec.disks[0].name == "system"


def test_what_a_person_would_ask_about_is_told_as_an_event(one: Universe) -> None:
    one.instance("web-1")
    a_set(one, 1)
    settled(one)
    told = {doc["reason"]: doc for key in one.all("events") if (doc := one.doc(key))["involvedObject"]["name"] == "web"}
    assert {reason: doc["type"] for reason, doc in told.items()} == {"MembersReady": "Normal", "NamesTaken": "Warning"}
    assert told["NamesTaken"]["metadata"]["labels"] == {OWNER_LABEL: "alice"}
