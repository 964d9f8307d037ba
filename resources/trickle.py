"""Large files written so that the log beside them hardly notices."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from nanovirt.resources.segments import write_all

_PIECE = 64 << 10
"""Bytes of one write-back: whoever syncs at the same moment waits for so many at most."""
_WRITE_AND_WAIT = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER (sync_file_range(2))."""
_REST, _PACE = 4, 32 << 20
"""So many times as long as the work took, or so many bytes a second, whichever is slower."""
_PORTION = 128 << 10
"""Bytes that are read at a time."""
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class Readable(Protocol):
    """A file, plain or compressed."""

    def read(self, size: int, /) -> bytes: ...


def gently(things: Iterable[T]) -> Iterator[T]:
    """The same things; before each of them whoever waits for this processor has it.

    A process of the least priority should make way at once for whoever wakes up, but was seen to go on for the rest of
    its slice, 2 to 5 ms (Linux 6.18, two virtual processors): 38 of 3,341 writes beside a snapshot waited longer than
    1 ms for nothing else. Asked so often, it was 4 of 2,591, none longer than 2 ms.
    """
    for thing in things:
        os.sched_yield()
        yield thing


def portions(file: Readable) -> Iterator[bytes]:
    """What a file holds from where it stands on, bit by bit (OSError)."""
    return gently(iter(lambda: file.read(_PORTION), b""))


def write_trickling(fd: int, content: Iterable[bytes], *, alone: bool = False) -> None:
    """Write all of `content`, durable at the end (OSError): in small pieces, with a rest after each.

    `alone`: no log is beside it, so it need not be slow.
    """
    held: list[bytes] = []
    size = 0
    for piece in content:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            write_all(fd, b"".join(held)) if alone else _write(fd, b"".join(held))
            held, size = [], 0
    write_all(fd, b"".join(held))
    os.fsync(fd)


def rest(began: float, size: int) -> None:
    """Leave the disk to others after work on so many bytes that began then."""
    time.sleep(max(_REST * (time.monotonic() - began), size / _PACE))


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    for at in range(0, len(content), _PIECE):
        began = time.monotonic()
        begin = os.lseek(fd, 0, os.SEEK_CUR)
        write_all(fd, view[at : at + _PIECE])
        _write_back(fd, begin, len(view[at : at + _PIECE]))
        rest(began, _PIECE)


def _write_back(fd: int, begin: int, length: int) -> None:
    """Bring those bytes to the disk, past the journal of the file system, which the log needs for itself (OSError)."""
    offset, count = ctypes.c_int64(begin), ctypes.c_int64(length)
    if _libc.sync_file_range(fd, offset, count, ctypes.c_uint(_WRITE_AND_WAIT)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
