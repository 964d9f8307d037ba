"""A real guest agent through libvirt: what it tells, and what happens when it is one that lies."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest
from passlib.hash import sha512_crypt

from nanovirt.agent.guest_replies import COMMANDS, read
from nanovirt.agent.guests import Guests, renaming
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.agent.machine import GuestRefused
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.guest import GuestDetails
from nanovirt.resources.secret import SecretText
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
    await orders(machine, wanted.domain.uuid)


async def test_machine_without_an_agent_is_silent_and_says_so_at_once(machine: LibvirtMachine) -> None:
    wanted = bare()
    await machine.define(wanted, "digest")
    await machine.start(wanted.domain.uuid)
    with pytest.raises(HypervisorError):
        await machine.ask_guest(wanted.domain.uuid, COMMANDS, 5)
    assert await Guests(machine).ask(wanted.domain.uuid) is None
    assert read({}).report.hostname == ""


async def orders(machine: LibvirtMachine, uuid: str) -> None:
    """In the same guest, since it takes its time to boot: password, frozen file systems, another name."""
    guests = Guests(machine)
    guests.follow(uuid, lambda: None)
    await guests.set_password(uuid, "root", SecretText("another-horse-battery"))
    [line] = [one for one in (await run(machine, uuid, "cat", "/etc/shadow")).splitlines() if one.startswith("root:")]
    assert sha512_crypt.verify("another-horse-battery", line.split(":")[1])
    with pytest.raises(GuestRefused, match=r"^(?!libvirt)") as refused:  # its own words, and nothing around them
        await guests.set_password(uuid, "nobody-here", SecretText("x"))
    assert "agent command" not in str(refused.value)

    assert await guests.freeze(uuid, 30) >= 1
    found = await guests.ask(uuid)
    assert found is not None
    assert found.frozen
    assert await guests.thaw(uuid) >= 1
    await machine.ask_guest(uuid, [renaming("renamed-2")], 20)
    async with asyncio.timeout(90):
        while (await heard(guests, uuid)).report.hostname != "renamed-2":
            await asyncio.sleep(0.5)


async def run(machine: LibvirtMachine, uuid: str, path: str, *arguments: str) -> str:
    """What a program in the guest prints; for tests, since templates may switch that off."""
    order = {"execute": "guest-exec", "arguments": {"path": path, "arg": arguments, "capture-output": True}}
    async with asyncio.timeout(90):
        while (raw := await answered(machine, uuid, json.dumps(order))) is None:
            await asyncio.sleep(0.2)
    status = json.dumps({"execute": "guest-exec-status", "arguments": {"pid": json.loads(raw)["return"]["pid"]}})
    async with asyncio.timeout(90):
        while True:
            done = json.loads(await answered(machine, uuid, status) or '{"return": {"exited": false}}')["return"]
            if done["exited"]:
                return base64.b64decode(done.get("out-data", "")).decode()
            await asyncio.sleep(0.2)


async def answered(machine: LibvirtMachine, uuid: str, command: str) -> str | None:
    """The reply to a command, None when nobody answers: that the agent hears is known a moment after it has booted."""
    try:
        [raw] = (await machine.ask_guest(uuid, [command], 20)).values()
    except HypervisorError:
        return None
    return raw
