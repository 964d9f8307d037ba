"""Serial lines of guests as files and sockets: the log that is kept of each, within limits, and the way in."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from nanovirt.resources.errors import Conflict, HypervisorError

LIMIT = 1 << 20
"""Bytes of a log; what is older goes into a second file, which it replaces."""
TRIM_SECONDS = 2.0


async def connect(line: Path) -> socket:
    """Connect to a serial line. Conflict when nobody is behind it."""
    made = socket(AF_UNIX, SOCK_STREAM)
    made.setblocking(False)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(made, str(line))
    except OSError as error:  # TimeoutError is one
        made.close()
        why = "it does not run, or was started by an older Nano and has no line that can be joined; restart it"
        raise Conflict("instances", line.stem, why) from error
    except BaseException:
        made.close()
        raise
    return made


def before(log: Path) -> Path:
    """Where the older half of a log is."""
    return log.with_name(f"{log.name}.1")


def read(log: Path) -> bytes:
    """What is kept of both halves. HypervisorError when the disk refuses."""
    try:
        return _content(before(log)) + _content(log)
    except OSError as error:
        raise HypervisorError(f"{log} cannot be read: {error.strerror}") from error


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2 * LIMIT)
    except FileNotFoundError:
        return b""


def remove(log: Path) -> None:
    """Nothing is kept any more."""
    log.unlink(missing_ok=True)
    before(log).unlink(missing_ok=True)


def trim(log: Path) -> bool:
    """Bring a log that has grown over the limit back to nothing, and keep its end in the second file (OSError).

    It stays the same file, as whoever writes has it open for appending; what is written in that very moment is lost.
    """
    with log.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LIMIT:
            return False
        file.seek(max(0, size - LIMIT))
        kept = file.read(LIMIT)
        unborn = log.with_name(f"{log.name}.new")
        unborn.write_bytes(kept)
        unborn.replace(before(log))
        file.truncate(0)
    return True


def trim_all(folder: Path) -> None:
    """`trim` every log in a folder; one that is gone meanwhile, or cannot be written, waits for the next time."""
    for log in folder.glob("*.log"):
        try:
            trim(log)
        except OSError:
            continue
