"""Asking the past without holding up the event loop: that of a file log in a process beside it, others in a thread."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread

import orjson

from nanovirt.resources import history
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import Forgotten, Invalid, Unavailable
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.history import END, Question
from nanovirt.resources.log import Log
from nanovirt.resources.recorded import Recorded

AT_ONCE, WAITING = 2, 16
"""Questions that are being answered at a time, and that may wait for their turn."""
PIECE = 1 << 16
FEW = 64
"""Lines of a thread that come together."""


@dataclass(frozen=True)
class Told:
    """An answer: the revision, when it was made, the oldest that is kept, and lines as the view has them, in pieces."""

    rev: int
    at: str
    since: int
    since_at: str
    to: int
    to_at: str
    pieces: AsyncIterator[list[bytes]]


class Past:
    """Answers questions about what the log of a store holds."""

    def __init__(self, log: Log, newest: Callable[[], int]) -> None:
        """`newest`: the revision that is the present."""
        self._log, self._newest = log, newest
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._asked = 0

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Told]:
        """The answer, to be read inside the block; what has not been read is given up at its end.

        Invalid: not a revision, or not yet. Forgotten: no longer kept. Unavailable: too many ask, or it went wrong.
        """
        if self._asked >= AT_ONCE + WAITING:
            raise Unavailable("too many ask about the past at this moment; try again")
        self._asked += 1
        try:
            async with self._turn, aclosing(self._lines(question)) as pieces:
                head, *rest = await anext(pieces)
                yield _told(orjson.loads(head), _after(rest, pieces))
        finally:
            self._asked -= 1

    def _lines(self, question: Question) -> AsyncGenerator[list[bytes], None]:
        if isinstance(self._log, FileLog):
            return _beside(self._log.directory, self._newest(), question)
        return _in_thread(history.answer(Recorded(self._log, self._newest()), question))


def _told(said: JSON, pieces: AsyncIterator[list[bytes]]) -> Told:
    match said.get("refused"):
        case "Forgotten":
            raise Forgotten(*said["with"])
        case "Invalid":
            raise Invalid(*said["with"])
        case "Unavailable":
            raise Unavailable(f"the past cannot be read: {said['with'][0]}; try again")
        case _:
            pass
    return Told(
        said["rev"], said["at"], said["since"], said["sinceAt"], said.get("to", 0), said.get("toAt", ""), pieces
    )


async def _after(first: list[bytes], pieces: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
    """The loop gets a turn after every piece, also when the next one is there already."""
    if first:
        yield first
    async for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def _in_thread(lines: Iterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    while some := await asyncio.to_thread(lambda: list(islice(lines, FEW))):
        yield some


async def _beside(directory: Path, head: int, question: Question) -> AsyncGenerator[list[bytes], None]:
    """Ends the process when it is closed, without a wait that could be cancelled: so nothing is left behind."""
    asked = orjson.dumps(list(question)).decode()
    command = [sys.executable, "-m", history.__name__, str(directory), str(head), str(os.getpid()), asked]
    try:
        process = Popen(command, stdin=DEVNULL, stdout=PIPE)  # noqa: ASYNC220 - threads wait for it
    except OSError as error:
        raise Unavailable(f"the past cannot be read now: {error}; try again") from error
    try:
        assert isinstance(process.stdout, BufferedReader)
        async for lines in _cut(process.stdout):
            yield lines
    finally:
        process.kill()
        Thread(target=process.__exit__, args=(None, None, None)).start()  # it dies when it gets its turn


async def _cut(pipe: BufferedReader) -> AsyncIterator[list[bytes]]:
    """Whole lines as they come, up to the one that says that this was all."""
    held = b""
    while piece := await asyncio.to_thread(pipe.read1, PIECE):
        *lines, held = (held + piece).split(b"\n")
        if lines and lines[-1] == END:
            yield lines[:-1]
            return
        if lines:
            yield lines
    raise Unavailable("the process that reads the past has ended before its time; try again")
