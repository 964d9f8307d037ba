"""What a history is played on: a log that can be opened again after a death. The one thing to write for another log."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Protocol

from nanovirt.resources import compaction
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.log import Log, MemoryLog, Record
from nanovirt.resources.segments import first_revision
from tests.histories.dying import Killed, Steps

SMALL = Sizes(segment=1 << 14, ballast=1 << 12, room=0)
DEATHS_IN_A_START = 3


class Ground(Protocol):
    """One log, life after life."""

    def open(self) -> Log:
        """What the next life begins with."""
        ...

    def abandon(self, log: Log) -> None:
        """Let go of a log as a dead process does: nothing more is written."""
        ...

    def sum_up(self, log: Log) -> bool:
        """Sum up what can be, if this log is one for that, and say so; may die at it."""
        ...


class OnFiles:
    """The file log in a directory, with segments that hold few records; starts and summings up die as well."""

    def __init__(self, directory: Path, chance: Random, steps: Steps) -> None:
        self._directory, self._chance, self._steps = directory, chance, steps

    def open(self) -> FileLog:
        """See Ground."""
        for _ in range(DEATHS_IN_A_START):
            try:
                with self._steps.doomed(self._chance.choice((-1, -1, 0, 1, 2, 3, 5, 8))):
                    return FileLog.open(self._directory, SMALL)
            except Killed:
                self._let_go()
        return FileLog.open(self._directory, SMALL)

    def abandon(self, log: Log) -> None:
        """See Ground."""
        assert isinstance(log, FileLog)
        log._closed = True
        if log._note is not None:
            log._note.cancel()
        log._thread.shutdown(wait=True)
        self._let_go()

    def _let_go(self) -> None:
        """Close all files below the directory, as the end of a process does."""
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                if link.readlink().is_relative_to(self._directory):
                    os.close(int(link.name))

    def sum_up(self, log: Log) -> bool:
        """See Ground; a process of its own in reality, so its death is not the server's."""
        assert isinstance(log, FileLog)
        live = first_revision(log._segment.path)
        if live < 2:
            return False
        try:
            with self._steps.doomed(self._chance.choice((-1, -1, -1, self._chance.randint(0, 40)))):
                compaction.sum_up(self._directory, live, 1 << 30)
        except Killed:
            pass
        return True


class SlowMemory(MemoryLog):
    """The memory log, as slow as a disk."""

    def __init__(self, records: list[Record], chance: Random) -> None:
        super().__init__(records)
        self._chance = chance

    async def append(self, records: list[Record]) -> None:  # type: ignore[override]
        """See Log."""
        await asyncio.sleep(self._chance.random() * 0.002)
        await super().append(records)
        await asyncio.sleep(self._chance.random() * 0.002)


class InMemory:
    """The memory log: what was appended outlives its process here."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._log = SlowMemory([], chance)

    def open(self) -> MemoryLog:
        """See Ground."""
        self._log = SlowMemory(list(self._log.read()), self._chance)
        return self._log

    def abandon(self, log: Log) -> None:
        """See Ground."""
        log.close()

    def sum_up(self, log: Log) -> bool:
        """See Ground."""
        del log
        return False
