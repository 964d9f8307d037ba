"""Tables of what is decided for a machine whose wish changes while it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent import power
from nanovirt.agent.changes import AttachDisk, LimitCpu, ResizeDisk, SetCpus
from nanovirt.agent.machine import SeenVolume
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed, Trouble
from nanovirt.agent.simulated_hardware import started
from nanovirt.agent.steps import (
    GrowVolume,
    LookAgain,
    Remember,
    Serve,
    Withhold,
)
from nanovirt.agent.wish import digest
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.quantities import Bytes
from tests.agent.placements import FILE, MAC, placement, restart, spec, volume
from tests.agent.planning import (
    BLANK,
    DIGEST,
    GIB,
    HARDWARE,
    NOW,
    ON,
    RUNNING,
    THERE,
    decided,
    ended,
    knowing,
    names,
    told,
)


def test_change_that_is_not_live_is_defined_and_told_as_not_applied() -> None:
    made = placement(cpu=4, generation=2)
    before = PlacementStatus(epoch=1, applied_generation=1)
    decision = decided(made, replace(ON, told=before), knowing(placement()))
    assert names(decision) == ["Remember", "Define"]
    defined = replace(ON, domain=replace(RUNNING, definition=digest(made.spec)), told=before)
    assert decided(made, defined, knowing(made)).steps == ()
    status = told(made, defined, knowing(made))
    assert (status.state, status.applied_generation, status.observed_generation) == ("Running", 1, 2)
    assert [(one.path, one.current, one.desired) for one in status.awaiting] == [("spec.cpus", 2, 4)]
    assert told(placement(), replace(ON, told=status), knowing(placement())).awaiting == (), "it is reverted"


def test_change_that_is_live_is_defined_and_then_made() -> None:
    room = replace(HARDWARE, max_cpus=4)
    seen = replace(ON, domain=replace(RUNNING, hardware=room))
    made = placement(cpu=4, generation=2)
    assert names(decided(made, seen, knowing(placement()))) == ["Remember", "Define", "SetCpus"]
    assert told(made, seen, knowing(placement())).observed_generation == 0, "not yet"
    taken = replace(RUNNING, definition=digest(made.spec), hardware=replace(room, cpus=4))
    assert decided(made, replace(ON, domain=taken), knowing(made)).steps == ()
    status = told(made, replace(ON, domain=taken), knowing(made))
    assert (status.applied_generation, status.observed_generation, status.awaiting) == (2, 2, ())


def test_change_that_was_refused_is_told_awaits_and_holds_up_no_other() -> None:
    made = placement(cpu=4, qos={"priority": "High"}, generation=2)
    domain = replace(RUNNING, definition=digest(made.spec), hardware=replace(HARDWARE, max_cpus=4))
    failed = Trouble(SetCpus(4), "HypervisorRefused", {"host": "node-1", "detail": "no"}, 1, NOW + 5)
    seen = replace(ON, domain=domain, refused={SetCpus(4): failed})
    assert decided(made, seen, knowing(made)).steps == (LimitCpu(2048, 0), LookAgain(5))
    status = told(made, seen, knowing(made))
    assert (status.state, status.reason, status.params["detail"]) == ("Running", "HypervisorRefused", "no")
    assert [one.path for one in status.awaiting] == ["spec.cpus"]
    assert decided(made, seen, knowing(made), NOW + 5).steps == (SetCpus(4), LimitCpu(2048, 0))


SECRET, OTHER = {"name": "login", "mark": "1"}, {"name": "other", "mark": "2"}
DATA = {"name": "data", "file": FILE, "size": "1Gi"}
SEEDED: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]] = [
    # as it was started, as it is wished, what awaits
    ({}, {"guest": {"time_zone": "UTC"}}, [("spec.guest.timeZone", None, "UTC")]),
    ({"guest": {"admin": "ops"}}, {}, [("spec.guest.admin.name", "ops", None)]),
    (
        {"guest": {"admin": "ops", "ssh_keys": []}}, {"guest": {"admin": "ops", "ssh_keys": ["ssh-rsa AA a"]}},
        [("spec.guest.admin.sshKeys", [], ["ssh-rsa AA a"])],
    ),
    ({"guest": {"password": SECRET}}, {"guest": {"password": OTHER}},
     [("spec.guest.admin.passwordSecret", "login", "other")]),
    ({"guest": {"password": SECRET}}, {"guest": {"password": SECRET | {"mark": "2"}}},
     [("spec.guest.admin.passwordSecret", "login (as it was)", "login")]),
    ({"guest": {"user_data": SECRET}}, {}, [("spec.guest.userDataSecret", "login", None)]),
    ({"guest": {"hostname": "a"}}, {"guest": {"hostname": "b"}}, []),
    (
        {"volumes": [DATA]}, {"volumes": [DATA | {"file_system": {"mount_path": "/srv"}}]},
        [("spec.disks[data].format.fileSystem", None, "Ext4"), ("spec.disks[data].format.mountPath", None, "/srv")],
    ),
    (
        {"volumes": [DATA | {"file_system": {"mount_path": "/a"}}]},
        {"volumes": [DATA | {"file_system": {"mount_path": "/b"}}]},
        [("spec.disks[data].format.mountPath", "/a", "/b")],
    ),
    ({"volumes": [DATA | {"file_system": {"mount_path": "/a"}}]}, {"volumes": []}, []),
]  # fmt: skip


@pytest.mark.parametrize(("then", "now", "expected"), SEEDED)
def test_what_only_the_seed_tells_awaits_the_next_start(
    then: dict[str, Any], now: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    before, after = placement(**then), placement(**now, generation=2)
    _, started = power.decide(before.spec, power.Seen(None, 0, "b1"), Memory(), NOW)
    remembered = next(step.memory for step in started if isinstance(step, Remember))
    memory = replace(remembered, placement=before, epoch=1)

    def awaits(made: Placement, seen: Observed) -> list[tuple[Any, ...]]:
        found = decided(made, seen, memory).awaiting
        seeds = ("spec.guest", f"spec.disks[{DATA['name']}].format")
        return [(one.path, one.current, one.desired) for one in found if one.path.startswith(seeds)]

    assert awaits(after, ON) == expected
    assert awaits(before, ON) == [], "it is reverted"
    assert awaits(after, replace(ON, domain=replace(RUNNING, state="Off", hardware=None))) == []


def test_guest_of_which_nobody_knows_what_it_was_told_counts_as_told_what_was_wished_then() -> None:
    made = placement(guest={"time_zone": "UTC"})
    taken = decided(made, ON, BLANK).memory
    assert decided(made, ON, taken).awaiting == ()
    assert [one.path for one in decided(placement(), ON, taken).awaiting] == ["spec.guest.timeZone"]


@pytest.mark.parametrize("state", ["Paused", "Stopping"])
def test_machine_that_does_not_answer_is_not_changed(state: Any) -> None:
    made = placement(qos={"priority": "High"})
    domain = replace(RUNNING, definition=digest(made.spec), state=state)
    assert "LimitCpu" not in names(decided(made, replace(ON, domain=domain), knowing(made)))


def test_machine_that_is_to_stop_is_not_changed_any_more() -> None:
    made = placement(cpu=4, power_state="Stopped", qos={"priority": "High"})
    assert names(decided(made, ON, knowing(made))) == ["Remember", "ShutDown", "LookAgain"]


def test_disk_that_was_plugged_in_is_not_made_anew_when_it_is_lost() -> None:
    made = placement(volumes=[volume(), volume("data", image=False)], generation=2)
    data = made.spec.volumes[1]
    there = {**THERE, data.file: SeenVolume(data.file, GIB, 0)}
    attaching = decided(made, ON, knowing(placement()))
    assert names(attaching) == ["Remember", "MakeVolume", "Define", "AttachDisk"]
    assert AttachDisk("data") in attaching.steps
    plugged = replace(RUNNING, definition=digest(made.spec), hardware=started(made.spec))
    noting = decided(made, replace(ON, domain=plugged, volumes=there), knowing(made))
    assert noting.memory.volumes == (FILE, data.file)
    assert names(noting) == ["Remember"]
    assert decided(made, replace(ON, domain=plugged), noting.memory).steps == ()


def test_disk_grows_by_itself_when_the_machine_is_off_and_with_it_when_it_runs() -> None:
    larger = [volume().model_copy(update={"size": Bytes("2Gi")})]
    off = placement(volumes=larger, power_state="Stopped")
    assert decided(off, ended("Destroyed"), knowing(off, intent="Off")).steps == (GrowVolume(FILE, 2 * GIB),)
    on = placement(volumes=larger)
    assert decided(on, ON, knowing(on)).steps == (ResizeDisk("system", 2 * GIB),)


def test_medium_is_fetched_before_the_drive_is_defined() -> None:
    made = placement(media=[{"name": "cd0", "image": {"image": "iso", "sha256": "cd" * 32}}], generation=2)
    assert names(decided(made, ON, knowing(placement()))) == ["Remember", "FetchImage", "Define", "AttachDrive"]


def test_change_that_is_in_force_is_told_as_applied() -> None:
    made = placement(restart_policy="Always", generation=7)
    assert told(made, ON, knowing(made)).applied_generation == 7


def test_size_of_a_disk_and_power_are_not_part_of_the_definition() -> None:
    larger = volume().model_copy(update={"size": volume().size})
    assert digest(spec(volumes=[larger], power_state="Stopped", restart=restart(1))) == DIGEST
    assert digest(spec(memory="1024Mi")) == DIGEST
    assert digest(spec(cpu=3)) != DIGEST


def test_changed_address_is_served_and_removed_card_is_not() -> None:
    nic = {"name": "nic1", "mac": "52:54:00:00:00:99", "ip": "10.20.0.9", "bridge": "nano0",
           "lease": {"subnet": "10.20.0.0/16"}}  # fmt: skip
    made = placement(nics=[nic], generation=2)
    decision = decided(made, ON, knowing(placement()))
    assert decision.steps[1] == Withhold(MAC)
    assert isinstance(decision.steps[2], Serve)
