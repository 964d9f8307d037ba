"""A program that opens a file log, says what it found, appends batches and says after each what became of it.

`python -m tests.faults.log_writer DIRECTORY BATCHES PER_BATCH`. It speaks with writev, which is not among the calls
that the log makes, so that faults strike the log alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from nanovirt.resources.errors import StoreFailed
from nanovirt.resources.file_log import FileLog
from tests.resources.records import SMALL, record, records

STORE_FAILED = 75


def say(*words: object) -> None:
    """One line, at once."""
    os.writev(1, [" ".join(map(str, words)).encode() + b"\n"])


async def write(log: FileLog, batches: int, per_batch: int) -> int:
    """Append, and go on after a failure as nobody should; the exit code."""
    code = 0
    for _ in range(batches):
        first = log.head() + 1
        try:
            await log.append(records(first, first + per_batch - 1, size=300))
            say("acked", log.head())
        except StoreFailed:
            say("failed", first)
            code = STORE_FAILED
    return code


def main() -> int:
    """Open, report, append, close."""
    directory, batches, per_batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        log = FileLog.open(directory, SMALL)
    except StoreFailed as failure:
        say("refused", failure)
        return STORE_FAILED
    found = list(log.read())
    say("found", log.head())
    assert found == [record(rev, size=300) for rev in range(1, log.head() + 1)]
    code = asyncio.run(write(log, batches, per_batch))
    log.close()
    say("closed", log.head())
    return code


if __name__ == "__main__":
    sys.exit(main())
