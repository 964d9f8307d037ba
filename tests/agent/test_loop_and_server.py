"""What an agent does with its server: away, restored or mistaken, and what it tells and asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest

from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.report import LEASE_SECONDS, HostFacts
from nanovirt.resources.store import Create, Delete, transact
from tests.agent.placements import FILE, MAC, UUID, at, placement, uuid
from tests.agent.stories import KEY, in_cluster, running
from tests.simulation.cluster import Cluster
from tests.simulation.virtual_time import now


@in_cluster
async def test_server_that_lost_its_objects_stops_nothing(made: Cluster) -> None:
    await running(made)
    made.lines["node-1"].cut()
    await asyncio.sleep(30)
    await made.delete(KEY)
    await made.finalize(KEY)
    made.lines["node-1"].mend()
    await asyncio.sleep(60)
    machine = made.hosts["node-1"].machine
    domain = await machine.domain(UUID)
    assert domain is not None
    assert domain.state == "Running"
    assert machine.leases.served(UUID) != ()
    heard = made.reports.heard("node-1")
    assert heard is not None
    assert [one.uuid for one in heard.report.unclaimed] == [UUID]


@in_cluster
async def test_server_away_changes_nothing_and_is_told_afterwards(made: Cluster) -> None:
    await running(made)
    made.lines["node-1"].cut()
    await asyncio.sleep(3600)
    made.hosts["node-1"].machine.crash(UUID)
    await asyncio.sleep(60)
    assert made.hosts["node-1"].machine.starts[UUID] == 2
    assert made.read(KEY).status.started == 1
    made.lines["node-1"].mend()
    await made.until(lambda: made.read(KEY).status.started == 2)


@in_cluster
async def test_agent_that_starts_without_a_server_serves_addresses_at_once(made: Cluster) -> None:
    await running(made)
    await made.kill()
    made.lines["node-1"].cut()
    machine = made.hosts["node-1"].machine
    assert machine.leases.served(UUID) == ()
    made.agent()
    await asyncio.sleep(0.5)
    assert machine.leases.ask(UUID, MAC, 7)
    await asyncio.sleep(600)
    assert machine.starts[UUID] == 1


@in_cluster
async def test_agent_without_a_server_asks_its_machine_about_the_folders_of_its_disks(made: Cluster) -> None:
    await running(made)
    await made.kill()
    made.lines["node-1"].cut()
    machine, asked = made.hosts["node-1"].machine, set[tuple[str, ...]]()

    async def facts(paths: Sequence[str] = ()) -> HostFacts:
        asked.add(tuple(paths))
        return await type(machine).facts(machine, paths)

    machine.facts = facts  # type: ignore[method-assign]
    made.agent()
    await asyncio.sleep(10)
    assert asked == {(str(PurePosixPath(FILE).parent),)}


@in_cluster
async def test_host_that_boots_without_a_server_starts_what_should_run(made: Cluster) -> None:
    await running(made)
    await made.put(placement(2, power_state="Stopped"))
    await made.until_state(placement(2).key, "Stopped")
    await made.kill()
    made.lines["node-1"].cut()
    machine = made.hosts["node-1"].machine
    machine.reboot()
    made.agent()
    await asyncio.sleep(20)
    assert machine.starts[UUID] == 2
    assert machine.starts[uuid(2)] == 0


@in_cluster
async def test_host_that_boots_asks_the_server_before_it_starts_anything(made: Cluster) -> None:
    await running(made)
    await made.kill()
    made.hosts["node-1"].machine.reboot()
    await made.put(placement(power_state="Stopped"))
    made.agent()
    await asyncio.sleep(60)
    assert made.hosts["node-1"].machine.starts[UUID] == 1


@in_cluster
async def test_lease_runs_from_the_moment_of_sending(made: Cluster) -> None:
    made.agent()
    made.lines["node-1"].slow = 1.5
    await asyncio.sleep(0)
    began = now()
    await asyncio.sleep(2.0)
    assert made.agents["node-1"].lease_until == pytest.approx(began + LEASE_SECONDS, abs=0.1)


@in_cluster
async def test_report_comes_every_two_seconds(made: Cluster) -> None:
    made.agent()
    await asyncio.sleep(21)
    heard = made.reports.heard("node-1")
    assert heard is not None
    assert heard.report.sequence == 11
    assert heard.report.facts.accelerator == "simulated"
    assert heard.report.facts.capacity.cpus == 32


@in_cluster
async def test_machine_that_comes_back_to_its_host_is_not_killed_by_its_old_placement(made: Cluster) -> None:
    await running(made)
    await made.put(placement(role="Revoked"))
    await made.put(placement(epoch=2))
    await made.until_state(placement(epoch=2).key, "Running")
    await made.until(lambda: made.read(KEY).status.released)
    await asyncio.sleep(60)
    domain = await made.hosts["node-1"].machine.domain(UUID)
    assert domain is not None
    assert domain.state == "Running"


@in_cluster
async def test_revoked_machine_is_never_started_again_at_its_old_epoch(made: Cluster) -> None:
    made.agent()
    newer = await made.put(placement(epoch=2))
    await made.until_state(newer.key, "Running")
    await made.put(placement(epoch=2, role="Revoked"))
    await made.until(lambda: made.read(newer.key).status.released)
    await made.delete(newer.key)
    await made.finalize(newer.key)
    await asyncio.sleep(1)
    await made.put(placement(epoch=1))  # as a server would say that went back in time
    await asyncio.sleep(60)
    assert made.hosts["node-1"].machine.starts[UUID] == 1
    assert made.read(KEY).status.state == ""


@in_cluster
async def test_restored_server_hears_all_and_says_nothing_until_it_is_let_go(made: Cluster) -> None:
    await made.desk()
    await running(made)
    forgotten = await made.put(placement(2))
    await made.until_state(forgotten.key, "Running")
    line, machine = made.lines["node-1"], made.hosts["node-1"].machine
    line.cut()
    await made.delete(forgotten.key)
    await made.finalize(forgotten.key)
    await made.put(placement(power_state="Stopped"))
    hold = Hold(metadata=ObjectMeta(name=HOLD.name), spec=HoldSpec(revision=1, restored=at(0)))
    await transact(made.store, [Create(HOLD, hold.to_json())], "test")
    line.mend()
    await asyncio.sleep(60)
    told = made.reports.heard("node-1")
    assert told is not None
    said = {one.name: one for one in told.report.holdings or ()}
    assert {name: (one.state, one.epoch) for name, one in said.items()} == {
        "default.web-1": ("Running", 1), "default.web-2": ("Running", 1),
    }  # fmt: skip
    assert (said["default.web-2"].nics[0].ip, said["default.web-1"].nics[0].mac) == ("10.20.0.2", MAC)
    await made.kill()
    made.agent()
    await asyncio.sleep(60)
    told = made.reports.heard("node-1")
    assert told is not None
    assert {one.name for one in told.report.holdings or ()} == set(said)
    assert [domain.state for domain in (await machine.domains()).values()] == ["Running", "Running"]
    await transact(made.store, [Delete(HOLD)], "test")
    await made.until_state(KEY, "Stopped")
    await asyncio.sleep(60)
    told = made.reports.heard("node-1")
    assert told is not None
    assert told.report.holdings is None
    assert [(one.name, one.nics[0].ip) for one in told.report.unclaimed] == [("default.web-2", "10.20.0.2")]
    assert sorted(machine.starts.values()) == [1, 1]


@in_cluster
async def test_host_says_once_what_it_holds_when_it_is_asked(made: Cluster) -> None:
    desk = await made.desk()
    await running(made)
    heard = (await desk.holdings(["node-1"], 6.0))["node-1"]
    assert [one.name for one in heard.holdings or ()] == ["default.web-1"]
    await asyncio.sleep(5)
    told = made.reports.heard("node-1")
    assert told is not None
    assert told.report.holdings is None
