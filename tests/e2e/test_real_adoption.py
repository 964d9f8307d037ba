"""Machines that others made or changed on a real host: adopted without a restart, drifted, reverted, ended."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from nanovirt.resources.client import Client
from nanovirt.resources.codec import JSON
from nanovirt.resources.kind import Key
from tests.e2e.boot_marks import boots, bring_image
from tests.e2e.cluster import (
    BLANK,
    NANOCTL,
    Cluster,
    instance,
    instance_key,
    placement_of,
    real_cluster,
    remove_all,
    run,
)
from tests.e2e.looking import BOOT, because, is_off, look, names, runs, until, until_gone
from tests.e2e.processes import Agent

pytestmark = pytest.mark.timeout(600)

OLD = "11111111-2222-4333-8444-555555555555"
MAC = "52:54:00:99:00:01"
XML = """
<domain type='qemu'>
  <name>Old_Web</name><uuid>{uuid}</uuid><memory unit='MiB'>160</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features><cpu mode='custom'><model>Nehalem</model></cpu>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><model type='virtio'/></interface>
    <serial type='file'><source path='{log}'/><target port='0'/></serial>
    <sound model='ich9'/>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def cluster(mini_guest: Path) -> Iterator[Cluster]:
    """One host."""
    with real_cluster(mini_guest, hosts=1) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """Of the administrator; no instance is left behind."""
    async with cluster.client() as client:
        try:
            yield client
        finally:
            print(cluster.said(), file=sys.stderr)  # noqa: T201 - pytest shows it with a failure
            await remove_all(client)


def nanoctl(cluster: Cluster, *words: str) -> str:
    """What `nanoctl` says on the server's machine."""
    done = cluster.bed.server.run([*NANOCTL, *words, "--kubeconfig", cluster.kubeconfig], check=False)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def test_domain_made_with_virsh_goes_on_as_an_instance_without_a_restart(
    cluster: Cluster, client: Client, mini_guest: Path
) -> None:
    agent = cluster.agents["h1"]
    folder = agent.folder / "old"
    folder.mkdir(mode=0o711)
    disk, log = folder / "old.qcow2", folder / "old.log"
    shutil.copyfile(mini_guest, disk)
    definition = folder / "old.xml"
    definition.write_text(XML.format(uuid=OLD, file=disk, mac=MAC, bridge=agent.host.bridge, log=log))
    agent.virsh("define", str(definition))
    agent.virsh("start", "Old_Web")
    pid, before = agent.runs("Old_Web"), agent.virsh("dumpxml", "Old_Web", "--inactive")

    async def said() -> str:
        return log.read_text(errors="replace")

    await look("guest", said, lambda text: "nano-guest: " in text, BOOT)
    boots = (await said()).count("nano-guest: ready")
    host = Key("hosts", "", "h1")
    await until(client, host, lambda doc: doc["status"].get("unclaimed") == ["Old_Web"])
    listed = nanoctl(cluster, "adopt", "h1")
    assert "Old_Web  Running  1 cpus, 160Mi, 1 disks, 1 cards" in listed
    assert agent.runs("Old_Web") == pid  # left alone, as long as nobody adopts it

    assert nanoctl(cluster, "adopt", "h1/Old_Web", "--name", "old") == "instance/old adopted from h1/Old_Web\n"
    doc = await until(client, instance_key("old"), runs)
    assert doc["spec"]["disks"][0]["reclaim"] == "Retain"
    assert doc["spec"]["nics"][0]["mac"] == MAC
    assert doc["metadata"]["labels"]["nano/owner"]
    placement = await placement_of(client, "old")
    assert (placement["spec"]["domain"]["uuid"], placement["spec"]["domain"]["name"]) == (OLD, "Old_Web")
    assert placement["spec"]["volumes"][0]["file"] == str(disk)
    assert [one["path"] for one in doc["status"]["drift"]] == ["cpu", "devices/sound"]
    drifted = next(one for one in doc["status"]["conditions"] if one["type"] == "Drifted")
    assert drifted["reason"] == "AdoptedAsItIs"
    await until(client, host, lambda doc: not doc["status"].get("unclaimed"))
    again = cluster.bed.server.run([*NANOCTL, "adopt", f"h1/{OLD}", "--kubeconfig", cluster.kubeconfig], check=False)
    assert again.returncode != 0

    agent.kill()
    agent.start()
    await client.patch(instance_key("old"), {"spec": {"displayName": "Old"}})
    await until(client, instance_key("old"), runs)
    assert agent.runs("Old_Web") == pid
    assert (await said()).count("nano-guest: ready") <= max(1, boots)
    assert agent.virsh("dumpxml", "Old_Web", "--inactive") == before

    await client.patch(instance_key("old"), {"spec": {"powerState": "Stopped", "stopGraceSeconds": 1}})
    await until(client, instance_key("old"), is_off)
    await client.patch(instance_key("old"), {"spec": {"powerState": "Running"}})
    await until(client, instance_key("old"), runs)
    assert agent.virsh("dumpxml", "Old_Web", "--inactive") == before  # its definition is what was started

    await client.delete(instance_key("old"))
    await until_gone(client, instance_key("old"))
    assert agent.domains() == []
    left = Key("volumes", "default", "old.vda")
    await client.delete(left)
    await until_gone(client, left)
    assert disk.exists(), "Nano did not make it"


async def test_kept_volume_that_is_deleted_goes_from_its_host_once_that_is_there(
    cluster: Cluster, client: Client
) -> None:
    agent, kept = cluster.agents["h1"], Key("volumes", "default", "keeps.data")
    await client.create(instance("keeps", disks=[{"name": "data", "size": "64Mi", "reclaim": "Retain"}]))
    await until(client, instance_key("keeps"), runs)
    file = Path((await client.get(kept))["spec"]["file"])
    await client.delete(instance_key("keeps"))
    await until_gone(client, instance_key("keeps"))
    assert file.exists()
    agent.kill()

    def unready(doc: JSON) -> bool:
        return any(one["type"] == "Ready" and one["status"] != "True" for one in doc["status"]["conditions"])

    await until(client, Key("hosts", "", "h1"), unready)
    assert "volume/keeps.data" in nanoctl(cluster, "delete", "volume", "keeps.data", "--no-wait")

    def waits(doc: JSON) -> bool:
        return any(one["reason"] == "VolumeHostSilent" for one in doc["status"].get("conditions", ()))

    await until(client, kept, waits)
    assert file.exists()
    agent.start()
    await until_gone(client, kept)
    assert not file.exists()


async def test_edit_behind_our_back_is_told_and_reverted_when_asked_for(cluster: Cluster, client: Client) -> None:
    await run(client, "edited")
    agent = cluster.agents["h1"]
    pid = agent.runs("default.edited")
    edit(agent, "default.edited", "<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>")
    doc = await until(client, instance_key("edited"), lambda doc: bool(doc["status"].get("drift")))
    assert doc["status"]["drift"] == [{"path": "on_crash", "current": "restart", "desired": "destroy"}]
    assert "<on_crash>restart" in agent.virsh("dumpxml", "default.edited", "--inactive")
    assert "on_crash is restart, not destroy" in nanoctl(cluster, "why", "instance/edited")
    pool = Key("computepools", "", "default")
    await client.patch(pool, {"spec": {"drift": "Revert"}})
    try:
        await until(client, instance_key("edited"), lambda doc: not doc["status"].get("drift"))
    finally:
        await client.patch(pool, {"spec": {"drift": "Report"}})
    assert "<on_crash>destroy" in agent.virsh("dumpxml", "default.edited", "--inactive")
    agent.virsh("undefine", "default.edited")

    async def persistent() -> str:
        return agent.virsh("list", "--persistent", "--name")

    await look("definition", persistent, lambda text: "default.edited" in text)
    assert agent.runs("default.edited") == pid


def edit(agent: Agent, name: str, old: str, new: str) -> None:
    """`virsh edit`."""
    xml = agent.virsh("dumpxml", name, "--inactive")
    assert old in xml
    file = agent.folder / "edited.xml"
    file.write_text(xml.replace(old, new))
    agent.virsh("define", str(file))


OFF = "o /w 0x604 0x2000"
"""How a guest of q35 switches itself off, and how it says that it has panicked."""
PANIC = "o /b 0x505 1"
STARTS, STAYS_OFF = "starts", "stays off"
POLICIES = ("OnFailure", "Always", "Never")
SHUT, PANICS, KILLED, DESTROYED, STOPPED = "guest shutdown", "panic", "QEMU killed", "virsh destroy", "user stop"
Row = tuple[str, str, str, str, str]
"""Wish for power, policy, how it ends, what happens, why it stays off; see tests/agent/test_power_table.py."""
ROWS: list[Row] = [
    ("Running", "OnFailure", SHUT, STAYS_OFF, "GuestShutdown"),
    ("Running", "Always", SHUT, STARTS, ""),
    ("Running", "Never", SHUT, STAYS_OFF, "GuestShutdown"),
    *(("Running", policy, how, STARTS, "") for policy in POLICIES[:2] for how in (PANICS, KILLED, DESTROYED)),
    *(("Running", "Never", how, STAYS_OFF, "Crashed") for how in (PANICS, KILLED, DESTROYED)),
    *(
        ("Suspended", policy, how, STAYS_OFF, "SuspendedMemoryLost")
        for policy in POLICIES
        for how in (KILLED, DESTROYED)
    ),
    *(("Stopped", policy, STOPPED, STAYS_OFF, "StoppedAsDesired") for policy in POLICIES),
]
FEW = [ROWS[1], ROWS[0], ROWS[5], ROWS[16], ROWS[19]]
"""One for each thing that can happen."""


@pytest.mark.parametrize(
    "rows",
    [FEW, *(pytest.param(ROWS[at::3], marks=pytest.mark.long, id=f"third {at + 1}") for at in range(3))],
)
async def test_machine_ends_and_starts_as_the_table_says(
    cluster: Cluster, client: Client, marked: list[JSON], rows: list[Row]
) -> None:
    """One machine for each row, all at a time, which says at each boot that it boots; a boot of the host see below."""
    agent = cluster.agents["h1"]
    made = {f"row-{at}": row for at, row in enumerate(rows)}
    uids: dict[str, str] = {}
    for name, (_wish, policy, *_rest) in made.items():
        doc = await client.create(instance(name, disks=marked, restartPolicy=policy, stopGraceSeconds=0))
        uids[name] = doc["metadata"]["uid"]

    async def booted(name: str, times: int) -> list[str]:
        async def ids() -> list[str]:
            return boots(agent.console(uids[name]))

        return await look(f"boots of {name}", ids, lambda found: len(found) >= times)

    first = {name: await booted(name, 1) for name in made}
    for name, (wish, _policy, ending, *_more) in made.items():
        await until(client, instance_key(name), runs)
        if wish == "Suspended":
            await client.patch(instance_key(name), {"spec": {"powerState": wish}})
            await until(client, instance_key(name), lambda doc: doc["status"]["phase"] == "Suspended")
        if ending == STOPPED:
            await client.patch(instance_key(name), {"spec": {"powerState": wish}})
        else:
            before = agent.runs(f"default.{name}")
            end(agent, f"default.{name}", ending)
            await look(name, partial(process, agent, name), lambda found, before=before: found != before)  # type: ignore[misc]
    for name, (wish, policy, ending, happens, reason) in made.items():
        row = f"{wish}, {policy}, {ending}"
        if happens == STARTS:
            await until(client, instance_key(name), runs)
            assert (await placement_of(client, name))["status"]["started"] == 2, row
            ids = await booted(name, 2)
            assert len(set(ids)) == 2, row
        else:
            await until(client, instance_key(name), because(reason))
            assert agent.runs(f"default.{name}") == 0, row
            assert (await placement_of(client, name))["status"]["started"] == 1, row
    await asyncio.sleep(2)
    for name, row_of in made.items():
        ids = boots(agent.console(uids[name]))
        assert ids[:1] == first[name][:1], row_of
        assert len(ids) == (2 if row_of[3] == STARTS else 1), row_of
    print(f"{len(made)} rows: boot ids as the table says")  # noqa: T201 - for pytest -s


async def process(agent: Agent, name: str) -> int:
    return agent.runs(f"default.{name}")


@pytest.fixture
async def marked(cluster: Cluster, client: Client) -> list[JSON]:
    """Disks of a machine that says when it boots."""
    if "mark" in await names(client, "images"):
        return [{"name": "system", "source": {"image": "shared/mark"}}]
    return await bring_image(cluster, client)


def end(agent: Agent, machine: str, how: str) -> None:
    match how:
        case "guest shutdown":
            agent.virsh("qemu-monitor-command", machine, "--hmp", OFF)
        case "panic":
            agent.virsh("qemu-monitor-command", machine, "--hmp", PANIC)
        case "QEMU killed":
            agent.host.run(["kill", "-9", str(agent.runs(machine))])
        case _:
            agent.virsh("destroy", machine)


async def test_suspended_machine_keeps_its_process_and_goes_on(cluster: Cluster, client: Client) -> None:
    await run(client, "still")
    agent = cluster.agents["h1"]
    pid = agent.runs("default.still")
    assert nanoctl(cluster, "suspend", "still", "--wait") == "instance/still suspending\ninstance/still is Suspended\n"
    assert "paused" in agent.virsh("domstate", "default.still")
    agent.kill()
    agent.start()
    assert nanoctl(cluster, "resume", "still", "--wait") == "instance/still resuming\ninstance/still is Running\n"
    assert "running" in agent.virsh("domstate", "default.still")
    assert agent.runs("default.still") == pid
    nanoctl(cluster, "suspend", "still", "--wait")
    agent.host.run(["kill", "-9", str(pid)])

    def lost(doc: JSON) -> bool:
        return any(one["reason"] == "SuspendedMemoryLost" for one in doc["status"]["conditions"])

    await until(client, instance_key("still"), lost)
    assert agent.runs("default.still") == 0
    nanoctl(cluster, "start", "still", "--wait")
    assert agent.runs("default.still") not in (0, pid)
    assert await names(client, "instances") == ["still"]


async def test_after_a_boot_of_the_host_machines_do_as_their_policy_says_in_order_of_priority(
    cluster: Cluster, client: Client
) -> None:
    agent, host = cluster.agents["h1"], cluster.bed.hosts[0]
    still, off = ({f"{word}-{policy.lower()}": policy for policy in POLICIES} for word in ("still", "off"))
    machines: dict[str, JSON] = {
        "last": {"startPriority": 0, "restartPolicy": "Always"},
        "first": {"startPriority": 900},
        "middle": {"startPriority": 500},
        "never": {"restartPolicy": "Never"},
        **{name: {"restartPolicy": policy, "stopGraceSeconds": 0} for name, policy in (still | off).items()},
    }
    await client.patch(Key("computepools", "", "default"), {"spec": {"overcommit": {"cpu": 10}}})
    for name, more in machines.items():
        await client.create(instance(name, disks=BLANK, **more))
    for name in machines:
        await until(client, instance_key(name), runs)
    for name in still:
        await client.patch(instance_key(name), {"spec": {"powerState": "Suspended"}})
    for name in off:
        await client.patch(instance_key(name), {"spec": {"powerState": "Stopped"}})
    for name in still:
        await until(client, instance_key(name), lambda doc: doc["status"]["phase"] == "Suspended")
    for name in off:
        await until(client, instance_key(name), is_off)
    before = {name: agent.starts(f"default.{name}") for name in machines}
    agent.kill()
    said = len(agent.log.read_text(errors="replace"))
    host.reboot()
    agent.start()
    for name in ("first", "middle", "last"):
        await until(client, instance_key(name), runs)

        async def started(name: str = name) -> int:
            return agent.starts(f"default.{name}")

        await look(name, started, lambda count, name=name: count == before[name] + 1)  # type: ignore[misc]
    lines = agent.log.read_text(errors="replace")[said:].splitlines()
    order = [line for line in lines if " step done " in line and line.endswith(" step=Start")]
    assert [line.partition("machine=default.")[2].partition(" ")[0] for line in order] == ["first", "middle", "last"]
    reasons = (
        {"never": "Crashed"} | dict.fromkeys(still, "SuspendedMemoryLost") | dict.fromkeys(off, "StoppedAsDesired")
    )
    for name, reason in reasons.items():
        await until(client, instance_key(name), because(reason))
        assert agent.starts(f"default.{name}") == before[name]
