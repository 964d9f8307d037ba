"""A thousand machines on a hundred simulated hosts in one process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from nanovirt.agent.local_server import LocalServers
from nanovirt.agent.loop import USUAL, Agent, Clocks
from nanovirt.agent.main import SimulatedHost
from nanovirt.agent.simulated_traits import Traits
from nanovirt.resources.codec import trusted
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.store import Create, Entry
from tests.agent.placements import placement
from tests.simulation.cluster import cluster
from tests.simulation.virtual_time import now, run_virtually

HOSTS, MACHINES = 100, 1000
CPU_SECONDS = 6.0
"""Goal: below 1 s on a quiet processor; this only notices when something grew out of proportion."""

log = logging.getLogger(__name__)


@pytest.mark.parametrize("boot_seconds", [0.0, 20.0])
def test_thousand_machines_run_each_started_once_and_told_briefly(boot_seconds: float) -> None:
    async def story() -> None:
        async with cluster() as made, asyncio.TaskGroup() as group:
            servers = LocalServers(made.store, made.reports, now)
            hosts = [SimulatedHost(f"node-{number}", Traits(boot_seconds=(0, boot_seconds))) for number in range(HOSTS)]
            agents = [
                Agent(host.name, host.machine, host.machine.leases, host.memories, servers.of(host.name), USUAL,
                      Clocks(now, now))
                for host in hosts
            ]  # fmt: skip
            tasks = [group.create_task(agent.run()) for agent in agents]
            await asyncio.sleep(1)
            before, used = made.store.committed, time.process_time()
            for number in range(1, MACHINES + 1):
                one = placement(number, host=f"node-{number % HOSTS}")
                made.store.stage([Create(one.key, one.to_json())], "test")
            await made.until(lambda: _states(made.store.list("placements")) == {"Running": MACHINES}, 10)
            used = time.process_time() - used
            log.info("thousand machines run", extra={"cpu_seconds": round(used, 3)})
            await asyncio.sleep(60)
            statuses = [trusted(Placement, entry.raw).status for _, entry in made.store.list("placements")]
            assert all(status.nics[0].leased for status in statuses)
            assert len({status.nics[0].ip for status in statuses}) == MACHINES
            assert Counter(starts for host in hosts for starts in host.machine.starts.values()) == {1: MACHINES}
            most = 2 if boot_seconds == 0 else 3  # created, told as running, and told that its lease was taken
            assert made.store.committed - before <= most * MACHINES
            assert used < CPU_SECONDS
            for task in tasks:
                task.cancel()

    run_virtually(story())


def _states(entries: Sequence[tuple[Key, Entry]]) -> Counter[str]:
    return Counter(entry.row.status_state for _, entry in entries)
