"""Tables of what is decided for one machine: no loop, no clock, no I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent import telling
from nanovirt.agent.machine import SeenVolume
from nanovirt.agent.observed import Trouble
from nanovirt.agent.segments import Segment
from nanovirt.agent.steps import (
    Define,
    FetchImage,
    LookAgain,
    MakeVolume,
    Remember,
    Serve,
    Start,
    Withhold,
)
from nanovirt.agent.wish import Wish, digest
from nanovirt.resources.placement import Placement
from tests.agent.placements import FILE, MAC, SHA, at, placement, restart, spec, volume
from tests.agent.planning import (
    BLANK,
    DIGEST,
    GIB,
    NEVER_STARTED,
    NOTHING,
    NOW,
    OFF,
    ON,
    RUNNING,
    SERVED,
    decided,
    ended,
    knowing,
    names,
    told,
    word,
)

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
