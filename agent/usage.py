"""From what libvirt has counted of each machine to what it uses in a second, and the task that asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from nanovirt.agent.history import History
from nanovirt.agent.machine import Counters, Machine
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.usage import Usage, UsageReport, reported

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 2.0
TICKS = 100
"""Of /proc/stat in a second (USER_HZ, which is the same everywhere)."""


class HostCounters(NamedTuple):
    """Seconds that processors were busy since boot, and bytes of memory that are taken now."""

    busy: float
    taken: float


def rates(before: Counters, after: Counters, seconds: float) -> Usage:
    """What was used between two looks. A counter that went back belongs to another run, and counts from nothing."""

    def per_second(name: str) -> float:
        then, now = getattr(before, name), getattr(after, name)
        return float(now - then if now >= then else now) / seconds

    return Usage(
        cpu=per_second("cpu_ns") / 1e9,
        memory=float(after.memory),
        disk_read=per_second("disk_read"),
        disk_write=per_second("disk_write"),
        disk_reads=per_second("disk_reads"),
        disk_writes=per_second("disk_writes"),
        net_in=per_second("net_in"),
        net_out=per_second("net_out"),
    )


def host_counters(stat: str, meminfo: str) -> HostCounters:
    """From /proc/stat and /proc/meminfo. Idle and waiting for a disk are not busy; a guest's time is in user's."""
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, stat.splitlines()[0].split()[1:])
    fields = dict(line.split(":", 1) for line in meminfo.splitlines())
    total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return HostCounters((user + nice + system + irq + softirq + steal) / TICKS, float(total - free))


def read_host(proc: Path = Path("/proc")) -> HostCounters:
    """Of this machine, now."""
    stat = (proc / "stat").read_text(encoding="ascii", errors="replace")
    return host_counters(stat, (proc / "meminfo").read_text(encoding="ascii", errors="replace"))


class Sampler:
    """Keeps `latest` up to date and writes the history, until cancelled; ask `history` for what was."""

    def __init__(
        self,
        machine: Machine,
        wall: Callable[[], float],
        history: History | None = None,
        host: Callable[[], HostCounters] = lambda: HostCounters(0.0, 0.0),
    ) -> None:
        """`wall`: seconds since 1970. Without a history only the latest figures are known."""
        self.latest = UsageReport()
        self.history = history
        self._machine, self._wall, self._host = machine, wall, host
        self._before: Mapping[str, Counters] = {}
        self._host_before: HostCounters | None = None
        self._at = 0.0
        self._silent = False

    async def run(self) -> None:
        """Sample every two seconds, on time however long a look takes."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.sample()
            due = max(due + SAMPLE_SECONDS, loop.time() + SAMPLE_SECONDS / 2)
            await asyncio.sleep(due - loop.time())

    async def sample(self) -> None:
        """One look at all machines; when the hypervisor does not answer nothing is known, and nothing is guessed."""
        try:
            found = await self._machine.counters()
        except HypervisorError as error:
            self._complain("usage is not known; will retry", error)
            self._before, self.latest = {}, UsageReport()
            return
        now = asyncio.get_running_loop().time()
        host, seconds = self._host(), now - self._at
        used = {
            uuid: rates(self._before[uuid], counters, seconds)
            for uuid, counters in found.items()
            if uuid in self._before and seconds > 0
        }
        busy = max(0.0, host.busy - self._host_before.busy) / seconds if self._host_before and seconds > 0 else 0.0
        self.latest = reported(used, busy, host.taken)
        self._before, self._host_before, self._at = found, host, now
        try:
            if self.history is not None and used:
                await asyncio.to_thread(self.history.add, self._wall(), used)
            self._silent = False
        except HypervisorError as error:
            self._complain("usage is not kept; will retry", error)

    def _complain(self, what: str, error: HypervisorError) -> None:
        """Once, and not every two seconds."""
        if not self._silent:
            log.warning(what, extra={"detail": str(error)})
        self._silent = True

    def forget(self, uuid: str) -> None:
        """The machine is gone for good, and so is its history."""
        if self.history is not None:
            self.history.forget(uuid)
