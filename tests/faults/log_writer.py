"""A program that opens a file log, says what it found, appends batches and says after each what became of it.

`python -m tests.faults.log_writer DIRECTORY BATCHES SEED LIFE` writes what tests.faults.scripted says. It speaks with
writev, which is not among the calls that the log makes: a recording tells words from writes by that.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from nanovirt.resources.errors import StoreFailed
from nanovirt.resources.file_log import FileLog
from tests.faults.scripted import batch, sizes

STORE_FAILED = 75


def say(*words: object) -> None:
    """One line, at once."""
    os.writev(1, [" ".join(map(str, words)).encode() + b"\n"])


async def write(log: FileLog, count: int, seed: int, life: int) -> int:
    """Append while the log tends itself, and go on after a failure as nobody should; the exit code."""
    code, chance = 0, random.Random(f"{seed} {life}")
    async with asyncio.TaskGroup() as group:
        tending = group.create_task(log.tend())
        for _ in range(count):
            records = batch(log.head(), chance, seed, life)
            say("sent", records[-1].rev)
            try:
                await log.append(records)
                say("acked", log.head())
            except StoreFailed:
                say("failed", records[-1].rev)
                code = STORE_FAILED
            if chance.random() < 0.3:
                await summed_up()
        if chance.random() < 0.7:
            await summed_up()
        tending.cancel()
    return code


async def summed_up() -> None:
    """Until no process works for this one any more."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while children.read_text():
        await asyncio.sleep(0.01)


def main() -> int:
    """Open, report, append, close."""
    directory, count, seed, life = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    try:
        log = FileLog.open(directory, sizes(seed))
    except StoreFailed as failure:
        say("refused", failure)
        return STORE_FAILED
    say("found", log.head())
    code = asyncio.run(write(log, count, seed, life))
    log.close()
    say("closed", log.head())
    return code


if __name__ == "__main__":
    sys.exit(main())
