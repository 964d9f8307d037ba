"""A LibvirtMachine on a host of the test bed, which is left as empty as it was."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.testbed import Host


@asynccontextmanager
async def real_machine(host: Host) -> AsyncIterator[LibvirtMachine]:
    """Its folder, with `volumes` below as the only storage path, and all domains are gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=host.dir))
    volumes = folder / "volumes"
    volumes.mkdir()
    network = Path(f"/proc/{host.pid}/root/sys/class/net")
    machine = LibvirtMachine(folder, host.uri, storage=[str(volumes)], network=network)
    try:
        yield machine
    finally:
        for uuid in await machine.domains():
            await machine.destroy(uuid)
            await machine.undefine(uuid)
        await machine.close()
        shutil.rmtree(folder)


def volumes_of(machine: LibvirtMachine) -> Path:
    """Where its volumes may be."""
    return machine.consoles.parent / "volumes"
