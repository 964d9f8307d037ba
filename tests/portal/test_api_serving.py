"""The HTTP server under the API answers even bugs and broken requests with a Status, and tells no details."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from nanovirt.portal.api.serving import ApiServer


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """The port of a server whose handler has a bug."""

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("secret detail")

    runner = web.ServerRunner(ApiServer(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_bug_is_a_500_status_without_details() -> None:
    async with served() as port, ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        doc = await response.json()
        assert (response.status, doc["kind"], doc["reason"]) == (500, "Status", "InternalError")
        assert "secret" not in json.dumps(doc)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_broken_request_is_a_400_status_and_the_end(raw: bytes) -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw + b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert answer.count(b"HTTP/1.") == 1
        assert b'"kind":"Status"' in answer
