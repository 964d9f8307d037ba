"""The one file of a backup: plain tar without links, folders or extensions, read as suspiciously as it deserves."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import GNU_FORMAT, HeaderError, TarInfo
from typing import BinaryIO, NamedTuple

from nanovirt.resources.errors import Rejected

MANIFEST = "MANIFEST.json"
BLOCK = 512
END = bytes(2 * BLOCK)
_PIECE = 1 << 20


class Member(NamedTuple):
    """A file in an archive: its bytes are `size` from `at` on."""

    name: str
    size: int
    at: int


def packed(name: str, size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """One file as an archive has it; `pieces` must add up to `size`."""
    yield _header(name, size)
    yield from pieces
    yield bytes(-size % BLOCK)


def _header(name: str, size: int) -> bytes:
    info = TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(GNU_FORMAT)


def members(file: BinaryIO, allowed: re.Pattern[str]) -> Iterator[Member]:
    """What an archive holds: names that are `allowed`, none twice. Rejected: it is cut off, or no archive of ours.

    Every byte beside the contents has to be what `packed` writes, so no link, folder or extension is understood at all.
    """
    end = file.seek(0, os.SEEK_END)
    at, seen = 0, set[str]()
    while (block := _block(file, at)) != bytes(BLOCK):
        try:
            info = TarInfo.frombuf(block, "ascii", "strict")
        except (HeaderError, UnicodeError) as error:
            raise Rejected(f"{_named(file)} is no backup, or damaged at byte {at}: {error}") from error
        at += BLOCK
        if not allowed.fullmatch(info.name) or info.name in seen:
            raise Rejected(f"{_named(file)} is no backup: {info.name[:100]!r} does not belong into one")
        if not 0 <= info.size <= end - at:
            raise Rejected(f"{_named(file)} is cut off, or no backup: {info.name} is not all there")
        padding = -info.size % BLOCK
        file.seek(at + info.size)
        if block != _header(info.name, info.size) or file.read(padding) != bytes(padding):
            raise Rejected(f"{_named(file)} is no backup, or damaged: {info.name} is not packed as a backup is")
        seen.add(info.name)
        yield Member(info.name, info.size, at)
        at += info.size + padding
    if end != at + len(END) or _block(file, at + BLOCK) != bytes(BLOCK):
        raise Rejected(f"{_named(file)} is cut off, or something follows its end")


def _block(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise Rejected(f"{_named(file)} is cut off, or no backup; take another one")
    return block


def _named(file: BinaryIO) -> str:
    return str(getattr(file, "name", "the backup"))


class Part(io.RawIOBase):
    """The bytes of one member, as a file of their own."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._fd, self._member, self._at = file.fileno(), member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Never beyond the member."""
        wanted = min(len(buffer), max(0, self._member.size - self._at))
        found = os.pread(self._fd, wanted, self._member.at + self._at)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def opened(file: BinaryIO, member: Member) -> io.BufferedReader:
    """A member of an open archive, to be read."""
    return io.BufferedReader(Part(file, member), _PIECE)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """What a file holds, a little at a time."""
    while piece := file.read(_PIECE):
        yield piece


def write_private(path: Path, content: Iterable[bytes]) -> None:
    """Write a new file, durable and for its owner alone (OSError; FileExistsError when there is one)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        for piece in content:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
