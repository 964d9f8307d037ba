"""Hosts and servers that vanish and come back, on hosts without metal: nothing is stopped, freed or started twice."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanovirt.agent.simulated_traits import Traits
from nanovirt.resources.client import Client
from nanovirt.resources.errors import AlreadyExists, StoreUnreachable
from nanovirt.resources.kind import Key
from nanovirt.resources.report import lost_after
from tests.e2e.server_process import PATIENT, running_server
from tests.e2e.simulated_agent import SimulatedAgent, starts, until_nothing_is_left, with_agents
from tests.e2e.waiting import (
    addresses,
    condition,
    instance,
    instance_key,
    phase,
    quiet,
    run,
    until,
    until_all,
    until_gone,
    until_gone_named,
    until_ready,
)

pytestmark = pytest.mark.timeout(300)


async def test_order_to_restart_is_carried_out_once(tmp_path: Path) -> None:
    async with with_agents(tmp_path, "node-1") as (server, agents, client):
        uid = (await run(client, "web"))["metadata"]["uid"]
        at = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        await client.patch(instance_key("web"), {"spec": {"restart": {"at": at, "mode": "Hard"}}})
        async with asyncio.timeout(60):
            while starts(agents)[uid] < 2:
                await asyncio.sleep(0.05)
        await until_ready(client, instance_key("web"))
        server.kill()
        await agents["node-1"].end()
        await server.restart()
        agents["node-1"].begin()
        await client.patch(instance_key("web"), {"spec": {"displayName": "Web"}})
        await quiet(client)
        assert phase(await client.get(instance_key("web"))) == "Running"
        assert starts(agents)[uid] == 2


async def test_unreachable_host_makes_unknown_frees_nothing_and_comes_back(tmp_path: Path) -> None:
    async with with_agents(tmp_path, "node-1", "node-2") as (_, agents, client):
        first = await run(client, "one", scheduling={"host": "node-1"})
        await run(client, "two", scheduling={"host": "node-2"})
        kinds = ("placements", "addresses", "volumes")
        before = {kind: {one["metadata"]["uid"] for one in (await client.list(kind))[0]} for kind in kinds}
        await agents["node-1"].end()
        await until(client, instance_key("one"), "Unknown")
        ready = condition(await client.get(instance_key("one")))
        assert (ready["status"], ready["reason"], ready["params"]) == ("Unknown", "HostUnreachable", {"host": "node-1"})
        assert condition(await client.get(Key("hosts", "", "node-1")))["reason"] == "LeaseExpired"
        assert phase(await client.get(instance_key("two"))) == "Running"
        assert (await run(client, "three"))["status"]["host"] == "node-2"
        await client.delete(instance_key("three"))
        await until_gone_named(client, "three")
        assert {kind: {one["metadata"]["uid"] for one in (await client.list(kind))[0]} for kind in kinds} == before
        agents["node-1"].begin()
        again = await until(client, instance_key("one"), "Running")
        assert again["status"]["addresses"] == first["status"]["addresses"]
        assert set(starts(agents).values()) == {1}


async def test_host_that_vanishes_during_a_deletion_frees_nothing_until_it_is_back(tmp_path: Path) -> None:
    async with with_agents(tmp_path, "node-1", "node-2") as (_, agents, client):
        await run(client, "web", scheduling={"host": "node-1"})
        node = agents["node-1"]
        node.machine.faults.refuse["remove_volume"] = 1_000_000
        await client.delete(instance_key("web"))
        await until(client, instance_key("web"), "Deleting")
        while node.machine.faults.refuse["remove_volume"] == 1_000_000:
            await asyncio.sleep(0.02)
        await node.end()
        await until_ready(client, Key("hosts", "", "node-1"), "Unknown")
        await asyncio.sleep(1)
        ready = condition(await client.get(instance_key("web")))
        assert (ready["status"], ready["reason"]) == ("Unknown", "HostUnreachable")
        for plural in ("instances", "placements", "volumes", "addresses"):
            assert len((await client.list(plural))[0]) == 1, plural
        node.machine.faults.refuse.clear()
        node.begin()
        for plural in ("instances", "placements", "volumes", "addresses"):
            await until_gone(client, plural)
        await until_nothing_is_left(agents)


async def test_host_that_vanished_before_the_deletion_carries_it_out_when_it_is_back(tmp_path: Path) -> None:
    async with with_agents(tmp_path, "node-1") as (server, agents, client):
        await run(client, "web")
        await agents["node-1"].end()
        await client.delete(instance_key("web"))
        server.kill()
        await server.restart()
        await quiet(client)
        assert phase(await client.get(instance_key("web"))) == "Deleting"
        assert await agents["node-1"].domains() == ["default.web"]
        agents["node-1"].begin()
        await until_gone(client, "instances")
        await until_nothing_is_left(agents)


@pytest.mark.long
async def test_server_that_is_away_stops_nothing(tmp_path: Path) -> None:
    async with with_agents(tmp_path, "node-1") as (server, agents, client):
        await run(client, "web")
        server.kill()
        await asyncio.sleep(2)
        await agents["node-1"].end()
        agents["node-1"].begin()
        await asyncio.sleep(lost_after())
        await server.restart()
        await until_ready(client, Key("hosts", "", "node-1"))
        await until(client, instance_key("web"), "Running")
        assert set(starts(agents).values()) == {1}


async def test_batch_survives_kill_9_of_the_server_in_its_middle(tmp_path: Path) -> None:
    names = [f"b-{number}" for number in range(100)]
    traits = Traits(start_seconds=0.2, boot_seconds=(0.1, 2.0))
    async with with_agents(tmp_path, "node-1", "node-2", "node-3", "node-4", traits=traits) as (server, agents, client):
        async with asyncio.TaskGroup() as group:
            group.create_task(post(client, names))
            for wanted in (20, 60):
                await until_count(client, wanted)
                server.kill()
                await server.restart()
        found = await until_all(client, names, "Running")
        assert len(set(addresses(found))) == 100
        assert sorted(starts(agents)) == sorted(doc["metadata"]["uid"] for doc in found.values())
        assert set(starts(agents).values()) == {1}
        held, _ = await client.list("addresses")
        assert sorted(one["spec"]["ip"] for one in held) == sorted(addresses(found))
        await check_nothing_is_left(client, agents, names)


async def post(client: Client, names: list[str]) -> None:
    """Create all of them, whatever happens to the server meanwhile."""
    for name in names:
        while True:
            try:
                await client.create(instance(name))
                break
            except AlreadyExists:
                break
            except StoreUnreachable:
                await asyncio.sleep(0.2)


async def until_count(client: Client, wanted: int) -> None:
    """Return once so many instances have an address."""
    deadline = time.monotonic() + PATIENT
    while len((await client.list("addresses"))[0]) < wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def check_nothing_is_left(client: Client, agents: dict[str, SimulatedAgent], names: list[str]) -> None:
    """Delete all of them; then neither the store nor a host has anything of them."""
    for name in names:
        await client.delete(instance_key(name))
    for plural in ("instances", "placements", "volumes", "addresses"):
        await until_gone(client, plural)
    await until_nothing_is_left(agents)


def test_told_to_end_it_ends_cleanly_and_starts_again(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", "--simulated-hosts", "1") as server:
        assert server.stop() == 0
        server.start()
        assert server.stop() == 0
        assert "Traceback" not in server.said()
