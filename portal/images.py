"""The image library at work: looks after every Image that is not Ready, and gives agents the bytes of their volumes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event

from aiohttp import web

from nanovirt.portal.blobs import Blobs, Seen, Stopped, Verified
from nanovirt.portal.identity import Subject
from nanovirt.portal.part import Part
from nanovirt.portal.uploads import Uploads
from nanovirt.resources.codec import trusted
from nanovirt.resources.errors import Invalid, NotFound, TooLarge
from nanovirt.resources.hold import held
from nanovirt.resources.image import Image
from nanovirt.resources.kind import Key
from nanovirt.resources.placement import Placement
from nanovirt.resources.report import ImageProgress
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Commit, Entry, Store

log = logging.getLogger(__name__)

LIMIT = 256 * 2**30
RESERVE = 2**30
POLL_SECONDS = 2.0
SETTLE_SECONDS = 2.0
"""A file that was changed less than so long ago may still be growing."""
RETRY_SECONDS = 30.0
"""After a disk refused."""
Hook = Callable[[web.BaseRequest, Subject, Key], Awaitable[web.StreamResponse]]


class Library:
    """`run` must live as long as images are wanted; `hooks` are its sub-resources of the API."""

    def __init__(
        self, store: Store, reports: Reports, directory: Path, *, limit: int = LIMIT, reserve: int = RESERVE
    ) -> None:
        """`directory` becomes the library's own. `limit`: bytes of an image; `reserve`: bytes left free on the disk."""
        self._store, self._reports = store, reports
        self._blobs = Blobs(directory, limit=limit, reserve=reserve)
        self._changed = asyncio.Event()
        self.uploads = Uploads(store, reports, self._blobs, self._changed.set)
        self._refused: dict[str, Seen] = {}
        self._retry: dict[str, float] = {}
        self._there: set[str] = set()
        # A store without any Image at the start is no reason to remove all bytes.
        self._sweep_due = bool(store.list("images"))
        self._stop = Event()
        store.subscribe(self._follow)

    @property
    def hooks(self) -> Mapping[tuple[str, str, str], Hook]:
        """(plural, sub-resource, method) -> who answers."""
        sending = {("images", "upload", method): self.uploads.receive for method in ("PUT", "PATCH", "POST")}
        asking = {("images", "upload", method): self.uploads.offset for method in ("HEAD", "GET")}
        giving = {("placements", "image", method): self.image for method in ("HEAD", "GET")}
        return {**sending, **asking, **giving}

    def _follow(self, commit: Commit) -> None:
        for key, before, after in commit.changes:
            if key.plural != "images":
                continue
            if before is not None and (after is None or after.uid != before.uid):
                self._reports.forget(key)
                self._sweep_due = True
            self._changed.set()

    async def image(self, request: web.BaseRequest, subject: Subject, key: Key) -> web.StreamResponse:
        """GET placements/NAME/image?volume=NAME: what that volume is made from, or what is in that drive for media.

        Raises NotFound.
        """
        del subject
        placement = trusted(Placement, self._store.get(key).raw)
        name = request.query.get("volume", "")
        held = {one.name: one.image for one in placement.spec.media}
        held |= {one.name: one.source for one in placement.spec.volumes}
        source = held.get(name)
        if source is None or not self._blobs.has(source.sha256):
            self._there.clear()
            self._changed.set()
            raise NotFound("images", source.image if source else f"{key.name}, volume {name[:60]}")
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "no-store"}
        return web.FileResponse(self._blobs.path(source.sha256), chunk_size=2**20, headers=headers)

    # --- the loop ---

    async def run(self) -> None:
        """Bring every Image nearer to Ready, one at a time, for ever."""
        try:
            while True:
                self._changed.clear()
                for key, entry in self._store.list("images"):
                    await self._look(key, entry)
                if self._sweep_due and not held(self._store):
                    await self._sweep()
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._changed.wait()
        finally:
            # A thread that copies an image must not hold up the end of the server.
            self._stop.set()

    async def _look(self, key: Key, entry: Entry) -> None:
        if entry.deleting or not self._still(key, entry.uid) or self._retry.get(entry.uid, 0) > time.monotonic():
            return
        known = entry.row.status_sha256 if entry.row.status_phase == "Ready" else ""
        if known and await self._settled(entry.uid, known):
            return
        progress = self._reports.image(key)
        if progress is not None and progress.phase == "Ready" and self._blobs.has(progress.sha256):
            return  # the controller is about to write it down
        image = trusted(Image, entry.raw)
        expected = {one for one in (known, image.spec.source.sha256) if one}
        try:
            if image.spec.source.file is not None:
                await self._from_file(key, entry.uid, image, expected)
            elif image.spec.source.upload is not None:
                await self._from_upload(key, entry.uid, expected, image.spec.type)
        except (TooLarge, OSError) as error:
            self._retry[entry.uid] = time.monotonic() + RETRY_SECONDS
            log.warning("image cannot be taken in now", extra={"image": str(key), "why": str(error)})
            self._note(key, entry.uid, ImageProgress(phase="Failed", detail=f"{error} (tried again soon)"))

    async def _settled(self, uid: str, sha256: str) -> bool:
        """Whether a Ready image has its bytes; then what they came from is not needed any more."""
        if sha256 in self._there:
            return True
        if not await asyncio.to_thread(self._blobs.has, sha256):
            return False
        await asyncio.to_thread(self.uploads.drop, uid)
        self._there.add(sha256)
        return True

    async def _from_file(self, key: Key, uid: str, image: Image, expected: set[str]) -> None:
        seen, file = None, image.spec.source.file or ""
        try:
            seen = await asyncio.to_thread(self._blobs.seen, file)
            if seen is None or 0 <= time.time() - seen.changed / 1e9 < SETTLE_SECONDS:
                self._note(key, uid, ImageProgress(phase="Waiting"))
            elif self._refused.get(uid) != seen:
                verified = await self._taken(key, uid, file, seen, expected, image.spec.type)
                if verified is not None:
                    self._ready(key, uid, verified)
        except Invalid as error:
            if seen is not None:
                self._refused[uid] = seen
            self._fail(key, uid, error)

    async def _taken(self, key: Key, uid: str, file: str, seen: Seen, expected: set[str], kind: str) -> Verified | None:
        loop, told = asyncio.get_running_loop(), 0.0

        def tell(done: int) -> None:
            nonlocal told
            if time.monotonic() - told > 1:
                told = time.monotonic()
                progress = ImageProgress(phase="Inspecting", received=done, total=seen.size)
                loop.call_soon_threadsafe(self._note, key, uid, progress)

        self._note(key, uid, ImageProgress(phase="Inspecting", total=seen.size))
        try:
            return await asyncio.to_thread(self._blobs.take, file, seen, uid, expected, tell, self._stop, kind)
        except Stopped:
            return None

    async def _from_upload(self, key: Key, uid: str, expected: set[str], kind: str) -> None:
        part = await asyncio.to_thread(self.uploads.part, uid)
        progress = self._reports.image(key)
        if part is None:
            if progress is None or progress.phase != "Failed":
                self._note(key, uid, ImageProgress(phase="Waiting"))
        elif uid in self.uploads.busy or not self.uploads.holds(uid, part):
            return
        elif not part.complete:
            self._note(key, uid, ImageProgress(phase="Uploading", received=part.offset, total=part.length))
        else:
            await self._finish(key, uid, part, expected, kind)

    async def _finish(self, key: Key, uid: str, part: Part, expected: set[str], kind: str) -> None:
        self._note(key, uid, ImageProgress(phase="Inspecting", received=part.length, total=part.length))
        try:
            sha256 = await asyncio.to_thread(part.digest)
            wanted = expected | ({part.announced} if part.announced else set())
            verified = await asyncio.to_thread(self._blobs.keep, part.path, sha256, wanted, kind)
        except Invalid as error:
            await asyncio.to_thread(self.uploads.drop, uid)
            self._fail(key, uid, error)
        else:
            self._ready(key, uid, verified)

    # --- what is told ---

    def _ready(self, key: Key, uid: str, verified: Verified) -> None:
        sha256, size, facts = verified
        log.info("image is ready", extra={"image": str(key), "sha256": sha256, "size": size, "format": facts.format})
        told = ImageProgress(
            phase="Ready",
            received=size,
            total=size,
            size=size,
            virtual_size=facts.virtual_size,
            sha256=sha256,
            format=facts.format,
        )
        self._note(key, uid, told)

    def _fail(self, key: Key, uid: str, error: Invalid) -> None:
        detail = str(error.params.get("detail", error))
        progress = self._reports.image(key)
        if progress is None or progress.detail != detail:
            log.warning("image was refused", extra={"image": str(key), "why": detail})
        self._note(key, uid, ImageProgress(phase="Failed", detail=detail))

    def _note(self, key: Key, uid: str, progress: ImageProgress) -> None:
        if self._still(key, uid):
            self._reports.note_image(key, progress)

    def _still(self, key: Key, uid: str) -> bool:
        """Whether the name still means that Image."""
        entry = self._store.peek(key)
        return entry is not None and entry.uid == uid

    # --- what is left over ---

    async def _sweep(self) -> None:
        """Remove the bytes that no Image has any more."""
        # In this order: what arrives for an Image that is made meanwhile is not among the files.
        files = await asyncio.to_thread(self._blobs.listed)
        images = self._store.list("images")
        hashes = {entry.row.status_sha256 for _, entry in images}
        hashes |= {told.sha256 for key, _ in images if (told := self._reports.image(key)) is not None}
        uids = {entry.uid for _, entry in images}
        gone = self._blobs.unclaimed(files, hashes, uids | self.uploads.busy)
        self._sweep_due = bool(self.uploads.busy - uids)
        self._there &= hashes
        for path in gone:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            log.info("image file removed", extra={"file": path.name})
