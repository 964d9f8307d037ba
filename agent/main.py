"""Putting an agent together: the real one of this host, or any number of simulated ones in this process."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nanovirt.agent import firewall, serial_log
from nanovirt.agent.answering import guest_routes, routes, silent_routes, usage_routes
from nanovirt.agent.filtering import cards_of
from nanovirt.agent.gateway import Admit, Doors
from nanovirt.agent.guests import Channel, Guests
from nanovirt.agent.history import History
from nanovirt.agent.iproute import KernelSegments
from nanovirt.agent.leases import Bridges
from nanovirt.agent.listener import Listener, Served, listening
from nanovirt.agent.local_server import LocalServers
from nanovirt.agent.loop import USUAL, Agent, Pace
from nanovirt.agent.machine import Machine
from nanovirt.agent.memory import FileMemories, KeptMemories
from nanovirt.agent.segments import segments_of
from nanovirt.agent.server import Server
from nanovirt.agent.simulated_traits import QUICK, Traits
from nanovirt.agent.simulation import SimulatedMachine
from nanovirt.agent.usage import Sampler, read_host
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import HypervisorError, NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import Gateway, ReportReply
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Store

log = logging.getLogger(__name__)

FIREWALL_SECONDS, RETRY_SECONDS = 10.0, 2.0
"""Between two looks at what the kernel has; and before what failed is tried again."""
SEGMENT_SECONDS = 5.0
"""Between two looks at the segments, into which an uplink may have come."""


@dataclass(frozen=True)
class Port:
    """Where an agent listens to the server, and with which certificate."""

    number: int
    tls: ssl.SSLContext
    gateway: int = 0
    """TCP port for viewers of third parties; 0: none."""
    viewers: ssl.SSLContext | None = None
    """The same certificate, and none is demanded."""
    address: str = ""
    """By which viewers reach this host: the certificate says it."""


async def run_agent(
    host: str,
    machine: Machine,
    server: Server,
    admit: Admit,
    folder: Path,
    port: Port,
    bridges: tuple[str, ...] = (),
    *,
    channel: Channel,
) -> None:
    """The agent of this host, until cancelled. `folder`: its own notes are kept in `folder/agent/machines`.

    `channel` leads to the guests' agents. `bridges` are served from the start; others as soon as a machine with a card
    there comes. Raises HypervisorError when its notes cannot be read, or its port is taken.
    """
    leases, filters, memories = Bridges(bridges), firewall.Firewall(), FileMemories(folder / "agent" / "machines")
    history = History(folder / "agent" / "usage")
    sampler = Sampler(machine, time.time, history, read_host)
    guests = Guests(channel)
    segments = KernelSegments()
    agent = Agent(
        host, machine, leases, memories, server, sampler=sampler, guests=guests, filters=filters, segments=segments
    )
    for uuid, memory in (await memories.load()).items():
        if memory.placement is not None:
            filters.expect(uuid, cards_of(memory.placement.spec))
            segments.expect(uuid, segments_of(memory.placement.spec))
    answers = {**routes(machine), **usage_routes(history), **guest_routes(guests)}
    served = Served(agent.active, answers, agent.figures)
    try:
        async with listening(Listener(lambda _name: served), port.number, port.tls) as agent.port:
            log.info("agent listens", extra={"host": host, "port": agent.port})
            async with asyncio.TaskGroup() as group:
                # As long as the filter is missing the host is not Ready, so that nothing new is placed there.
                group.create_task(_keep("the guests' filter", filters, FIREWALL_SECONDS, agent.complain))
                group.create_task(_keep("the bridges of VLANs", segments, SEGMENT_SECONDS))
                group.create_task(_keep_logs(folder / "agent" / "consoles"))
                if port.gateway:
                    agent.gateway = await begin_gateway(group, agent, machine, admit, port)
                group.create_task(agent.run())
    finally:
        leases.close()
        history.close()


async def _keep_logs(folder: Path) -> None:
    """Keep what guests say on their serial lines within limits."""
    while True:
        await asyncio.to_thread(serial_log.trim_all, folder)
        await asyncio.sleep(serial_log.TRIM_SECONDS)


class _Kept(Protocol):
    """Something of the kernel's that is compared with the wish again and again."""

    async def settle(self) -> bool:
        """Mend it; whether there was anything to mend. HypervisorError: not done."""
        ...

    async def follow(self, seconds: float) -> None:
        """Wait for so many seconds, or do what is wished meanwhile."""
        ...


async def _keep(what: str, kept: _Kept, seconds: float, complain: Callable[[str], None] = lambda _why: None) -> None:
    """Look after it every so many seconds; `complain` is told why it is not as it should be, "" when it is."""
    complaint = ""
    while True:
        try:
            if await kept.settle():
                log.info("mended", extra={"what": what})
            complaint = ""
            complain(complaint)
            await kept.follow(seconds)
        except HypervisorError as error:
            if str(error) != complaint:
                log.warning("not as it should be; will retry", extra={"what": what, "detail": str(error)})
            complaint = str(error)
            complain(complaint)
            await asyncio.sleep(RETRY_SECONDS)


async def begin_gateway(
    group: asyncio.TaskGroup, agent: Agent, machine: Machine, admit: Admit, port: Port
) -> Gateway | None:
    """Let viewers in from now on; None, with a word in the log, when the port is taken."""
    assert port.viewers is not None
    doors = Doors(agent.placement_of, machine.screen, admit, port.viewers)
    try:
        server = await asyncio.start_server(doors.enter, None, port.gateway, backlog=64)
    except OSError as error:
        why = error.strerror or str(error)
        log.error("viewers cannot be let in", extra={"port": port.gateway, "detail": why})  # noqa: TRY400
        return None
    group.create_task(doors.serve(server))
    log.info("viewers are let in", extra={"port": port.gateway, "address": port.address})
    return Gateway(address=port.address, port=port.gateway)


class SimulatedHost:
    """A machine in memory with the disk of its agent; the agent may end and begin anew as often as one likes."""

    def __init__(self, name: str, traits: Traits = QUICK, seed: int = 0) -> None:
        self.name = name
        self.machine = SimulatedMachine(name, traits, seed)
        self.memories = KeptMemories()
        self.port = 0
        """TCP port on which its agent is to say that it listens."""
        self._agent: Agent | None = None

    async def run(self, server: Server, pace: Pace = USUAL) -> None:
        """Run its agent until cancelled; what it serves is over then, what runs goes on."""
        machine = self.machine
        self._agent = Agent(self.name, machine, machine.leases, self.memories, server, pace, segments=machine.segments)
        self._agent.port = self.port
        try:
            await self._agent.run()
        finally:
            self._agent = None
            self.machine.leases.forget_all()

    def served(self) -> Served:
        """What its agent answers the server."""
        return Served(self._active, {**routes(self.machine), **silent_routes()}, self._figures)

    def _figures(self) -> str:
        return self._agent.figures() if self._agent is not None else ""

    def _active(self, key: Key) -> Placement:
        if self._agent is None:
            raise NotFound(key.plural, key.name)
        return self._agent.active(key)


async def run_simulated_hosts(
    hosts: Mapping[str, SimulatedHost],
    store: Store,
    reports: Reports,
    reply: Callable[[str], ReportReply],
    tls: ssl.SSLContext,
) -> None:
    """The agents of simulated hosts (by uid), over the store itself, until cancelled. Whoever calls makes the objects.

    `reply`: what the report of a host is answered with, for its storage paths. `tls`: with a certificate that names
    every uid, since all of them listen on one port of this machine alone.
    """
    servers = LocalServers(store, reports, reply=reply)
    served = {uid: host.served() for uid, host in hosts.items()}
    try:
        async with listening(Listener(served.get), 0, tls, "127.0.0.1") as port, asyncio.TaskGroup() as group:
            for host in hosts.values():
                host.port = port
                host.machine.had(_disks_of(host.name, store))
                group.create_task(host.run(servers.of(host.name)))
    finally:
        servers.close()


def _disks_of(host: str, store: Store) -> Iterator[tuple[str, int]]:
    """File and size of each disk that the host had: a simulated one has them in memory, so they went with it."""
    for _, entry in store.list("placements"):
        if entry.row.host == host:
            placement = trusted(Placement, entry.raw)
            had = {volume.name for volume in placement.status.volumes}
            yield from ((one.file, int(one.size)) for one in placement.spec.volumes if one.name in had)
