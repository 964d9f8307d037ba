"""The bytes of one upload as far as they have come, on disk and hashed, to be gone on with after any interruption."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import orjson

from nanovirt.resources.errors import Conflict, TooLarge
from nanovirt.resources.segments import write_all
from nanovirt.resources.store_directory import write_whole

if TYPE_CHECKING:
    from hashlib import _Hash

MIB = 2**20
SYNC_BYTES = 64 * MIB
"""So much, at most, a crash of the machine takes back."""


class Part:
    """`length` bytes are to come, `offset` are there. Calls block; two threads cannot append the same bytes."""

    def __init__(self, path: Path, length: int, announced: str, offset: int) -> None:
        """Not for callers: `begin` and `resume` are."""
        self.path, self.length, self.announced, self.offset = path, length, announced, offset
        self._synced = offset
        self._hash: _Hash | None = None if offset else hashlib.sha256()
        self._lock = Lock()

    @classmethod
    def begin(cls, path: Path, length: int) -> Part:
        """Start anew, whatever was there before (OSError)."""
        discard(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        part = cls(path, length, "", 0)
        part.note()
        return part

    @classmethod
    def resume(cls, path: Path) -> Part | None:
        """What an earlier start of the server has left, without the bytes that may not be durable (OSError)."""
        try:
            noted = orjson.loads(_note_of(path).read_bytes())
            length, synced, announced = int(noted["length"]), int(noted["synced"]), str(noted["sha256"])
            if not path.stat().st_size >= synced >= 0:
                return None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        os.truncate(path, synced)
        return cls(path, length, announced, synced)

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.length

    def announce(self, sha256: str) -> None:
        """The hash that the client says the whole will have; it is checked when all bytes are there."""
        self.announced = sha256

    def append(self, at: int, piece: bytes) -> None:
        """Add bytes at the end. Raises Conflict if that is not `at` any more, TooLarge for too many, OSError."""
        with self._lock:
            if at != self.offset:
                raise Conflict("images", self.path.name, f"the upload stands at {self.offset}, not at {at}")
            if at + len(piece) > self.length:
                raise TooLarge(f"more bytes came than the {self.length} announced")
            hashed = self._hashed()
            fd = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.lseek(fd, at, os.SEEK_SET)
                write_all(fd, piece)
            finally:
                os.close(fd)
            hashed.update(piece)
            self.offset += len(piece)
        if self.offset - self._synced >= SYNC_BYTES:
            self.note()

    def note(self) -> None:
        """Make what is there durable, and remember how much that is (OSError)."""
        with self._lock:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            noted = {"length": self.length, "synced": self.offset, "sha256": self.announced}
            write_whole(_note_of(self.path), orjson.dumps(noted))
            self._synced = self.offset

    def digest(self) -> str:
        """SHA-256 (hex) of what is there (OSError)."""
        with self._lock:
            return self._hashed().hexdigest()

    def _hashed(self) -> _Hash:
        """The state of the hash; after a restart it has to be found from the file once."""
        if self._hash is None:
            with self.path.open("rb") as file:
                self._hash = hashlib.file_digest(file, "sha256")
        return self._hash


def discard(path: Path) -> None:
    """Remove an upload and what was noted about it (OSError)."""
    _note_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
