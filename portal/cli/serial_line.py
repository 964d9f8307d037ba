"""A terminal joined to a serial line: raw keys one way, bytes the other, until Ctrl-]."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import WSMsgType

from nanovirt.resources import access, wire
from nanovirt.resources.access import Credentials
from nanovirt.resources.console import FRAME_MAX, PROTOCOL, TOKEN_PROTOCOL, WORDS
from nanovirt.resources.errors import StoreUnreachable

ESCAPE = b"\x1d"
OPEN_SECONDS = 15.0
REST_SECONDS = 2.0
"""What a guest may still answer after the end of a piped input."""


def join(credentials: Credentials, path: str, token: str) -> str:
    """Block until it is over; why it is."""
    return asyncio.run(_join(credentials, path, token))


async def _join(credentials: Credentials, path: str, token: str) -> str:
    protocols = (PROTOCOL, f"{TOKEN_PROTOCOL}{token}")
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(OPEN_SECONDS):
                socket = await session.ws_connect(
                    credentials.server + path,
                    protocols=protocols,
                    ssl=access.tls(credentials) or True,
                    compress=0,
                    heartbeat=20.0,
                    max_msg_size=FRAME_MAX,
                )
            async with socket:
                return await _talk(socket)
    except aiohttp.WSServerHandshakeError as error:
        said = error.headers.get("Nano-Refusal", "") if error.headers else ""
        raise wire.refusal(error.status, said.encode(), "the serial line") from error
    except (aiohttp.ClientError, OSError) as error:
        raise StoreUnreachable(f"{credentials.server} cannot be reached: {error or 'no answer in time'}") from error


async def _talk(socket: aiohttp.ClientWebSocketResponse) -> str:
    keys: asyncio.Queue[bytes] = asyncio.Queue(64)
    loop, source = asyncio.get_running_loop(), sys.stdin.fileno()

    def pressed() -> None:
        typed = os.read(source, 4096)
        if not typed or keys.full():
            loop.remove_reader(source)
        if not keys.full():
            keys.put_nowait(typed)

    async def up() -> str:
        while typed := await keys.get():
            before, left, _ = typed.partition(ESCAPE)
            if before:
                await socket.send_bytes(before)
            if left:
                return "left"
        await asyncio.sleep(REST_SECONDS)
        return "the input has ended"

    async def down() -> str:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                sys.stdout.buffer.write(message.data)
                sys.stdout.buffer.flush()
        return WORDS.get(socket.close_code or 0, "the line has ended")

    with _raw(source):
        try:
            loop.add_reader(source, pressed)
        except PermissionError:  # a plain file is always ready, and cannot be waited for
            keys.put_nowait(os.read(source, FRAME_MAX))
            keys.put_nowait(b"")
        try:
            async with asyncio.TaskGroup() as group:
                ways = [group.create_task(up()), group.create_task(down())]
                done, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for one in rest:
                    one.cancel()
            return next(iter(done)).result()
        finally:
            loop.remove_reader(source)


@contextmanager
def _raw(source: int) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; nothing for what is no terminal."""
    if not os.isatty(source):
        yield
        return
    before = termios.tcgetattr(source)
    tty.setraw(source)
    try:
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
