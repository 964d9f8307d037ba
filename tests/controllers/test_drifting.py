"""What an instance says about a definition that was changed on its host, and which policy its host is given."""

from __future__ import annotations

import pytest

from nanovirt.controllers.drifting import drifted
from nanovirt.resources.conditions import Condition
from nanovirt.resources.instance import Drift, Instance, InstanceStatus
from nanovirt.resources.metadata import ADOPTED_LABEL, ObjectMeta
from nanovirt.resources.placement import Placement, PlacementStatus
from tests.agent.placements import placement

CPUS = Drift(path="vcpu", current="4", desired="2")
HUB = Drift(path="devices/hub", current="type=usb")
GONE = Drift(path="devices/rng", desired="model=virtio")


def instance(*, had: bool = False, adopted: bool = False) -> Instance:
    conditions = (Condition(type="Drifted", status="True", reason="ChangedBehind", message=""),) if had else ()
    labels = {ADOPTED_LABEL: "x"} if adopted else {}
    return Instance(metadata=ObjectMeta(name="web", labels=labels), status=InstanceStatus(conditions=conditions))


def changed(*drift: Drift, count: int = 0) -> Placement:
    status = PlacementStatus(drift=drift, drift_count=count or len(drift))
    return placement().model_copy(update={"status": status})


def test_instance_that_never_drifted_says_nothing_and_one_that_did_says_that_it_is_over() -> None:
    assert not [*drifted(instance(), changed())]
    (over,) = drifted(instance(had=True), changed())
    assert (over.status, over.reason) == ("False", "AsDefined")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (CPUS, "vcpu is 4, not 2"),
        (HUB, "devices/hub is there (type=usb)"),
        (GONE, "devices/rng is gone"),
    ],
)
def test_what_was_changed_is_said_with_what_should_be(one: Drift, said: str) -> None:
    (found,) = drifted(instance(), changed(one))
    assert (found.status, found.reason) == ("True", "ChangedBehind")
    assert found.params == {"host": "node-1", "policy": "Report", "changes": said}


def test_only_the_first_changes_stand_in_the_message() -> None:
    (found,) = drifted(instance(), changed(CPUS, HUB, GONE, CPUS, count=40))
    assert found.params["changes"].endswith("; and 37 more")


def test_what_an_adopted_machine_has_beyond_the_model_is_no_change() -> None:
    (found,) = drifted(instance(adopted=True), changed(HUB))
    assert found.reason == "AdoptedAsItIs"
    (found,) = drifted(instance(adopted=True), changed(HUB, CPUS))
    assert found.reason == "ChangedBehind"
