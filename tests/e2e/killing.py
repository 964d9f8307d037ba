"""Killing a server or an agent right after one step of a machine's making, restart or end, and what must then be so."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from tests.e2e.cluster import HELD, Cluster, instance, instance_key, placement_of
from tests.e2e.looking import BOOT, address, insist, look, runs, until, until_answers, until_gone
from tests.e2e.processes import Agent, Process

Victim = Literal["agent", "server"]

CREATE = ("Remember", "Serve", "FetchImage", "MakeVolume", "Define", "Start", "Remember", "Remember")
"""The last note is of the definition as the hypervisor has written it down, by which drift is found."""
RESTART = ("Remember", "ShutDown", "Remember", "Start", "Remember")
DELETE = ("Remember", "Destroy", "Undefine", "Withhold", "RemoveVolume")


class Point(NamedTuple):
    """After the step that is done for the nth time in an operation."""

    step: str
    nth: int

    def __str__(self) -> str:
        return self.step if self.nth == 1 else f"{self.step} ({self.nth})"


def points(steps: tuple[str, ...]) -> list[Point]:
    """The moment after each of these steps."""
    seen: Counter[str] = Counter()
    found = []
    for step in steps:
        seen[step] += 1
        found.append(Point(step, seen[step]))
    return found


@dataclass
class Killer:
    """Lets `victim` die after steps of machines on the host of `agent`, and begin again."""

    cluster: Cluster
    agent: Agent
    client: Client
    victim: Victim
    said: list[str] = field(default_factory=list)

    async def strike(self, operation: str, name: str, point: Point, order: Callable[[], Awaitable[object]]) -> int:
        """Give the order, kill at that point, begin again; the process of the machine at that moment, or 0."""
        victim: Process = self.agent if self.victim == "agent" else self.cluster.server
        self.agent.set_trap(f"default.{name}", point.step, point.nth, victim.pid)
        async with asyncio.TaskGroup() as group:
            group.create_task(insist(order))  # the server may die before it has answered
            await look(f"kill of the {self.victim} after {operation} {point}", self._sprung, bool)
            await asyncio.to_thread(victim.wait)
            process = self.agent.runs(f"default.{name}")
            victim.start()
        self.said.append(f"{operation}: {point}: {self.victim}")
        return process

    async def _sprung(self) -> bool:
        return self.agent.sprung

    # --- operations ---

    async def create(self, name: str, point: Point) -> None:
        """It runs, was started once, and goes on if it ran at that moment."""
        doc = instance(name, scheduling={"host": self.agent.host.name})
        process = await self.strike("create", name, point, lambda: self.client.create(doc))
        await until(self.client, instance_key(name), runs)
        assert process in (0, self.agent.runs(f"default.{name}"))
        await self.started(name, 1)

    async def delete(self, name: str, point: Point) -> None:
        """Nothing is left of it."""
        key = instance_key(name)
        uid = (await until(self.client, key, runs))["metadata"]["uid"]
        await self.strike("delete", name, point, lambda: self.client.delete(key, uid=uid))
        await until_gone(self.client, key)
        await self.nothing_left(name, uid)

    async def restart(self, name: str, point: Point, times: int) -> None:
        """It was started once more, and the guest says so."""
        key, machine = instance_key(name), f"default.{name}"
        doc = await until(self.client, key, runs)
        before = await until_answers(address(doc))
        await look("guest", self._console(doc), lambda text: text.count("nano-guest: ready") == times - 1, BOOT)
        order = {"spec": {"restart": {"at": now(), "mode": "Graceful"}}}
        process = await self.strike("restart", name, point, lambda: self.client.patch(key, order))
        await until(self.client, key, lambda one: runs(one) and self.agent.starts(machine) == times)
        after = await until_answers(address(doc), lambda said: said.boot_id != before.boot_id)
        if point in points(RESTART)[3:]:
            assert process == self.agent.runs(machine)
        await self.started(name, times)
        assert (await until_answers(address(doc))).boot_id == after.boot_id

    # --- what must be so ---

    async def started(self, name: str, times: int) -> None:
        """QEMU was started so often, and the Placement says so."""
        placement = await look(name, lambda: placement_of(self.client, name), bool)
        assert placement["status"]["started"] == times
        assert self.agent.starts(f"default.{name}") == times

    async def nothing_left(self, name: str, uid: str) -> None:
        """Neither objects nor anything on the host."""
        for plural in HELD:
            found, _ = await look(plural, lambda plural=plural: self.client.list(plural), bool)  # type: ignore[misc]
            assert not [one for one in found if uid in json.dumps(one)]
        assert f"default.{name}" not in self.agent.domains()

        async def left() -> list[str]:
            return [one for one in self.agent.leftovers() if uid in one]

        only_notes = all(one.endswith(".json") for one in await left())
        assert only_notes, await left()
        await look("host", left, lambda found: not found)  # the agent's own note goes when it hears of the end

    def _console(self, doc: JSON) -> Callable[[], Awaitable[str]]:
        async def console() -> str:
            return self.agent.console(doc["metadata"]["uid"])

        return console


async def making_and_ending(killer: Killer, creations: list[Point], deletions: list[Point], named: str) -> None:
    """A machine for each creation; the deletions are gone through as often as needed.

    Its name begins with `named` and is used only once, since libvirt's note of starts goes by the name.
    """
    for number, (creation, deletion) in enumerate(zip(creations, itertools.cycle(deletions), strict=False)):
        name = f"{named}-{killer.victim}-{number}"
        if creation.step == "FetchImage":
            killer.agent.forget_images()
        await killer.create(name, creation)
        await killer.delete(name, deletion)


async def restarting(killer: Killer, restarts: list[Point]) -> None:
    """One machine, started anew again and again."""
    name = f"{killer.victim}-again"
    doc = instance(name, scheduling={"host": killer.agent.host.name})
    await insist(lambda: killer.client.create(doc))
    doc = await until(killer.client, instance_key(name), runs)
    for times, point in enumerate(restarts, 2):
        await killer.restart(name, point, times)
    await insist(lambda: killer.client.delete(instance_key(name)))
    await until_gone(killer.client, instance_key(name))
    await killer.nothing_left(name, doc["metadata"]["uid"])


def killers(cluster: Cluster, client: Client) -> tuple[Killer, Killer]:
    """The agent dies on the first host, the server on account of the second."""
    one, two = cluster.agents.values()
    return Killer(cluster, one, client, "agent"), Killer(cluster, two, client, "server")


def show(*killers: Killer) -> None:
    """Print the list of kills."""
    for line in (line for killer in killers for line in killer.said):
        print(f"killed after {line}")  # noqa: T201 - the issue asks for the list


def now() -> str:
    """As the API writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
