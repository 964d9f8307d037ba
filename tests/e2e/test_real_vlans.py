"""VLANs on two real hosts: machines of one reach each other through the trunk, and nobody else sees or reaches them.

One cluster for all, and the tests follow each other: the last ones take the machines away.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from tests.e2e.cluster import BLANK, GUEST, Cluster, instance, instance_key, placement_of, real_cluster
from tests.e2e.looking import BOOT, address, answer, look, runs, until, until_gone
from tests.e2e.processes import Agent
from tests.testbed import Host, leftovers

pytestmark = pytest.mark.timeout(600)

VLAN, OTHER = 40, 50
SUBNET, FIRST, LAST = "10.78.0.0/24", "10.78.0.11", "10.78.0.20"
MACHINES = {
    "one": {"scheduling": {"host": "h1"}, "nics": [{"name": "lan", "addressPool": "tagged"}]},
    "two": {"scheduling": {"host": "h2"}, "nics": [{"name": "lan", "addressPool": "tagged"}]},
    "other": {
        "scheduling": {"host": "h1"},
        "nics": [{"name": "lan", "network": "default", "vlan": OTHER}],
        "disks": BLANK,
    },
    "plain": {"scheduling": {"host": "h1"}, "nics": [{"name": "lan", "network": "default"}], "disks": BLANK},
}


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """Two guests of one VLAN on two hosts; on the first host a machine of another VLAN and one of none."""
    with real_cluster(mini_guest, hosts=2) as cluster:
        asyncio.run(fill(cluster))
        yield cluster
    assert leftovers() == []


async def fill(cluster: Cluster) -> None:
    """Make the pool and the machines, and wait until they run."""
    ranges = [{"name": "all", "first": FIRST, "last": LAST}]
    pool = {"network": "default", "vlan": VLAN, "subnet": SUBNET, "ranges": ranges}
    async with cluster.client() as client:
        await client.create(
            {"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": "tagged"}, "spec": pool}
        )
        for name, spec in MACHINES.items():
            await client.create(instance(name, **GUEST | spec))
        for name in MACHINES:
            await until(client, instance_key(name), runs)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def found(client: Client, name: str) -> JSON:
    """A machine, once it has its lease."""
    return await until(client, instance_key(name), lambda doc: bool(doc["status"].get("addresses")))


def in_guest(agent: Agent, name: str, *argv: str) -> str | None:
    """What a program in the guest says; None when it fails, or the guest's agent is not there yet."""

    def ask(command: str, **arguments: object) -> JSON:
        text = json.dumps({"execute": command, "arguments": arguments})
        said = agent.virsh("qemu-agent-command", "--timeout", "10", f"default.{name}", text)
        return dict(json.loads(said)["return"])

    try:
        arguments = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        pid = ask("guest-exec", **arguments)["pid"]
        while not (done := ask("guest-exec-status", pid=pid))["exited"]:
            pass
    except AssertionError:
        return None
    return base64.b64decode(done.get("out-data", "")).decode() if done.get("exitcode") == 0 else None


async def reaches(agent: Agent, name: str, ip: str) -> None:
    """Return once that guest, which may still be on its way, has had the longest of frames answered from there."""

    async def ask() -> str | None:
        return await asyncio.to_thread(in_guest, agent, name, "/bin/ping", "-c", "1", "-W", "3", "-s", "1472", ip)

    await look(f"{ip} as {name} sees it", ask, lambda said: said is not None, BOOT)


@contextmanager
def heard(host: Host, device: str, *words: str) -> Iterator[list[str]]:
    """The frames that pass a device meanwhile, a line for each, once the block has ended."""
    argv = host.inside(["tcpdump", "-n", "-e", "-l", "--immediate-mode", "-i", device, *words])
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            while "listening on" not in process.stderr.readline():
                assert process.poll() is None
            yield lines
        finally:
            process.terminate()
            lines += filter(None, process.stdout.read().splitlines() if process.stdout else ())


def plugged(tap: str, bridge: str, seen: dict[str, str]) -> bool:
    """Whether the device is a port of that bridge."""
    return seen[tap] == bridge


def devices(agent: Agent) -> dict[str, str]:
    """The network devices of a host, each with its master."""
    shown = json.loads(agent.host.run(["ip", "-j", "link", "show"]).stdout)
    return {one["ifname"]: one.get("master", "") for one in shown}


async def mac_of(client: Client, name: str) -> str:
    """Of its only card, which has an address of ours or not."""
    return str((await placement_of(client, name))["spec"]["nics"][0]["mac"])


async def taps(client: Client, agent: Agent) -> dict[str, str]:
    """The devices of the first host's machines, by the machine's name."""
    macs = {(await mac_of(client, name)).replace(":", ""): name for name in MACHINES}
    return {macs[name[3:]]: name for name in devices(agent) if name[3:] in macs}


async def test_guests_of_one_vlan_reach_each_other_through_the_trunk(cluster: Cluster, client: Client) -> None:
    """They have their addresses by DHCP, and on the cable between the hosts their frames bear the tag."""
    agent = cluster.agents["h1"]
    one, two = await found(client, "one"), await found(client, "two")
    assert {address(one), address(two)} == {FIRST, "10.78.0.12"}
    await reaches(agent, "one", address(two))
    with heard(agent.host, "up0", "ether", "host", await mac_of(client, "one")) as frames:
        await reaches(agent, "one", address(two))
    assert any("ICMP echo request" in frame for frame in frames)
    assert all(f"vlan {VLAN}," in frame for frame in frames), frames


async def test_host_has_a_bridge_for_each_vlan_with_its_machines_in_it(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    held = {name: devices(agent)[tap] for name, tap in (await taps(client, agent)).items()}
    assert held == {"one": "br0.40", "other": "br0.50", "plain": "br0"}
    assert devices(agent)["up0.40"] == "br0.40"


async def test_nobody_outside_the_vlan_sees_its_frames_or_is_answered(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    one, two = await found(client, "one"), await found(client, "two")
    devices_of, mac = await taps(client, agent), await mac_of(client, "one")
    client_node = cluster.bed.client
    client_node.run(["ip", "address", "add", "10.78.0.99/24", "dev", "eth0"])
    try:
        with (
            heard(agent.host, devices_of["other"], "ether", "host", mac) as first,
            heard(agent.host, devices_of["plain"], "ether", "host", mac) as second,
            heard(agent.host, "br0", "ether", "host", mac) as bridge,
            heard(agent.host, devices_of["one"], "ether", "host", mac) as own,
        ):
            in_guest(agent, "one", "/bin/arping", "-c", "2", "-I", "eth0", "10.78.0.77")  # heard by all in the VLAN
            await reaches(agent, "one", address(two))
            assert await answer(address(one), 1.5) is None
        assert own
        assert (first, second, bridge) == ([], [], [])
    finally:
        client_node.run(["ip", "address", "del", "10.78.0.99/24", "dev", "eth0"])


async def test_host_itself_takes_no_part_in_the_vlan(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    assert agent.host.run(["ip", "-brief", "address", "show", "br0.40"]).stdout.split()[2:] == []
    words = ("/bin/arping", "-c", "1", "-w", "2", "-I", "eth0")
    assert in_guest(agent, "one", *words, address(await found(client, "two"))) is not None
    assert in_guest(agent, "one", *words, agent.host.address) is None


async def test_segment_outlives_the_agent_and_is_mended(cluster: Cluster, client: Client) -> None:
    """One that was killed changes nothing; a device that somebody removed is there again."""
    agent = cluster.agents["h1"]
    before = devices(agent)
    agent.kill()
    assert devices(agent) == before
    agent.host.run([Path(__file__).parents[1] / "testbed/bin/ip", "-batch", "-"], stdin="link del dev up0.40\n")
    agent.start()

    async def there() -> dict[str, str]:
        return devices(agent)

    await look("devices", there, lambda seen: seen == before)
    await reaches(agent, "one", address(await found(client, "two")))


async def test_card_changes_its_vlan_while_its_machine_runs(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    tap = (await taps(client, agent))["plain"]

    async def there() -> dict[str, str]:
        return devices(agent)

    for vlan, bridge in ((60, "br0.60"), (0, "br0")):
        card = {"name": "lan", "network": "default", "vlan": vlan}
        await client.patch(instance_key("plain"), {"spec": {"nics": [card]}})
        await look("devices", there, partial(plugged, tap, bridge))
    await look("devices", there, lambda seen: not {"br0.60", "up0.60"} & set(seen))
    assert agent.starts("default.plain") == 1


async def test_segment_goes_with_its_last_machine(cluster: Cluster, client: Client) -> None:
    agent = cluster.agents["h1"]
    await client.delete(instance_key("other"))
    await until_gone(client, instance_key("other"))

    async def there() -> dict[str, str]:
        return devices(agent)

    left = await look("devices", there, lambda seen: "br0.50" not in seen)
    assert "up0.50" not in left
    assert left["up0.40"] == "br0.40"
    for name in ("one", "two"):
        await client.delete(instance_key(name))
    await look("devices", there, lambda seen: not {"br0.40", "up0.40"} & set(seen))
