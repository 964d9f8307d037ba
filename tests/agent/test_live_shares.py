"""Two machines that want the same processor share it by their priority, as the kernel's own counters say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent.changes import LimitCpu
from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.control_group import value
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import volumes_of
from tests.testbed import Host

SPINNING = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes(2**20 - 512)
"""A disk whose boot sector jumps to itself for ever."""
SECONDS = 5.0


@pytest.mark.timeout(120)
async def test_busy_machines_share_a_processor_by_their_priority(machine: LibvirtMachine, host: Host) -> None:
    high, low = [await spinning(machine, number, priority) for number, priority in ((1, "High"), (2, "Low"))]
    for number, run in enumerate((high, low), 1):
        alone(run)
        await until_spinning(host, f"default.busy-{number}")
    ratio = await shared(high, low)
    assert 4 * 0.85 <= ratio <= 4 * 1.15, f"{ratio:.2f} times as much"
    await machine.change(uuid(2), LimitCpu(2048, 0))
    ratio = await shared(high, low)
    assert 0.85 <= ratio <= 1.15, f"{ratio:.2f} times as much with the same priority"


async def spinning(machine: LibvirtMachine, number: int, priority: str) -> str:
    """A machine that is busy as soon as its firmware is through; gives its run."""
    sha256 = hashlib.sha256(SPINNING).hexdigest()

    async def fetch(path: Path) -> None:
        path.write_bytes(SPINNING)

    await machine.add_image(sha256, fetch)
    file = f"{volumes_of(machine)}/spinning-{number}.qcow2"
    disk = {"name": "system", "file": file, "size": "1Mi", "source": {"image": "s", "sha256": sha256}}
    domain: Mapping[str, Any] = {"uuid": uuid(number), "name": f"default.busy-{number}", "firmware": "BIOS"}
    wanted = spec(number, domain=domain, cpu=1, memory="64Mi", volumes=[disk], nics=(), qos={"priority": priority})
    await machine.make_volume(wanted.volumes[0])
    await machine.define(wanted, "digest")
    await machine.start(uuid(number))
    found = await machine.domain(uuid(number))
    assert found is not None
    return found.run


async def until_spinning(host: Host, name: str) -> None:
    """Return once its processor is where a boot sector is: its firmware has found the disk."""
    asked = ["virsh", "-c", host.uri, "qemu-monitor-command", name, "--hmp", "info registers"]
    async with asyncio.timeout(90):
        while not re.search(r"[ER]IP=0*7c00\b", (await asyncio.to_thread(host.run, asked)).stdout):
            await asyncio.sleep(0.2)


def alone(run: str) -> None:
    """Keep all threads of the machine on one processor."""
    for task in Path(f"/proc/{run.partition('.')[0]}/task").iterdir():
        os.sched_setaffinity(int(task.name), {0})


async def shared(one: str, other: str) -> float:
    """How much more time of the processor one got than the other."""
    before, begun = [value(run, "cpuacct", "cpuacct.usage") for run in (one, other)], time.monotonic()
    await asyncio.sleep(SECONDS)
    used = [value(run, "cpuacct", "cpuacct.usage") - was for run, was in zip((one, other), before, strict=True)]
    assert sum(used) > 0.1e9 * (time.monotonic() - begun), "both are idle"
    return used[0] / used[1]
