"""Who starts first after a boot of the host: tables, and a simulated host that boots."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from nanovirt.agent.boot_order import NOBODY, WAIT_SECONDS, Ahead, Booting, BootOrder, ahead, boots
from nanovirt.agent.memory import Memory
from nanovirt.agent.simulated_traits import Traits
from nanovirt.agent.steps import LookAgain
from tests.agent.placements import placement
from tests.agent.planning import OFF, ON, decided, knowing, names, word
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import run_virtually

NOW = 1000.0


def one(name: str, priority: int = 100, since: float = NOW) -> Booting:
    return Booting(name, priority, since)


@pytest.mark.parametrize(
    ("changes", "memory", "on", "expected"),
    [
        ({}, {}, False, True),
        ({}, {"intent": "Starting"}, False, True),
        ({}, {}, True, False),
        ({}, {"boot_id": "b2"}, False, False),
        ({}, {"boot_id": ""}, False, False),
        ({}, {"intent": "Off"}, False, False),
        ({}, {"intent": "Held"}, False, False),
        ({"restart_policy": "Never"}, {}, False, False),
        ({"power_state": "Stopped"}, {}, False, False),
        ({"power_state": "Suspended"}, {"intent": "Suspended"}, False, False),
        ({"role": "Revoked"}, {}, False, False),
        ({"deleting": True}, {}, False, False),
    ],
)
def test_only_what_ran_before_the_boot_and_is_to_run_waits(
    changes: dict[str, Any], memory: dict[str, Any], *, on: bool, expected: bool
) -> None:
    made = placement(**changes)
    assert boots(made, knowing(made, **memory), "b2", on=on) is expected


def test_machine_that_is_being_started_is_not_through() -> None:
    memory = knowing(placement(), intent="Starting", boot_id="b2")
    assert boots(placement(), memory, "b2", on=False, began=True)
    assert not boots(placement(), memory, "b2", on=True, began=True)
    assert not boots(placement(), memory, "b2", on=False)


def test_machine_waits_for_those_of_higher_priority_only() -> None:
    others = [one("a", 200), one("b", 100), one("c", 300), one("d", 0)]
    assert ahead(one("me"), others, NOW) == Ahead(2, ("c", "a"), WAIT_SECONDS)
    assert ahead(one("me", 300), others, NOW) == NOBODY


def test_machine_waits_no_longer_than_it_is_told() -> None:
    others = [one("a", 200)]
    assert ahead(one("me"), others, NOW + WAIT_SECONDS - 1) == Ahead(1, ("a",), 1)
    assert ahead(one("me"), others, NOW + WAIT_SECONDS) == NOBODY
    assert ahead(one("me"), others, NOW - 1) == NOBODY


def test_next_ones_are_woken_when_the_last_before_them_is_through() -> None:
    order, woken = BootOrder(), list[str]()
    for name, priority in (("a", 3), ("b", 3), ("c", 2), ("d", 1)):
        order.note(name, name, priority, NOW, lambda name=name: woken.append(name))  # type: ignore[misc]
    order.through("a")
    assert woken == []
    order.through("b")
    assert woken == ["c"]
    order.through("c")
    order.through("c")
    assert woken == ["c", "d"]


def test_waiting_machine_notes_nothing_of_its_start_and_says_whom_it_waits_for() -> None:
    made = placement()
    memory = knowing(made)
    seen = replace(ON, domain=replace(OFF, ended="Unknown"), boot_id="b2", ahead=Ahead(5, ("a", "b"), 70.0))
    decision = decided(made, seen, memory)
    assert decision.steps == (LookAgain(70.0),)
    assert decision.memory == memory
    assert word(made, seen, memory) == ("Starting", "StartsAfterOthers")
    assert "Start" in names(decided(made, replace(seen, ahead=NOBODY), memory))


def test_stranger_to_the_boot_order_is_not_kept_waiting_by_it() -> None:
    seen = replace(ON, domain=OFF, boot_id="b2", ahead=NOBODY)
    assert "Start" in names(decided(placement(), seen, Memory()))


def test_machines_start_by_their_priority_after_a_boot_and_one_that_fails_keeps_no_other() -> None:
    async def story(made: Cluster) -> None:
        made.agent()
        keys = [await made.put(placement(number, start_priority=priority)) for number, priority in PRIORITIES.items()]
        for found in keys:
            await made.until_state(found.key, "Running")
        await made.kill()
        machine = made.host().machine
        machine.reboot()
        machine.starts.clear()
        del machine.files[placement(2).spec.volumes[0].file]
        made.agent()
        await asyncio.sleep(1.0)
        await made.put(placement(1, start_priority=300, hostname="new"))  # news of one that is starting
        await asyncio.sleep(1.0)
        assert machine.starts[uuid_of(3)] == 0
        assert made.read(keys[2].key).status.reason == "StartsAfterOthers"
        await asyncio.sleep(1.5)  # 300 has started, 200 has no disk, 100 begins
        assert [number for number in PRIORITIES if machine.starts[uuid_of(number)]] == [1]
        assert made.read(keys[2].key).status.reason == "Starting"
        assert made.read(keys[3].key).status.reason == "StartsAfterOthers"
        for found in (keys[0], keys[2], keys[3]):
            await made.until_state(found.key, "Running")
        assert list(machine.starts) == [uuid_of(1), uuid_of(3), uuid_of(4)]
        assert made.read(keys[1].key).status.state == "Failed"

    async def told() -> None:
        async with cluster(Traits(start_seconds=3.0)) as made:
            await story(made)

    run_virtually(told())


PRIORITIES = {1: 300, 2: 200, 3: 100, 4: 0}


def uuid_of(number: int) -> str:
    return placement(number).spec.domain.uuid
