"""A real guest agent through libvirt: what it tells, and what happens when it is one that lies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nanovirt.agent.guest_replies import COMMANDS, read
from nanovirt.agent.guests import Guests
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.guest import GuestDetails
from tests.agent.test_hypervisor import bare
from tests.agent.test_seed_in_guest import booted, guest, prepared

__all__ = ["guest"]
pytestmark = pytest.mark.timeout(300)


async def heard(guests: Guests, uuid: str) -> GuestDetails:
    """What the agent says once it answers."""
    async with asyncio.timeout(90):
        while (details := await guests.ask(uuid)) is None:
            await asyncio.sleep(0.5)
    return details


async def test_guest_tells_its_name_addresses_and_file_systems(
    machine: LibvirtMachine, guest: tuple[str, Path]
) -> None:
    wanted = await prepared(machine, guest)
    await machine.start(wanted.domain.uuid)
    await booted(machine, wanted)
    found = await heard(Guests(machine), wanted.domain.uuid)
    assert found.report.hostname == "seeded-1"
    assert found.report.os
    assert found.report.kernel
    assert [(one.mac, one.ip) for one in found.report.addresses] == [("52:54:00:00:00:01", "10.77.2.9")]
    data = next(one for one in found.file_systems if one.mounted == "/srv/data")
    assert data.type in ("ext4", "ext2")
    assert 0 < data.used < data.total <= 64 << 20


async def test_machine_without_an_agent_is_silent_and_says_so_at_once(machine: LibvirtMachine) -> None:
    wanted = bare()
    await machine.define(wanted, "digest")
    await machine.start(wanted.domain.uuid)
    with pytest.raises(HypervisorError):
        await machine.ask_guest(wanted.domain.uuid, COMMANDS, 5)
    assert await Guests(machine).ask(wanted.domain.uuid) is None
    assert read({}).report.hostname == ""
