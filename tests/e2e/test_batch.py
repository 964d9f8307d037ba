"""A thousand instances asked for by one client, on a hundred simulated hosts, until a watcher has seen them all run."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.kind import Key
from tests.e2e.server_process import running_server
from tests.e2e.waiting import instance, phase, until_ready

COUNT, HOSTS = 1000, 100
SLOWEST = 200.0
"""Seconds; the goal is 2 (performance.md 9), and a machine that does a hundred other things may take its time."""


@pytest.mark.timeout(400)
async def test_thousand_instances_run_on_a_hundred_hosts(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", "--simulated-hosts", str(HOSTS)) as server:
        await asyncio.to_thread(server.make_image)
        async with server.client() as client, server.client() as watcher:
            for number in (1, HOSTS):
                await until_ready(client, Key("hosts", "", f"sim-{number}"))
            names = [f"b-{number}" for number in range(COUNT)]
            _, revision = await client.list("instances")
            worked, began = server.cpu_seconds(), time.perf_counter()
            async with asyncio.timeout(SLOWEST), asyncio.TaskGroup() as group:
                seen = group.create_task(see_running(watcher, revision))
                for name in names:
                    await client.create(instance(name))
                posted = time.perf_counter() - began
            running = time.perf_counter() - began
            worked = server.cpu_seconds() - worked
            ips = seen.result()
            assert set(ips) == set(names)
            assert len(set(ips.values())) == COUNT
            await check_the_store_agrees(client, ips)
    figures = f"POSTs {posted:.2f} s, all Running {running:.2f} s (goal 2 s), processor time {worked:.2f} s"
    print(f"\n{COUNT} {figures} of the server, load {os.getloadavg()[0]:.1f}")  # noqa: T201 - the figure


async def see_running(client: Client, revision: str) -> dict[str, str]:
    """The address of each instance as the watch tells of it, once all run."""
    ips: dict[str, str] = {}
    async with aclosing(client.watch("instances", "default", revision)) as events:
        async for event in events:
            if phase(event.object) == "Running":
                ips[event.object["metadata"]["name"]] = event.object["status"]["addresses"][0]["ip"]
                if len(ips) == COUNT:
                    return ips
    raise AssertionError("the watch ended")


async def check_the_store_agrees(client: Client, ips: dict[str, str]) -> None:
    """Each address stands there once, and the hosts share the load."""
    held, _ = await client.list("addresses")
    assert sorted(one["spec"]["ip"] for one in held) == sorted(ips.values())
    placed, _ = await client.list("placements")
    count = [sum(one["spec"]["host"] == f"sim-{number}" for one in placed) for number in range(1, HOSTS + 1)]
    assert max(count) - min(count) <= 1
