"""When a change takes effect, as tables: machine as it is, change, effect."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from nanovirt.resources.disruption import Effect, FieldChange, below, changes, worst
from nanovirt.resources.instance import InstanceSpec
from tests.resources.walking import fields

JSON = dict[str, Any]
WAITING: JSON = {"phase": "Pending"}
HARDWARE: JSON = {
    "template": "linux",
    "machine": "q35",
    "diskBus": "Virtio",
    "nicModel": "Virtio",
    "maxCpus": 4,
    "maxMemory": "4Gi",
    "disks": {"system": "10Gi", "data": "10Gi"},
}
RUNNING: JSON = {"phase": "Running", "placement": "web-1-1", "host": "node-1", "hardware": HARDWARE}
STOPPED: JSON = RUNNING | {"phase": "Stopped"}
UNKNOWN: JSON = RUNNING | {"phase": "Unknown"}
SPEC: JSON = {"cpus": 1, "memory": "1Gi", "powerState": "Running", "scheduling": {}, "guest": {}}


def instance(status: JSON, **spec: Any) -> JSON:
    metadata = {"name": "web-1", "namespace": "default", "labels": {"a": "1"}}
    return {"kind": "Instance", "metadata": metadata, "spec": SPEC | spec, "status": status}


def effect(status: JSON, **spec: Any) -> Effect:
    (found,) = changes("Instance", instance(status), instance({}, **spec))
    return found.effect


FIRST, SECOND = {"at": "2026-11-25T09:00:00Z", "mode": "Graceful"}, {"at": "2026-11-25T10:00:00Z", "mode": "Graceful"}
SYSTEM: JSON = {"name": "system", "size": "10Gi", "source": {"image": "shared/mini"}, "reclaim": "Delete", "rebuild": 0}
DATA: JSON = {"name": "data", "size": "10Gi", "reclaim": "Delete", "rebuild": 0}
KEPT: JSON = DATA | {"reclaim": "Retain"}
LAN: JSON = {"name": "lan", "addressPool": "lan"}
OUT: JSON = {"name": "lan", "network": "default"}
CD: JSON = {"name": "cd0", "image": "shared/rescue"}
FIELDS: dict[str, tuple[Any, Any, str, str, str]] = {
    # field: as it is, as it shall be; effect on a machine that waits for a place, that runs, that is off
    "displayName": ("", "Web", "Live", "Live", "Live"),
    "description": ("", "Shop", "Live", "Live", "Live"),
    "computePool": ("default", "other", "Refused", "Refused", "Refused"),
    "systemTemplate": (None, "legacy", "NextStart", "Restart", "NextStart"),
    "cpus": (1, 2, "NextStart", "Live", "NextStart"),
    "maxCpus": (None, 8, "NextStart", "Restart", "NextStart"),
    "memory": ("1Gi", "2Gi", "NextStart", "Live", "NextStart"),
    "maxMemory": (None, "8Gi", "NextStart", "Restart", "NextStart"),
    "powerState": ("Running", "Stopped", "Live", "Restart", "Live"),
    "restartPolicy": ("OnFailure", "Never", "Live", "Live", "Live"),
    "restart": (None, FIRST, "Live", "Restart", "Live"),
    "restart.at": (FIRST["at"], SECOND["at"], "Live", "Restart", "Live"),
    "restart.mode": ("Graceful", "Hard", "Live", "Live", "Live"),
    "stopGraceSeconds": (60, 5, "Live", "Live", "Live"),
    "startPriority": (100, 5, "Live", "Live", "Live"),
    "deletionProtection": (False, True, "Live", "Live", "Live"),
    "drift": (None, "Revert", "Live", "Live", "Live"),
    "disks[data]": (None, DATA, "NextStart", "Live", "NextStart"),
    "disks[data].size": ("10Gi", "20Gi", "NextStart", "Live", "NextStart"),
    "disks[data].source.image": (None, "shared/mini", "NextStart", "Refused", "Refused"),
    "disks[data].source.volume": (None, "old", "NextStart", "Refused", "Refused"),
    "disks[data].reclaim": ("Delete", "Retain", "Live", "Live", "Live"),
    "disks[data].rebuild": (0, 1, "NextStart", "DataLoss", "DataLoss"),
    "disks[data].format.fileSystem": (None, "Xfs", "NextStart", "Restart", "NextStart"),
    "disks[data].format.mountPath": (None, "/srv", "NextStart", "Restart", "NextStart"),
    "disks[data].qos.readBytesPerSecond": (None, "1Mi", "NextStart", "Live", "NextStart"),
    "disks[data].qos.writeBytesPerSecond": (None, "1Mi", "NextStart", "Live", "NextStart"),
    "disks[data].qos.readIops": (None, 100, "NextStart", "Live", "NextStart"),
    "disks[data].qos.writeIops": (None, 100, "NextStart", "Live", "NextStart"),
    "nics[lan]": (None, LAN, "NextStart", "Live", "NextStart"),
    "nics[lan].addressPool": ("lan", "wan", "NextStart", "Live", "NextStart"),
    "nics[lan].network": ("default", "other", "NextStart", "Live", "NextStart"),
    "nics[lan].vlan": (0, 40, "NextStart", "Live", "NextStart"),
    "nics[lan].ip": (None, "10.87.2.9", "NextStart", "Live", "NextStart"),
    "nics[lan].mac": (None, "52:54:00:00:00:09", "NextStart", "Live", "NextStart"),
    "nics[lan].mtu": (None, 1400, "NextStart", "Restart", "NextStart"),
    "nics[lan].model": (None, "E1000", "NextStart", "Restart", "NextStart"),
    "nics[lan].securityGroups": ([], ["web"], "NextStart", "Live", "NextStart"),
    "media[cd0]": (None, CD, "NextStart", "Live", "NextStart"),
    "media[cd0].image": ("shared/rescue", "shared/other", "NextStart", "Live", "NextStart"),
    "bootOrder": ([], ["data"], "NextStart", "Restart", "NextStart"),
    "qos.cpu.priority": (None, "High", "NextStart", "Live", "NextStart"),
    "qos.cpu.limit": (None, "500m", "NextStart", "Live", "NextStart"),
    "qos.disk.readBytesPerSecond": (None, "1Mi", "NextStart", "Live", "NextStart"),
    "qos.disk.writeBytesPerSecond": (None, "1Mi", "NextStart", "Live", "NextStart"),
    "qos.disk.readIops": (None, 100, "NextStart", "Live", "NextStart"),
    "qos.disk.writeIops": (None, 100, "NextStart", "Live", "NextStart"),
    "qos.network.inboundBitsPerSecond": (None, "1M", "NextStart", "Live", "NextStart"),
    "qos.network.outboundBitsPerSecond": (None, "1M", "NextStart", "Live", "NextStart"),
    "guest.hostname": (None, "web", "Live", "Live", "Live"),
    "guest.timeZone": (None, "Asia/Shanghai", "NextStart", "Restart", "NextStart"),
    "guest.admin.name": (None, "ops", "NextStart", "Restart", "NextStart"),
    "guest.admin.passwordSecret": (None, "web", "NextStart", "Restart", "NextStart"),
    "guest.admin.sshKeys": (None, ["ssh-ed25519 AAAA"], "NextStart", "Restart", "NextStart"),
    "guest.userDataSecret": (None, "web", "NextStart", "Restart", "NextStart"),
    "scheduling.host": ("", "node-2", "NextStart", "Refused", "Refused"),
    "scheduling.affinity": ({}, {"app": "web"}, "NextStart", "Refused", "Refused"),
    "scheduling.antiAffinity": ({}, {"app": "web"}, "NextStart", "Refused", "Refused"),
}
"""Every field of an instance; a new one needs a line here, and maybe one in instance_disruption.py."""


@pytest.mark.parametrize("field", FIELDS)
def test_effect_follows_from_field_and_machine(field: str) -> None:
    current, desired, *expected = FIELDS[field]
    found = [_only(field, current, desired, status).effect.name for status in (WAITING, RUNNING, STOPPED)]
    assert found == expected


def _only(field: str, current: Any, desired: Any, status: JSON) -> FieldChange:
    """The change of that field alone."""
    around: JSON = {"restart": FIRST} if field.startswith("restart.") else {}
    around |= {"disks": [SYSTEM, *([] if field == "disks[data]" else [DATA])]}
    around |= {"nics": [] if field == "nics[lan]" else [OUT if field.endswith(".network") else LAN]}
    around |= {"media": [] if field == "media[cd0]" else [CD]}
    before, after = (_with(instance(state, **around), field, to) for state, to in ((status, current), ({}, desired)))
    (found,) = changes("Instance", before, after)
    assert found.path == "spec." + ("scheduling." + field.split(".")[1] + ".app" if "ffinity" in field else field)
    return found


def _with(doc: JSON, field: str, value: Any) -> JSON:
    changed = deepcopy(doc)
    *above, last = field.split(".")
    place: Any = changed["spec"]
    for name in above:
        listed, _, item = name.partition("[")
        place = place.setdefault(listed, {})
        if item:
            place = next(one for one in place if one["name"] == item.rstrip("]"))
    listed, _, item = last.partition("[")
    if item and value is not None:
        place[listed].append(value)
    elif not item:
        place.pop(last, None) if value is None else place.update({last: value})
    return changed


NOT_BUILT = {"disks[data].source.snapshot", "disks[data].source.disk"}


def test_every_field_of_an_instance_has_its_effect_in_the_table() -> None:
    assert set(fields(InstanceSpec)) - NOT_BUILT == set(FIELDS)


LEGACY: JSON = HARDWARE | {"diskBus": "Ide", "nicModel": "Rtl8139"}
Row = tuple[list[Any], list[Any], str, str, str]
DEVICES: dict[str, Row] = {
    # disks before and after; effect on a running machine, on a running legacy one, on one that is off
    "add": ([SYSTEM], [SYSTEM, DATA], "Live", "Restart", "NextStart"),
    "remove": ([SYSTEM, DATA], [SYSTEM], "DataLoss", "DataLoss", "DataLoss"),
    "remove, retained": ([SYSTEM, KEPT], [SYSTEM], "Live", "Restart", "NextStart"),
    "remove the first, retained": ([SYSTEM | {"reclaim": "Retain"}, DATA], [DATA], "Restart", "Restart", "NextStart"),
    "grow": ([SYSTEM], [SYSTEM | {"size": "11Gi"}], "Live", "Live", "NextStart"),
    "shrink": ([SYSTEM], [SYSTEM | {"size": "9Gi"}], "Refused", "Refused", "DataLoss"),
    "no size any more": ([SYSTEM], [{name: SYSTEM[name] for name in SYSTEM if name != "size"}], "Live", "Live", "Live"),
    "the same size": ([SYSTEM], [SYSTEM | {"size": "10240Mi"}], "Live", "Live", "Live"),
    "rebuild": ([SYSTEM], [SYSTEM | {"rebuild": 1}], "DataLoss", "DataLoss", "DataLoss"),
    "rebuild, retained": ([KEPT], [KEPT | {"rebuild": 1}], "Restart", "Restart", "NextStart"),
    "rebuild taken back": ([SYSTEM | {"rebuild": 1}], [SYSTEM], "Refused", "Refused", "Refused"),
    "other order": ([SYSTEM, DATA], [DATA, SYSTEM], "Restart", "Restart", "NextStart"),
}


@pytest.mark.parametrize("row", DEVICES)
def test_effect_on_disks_follows_from_their_bus(row: str) -> None:
    then, now, *expected = DEVICES[row]
    off = {"powerState": "Stopped"}
    found = []
    for status, around in ((RUNNING, {}), (RUNNING | {"hardware": LEGACY}, {}), (STOPPED, off)):
        told = changes("Instance", instance(status, disks=then, **around), instance({}, disks=now, **around))
        found.append(worst(told).name)
    assert found == expected


def test_source_changes_only_together_with_rebuild() -> None:
    other = SYSTEM | {"source": {"image": "shared/other"}}
    found = changes("Instance", instance(RUNNING, disks=[SYSTEM]), instance({}, disks=[other | {"rebuild": 1}]))
    assert [(one.path, one.effect, one.accept) for one in found] == [
        ("spec.disks[system].source.image", Effect.DataLoss, "system@rebuild-1"),
        ("spec.disks[system].rebuild", Effect.DataLoss, "system@rebuild-1"),
    ]


def test_loss_names_the_word_that_accepts_it() -> None:
    status, off = STOPPED, {"powerState": "Stopped"}
    before = instance(status, disks=[SYSTEM, DATA], **off)
    (found,) = changes("Instance", before, instance({}, disks=[SYSTEM | {"size": "5Gi"}, DATA], **off))
    assert found.accept == "system@5Gi"
    (found,) = changes("Instance", before, instance({}, disks=[SYSTEM], **off))
    assert found.accept == "data@removed"


def test_empty_drive_cannot_be_plugged_in_and_a_filled_one_can() -> None:
    before = instance(RUNNING, media=[])
    for drive, expected in (({"name": "cd0"}, "Restart"), (CD, "Live")):
        (found,) = changes("Instance", before, instance({}, media=[drive]))
        assert (found.path, found.effect.name) == ("spec.media[cd0]", expected)


@pytest.mark.parametrize(
    ("drive", "expected"), [({"name": "cd0"}, "Restart"), (CD | {"image": "shared/other"}, "Live"), (None, "Live")]
)
def test_drive_that_was_never_plugged_in_is_as_if_it_were_new(drive: JSON | None, expected: str) -> None:
    waits = [{"path": "spec.media[cd0]", "desired": "shared/rescue", "operation": "Refused"}]
    before = instance(RUNNING | {"restartAwaitingChanges": waits}, media=[CD])
    (found,) = changes("Instance", before, instance({}, media=[drive] if drive else []))
    assert (found.path, found.effect.name) == ("spec.media[cd0]", expected)


def test_disk_that_was_never_plugged_in_leaves_nothing_to_wait_for() -> None:
    waits = [{"path": "spec.disks[data]", "desired": "data.qcow2", "operation": "Restart"}]
    before = instance(RUNNING | {"hardware": LEGACY, "restartAwaitingChanges": waits}, disks=[SYSTEM, KEPT])
    (found,) = changes("Instance", before, instance({}, disks=[SYSTEM]))
    assert (found.path, found.effect) == ("spec.disks[data]", Effect.Live)


def test_card_that_moves_from_a_pool_to_the_physical_network_needs_a_restart() -> None:
    found = changes("Instance", instance(RUNNING, nics=[LAN]), instance({}, nics=[OUT]))
    assert {(one.path, one.effect) for one in found} == {
        ("spec.nics[lan].addressPool", Effect.Restart),
        ("spec.nics[lan].network", Effect.Restart),
    }


@pytest.mark.parametrize(
    ("field", "desired", "expected"),
    [("cpus", 4, "Live"), ("cpus", 5, "Restart"), ("memory", "4Gi", "Live"), ("memory", "5Gi", "Restart")],
)
def test_growth_is_live_up_to_the_ceiling(field: str, desired: int | str, expected: str) -> None:
    assert effect(RUNNING, **{field: desired}).name == expected


def test_processors_are_never_taken_away_and_memory_is() -> None:
    for field, expected in (("cpus", Effect.Restart), ("memory", Effect.Live)):
        big, small = {"cpus": 2, "memory": "2Gi"}[field], {"cpus": 1, "memory": "1Gi"}[field]
        before, after = instance(RUNNING, **{field: big}), instance({}, **{field: small})
        (found,) = changes("Instance", before, after)
        assert found.effect is expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [("1024Mi", "Live"), ("1048576Ki", "Live"), (2**30, "Live"), ("1.5Gi", "Live"), ("6Gi", "Restart")],
)
def test_memory_counts_by_its_size_and_not_by_its_text(memory: str | int, expected: str) -> None:
    assert effect(RUNNING, memory=memory).name == expected


def test_machine_of_a_silent_host_counts_as_running() -> None:
    assert effect(UNKNOWN, cpus=8) is Effect.Restart


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


@pytest.mark.parametrize(
    ("wish", "mode", "expected"),
    [
        ("Running", "Graceful", Effect.Restart),
        ("Stopped", "Hard", Effect.Restart),  # the grace runs: its power is cut
        ("Stopped", "Graceful", Effect.Live),
        ("Suspended", "Hard", Effect.Live),
    ],
)
def test_order_counts_where_it_ends_a_guest(wish: str, mode: str, expected: Effect) -> None:
    for phase in ("Stopping", "Suspended"):
        before = instance(RUNNING | {"phase": phase}, powerState=wish)
        for was in ({}, {"restart": FIRST | {"mode": mode}}):
            then = before | {"spec": before["spec"] | was}
            (found,) = changes("Instance", then, instance({}, powerState=wish, restart=SECOND | {"mode": mode}))
            assert found.effect is expected
    off = instance(STOPPED, powerState="Stopped")
    (found,) = changes("Instance", off, instance({}, powerState="Stopped", restart=FIRST | {"mode": mode}))
    assert found.effect is Effect.Live


def ready(reason: str, **status: Any) -> JSON:
    return RUNNING | {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]} | status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ready("Provisioning", phase="Provisioning"), "Restart"),
        (ready("Starting", phase="Stopped"), "Restart"),
        (ready("HypervisorRefused", phase="Failed"), "Restart"),
        (ready("MachinePaused", phase="Failed"), "Restart"),
        (ready("GuestShutdown", phase="Stopped"), "NextStart"),
        (ready("RestartBudgetSpent", phase="Failed"), "NextStart"),
    ],
)
def test_machine_that_may_begin_to_run_at_any_moment_counts_as_running(status: JSON, expected: str) -> None:
    assert effect(status, cpus=8).name == expected


def test_machine_that_is_made_to_be_off_does_not_count_as_running() -> None:
    before = instance(ready("Provisioning", phase="Provisioning"), powerState="Stopped")
    (found,) = changes("Instance", before, instance({}, powerState="Stopped", cpus=2))
    assert found.effect is Effect.NextStart


@pytest.mark.parametrize(
    ("path", "current", "spec", "desired"),
    [
        (
            "spec.guest.timeZone",
            "Asia/Shanghai",
            {"guest": {"timeZone": "UTC"}},
            {"guest": {"timeZone": "Asia/Shanghai"}},
        ),
        ("spec.guest.userDataSecret", None, {"guest": {"userDataSecret": "words"}}, {}),
        (
            "spec.disks[data].format.mountPath",
            "/srv",
            {"disks": [SYSTEM, DATA | {"format": {"mountPath": "/new"}}]},
            {"disks": [SYSTEM, DATA | {"format": {"mountPath": "/srv"}}]},
        ),
        ("spec.cpus", 1, {"cpus": 4}, {"cpus": 1}),
        ("spec.memory", "6Gi", {"memory": "8Gi"}, {"memory": "6144Mi"}),
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


def test_new_disk_is_there_at_once_and_its_file_system_after_a_restart() -> None:
    made = DATA | {"format": {"fileSystem": "Xfs", "mountPath": "/srv"}}
    for status, expected in (
        (
            RUNNING,
            [("spec.disks[data]", "Live"), *((f"spec.disks[data].format.{one}", "Restart") for one in made["format"])],
        ),
        (STOPPED, [("spec.disks[data]", "NextStart")]),
    ):
        off = {"powerState": "Stopped"} if status is STOPPED else {}
        found = changes("Instance", instance(status, disks=[SYSTEM], **off), instance({}, disks=[SYSTEM, made], **off))
        assert [(one.path, one.effect.name) for one in found] == expected


def test_administrator_without_keys_is_no_change_of_keys() -> None:
    admin = {"admin": {"name": "root", "sshKeys": []}}
    found = changes("Instance", instance(RUNNING), instance({}, guest=admin))
    assert [(one.path, one.effect.name) for one in found] == [
        ("spec.guest.admin.name", "Restart"), ("spec.guest.admin.sshKeys", "Live"),
    ]  # fmt: skip


def test_labels_count_and_what_clients_remember_does_not() -> None:
    before, after = instance(RUNNING), deepcopy(instance({}))
    after["metadata"] |= {"labels": {"b": "2"}, "resourceVersion": "9"}
    after["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    found = [(one.path, one.current, one.desired) for one in changes("Instance", before, after)]
    assert found == [("metadata.labels[a]", "1", None), ("metadata.labels[b]", None, "2")]


def test_other_kinds_change_live() -> None:
    found = changes("AddressPool", {"spec": {"dns": ["a"]}}, {"spec": {"dns": ["b"]}})
    assert found == [FieldChange("spec.dns", ["a"], ["b"], Effect.Live)]


def test_the_worst_of_several_counts() -> None:
    found = changes("Instance", instance(RUNNING), instance({}, cpus=8, displayName="Web"))
    assert (worst(found), worst([])) == (Effect.Restart, Effect.Live)


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


def leaves(before: JSON, after: JSON) -> dict[str, tuple[Any, Any]]:
    return {path: (then, now) for path, then, now in below("spec", before, after)}


def test_items_that_have_names_are_told_apart() -> None:
    grown = SYSTEM | {"size": "20Gi", "source": {"image": "shared/other"}}
    assert leaves({"disks": [SYSTEM, DATA]}, {"disks": [grown, CD]}) == {
        "spec.disks[system].size": ("10Gi", "20Gi"),
        "spec.disks[system].source.image": ("shared/mini", "shared/other"),
        "spec.disks[data]": (DATA, None),
        "spec.disks[cd0]": (None, CD),
    }
    assert leaves({}, {"nics": [LAN]}) == {"spec.nics[lan]": (None, LAN)}
    assert leaves({"disks": [SYSTEM, DATA]}, {"disks": [DATA, SYSTEM, CD]}) == {
        "spec.disks[cd0]": (None, CD),
        "spec.disks": (["system", "data"], ["data", "system"]),
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([SYSTEM, DATA], [DATA, SYSTEM]),  # which boots first may hang on it
        (["a"], ["a", "b"]),
        ([{"to": "a"}], [{"to": "b"}]),
        ([DATA, DATA], [DATA]),
        (None, []),
        ("text", [DATA]),
    ],
)
def test_any_other_list_is_told_as_a_whole(before: Any, after: Any) -> None:
    assert leaves({"some": before}, {"some": after}) == {"spec.some": (before, after)}
