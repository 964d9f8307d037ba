"""What becomes of a machine: wish for power x restart policy x how it ended, every row with what happens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent import power, telling
from nanovirt.agent.memory import Memory
from nanovirt.agent.observed import Observed, Trouble
from nanovirt.agent.plan import decide
from nanovirt.agent.steps import Destroy, LookAgain, Resume, ShutDown, Start
from nanovirt.agent.wish import Wish
from nanovirt.resources.placement import Placement
from tests.agent.placements import at, placement, restart
from tests.agent.planning import NOW, OFF, ON, RUNNING, decided, knowing, names, word

PAUSED = replace(ON, domain=replace(RUNNING, state="Paused", detail="by a user"))
ENDINGS: dict[str, dict[str, Any]] = {
    "guest shutdown": {"ended": "Shutdown", "detail": "shutdown"},
    "crash": {"ended": "Crashed", "detail": "crashed"},
    "QEMU killed": {"ended": "Failed", "detail": "failed to start"},
    "destroyed behind our back": {"ended": "Destroyed", "detail": "destroyed"},
    "host reboot": {"ended": "Unknown", "detail": ""},
}
STARTS, STAYS_OFF = "starts again", "stays off"
# wish, policy -> ending -> (what happens, state, reason)
STARTING = (STARTS, "Starting", "Starting")
SHUT_DOWN = (STAYS_OFF, "Stopped", "GuestShutdown")
CRASHED = (STAYS_OFF, "Stopped", "Crashed")
STOPPED = (STAYS_OFF, "Stopped", "StoppedAsDesired")
NOTHING = (STAYS_OFF, "Stopped", "NothingToSuspend")
LOST = (STAYS_OFF, "Stopped", "SuspendedMemoryLost")
SHUT, CRASH, KILL, DESTROY, BOOT = ENDINGS
TABLE = {
    ("Running", "OnFailure"): {SHUT: SHUT_DOWN, CRASH: STARTING, KILL: STARTING, DESTROY: STARTING, BOOT: STARTING},
    ("Running", "Always"): {SHUT: STARTING, CRASH: STARTING, KILL: STARTING, DESTROY: STARTING, BOOT: STARTING},
    ("Running", "Never"): {SHUT: SHUT_DOWN, CRASH: CRASHED, KILL: CRASHED, DESTROY: CRASHED, BOOT: CRASHED},
    ("Stopped", "OnFailure"): dict.fromkeys(ENDINGS, STOPPED),
    ("Stopped", "Always"): dict.fromkeys(ENDINGS, STOPPED),
    ("Stopped", "Never"): dict.fromkeys(ENDINGS, STOPPED),
    ("Suspended", "OnFailure"): dict.fromkeys(ENDINGS, LOST),
    ("Suspended", "Always"): dict.fromkeys(ENDINGS, LOST),
    ("Suspended", "Never"): dict.fromkeys(ENDINGS, LOST),
}
INTENTS = {"Running": "Started", "Stopped": "Off", "Suspended": "Suspended"}
ROWS = [(wish, policy, ending) for wish, policy in TABLE for ending in ENDINGS]


@pytest.mark.parametrize(("wish", "policy", "ending"), ROWS)
def test_row_of_the_table(wish: str, policy: str, ending: str) -> None:
    happens, state, reason = TABLE[wish, policy][ending]
    made = placement(power_state=wish, restart_policy=policy)
    seen = replace(ON, domain=replace(OFF, **ENDINGS[ending]), boot_id="b2" if ending == BOOT else "b1")
    memory = knowing(made, intent=INTENTS[wish])
    assert (Start() in decided(made, seen, memory).steps) is (happens == STARTS)
    assert word(made, seen, memory) == (state, reason)
    if happens == STAYS_OFF:  # and for good: what was noted leads to nothing more
        after = decided(made, seen, memory).memory
        assert decided(made, seen, after, NOW + 3600).steps == ()
        assert word(made, seen, after, NOW + 3600) == (state, reason)


@pytest.mark.parametrize("policy", ["OnFailure", "Always", "Never"])
@pytest.mark.parametrize("before", ["Running", "Suspended"])
def test_user_stop_ends_it_whatever_the_policy(before: str, policy: str) -> None:
    made = placement(power_state="Stopped", restart_policy=policy)
    seen = ON if before == "Running" else PAUSED
    decision = decided(made, seen, knowing(made, intent=INTENTS[before]))
    assert ShutDown() in decision.steps
    assert Destroy() not in decision.steps
    late = decided(made, seen, decision.memory, NOW + made.spec.stop_grace_seconds)
    assert Destroy() in late.steps
    off = replace(ON, domain=replace(OFF, ended="Shutdown", detail="shutdown"))
    assert word(made, off, decision.memory) == ("Stopped", "StoppedAsDesired")


# --- suspended ---


def suspended(**changes: Any) -> Placement:
    return placement(power_state="Suspended", **changes)


def test_running_machine_is_suspended_once_it_is_noted() -> None:
    decision = decided(suspended(), ON, knowing(suspended()))
    assert names(decision) == ["Remember", "Suspend"]
    assert decision.memory.intent == "Suspended"
    assert decided(suspended(), PAUSED, decision.memory).steps == ()
    assert word(suspended(), PAUSED, decision.memory) == ("Suspended", "")


def test_suspended_machine_is_resumed_at_once_and_one_paused_by_others_after_a_while() -> None:
    memory = knowing(placement(), intent="Suspended")
    assert Resume() in decided(placement(), PAUSED, memory).steps
    after = decided(placement(), ON, memory)
    assert after.memory.intent == "Started"
    assert Start() not in after.steps
    assert names(decided(placement(), replace(PAUSED, since=NOW), knowing(placement()))) == ["LookAgain"]


def test_suspended_machine_whose_resuming_is_refused_stands_still_and_says_so() -> None:
    memory = knowing(placement(), intent="Suspended")
    trouble = Trouble(Resume(), "HypervisorRefused", {"host": "node-1", "detail": "no"}, 1, NOW + 7)
    refused = replace(PAUSED, trouble=trouble)
    assert Resume() not in decided(placement(), refused, memory).steps
    assert word(placement(), refused, memory) == ("Suspended", "HypervisorRefused")
    assert Resume() in decided(placement(), refused, memory, NOW + 7).steps


def test_suspended_machine_hears_its_power_button_since_it_is_resumed_first() -> None:
    made = placement(power_state="Stopped")
    assert names(decided(made, PAUSED, knowing(made, intent="Suspended"))) == [
        "Remember", "Resume", "ShutDown", "LookAgain",
    ]  # fmt: skip


def test_machine_that_is_off_is_not_started_to_be_suspended() -> None:
    blank = replace(ON, domain=OFF)
    decision = decided(suspended(), blank, Memory())
    assert not {"Start", "Suspend"} & {*names(decision)}
    assert word(suspended(), blank, decision.memory) == ("Stopped", "NothingToSuspend")
    assert Start() in decided(placement(generation=2), blank, decision.memory).steps


def test_machine_that_shut_itself_down_and_is_then_to_be_suspended_starts_when_it_is_to_run() -> None:
    off = replace(ON, domain=replace(OFF, ended="Shutdown", detail="shutdown"))
    decision = decided(suspended(), off, knowing(suspended(), intent="Held", ended="Shutdown"))
    assert word(suspended(), off, decision.memory) == ("Stopped", "NothingToSuspend")
    assert Start() in decided(placement(generation=2), off, decision.memory).steps


def test_lost_memory_is_told_with_why_and_the_machine_starts_when_it_is_to_run() -> None:
    off = replace(ON, domain=replace(OFF, ended="Unknown"), boot_id="b2")
    made = suspended()
    decision = decided(made, off, knowing(made, intent="Suspended"))
    status = telling.tell(Wish.of(made), off, decision)
    assert status is not None
    assert status.params == {"host": "node-1", "detail": "the host was booted anew"}
    assert Start() in decided(placement(generation=2), off, decision.memory).steps


def test_machine_that_ended_while_suspended_starts_at_once_if_it_is_to_run_by_then() -> None:
    off = replace(ON, domain=replace(OFF, ended="Failed", detail="failed to start"))
    assert Start() in decided(placement(), off, knowing(placement(), intent="Suspended")).steps


def test_order_to_restart_waits_while_it_is_suspended() -> None:
    made = suspended(restart=restart(5, "Hard"))
    memory = knowing(made, intent="Suspended")
    assert decided(made, PAUSED, memory).steps == ()
    again = placement(restart=restart(5, "Hard"), generation=2)
    assert Destroy() in decided(again, PAUSED, memory).steps


def test_hard_restart_cuts_the_power_once_for_each_order() -> None:
    made = placement(restart=restart(5, "Hard"))
    first = decided(made, ON, knowing(made))
    assert Destroy() in first.steps
    off = replace(ON, domain=replace(OFF, ended="Destroyed", detail="destroyed"))
    second = decided(made, off, first.memory)
    assert Start() in second.steps
    assert second.memory.restart_at == at(5)
    assert decided(made, ON, replace(second.memory, intent="Started")).steps == ()
    later = decide(Wish.of(made), Observed(), second.memory, NOW)
    assert later.memory.restart_at == at(5)


def test_guest_that_was_asked_to_end_before_it_was_suspended_may_go_on_ending() -> None:
    ending = knowing(suspended(), intent="Off", asked=NOW - 5)
    noted = decided(suspended(), ON, ending).memory
    resumed = decided(placement(generation=2), PAUSED, noted, NOW + 1000)
    assert Resume() in resumed.steps
    after = decided(placement(generation=2), ON, resumed.memory, NOW + 1001)
    assert isinstance(after.steps[-1], LookAgain)
    off = replace(ON, domain=replace(OFF, ended="Shutdown", detail="shutdown"))
    decision = decided(placement(generation=2), off, after.memory, NOW + 1002)
    assert Start() in decision.steps


def test_budget_of_restarts_is_spent_by_crashes_only() -> None:
    crashed = replace(ON, domain=replace(OFF, ended="Crashed", detail="crashed"))
    spent = knowing(placement(), restarts=(NOW - 3, NOW - 2, NOW - 1))
    assert word(placement(), crashed, spent) == ("Failed", "RestartBudgetSpent")
    assert word(placement(), replace(crashed, boot_id="b2"), spent) == ("Starting", "Starting")
    old = knowing(placement(), restarts=(NOW - power.BUDGET_SECONDS,) * 3)
    assert word(placement(), crashed, old) == ("Starting", "Starting")
