"""What real machines survive: libvirtd, agent or server dead, a host without power or cable, no room anywhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from nanovirt.resources.report import lost_after
from tests.e2e.cluster import BLANK, HELD, Cluster, instance, instance_key, placement_of, real_cluster, run
from tests.e2e.looking import (
    Answer,
    address,
    answer,
    because,
    in_phase,
    is_off,
    is_ready,
    look,
    names,
    ready,
    runs,
    until,
    until_answers,
    until_gone,
)
from tests.e2e.processes import Agent
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)

LEASE = 20
"""Seconds: guests renew every ten."""
MACHINES = {"one": "h1", "two": "h2"}


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """Two hosts with a machine each, which the tests leave running."""
    with real_cluster(mini_guest, lease=LEASE) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        if not await names(client, "instances"):
            for name, host in MACHINES.items():
                await client.create(instance(name, scheduling={"host": host}))
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def answering(client: Client, name: str) -> Answer:
    """What the machine says once it runs."""
    doc = await until(client, instance_key(name), runs)
    return await until_answers(address(doc))


async def held(client: Client) -> dict[str, list[str]]:
    """The names of all that belongs to instances."""
    return {plural: await names(client, plural) for plural in HELD}


def host_key(name: str) -> Key:
    """Where a host stands."""
    return Key("hosts", "", name)


async def delete(client: Client, *doomed: str) -> None:
    """Delete instances and wait until they are gone."""
    for name in doomed:
        await client.delete(instance_key(name))
    for name in doomed:
        await until_gone(client, instance_key(name))


async def test_libvirtd_that_restarts_or_dies_stops_no_guest(cluster: Cluster, client: Client) -> None:
    agent, libvirtd = cluster.agents["h1"], cluster.bed.hosts[0].libvirtd
    before, process = await answering(client, "one"), agent.runs("default.one")
    libvirtd.restart()
    await run(client, "new", "h1")
    libvirtd.kill()
    down = await until(client, host_key("h1"), because("HypervisorDown", "False"))
    assert "libvirt" in ready(down)["params"]["detail"]
    await client.delete(instance_key("new"))
    libvirtd.start()
    await until(client, host_key("h1"), is_ready)
    await until_gone(client, instance_key("new"))
    assert (await answering(client, "one")).boot_id == before.boot_id
    assert agent.runs("default.one") == process
    assert agent.domains() == ["default.one"]
    assert (await placement_of(client, "one"))["status"]["started"] == 1


async def test_agent_that_ends_or_dies_stops_no_guest(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    before = await answering(client, "one")
    steps = agent.steps("default.one")
    agent.kill()
    agent.start()
    await until(client, host_key("h1"), is_ready)
    await run(client, "new", "h1")
    assert agent.stop() == 0
    await client.delete(instance_key("new"))
    agent.start()
    await until_gone(client, instance_key("new"))
    assert (await answering(client, "one")).boot_id == before.boot_id
    after = agent.steps("default.one")[len(steps) :]
    assert set(after) <= {"Serve", "Remember"}, after
    assert (await placement_of(client, "one"))["status"]["started"] == 1


async def test_server_that_is_away_stops_no_guest_and_no_renewal(cluster: Cluster, client: Client) -> None:
    before = {name: await answering(client, name) for name in MACHINES}
    docs = {name: await client.get(instance_key(name)) for name in MACHINES}
    objects = [untold(await placement_of(client, name)) for name in MACHINES]
    cluster.server.kill()
    renewed = {name: renewals(cluster, doc) for name, doc in docs.items()}
    await asyncio.sleep(lost_after() + 1)
    for name, doc in docs.items():
        await look(name, lambda doc=doc: seen(cluster, doc), lambda count, name=name: count >= renewed[name] + 2)  # type: ignore[misc]
        assert (await until_answers(address(doc))).boot_id == before[name].boot_id
    await cluster.restart_server()
    for name, host in MACHINES.items():
        await until(client, host_key(host), is_ready)
        assert (await answering(client, name)).boot_id == before[name].boot_id
    assert [untold(await placement_of(client, name)) for name in MACHINES] == objects


def untold(placement: JSON) -> JSON:
    """A Placement without what its guest tells of itself, which may come and change at any moment."""
    metadata = {name: value for name, value in placement["metadata"].items() if name != "resourceVersion"}
    status = {name: value for name, value in placement["status"].items() if name not in ("guest", "volumes")}
    return {**placement, "metadata": metadata, "status": status}


async def seen(cluster: Cluster, doc: JSON) -> int:
    """How often the guest has renewed its lease."""
    return renewals(cluster, doc)


def renewals(cluster: Cluster, doc: JSON) -> int:
    """How often the guest says that it has renewed its lease."""
    agent = cluster.agents[doc["status"]["host"]]
    return agent.console(doc["metadata"]["uid"]).count(f"lease {LEASE} renew")


async def test_cut_off_host_is_unknown_frees_nothing_and_comes_back(cluster: Cluster, client: Client) -> None:
    host = cluster.bed.hosts[0]
    before, doc = await answering(client, "one"), await client.get(instance_key("one"))
    objects, whole = await held(client), untold(await placement_of(client, "one"))
    host.link_down()
    try:
        lost = await until(client, instance_key("one"), in_phase("Unknown"))
        assert (ready(lost)["status"], ready(lost)["reason"]) == ("Unknown", "HostUnreachable")
        assert ready(lost)["params"] == {"host": "h1"}
        assert lost["status"]["addresses"] == doc["status"]["addresses"]
        assert await held(client) == objects
        assert (await run(client, "new"))["status"]["host"] == "h2"
        await delete(client, "new")
        assert await held(client) == objects
        assert await answer(address(doc), 1) is None
    finally:
        host.link_up()
    await until(client, host_key("h1"), is_ready)
    assert (await answering(client, "one")).boot_id == before.boot_id
    assert untold(await placement_of(client, "one")) == whole


async def test_disabled_host_takes_nothing_new_and_keeps_what_it_has(cluster: Cluster, client: Client) -> None:
    process = cluster.agents["h1"].runs("default.one")
    await client.patch(host_key("h1"), {"spec": {"enabled": False}})
    await client.create(instance("pinned", disks=BLANK, scheduling={"host": "h1"}))
    refused = await until(client, instance_key("pinned"), because("NoHostFits"))
    assert "h1: disabled" in ready(refused)["params"]["hosts"]
    assert (await run(client, "new"))["status"]["host"] == "h2"
    assert runs(await client.get(instance_key("one")))
    await client.patch(host_key("h1"), {"spec": {"enabled": True}})
    placed = await until(client, instance_key("pinned"), runs)
    assert placed["status"]["host"] == "h1"
    assert cluster.agents["h1"].runs("default.one") == process
    await delete(client, "pinned", "new")


async def test_full_pool_says_of_each_host_why(client: Client) -> None:
    objects = await held(client)
    await client.create(instance("huge", disks=BLANK, memory="4Ti"))
    refused = await until(client, instance_key("huge"), because("NoHostFits"))
    said = dict(part.split(": ", 1) for part in ready(refused)["params"]["hosts"].split("; "))
    assert sorted(said) == ["h1", "h2"]
    assert all(why.endswith("of the asked 4Ti memory is free") for why in said.values()), said
    assert {**await held(client), "instances": objects["instances"]} == objects
    await client.patch(instance_key("huge"), {"spec": {"memory": "160Mi"}})
    await until(client, instance_key("huge"), runs)
    await delete(client, "huge")


async def test_host_that_boots_without_the_server_starts_what_should_run(cluster: Cluster, client: Client) -> None:
    host, agent = cluster.bed.hosts[0], cluster.agents["h1"]
    before, doc = await answering(client, "one"), await client.get(instance_key("one"))
    other = await answering(client, "two")
    await client.create(instance("off", disks=BLANK, powerState="Stopped", scheduling={"host": "h1"}))
    await until(client, instance_key("off"), is_off)
    cluster.server.kill()
    host.reboot()
    agent.start()
    after = await until_answers(address(doc))
    assert after.boot_id != before.boot_id
    assert agent.runs("default.off") == 0
    await cluster.restart_server()
    await until(client, host_key("h1"), is_ready)
    assert (await answering(client, "one")).boot_id == after.boot_id
    assert (await answering(client, "two")).boot_id == other.boot_id
    placement = await until(client, (await key_of_placement(client, "one")), lambda one: one["status"]["started"] == 2)
    assert (placement["spec"]["epoch"], placement["status"]["state"]) == (1, "Running")
    assert is_off(await client.get(instance_key("off")))
    assert agent.runs("default.off") == 0
    await delete(client, "off")


async def key_of_placement(client: Client, name: str) -> Key:
    """Where the Placement of an instance stands."""
    return Key("placements", "default", (await client.get(instance_key(name)))["status"]["placement"])


async def test_host_that_vanishes_during_a_deletion_frees_nothing_until_it_is_back(
    cluster: Cluster, client: Client
) -> None:
    host, agent = cluster.bed.hosts[1], cluster.agents["h2"]
    doomed = await run(client, "doomed", "h2")
    objects = await held(client)
    agent.set_trap("default.doomed", "Destroy", 1, agent.pid)
    await client.delete(instance_key("doomed"))
    await vanished(agent)
    host.crash()
    lost = await until(client, instance_key("doomed"), because("HostUnreachable", "Unknown"))
    assert lost["status"]["phase"] == "Deleting"
    assert lost["status"]["addresses"] == doomed["status"]["addresses"]
    assert await held(client) == objects
    assert [file.name for file in agent.volumes.iterdir() if doomed["metadata"]["uid"] in file.name]
    host.boot()
    agent.start()
    await until_gone(client, instance_key("doomed"))
    assert agent.domains() == ["default.two"]
    assert not [one for one in agent.leftovers() if doomed["metadata"]["uid"] in one]
    assert not [name for found in (await held(client)).values() for name in found if "doomed" in name]
    await until(client, instance_key("two"), runs)
    await delete(client, *MACHINES)
    await cluster.until_empty()


async def vanished(agent: Agent) -> None:
    """Return once the trap has killed the agent."""

    async def sprung() -> bool:
        return agent.sprung

    await look("trap", sprung, bool)
    agent.wait()
