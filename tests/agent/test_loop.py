"""The agent of a simulated host over a real store, in virtual time."""

from __future__ import annotations

import asyncio

from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.simulated_traits import Traits
from tests.agent.placements import REMOVE, UUID, at, placement, restart, uuid
from tests.agent.stories import KEY, in_cluster, running
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import run_virtually


@in_cluster
async def test_placement_becomes_a_running_machine_with_an_address(made: Cluster) -> None:
    await running(made)
    status = made.read(KEY).status
    assert (status.started, status.epoch, status.applied_generation, status.reason) == (1, 1, 1, "")
    assert status.awaiting == ()
    assert status.nics[0].leased
    assert status.volumes[0].name == "system"


@in_cluster
async def test_creation_is_told_in_one_write(made: Cluster) -> None:
    await running(made)
    await asyncio.sleep(600)
    assert made.lines["node-1"].writes == 1


@in_cluster
async def test_placement_of_another_host_is_none_of_ours(made: Cluster) -> None:
    made.agent()
    await made.put(placement(host="node-2"))
    await asyncio.sleep(60)
    assert made.hosts["node-1"].machine.starts.total() == 0


@in_cluster
async def test_placements_that_were_there_before_the_agent_are_carried_out(made: Cluster) -> None:
    await made.put(placement())
    made.agent()
    await made.until_state(KEY, "Running", 1)


@in_cluster
async def test_stop_and_start(made: Cluster) -> None:
    await running(made)
    await made.put(placement(power_state="Stopped"))
    assert (await made.until_state(KEY, "Stopped", 1)).reason == "StoppedAsDesired"
    await made.put(placement())
    assert (await made.until_state(KEY, "Running", 1)).started == 2


@in_cluster
async def test_deaf_guest_is_stopped_when_its_grace_is_over(made: Cluster) -> None:
    await running(made)
    made.hosts["node-1"].machine.faults.deaf.add(UUID)
    await made.put(placement(power_state="Stopped", stop_grace_seconds=60))
    await made.until_state(KEY, "Stopping", 1)
    took = await made.until(lambda: made.read(KEY).status.state == "Stopped")
    assert 59 < took < 62


@in_cluster
async def test_restart_is_told_with_its_time(made: Cluster) -> None:
    await running(made)
    await made.put(placement(restart=restart(5)))
    await made.until(lambda: made.read(KEY).status.restarted_at == at(5), 1)
    await made.until_state(KEY, "Running", 1)
    assert made.hosts["node-1"].machine.starts[UUID] == 2


@in_cluster
async def test_crashed_machine_runs_again_at_once(made: Cluster) -> None:
    await running(made)
    made.hosts["node-1"].machine.crash(UUID)
    took = await made.until(lambda: made.read(KEY).status.started == 2)
    assert took < 1


@in_cluster
async def test_lost_event_is_made_up_for(made: Cluster) -> None:
    await running(made)
    machine = made.hosts["node-1"].machine
    machine.on_change(lambda _uuid: None)
    machine.crash(UUID)
    took = await made.until(lambda: made.read(KEY).status.started == 2)
    assert took < 35


@in_cluster
async def test_machine_that_keeps_crashing_is_given_up_and_started_by_hand(made: Cluster) -> None:
    await running(made)
    for _ in range(4):
        await asyncio.sleep(5)
        made.hosts["node-1"].machine.crash(UUID)
    status = await made.until_state(KEY, "Failed")
    assert (status.reason, status.params) == ("RestartBudgetSpent", {"count": 4, "minutes": 10})
    await asyncio.sleep(3600)
    assert made.read(KEY).status.state == "Failed"
    await made.put(placement(restart=restart(9)))
    await made.until_state(KEY, "Running", 1)


@in_cluster
async def test_guest_that_shuts_down_is_respected(made: Cluster) -> None:
    await running(made)
    made.hosts["node-1"].machine.crash(UUID, "Shutdown")
    assert (await made.until_state(KEY, "Stopped")).reason == "GuestShutdown"
    await made.kill()
    made.hosts["node-1"].machine.reboot()
    made.agent()
    await asyncio.sleep(120)
    assert made.read(KEY).status.reason == "GuestShutdown"


@in_cluster
async def test_agent_tells_prometheus_of_its_machines_by_the_names_of_their_instances(made: Cluster) -> None:
    await running(made)
    await asyncio.sleep(10)
    lines = made.agents["node-1"].figures().splitlines()
    assert any(
        line.startswith('nano_instance_memory_bytes{namespace="default",instance="web-1",host="node-1"} ')
        for line in lines
    )
    assert 'nano_host_machines{host="node-1"} 1.0' in lines
    (lease,) = [line for line in lines if line.startswith("nano_agent_lease_seconds")]
    assert 0 < float(lease.rpartition(" ")[2]) <= 10


@in_cluster
async def test_last_of_many_quick_changes_wins(made: Cluster) -> None:
    await running(made)
    for cpus in range(3, 30):
        await made.put(placement(cpu=cpus, power_state="Running" if cpus % 2 else "Stopped"))
    await made.put(placement(cpu=7, power_state="Stopped"))
    await made.until(lambda: made.read(KEY).status.applied_generation == made.read(KEY).metadata.generation, 150)
    assert made.read(KEY).status.state == "Stopped"
    await made.put(placement(cpu=7))
    status = await made.until_state(KEY, "Running")
    domain = await made.hosts["node-1"].machine.domain(UUID)
    assert domain is not None
    assert (status.awaiting, domain.cpu) == ((), 7)


@in_cluster
async def test_deletion_leaves_nothing_and_is_told_before_the_placement_goes(made: Cluster) -> None:
    await running(made)
    await made.put(placement(operations=[REMOVE]))
    await made.delete(KEY)
    await made.until(lambda: made.read(KEY).status.released, 1)
    assert made.read(KEY).status.operations[0].state == "Succeeded"
    machine = made.hosts["node-1"].machine
    assert await machine.domains() == {}
    assert machine.files == {}
    assert machine.leases.served(UUID) == ()
    await made.finalize(KEY)
    await asyncio.sleep(1)
    assert made.hosts["node-1"].memories.kept == {}
    assert made.agents["node-1"]._workers == {}


@in_cluster
async def test_namesake_that_comes_at_once_is_another_machine(made: Cluster) -> None:
    await running(made)
    await made.put(placement(operations=[REMOVE]))
    await made.delete(KEY)
    await made.until(lambda: made.read(KEY).status.released, 1)
    await made.finalize(KEY)
    again = placement(2, instance="web-1", uid="33333333-3333-4333-8333-000000000001")
    again = again.model_copy(update={"metadata": again.metadata.model_copy(update={"name": KEY.name})})
    await made.put(again)
    status = await made.until_state(KEY, "Running")
    assert not status.released
    assert made.hosts["node-1"].machine.starts[uuid(2)] == 1


@in_cluster
async def test_foreign_domain_is_reported_and_left_alone(made: Cluster) -> None:
    made.host().machine.add_foreign(SeenDomain(uuid(99), "router", "Running", run="x"))
    await running(made)
    await asyncio.sleep(5)
    heard = made.reports.heard("node-1")
    assert heard is not None
    assert [(one.name, one.state) for one in heard.report.unclaimed] == [("router", "Running")]


@in_cluster
async def test_agent_restart_does_not_touch_what_runs(made: Cluster) -> None:
    await running(made)
    before = await made.hosts["node-1"].machine.domain(UUID)
    writes = made.lines["node-1"].writes
    for _ in range(5):
        await made.kill()
        made.agent()
        await asyncio.sleep(40)
    assert await made.hosts["node-1"].machine.domain(UUID) == before
    assert made.lines["node-1"].writes == writes


@in_cluster
async def test_kill_of_the_agent_at_any_moment_of_a_batch_starts_nothing_twice(made: Cluster) -> None:
    made.agent()
    keys = [(await made.put(placement(number))).key for number in range(1, 11)]
    for moment in range(1, 20):
        await asyncio.sleep(moment / 1000)
        await made.kill()
        made.agent()
    for key in keys:
        await made.until_state(key, "Running")
    assert set(made.hosts["node-1"].machine.starts.values()) == {1}


def test_lease_is_told_when_the_guest_has_booted() -> None:
    async def story() -> None:
        async with cluster(Traits(boot_seconds=(20, 20))) as made:
            await running(made)
            assert not made.read(KEY).status.nics[0].leased
            took = await made.until(lambda: made.read(KEY).status.nics[0].leased)
            assert 19 < took < 22

    run_virtually(story())


def test_lease_is_noticed_without_an_event() -> None:
    async def story() -> None:
        async with cluster(Traits(boot_seconds=(20, 20))) as made:
            await running(made)
            made.hosts["node-1"].machine.on_change(lambda _uuid: None)
            took = await made.until(lambda: made.read(KEY).status.nics[0].leased)
            assert 19 < took < 23

    run_virtually(story())
