"""The agent of one host: a worker for each machine, woken by the server's watch, the hypervisor's events and time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from nanovirt.agent.exposition import exposition
from nanovirt.agent.firewall import Filters, NoFilters
from nanovirt.agent.guests import Guests
from nanovirt.agent.holdings import files, folders, holdings, unclaimed
from nanovirt.agent.leases import Leases
from nanovirt.agent.machine import Machine
from nanovirt.agent.memory import Memories, Memory
from nanovirt.agent.removals import Removals
from nanovirt.agent.segments import NoSegments, Segments
from nanovirt.agent.server import Changed, Gone, Listed, News, Server
from nanovirt.agent.surroundings import Surroundings
from nanovirt.agent.usage import Sampler
from nanovirt.agent.worker import Worker
from nanovirt.resources.errors import Conflict, HypervisorError, NanoError, NotFound, Rejected, Stale
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import (
    LEASE_SECONDS,
    REPORT_SECONDS,
    Gateway,
    Holding,
    HostFacts,
    HostReport,
    ReportReply,
    Unclaimed,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    report: float = REPORT_SECONDS
    resync: float = 30.0
    """Between looks at everything, at most."""
    calm: float = 1.0
    """Between looks at everything, at least."""
    patience: float = 5.0
    """How long the server is waited for before memory is obeyed."""


USUAL = Pace()
DESCRIBED = 64
"""Of so many domains that nobody claims the report says what they are made of."""
UNFILTERED = NoFilters()
UNPLUGGED = NoSegments()


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds since 1970, and seconds that go on in suspend and never jump (the lease's)."""

    wall: Callable[[], float] = time.time
    lease: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)


class Agent:
    """Runs the machines of one host as its Placements say. Ending it changes nothing about what runs."""

    def __init__(
        self,
        host: str,
        machine: Machine,
        leases: Leases,
        memories: Memories,
        server: Server,
        pace: Pace = USUAL,
        clocks: Clocks = Clocks(),
        sampler: Sampler | None = None,
        guests: Guests | None = None,
        filters: Filters = UNFILTERED,
        segments: Segments = UNPLUGGED,
    ) -> None:
        self.lease_until = clocks.lease()
        """Until when (on the lease's clock) the server counts this host as alive."""
        self._around = Surroundings(
            host, machine, leases, memories, server, clocks.wall, filters, guests=guests, segments=segments
        )
        self.sampler = sampler or Sampler(machine, clocks.wall)
        self._pace = pace
        self._clocks = clocks
        self._workers: dict[str, Worker] = {}
        self._past: dict[str, Memory] = {}
        """Of machines that are gone: the epoch below which nothing is obeyed."""
        self._machine_of: dict[Key, str] = {}
        self._unclaimed: tuple[Unclaimed, ...] = ()
        self._counted = False
        """Whether they were looked for since it is known which machines are this host's own."""
        self._hold = ""
        """The restore of which the server told last."""
        self._asked = False
        """What is here is reported in full until that server has said which Placements there are."""
        self._asked_once = False
        self._removals = Removals(machine, self._files)
        self._facts = HostFacts()
        self._complaint = ""
        self.port = 0
        """TCP port on which the server reaches this agent; 0: on none."""
        self.gateway: Gateway | None = None
        self._paths: tuple[str, ...] = ()
        self._heard = True
        self._group = asyncio.TaskGroup()
        self._recount = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. HypervisorError if the memories cannot be read: it does not act without them."""
        memories = await self._around.memories.load()
        self._paths = folders(memories.values())
        await self._look()
        async with self._group as group:
            self._around.machine.on_change(self._changed)
            for uuid, memory in memories.items():
                self._worker(uuid, memory)
            group.create_task(self._watch())
            group.create_task(self._report())
            group.create_task(self.sampler.run())
            if self._around.guests is not None:
                group.create_task(self._around.guests.run())
            group.create_task(self._resync())
            group.create_task(self._removals.run())
            group.create_task(self._lose_patience())

    def active(self, key: Key) -> Placement:
        """The Placement as it is obeyed here. NotFound, or Conflict for one that is not Active or not the newest."""
        worker = self._workers.get(self._machine_of.get(key, ""))
        order = worker.orders.get(key) if worker is not None else None
        if worker is None or order is None:
            raise NotFound(key.plural, key.name)
        spec = order.wish.placement.spec
        if spec.role != "Active" or spec.epoch < worker.memory.epoch:
            raise Conflict(key.plural, key.name, f"it is {spec.role} at epoch {spec.epoch}, and not what counts here")
        return order.wish.placement

    def figures(self) -> str:
        """What the host and its machines use, for Prometheus."""
        names = {
            uuid: (key.namespace, order.wish.placement.spec.instance)
            for uuid, worker in self._workers.items()
            for key, order in worker.orders.items()
        }
        left = self.lease_until - self._clocks.lease()
        return exposition(self._around.host, names, self.sampler.latest, left)

    def placement_of(self, instance: Key) -> Placement | None:
        """The Placement that is obeyed here for an instance, if there is one."""
        for worker in self._workers.values():
            for key, order in worker.orders.items():
                if (key.namespace, order.wish.placement.spec.instance) == (instance.namespace, instance.name):
                    with suppress(Rejected, Stale):
                        return self.active(key)
        return None

    # --- workers ---

    def _worker(self, uuid: str, memory: Memory | None = None) -> Worker:
        found = self._workers.get(uuid)
        if found is None:
            found = self._workers[uuid] = Worker(uuid, self._around, memory or self._past.pop(uuid, Memory()))
            self._group.create_task(self._employ(found))
        return found

    async def _employ(self, worker: Worker) -> None:
        await worker.run()
        self._around.filters.expect(worker.uuid, ())
        self._around.segments.expect(worker.uuid, ())
        if self._workers.get(worker.uuid) is worker:
            del self._workers[worker.uuid]
            self.sampler.forget(worker.uuid)
            if worker.memory.epoch:
                self._past[worker.uuid] = worker.memory
        # An order that came with the end begins anew.
        for order in worker.orders.values():
            self._order(order.wish.placement)

    def _changed(self, uuid: str) -> None:
        if self._around.guests is not None:
            self._around.guests.heard(uuid)
        if uuid in self._workers:
            self._workers[uuid].wake()
        else:
            self._recount.set()

    def _wake_all(self) -> None:
        for worker in self._workers.values():
            worker.wake()

    # --- the server's word ---

    async def _watch(self) -> None:
        async with aclosing(self._around.server.placements()) as news:
            async for one in news:
                self._hear(one)

    def _hear(self, news: News) -> None:
        match news:
            case Listed(placements):
                self._listed(placements)
            case Changed(placement):
                self._order(placement)
            case Gone(key, uid):
                self._drop(key, uid)

    def _listed(self, placements: tuple[Placement, ...]) -> None:
        self._around.listed = True
        for placement in placements:
            self._order(placement, listed=True)
        there = {placement.key for placement in placements}
        for key in [key for key in self._machine_of if key not in there]:
            self._drop(key)
        self._recount.set()

    def _order(self, placement: Placement, *, listed: bool = False) -> None:
        uuid = placement.spec.domain.uuid
        self._machine_of[placement.key] = uuid
        self._worker(uuid).order(placement, listed=listed)

    def _drop(self, key: Key, uid: str = "") -> None:
        worker = self._workers.get(self._machine_of.get(key, ""))
        if worker is not None:
            worker.drop(key, uid)
        if worker is None or key not in worker.orders:
            self._machine_of.pop(key, None)

    async def _lose_patience(self) -> None:
        """The server is away: what it said last is obeyed. No other host could run a machine whose disks are here."""
        await asyncio.sleep(self._pace.patience)
        if self._around.listed:
            return
        log.warning("server is away; the remembered placements are obeyed", extra={"host": self._around.host})
        for worker in tuple(self._workers.values()):
            if worker.memory.placement is not None and not worker.orders:
                self._order(worker.memory.placement)

    # --- the host ---

    async def _look(self) -> None:
        """Take the facts; a bridge that came or went may let machines start, or not."""
        self._facts = await self._around.machine.facts(self._paths)
        bridges = frozenset(self._facts.bridges)
        if bridges != self._around.bridges or self._facts.boot_id != self._around.boot_id:
            self._around.bridges, self._around.boot_id = bridges, self._facts.boot_id
            self._wake_all()

    async def _report(self) -> None:
        sequence = 0
        while True:
            await self._look()
            self._around.leases.refresh()
            self._notice_leases()
            sequence += 1
            held = await self._holdings() if self._asked or self._asked_once else None
            report = HostReport(
                sequence=sequence,
                facts=self._told(),
                unclaimed=self._unclaimed,
                usage=self.sampler.latest,
                holdings=held,
                removals=self._removals.told,
            )
            await self._send(report)
            await asyncio.sleep(self._pace.report)

    def complain(self, complaint: str) -> None:
        """Report this as the host's trouble until it is "" again."""
        self._complaint = complaint

    def _told(self) -> HostFacts:
        trouble = self._facts.hypervisor_error or self._complaint
        return self._facts.model_copy(update={"port": self.port, "gateway": self.gateway, "hypervisor_error": trouble})

    def _notice_leases(self) -> None:
        for uuid, worker in self._workers.items():
            if worker.leased != self._around.leases.leased(uuid):
                worker.wake()

    async def _send(self, report: HostReport) -> None:
        """Renew the lease: it runs from the moment of sending, since the answer may have waited on its way."""
        sent = self._clocks.lease()
        try:
            reply = await self._around.server.report(report)
        except NanoError as error:
            self._not_heard(error)
            return
        if not self._heard:
            log.info("server answers again", extra={"host": self._around.host})
        self._heard = True
        self.lease_until = sent + (reply.lease_seconds or LEASE_SECONDS)
        self._asked_once = reply.holdings
        self._notice_hold(reply)
        self._removals.ask(reply.doomed)
        if self._paths != reply.storage_paths:
            self._paths = reply.storage_paths
            await self._look()
            self._wake_all()

    def _files(self) -> frozenset[str] | None:
        """What machines of this host have, strange ones among them; None while that is not known of all."""
        if not (self._around.listed and self._counted) or any(one.facts is None for one in self._unclaimed):
            return None
        made = [worker.memory.placement for worker in self._workers.values()]
        made += [one.wish.placement for worker in self._workers.values() for one in worker.orders.values()]
        return files([one for one in made if one is not None], self._unclaimed)

    def _notice_hold(self, reply: ReportReply) -> None:
        """A restored server knows less than this host: what it said before it was lost goes on being obeyed."""
        if reply.hold and reply.hold != self._hold:
            log.warning("server was restored; tells nothing before it has heard all", extra={"host": self._around.host})
            self._hold, self._asked, self._around.listed, self._counted = reply.hold, True, False, False

    async def _holdings(self) -> tuple[Holding, ...] | None:
        """Every machine of which something is here; None when the hypervisor does not say."""
        try:
            domains = await self._around.machine.domains()
        except HypervisorError as error:
            log.warning("domains cannot be listed; will retry", extra={"detail": str(error)})
            return None
        return holdings(domains, self._notes())

    def _not_heard(self, error: NanoError) -> None:
        if self._heard:
            log.warning(
                "server does not answer; machines run on", extra={"host": self._around.host, "detail": str(error)}
            )
        self._heard = False

    async def _resync(self) -> None:
        """Look at everything now and then, since every event may be lost."""
        while True:
            self._recount.clear()
            try:
                await self._count_unclaimed()
            except HypervisorError as error:
                log.warning("domains cannot be listed; will retry", extra={"detail": str(error)})
            self._wake_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.resync):
                    await self._recount.wait()
            await asyncio.sleep(self._pace.calm)

    async def _count_unclaimed(self) -> None:
        if not self._around.listed:
            return
        domains = await self._around.machine.domains()
        claimed = {uuid for uuid, worker in self._workers.items() if worker.orders}
        strangers = [domain for uuid, domain in sorted(domains.items()) if uuid not in claimed]
        facts = {one.uuid: await self._around.machine.describe(one.uuid) for one in strangers[:DESCRIBED]}
        self._unclaimed = unclaimed(strangers, self._notes(), facts)
        self._asked, self._counted = False, True

    def _notes(self) -> dict[str, Memory]:
        """What is remembered of machines, by their uuids; of some nothing else is left."""
        return self._past | {uuid: worker.memory for uuid, worker in self._workers.items()}
