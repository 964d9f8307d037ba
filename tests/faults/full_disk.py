"""A program that mounts a disk of 4 MiB on a directory of its own namespace and fills it with a file log.

`python -m tests.faults.full_disk DIRECTORY ROOM`. ROOM is the room that an append has to leave; 0 lets the disk run
full. The disk ends with the program.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from nanovirt.resources.errors import LogFull, StoreFailed
from nanovirt.resources.file_log import FileLog, Sizes
from tests.faults.log_writer import say
from tests.faults.strace import python
from tests.resources.records import record, records

BALLAST = 1 << 20


async def fill(log: FileLog) -> int:
    """Append until the log takes no more, and say why; the number of bytes that it took."""
    before = log.head()
    while True:
        try:
            await log.append([record(log.head() + 1, size=20_000)])
        except (LogFull, StoreFailed) as refusal:
            say(type(refusal).__name__)
            return (log.head() - before) * 20_000


async def main(disk: Path, room: int) -> None:
    """Fill, open again, give up the ballast, fill again, open again."""
    sizes = Sizes(segment=1 << 17, ballast=BALLAST, room=room)
    log = FileLog.open(disk / "store", sizes)
    took = await fill(log)
    say("took the disk" if took > 1 << 20 else took)
    log.close()
    log = FileLog.open(disk / "store", sizes)
    if log.make_room():
        took = await fill(log)
        say("took the ballast" if BALLAST // 2 < took < BALLAST * 2 else took)
    head = log.head()
    log.close()
    log = FileLog.open(disk / "store", sizes)
    say("all there" if list(log.read()) == records(1, head, size=20_000) else "lost")
    log.close()


def command(directory: Path, room: int) -> list[str]:
    """What runs this program in a mount namespace of its own, as root there or not."""
    mount = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
    return ["unshare", "-Urm", "sh", "-c", mount, str(directory), *python("-m", __spec__.name, directory, room)]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
