"""The door for viewers: who is let in, who is not, and that nothing but VeNCrypt with a token opens it."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import socket, socketpair

import pytest

from nanovirt.agent import gateway
from nanovirt.agent.gateway import VERSION, Doors
from nanovirt.portal.pki import Pki
from nanovirt.resources.access import from_host_credentials, listening_tls
from nanovirt.resources.errors import Conflict, Forbidden
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from tests.agent.placements import placement

UID = "11111111-1111-4111-8111-00000000000a"
SECRET = b"nano_secret"


@dataclass
class World:
    """A gateway before a display that sends back what it is sent; `valid` are the tokens that the server knows."""

    port: int
    tls: ssl.SSLContext
    valid: set[str] = field(default_factory=lambda: {hashlib.sha256(SECRET).hexdigest()})
    over: asyncio.Event = field(default_factory=asyncio.Event)
    off: bool = False
    displays: int = 0


@pytest.fixture
async def w(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(gateway, "PAUSE_SECONDS", 0.0)
    pki = Pki(tmp_path, datetime.now(UTC))
    shown = from_host_credentials(pki.host_credentials("h1", UID, "https://127.0.0.1:1", ["127.0.0.1"]))
    made = placement()
    world = World(0, ssl.create_default_context(cadata=pki.ca_pem))

    def find(instance: Key) -> Placement | None:
        return made if instance == Key("instances", "default", "web-1") else None

    async def screen(_uuid: str) -> socket:
        if world.off:
            raise Conflict("instances", "web-1", "it does not run")
        ours, theirs = socketpair()
        world.displays += 1
        reader, writer = await asyncio.open_connection(sock=theirs)
        group.create_task(display(reader, writer))
        return ours

    @asynccontextmanager
    async def admit(key: Key, digest: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        assert key == made.key
        if digest not in world.valid:
            raise Forbidden("the token is wrong, was used, or is over")
        world.valid.discard(digest)

        async def until_over() -> None:
            await world.over.wait()

        yield until_over

    async with asyncio.TaskGroup() as group:
        doors = Doors(find, screen, admit, listening_tls(shown, anybody=True))
        server = await asyncio.start_server(doors.enter, "127.0.0.1", 0)
        world.port = server.sockets[0].getsockname()[1]
        yield world
        server.close()


async def display(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As QEMU on its socket."""
    try:
        writer.write(VERSION)
        assert await reader.readexactly(12) == VERSION
        writer.write(b"\1\1")
        assert await reader.readexactly(1) == b"\1"
        writer.write(b"\0\0\0\0")
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def knock(w: World, user: str, password: bytes) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
    """Why it is not let in; empty when it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
    assert await reader.readexactly(12) == VERSION
    writer.write(VERSION)
    assert await reader.readexactly(2) == b"\1\x13"
    writer.write(b"\x13")
    assert await reader.readexactly(2) == b"\0\2"
    writer.write(b"\0\2")
    assert await reader.readexactly(6) == b"\0\1\0\0\1\6"
    writer.write(b"\0\0\1\6")
    assert await reader.readexactly(1) == b"\1"
    await writer.start_tls(w.tls, server_hostname="127.0.0.1")
    name = user.encode()
    writer.write(len(name).to_bytes(4, "big") + len(password).to_bytes(4, "big") + name + password)
    if await reader.readexactly(4) == b"\0\0\0\0":
        return "", reader, writer
    return (await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))).decode(), reader, writer


async def test_viewer_with_a_token_reaches_the_display_over_tls(w: World) -> None:
    why, reader, writer = await knock(w, "default/web-1", SECRET)
    assert why == ""
    writer.write(b"\1" + b"\xff" * 100_000)
    assert await reader.readexactly(100_001) == b"\1" + b"\xff" * 100_000
    writer.close()


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("default/web-1", b"wrong"),
        ("default/web-1", b""),
        ("default/web-2", SECRET),
        ("other/web-1", SECRET),
        ("web-1", SECRET),
        ("", SECRET),
        ("default/web-1/x", SECRET),
    ],
)
async def test_wrong_user_and_wrong_token_hear_the_same(w: World, user: str, password: bytes) -> None:
    why, _, writer = await knock(w, user, password)
    assert why == gateway.WRONG
    assert w.displays == 0
    writer.close()


async def test_token_lets_in_once(w: World) -> None:
    assert (await knock(w, "default/web-1", SECRET))[0] == ""
    assert (await knock(w, "default/web-1", SECRET))[0] == gateway.WRONG
    w.over.set()


async def test_machine_that_is_off_is_said(w: World) -> None:
    w.off = True
    why, _, writer = await knock(w, "default/web-1", SECRET)
    assert "does not run" in why
    writer.close()


async def test_viewer_is_cut_off_when_the_server_says_so(w: World) -> None:
    _, reader, writer = await knock(w, "default/web-1", SECRET)
    w.over.set()
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("said", [b"RFB 003.003\n", b"GET / HTTP/1.", VERSION + b"\1", VERSION + b"\2", b"\xff" * 12])
async def test_plain_vnc_and_everything_else_ends_at_once(w: World, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
    writer.write(said)
    async with asyncio.timeout(30):
        heard = await reader.read()
    assert heard in (VERSION, VERSION + b"\1\x13")
    assert w.displays == 0
    writer.close()


async def test_endless_names_are_not_read(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "USER_MAX", 4)
    with pytest.raises((EOFError, OSError)):
        await knock(w, "default/web-1", SECRET)


async def test_viewer_that_says_nothing_is_shown_out(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
    async with asyncio.timeout(30):
        assert await reader.read() == VERSION
    writer.close()
