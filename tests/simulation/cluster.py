"""A server of one store and some simulated hosts, in virtual time, with everything a test wants to break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nanovirt.agent.local_server import LocalServer, LocalServers
from nanovirt.agent.loop import USUAL, Agent, Clocks
from nanovirt.agent.main import SimulatedHost
from nanovirt.agent.server import News
from nanovirt.agent.simulated_traits import QUICK, Traits
from nanovirt.portal.agents import Agents
from nanovirt.resources.codec import trusted
from nanovirt.resources.defaults import made as default
from nanovirt.resources.engine import Engine
from nanovirt.resources.errors import NotFound, StoreUnreachable
from nanovirt.resources.guest import GuestSecrets
from nanovirt.resources.kind import Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.placement import FINALIZER, Placement, PlacementStatus
from nanovirt.resources.report import HostReport, ReportReply
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Delete, Update, transact
from tests.simulation.virtual_time import now


class Line:
    """The connection of a host to the server: it may be cut, and it may be slow."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.up = asyncio.Event()
        self.up.set()
        self.slow = 0.0
        self.images: dict[str, bytes] = {}
        self.writes = 0
        self._cut = asyncio.Event()

    def cut(self) -> None:
        self.up.clear()
        self._cut.set()

    def mend(self) -> None:
        self._cut.clear()
        self.up.set()

    async def placements(self) -> AsyncGenerator[News, None]:
        while True:
            await self.up.wait()
            news = self._server.placements()
            try:
                while self.up.is_set():
                    one = await self._next(news)
                    if one is not None:
                        yield one
            finally:
                await news.aclose()

    async def _next(self, news: AsyncGenerator[News, None]) -> News | None:
        """The next news, or None when the line is cut while waiting for it."""
        async with asyncio.TaskGroup() as group:
            coming, cut = group.create_task(_first(news)), group.create_task(self._cut.wait())
            await asyncio.wait((coming, cut), return_when=asyncio.FIRST_COMPLETED)
            coming.cancel()
            cut.cancel()
        return None if coming.cancelled() else coming.result()

    async def write_status(self, placement: Placement, status: PlacementStatus) -> None:
        self._check()
        self.writes += 1
        await self._server.write_status(placement, status)

    async def report(self, report: HostReport) -> ReportReply:
        self._check()
        reply = await self._server.report(report)
        await asyncio.sleep(self.slow)
        return reply

    async def fetch_secrets(self, placement: Key) -> GuestSecrets:
        del placement
        self._check()
        return GuestSecrets()

    async def fetch_image(self, placement: Key, volume: str, path: Path) -> None:
        self._check()
        if volume not in self.images:
            raise NotFound("placements", f"{placement.name}/{volume}")
        path.write_bytes(self.images[volume])

    def _check(self) -> None:
        if not self.up.is_set():
            raise StoreUnreachable("the line is cut")


async def _first(news: AsyncGenerator[News, None]) -> News:
    return await anext(news)


class Cluster:
    """Made by `cluster()`; `agent(name)` starts an agent, `kill(name)` ends it."""

    def __init__(self, store: Engine, group: asyncio.TaskGroup, traits: Traits) -> None:
        self.store = store
        self.reports = Reports(now())
        self.hosts: dict[str, SimulatedHost] = {}
        self.agents: dict[str, Agent] = {}
        self.lines: dict[str, Line] = {}
        self._servers = LocalServers(store, self.reports, now)
        self._group = group
        self._traits = traits
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def desk(self) -> Agents:
        """What answers the reports of node-1 from now on, as in a server, which knows that host."""
        thing = default("Host", "node-1")
        await transact(self.store, [Create(thing.key, thing.to_json())], "test")
        desk = Agents(self.store, self.reports, now)

        self._servers._reply = lambda host: ReportReply.model_validate_json(desk.reply(host))
        return desk

    def host(self, name: str = "node-1") -> SimulatedHost:
        if name not in self.hosts:
            self.hosts[name] = SimulatedHost(name, self._traits)
            self.lines[name] = Line(self._servers.of(name))
        return self.hosts[name]

    def agent(self, name: str = "node-1") -> None:
        host = self.host(name)
        clocks = Clocks(now, now)
        machine, line = host.machine, self.lines[name]
        agent = Agent(name, machine, machine.leases, host.memories, line, USUAL, clocks, segments=machine.segments)
        self.agents[name] = agent
        self._tasks[name] = self._group.create_task(agent.run())

    async def kill(self, name: str = "node-1") -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])
        self.hosts[name].machine.leases.forget_all()

    async def put(self, placement: Placement) -> Placement:
        """Create, or replace the spec."""
        if self.store.peek(placement.key) is None:
            await transact(self.store, [Create(placement.key, placement.to_json())], "test")
        else:
            held = self.read(placement.key)
            doc = placement.to_json()
            doc["metadata"] = held.metadata.to_json()
            await transact(self.store, [Update(placement.key, doc)], "test")
        return self.read(placement.key)

    async def delete(self, key: Key) -> None:
        await transact(self.store, [Delete(key)], "test")

    async def finalize(self, key: Key) -> None:
        """What the controller does once the agent says released, or a person who does not care."""
        doc = self.read(key).to_json()
        doc["metadata"]["finalizers"] = [one for one in doc["metadata"]["finalizers"] if one != FINALIZER]
        await transact(self.store, [Update(key, doc)], "test")

    def read(self, key: Key) -> Placement:
        return trusted(Placement, self.store.get(key).raw)

    async def until(self, true: Callable[[], bool], seconds: float = 120) -> float:
        """Wait until something is so; gives how long it took. TimeoutError."""
        began = now()
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.1)
        return now() - began

    async def until_state(self, key: Key, state: str, seconds: float = 120) -> PlacementStatus:
        await self.until(lambda: self.read(key).status.state == state, seconds)
        return self.read(key).status

    async def end(self) -> None:
        for name in tuple(self._tasks):
            await self.kill(name)
        self._servers.close()


@asynccontextmanager
async def cluster(traits: Traits = QUICK) -> AsyncIterator[Cluster]:
    """A store that runs, and hosts as the test asks for them; everything ends with it."""
    store = Engine(MemoryLog())
    async with asyncio.TaskGroup() as group:
        committing = group.create_task(store.run())
        made = Cluster(store, group, traits)
        try:
            yield made
        finally:
            await made.end()
            committing.cancel()
