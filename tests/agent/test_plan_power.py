"""Tables of what is decided about power: the wish, a restart asked for, and an end by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanovirt.agent import power
from nanovirt.agent.steps import (
    LookAgain,
    Resume,
)
from nanovirt.resources.placement import PlacementStatus
from tests.agent.placements import at, placement, restart
from tests.agent.planning import (
    BLANK,
    NOTHING,
    NOW,
    ON,
    RUNNING,
    decided,
    ended,
    knowing,
    names,
    told,
    word,
)

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
    assert word(placement(), paused, knowing(placement())) == ("Failed", "MachinePaused")


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


def test_machine_that_is_to_stop_loses_its_power_by_a_hard_order_once() -> None:
    made = placement(power_state="Stopped", restart=restart(5, "Hard"), generation=2)
    cut = decided(made, ON, knowing(placement()))
    assert names(cut) == ["Remember", "Destroy"]
    off = decided(made, ended("Destroyed"), cut.memory)
    assert (names(off), off.memory.restart_at) == (["Remember"], at(5))
    assert names(decided(made, ended("Destroyed"), off.memory)) == []
    assert names(decided(made, ON, off.memory)) == ["Remember", "ShutDown", "LookAgain"], "somebody else started it"


def test_grace_that_runs_is_cut_short_by_a_hard_order() -> None:
    made = placement(power_state="Stopped", restart=restart(5, "Hard"))
    assert names(decided(made, ON, knowing(made, intent="Off", asked=NOW - 5, pressed=NOW - 1))) == ["Destroy"]


def test_graceful_order_cuts_no_power() -> None:
    made = placement(power_state="Stopped", restart=restart(5))
    assert names(decided(made, ON, knowing(placement()))) == ["Remember", "ShutDown", "LookAgain"]


def test_hard_order_that_may_be_done_already_cuts_no_power() -> None:
    made = placement(power_state="Stopped", restart=restart(5, "Hard"))
    assert "Destroy" not in names(decided(made, ON, replace(BLANK, started=0)))


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
