"""Verified images on this host: for each a qcow2 file of our own making, named by the hash of what it was made from."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from nanovirt.agent import qemu_img
from nanovirt.agent.machine import NoRoom
from nanovirt.resources.errors import HypervisorError, Invalid
from nanovirt.resources.inspector import ImageFacts, inspect

SHA256 = re.compile(r"[0-9a-f]{64}")
FOLDER_MODE = 0o711
"""QEMU's user passes through on its way to a file that libvirt lets it have; nobody else learns what is there."""
CONVERT_SECONDS = 60
"""Processor time of a conversion, besides one second for each PACE bytes."""
PACE = 64 * 2**20
FULL = {errno.ENOSPC, errno.EDQUOT}
T = TypeVar("T")


def cached(folder: Path, sha256: str) -> Path:
    """Where the image is, or would be. HypervisorError for what is no hash, since it becomes part of a path."""
    if not SHA256.fullmatch(sha256):
        raise HypervisorError(f"{sha256[:80]!r} is not the SHA-256 of an image")
    return folder / f"{sha256}.qcow2"


def make_folder(folder: Path) -> None:
    """Make it with its parents, and see to its mode whatever the umask. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable. OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class ImageCache:
    """The images in `folder`. What a killed agent left half done is removed when the first image is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._adding: dict[str, asyncio.Lock] = {}
        self._swept = False

    def has(self, sha256: str) -> bool:
        """Whether the image is there; only whole ones ever have its name."""
        return cached(self.folder, sha256).is_file()

    async def add(self, sha256: str, fetch: Callable[[Path], Awaitable[None]]) -> None:
        """Fetch, verify, inspect and convert, unless it is there. HypervisorError, NoRoom, and what `fetch` raises."""
        target = cached(self.folder, sha256)
        async with self._adding.setdefault(sha256, asyncio.Lock()):
            if self.has(sha256):
                return
            fetched, made = target.with_suffix(".fetched"), target.with_suffix(".new")
            try:
                await self._thread(lambda: self._prepare(fetched))
                await self._fetch(fetch, fetched)
                facts = await self._thread(lambda: _verified(fetched, sha256))
                seconds = CONVERT_SECONDS + facts.virtual_size // PACE
                await qemu_img.convert(fetched, facts.format, made, seconds)
                await self._thread(lambda: _settle(made, target))
            finally:
                await asyncio.to_thread(_discard, fetched, made)

    def _prepare(self, fetched: Path) -> None:
        make_folder(self.folder)
        if not self._swept:
            self._swept = True
            _discard(*self.folder.glob("*.fetched"), *self.folder.glob("*.new"))
        fetched.touch(0o600, exist_ok=False)

    async def _fetch(self, fetch: Callable[[Path], Awaitable[None]], file: Path) -> None:
        """What goes wrong while fetching is the fetcher's to say, but for a full disk."""
        try:
            await fetch(file)
        except OSError as error:
            if error.errno in FULL:
                raise NoRoom(str(self.folder)) from error
            raise

    async def _thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            if error.errno in FULL:
                raise NoRoom(str(self.folder)) from error
            raise HypervisorError(f"the image cannot be kept in {self.folder}: {error.strerror}") from error


def _verified(file: Path, sha256: str) -> ImageFacts:
    """Hash and inspect. HypervisorError when it is not the image that was asked for, or none that may be used."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise HypervisorError(f"what arrived has the SHA-256 {found}, not {sha256}; the image was damaged or exchanged")
    try:
        return inspect(file, ("Disk", "Media"))
    except Invalid as error:
        raise HypervisorError(f"the image {sha256} was refused: {error}") from error


def _discard(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _settle(made: Path, target: Path) -> None:
    sync(made)
    made.replace(target)
    sync(target.parent)
