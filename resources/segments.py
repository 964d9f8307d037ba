r"""The text of the file log: one record per line, chained by checksum, in preallocated segment files.

A line is `crc32c prev_crc rev synced_rev length {json}`: the checksum covers what is behind it up to the line's end,
`prev_crc` is the checksum of the line before, across files. The first line of a segment is its header; it carries the
revision before the segment. Behind the last line there are only zeros. `tr -d '\0' | cut -d' ' -f6- | jq` reads it.
A segment that a snapshot has summed up is compressed and moves from wal/ to history/; `zcat` reads it there.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from nanovirt.resources.log import RECORD_LIMIT

HEADER_VERSION = 1
"""What the first line of a segment says of its own form."""
_NAME = re.compile(r"\d{16}\.wal(\.gz)?")
_LINE_START = re.compile(rb"(?=[0-9a-f]{8} [0-9a-f]{8} \d{1,20} \d{1,20} \d{1,8} \{)")
_LONGEST_START = 8 + 1 + 8 + 1 + 20 + 1 + 20 + 1 + 8 + 1
RAISED = 1_000_000
"""By how much a restore raises the revision, so that none names two states."""
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


def follows(first: Frame, rev: int, crc: int) -> bool:
    """Whether the segment with that first line goes on from the line `crc` of revision `rev`, or was raised from it."""
    return first.prev == crc and (first.rev == rev or first.rev >= rev + RAISED)


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
    """What a segment holds, without the zeros at its end; of a compressed one OSError or zlib.error on damage."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else without_zeros(content)


def without_zeros(content: bytes) -> bytes:
    """What a segment that may be preallocated holds."""
    end = len(content)
    while end >= len(_ZEROS) and content[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    return content[:end].rstrip(b"\0")


def header(cluster: str, rev: int, prev: int) -> tuple[bytes, int]:
    """First line of the segment that continues revision `rev` of that cluster, and its checksum."""
    body = json.dumps({"segment": HEADER_VERSION, "cluster": cluster}, separators=(",", ":"))
    return encode(prev, rev, rev, body.encode())


def segments(folder: Path) -> list[Path]:
    """The segment files in one folder, oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def every_segment(directory: Path) -> list[Path]:
    """The segments of a store with those in its history, oldest first; of one that is in both places, the plain one."""
    # In this order, so that what moves into the history meanwhile is seen at least once.
    folders = [segments(folder) if folder.is_dir() else [] for folder in (directory / "wal", directory / "history")]
    found = {first_revision(path): path for paths in reversed(folders) for path in paths}
    return [found[first] for first in sorted(found)]


def beyond(paths: Sequence[Path], rev: int) -> list[Path]:
    """Of segments, oldest first, those that hold what came after revision `rev` (and perhaps some before it)."""
    return list(paths[max(bisect_right([first_revision(path) for path in paths], rev + 1) - 1, 0) :])


def segment_path(wal: Path, first: int) -> Path:
    """The file whose first record is revision `first`."""
    return wal / f"{first:016d}.wal"


def first_revision(path: Path) -> int:
    """The revision that a segment's name promises."""
    return int(path.name.partition(".")[0])


def write_all(fd: int, content: bytes | memoryview) -> None:
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
