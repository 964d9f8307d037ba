"""Large files written so that the log beside them hardly notices."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from nanovirt.resources.segments import write_all

_PIECE = 64 << 10
"""Bytes of one sync: whoever syncs at the same moment waits for so many at most."""


def write_trickling(fd: int, content: Iterable[bytes], *, alone: bool = False) -> None:
    """Write all of `content`, durable at the end (OSError): in small pieces, the disk idle for as long after each.

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


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    for at in range(0, len(content), _PIECE):
        began = time.monotonic()
        write_all(fd, view[at : at + _PIECE])
        os.fdatasync(fd)
        time.sleep(time.monotonic() - began)
