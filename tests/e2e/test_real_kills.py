"""kill -9 of the server and of an agent after each step of a machine's making, restart and end, and at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nanovirt.resources.client import Client
from tests.e2e.cluster import BLANK, Cluster, instance, instance_key, placement_of, real_cluster, remove_all
from tests.e2e.killing import CREATE, DELETE, RESTART, killers, making_and_ending, now, points, restarting, show
from tests.e2e.looking import address, insist, is_off, names, runs, until, until_answers, until_gone
from tests.e2e.processes import Process
from tests.testbed import leftovers

SEED = int(os.environ.get("NANO_SEED", "0")) or random.randrange(1, 10**6)


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """Two hosts; every test leaves them empty."""
    with real_cluster(mini_guest) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator; whatever a test did, the next one begins with an empty cluster that is whole."""
    await cluster.restart_dead()
    async with cluster.client() as client:
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure
        await cluster.restart_dead()
        await remove_all(client)
        await cluster.until_empty()


# --- after each step ----------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
async def test_steps_are_those_that_are_killed_after(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    await client.create(instance("model", scheduling={"host": "h1"}))
    doc = await until(client, instance_key("model"), runs)
    assert tuple(agent.steps("default.model")) == CREATE
    await client.delete(instance_key("model"))
    await until_gone(client, instance_key("model"))
    assert tuple(agent.steps("default.model")) == (*CREATE, *DELETE)
    assert not [one for one in agent.leftovers() if doc["metadata"]["uid"] in one]


@pytest.mark.timeout(600)
async def test_machine_survives_a_kill_in_its_making_and_in_its_end(cluster: Cluster, client: Client) -> None:
    """The short form: the two steps of each that change most."""
    agent, server = killers(cluster, client)
    create = [one for one in points(CREATE) if one.step in {"Define", "Start"}]
    delete = [one for one in points(DELETE) if one.step in {"Destroy", "RemoveVolume"}]
    async with asyncio.TaskGroup() as group:
        for killer in (agent, server):
            group.create_task(making_and_ending(killer, create, delete, "short"))
    show(agent, server)


@pytest.mark.long
@pytest.mark.timeout(2000)
async def test_machine_survives_a_kill_after_each_step_of_its_making_and_of_its_end(
    cluster: Cluster, client: Client
) -> None:
    agent, server = killers(cluster, client)
    async with asyncio.TaskGroup() as group:
        for killer in (agent, server):
            group.create_task(making_and_ending(killer, points(CREATE), points(DELETE), "whole"))
    show(agent, server)


@pytest.mark.long
@pytest.mark.timeout(2000)
async def test_machine_is_restarted_once_whichever_step_is_followed_by_a_kill(cluster: Cluster, client: Client) -> None:
    agent, server = killers(cluster, client)
    async with asyncio.TaskGroup() as group:
        for killer in (agent, server):
            group.create_task(restarting(killer, points(RESTART)))
    show(agent, server)


# --- at any moment ------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """What a machine is wished to be, and how often it must have been started by now."""

    name: str
    wish: Literal["Running", "Stopped", ""] = ""
    starts: int = 0
    ever: int = 0
    """As `starts`, with those of its namesakes that were deleted."""
    calm: bool = True
    """Nothing has been ordered since it was last seen as wished, when `process` ran it."""
    process: int = 0


@dataclass
class Chaos:
    """Machines that are given orders at random while their keepers die at random."""

    cluster: Cluster
    client: Client
    machines: list[Machine]
    dice: random.Random
    guests: bool

    async def order(self, machine: Machine) -> str:
        """Wish something new of a machine; what it was."""
        key = instance_key(machine.name)
        machine.calm = False
        if not machine.wish:
            self._wish_start(machine)
            memory = self.dice.choice(["128Mi", "160Mi", "192Mi"])
            doc = instance(machine.name, stopGraceSeconds=0, memory=memory, **({} if self.guests else {"disks": BLANK}))
            await insist(lambda: self.client.create(doc))
            return f"create {machine.name}"
        verbs = ("start", "delete") if machine.wish == "Stopped" else ("stop", "restart", "delete")
        verb = self.dice.choice(verbs)
        if verb == "delete":
            machine.wish, machine.starts = "", 0
            await insist(lambda: self.client.delete(key))
        elif verb == "stop":
            machine.wish = "Stopped"
            await insist(lambda: self.client.patch(key, {"spec": {"powerState": "Stopped"}}))
        else:
            self._wish_start(machine)
            order = {"restart": {"at": now(), "mode": "Hard"}} if verb == "restart" else {"powerState": "Running"}
            await insist(lambda: self.client.patch(key, {"spec": order}))
        return f"{verb} {machine.name}"

    def _wish_start(self, machine: Machine) -> None:
        machine.wish, machine.starts, machine.ever = "Running", machine.starts + 1, machine.ever + 1

    async def moment(self, orders: int) -> str:
        """Some orders, and while they are carried out some deaths."""
        dice, agents = self.dice, tuple(self.cluster.agents.values())
        chosen = dice.sample(self.machines, orders)
        delay, pause = dice.uniform(0, 2), dice.uniform(0, 1)
        victims: list[Process] = dice.sample([self.cluster.server, *agents], dice.randint(1, 3))
        async with asyncio.TaskGroup() as group:
            given = [group.create_task(self.order(one)) for one in chosen]
            await asyncio.sleep(delay)
            for one in victims:
                one.kill()
            await asyncio.sleep(pause)
            for one in victims:
                one.start()
        dead = ", ".join(f"{one.log.parent.parent.name} {one.log.stem}" for one in victims)
        return f"{'; '.join(one.result() for one in given)}; after {delay:.2f} s dies: {dead}; for {pause:.2f} s"

    async def settled(self) -> None:
        """Every machine is as wished, was started as often as wished, and runs on if nothing was ordered."""
        for one in self.machines:
            await self._settled(one)
        held, _ = await self.client.list("addresses")
        ips = [one["spec"]["ip"] for one in held]
        there = sorted(one.name for one in self.machines if one.wish)
        assert await names(self.client, "instances") == there
        assert len(ips) == len(set(ips)) == len(there)
        domains = sorted(one for agent in self.cluster.agents.values() for one in agent.domains())
        assert domains == [f"default.{name}" for name in there]

    async def _settled(self, machine: Machine) -> None:
        key = instance_key(machine.name)
        if not machine.wish:
            await until_gone(self.client, key)
            return
        doc = await until(self.client, key, runs if machine.wish == "Running" else is_off)
        agent = self.cluster.agents[doc["status"]["host"]]
        process = agent.runs(f"default.{machine.name}")
        assert bool(process) == (machine.wish == "Running")
        assert (await placement_of(self.client, machine.name))["status"]["started"] == machine.starts, machine
        qemus = sum(one.starts(f"default.{machine.name}") for one in self.cluster.agents.values())
        assert qemus == machine.ever, machine
        if machine.calm:
            assert process == machine.process, f"{machine.name} was started without an order"
        machine.calm, machine.process = True, process


@pytest.mark.parametrize(
    ("moments", "count"),
    [
        pytest.param(3, 4, marks=pytest.mark.timeout(600)),
        pytest.param(20, 10, marks=[pytest.mark.long, pytest.mark.timeout(2400)]),
    ],
)
async def test_everything_converges_whenever_who_dies(
    cluster: Cluster, client: Client, moments: int, count: int
) -> None:
    whole = moments > 3
    print(f"NANO_SEED={SEED}")  # noqa: T201 - to see a failure again
    chaos = Chaos(cluster, client, [Machine(f"m{moments}-{n}") for n in range(count)], random.Random(SEED), whole)
    witnesses = [Machine(f"witness{moments}-{host}") for host in cluster.agents]
    for one in witnesses:
        await chaos.order(one)
    answers = {}
    if whole:
        for one in witnesses:
            doc = await until(client, instance_key(one.name), runs)
            answers[address(doc)] = (await until_answers(address(doc))).boot_id
    for one in chaos.machines:
        await chaos.order(one)
    chaos.machines += witnesses
    await chaos.settled()
    touched = chaos.machines[:count]
    for number in range(moments):
        chaos.machines = touched
        said = await chaos.moment(min(3, count))
        chaos.machines = touched + witnesses
        print(f"{number}: {said}")  # noqa: T201 - to see a failure again
        await chaos.settled()
    for ip, boot_id in answers.items():
        assert (await until_answers(ip)).boot_id == boot_id
