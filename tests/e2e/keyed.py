"""Requests with an Idempotency-Key over TLS, whose answer is read, or lost because the client is gone before it."""

from __future__ import annotations

import asyncio
import ssl
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from nanovirt.resources import access, kubeconfig, wire
from nanovirt.resources.codec import JSON
from tests.e2e.server_process import PATIENT, ServerProcess

NANO = "/apis/nano/v1"
TRANSACTIONS = f"{NANO}/transactions"
LONGEST = 64 << 20
IN_FLIGHT = "RequestInFlight"


@dataclass(frozen=True)
class Request:
    """What is sent, as often as it is sent."""

    key: str
    method: str
    path: str
    doc: JSON | None = None

    @property
    def body(self) -> bytes:
        """Empty when there is no document."""
        return b"" if self.doc is None else orjson.dumps(self.doc)


class Answer(NamedTuple):
    """What the server said."""

    code: int
    body: bytes

    @property
    def doc(self) -> JSON:
        """The document in it."""
        return dict(orjson.loads(self.body))

    @property
    def in_flight(self) -> bool:
        """Whether the same request is being carried out, so that one has to ask again."""
        return self.code == 409 and IN_FLIGHT.encode() in self.body


def transaction(key: str, writes: list[JSON]) -> Request:
    """A set of writes."""
    return Request(key, "POST", TRANSACTIONS, {"apiVersion": "nano/v1", "kind": "Transaction", "writes": writes})


class Line:
    """One connection at a time to the server, made anew when it has broken; requests one after the other."""

    def __init__(self, server: ServerProcess) -> None:
        found = kubeconfig.from_kubeconfig(server.kubeconfig)
        tls = access.tls(found)
        assert isinstance(tls, ssl.SSLContext), "the point is a real server over TLS"
        self._tls, self._port = tls, server.api_port
        self._head = "".join(f"{name}: {value}\r\n" for name, value in access.headers(found).items())
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def another(self) -> Line:
        """A second one to the same server."""
        other = copy(self)
        other._open = None
        return other

    async def ask(self, request: Request) -> Answer | None:
        """The answer, or None when the connection broke before it was there."""
        try:
            async with asyncio.timeout(PATIENT):
                reader = await self._send(request)
                return await _read(reader)
        except (OSError, EOFError):
            self.close()
            return None

    async def lose(self, request: Request, after: float) -> None:
        """Send it, and be gone `after` seconds later, whether it has been carried out by then or not."""
        try:
            await self._send(request)
            await asyncio.sleep(after)
        except OSError:
            pass  # the server was quicker to go
        finally:
            self.close()

    def close(self) -> None:
        """End the connection without a farewell; the next request makes a new one."""
        if self._open is not None:
            self._open[1].transport.abort()
        self._open = None

    async def _send(self, request: Request) -> asyncio.StreamReader:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls, limit=LONGEST)
        reader, writer = self._open
        body = request.body
        kind = wire.PATCH_TYPES["merge"] if request.method == "PATCH" else "application/json"
        head = f"{request.method} {request.path} HTTP/1.1\r\nHost: nano\r\n{self._head}Content-Length: {len(body)}\r\n"
        head += f"Idempotency-Key: {request.key}\r\n" if request.method != "GET" else ""
        head += f"Content-Type: {kind}\r\n" if body else ""
        writer.write(f"{head}\r\n".encode() + body)
        await writer.drain()
        return reader


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return Answer(int(head[9:12]), await reader.readexactly(length))


async def seen(line: Line, key: str) -> Answer:
    """What the server says of a key without a repetition; insists while it says that it is under way."""
    return await insist(line, Request(key, "GET", f"{TRANSACTIONS}/{key}"))


async def insist(line: Line, request: Request) -> Answer:
    """Send it again until there is an answer that is one; AssertionError when the server does not come to an end."""
    async with asyncio.timeout(PATIENT):
        while (answer := await line.ask(request)) is None or answer.in_flight:
            await asyncio.sleep(0.005)
    return answer
