"""Records for the tests of the logs: what stands in revision N is known from N alone."""

from __future__ import annotations

from pathlib import Path

from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.log import Record

SMALL = Sizes(segment=1 << 12, ballast=1 << 12, room=0)


def record(rev: int, size: int = 0) -> Record:
    """Revision `rev`, padded by `size` bytes."""
    return Record(rev, b'{"rev":%d,"writes":[{"object":"%b"}]}' % (rev, b"v" * size))


def records(first: int, last: int, size: int = 0) -> list[Record]:
    """Revisions `first` to `last`, both included."""
    return [record(rev, size) for rev in range(first, last + 1)]


async def write_log(directory: Path, last: int, size: int = 0, sizes: Sizes = SMALL) -> None:
    """A closed log of revisions 1 to `last`, each its own commit."""
    log = FileLog.open(directory, sizes)
    for rev in range(1, last + 1):
        await log.append([record(rev, size)])
    log.close()
