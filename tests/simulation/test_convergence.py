"""Whatever happened, and wherever the agent was killed: the same end, in bounded steps, and no start too many."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanovirt.agent.leases import reservations
from nanovirt.agent.wish import digest
from nanovirt.resources.placement import Placement
from tests.agent.placements import FILE, REMOVE, UUID, at, placement, restart, spec
from tests.simulation.world import Killed, World, drive

Change = Callable[[World], None]


def wish(**changes: Any) -> Change:
    def change(world: World) -> None:
        world.placement = placement(**changes)

    return change


def crash(ended: Any = "Crashed") -> Change:
    return lambda world: world.host.machine.crash(UUID, ended)


def check(world: World) -> None:
    """The end is what the Placement says, and nothing but that."""
    made, machine = world.placement, world.host.machine
    assert made is not None
    domain = drive(machine.domain(UUID))
    if made.deleting or made.spec.role == "Revoked":
        assert domain is None
        assert world.told.released
        assert machine.leases.served(UUID) == ()
        return
    assert domain is not None
    assert domain.definition == digest(made.spec)
    assert set(machine.files) == {volume.file for volume in made.spec.volumes}
    assert machine.leases.served(UUID) == reservations(made.spec)
    held = world.memory.intent == "Held"
    assert (domain.state == "Running") is (made.spec.power_state == "Running" and not held)
    assert world.told.state == ("Running" if domain.state == "Running" else world.told.state)
    assert world.told.state not in ("Preparing", "Starting", "Stopping")
    if domain.state == "Running":
        assert world.told.nics[0].ip == str(made.spec.nics[0].ip)
        asked = made.spec.restart
        assert asked is None or (world.memory.restart_at is not None and world.memory.restart_at >= asked.at)


# --- killed between any two steps of one change ---

RUNS: list[Change] = [wish()]
TAGGED = [spec().nics[0].model_copy(update={"vlan": 40})]
CHANGES: dict[str, tuple[list[Change], list[Change], int]] = {
    # what was before, what happens, how many starts there are in the end
    "create": ([], [wish()], 1),
    "stop": (RUNS, [wish(power_state="Stopped", generation=2)], 1),
    "stop at once": (RUNS, [wish(power_state="Stopped", stop_grace_seconds=0, generation=2)], 1),
    "start": ([wish(power_state="Stopped")], [wish(generation=2)], 1),
    "restart": (RUNS, [wish(restart=restart(5), generation=2)], 2),
    "restart hard": (RUNS, [wish(restart=restart(5, "Hard"), generation=2)], 2),
    "resize": (RUNS, [wish(cpu=8, generation=2)], 1),
    "resize and restart": (RUNS, [wish(cpu=8, restart=restart(5), generation=2)], 2),
    "crash": (RUNS, [crash()], 2),
    "guest shuts down": (RUNS, [crash("Shutdown")], 1),
    "boot of the host": (RUNS, [lambda world: world.host.machine.reboot()], 2),
    "undefined behind our back": (RUNS, [lambda world: world.host.machine.undefine_behind(UUID)], 2),
    "delete": (RUNS, [wish(deleting=True, operations=[REMOVE])], 1),
    "create in a VLAN": ([], [wish(nics=TAGGED)], 1),
    "into a VLAN": (RUNS, [wish(nics=TAGGED, generation=2)], 1),
    "out of a VLAN": ([wish(nics=TAGGED)], [wish(generation=2)], 1),
    "boot of the host with a VLAN": ([wish(nics=TAGGED)], [lambda world: world.host.machine.reboot()], 2),
    "revoke": (RUNS, [wish(role="Revoked", generation=2)], 1),
    "come back": (RUNS, [wish(role="Revoked", generation=2), wish(epoch=2)], 1),
}


def started_from(before: list[Change]) -> World:
    world = World(UUID)
    for change in before:
        change(world)
        world.settle()
    return world


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("deaf", [False, True])
def test_kill_between_any_two_steps_changes_nothing(name: str, deaf: bool) -> None:
    before, changes, starts = CHANGES[name]
    for kill_after in range(40):
        world = started_from(before)
        if deaf:
            world.host.machine.faults.deaf.add(UUID)
        for change in changes:
            change(world)
        try:
            world.settle(kill_after)
            killed = False
        except Killed:
            killed = True
            world.settle()
        check(world)
        assert world.starts == starts, f"killed after {kill_after} steps"
        if not killed:
            return
    raise AssertionError("never ran to its end")


@pytest.mark.parametrize("name", CHANGES)
def test_agent_that_is_killed_after_every_single_step_gets_there_too(name: str) -> None:
    before, changes, starts = CHANGES[name]
    world = started_from(before)
    for change in changes:
        change(world)
    for _ in range(100):
        try:
            # It has to serve DHCP anew each time, and see the one step more that it is then granted.
            world.settle(kill_after=3)
        except Killed:
            continue
        break
    check(world)
    assert world.starts == starts


def test_settled_world_plans_nothing() -> None:
    for before, changes, _ in CHANGES.values():
        world = started_from([*before, *changes])
        assert world.settle() == []
        world.kill()
        assert set(world.settle()) <= {"Serve"}
        assert world.settle() == []


# --- any history ---

POWER = st.sampled_from(["Running", "Stopped"])
POLICY = st.sampled_from(["OnFailure", "Always", "Never"])
SPECS = st.fixed_dictionaries(
    {
        "power_state": POWER,
        "restart_policy": POLICY,
        "cpu": st.integers(1, 3),
        "stop_grace_seconds": st.sampled_from([0, 7, 60]),
        "restart": st.none() | st.tuples(st.integers(1, 3), st.sampled_from(["Graceful", "Hard"])),
    }
)
CALLS = st.sampled_from(["define", "start", "shut_down", "destroy", "make_volume", "add_image", "undefine"])
EVENTS = st.one_of(
    st.tuples(st.just("wish"), SPECS),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("work"), st.integers(0, 12)),
    st.tuples(st.just("kill"), st.none()),
    st.tuples(st.just("end"), st.sampled_from(["Crashed", "Shutdown", "Destroyed", "Failed"])),
    st.tuples(st.just("boot"), st.none()),
    st.tuples(st.just("undefine"), st.none()),
    st.tuples(st.just("refuse"), CALLS),
    st.tuples(st.just("pass"), st.sampled_from([1, 30, 700])),
    st.tuples(st.just("forget"), st.none()),
)


def ordered(fields: dict[str, Any], generation: int) -> Placement:
    order = fields["restart"] and {"at": at(fields["restart"][0]), "mode": fields["restart"][1]}
    return placement(generation=generation, **{**fields, "restart": order})


class Story:
    """A world to which things happen; it counts ends of the machine, since each start but the first needs one."""

    def __init__(self) -> None:
        self.world = World(UUID)
        self.ends = 0
        self.generation = 0
        self.fields: dict[str, Any] = {}

    def happen(self, event: tuple[str, Any]) -> None:
        world = self.world
        match event:
            case ("wish", fields):
                self.generation += 1
                self.fields = fields
                world.placement = ordered(fields, self.generation)
            case ("settle", _):
                self.counted(world.settle)
            case ("work", steps):
                self.counted(lambda: world.settle(steps))
            case ("kill", _):
                world.kill()
            case ("end", how):
                self.ends += world.on
                world.host.machine.crash(UUID, how)
            case ("boot", _):
                self.ends += world.on
                world.host.machine.reboot()
                world.kill()
            case ("undefine", _):
                self.ends += world.on
                world.host.machine.undefine_behind(UUID)
            case ("refuse", call):
                world.host.machine.faults.refuse[call] += 1
            case ("pass", seconds):
                world.now += seconds
            case ("forget", _):
                if not world.on and world.told.state != "Stopped":
                    return
                world.host.memories.kept.clear()
                world.kill()
            case _:
                raise AssertionError(event)

    def counted(self, work: Callable[[], object]) -> None:
        """The agent ends it itself when it stops or restarts it: each such run ends once."""
        before, was_on = self.world.starts, self.world.on
        with contextlib.suppress(Killed):
            work()
        started = self.world.starts - before
        self.ends += was_on + started - self.world.on


@settings(max_examples=400)
@given(st.lists(EVENTS, max_size=25), SPECS)
def test_any_history_has_the_same_end(events: list[tuple[str, Any]], last: dict[str, Any]) -> None:
    story = Story()
    for event in events:
        story.happen(event)
    story.world.host.machine.faults.refuse.clear()
    story.happen(("wish", last))
    story.happen(("settle", None))
    check(story.world)
    assert story.world.settle() == []
    assert story.world.starts <= story.ends + 1
    if last["power_state"] == "Running" and story.world.memory.intent == "Held":
        assert story.world.told.reason in ("GuestShutdown", "Crashed", "RestartBudgetSpent")


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=15), st.integers(0, 10))
def test_deletion_after_any_history_leaves_nothing(events: list[tuple[str, Any]], kill_after: int) -> None:
    story = Story()
    for event in events:
        story.happen(event)
    story.world.host.machine.faults.refuse.clear()
    story.world.placement = placement(generation=story.generation + 1, deleting=True, operations=[REMOVE])
    story.happen(("work", kill_after))
    story.happen(("settle", None))
    check(story.world)
    assert FILE not in story.world.host.machine.files


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=15))
def test_restart_is_done_once_whatever_happens_to_the_agent(events: list[tuple[str, Any]]) -> None:
    """From a running machine: one restart, an agent that is killed at will, and nothing else that ends the machine."""
    story = Story()
    world = story.world
    world.placement = placement()
    world.settle()
    world.placement = placement(generation=2, restart=restart(5))
    for event in events:
        if event[0] in ("settle", "work", "kill", "refuse", "pass"):
            story.happen(event)
    world.host.machine.faults.refuse.clear()
    world.settle()
    assert world.starts == 2
    assert world.told.restarted_at == at(5)
