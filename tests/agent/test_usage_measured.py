"""Figures of a real guest beside what the kernel has counted for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from nanovirt.agent.history import History
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.taps import tap
from nanovirt.agent.usage import Sampler
from tests.agent.test_hypervisor import bare
from tests.agent.test_seed_in_guest import booted, guest, prepared
from tests.testbed import Host

__all__ = ["guest"]
SECONDS = 8


class Mark(NamedTuple):
    """What the kernel had counted at some moment of the loop's clock: seconds of a processor, bytes in and out."""

    at: float
    used: float
    came: int
    went: int


def processor_seconds(machine: LibvirtMachine, name: str) -> float:
    """What the cgroup of its QEMU has used."""
    pid = int((machine.hypervisor.pids / f"{name}.pid").read_text())
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            inside = path.split("/emulator")[0].split("/vcpu")[0]
            return int(Path(f"/sys/fs/cgroup/cpuacct{inside}/cpuacct.usage").read_text()) / 1e9
        if controllers == "" and Path(f"/sys/fs/cgroup{path}/cpu.stat").is_file():
            inside = path.split("/emulator")[0].split("/vcpu")[0]
            stat = Path(f"/sys/fs/cgroup{inside}/cpu.stat").read_text()
            return int(stat.split()[1]) / 1e6
    raise AssertionError("the machine has no cgroup that counts")


def link(host: Host, device: str) -> tuple[int, int]:
    """Bytes that came in and went out of the tap, as `ip -s link` has them: the guest's out and in."""
    [found] = json.loads(host.run(["ip", "-s", "-j", "link", "show", "dev", device]).stdout)
    return found["stats64"]["rx"]["bytes"], found["stats64"]["tx"]["bytes"]


def within(figure: float, marks: list[Mark], what: str) -> bool:
    """Whether a figure a second is that of the kernel, but for a tenth, and for what passed while it was asked for."""
    counted, times = [getattr(one, what) for one in marks], [one.at for one in marks]
    least = (counted[2] - counted[1]) / (times[3] - times[0])
    most = (counted[3] - counted[0]) / (times[2] - times[1])
    return bool(least * 0.9 <= figure <= most * 1.1)


@pytest.mark.timeout(300)
async def test_figures_are_within_a_tenth_of_the_kernels(
    machine: LibvirtMachine, host: Host, guest: tuple[str, Path], tmp_path: Path
) -> None:
    wanted = await prepared(machine, guest)
    await machine.start(wanted.domain.uuid)
    await booted(machine, wanted)
    history = History(tmp_path)
    sampler = Sampler(machine, asyncio.get_running_loop().time, history)
    flood = host.start(["ping", "-q", "-f", "-s", "1000", "-w", str(SECONDS + 5), "10.77.2.9"], log="flood.log")
    try:
        device, name, loop = tap(wanted.nics[0]), wanted.domain.name, asyncio.get_running_loop()

        def mark() -> Mark:
            return Mark(loop.time(), processor_seconds(machine, name), *link(host, device))

        marks = [mark()]
        await sampler.sample()
        marks += [mark()]
        await asyncio.sleep(SECONDS)
        marks += [mark()]
        await sampler.sample()
        marks += [mark()]
    finally:
        flood.kill()
        flood.wait()
    found = dict(sampler.latest.rows())[wanted.domain.uuid]
    assert found.cpu > 0
    assert within(found.cpu, marks, "used")
    assert found.net_out > 1000
    assert within(found.net_out, marks, "came")
    assert within(found.net_in, marks, "went")
    assert 2**24 < found.memory < 2**28, "what the guest itself says it uses"
    columns = history.between(wanted.domain.uuid, loop.time() - 10, loop.time(), 2, loop.time())
    assert found.cpu == pytest.approx(next(one for one in columns["cpu"] if one), abs=0.01)


async def test_all_machines_are_asked_about_in_one_question(machine: LibvirtMachine) -> None:
    for number in (1, 2, 3):
        wanted = bare(number)
        await machine.define(wanted, "digest")
    for number in (1, 2):
        await machine.start(bare(number).domain.uuid)
    found = await machine.counters()
    assert set(found) == {bare(number).domain.uuid for number in (1, 2)}
    assert all(one.cpu_ns > 0 for one in found.values())
