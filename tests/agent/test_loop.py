"""The agent of a simulated host over a real store, in virtual time."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from pathlib import PurePosixPath
from typing import Any

import pytest

from nanovirt.agent import seed
from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.simulated_traits import Traits
from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.report import LEASE_SECONDS, HostFacts
from nanovirt.resources.store import Create, Delete, transact
from tests.agent.placements import FILE, MAC, REMOVE, UUID, at, placement, restart, uuid, volume
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import now, run_virtually

KEY = placement().key
Story = Callable[[Cluster], Coroutine[Any, Any, None]]


def in_cluster(story: Story) -> Callable[[], None]:
    """A test that is given a running cluster."""

    async def told() -> None:
        async with cluster() as made:
            await story(made)

    @functools.wraps(story, assigned=("__name__", "__doc__", "__module__"), updated=())
    def test() -> None:
        run_virtually(told())

    del test.__wrapped__  # else pytest looks for a fixture `made`
    return test


async def running(made: Cluster, **changes: Any) -> None:
    made.agent()
    await made.put(placement(**changes))
    await made.until_state(KEY, "Running")


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
async def test_foreign_domain_is_reported_and_left_alone(made: Cluster) -> None:
    made.host().machine.add_foreign(SeenDomain(uuid(99), "router", "Running", run="x"))
    await running(made)
    await asyncio.sleep(5)
    heard = made.reports.heard("node-1")
    assert heard is not None
    assert [(one.name, one.state) for one in heard.report.unclaimed] == [("router", "Running")]


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
async def test_refused_start_is_told_and_tried_again(made: Cluster) -> None:
    made.host().machine.faults.refuse["start"] = 3
    made.agent()
    await made.put(placement())
    status = await made.until_state(KEY, "Failed")
    assert status.reason == "HypervisorRefused"
    assert "refused start" in status.params["detail"]
    assert (await made.until_state(KEY, "Running", 20)).started == 1


@in_cluster
async def test_start_that_was_refused_is_tried_at_once_when_something_else_is_wished(made: Cluster) -> None:
    faults = made.host().machine.faults
    faults.refuse["start"] = 100
    made.agent()
    await made.put(placement())
    await made.until_state(KEY, "Failed")
    await asyncio.sleep(310)
    faults.refuse["start"] = 0
    with pytest.raises(TimeoutError):
        await made.until_state(KEY, "Running", 5)
    await made.put(placement(memory="512Mi"))
    await made.until_state(KEY, "Running", 5)


@in_cluster
async def test_full_disk_is_told_and_heals(made: Cluster) -> None:
    machine = made.host().machine
    machine.images.add("ab" * 32)
    machine.faults.full = True
    made.agent()
    await made.put(placement())
    assert (await made.until_state(KEY, "Failed")).reason == "DiskFull"
    machine.faults.full = False
    await made.until_state(KEY, "Running", 70)
    assert list(machine.files) == [FILE]


@in_cluster
async def test_failing_machine_does_not_hold_up_another(made: Cluster) -> None:
    machine = made.host().machine

    async def broken(uuid: str) -> SeenDomain | None:
        if uuid == UUID:
            raise RuntimeError("a bug")
        return await type(machine).domain(machine, uuid)

    machine.domain = broken  # type: ignore[method-assign]
    made.agent()
    await made.put(placement())
    await made.put(placement(2))
    await made.until_state(placement(2).key, "Running", 1)
    del machine.domain
    await made.until_state(KEY, "Running", 70)


@in_cluster
async def test_hypervisor_that_is_away_is_said_in_the_report_and_nothing_is_guessed(made: Cluster) -> None:
    await running(made)
    machine = made.hosts["node-1"].machine
    machine.faults.away = True
    await asyncio.sleep(310)
    assert made.read(KEY).status.state == "Running"
    heard = made.reports.heard("node-1")
    assert heard is not None
    assert heard.report.facts.hypervisor_error
    machine.faults.away = False
    machine.crash(UUID)
    await made.until(lambda: made.read(KEY).status.started == 2)


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


def test_image_that_does_not_come_is_told_and_fetched_later() -> None:
    async def story() -> None:
        content = b"an image"
        disk = volume().model_dump(mode="json", by_alias=True)
        disk["source"] = {"image": "tiny", "sha256": hashlib.sha256(content).hexdigest()}
        async with cluster(Traits(verify=True)) as made:
            made.agent()
            await made.put(placement(volumes=[disk]))
            status = await made.until_state(KEY, "Preparing")
            assert (status.reason, status.params["image"]) == ("ImageFetchFailed", "tiny")
            made.lines["node-1"].images["system"] = b"something else"
            await made.until(lambda: "hash differs" in made.read(KEY).status.params["detail"])
            made.lines["node-1"].images["system"] = content
            await made.until_state(KEY, "Running")

    run_virtually(story())


def test_image_that_takes_long_is_told_meanwhile_and_fetched_once_for_all() -> None:
    async def story() -> None:
        async with cluster(Traits(image_seconds=30)) as made:
            made.agent()
            keys = [(await made.put(placement(number))).key for number in range(1, 6)]
            for key in keys:
                await made.until_state(key, "Preparing", 1)
            assert await made.until(lambda: all(made.read(key).status.state == "Running" for key in keys)) < 31

    run_virtually(story())


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


# --- the seed ---


@in_cluster
async def test_seed_is_made_at_the_first_start_and_again_only_when_what_it_says_has_changed(made: Cluster) -> None:
    await running(made)
    machine = made.hosts["node-1"].machine
    assert machine.seeds == {UUID: seed.digest(placement().spec)}
    machine.faults.refuse["make_seed"] = 1
    await made.put(placement(power_state="Stopped"))
    await made.until_state(KEY, "Stopped", 1)
    await made.put(placement())
    await made.until_state(KEY, "Running", 1)
    assert machine.faults.refuse["make_seed"] == 1, "nobody asked for another one"


@in_cluster
async def test_changed_secret_makes_another_seed_at_the_next_start_and_not_before(made: Cluster) -> None:
    await running(made)
    machine = made.hosts["node-1"].machine
    told: dict[str, Any] = {"guest": {"admin": "root", "password": {"name": "login", "mark": "new"}}}
    await made.put(placement(**told))
    await asyncio.sleep(60)
    assert machine.seeds == {UUID: seed.digest(placement().spec)}
    await made.put(placement(restart=restart(5), **told))
    await made.until(lambda: machine.starts[UUID] == 2, 10)
    assert machine.seeds == {UUID: seed.digest(placement(**told).spec)}


@in_cluster
async def test_seed_that_cannot_be_made_holds_the_start_up_and_is_told(made: Cluster) -> None:
    made.agent()
    made.hosts["node-1"].machine.faults.refuse["make_seed"] = 3
    await made.put(placement())
    await made.until(lambda: made.read(KEY).status.reason == "HypervisorRefused", 10)
    assert made.hosts["node-1"].machine.starts.total() == 0
    await made.until_state(KEY, "Running", 30)
