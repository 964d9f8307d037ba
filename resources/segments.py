r"""The text of the file log: one record per line, chained by checksum, in preallocated segment files.

A line is `crc32c prev_crc rev synced_rev length {json}`: the checksum covers what is behind it up to the line's end,
`prev_crc` is the checksum of the line before, across files. The first line of a segment is its header; it carries the
revision before the segment. Behind the last line there are only zeros. `tr -d '\0' | cut -d' ' -f6- | jq` reads it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from nanovirt.resources.log import RECORD_LIMIT

FORMAT_VERSION = 1
_NAME = re.compile(r"\d{16}\.wal")
_LINE_START = re.compile(rb"(?=[0-9a-f]{8} [0-9a-f]{8} \d{1,20} \d{1,20} \d{1,8} \{)")
_LONGEST_START = 8 + 1 + 8 + 1 + 20 + 1 + 20 + 1 + 8 + 1
LONGEST_HEADER = 256
"""Bytes that the first line of a segment may take."""
_ZEROS = bytes(1 << 16)


class Frame(NamedTuple):
    """One whole line; `end` is the offset just behind it."""

    crc: int
    prev: int
    rev: int
    end: int


def encode(prev: int, rev: int, synced: int, body: bytes) -> tuple[bytes, int]:
    """The line of a record, and its checksum for the next one to carry."""
    rest = b"%08x %d %d %d %b" % (prev, rev, synced, len(body), body)
    crc = crc32c(rest)
    return b"%08x %b\n" % (crc, rest), crc


def parse(content: bytes, at: int) -> Frame | None:
    """The line that starts at offset `at`; None when no whole and unharmed one does. The JSON itself is not decoded."""
    head = content[at : at + _LONGEST_START]
    start = head.split(b" ", 5)
    if len(start) != 6:
        return None
    try:
        prev, rev, length = int(start[1], 16), int(start[2]), int(start[4])
    except ValueError:
        return None
    end = at + len(head) - len(start[5]) + length
    if not 0 < length <= RECORD_LIMIT or content[end : end + 1] != b"\n":
        return None
    crc = crc32c(content[at + 9 : end])
    return Frame(crc, prev, rev, end + 1) if b"%08x" % crc == start[0] else None


def walk(content: bytes, after: Frame) -> Iterator[Frame]:
    """The lines behind `after`, each chained to the one before; ends without a word where one is not."""
    while (frame := parse(content, after.end)) and frame.prev == after.crc and frame.rev == after.rev + 1:
        yield frame
        after = frame


def bodies(content: bytes) -> Iterator[bytes]:
    """The JSON of each record in a segment that has been found whole."""
    at = content.index(b"\n") + 1
    while (end := content.find(b"\n", at)) >= 0:
        yield content[content.index(b"{", at) : end]
        at = end + 1


def whole_line_beyond(content: bytes, at: int, rev: int) -> Frame | None:
    """The first whole line at or behind `at` with a revision greater than `rev`, wherever it starts."""
    for match in _LINE_START.finditer(content, at):
        frame = parse(content, match.start())
        if frame and frame.rev > rev:
            return frame
    return None


def written(path: Path) -> bytes:
    """What a segment holds, without the zeros at its end."""
    content = path.read_bytes()
    end = len(content)
    while end >= len(_ZEROS) and content[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    return content[:end].rstrip(b"\0")


def header(cluster: str, rev: int, prev: int) -> tuple[bytes, int]:
    """First line of the segment that continues revision `rev` of that cluster, and its checksum."""
    body = json.dumps({"segment": FORMAT_VERSION, "cluster": cluster}, separators=(",", ":"))
    return encode(prev, rev, rev, body.encode())


def segments(wal: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted(path for path in wal.iterdir() if _NAME.fullmatch(path.name))


def segment_path(wal: Path, first: int) -> Path:
    """The file whose first record is revision `first`."""
    return wal / f"{first:016d}.wal"


def first_revision(path: Path) -> int:
    """The revision that a segment's name promises."""
    return int(path.stem)


def write_all(fd: int, content: bytes) -> None:
    """Write every byte, however few the system takes at a time (OSError)."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (OSError)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Segment:
    """The segment that is being written: an open file, the offset of its end, and how far it is allocated.

    Every method raises OSError as the system does; after a failed `append` the segment must not be used again.
    """

    def __init__(self, path: Path, end: int, size: int) -> None:
        self.path = path
        self.end = end
        self._fd = os.open(path, os.O_WRONLY)
        os.lseek(self._fd, end, os.SEEK_SET)
        self._size = allocate(self._fd, size)

    @classmethod
    def create(cls, wal: Path, cluster: str, rev: int, prev: int, size: int) -> tuple[Segment, int]:
        """A new segment behind revision `rev`, durable with its header and its name, and the header's checksum."""
        path, line, crc = segment_path(wal, rev + 1), *header(cluster, rev, prev)
        unborn = path.with_suffix(".tmp")
        fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            write_all(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        unborn.rename(path)
        sync_directory(wal)
        return cls(path, len(line), size), crc

    def fits(self, length: int) -> bool:
        """Whether that many bytes more stay within what is allocated."""
        return self.end + length <= self._size

    def append(self, content: bytes) -> None:
        """Write and make durable."""
        write_all(self._fd, content)
        os.fdatasync(self._fd)
        self.end += len(content)

    def seal(self) -> None:
        """Cut off the zeros and close; whether the cut is durable does not matter."""
        os.ftruncate(self._fd, self.end)
        self.close()

    def close(self) -> None:
        os.close(self._fd)


def allocate(fd: int, size: int) -> int:
    """Claim room up to `size` if the disk has it; the file's size then."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return os.fstat(fd).st_size
