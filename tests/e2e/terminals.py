"""A terminal that a program runs in: what it shows, what is typed, and how the terminal is set."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.e2e.looking import PATIENT


class Terminal:
    """The person's side of it; `shown` is what nobody has awaited yet."""

    def __init__(self, side: int, line: int, program: subprocess.Popen[bytes]) -> None:
        self.shown = ""
        self._side, self._line, self._program = side, line, program

    @property
    def settings(self) -> list[Any]:
        """As tcgetattr says; after the end of the program too."""
        return termios.tcgetattr(self._line)

    def type(self, keys: str) -> None:
        """Press them."""
        os.write(self._side, keys.encode())

    def until(self, words: str, seconds: float = PATIENT) -> None:
        """Return once these words are shown, after those awaited last; AssertionError when they do not come."""
        end = time.monotonic() + seconds
        while not self._shown(words):
            assert time.monotonic() < end, f"{words!r} is not shown: {self.shown!r}"
            self._read(0.2)

    def insist(self, keys: str, words: str, seconds: float = PATIENT) -> None:
        """As `until`, while these keys are pressed again and again."""
        end = time.monotonic() + seconds
        while not self._shown(words):
            assert time.monotonic() < end, f"{words!r} is not shown: {self.shown!r}"
            self.type(keys)
            time.sleep(0.5)
            self._read(0.5)

    def _shown(self, words: str) -> bool:
        _, found, after = self.shown.partition(words)
        if found:
            self.shown = after
        return bool(found)

    def _read(self, seconds: float) -> None:
        if select.select([self._side], [], [], seconds)[0]:
            self.shown += os.read(self._side, 4096).decode(errors="replace")

    def ended(self, seconds: float = PATIENT) -> int:
        """The exit code, once it has ended; subprocess.TimeoutExpired when it does not."""
        return self._program.wait(seconds)


@contextmanager
def terminal(argv: Sequence[str]) -> Iterator[Terminal]:
    """A program in a terminal of its own, which it does not outlive."""
    side, line = pty.openpty()
    words = ["setsid", "--ctty", *argv]
    try:
        with subprocess.Popen(words, stdin=line, stdout=line, stderr=line) as program:
            try:
                yield Terminal(side, line, program)
            finally:
                program.kill()
    finally:
        os.close(side)
        os.close(line)
