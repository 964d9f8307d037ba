"""What the door to libvirt costs: define, start and look through it, in turns with bare libvirt calls for the same XML.

Needs root: the machines run on a host of the test bed. The guests have nothing to boot, so that they stay idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import libvirt

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.placements import spec, uuid
from tests.agent.real_machine import real_machine, volumes_of
from tests.testbed import Bed, Host

SHORT = bool(os.environ.get("NANO_BENCH_SHORT"))
ROUNDS = 3 if SHORT else 15
DOMAINS = 50
LOOKS = 50
Figures = defaultdict[str, list[float]]


def main() -> None:
    """Print the table: milliseconds, median and range."""
    with Bed(hosts=1) as bed:
        figures = asyncio.run(measure(bed.hosts[0]))
    print(f"{'':34}{'median':>10}{'least':>10}{'most':>10}  ms")
    for what, seconds in figures.items():
        low, high = min(seconds), max(seconds)
        print(f"{what:34}" + "".join(f"{1000 * one:10.1f}" for one in (statistics.median(seconds), low, high)))


async def measure(host: Host) -> Figures:
    figures: Figures = defaultdict(list)
    async with real_machine(host) as machine:
        await machine.hypervisor.qemu()
        with contextlib.closing(libvirt.open(host.uri)) as connection:
            for _ in range(ROUNDS):
                xml = await through_the_door(machine, figures)
                bare(connection, xml, figures)
                await machine.remove_volume(f"{volumes_of(machine)}/system.qcow2")
        for number in range(1, DOMAINS + 1):
            await machine.define(spec(number, volumes=(), nics=()), "digest")
        for _ in range(LOOKS):
            await timed(figures, f"door: see {DOMAINS} machines", machine.domains)
            await timed(figures, "door: see one machine", lambda: machine.domain(uuid(7)))
            await timed(figures, "door: facts", machine.facts)
    return figures


async def through_the_door(machine: LibvirtMachine, figures: Figures) -> str:
    """Make, define, start, destroy and remove one machine; gives its definition."""
    file = f"{volumes_of(machine)}/system.qcow2"
    nic = {"name": "lan", "mac": "52:54:00:00:00:01", "bridge": "br0"}
    wanted = spec(volumes=[{"name": "system", "file": file, "size": "1Gi"}], nics=[nic], cpu=1, memory="64Mi")
    await timed(figures, "door: make a volume", lambda: machine.make_volume(wanted.volumes[0]))
    await timed(figures, "door: define", lambda: machine.define(wanted, "digest"))
    await timed(figures, "door: start", lambda: machine.start(uuid(1)))
    await timed(figures, "door: destroy", lambda: machine.destroy(uuid(1)))
    definition = (await machine.hypervisor.definition(uuid(1)))[0]
    await machine.undefine(uuid(1))
    return definition


def bare(connection: Any, xml: str, figures: Figures) -> None:
    """The anchor: the same definition, libvirt alone."""
    begun = time.perf_counter()
    domain = connection.defineXML(xml)
    defined = time.perf_counter()
    domain.create()
    started = time.perf_counter()
    domain.destroy()
    ended = time.perf_counter()
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    figures["bare: define"].append(defined - begun)
    figures["bare: start"].append(started - defined)
    figures["bare: destroy"].append(ended - started)


async def timed(figures: Figures, what: str, work: Callable[[], Awaitable[object]]) -> None:
    begun = time.perf_counter()
    await work()
    figures[what].append(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
