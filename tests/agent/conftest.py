"""A host of the test bed for every test of this folder that wants a real libvirt: one for the whole run."""

from collections.abc import AsyncIterator, Iterator

import libvirt
import pytest

from nanovirt.agent.libvirt_machine import LibvirtMachine
from tests.agent.real_machine import real_machine
from tests.testbed import Bed, Host


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """Its libvirt has examined QEMU already, which takes it seconds."""
    with Bed(hosts=1) as bed:
        connection = libvirt.open(bed.hosts[0].uri)
        connection.getVersion()
        connection.close()
        yield bed.hosts[0]


@pytest.fixture
async def machine(host: Host) -> AsyncIterator[LibvirtMachine]:
    """A machine on that host."""
    async with real_machine(host) as made:
        yield made
