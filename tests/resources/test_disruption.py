"""When a change takes effect, as tables: machine as it is, change, effect."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from nanovirt.resources import disruption
from nanovirt.resources.codec import decode
from nanovirt.resources.disruption import Effect, FieldChange, changes, worst
from nanovirt.resources.instance import PLACED, Instance, InstanceSpec
from nanovirt.resources.kind import Later

JSON = dict[str, Any]
WAITING: JSON = {"phase": "Pending"}
RUNNING: JSON = {"phase": "Running", "placement": "web-1-1", "host": "node-1"}
STOPPED: JSON = RUNNING | {"phase": "Stopped"}
UNKNOWN: JSON = RUNNING | {"phase": "Unknown"}
SPEC: JSON = {"cpus": 1, "memory": "1Gi", "powerState": "Running", "scheduling": {}, "guest": {}}
DISKS = [{"name": "system", "size": "1Gi"}]


def instance(status: JSON, **spec: Any) -> JSON:
    metadata = {"name": "web-1", "namespace": "default", "labels": {"a": "1"}}
    return {"kind": "Instance", "metadata": metadata, "spec": SPEC | spec, "status": status}


def effect(status: JSON, **spec: Any) -> Effect:
    (found,) = changes("Instance", instance(status), instance({}, **spec))
    return found.effect


FIRST, SECOND = {"at": "2026-11-25T09:00:00Z", "mode": "Graceful"}, {"at": "2026-11-25T10:00:00Z", "mode": "Graceful"}
FIELDS: dict[str, tuple[Any, Any, str, str, str]] = {
    # field: as it is, as it shall be; effect on a machine that waits for a place, that runs, that is off
    "displayName": ("", "Web", "Live", "Live", "Live"),
    "description": ("", "Shop", "Live", "Live", "Live"),
    "computePool": ("default", "other", "Refused", "Refused", "Refused"),
    "systemTemplate": (None, "legacy", "Live", "Refused", "Refused"),
    "cpus": (1, 2, "Live", "Restart", "NextStart"),
    "memory": ("1Gi", "2Gi", "Live", "Restart", "NextStart"),
    "powerState": ("Running", "Stopped", "Live", "Restart", "Live"),
    "restartPolicy": ("OnFailure", "Never", "Live", "Live", "Live"),
    "restart": (None, FIRST, "Live", "Restart", "Live"),
    "restart.at": (FIRST["at"], SECOND["at"], "Live", "Restart", "Live"),
    "restart.mode": ("Graceful", "Hard", "Live", "Live", "Live"),
    "stopGraceSeconds": (60, 5, "Live", "Live", "Live"),
    "startPriority": (100, 1, "Live", "Live", "Live"),
    "deletionProtection": (False, True, "Live", "Live", "Live"),
    "drift": (None, "Revert", "Live", "Live", "Live"),
    "disks": ([], DISKS, "Live", "Refused", "Refused"),
    "nics": (None, [], "Live", "Refused", "Refused"),
    "guest.hostname": (None, "web", "Live", "Live", "Live"),
    "guest.timeZone": (None, "UTC", "Live", "Restart", "NextStart"),
    "guest.admin": (None, {"name": "ops"}, "Live", "Restart", "NextStart"),
    "guest.admin.name": (None, "ops", "Live", "Restart", "NextStart"),
    "guest.admin.passwordSecret": (None, "login", "Live", "Restart", "NextStart"),
    "guest.admin.sshKeys": (None, ["ssh-ed25519 AAAA"], "Live", "Restart", "NextStart"),
    "guest.userDataSecret": (None, "words", "Live", "Restart", "NextStart"),
    "scheduling.host": ("", "node-2", "Live", "Refused", "Refused"),
}
"""Every field of an instance that anything acts on; a new one needs a line here, and maybe one in disruption.py."""


@pytest.mark.parametrize("field", FIELDS)
def test_effect_follows_from_field_and_machine(field: str) -> None:
    current, desired, *expected = FIELDS[field]
    found = [_only(field, current, desired, status).effect.name for status in (WAITING, RUNNING, STOPPED)]
    assert found == expected


def _only(field: str, current: Any, desired: Any, status: JSON) -> FieldChange:
    """The change of that field alone."""
    around: JSON = {"restart": FIRST} if field.startswith("restart.") else {}
    around |= {"guest": {"admin": {"x": 1}}} if field.startswith("guest.admin.") else {}
    before, after = (_with(instance(state, **around), field, to) for state, to in ((status, current), ({}, desired)))
    (found,) = changes("Instance", before, after)
    assert found.path == f"spec.{field}"
    return found


def _with(doc: JSON, field: str, value: Any) -> JSON:
    changed = deepcopy(doc)
    *above, last = field.split(".")
    place = changed["spec"]
    for name in above:
        place = place[name]
    place.pop(last, None) if value is None else place.update({last: value})
    return changed


def _fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of all fields that anything acts on; a list is one field."""
    for info in model.model_fields.values():
        if any(isinstance(one, Later) and not one.values for one in info.metadata):
            continue
        members = () if get_origin(info.annotation) is tuple else get_args(info.annotation)
        below = next((one for one in (info.annotation, *members) if _is_model(one)), None)
        if below is None or info.annotation is not below:
            yield f"{path}{info.alias}"
        if below is not None:
            yield from _fields(below, f"{path}{info.alias}.")


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_every_field_of_an_instance_has_its_effect_in_the_table() -> None:
    assert set(_fields(InstanceSpec)) == set(FIELDS)


@pytest.mark.parametrize(
    ("memory", "expected"), [("1024Mi", "Live"), ("1048576Ki", "Live"), (2**30, "Live"), ("1.5Gi", "Restart")]
)
def test_memory_counts_by_its_size_and_not_by_its_text(memory: str | int, expected: str) -> None:
    assert effect(RUNNING, memory=memory).name == expected


def test_machine_of_a_silent_host_counts_as_running() -> None:
    assert effect(UNKNOWN, cpus=2) is Effect.Restart


def test_suspending_loses_nothing_and_stopping_what_is_suspended_does() -> None:
    (found,) = changes("Instance", instance(RUNNING), instance({}, powerState="Suspended"))
    assert found.effect is Effect.Live
    suspended = instance(RUNNING | {"phase": "Suspended"}, powerState="Suspended")
    (found,) = changes("Instance", suspended, instance({}))
    assert found.effect is Effect.Live
    (found,) = changes("Instance", suspended, instance({}, powerState="Stopped"))
    assert found.effect is Effect.Restart


def test_starting_a_stopped_machine_interrupts_nobody() -> None:
    before = instance(STOPPED, powerState="Stopped")
    (found,) = changes("Instance", before, instance({}))
    assert (found.current, found.desired, found.effect) == ("Stopped", "Running", Effect.Live)


def test_order_that_is_changed_restarts_and_one_that_is_taken_back_does_not() -> None:
    first, second = {"at": "2026-11-25T09:00:00Z"}, {"at": "2026-11-25T10:00:00Z"}
    (found,) = changes("Instance", instance(RUNNING, restart=first), instance({}, restart=second))
    assert (found.path, found.effect) == ("spec.restart.at", Effect.Restart)
    (found,) = changes("Instance", instance(RUNNING, restart=first), instance({}))
    assert found.effect is Effect.Live


def test_order_that_is_no_later_one_restarts_nobody() -> None:
    order = {"at": "2026-11-25T09:00:00Z", "mode": "Graceful"}
    for other in (order | {"mode": "Hard"}, order | {"at": "2026-11-25T08:00:00Z"}):
        (found,) = changes("Instance", instance(RUNNING, restart=order), instance({}, restart=other))
        assert found.effect is Effect.Live


def ready(reason: str, **status: Any) -> JSON:
    return RUNNING | {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]} | status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ready("Provisioning", phase="Provisioning"), "Restart"),
        (ready("Starting", phase="Stopped"), "Restart"),
        (ready("HypervisorRefused", phase="Failed"), "Restart"),
        (ready("GuestShutdown", phase="Stopped"), "NextStart"),
        (ready("RestartBudgetSpent", phase="Failed"), "NextStart"),
    ],
)
def test_machine_that_may_begin_to_run_at_any_moment_counts_as_running(status: JSON, expected: str) -> None:
    assert effect(status, cpus=2).name == expected


def test_machine_that_is_made_to_be_off_does_not_count_as_running() -> None:
    before = instance(ready("Provisioning", phase="Provisioning"), powerState="Stopped")
    (found,) = changes("Instance", before, instance({}, powerState="Stopped", cpus=2))
    assert found.effect is Effect.NextStart


@pytest.mark.parametrize(
    ("path", "current", "spec", "desired"),
    [
        ("spec.cpus", 1, {"cpus": 4}, {"cpus": 1}),
        ("spec.memory", "1Gi", {"memory": "2Gi"}, {"memory": "1024Mi"}),
    ],
)
def test_change_that_is_taken_back_before_any_restart_is_live(
    path: str, current: int | str, spec: JSON, desired: JSON
) -> None:
    awaiting = [{"path": path, "current": current, "desired": "", "operation": "Restart"}]
    for reason, expected in (("AsDesired", Effect.Live), ("Starting", Effect.Restart)):
        before = instance(ready(reason, restartAwaitingChanges=awaiting), **spec)
        (found,) = changes("Instance", before, instance({}, **desired))
        assert found.effect is expected


def test_labels_count_and_what_clients_remember_does_not() -> None:
    before, after = instance(RUNNING), deepcopy(instance({}))
    after["metadata"] |= {"labels": {"b": "2"}, "resourceVersion": "9"}
    after["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    found = [(one.path, one.current, one.desired) for one in changes("Instance", before, after)]
    assert found == [("metadata.labels[a]", "1", None), ("metadata.labels[b]", None, "2")]


def test_other_kinds_change_live() -> None:
    found = changes("AddressPool", {"spec": {"dns": ["a"]}}, {"spec": {"dns": ["b"]}})
    assert found == [("spec.dns", ["a"], ["b"], Effect.Live)]


def test_the_worst_of_several_counts() -> None:
    found = changes("Instance", instance(RUNNING), instance({}, cpus=2, displayName="Web"))
    assert (worst(found), worst([])) == (Effect.Restart, Effect.Live)


@pytest.mark.parametrize("status", [WAITING, RUNNING, STOPPED])
@pytest.mark.parametrize("spec", [{"disks": DISKS}, {"nics": []}, {"systemTemplate": "x"}, {"cpus": 2}, {"guest": {}}])
def test_what_is_refused_here_is_what_admission_refuses(status: JSON, spec: JSON) -> None:
    before, after = (decode(Instance, instance(status, **one)) for one in ({}, spec))
    refused = {cause.field for cause in after.changes_refused(before)}
    found = changes("Instance", before.to_json(), after.to_json())
    assert {one.path for one in found if one.effect is Effect.Refused} == refused
    assert set(disruption.PLACED) == set(PLACED.values())
    assert set(disruption.FIXED) == set(Instance.facts.immutable)


@pytest.mark.parametrize(
    ("field", "now", "then", "effect"),
    [
        ("replicas", 3, 5, Effect.Live),
        ("replicas", 3, 2, Effect.DataLoss),
        ("replicas", 3, 0, Effect.DataLoss),
        ("nameRule", "a-{index}", "b-{index}", Effect.Refused),
        ("template", {"spec": {"cpus": 1}}, {"spec": {"cpus": 2}}, Effect.Live),
    ],
)
def test_set_loses_members_and_never_rewrites_one(field: str, now: object, then: object, effect: Effect) -> None:
    (change,) = changes("InstanceSet", {"spec": {field: now}}, {"spec": {field: then}})
    assert change.effect == effect
