"""Tables of what is decided for one machine: no loop, no clock, no I/O."""

from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent import power, telling
from nanovirt.agent.changes import AttachDisk, LimitCpu, ResizeDisk, SetCpus
from nanovirt.agent.leases import reservations
from nanovirt.agent.machine import SeenDomain, SeenVolume
from nanovirt.agent.memory import Memory
from nanovirt.agent.plan import Decision, Observed, Trouble, Wish, decide, digest
from nanovirt.agent.segments import Segment
from nanovirt.agent.simulated_hardware import started
from nanovirt.agent.steps import (
    Define,
    Destroy,
    FetchImage,
    GrowVolume,
    LookAgain,
    MakeVolume,
    Remember,
    RemoveVolume,
    Resume,
    Serve,
    Start,
    Undefine,
    Withhold,
)
from nanovirt.agent.unheard import told_by
from nanovirt.resources.placement import Placement, PlacementStatus
from nanovirt.resources.quantities import Bytes
from tests.agent.placements import FILE, MAC, REMOVE, SHA, UUID, at, placement, restart, spec, volume

NOW = 10_000.0
DIGEST = digest(spec())
GIB = 2**30
HARDWARE = started(spec())
RUNNING = SeenDomain(
    UUID, "default.web-1", "Running", run="r1", definition=DIGEST, live=DIGEST, cpu=2, memory=GIB, hardware=HARDWARE
)
OFF = SeenDomain(UUID, "default.web-1", "Off", definition=DIGEST)
NEVER_STARTED = OFF
THERE = {FILE: SeenVolume(FILE, GIB, 1000)}
SERVED = reservations(spec())
BRIDGES = frozenset({"nano0"})
NOTHING = Observed(bridges=BRIDGES, boot_id="b1")
ON = replace(NOTHING, domain=RUNNING, volumes=THERE, served=SERVED)
BLANK = Memory()


def ended(how: Any, **changes: Any) -> Observed:
    return replace(ON, domain=replace(OFF, ended=how, detail=how.lower()), **changes)


def knowing(made: Placement, **changes: Any) -> Memory:
    """The memory of a machine that was started as it is placed."""
    kept = made.model_copy(update={"status": PlacementStatus()})
    base: dict[str, Any] = {"intent": "Started", "started": 1, "boot_id": "b1", "volumes": (FILE,)}
    base["told"] = told_by(made.spec)
    return Memory(epoch=made.spec.epoch, placement=kept, **(base | changes))


def decided(made: Placement | None, seen: Observed, memory: Memory, now: float = NOW) -> Decision:
    return decide(Wish.of(made) if made else None, seen, memory, now)


def names(decision: Decision) -> list[str]:
    return [type(step).__name__ for step in decision.steps]


def told(made: Placement, seen: Observed, memory: Memory, now: float = NOW) -> PlacementStatus:
    status = telling.tell(Wish.of(made), seen, decided(made, seen, memory, now))
    assert status is not None
    return status


def word(made: Placement, seen: Observed, memory: Memory, now: float = NOW) -> tuple[str, str]:
    status = told(made, seen, memory, now)
    return status.state, status.reason


# --- creation ---


def test_new_machine_is_noted_served_made_defined_and_started_in_that_order() -> None:
    decision = decided(placement(), NOTHING, BLANK)
    assert names(decision) == [
        "Remember", "Serve", "FetchImage", "MakeVolume", "Define", "Start", "Remember",
    ]  # fmt: skip
    first, last = decision.steps[0], decision.steps[-1]
    assert isinstance(first, Remember)
    assert isinstance(last, Remember)
    assert (first.memory.intent, first.memory.epoch, first.memory.started) == ("Starting", 1, 1)
    assert (last.memory.intent, last.memory.volumes) == ("Started", (FILE,))


def test_image_in_the_cache_is_not_fetched() -> None:
    assert "FetchImage" not in names(decided(placement(), replace(NOTHING, images=frozenset({SHA})), BLANK))


def test_image_of_two_disks_is_fetched_once() -> None:
    two = placement(volumes=[volume(), volume("second")])
    assert names(decided(two, NOTHING, BLANK)).count("FetchImage") == 1


def test_empty_disk_needs_no_image() -> None:
    made = placement(volumes=[volume(image=False)])
    assert "FetchImage" not in names(decided(made, NOTHING, BLANK))


def test_machine_that_is_to_be_stopped_is_made_but_not_started() -> None:
    decision = decided(placement(power_state="Stopped"), NOTHING, BLANK)
    assert names(decision) == ["Remember", "Serve", "FetchImage", "MakeVolume", "Define"]


def test_settled_machine_is_left_alone() -> None:
    assert decided(placement(), ON, knowing(placement())).steps == ()


def test_settled_stopped_machine_is_left_alone() -> None:
    made = placement(power_state="Stopped")
    assert decided(made, ended("Shutdown"), knowing(made, intent="Off")).steps == ()


def test_card_without_a_lease_is_not_served() -> None:
    made = placement(nics=[{"name": "nic0", "mac": MAC, "bridge": "nano0"}])
    assert "Serve" not in names(decided(made, NOTHING, BLANK))


def test_incoming_placement_waits() -> None:
    made = placement(role="Incoming")
    decision = decided(made, NOTHING, BLANK)
    assert decision.steps == ()
    assert telling.tell(Wish.of(made), NOTHING, decision) is None


def test_kill_between_note_and_start_starts_without_counting_again() -> None:
    memory = knowing(placement(), intent="Starting")
    decision = decided(placement(), replace(ON, domain=NEVER_STARTED), memory)
    assert names(decision) == ["Start", "Remember"]
    assert decision.memory.started == 1


def test_kill_between_start_and_note_only_notes() -> None:
    decision = decided(placement(), ON, knowing(placement(), intent="Starting"))
    assert names(decision) == ["Remember"]


def test_lost_memory_adopts_what_runs() -> None:
    made = placement(restart=restart(5))
    decision = decided(made, ON, BLANK)
    assert names(decision) == ["Remember"]
    assert decision.memory.restart_at == at(5)
    assert decision.memory.started == 1


def test_missing_bridge_is_waited_for() -> None:
    seen = replace(ON, domain=NEVER_STARTED, bridges=frozenset())
    memory = knowing(placement(), intent="Off")
    assert names(decided(placement(), seen, memory)) == ["Remember", "LookAgain"]
    status = told(placement(), seen, memory)
    assert (status.state, status.reason, status.params["device"]) == ("Failed", "BridgeMissing", "nano0")


def in_vlan(**changes: Any) -> Placement:
    return placement(nics=[{"name": "nic0", "mac": MAC, "bridge": "nano0", "vlan": 40}], **changes)


def test_segment_of_a_card_is_made_right_before_the_start() -> None:
    made, seen = in_vlan(), replace(ON, domain=NEVER_STARTED, served=())
    memory = knowing(made, intent="Off")
    steps = names(decided(made, seen, memory))
    assert steps[steps.index("Start") - 1] == "MakeSegment"
    there = replace(seen, segments=frozenset({Segment("nano0", 40)}))
    assert "MakeSegment" not in names(decided(made, there, memory))


def test_segment_is_made_for_a_card_that_moves_there_while_the_machine_runs() -> None:
    made = in_vlan()
    assert names(decided(made, ON, knowing(made))) == ["Withhold", "Define", "MakeSegment", "MoveCard"]


def test_segment_of_a_bridge_that_is_missing_waits_for_the_bridge() -> None:
    made, seen = in_vlan(), replace(ON, domain=NEVER_STARTED, served=(), bridges=frozenset())
    memory = knowing(made, intent="Off")
    assert "MakeSegment" not in names(decided(made, seen, memory))
    assert told(made, seen, memory).params["device"] == "nano0"


def test_machine_that_is_to_stop_waits_for_no_segment() -> None:
    made = in_vlan(power_state="Stopped")
    assert "MakeSegment" not in names(decided(made, ON, knowing(made)))


def test_definition_is_another_one_in_a_vlan() -> None:
    assert digest(spec(nics=[spec().nics[0].model_copy(update={"vlan": 40})])) != DIGEST


def test_bridge_that_goes_away_leaves_the_machine_running() -> None:
    assert decided(placement(), replace(ON, bridges=frozenset()), knowing(placement())).steps == ()


def test_disk_that_was_there_and_is_gone_is_not_made_anew() -> None:
    seen, memory = replace(ended("Crashed"), volumes={}), knowing(placement())
    assert "MakeVolume" not in names(decided(placement(), seen, memory))
    assert "Start" not in names(decided(placement(), seen, memory))
    assert word(placement(), seen, memory) == ("Failed", "HypervisorRefused")


def test_new_disk_of_a_running_machine_is_made_defined_and_plugged_in() -> None:
    made = placement(volumes=[volume(), volume("second", image=False)], generation=2)
    assert names(decided(made, ON, knowing(placement()))) == ["Remember", "MakeVolume", "Define", "AttachDisk"]


# --- power ---


def test_guest_is_asked_first_and_the_asking_is_noted_before() -> None:
    made = placement(power_state="Stopped", generation=2)
    decision = decided(made, ON, knowing(placement()))
    assert names(decision) == ["Remember", "ShutDown", "LookAgain"]
    assert (decision.memory.intent, decision.memory.asked) == ("Off", NOW)


@pytest.mark.parametrize(
    ("asked_ago", "pressed_ago", "grace", "expected"),
    [
        (1, 1, 60, ["LookAgain"]),
        (7, 4.9, 60, ["LookAgain"]),
        (7, 5, 60, ["Remember", "ShutDown", "LookAgain"]),
        (7, -9, 60, ["Remember", "ShutDown", "LookAgain"]),
        (7, None, 60, ["Remember", "ShutDown", "LookAgain"]),
        (59, 9, 60, ["Remember", "ShutDown", "LookAgain"]),
        (60, 1, 60, ["Destroy"]),
        (600, 1, 60, ["Destroy"]),
        (0, 0, 0, ["Destroy"]),
    ],
)
def test_button_is_pressed_every_five_seconds_and_the_plug_pulled_when_grace_is_over(
    asked_ago: float, pressed_ago: float | None, grace: int, expected: list[str]
) -> None:
    made = placement(power_state="Stopped", stop_grace_seconds=grace)
    pressed = None if pressed_ago is None else NOW - pressed_ago
    memory = knowing(made, intent="Off", asked=NOW - asked_ago, pressed=pressed)
    assert names(decided(made, ON, memory)) == expected
    assert word(made, ON, memory) == ("Stopping", "Stopping")


def test_looks_again_when_grace_ends() -> None:
    made = placement(power_state="Stopped", stop_grace_seconds=60)
    decision = decided(made, ON, knowing(made, intent="Off", asked=NOW - 58))
    assert decision.steps[-1] == LookAgain(2)


def test_clock_that_jumped_back_does_not_pull_the_plug() -> None:
    made = placement(power_state="Stopped")
    assert names(decided(made, ON, knowing(made, intent="Off", asked=NOW + 5000))) == [
        "Remember", "ShutDown", "LookAgain",
    ]  # fmt: skip


def test_machine_that_was_asked_to_end_and_ended_is_started_when_wished_again() -> None:
    memory = knowing(placement(), intent="Off", asked=NOW - 5)
    assert names(decided(placement(), ended("Shutdown"), memory)) == ["Remember", "Start", "Remember"]


def test_wish_that_flips_back_waits_whether_the_guest_still_ends() -> None:
    memory = knowing(placement(), intent="Off", asked=NOW - 5)
    assert names(decided(placement(), ON, memory)) == ["LookAgain"]
    later = decided(placement(), ON, memory, NOW + 3600)
    assert names(later) == ["Remember"]
    assert (later.memory.intent, later.memory.asked) == ("Started", None)


def test_machine_that_somebody_starts_against_the_wish_is_stopped_gracefully() -> None:
    made = placement(power_state="Stopped")
    assert names(decided(made, ON, knowing(made, intent="Off"))) == ["Remember", "ShutDown", "LookAgain"]


def test_stopped_machine_forgets_that_it_was_asked() -> None:
    made = placement(power_state="Stopped")
    decision = decided(made, ended("Shutdown"), knowing(made, intent="Off", asked=NOW - 5))
    assert names(decision) == ["Remember"]
    assert decision.memory.asked is None


def test_paused_machine_goes_on_after_a_while() -> None:
    paused = replace(ON, domain=replace(RUNNING, state="Paused", detail="io-error"), since=NOW)
    assert decided(placement(), paused, knowing(placement())).steps == (LookAgain(30),)
    assert decided(placement(), paused, knowing(placement()), NOW + 30).steps == (Resume(),)
    assert word(placement(), paused, knowing(placement())) == ("Failed", "HypervisorRefused")


# --- restart ---


def test_graceful_restart_asks_the_guest() -> None:
    made = placement(restart=restart(5), generation=2)
    assert names(decided(made, ON, knowing(placement()))) == ["Remember", "ShutDown", "LookAgain"]


def test_hard_restart_pulls_the_plug() -> None:
    made = placement(restart=restart(5, "Hard"), generation=2)
    assert names(decided(made, ON, knowing(placement()))) == ["Remember", "Destroy"]


def test_restart_is_noted_as_done_before_the_start() -> None:
    made = placement(restart=restart(5))
    decision = decided(made, ended("Destroyed"), knowing(made, intent="Off", asked=NOW))
    assert names(decision) == ["Remember", "Start", "Remember"]
    assert decision.memory.restart_at == at(5)
    assert decision.memory.restarts == ()


@pytest.mark.parametrize("minutes", [5, 4])
def test_restart_that_was_done_or_is_older_is_not_done_again(minutes: int) -> None:
    made = placement(restart=restart(minutes, "Hard"))
    assert decided(made, ON, knowing(made, restart_at=at(5))).steps == ()


def test_first_start_carries_out_a_restart_that_is_asked_for() -> None:
    decision = decided(placement(restart=restart(5)), NOTHING, BLANK)
    assert decision.memory.restart_at == at(5)


def test_restart_of_a_stopped_machine_waits_for_the_next_start() -> None:
    made = placement(power_state="Stopped", restart=restart(5))
    assert decided(made, ended("Shutdown"), knowing(made, intent="Off")).steps == ()


def test_done_restart_is_told() -> None:
    made = placement(restart=restart(5))
    assert told(made, ON, knowing(made, restart_at=at(5))).restarted_at == at(5)


# --- ends by itself ---


@pytest.mark.parametrize(
    ("policy", "how", "starts", "expected"),
    [
        ("OnFailure", "Crashed", True, ("Starting", "Starting")),
        ("OnFailure", "Destroyed", True, ("Starting", "Starting")),
        ("OnFailure", "Failed", True, ("Starting", "Starting")),
        ("OnFailure", "Unknown", True, ("Starting", "Starting")),
        ("OnFailure", "Shutdown", False, ("Stopped", "GuestShutdown")),
        ("Always", "Crashed", True, ("Starting", "Starting")),
        ("Always", "Shutdown", True, ("Starting", "Starting")),
        ("Never", "Crashed", False, ("Stopped", "Crashed")),
        ("Never", "Unknown", False, ("Stopped", "Crashed")),
        ("Never", "Shutdown", False, ("Stopped", "GuestShutdown")),
    ],
)
def test_policy_says_what_follows_an_end(policy: str, how: str, starts: bool, expected: tuple[str, str]) -> None:
    made = placement(restart_policy=policy)
    seen, memory = ended(how), knowing(made)
    assert ("Start" in names(decided(made, seen, memory))) is starts
    assert word(made, seen, memory) == expected


def test_machine_that_was_undefined_behind_our_back_is_made_again() -> None:
    seen = replace(ON, domain=None)
    assert names(decided(placement(), seen, knowing(placement()))) == ["Remember", "Define", "Start", "Remember"]


def test_held_machine_stays_off() -> None:
    memory = knowing(placement(), intent="Held", ended="Shutdown")
    assert decided(placement(), ended("Unknown"), memory).steps == ()


def test_held_machine_starts_after_power_was_toggled() -> None:
    made = placement(power_state="Stopped")
    off = decided(made, ended("Shutdown"), knowing(made, intent="Held", ended="Shutdown"))
    assert (off.memory.intent, off.memory.ended) == ("Off", "")
    assert "Start" in names(decided(placement(), ended("Shutdown"), off.memory))


def test_held_machine_starts_when_a_newer_restart_is_asked_for() -> None:
    made = placement(restart=restart(6))
    memory = knowing(made, intent="Held", ended="Shutdown", restart_at=at(5))
    assert "Start" in names(decided(made, ended("Shutdown"), memory))


def test_fourth_end_within_ten_minutes_is_held() -> None:
    memory = knowing(placement(), restarts=(NOW - 300, NOW - 200, NOW - 100))
    decision = decided(placement(), ended("Crashed"), memory)
    assert names(decision) == ["Remember"]
    assert decision.memory.ended == power.SPENT
    status = told(placement(), ended("Crashed"), memory)
    assert (status.state, status.reason) == ("Failed", "RestartBudgetSpent")
    assert status.params == {"count": 4, "minutes": 10}


def test_old_ends_do_not_count() -> None:
    memory = knowing(placement(), restarts=(NOW - 900, NOW - 200, NOW - 100))
    decision = decided(placement(), ended("Crashed"), memory)
    assert "Start" in names(decision)
    assert decision.memory.restarts == (NOW - 200, NOW - 100, NOW)


def test_boot_of_the_host_starts_again_without_counting() -> None:
    memory = knowing(placement(), restarts=(NOW - 3, NOW - 2, NOW - 1))
    decision = decided(placement(), ended("Unknown", boot_id="b2"), memory)
    assert "Start" in names(decision)
    assert decision.memory.boot_id == "b2"
    assert len(decision.memory.restarts) == 3


def test_boot_of_the_host_respects_never() -> None:
    made = placement(restart_policy="Never")
    assert "Start" not in names(decided(made, ended("Unknown", boot_id="b2"), knowing(made)))


def test_guest_shutdown_is_remembered_by_the_server_when_the_agent_lost_its_notes() -> None:
    before = PlacementStatus(state="Stopped", reason="GuestShutdown", epoch=1, started=3, restarted_at=at(5))
    made = placement(restart=restart(5))
    decision = decided(made, ended("Unknown", told=before), BLANK)
    assert "Start" not in names(decision)
    assert (decision.memory.intent, decision.memory.started) == ("Held", 3)


# --- changes while it runs ---


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


# --- the end ---


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


# --- nobody says ---


def test_machine_without_placement_is_left_alone() -> None:
    assert decided(None, replace(ON, served=()), BLANK).steps == ()


def test_machine_that_lost_its_placement_runs_on_and_keeps_its_address() -> None:
    assert decided(None, ON, knowing(placement())).steps == ()
    assert decided(None, replace(ON, served=()), knowing(placement())).steps == (Serve(SERVED[0]),)


def test_crashed_machine_that_lost_its_placement_is_not_started() -> None:
    assert decided(None, ended("Crashed"), knowing(placement())).steps == ()


def test_address_of_a_machine_that_is_gone_is_withheld() -> None:
    assert decided(None, replace(NOTHING, served=SERVED), knowing(placement())).steps == (Withhold(MAC),)


# --- failures ---


@pytest.mark.parametrize(
    ("step", "state", "reason"),
    [
        (FetchImage("system", volume().source), "Preparing", "ImageFetchFailed"),  # type: ignore[arg-type]
        (MakeVolume(volume()), "Failed", "DiskFull"),
        (Define(spec(), DIGEST), "Failed", "HypervisorRefused"),
        (Start(), "Failed", "HypervisorRefused"),
    ],
)
def test_failed_step_is_told_and_waited_for(step: Any, state: str, reason: str) -> None:
    trouble = Trouble(step, reason, {"host": "node-1"}, 1, NOW + 7)
    seen = replace(NOTHING, trouble=trouble, served=SERVED)
    memory = decided(placement(), NOTHING, BLANK).memory
    decision = decided(placement(), seen, memory)
    assert step not in decision.steps
    assert decision.steps[-1] == LookAgain(7)
    assert word(placement(), seen, memory) == (state, reason)
    assert step in decided(placement(), seen, memory, NOW + 7).steps


def test_running_machine_whose_new_definition_is_refused_keeps_running_and_says_so() -> None:
    made = placement(cpu=4, generation=2)
    trouble = Trouble(Define(made.spec, digest(made.spec)), "HypervisorRefused", {"detail": "no"}, 1, NOW + 7)
    seen = replace(ON, trouble=trouble)
    assert word(made, seen, knowing(made)) == ("Running", "HypervisorRefused")


def test_refused_definition_does_not_keep_a_machine_from_being_stopped() -> None:
    made = placement(cpu=4, generation=2, power_state="Stopped")
    trouble = Trouble(Define(made.spec, digest(made.spec)), "HypervisorRefused", {"detail": "no"}, 1, NOW + 7)
    assert "ShutDown" in names(decided(made, replace(ON, trouble=trouble), knowing(made)))


def test_trouble_is_over_when_the_wish_changes() -> None:
    made = placement(deleting=True)
    seen = replace(NOTHING, domain=OFF, trouble=Trouble(Start(), "HypervisorRefused", {}, 3, NOW + 60))
    assert names(decided(made, seen, knowing(made))) == ["Undefine"]


# --- telling ---


def test_lease_is_told_until_the_next_start() -> None:
    memory = knowing(placement())
    fresh = told(placement(), replace(ON, leased=frozenset({MAC})), memory)
    assert fresh.nics[0].leased
    after_agent_restart = told(placement(), replace(ON, told=fresh), memory)
    assert after_agent_restart.nics[0].leased
    restarted = replace(memory, started=2)
    assert not told(placement(), replace(ON, told=fresh), restarted).nics[0].leased


def test_disk_that_grows_a_little_is_not_worth_a_write() -> None:
    memory = knowing(placement())
    before = told(placement(), ON, memory)
    grown = replace(ON, told=before, volumes={FILE: SeenVolume(FILE, GIB, 30 << 20)})
    assert told(placement(), grown, memory) == before
    much = replace(grown, volumes={FILE: SeenVolume(FILE, GIB, 300 << 20)})
    assert told(placement(), much, memory).volumes[0].used == 300 << 20


def test_first_start_is_told_as_preparing_then_starting() -> None:
    assert word(placement(), NOTHING, BLANK) == ("Preparing", "Provisioning")
    assert word(placement(), replace(ON, domain=NEVER_STARTED), knowing(placement(), intent="Off")) == (
        "Starting", "Starting",
    )  # fmt: skip


def test_stopping_guest_is_told() -> None:
    stopping = replace(ON, domain=replace(RUNNING, state="Stopping"))
    assert word(placement(), stopping, knowing(placement())) == ("Stopping", "Stopping")
