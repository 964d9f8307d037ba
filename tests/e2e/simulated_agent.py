"""Agents of simulated hosts in the test's own process, clients of a real server over mutual TLS, that outlive it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nanovirt.agent.main import SimulatedHost
from nanovirt.agent.server import ApiServer
from nanovirt.agent.simulated_traits import QUICK, Traits
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.resources.client import Client
from nanovirt.resources.kind import Key
from tests.e2e.server_process import PATIENT, ServerProcess, running_server
from tests.e2e.waiting import until_ready


class SimulatedAgent:
    """A host whose machine and whose agent's disk stay while the agent ends and begins again."""

    def __init__(self, group: asyncio.TaskGroup, name: str, credentials: Path, traits: Traits) -> None:
        self.host = SimulatedHost(name, traits)
        self._group = group
        self._credentials = credentials
        self._work: asyncio.Task[None] | None = None

    @property
    def machine(self) -> SimulatedMachine:
        """What the agent works on."""
        return self.host.machine

    def begin(self) -> None:
        """Start the agent; it waits for a server that is not there."""
        assert self._work is None
        self._work = self._group.create_task(self._live())

    async def end(self) -> None:
        """Let the agent vanish: nobody hears of it, its machine goes on."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    async def domains(self) -> list[str]:
        """The names of all domains that are defined there."""
        return sorted(one.name for one in (await self.machine.domains()).values())

    async def _live(self) -> None:
        async with Client.from_credentials_file(self._credentials) as client:
            await self.host.run(ApiServer(client, self.host.name))


@asynccontextmanager
async def simulated_agents(
    server: ServerProcess, *names: str, traits: Traits = QUICK
) -> AsyncIterator[dict[str, SimulatedAgent]]:
    """Agents at work for hosts of those names, within the block."""
    files = {name: await asyncio.to_thread(server.host_credentials, name) for name in names}
    async with asyncio.TaskGroup() as group:
        agents = {name: SimulatedAgent(group, name, file, traits) for name, file in files.items()}
        try:
            for one in agents.values():
                one.begin()
            yield agents
        finally:
            for one in agents.values():
                await one.end()


@asynccontextmanager
async def with_agents(
    folder: Path, *hosts: str, traits: Traits = QUICK
) -> AsyncIterator[tuple[ServerProcess, dict[str, SimulatedAgent], Client]]:
    """A server whose hosts' agents live in this process, so that either side can die alone."""
    with running_server(folder / "data") as server:
        await asyncio.to_thread(server.make_image)
        async with server.client() as client, simulated_agents(server, *hosts, traits=traits) as agents:
            for host in hosts:
                await until_ready(client, Key("hosts", "", host))
            yield server, agents, client


def starts(agents: dict[str, SimulatedAgent]) -> Counter[str]:
    """How often each machine was really started, on all hosts together, by uuid."""
    return sum((one.machine.starts for one in agents.values()), Counter())


async def until_nothing_is_left(agents: dict[str, SimulatedAgent]) -> None:
    """Return once the hosts have nothing of any machine; an agent that was cut off hears of the end a little later."""
    deadline = time.monotonic() + PATIENT
    while found := await leftovers(agents):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


async def leftovers(agents: dict[str, SimulatedAgent]) -> list[str]:
    """Domains, disk files, remembered machines and served addresses that are still on the hosts."""
    found: list[str] = []
    for name, one in agents.items():
        found += [f"{name}: domain {domain}" for domain in await one.domains()]
        found += [f"{name}: file {file}" for file in one.machine.files]
        found += [f"{name}: memory of {uuid}" for uuid in one.host.memories.kept]
    return found
