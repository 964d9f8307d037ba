"""What a start waits for, and what is told when something of it is refused: disk, image, seed, hypervisor."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from nanovirt.agent import seed
from nanovirt.agent.machine import SeenDomain
from nanovirt.agent.simulated_traits import Traits
from tests.agent.placements import FILE, UUID, placement, restart, volume
from tests.agent.stories import KEY, in_cluster, running
from tests.simulation.cluster import Cluster, cluster
from tests.simulation.virtual_time import run_virtually


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
