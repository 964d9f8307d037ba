"""The door for VNC viewers of third parties: VeNCrypt X509Plain in front of the machines' displays.

The exchange is that of the RFB protocol's security types (rfbproto, sections 7.1 and 7.2, and VeNCrypt): the viewer
names NAMESPACE/INSTANCE as its user and a token as its password, which the server judges. There is no other way in.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from socket import socket

from nanovirt.agent.consoles import both
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement

log = logging.getLogger(__name__)

VERSION = b"RFB 003.008\n"
VENCRYPT, X509_PLAIN = 19, 262
HANDSHAKE_SECONDS = 30.0
PAUSE_SECONDS = 1.0
"""Before a refusal: whoever guesses gets one guess a second and connection."""
USER_MAX, PASSWORD_MAX = 255, 1024
SHAKING_MAX, OPEN_MAX = 32, 256
IDLE_SECONDS = 3600.0
PIECE = 65536
WRONG = "Authentication failed: ask for another token with `nanoctl console`"
FAULTS = (OSError, EOFError, ssl.SSLError, TimeoutError)

Admit = Callable[[Key, str], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]]
"""Asks the server whether the token with that SHA-256 opens the screen of that Placement (NanoError when it does not);
gives what returns when it may not be looked at any more."""


class Refused(Exception):
    """The viewer is not let in; the text is for the person before it."""


class Doors:
    """`find` knows the Placement of an instance here, `screen` connects to the display of a machine."""

    def __init__(
        self,
        find: Callable[[Key], Placement | None],
        screen: Callable[[str], Awaitable[socket]],
        admit: Admit,
        tls: ssl.SSLContext,
    ) -> None:
        self._find, self._screen, self._admit, self._tls = find, screen, admit, tls
        self._shaking = self._open = 0

    async def serve(self, server: asyncio.Server) -> None:
        """Let viewers in until cancelled."""
        async with server:
            await server.serve_forever()

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One viewer, from its first byte to its last."""
        peer = (writer.get_extra_info("peername") or ("",))[0]
        try:
            if self._shaking >= SHAKING_MAX or self._open >= OPEN_MAX:
                return
            await self._welcome(reader, writer, peer)
        except FAULTS as error:
            log.debug("viewer left", extra={"peer": peer, "detail": str(error) or type(error).__name__})
        finally:
            writer.close()
            with suppress(*FAULTS):
                async with asyncio.timeout(2.0):
                    await writer.wait_closed()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        self._shaking += 1
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                user, password = await credentials(reader, writer, self._tls)
        finally:
            self._shaking -= 1
        self._open += 1
        try:
            await self._let_in(reader, writer, user, hashlib.sha256(password).hexdigest())
        except (Refused, NanoError) as error:
            log.info("viewer refused", extra={"peer": peer, "machine": user[:100], "detail": type(error).__name__})
            await asyncio.sleep(PAUSE_SECONDS)
            said = str(error).encode() if isinstance(error, Refused) else WRONG.encode()
            writer.write(b"\0\0\0\1" + len(said).to_bytes(4, "big") + said)
            await writer.drain()
        finally:
            self._open -= 1

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, digest: str) -> None:
        namespace, _, name = user.partition("/")
        placement = self._find(Key("instances", namespace, name))
        if placement is None:
            raise Refused(WRONG)
        async with self._admit(placement.key, digest) as until_over:
            try:
                line = await self._screen(placement.spec.domain.uuid)
            except NanoError as error:
                raise Refused(f"The console cannot be reached: {error}") from error
            log.info("viewer let in", extra={"machine": user})
            writer_in = None
            try:
                reader_in, writer_in = await asyncio.open_connection(sock=line)
                await _greet_display(reader_in, writer_in)
                writer.write(b"\0\0\0\0")
                await writer.drain()
                await _carry((reader, writer), (reader_in, writer_in), until_over)
            finally:
                log.info("viewer left", extra={"machine": user})
                if writer_in is not None:
                    writer_in.close()


async def credentials(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext
) -> tuple[str, bytes]:
    """What the viewer says who it is, over TLS. OSError, EOFError for one that speaks anything else."""
    writer.write(VERSION)
    said = await reader.readexactly(12)
    if said != VERSION:
        raise ConnectionAbortedError(f"the viewer speaks {said!r}")
    writer.write(bytes([1, VENCRYPT]))
    if (await reader.readexactly(1))[0] != VENCRYPT:
        raise ConnectionAbortedError("the viewer does not know VeNCrypt")
    writer.write(b"\0\2")
    if await reader.readexactly(2) != b"\0\2":
        writer.write(b"\xff")
        raise ConnectionAbortedError("the viewer knows another VeNCrypt than 0.2")
    writer.write(b"\0" + b"\1" + X509_PLAIN.to_bytes(4, "big"))
    if await reader.readexactly(4) != X509_PLAIN.to_bytes(4, "big"):
        writer.write(b"\0")
        raise ConnectionAbortedError("the viewer does not take X509Plain")
    # Its ClientHello follows our byte at once, and must not be read before TLS is there to read it.
    writer.transport.pause_reading()  # type: ignore[attr-defined] # of a socket's transport
    writer.write(b"\1")
    await writer.drain()
    await writer.start_tls(tls, ssl_handshake_timeout=HANDSHAKE_SECONDS)
    head = await reader.readexactly(8)
    user, password = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    if user > USER_MAX or password > PASSWORD_MAX:
        raise ConnectionAbortedError("user or password is too long")
    name, secret = await reader.readexactly(user), await reader.readexactly(password)
    return name.decode(errors="replace"), secret


async def _greet_display(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak QEMU's own beginning for the viewer, up to where ClientInit comes."""
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        version = await reader.readexactly(12)
        writer.write(VERSION)
        kinds = await reader.readexactly((await reader.readexactly(1))[0])
        if version != VERSION or 1 not in kinds:
            raise ConnectionAbortedError("the display does not speak RFB 3.8 without authentication")
        writer.write(b"\1")
        if await reader.readexactly(4) != b"\0\0\0\0":
            raise ConnectionAbortedError("the display refuses")


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _carry(viewer: Ends, display: Ends, until_over: Callable[[], Awaitable[None]]) -> None:
    async def up() -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await viewer[0].read(PIECE)
            if not piece:
                return
            display[1].write(piece)
            await display[1].drain()
            await asyncio.sleep(0)

    async def down() -> None:
        while piece := await display[0].read(PIECE):
            viewer[1].write(piece)
            await viewer[1].drain()
            await asyncio.sleep(0)

    await both(up, down, until_over)
