"""Receiving the bytes of images: resumable requests on images/NAME/upload, after the tus protocol 1.0."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from aiohttp import web

from nanovirt.portal.blobs import SHA256, Blobs
from nanovirt.portal.identity import Subject
from nanovirt.portal.part import MIB, Part, discard
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import Conflict, Invalid, Malformed, TooLarge, Unavailable, UnsupportedMedia
from nanovirt.resources.image import Image
from nanovirt.resources.kind import Key
from nanovirt.resources.report import ImageProgress
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Store

SILENCE_SECONDS = 60.0
NOTE_SECONDS = 1.0
"""Progress is told at most so often."""
PIECE = MIB


class Asked(NamedTuple):
    """What a request says about its bytes; None and "" where it says nothing."""

    offset: int
    total: int | None
    sha256: str


class Uploads:
    """One request at a time writes to an image; `offset` answers HEAD, `receive` PUT, PATCH and POST."""

    def __init__(self, store: Store, reports: Reports, blobs: Blobs, arrived: Callable[[], None]) -> None:
        """`arrived` is called when a request that brought bytes has ended."""
        self._store, self._reports, self._blobs, self._arrived = store, reports, blobs, arrived
        self._parts: dict[str, Part] = {}
        self._lock = Lock()
        self.busy: set[str] = set()
        """Uids of the images to which a request writes at this moment."""

    def part(self, uid: str) -> Part | None:
        """How far the upload of an image is, also after a restart; None when none has begun (blocks, OSError)."""
        with self._lock:
            if uid not in self._parts and (found := Part.resume(self._path(uid))):
                self._parts[uid] = found
            return self._parts.get(uid)

    def holds(self, uid: str, part: Part) -> bool:
        """Whether that is still the upload of the image."""
        return self._parts.get(uid) is part

    def drop(self, uid: str) -> None:
        """Forget an upload and its bytes (blocks, OSError)."""
        with self._lock:
            self._parts.pop(uid, None)
            discard(self._path(uid))

    def _begin(self, uid: str, total: int) -> Part:
        with self._lock:
            part = self._parts[uid] = Part.begin(self._path(uid), total)
            return part

    def _path(self, uid: str) -> Path:
        return self._blobs.uploads / uid

    async def offset(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """HEAD: how many bytes are there (Upload-Offset), of how many (Upload-Length, when that is known)."""
        del request, subject
        part = await asyncio.to_thread(self.part, self._store.get(key).uid)
        # Without a length aiohttp's client takes the end of the connection for the end of the answer.
        return web.Response(headers=_headers(part) | {"Content-Length": "0"})

    async def receive(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """Take bytes from `offset` on. POST, or offset 0 with a total, begins anew.

        Upload-Offset, Upload-Length and Upload-Sha256 are headers, or the query parameters offset, total and sha256.
        Raises Conflict (another offset, another request, or the image is Ready), Invalid, TooLarge, Malformed,
        UnsupportedMedia, Unavailable (silence). Whatever came before an error stays.
        """
        del subject
        asked = _asked(request)
        uid = self._uid(key)
        with self._alone(uid, key):
            part = await self._begun(uid, key, asked, request)
            if asked.sha256:
                part.announce(asked.sha256)
            if asked.offset + (request.content_length or 0) > part.length:
                raise TooLarge(
                    f"bytes up to {asked.offset + (request.content_length or 0)} of {part.length} make no sense"
                )
            await _go_on(request)
            self._note(key, part)
            try:
                await self._stream(request, part, key)
            finally:
                self._note(key, part)
            with _disk():
                await asyncio.to_thread(part.note)
        self._arrived()
        return web.Response(status=201 if request.method == "POST" else 204, headers=_headers(part))

    def _uid(self, key: Key) -> str:
        """The image, if bytes may come for it."""
        entry = self._store.get(key)
        progress = self._reports.image(key)
        image = trusted(Image, entry.raw)
        if image.spec.source.upload is None:
            raise Invalid("spec.source", "the image does not take its bytes from an upload")
        if image.status.phase == "Ready" or (progress is not None and progress.phase in {"Inspecting", "Ready"}):
            raise Conflict("images", key.name, "its bytes are complete and do not change; make another Image")
        if entry.deleting:
            raise Conflict("images", key.name, "it is being deleted")
        return entry.uid

    @contextmanager
    def _alone(self, uid: str, key: Key) -> Iterator[None]:
        if uid in self.busy:
            raise Conflict("images", key.name, "another request is sending its bytes; try again when that has ended")
        self.busy.add(uid)
        try:
            yield
        finally:
            self.busy.discard(uid)

    async def _begun(self, uid: str, key: Key, asked: Asked, request: web.BaseRequest) -> Part:
        part = await asyncio.to_thread(self.part, uid)
        total = asked.total
        if asked.offset == 0 and total is None and (part is None or request.method == "POST"):
            total = request.content_length
        if request.method == "POST" or (asked.offset == 0 and total is not None):
            return await self._new(uid, total)
        if part is None:
            raise Conflict("images", key.name, "no upload has begun; begin at offset 0 and say the total")
        if asked.offset != part.offset:
            raise Conflict(
                "images", key.name, f"{part.offset} bytes are there; go on at that offset, not {asked.offset}"
            )
        if total not in (None, part.length):
            raise Conflict("images", key.name, f"the upload began with a total of {part.length} bytes, not {total}")
        return part

    async def _new(self, uid: str, total: int | None) -> Part:
        if not total:
            raise Malformed("say how many bytes will come: Upload-Length, or the query parameter total, above 0")
        self._blobs.check_room(total)
        with _disk():
            return await asyncio.to_thread(self._begin, uid, total)

    async def _stream(self, request: web.BaseRequest, part: Part, key: Key) -> None:
        at, told = part.offset, time.monotonic()
        async with aclosing(_pieces(request)) as pieces:
            async for piece in pieces:
                with _disk():
                    await _to_its_end(part.append, at, piece)
                at += len(piece)
                if time.monotonic() - told > NOTE_SECONDS:
                    told = time.monotonic()
                    self._note(key, part)

    def _note(self, key: Key, part: Part) -> None:
        if self._store.peek(key) is not None:
            progress = ImageProgress(phase="Uploading", received=part.offset, total=part.length)
            self._reports.note_image(key, progress)


async def _pieces(request: web.BaseRequest) -> AsyncGenerator[bytes, None]:
    """The body in pieces that are worth a write; what came before the client went away comes before Unavailable."""
    came = bytearray()
    try:
        while some := await _next(request):
            came += some
            if len(came) >= PIECE:
                yield bytes(came)
                came.clear()
    except Unavailable:
        if came:
            yield bytes(came)
        raise
    if came:
        yield bytes(came)


async def _to_its_end(write: Callable[[int, bytes], None], at: int, piece: bytes) -> None:
    """Run in a thread; a connection that breaks meanwhile lets the write end before anybody else may write."""
    running = asyncio.get_running_loop().run_in_executor(None, write, at, piece)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _next(request: web.BaseRequest) -> bytes:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await request.content.readany()
    except TimeoutError as error:
        raise Unavailable(f"no byte came for {SILENCE_SECONDS:.0f} s; ask for the offset and go on there") from error
    except (ConnectionError, web.PayloadAccessError, web.RequestPayloadError) as error:
        raise Unavailable(f"the client went away: {error}") from error


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the server cannot keep the bytes: {error.strerror or error}; go on later") from error


async def _go_on(request: web.BaseRequest) -> None:
    """Tell a client that waits for it that its bytes are wanted (RFC 9110 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _headers(part: Part | None) -> dict[str, str]:
    said = {"Upload-Offset": str(part.offset if part else 0), "Cache-Control": "no-store", "Tus-Resumable": "1.0.0"}
    return said | ({"Upload-Length": str(part.length)} if part else {})


def _asked(request: web.BaseRequest) -> Asked:
    if "Content-Encoding" in request.headers:
        raise UnsupportedMedia("send the bytes as they are: Content-Encoding is not read here")
    sha256 = request.headers.get("Upload-Sha256") or request.query.get("sha256", "")
    if sha256 and not SHA256.fullmatch(sha256):
        raise Invalid("sha256", "a SHA-256 is 64 lower-case hexadecimal digits")
    offset = 0 if request.method == "POST" else _number(request, "Upload-Offset", "offset")
    if offset is None:
        raise Malformed("say where the bytes belong: Upload-Offset, or the query parameter offset")
    return Asked(offset, _number(request, "Upload-Length", "total"), sha256)


def _number(request: web.BaseRequest, header: str, parameter: str) -> int | None:
    text = request.headers.get(header) or request.query.get(parameter, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Malformed(f"{header} is a whole number of bytes, not {text[:40]!r}")
    return int(text)
