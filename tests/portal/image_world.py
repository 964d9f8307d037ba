"""A library of images at work behind the real API, over a real folder."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from aiohttp.test_utils import RawTestServer

from nanovirt.portal.api.dispatch import Api
from nanovirt.portal.identity import ADMIN, Subject
from nanovirt.portal.images import Library
from nanovirt.portal.pki import HOSTS
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.engine import Engine
from nanovirt.resources.kind import Key
from nanovirt.resources.report import ImageProgress
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Create, Half, Update
from tests.portal.world import commit, document

KEY = Key("images", "default", "debian")
UPLOAD: JSON = {"upload": {}}
RAW = os.urandom(512) + bytes(2 * 2**20) + os.urandom(1536) + bytes(2**20)
"""Three and a bit MiB, most of it holes."""


SHA256 = hashlib.sha256(RAW).hexdigest()
OTHER = bytes(1024)


@dataclass
class Shop:
    """A library at work behind the real API, and a client of it."""

    store: Engine
    reports: Reports
    library: Library
    client: ClientSession
    base: str
    folder: Path

    async def call(self, method: str, body: bytes = b"", headers: dict[str, str] | None = None, /, **query: Any) -> Any:
        """One request to the upload of the image: its code, and its Upload-Offset or reason."""
        url = f"{self.base}/apis/nano/v1/namespaces/default/images/debian/upload"
        async with self.client.request(
            method, url, data=io.BytesIO(body) if body else None, headers=headers, params=query
        ) as response:
            if response.status < 300:
                return response.status, int(response.headers["Upload-Offset"])
            return response.status, (await response.json())["reason"] if method != "HEAD" else ""

    async def offset(self) -> int:
        code, offset = await self.call("HEAD")
        assert code == 200
        return int(offset)

    async def ended(self, phase: str, key: Key = KEY) -> ImageProgress:
        """Wait until the image is so far."""
        async with asyncio.timeout(10):
            while (progress := self.reports.image(key)) is None or progress.phase != phase:
                await asyncio.sleep(0.01)
        return progress

    async def note_ready(self, key: Key = KEY) -> None:
        """What the controller does: write it down."""
        progress = await self.ended("Ready", key)
        status = {"phase": "Ready", "sha256": progress.sha256, "size": progress.size}
        await commit(self.store, Update(key, load(self.store.get(key).raw) | {"status": status}, Half.STATUS))

    def put(self, name: str, content: bytes) -> Path:
        """A file in the folder, put there a minute ago."""
        path = self.folder / "incoming" / name
        path.write_bytes(content)
        age(path)
        return path

    def files(self) -> dict[str, list[str]]:
        return {name: sorted(path.name for path in (self.folder / name).iterdir()) for name in ("blobs", "uploads")}


def age(path: Path, seconds: float = 60) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def image(source: JSON, name: str = "debian") -> Create:
    key = Key("images", "default", name)
    return Create(key, document(key, {"source": source}))


@asynccontextmanager
async def shop(folder: Path, store: Engine, **limits: int) -> AsyncIterator[Shop]:
    """A server, from its start to its end; the same folder and store may be given to another one afterwards."""
    reports = Reports(0.0)
    library = Library(store, reports, folder, **{"reserve": 0, **limits})
    subjects = {name: Subject(f"host:{name}", (HOSTS,), host=name) for name in ("h1", "h2")}
    api = Api(store, lambda request: subjects.get(request.headers.get("X-Host", ""), ADMIN), library.hooks)
    server = RawTestServer(api.handle)
    await server.start_server()
    try:
        async with asyncio.TaskGroup() as group, ClientSession() as client:
            running = group.create_task(library.run())
            yield Shop(store, reports, library, client, str(server.make_url("")).rstrip("/"), folder)
            running.cancel()
    finally:
        await server.close()


@asynccontextmanager
async def half_sent(opened: Shop, length: int) -> AsyncIterator[asyncio.StreamWriter]:
    """A connection that has announced all of RAW and sent `length` bytes of it; it breaks in the end."""
    port = int(opened.base.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/apis/nano/v1/namespaces/default/images/debian/upload?offset=0&total={len(RAW)}"
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(RAW)}\r\n\r\n".encode() + RAW[:length])
    try:
        await writer.drain()
        async with asyncio.timeout(30):
            while (told := opened.reports.image(KEY)) is None or told.phase != "Uploading":
                await asyncio.sleep(0.01)
        yield writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
