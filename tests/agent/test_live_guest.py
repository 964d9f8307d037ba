"""A real guest that is changed while it runs: what libvirt says, what the guest sees, and that it never boots anew."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.control_group import value
from tests.agent.live_guest import ANSWER_SECONDS, Killed, LiveGuest, live_guest
from tests.testbed import Host

pytestmark = pytest.mark.timeout(240)

MIB = 2**20


@pytest.fixture(scope="module")
def guest(host: Host) -> Iterator[LiveGuest]:
    """One for all tests, which leave it as they found it."""
    with live_guest(host, Path(tempfile.mkdtemp(dir=host.dir)), max_cpu=4, max_memory="512Mi") as made:
        made.first_boot = made.boot_id()
        yield made


@pytest.fixture
async def machine(guest: LiveGuest) -> AsyncIterator[LibvirtMachine]:
    """Its door; whatever was done, the guest is the one that was started first."""
    async with guest.machine() as made:
        yield made
        assert guest.boot_id() == guest.first_boot


async def inside(guest: LiveGuest, command: str, wished: Callable[[str], bool]) -> str:
    """What the command says in the guest, as soon as it is as wished."""
    end = time.monotonic() + ANSWER_SECONDS
    while True:
        said = await asyncio.to_thread(guest.inside, command)
        if wished(said) or time.monotonic() > end:
            assert wished(said), said
            return said
        await asyncio.sleep(0.2)


async def test_processors_are_plugged_in_and_used(guest: LiveGuest, machine: LibvirtMachine) -> None:
    assert await guest.bring(machine, cpu=2) == ()
    await inside(guest, "grep -c ^processor /proc/cpuinfo", lambda said: said.strip() == "2")
    awaiting = await guest.bring(machine, cpu=1)
    assert [(one.path, one.current, one.desired) for one in awaiting] == [("spec.cpus", 2, 1)]
    assert await guest.bring(machine, cpu=2) == (), "it is reverted"


async def test_memory_grows_and_is_given_back(guest: LiveGuest, machine: LibvirtMachine) -> None:
    def total(said: str) -> int:
        return int(said.split()[1]) * 1024

    asked = "head -1 /proc/meminfo"
    before = total(guest.inside(asked))
    assert await guest.bring(machine, memory="400Mi") == ()
    await inside(guest, asked, lambda said: total(said) >= before + 140 * MIB)
    await guest.bring(machine, memory="256Mi")
    await inside(guest, asked, lambda said: total(said) <= before + 40 * MIB)
    assert await guest.bring(machine, memory="224Mi") == ()
    await inside(guest, asked, lambda said: total(said) <= before + 8 * MIB)
    await guest.bring(machine, memory="256Mi")
    awaiting = await guest.bring(machine, memory="1Gi", max_memory="1Gi")
    assert [one.path for one in awaiting] == ["spec.memory", "spec.maxMemory"]
    await guest.bring(machine, memory="256Mi", max_memory="512Mi")


@pytest.mark.parametrize("bus", ["Virtio", "Scsi"])
async def test_disk_is_plugged_in_grows_is_limited_and_goes(
    guest: LiveGuest, machine: LibvirtMachine, bus: str
) -> None:
    name = f"d-{bus.lower()}"
    sysfs = "for d in /sys/block/[sv]d*; do echo ${d##*/} $(cat $d/size) $(cat $d/serial $d/device/vpd_pg80); done"
    assert await guest.bring(machine, volumes=[guest.system(), guest.disk(name, bus=bus)]) == ()
    await inside(guest, sysfs, lambda said: name in said and " 131072 " in said)
    assert await guest.bring(machine, volumes=[guest.system(), guest.disk(name, "96Mi", bus=bus)]) == ()
    await inside(guest, sysfs, lambda said: " 196608 " in said)
    limits = {"readBytesPerSecond": "8Mi", "writeBytesPerSecond": "4Mi", "readIops": 2000, "writeIops": 1000}
    assert await guest.bring(machine, volumes=[guest.system(), guest.disk(name, "96Mi", bus=bus, qos=limits)]) == ()
    with guest.domain() as domain:
        found = domain.blockIoTune("vdb" if bus == "Virtio" else "sda", 0)
    assert (found["read_bytes_sec"], found["write_bytes_sec"]) == (8 * MIB, 4 * MIB)
    assert (found["read_iops_sec"], found["write_iops_sec"]) == (2000, 1000)
    assert await guest.bring(machine, volumes=[guest.system()]) == ()
    await inside(guest, sysfs, lambda said: name not in said)
    await machine.remove_volume(guest.file(name))


async def test_disk_on_a_bus_without_plugging_awaits_a_start(guest: LiveGuest, machine: LibvirtMachine) -> None:
    awaiting = await guest.bring(machine, volumes=[guest.system(), guest.disk("cold", bus="Sata")])
    assert [one.path for one in awaiting] == ["spec.disks[cold]"]
    assert await guest.bring(machine, volumes=[guest.system()]) == ()
    await machine.remove_volume(guest.file("cold"))


async def test_card_comes_moves_and_goes(guest: LiveGuest, machine: LibvirtMachine) -> None:
    def master(device: str) -> str:
        return guest.host.run(["ip", "-o", "link", "show", "dev", device]).stdout

    assert await guest.bring(machine, nics=[guest.card(), guest.card(1)]) == ()
    await inside(guest, "cat /sys/class/net/*/address", lambda said: "52:54:00:00:aa:01" in said)
    guest.host.run(["ip", "link", "add", "br1", "type", "bridge"])
    try:
        assert await guest.bring(machine, nics=[guest.card(), guest.card(1, bridge="br1")]) == ()
        assert " master br1 " in master("nvx52540000aa01")
        awaiting = await guest.bring(machine, nics=[guest.card(), guest.card(1, mtu=1400)])
        assert [(one.path, one.desired) for one in awaiting] == [("spec.nics[nic1].mtu", 1400)]
        assert f" master {guest.host.bridge} " in master("nvx52540000aa01")
    finally:
        guest.host.run(["ip", "link", "del", "br1"])
    assert await guest.bring(machine, nics=[guest.card()]) == ()
    await inside(guest, "cat /sys/class/net/*/address", lambda said: "52:54:00:00:aa:01" not in said)


async def test_medium_comes_with_its_drive_and_goes_although_the_guest_uses_it(
    guest: LiveGuest, machine: LibvirtMachine
) -> None:
    image = {"image": "mini", "sha256": guest.sha256}
    assert await guest.bring(machine, media=[{"name": "cd0", "image": image}]) == ()
    await inside(guest, "cat /sys/block/sr*/size", lambda said: "83968" in said)
    awaiting = await guest.bring(machine, media=[{"name": "cd0"}])
    assert [one.path for one in awaiting] == ["spec.media[cd0]"], "an empty drive cannot be plugged in"
    await inside(guest, "cat /sys/block/sr*/size", lambda said: "83968" not in said)
    assert await guest.bring(machine, media=[]) == ()


async def test_shares_and_limit_are_those_of_the_control_group(guest: LiveGuest, machine: LibvirtMachine) -> None:
    run = (await guest.seen(machine)).run
    assert await guest.bring(machine, qos={"priority": "High", "limit": "1500m"}) == ()
    assert value(run, "cpu", "cpu.shares") == 2048
    quota, period = (value(run, "cpu", f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    assert quota / period == 1.5
    assert await guest.bring(machine, qos={}) == ()
    assert value(run, "cpu", "cpu.shares") == 1024
    assert value(run, "cpu", "cpu.cfs_quota_us") == -1


async def test_what_only_a_start_changes_awaits_it(guest: LiveGuest, machine: LibvirtMachine) -> None:
    devices = dict(guest.spec.domain)
    awaiting = await guest.bring(machine, domain={**devices, "video": "Vga", "clock": "LocalTime"})
    assert [(one.path, one.current, one.desired) for one in awaiting] == [
        ("spec.systemTemplate", {"clock": "Utc", "video": "Virtio"}, {"clock": "LocalTime", "video": "Vga"})
    ]
    assert await guest.bring(machine, domain=devices) == ()


async def test_change_that_was_made_half_is_finished_by_the_next_agent(
    guest: LiveGuest, machine: LibvirtMachine
) -> None:
    """Whatever had been done when the agent was killed, the plan finds what is left, and nothing twice."""
    before = guest.memory
    wished = [guest.system(), guest.disk("one"), guest.disk("two")]
    guest.steps = 4  # made one disk, the other, defined, plugged in the first; then the agent is gone
    with pytest.raises(Killed):
        await guest.bring(machine, volumes=wished)
    guest.steps, guest.memory = None, before
    assert await guest.bring(machine, volumes=wished) == ()
    _, done = await guest.settle(machine)
    assert done == [] or set(done) == {"Remember"}
    assert set((await guest.hardware(machine)).disks) == {"system", "one", "two"}
    assert await guest.bring(machine, volumes=[guest.system()]) == ()
    for name in ("one", "two"):
        await machine.remove_volume(guest.file(name))


# --- rates that the guest feels ---------------------------------------------------------------------------------------


TRIES = 4


async def near(measure: Callable[[], float], limit: float) -> str:
    """Empty when a rate reaches its limit and never exceeds it; a guest that others keep from its work tries again."""
    rates: list[float] = []
    while len(rates) < TRIES:
        rates.append(await asyncio.to_thread(measure))
        if rates[-1] >= 0.85 * limit:
            break
    return "" if 0.85 * limit <= max(rates) <= 1.15 * limit else f"{rates} a second, not {limit}"


def rate(guest: LiveGuest, command: str, amount: int) -> float:
    """Of something in a second, as the guest's own clock has it; the command moves `amount`."""
    clock = "read up rest </proc/uptime; echo $up"
    first, last = guest.inside(f"{clock}; {command} >/dev/null 2>&1; {clock}").split()
    return amount / (float(last) - float(first))


async def test_disk_keeps_to_its_limits(guest: LiveGuest, machine: LibvirtMachine) -> None:
    limits = {"readBytesPerSecond": "6Mi", "writeBytesPerSecond": "3Mi"}
    assert await guest.bring(machine, volumes=[guest.system(), guest.disk("rated", qos=limits)]) == ()
    await inside(guest, "ls /sys/block", lambda said: "vdb" in said)
    drop = "echo 3 >/proc/sys/vm/drop_caches"
    read = partial(rate, guest, f"{drop}; dd if=/dev/vdb of=/dev/null bs=1M count=24", 24 * MIB)
    written = partial(rate, guest, "dd if=/dev/zero of=/dev/vdb bs=1M count=18 conv=fsync", 18 * MIB)
    assert not await near(read, 6 * MIB), "bytes read"
    assert not await near(written, 3 * MIB), "bytes written"
    assert await guest.bring(machine, volumes=[guest.system(), guest.disk("rated", qos={"readIops": 40})]) == ()
    single = f"{drop}; echo 0 >/sys/block/vdb/queue/read_ahead_kb; dd if=/dev/vdb of=/dev/null bs=4k count=160"
    assert not await near(partial(rate, guest, single, 160), 40), "reads"
    assert await guest.bring(machine, volumes=[guest.system()]) == ()
    await machine.remove_volume(guest.file("rated"))


async def test_processor_keeps_to_its_limit(guest: LiveGuest, machine: LibvirtMachine) -> None:
    run = (await guest.seen(machine)).run
    assert await guest.bring(machine, qos={"limit": "300m"}) == ()
    guest.inside("sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! >/run/busy")
    await asyncio.sleep(1)
    used, begun = value(run, "cpuacct", "cpuacct.usage"), time.monotonic()
    await asyncio.sleep(4)
    share = (value(run, "cpuacct", "cpuacct.usage") - used) / 1e9 / (time.monotonic() - begun)
    assert await guest.bring(machine, qos={}) == ()
    guest.inside("kill $(cat /run/busy)")
    assert share <= 0.3 * 1.15, f"{share:.3f} processors"


async def test_card_keeps_to_its_limits(guest: LiveGuest, machine: LibvirtMachine) -> None:
    limits: dict[str, Any] = {"inboundBitsPerSecond": "16M", "outboundBitsPerSecond": "8M"}
    assert await guest.bring(machine, nics=[guest.card(qos=limits)]) == ()
    guest.inside("ip addr add 10.77.2.99/16 dev eth0 2>/dev/null; dd if=/dev/zero of=/www/8m bs=1M count=8")
    with guest.domain() as domain:
        found = domain.interfaceParameters("nvx52540000aa00", 0)
    assert (found["inbound.average"], found["outbound.average"]) == (2000, 1000)
    assert not await near(partial(fetched, guest.host, "http://10.77.2.99/8m"), 8e6 / 8), "bytes out"
    assert not await near(partial(sent, guest, 12 * MIB), 16e6 / 8), "bytes in"
    assert await guest.bring(machine, nics=[guest.card()]) == ()


FETCH = """
import sys, time, urllib.request
begun = time.monotonic()
size = len(urllib.request.urlopen(sys.argv[1], timeout=60).read())
print(size / (time.monotonic() - begun))
"""
SEND = """
import socket, sys
with socket.create_server(("", 7799)) as server:
    print("ready", flush=True)
    with server.accept()[0] as peer:
        peer.sendall(bytes(int(sys.argv[1])))
"""


def fetched(host: Host, url: str) -> float:
    """Bytes in a second of a download from the guest."""
    return float(host.run(["python3", "-c", FETCH, url], timeout=120).stdout)


def sent(guest: LiveGuest, size: int) -> float:
    """Bytes in a second of a download by the guest from its host."""
    (guest.host.dir / "log/send.log").unlink(missing_ok=True)  # what one before has said
    sender = guest.host.start(["python3", "-c", SEND, str(size)], log="send.log")
    address = guest.host.address
    try:
        while "ready" not in (guest.host.dir / "log/send.log").read_text():
            time.sleep(0.05)
        return rate(guest, f"nc {address} 7799", size)
    finally:
        sender.kill()
        sender.wait()
