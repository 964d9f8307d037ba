"""The whole loop over TLS on hosts without metal: manifests in, running machines out, and no room."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanovirt.agent.simulation import BLACK_PIXEL
from nanovirt.resources.client import Client, key_of, path_of
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Conflict, Invalid, NotFound
from nanovirt.resources.kind import Key
from tests.e2e.looking import look
from tests.e2e.server_process import MANIFESTS, ServerProcess, running_server
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
    until_ready,
    until_reason,
)

pytestmark = pytest.mark.timeout(300)

EXAMPLES = sorted(path.name for path in (MANIFESTS / "examples").iterdir())
POOLS = ["storage-pool.yaml", "address-pool.yaml", "compute-pool.yaml"]
BEFORE = {
    "compute-pool.yaml": POOLS[:2],
    "host.yaml": POOLS,
    "instance-small.yaml": ["image-upload.yaml"],
    "instance-set.yaml": ["image-upload.yaml"],
    "instance-windows.yaml": ["image-windows.yaml"],
    "instance.yaml": [
        "namespace.yaml",
        *POOLS,
        "image-upload.yaml",
        "image-media.yaml",
        "secret.yaml",
        "security-group.yaml",
        "host.yaml",
    ],
    "secret.yaml": ["namespace.yaml"],
    "security-group.yaml": ["namespace.yaml"],
    "group.yaml": ["namespace.yaml", "user.yaml", "role.yaml"],
}
"""What an example refers to: apply refuses what is neither there nor in the set."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with three simulated hosts in its own process, and the image of the demonstration."""
    with running_server(tmp_path_factory.mktemp("cluster") / "data", "--simulated-hosts", "3") as server:
        server.make_image()
        yield server


@pytest.fixture
async def client(cluster: ServerProcess) -> AsyncIterator[Client]:
    """A client of that cluster, which each test leaves without instances; what the server says shows with a failure."""
    async with cluster.client() as client:
        yield client
        for item in (await client.list("instances"))[0]:
            await delete(client, key_of(item))
        await until_gone(client, "instances")
    print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure


async def delete(client: Client, key: Key) -> None:
    """Ask for a deletion of what may be gone already."""
    with suppress(NotFound):
        await client.delete(key)


async def placement_of(client: Client, name: str) -> JSON:
    """The Placement of an instance."""
    doc = await client.get(instance_key(name))
    return await client.get(Key("placements", "default", doc["status"]["placement"]))


# --- what only the host knows ---


async def test_screen_of_a_machine_is_asked_of_its_host(client: Client) -> None:
    await run(client, "seen")
    shown = BytesIO()
    await client.fetch_into(path_of(instance_key("seen"), "screenshot"), shown)
    assert shown.getvalue() == BLACK_PIXEL
    await client.patch(instance_key("seen"), {"spec": {"powerState": "Stopped"}})
    await until(client, instance_key("seen"), "Stopped")
    with pytest.raises(Conflict, match="does not run"):
        await client.fetch_into(path_of(instance_key("seen"), "screenshot"), shown)


# --- manifests --------------------------------------------------------------------------------------------


async def test_demonstration_runs_and_applying_it_again_changes_nothing(cluster: ServerProcess, client: Client) -> None:
    cluster.nanoctl("apply", "-f", MANIFESTS / "demo")
    hello = await until(client, instance_key("hello"), "Running")
    assert hello["status"]["host"].startswith("sim-")
    [address] = hello["status"]["addresses"]
    assert IPv4Address("10.87.1.0") <= IPv4Address(address["ip"]) <= IPv4Address("10.87.31.250")
    assert condition(hello)["reason"] == "AsDesired"
    revision = await quiet(client)
    again = cluster.nanoctl("apply", "-f", MANIFESTS / "demo")
    assert all(line.endswith("unchanged") for line in again.splitlines()), again
    assert await quiet(client) == revision


@pytest.mark.parametrize("file", EXAMPLES)
async def test_example_is_accepted_and_can_be_taken_back(file: str, cluster: ServerProcess, client: Client) -> None:
    path, needed = MANIFESTS / "examples" / file, [MANIFESTS / "examples" / one for one in BEFORE.get(file, ())]
    for one in needed:
        cluster.nanoctl("apply", "-f", one)
    docs = [doc for doc in yaml.safe_load_all(path.read_text()) if doc]
    assert cluster.nanoctl("apply", "-f", path).count(" created") == len(docs)
    for doc in docs:
        stored = await client.get(key_of(doc))
        shown = {name: said for name, said in doc.get("spec", {}).items() if (doc["kind"], name) != ("Secret", "data")}
        assert said_in(shown, stored.get("spec", {})) == []
    again = cluster.nanoctl("apply", "-f", path)
    assert again.count(" unchanged") == len(docs), again
    for one in (path, *reversed(needed)):
        cluster.nanoctl("delete", "-f", one)
    for doc in docs:
        with pytest.raises(NotFound):
            await client.get(key_of(doc))


def said_in(wanted: Any, stored: Any, path: str = "spec") -> list[str]:
    """Where `stored` does not say what a manifest says."""
    if isinstance(wanted, dict):
        return [bad for name in wanted for bad in said_in(wanted[name], stored.get(name), f"{path}.{name}")]
    if isinstance(wanted, list):
        pairs = zip(wanted, stored or [], strict=True)
        return [bad for at, (one, other) in enumerate(pairs) for bad in said_in(one, other, f"{path}[{at}]")]
    return [] if wanted == stored else [f"{path}: {wanted!r} became {stored!r}"]


async def test_field_that_leaves_the_manifest_goes_back_to_its_default(
    cluster: ServerProcess, client: Client, tmp_path: Path
) -> None:
    small = MANIFESTS / "examples/instance-small.yaml"
    grown = yaml.safe_load(small.read_text())
    grown["spec"] |= {"cpus": 4, "displayName": "Grown"}
    changed = tmp_path / "grown.yaml"
    changed.write_text(yaml.safe_dump(grown))
    cluster.nanoctl("apply", "-f", MANIFESTS / "examples/image-upload.yaml")  # what it refers to
    before = (cluster.nanoctl("apply", "-f", small), await client.get(instance_key("small")))[1]
    cluster.nanoctl("apply", "-f", changed)
    assert (await client.get(instance_key("small")))["spec"]["cpus"] == 4
    cluster.nanoctl("apply", "-f", small)
    assert (await client.get(instance_key("small")))["spec"] == before["spec"]


# --- one instance's life ----------------------------------------------------------------------------------


async def test_power_follows_the_wish(client: Client) -> None:
    before = await run(client, "web")
    await client.patch(instance_key("web"), {"spec": {"powerState": "Stopped"}})
    stopped = await until(client, instance_key("web"), "Stopped")
    assert (condition(stopped)["status"], condition(stopped)["reason"]) == ("True", "StoppedAsDesired")
    assert stopped["status"]["addresses"] == before["status"]["addresses"]
    await client.patch(instance_key("web"), {"spec": {"powerState": "Running"}})
    again = await until(client, instance_key("web"), "Running")
    assert again["status"]["addresses"] == before["status"]["addresses"]
    assert (await placement_of(client, "web"))["status"]["started"] == 2


async def test_deleted_instance_leaves_nothing_but_a_few_events(client: Client) -> None:
    await run(client, "web")
    uid = (await client.get(instance_key("web")))["metadata"]["uid"]
    await client.delete(instance_key("web"))
    for plural in ("instances", "placements", "volumes", "addresses"):
        await until_gone(client, plural)
    revision = await quiet(client)
    told, _ = await client.list("events", field_selector=f"involvedObject.uid={uid}")
    assert {one["reason"] for one in told} == {"Scheduled", "Started", "Deleting"}
    assert await quiet(client) == revision
    pool = await client.get(Key("addresspools", "", "lan"))
    assert pool["status"]["used"] == 0


async def test_settled_cluster_writes_nothing(client: Client) -> None:
    await run(client, "web")
    revision = await quiet(client)
    await asyncio.sleep(5)
    assert await quiet(client) == revision


# --- no room ----------------------------------------------------------------------------------------------


async def test_disabled_host_takes_nothing_new_and_keeps_what_it_has(client: Client) -> None:
    hosts = {f"sim-{number}" for number in (1, 2, 3)}
    before = (await run(client, "old", scheduling={"host": "sim-1"}))["status"]
    await client.patch(Key("hosts", "", "sim-1"), {"spec": {"enabled": False}})
    try:
        names = [f"new-{number}" for number in range(6)]
        for name in names:
            await client.create(instance(name))
        found = await until_all(client, names, "Running")
        assert {doc["status"]["host"] for doc in found.values()} == hosts - {"sim-1"}
        await client.create(instance("pinned", scheduling={"host": "sim-1"}))
        ready = await until_reason(client, instance_key("pinned"), "NoHostFits")
        assert "sim-1: disabled" in ready["params"]["hosts"]
        assert (await client.get(instance_key("old")))["status"] == before
    finally:
        await client.patch(Key("hosts", "", "sim-1"), {"spec": {"enabled": True}})
    assert (await until(client, instance_key("pinned"), "Running"))["status"]["host"] == "sim-1"


async def test_machine_goes_where_its_vlan_is_carried_and_stays_when_the_list_is_narrowed(client: Client) -> None:
    hosts = [Key("hosts", "", f"sim-{number}") for number in (1, 2, 3)]
    before = {key: (await client.get(key))["spec"]["bridges"] for key in hosts}
    card = {"name": "lan", "network": "default", "vlan": 40}

    async def carry(key: Key, *vlans: str) -> None:
        await client.patch(key, {"spec": {"bridges": [one | {"vlans": list(vlans)} for one in before[key]]}})

    try:
        for key in hosts:
            await carry(key, "0", "10-19")
        await client.create(instance("tagged", nics=[card]))
        ready = await until_reason(client, instance_key("tagged"), "NoHostFits")
        assert "sim-1: its bridge for network default does not carry VLAN 40" in ready["params"]["hosts"]
        await carry(hosts[2], "0", "10-19", "40")
        assert (await until(client, instance_key("tagged"), "Running"))["status"]["host"] == "sim-3"
        with pytest.raises(Invalid, match="does not carry VLAN 50"):
            await client.patch(instance_key("tagged"), {"spec": {"nics": [card | {"vlan": 50}]}})
        await carry(hosts[2], "0")
        ready = await until_reason(client, instance_key("tagged"), "VlanWithdrawn")
        assert ready["params"]["vlan"] == "VLAN 40"
        assert phase(await client.get(instance_key("tagged"))) == "Running"
    finally:
        for key, bridges in before.items():
            await client.patch(key, {"spec": {"bridges": bridges}})
    await until_ready(client, instance_key("tagged"))


async def test_full_pool_says_of_each_host_why(client: Client) -> None:
    await run(client, "holder", cpus=100, scheduling={"host": "sim-2"})
    await client.create(instance("huge", cpus=40, memory="200Gi"))
    ready = await until_reason(client, instance_key("huge"), "NoHostFits")
    said = dict(part.split(": ", 1) for part in ready["params"]["hosts"].split("; "))
    assert said == {
        "sim-1": "128Gi of the asked 200Gi memory is free",
        "sim-2": "28 of the asked 40 cpus are free",
        "sim-3": "128Gi of the asked 200Gi memory is free",
    }
    told, _ = await client.list("events", field_selector="involvedObject.name=huge")
    assert [(one["type"], one["reason"], one["count"]) for one in told] == [("Warning", "NoHostFits", 1)]
    for plural in ("placements", "addresses", "volumes"):
        assert not [one for one in (await client.list(plural))[0] if "huge" in one["metadata"]["name"]]
    await client.patch(instance_key("huge"), {"spec": {"memory": "1Gi"}})
    await until(client, instance_key("huge"), "Running")


async def test_last_address_goes_to_one_and_then_to_the_next(client: Client) -> None:
    only = {"name": "only", "first": "10.88.0.10", "last": "10.88.0.10"}
    spec = {"network": "default", "subnet": "10.88.0.0/24", "ranges": [only]}
    pool = {"apiVersion": "nano/v1", "kind": "AddressPool", "metadata": {"name": "tiny"}, "spec": spec}
    await client.create(pool)
    nics = [{"name": "lan", "addressPool": "tiny"}]
    for name in ("first", "second"):
        await client.create(instance(name, nics=nics))
    await until(client, instance_key("first"), "Running")
    ready = await until_reason(client, instance_key("second"), "AddressPoolFull")
    assert ready["params"] == {"pool": "tiny", "total": 1}
    await client.delete(instance_key("first"))
    second = await until(client, instance_key("second"), "Running")
    assert [one["ip"] for one in second["status"]["addresses"]] == ["10.88.0.10"]
    await client.delete(instance_key("second"))
    await until_gone(client, "instances")
    await client.delete(Key("addresspools", "", "tiny"))


# --- hosts and servers that vanish ------------------------------------------------------------------------


async def test_simulated_hosts_of_the_server_go_on_after_kill_9(cluster: ServerProcess, client: Client) -> None:
    names = [f"s-{number}" for number in range(20)]
    for name in names:
        await client.create(instance(name))
    before = addresses(await until_all(client, names, "Running"))
    cluster.kill()
    await cluster.restart()
    found = await until_all(client, names, "Running")
    assert addresses(found) == before
    assert len(set(before)) == 20


# --- usage ------------------------------------------------------------------------------------------------


async def test_top_shows_what_instances_and_hosts_use(cluster: ServerProcess, client: Client) -> None:
    await run(client, "busy", cpus=2)

    async def shown() -> str:
        return cluster.nanoctl("top", "instances")

    told = await look("usage", shown, lambda text: "busy" in text)
    heading, line = told.splitlines()
    assert heading.split() == ["NAME", "HOST", "CPU", "MEMORY", "READ/S", "WRITE/S", "IN/S", "OUT/S"]
    assert line.split()[2:4] == ["0.20", "128Mi"]
    assert "sim-1" in cluster.nanoctl("top", "hosts", "--sort", "memory")


async def test_password_of_a_guest_without_an_agent_waits_for_its_next_start(
    cluster: ServerProcess, client: Client
) -> None:
    await run(client, "quiet")
    login = {"apiVersion": "nano/v1", "kind": "Secret", "metadata": {"name": "login", "namespace": "default"}}
    await client.create(login | {"spec": {"data": {"password": "correct-horse-battery"}}})
    said = cluster.nanoctl("password", "instance/quiet", "--user", "ops", "--secret", "login")
    assert "set when the guest starts next (secret/quiet-password)" in said
    doc = await client.get(instance_key("quiet"))
    assert doc["spec"]["guest"]["admin"]["passwordSecret"] == "quiet-password"
    placement = await placement_of(client, "quiet")
    assert placement["spec"]["guest"]["admin"] == "ops"
    assert "correct-horse" not in str(placement) + str(doc)


# --- changing what runs -------------------------------------------------------------------------------------


async def settled(client: Client, name: str) -> JSON:
    """The instance once it is as wished, and no order to its host stands any more."""
    while True:
        doc = await client.get(instance_key(name))
        seen = doc["status"].get("observedGeneration") == doc["metadata"]["generation"]
        if seen and condition(doc)["status"] == "True" and not (await placement_of(client, name))["spec"]["operations"]:
            return doc
        await asyncio.sleep(0.05)


async def test_disks_and_cards_come_and_go_without_a_restart(cluster: ServerProcess, client: Client) -> None:
    before = await run(client, "changing")
    (address,) = before["status"]["addresses"]
    cluster.nanoctl("disk", "add", "changing", "data", "--size", "2Gi")
    cluster.nanoctl("disk", "add", "changing", "kept", "--size", "1Gi", "--retain")
    cluster.nanoctl("nic", "add", "changing", "second", "--pool", "lan")
    doc = await settled(client, "changing")
    assert [one["nic"] for one in doc["status"]["addresses"]] == ["nic0", "second"]
    assert doc["status"]["hardware"]["disks"].keys() >= {"data", "kept"}
    cluster.nanoctl("disk", "grow", "changing", "data", "3Gi")
    cluster.nanoctl("disk", "remove", "changing", "data", "--accept-data-loss")
    cluster.nanoctl("disk", "remove", "changing", "kept")
    cluster.nanoctl("nic", "remove", "changing", "second")
    doc = await settled(client, "changing")
    assert doc["status"]["addresses"] == [address]
    assert doc["status"].get("restartAwaitingChanges", []) == []
    volumes = {one["metadata"]["name"]: one for one in (await client.list("volumes"))[0]}
    assert volumes.keys() == {"changing.system", "changing.kept"}
    assert not volumes["changing.kept"]["metadata"].get("ownerReferences")
    held = {one["spec"]["ip"] for one in (await client.list("addresses"))[0]}
    assert held == {address["ip"]}
    assert (await placement_of(client, "changing"))["status"]["started"] == 1
    again = [{"name": "back", "source": {"volume": "changing.kept"}}]
    await client.create(instance("after", disks=[*instance("x")["spec"]["disks"], *again]))
    other = await until(client, instance_key("after"), "Running")
    assert other["status"]["host"] == doc["status"]["host"]


async def test_kept_volume_is_deleted_with_its_file(cluster: ServerProcess, client: Client) -> None:
    kept = [*instance("x")["spec"]["disks"], {"name": "kept", "size": "1Gi", "reclaim": "Retain"}]
    await run(client, "keeps", disks=kept)
    with pytest.raises(Conflict, match=r"keeps.kept is still used by instances/default/keeps"):
        await client.delete(Key("volumes", "default", "keeps.kept"))
    cluster.nanoctl("delete", "instance", "keeps", "--wait")
    assert "keeps.kept" in cluster.nanoctl("get", "volumes")
    cluster.nanoctl("delete", "volume", "keeps.kept", "--wait")
    assert "keeps.kept" not in cluster.nanoctl("get", "volumes")


async def test_disk_shrinks_while_stopped_and_is_made_anew(cluster: ServerProcess, client: Client) -> None:
    await run(client, "smaller", disks=[*instance("x")["spec"]["disks"], {"name": "data", "size": "4Gi"}])
    cluster.nanoctl("stop", "smaller", "--wait")
    cluster.nanoctl("disk", "grow", "smaller", "data", "2Gi", "--accept-data-loss")
    await settled(client, "smaller")
    volume = await client.get(Key("volumes", "default", "smaller.data"))
    assert volume["spec"]["size"] == "2Gi"
    file = (await placement_of(client, "smaller"))["spec"]["volumes"][0]["file"]
    cluster.nanoctl("disk", "rebuild", "smaller", "system", "--accept-data-loss")
    cluster.nanoctl("start", "smaller", "--wait")
    await settled(client, "smaller")
    placed = (await placement_of(client, "smaller"))["spec"]["volumes"]
    assert placed[0]["file"] != file
    assert placed[1]["file"] == volume["spec"]["file"]
