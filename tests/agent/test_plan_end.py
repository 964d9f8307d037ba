"""Tables of what is decided for a machine that goes, or that somebody else has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent import telling
from nanovirt.agent.plan import decide
from nanovirt.agent.steps import (
    Destroy,
    RemoveVolume,
    Undefine,
    Withhold,
)
from nanovirt.agent.wish import Wish
from nanovirt.resources.placement import PlacementStatus
from tests.agent.placements import FILE, MAC, REMOVE, placement
from tests.agent.planning import (
    BLANK,
    NOTHING,
    NOW,
    ON,
    THERE,
    decided,
    knowing,
    names,
    told,
)


def test_deleted_machine_is_destroyed_undefined_and_silenced_before_its_disk_goes() -> None:
    made = placement(deleting=True, operations=[REMOVE])
    decision = decided(made, ON, knowing(placement()))
    assert decision.steps[1:] == (Destroy(), Undefine(), Withhold(MAC), RemoveVolume(FILE))


def test_released_is_told_only_when_nothing_is_left() -> None:
    made = placement(deleting=True, operations=[REMOVE])
    memory = knowing(made)
    assert not told(made, ON, memory).released
    disk_left = replace(NOTHING, volumes=THERE)
    assert not told(made, disk_left, memory).released
    status = told(made, NOTHING, memory)
    assert status.released
    assert [(one.uid, one.state) for one in status.operations] == [("op-1", "Succeeded")]
    assert decided(made, NOTHING, memory).steps == ()


def test_disks_without_an_operation_stay() -> None:
    made = placement(deleting=True)
    assert "RemoveVolume" not in names(decided(made, ON, knowing(made)))
    assert told(made, replace(NOTHING, volumes=THERE), knowing(made)).released


def test_running_machine_is_not_released() -> None:
    for made in (placement(deleting=True), placement(role="Revoked")):
        status = told(made, ON, knowing(made))
        assert (status.state, status.reason, status.released) == ("Stopping", "Deleting", False)


def test_operation_that_names_no_disk_of_the_placement_fails() -> None:
    made = placement(deleting=True, operations=[REMOVE.model_copy(update={"volume": "/etc/passwd"})])
    assert "RemoveVolume" not in names(decided(made, ON, knowing(made)))
    status = told(made, NOTHING, knowing(made))
    assert status.released
    assert status.operations[0].state == "Failed"


def test_operations_wait_for_the_deletion() -> None:
    made = placement(operations=[REMOVE], generation=1)
    assert decided(made, ON, knowing(made)).steps == ()


def test_revoked_machine_goes_and_its_disks_stay() -> None:
    made = placement(role="Revoked", operations=[REMOVE], generation=2)
    assert decided(made, ON, knowing(placement())).steps[1:] == (Destroy(), Undefine(), Withhold(MAC))
    assert told(made, replace(NOTHING, volumes=THERE), knowing(made)).released


def test_revoked_and_deleted_machine_leaves_its_disks_alone() -> None:
    made = placement(role="Revoked", deleting=True, operations=[REMOVE])
    assert "RemoveVolume" not in names(decided(made, ON, knowing(made)))


def test_deletion_of_what_never_began_is_released_at_once() -> None:
    made = placement(deleting=True, operations=[REMOVE])
    assert names(decided(made, NOTHING, BLANK)) == ["Remember"]
    assert told(made, NOTHING, BLANK).released


@pytest.mark.parametrize("changes", [{}, {"role": "Revoked"}, {"deleting": True, "operations": [REMOVE]}])
def test_lower_epoch_is_never_obeyed(changes: dict[str, Any]) -> None:
    old, new = placement(**changes), placement(epoch=2)
    assert decided(old, ON, knowing(new)).steps == ()
    assert decided(old, NOTHING, knowing(new)).steps == ()


def test_old_placement_of_a_machine_that_came_back_is_released_without_touching_it() -> None:
    old, new = placement(role="Revoked"), placement(epoch=2)
    assert told(old, ON, knowing(new)).released


def test_epoch_that_the_server_has_forgotten_is_told() -> None:
    old, new = placement(), placement(epoch=4)
    status = told(old, ON, knowing(new))
    assert status == PlacementStatus(epoch=4)
    assert told(old, replace(ON, told=status), knowing(new)) == status


def test_epoch_of_a_machine_that_has_left_the_host_is_not_told() -> None:
    wish, memory = Wish.of(placement()), knowing(placement(epoch=4, role="Revoked"))
    assert telling.tell(wish, ON, decide(wish, ON, memory, NOW)) is None
