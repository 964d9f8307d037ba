"""Real machines from their making to their end, on two hosts: what they are told, how they stop, what is left."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.cluster import HELD, Cluster, instance, instance_key, placement_of, real_cluster
from tests.e2e.looking import BOOT, address, is_off, look, names, runs, until, until_answers, until_gone
from tests.e2e.processes import Agent
from tests.testbed import leftovers

pytestmark = pytest.mark.timeout(600)

MACHINES = {"one": "h1", "two": "h2", "uefi": "h2"}
STRANGER = """
<domain type='qemu'>
  <name>stranger</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """Two hosts; the tests share three machines, the last of them deletes two."""
    with real_cluster(mini_guest) as cluster:
        yield cluster
    assert leftovers() == []


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator."""
    async with cluster.client() as client:
        yield client
        print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def machine(client: Client, name: str) -> JSON:
    """The instance of that name, which runs and answers; made if this is the first test that wants it."""
    key = instance_key(name)
    if name not in await names(client, "instances"):
        for one, host in MACHINES.items():  # all at once, since they boot side by side
            more = {"systemTemplate": "linux", "memory": "512Mi"} if one == "uefi" else {}
            await client.create(instance(one, scheduling={"host": host}, **more))
    doc = await until(client, key, runs)
    await until_answers(address(doc))
    return doc


def agent_of(cluster: Cluster, doc: JSON) -> Agent:
    """The agent of the host where an instance is."""
    return cluster.agents[doc["status"]["host"]]


@pytest.mark.parametrize("name", MACHINES)
async def test_machine_has_the_address_and_is_told_what_the_pool_says(
    cluster: Cluster, client: Client, name: str
) -> None:
    doc = await machine(client, name)
    assert doc["status"]["host"] == MACHINES[name]
    ip, uid = address(doc), doc["metadata"]["uid"]
    said = await until_answers(ip)
    assert said.hostname == name
    cluster.bed.client.run(["ping", "-c", "1", "-w", "20", ip])
    told = f"nano-guest: eth0 {ip}/16 gw 10.77.0.1 dns 10.77.0.3 hostname {name} lease 3600 bound"
    assert told in agent_of(cluster, doc).console(uid)
    card = {"name": "nic0", "mac": doc["status"]["addresses"][0]["mac"], "ip": ip}
    key = Key("placements", "default", doc["status"]["placement"])
    placement = await until(client, key, lambda one: one["status"]["nics"] == [{**card, "leased": True}])
    assert placement["status"]["started"] == 1


async def test_machine_stops_by_its_power_button_and_starts_again(cluster: Cluster, client: Client) -> None:
    doc = await machine(client, "one")
    agent, uid = agent_of(cluster, doc), doc["metadata"]["uid"]
    await booted(agent, uid)
    await client.patch(instance_key("one"), {"spec": {"powerState": "Stopped"}})
    off = await until(client, instance_key("one"), is_off)
    assert off["status"]["addresses"] == doc["status"]["addresses"]
    assert agent.runs("default.one") == 0
    assert "shutdown" in agent.virsh("domstate", "default.one", "--reason")  # and not "destroyed"
    assert "Destroy" not in agent.steps("default.one")

    await client.patch(instance_key("one"), {"spec": {"powerState": "Running"}})
    again = await until(client, instance_key("one"), runs)
    assert again["status"]["addresses"] == doc["status"]["addresses"]
    assert agent.runs("default.one")  # it boots while the next test does something else
    assert (await placement_of(client, "one"))["status"]["started"] == 2


async def test_order_to_restart_changes_the_boot_id_exactly_once(cluster: Cluster, client: Client) -> None:
    doc = await machine(client, "two")
    agent, uid = agent_of(cluster, doc), doc["metadata"]["uid"]
    before = await until_answers(address(doc))
    await booted(agent, uid)
    steps, boots = agent.steps("default.two"), agent.console(uid).count("nano-guest: ready")
    started = (await placement_of(client, "two"))["status"]["started"]
    starts = steps.count("Start") + 1
    order = {"spec": {"restart": {"at": now(), "mode": "Graceful"}}}
    await client.patch(instance_key("two"), order)
    await until(
        client, instance_key("two"), lambda one: runs(one) and agent.steps("default.two").count("Start") == starts, BOOT
    )
    after = await until_answers(address(doc), lambda said: said.boot_id != before.boot_id)
    done = " ".join(agent.steps("default.two")[len(steps) :])
    asked = r"Remember( ShutDown)+( Remember( ShutDown)+)*"  # as often as it takes
    assert re.fullmatch(rf"{asked}( Remember)+ Start( Remember)+", done), done

    await client.patch(instance_key("two"), order)  # the same one
    agent.kill()
    agent.start()
    await client.patch(instance_key("two"), {"spec": {"displayName": "Two"}})
    await until(client, instance_key("two"), runs)
    assert (await until_answers(address(doc))).boot_id == after.boot_id
    assert (await placement_of(client, "two"))["status"]["started"] == started + 1
    assert agent.console(uid).count("nano-guest: ready") <= boots + 1


async def test_domain_of_somebody_else_is_reported_and_left_alone(cluster: Cluster, client: Client) -> None:
    agent, host = cluster.agents["h1"], Key("hosts", "", "h1")
    file = agent.folder / "stranger.xml"
    file.write_text(STRANGER)
    agent.virsh("define", str(file))
    agent.virsh("start", "stranger", "--paused")
    before = agent.virsh("dumpxml", "stranger")
    await until(client, host, lambda doc: doc["status"].get("unclaimed") == ["stranger"])
    agent.kill()
    agent.start()
    await until(client, host, lambda doc: doc["status"].get("unclaimed") == ["stranger"])
    assert agent.virsh("dumpxml", "stranger") == before
    agent.virsh("destroy", "stranger")
    agent.virsh("undefine", "stranger")
    await until(client, host, lambda doc: not doc["status"].get("unclaimed"))


async def test_deleted_machines_leave_nothing(cluster: Cluster, client: Client) -> None:
    docs = [await machine(client, name) for name in reversed(MACHINES)]
    for doc in docs:
        assert any(doc["metadata"]["uid"] in one for one in cluster.leftovers())
    for name in MACHINES:
        await client.delete(instance_key(name))
    for name in MACHINES:
        await until_gone(client, instance_key(name))
    await cluster.until_empty()
    assert [await names(client, plural) for plural in HELD] == [[]] * len(HELD)
    pool = await until(client, Key("addresspools", "", "bed"), lambda doc: doc["status"]["used"] == 0)
    assert pool["status"]["free"] == pool["status"]["total"]
    assert cluster.bed.client.run(["ping", "-c", "1", "-W", "1", address(docs[0])], check=False).returncode != 0


async def booted(agent: Agent, uid: str) -> None:
    """Return once the guest hears its power button."""

    async def console() -> str:
        return agent.console(uid)

    await look("guest", console, lambda text: "nano-guest: ready" in text, BOOT)


def now() -> str:
    """As the API writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
