"""A guest agent that lies, over the real way: libvirt, its socket, and an agent of ours that misbehaves on it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nanovirt.agent.guest_replies import COMMANDS
from nanovirt.agent.guests import Guests
from nanovirt.agent.libvirt_machine import LibvirtMachine
from nanovirt.resources.guest import GuestDetails
from tests.agent.test_guest_replies import bounded
from tests.agent.test_hypervisor import bare
from tests.agent.test_seed_in_guest import booted, guest, prepared
from tests.testbed import Host

__all__ = ["guest"]
ROUNDS = 150
"""Each asks for every command: about a thousand hostile replies."""
WORDS = ("host-name", "pretty-name", "ip-addresses", "hardware-address", "mountpoint", "total-bytes", "zone", "x")
ATOMS: tuple[Any, ...] = (
    None, True, -1, 2**62, 1e300, "", "\x1b[2J", "\u202e", "../../etc/passwd", "52:54:00:00:00:01", "10.0.0.1", "::1",
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>", "A" * 5000, [], {},
)  # fmt: skip


class Liar:
    """Answers the sync that libvirt begins with, and then whatever `said` gives; every connection is served."""

    def __init__(self) -> None:
        self.chance = random.Random(7)
        self.answered = 0
        self.raw: bytes | None = None
        self.silent = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                await self._answer(line, writer)
        except (ConnectionError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(line.strip(b"\xff\n"))
        except ValueError:
            return  # what the real agent in the guest says
        if str(asked.get("execute", "")).startswith("guest-sync"):
            mark = b"\xff" if "delimited" in asked["execute"] else b""
            writer.write(mark + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n")
        elif self.silent:
            return
        else:
            self.answered += 1
            writer.write(self.raw if self.raw is not None else json.dumps({"return": self.value(4)}).encode() + b"\n")
        await writer.drain()

    def value(self, depth: int) -> Any:
        """Anything, and often in the shape of something sensible."""
        kind = self.chance.randrange(4) if depth else 0
        if kind == 1:
            return [self.value(depth - 1) for _ in range(self.chance.choice((0, 1, 5, 40)))]
        if kind >= 2:
            return {self.chance.choice(WORDS): self.value(depth - 1) for _ in range(self.chance.randrange(6))}
        return self.chance.choice(ATOMS)


@asynccontextmanager
async def lying(machine: LibvirtMachine, host: Host, image: tuple[str, Path]) -> AsyncIterator[tuple[Liar, str]]:
    """A guest behind whose channel the liar sits, as libvirt sees it; the real agent in it opens the port."""
    liar, path = Liar(), host.dir / "liar.sock"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(liar.serve, path, limit=1 << 20)
    try:
        wanted = await prepared(machine, image)
        uuid = wanted.domain.uuid
        xml = (await machine.hypervisor.definition(uuid))[0]
        before = "<channel type='unix'>"
        assert before in xml
        await machine.hypervisor.define(xml.replace(before, f"{before}<source mode='connect' path='{path}'/>"))
        await machine.start(uuid)
        await booted(machine, wanted)
        yield liar, uuid
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def heard(guests: Guests, uuid: str) -> GuestDetails:
    async with asyncio.timeout(90):
        while (details := await guests.ask(uuid)) is None:
            await asyncio.sleep(0.5)
    return details


@pytest.mark.timeout(400)
async def test_liar_harms_neither_the_agent_nor_another_machine(
    machine: LibvirtMachine, host: Host, guest: tuple[str, Path]
) -> None:
    other = bare(2)
    await machine.define(other, "digest")
    await machine.start(other.domain.uuid)
    async with lying(machine, host, guest) as (liar, uuid):
        guests = Guests(machine)
        bounded(await heard(guests, uuid))
        for _ in range(ROUNDS):
            details = await guests.ask(uuid)
            if details is not None:
                bounded(details)
        assert liar.answered > ROUNDS * (len(COMMANDS) - 1)

        liar.silent = True
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(guests.ask(uuid))
            seen = await quick(machine, other.domain.uuid)
        slow = waiting.result()
        assert slow is None or slow.report.hostname == ""
        assert time.monotonic() - began < 30
        assert seen < 5, "another machine is looked at meanwhile"

        liar.silent = False
        for raw in (b"{\n", b"\xff" * 10_000 + b"\n", b'{"return": "' + b"x" * 3_000_000 + b'"}\n', b"\0" * 70_000):
            liar.raw = raw
            details = await guests.ask(uuid)
            assert details is None or not details.report.hostname
        assert await quick(machine, other.domain.uuid) < 5
        found = await machine.domain(uuid)
        assert found is not None
        assert found.state == "Running"


async def quick(machine: LibvirtMachine, uuid: str) -> float:
    """Seconds that it takes to look at a machine and at the figures of all."""
    began = time.monotonic()
    assert await machine.domain(uuid) is not None
    assert uuid in await machine.counters()
    return time.monotonic() - began
