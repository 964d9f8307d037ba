"""The host's end of consoles: bytes between a socket of the machine and whoever the server, or the gateway, let in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from aiohttp import WSMsgType, web

from nanovirt.agent.listener import Routes
from nanovirt.agent.machine import Machine
from nanovirt.resources.console import FRAME_MAX, TAKEN, USER_HEADER
from nanovirt.resources.errors import Conflict
from nanovirt.resources.placement import Placement

PIECE = 65536
HEARTBEAT_SECONDS = 20.0
LEAVING_SECONDS = 2.0


class Over(Exception):
    """A console has come to its end: `code` is what its websocket closes with."""

    def __init__(self, code: int = 1000) -> None:
        super().__init__(code)
        self.code = code


async def both(*ways: Callable[[], Awaitable[None]]) -> int:
    """Run all until the first ends; the code that it ended with."""

    async def until_over(way: Callable[[], Awaitable[None]]) -> None:
        await way()
        raise Over

    code = 1000
    try:
        async with asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(until_over(way))
    except* Over as ended:
        first = ended.exceptions[0]
        code = first.code if isinstance(first, Over) else code
    except* (OSError, EOFError):
        code = 1011
    return code


@dataclass(eq=False)
class Holder:
    """Who has the serial line."""

    user: str
    thrown_out: asyncio.Event


class Consoles:
    """Screens and serial lines of one host's machines."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._holders: dict[str, Holder] = {}

    @property
    def routes(self) -> Routes:
        """(method, word) -> who answers."""
        return {("GET", "vnc"): self.vnc, ("GET", "serial"): self.serial, ("GET", "log"): self.log}

    async def log(self, _request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET: what the guest said on its serial line, as far as it is kept."""
        said = await self._machine.serial_log(placement.spec.domain.uuid)
        return web.Response(body=said, content_type="application/octet-stream")

    async def vnc(self, request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET, websocket: the display, as QEMU speaks RFB. Many may look at a time."""
        line = await self._machine.screen(placement.spec.domain.uuid)
        return await carry(request, line, asyncio.Event())

    async def serial(self, request: web.BaseRequest, placement: Placement) -> web.StreamResponse:
        """GET, websocket: the serial line. Conflict when somebody has it, unless `force` is given, which throws out."""
        uuid, name = placement.spec.domain.uuid, placement.spec.instance
        held = self._holders.get(uuid)
        if held is not None and not request.query.get("force"):
            why = f"its serial line is held by {held.user}; --force takes it"
            raise Conflict("instances", name, why)
        if held is not None:
            held.thrown_out.set()
        mine = self._holders[uuid] = Holder(request.headers.get(USER_HEADER, "")[:100], asyncio.Event())
        try:
            line = await self._machine.serial(uuid)
            return await carry(request, line, mine.thrown_out)
        finally:
            if self._holders.get(uuid) is mine:
                del self._holders[uuid]


async def carry(request: web.BaseRequest, line: socket, thrown_out: asyncio.Event) -> web.WebSocketResponse:
    """Bytes both ways until one side ends, each at the pace of the slower one."""
    client = web.WebSocketResponse(compress=False, heartbeat=HEARTBEAT_SECONDS, max_msg_size=FRAME_MAX)
    reader, writer = await asyncio.open_connection(sock=line)
    code = 1000
    try:
        await client.prepare(request)

        async def up() -> None:
            async for message in client:
                if message.type is not WSMsgType.BINARY:
                    return
                writer.write(message.data)
                await writer.drain()
                await asyncio.sleep(0)  # a side that never waits would leave the loop to nobody else

        async def down() -> None:
            while piece := await reader.read(PIECE):
                await client.send_bytes(piece)
                await asyncio.sleep(0)

        async def out() -> None:
            await thrown_out.wait()
            raise Over(TAKEN)

        code = await both(up, down, out)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await client.close(code=code)
    return client
