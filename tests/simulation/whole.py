"""Server, controllers and simulated hosts in virtual time, with the real API and the command line's own way to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
from aiohttp import ClientSession, UnixConnector, web

from nanovirt.agent.local_server import LocalServers
from nanovirt.agent.loop import USUAL, Agent, Clocks
from nanovirt.agent.main import SimulatedHost
from nanovirt.agent.simulated_traits import Traits
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.controllers.forecasting import forecast
from nanovirt.controllers.loops import Loops
from nanovirt.portal.agents import Agents
from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.api.transactions import Foresee
from nanovirt.portal.cli.connection import Connection
from nanovirt.portal.cli.session import Session
from nanovirt.portal.identity import ADMIN
from nanovirt.resources import wire
from nanovirt.resources.access import Credentials
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.defaults import defaults, made
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.log import MemoryLog
from nanovirt.resources.report import ImageProgress, ReportReply
from nanovirt.resources.reports import Reports
from nanovirt.resources.sealing import Sealer
from nanovirt.resources.store import Create, transact
from tests.simulation.virtual_time import VirtualLoop, now

T = TypeVar("T")
QUIET = 12.0
"""So many seconds without a commit, and nothing more will happen: longer than anything of TRAITS takes."""
TRAITS = Traits(
    define_seconds=0.2, start_seconds=1.5, boot_seconds=(1.0, 4.0), end_seconds=2.0, image_seconds=3.0
)  # fmt: skip


class _Virtual(Connection):
    """A connection that lets time pass only while it waits for an answer."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], session: ClientSession) -> None:
        super().__init__(Credentials(server="http://nano"), lambda _warning: None)
        self._run, self._session = run, session

    def ask(
        self, method: str, path: str, doc: Any = None, *, content_type: str = "", accept: str = "", key: str = ""
    ) -> JSON:
        """See Connection."""
        named = {"Accept": accept or "application/json", "Content-Type": content_type or "application/json"}
        reply: JSON = self._run(self._asked(method, path, doc, named | ({"Idempotency-Key": key} if key else {})))
        return reply

    async def _asked(self, method: str, path: str, doc: Any, headers: dict[str, str]) -> Any:
        body = None if doc is None else orjson.dumps(doc)
        async with self._session.request(method, f"http://nano{path}", data=body, headers=headers) as reply:
            content = await reply.read()
        if not 200 <= reply.status < 300:
            raise wire.refusal(reply.status, content, f"{method} {path}")
        return orjson.loads(content)


class Whole:
    """Made by `whole()`. Time passes inside `run` and nowhere else."""

    def __init__(self, loop: VirtualLoop, folder: Path) -> None:
        self.store, self.hosts = Engine(MemoryLog()), dict[str, SimulatedMachine]()
        self.session: Session
        self._reports: Reports
        self._loop, self._socket = loop, str(folder / "api")
        self._ready, self._over = asyncio.Event(), asyncio.Event()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the world go on until that is done."""
        return self._loop.run_until_complete(work)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.run(asyncio.sleep(seconds))

    def settles(self) -> None:
        """Let time pass until nothing has been stored for a while."""
        before = -1
        for _ in range(50):
            if before == (before := self.store.committed):
                return
            self.passes(QUIET)
        raise AssertionError("it never comes to rest")

    def object(self, plural: str, name: str, namespace: str = "default") -> JSON:
        """As it is now."""
        return load(self.store.get(Key(plural, namespace, name)).raw)

    def makes(self, *things: Document) -> None:
        """Store objects."""
        self.run(self._made(things))

    async def _made(self, things: tuple[Document, ...]) -> None:
        await transact(self.store, [Create(one.key, one.to_json()) for one in things], "test")

    async def serve(self, hosts: int) -> None:
        """Run everything until `end`."""
        reports = Reports(now())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.store.run())]
            await self._made(tuple(defaults()))
            agents = Agents(self.store, reports, now)
            loops = Loops(self.store, reports)
            servers = LocalServers(self.store, reports, now, lambda host: reply_of(agents, host))
            tasks.append(group.create_task(loops.run()))
            for number in range(1, hosts + 1):
                agent = await self._agent(f"node-{number}", number, servers)
                tasks.append(group.create_task(agent.run()))
            async with self._api(partial(forecast, self.store, loops.world)):
                self._reports = reports
                self._ready.set()
                await self._over.wait()
            servers.close()
            for task in tasks:
                task.cancel()

    async def _agent(self, name: str, seed: int, servers: LocalServers) -> Agent:
        await self._made((made("Host", name, bridges=[{"network": "default", "device": "nano0"}]),))
        host = SimulatedHost(name, TRAITS, seed)
        self.hosts[name] = host.machine
        return Agent(name, host.machine, host.machine.leases, host.memories, servers.of(name), USUAL, Clocks(now, now))

    def image(self, name: str, sha256: str, size: int) -> None:
        """An image in `shared` that is ready."""
        thing = made("Image", name, "shared", source={"file": f"{name}.qcow2"})
        self.makes(thing)
        ready = ImageProgress(phase="Ready", size=10, virtual_size=size, sha256=sha256, format="qcow2")
        self.run(self._noted(thing.key, ready))

    async def _noted(self, key: Key, progress: ImageProgress) -> None:
        self._reports.note_image(key, progress)

    @asynccontextmanager
    async def _api(self, foresee: Foresee) -> AsyncIterator[None]:
        """The API on a socket whose other end sees at once what is sent: no time passes on the way."""
        api = Api(self.store, lambda _request: ADMIN, sealer=Sealer(b"k" * 32), foresee=foresee)
        runner = web.ServerRunner(web.Server(api.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, self._socket).start()
            async with ClientSession(connector=UnixConnector(self._socket)) as session:
                self.session = Session(_Virtual(self.run, session), "default")
                yield
        finally:
            api.close()
            await runner.cleanup()

    async def ready(self) -> None:
        """Until the API answers."""
        await self._ready.wait()

    def end(self) -> None:
        """Let `serve` come to its end."""
        self._over.set()


def reply_of(agents: Agents, host: str) -> ReportReply:
    """What the server answers to a report of that host."""
    return ReportReply.model_validate_json(agents.reply(host))


@contextmanager
def whole(folder: Path, hosts: int = 5) -> Iterator[Whole]:
    """A cluster of simulated hosts that ends with the block."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        made_ = Whole(loop, folder)
        serving = loop.create_task(made_.serve(hosts))
        try:
            made_.run(made_.ready())
            made_.passes(QUIET)
            yield made_
        finally:
            made_.end()
            loop.run_until_complete(serving)
