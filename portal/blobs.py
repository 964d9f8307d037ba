"""The files of the image library: what people put in, what is arriving, and the verified bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from nanovirt.resources.errors import Invalid, TooLarge
from nanovirt.resources.inspector import ImageFacts, inspect
from nanovirt.resources.reasons import Reason
from nanovirt.resources.segments import sync_directory, write_all
from nanovirt.resources.store_directory import room

MIB = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ZEROS = bytes(MIB)


class Seen(NamedTuple):
    """A file in the folder `incoming`, as far as a change of it would show."""

    inode: int
    size: int
    changed: int
    """Nanoseconds since 1970."""


class Verified(NamedTuple):
    """Bytes that are in the library now."""

    sha256: str
    size: int
    facts: ImageFacts


class Stopped(Exception):
    """The server ends; what was begun is begun anew at its next start."""


def rejected(detail: str) -> Invalid:
    """The error for bytes that become no image."""
    return Invalid("spec.source", Reason.ImageRejected, detail=detail)


class Blobs:
    """Three folders: `incoming` (people's, never changed by us), `uploads` (by image uid), `blobs` (by SHA-256)."""

    def __init__(self, directory: Path, *, limit: int, reserve: int) -> None:
        """`limit`: bytes of one image. `reserve`: bytes of the disk that images leave to others."""
        self._limit, self._reserve = limit, reserve
        self._incoming, self.uploads, self._blobs = (directory / name for name in ("incoming", "uploads", "blobs"))
        for folder in (directory, self._incoming, self.uploads, self._blobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.uploads, self._blobs):
            folder.chmod(0o700)

    # --- verified bytes ---

    def path(self, sha256: str) -> Path:
        """Where bytes with that hash are, or would be. Raises ValueError for what is no hash."""
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is not a SHA-256")
        return self._blobs / sha256

    def has(self, sha256: str) -> bool:
        """Whether they are there; only verified ones ever are."""
        return bool(SHA256.fullmatch(sha256)) and self.path(sha256).is_file()

    def keep(self, arrived: Path, sha256: str, expected: Collection[str], kind: str = "Disk") -> Verified:
        """Inspect a file that is durable and that nobody writes any more, and take it in under its hash too.

        Raises Invalid (ImageRejected) when it is none of the announced ones or no image that may be used; OSError.
        """
        for wanted in expected:
            if wanted != sha256:
                raise rejected(f"its SHA-256 is {sha256}, not {wanted} as announced")
        facts = inspect(arrived, (kind,))
        arrived.chmod(0o600)
        with suppress(FileExistsError):
            os.link(arrived, self.path(sha256))
        sync_directory(self._blobs)
        return Verified(sha256, arrived.stat().st_size, facts)

    def check_room(self, size: int) -> None:
        """Raises TooLarge for an image over the limit, or over what the disk has left."""
        if size > self._limit:
            raise TooLarge(f"the image has {size} bytes; the limit is {self._limit}")
        left = room(self.uploads) - self._reserve
        if size > left:
            raise TooLarge(f"the image has {size} bytes; the server's disk has room for {max(left, 0)} more")

    def listed(self) -> list[Path]:
        """Every file that is ours (OSError)."""
        return [*self._blobs.iterdir(), *self.uploads.iterdir()]

    def unclaimed(self, files: Iterable[Path], hashes: Collection[str], uids: Collection[str]) -> list[Path]:
        """Blobs with none of the `hashes`, what arrived for none of the `uids`, and copies that nobody finished."""
        return [path for path in files if not self._claimed(path, hashes, uids)]

    def _claimed(self, path: Path, hashes: Collection[str], uids: Collection[str]) -> bool:
        if path.parent == self._blobs:
            return path.name in hashes
        uid, _, suffix = path.name.partition(".")
        return uid in uids and suffix != "copy"

    # --- what people put in ---

    def seen(self, name: str) -> Seen | None:
        """The file of that name in `incoming`, or None. Raises Invalid for what is no plain file; OSError."""
        fd = self._opened(name)
        if fd is None:
            return None
        try:
            return _seen(fd)
        finally:
            os.close(fd)

    def take(
        self,
        name: str,
        seen: Seen,
        uid: str,
        expected: Collection[str],
        told: Callable[[int], None],
        stop: Event,
        kind: str = "Disk",
    ) -> Verified | None:
        """Copy a file from `incoming` into the library; None if it is not, or does not stay, as it was `seen`.

        `told` hears how many bytes are copied. Raises Invalid, TooLarge, OSError, Stopped.
        """
        fd, copy = self._opened(name), self.uploads / f"{uid}.copy"
        if fd is None:
            return None
        try:
            if _seen(fd) != seen:
                return None
            if seen.size > self._limit:
                raise rejected(f"it has {seen.size} bytes; the limit is {self._limit}")
            self.check_room(seen.size)
            sha256 = _copied(fd, copy, told, stop)
            return self.keep(copy, sha256, expected, kind) if _seen(fd) == seen else None
        finally:
            os.close(fd)
            copy.unlink(missing_ok=True)

    def _opened(self, name: str) -> int | None:
        if not _FILE_NAME.fullmatch(name):
            raise rejected(f"{name[:60]!r} is not a plain file name")
        folder = os.open(self._incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
                raise rejected(f"{name} is not an ordinary file; put the file itself there") from error
            raise
        finally:
            os.close(folder)


def _seen(fd: int) -> Seen:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise rejected("it is not an ordinary file; put the file itself there")
    if found.st_nlink > 1:
        raise rejected("the file has a second name (hard link) somewhere; put a copy there")
    return Seen(found.st_ino, found.st_size, found.st_mtime_ns)


def _copied(source: int, target: Path, told: Callable[[int], None], stop: Event) -> str:
    """Copy all that can be read into a new durable file, holes left out; the SHA-256 of it."""
    target.unlink(missing_ok=True)
    digest, done = hashlib.sha256(), 0
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while piece := os.read(source, MIB):
            if stop.is_set():
                raise Stopped
            digest.update(piece)
            if piece == _ZEROS[: len(piece)]:
                os.lseek(fd, len(piece), os.SEEK_CUR)
            else:
                write_all(fd, piece)
            done += len(piece)
            told(done)
        os.ftruncate(fd, done)
        os.fsync(fd)
    finally:
        os.close(fd)
    return digest.hexdigest()
