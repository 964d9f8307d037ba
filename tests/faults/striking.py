"""Programs struck at the nth call that changes files below a folder, whichever thread or child makes it.

strace (tests.faults.strace) strikes the real system call, but counts for each thread; this library of ours is
preloaded, counts over all of them, and can also tear a write or carry it out by half.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.strace import environment, finish

SOURCE = Path(__file__).with_name("striking.c")
KILL, TEAR, SHORT = "KILL", "TEAR", "SHORT"
EIO, ENOSPC, EINTR = (str(number) for number in (errno.EIO, errno.ENOSPC, errno.EINTR))
SIDE_BY_SIDE = 3
"""Most of a run is waiting."""


@dataclass(frozen=True)
class Struck:
    """How a program fared: `said` has its own lines and, where it was struck, a line `struck PID CALL PATH`."""

    code: int
    pid: int
    below: Path
    said: list[str]
    complained: str
    calls: int

    @property
    def strike(self) -> str:
        """The line about the strike; "" when the program made fewer calls."""
        return next((line for line in self.said if line.startswith("struck ")), "")

    @property
    def itself(self) -> bool:
        """Whether it was the program that was struck, rather than a child of it."""
        return self.strike.startswith(f"struck {self.pid} ")

    @property
    def call(self) -> str:
        """The call that was struck."""
        return self.strike.split()[2]


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "striking.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


@dataclass(frozen=True)
class Striker:
    """Runs programs under the library, with what it needs besides in folders of their own below `scratch`."""

    library: Path
    scratch: Path

    def run(self, command: Sequence[str], below: Path, how: str, at: int, timeout: float = 60) -> Struck:
        """Run `command` and strike its call number `at` below that folder; `how`: KILL, TEAR, SHORT or an errno."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        count, said = self.scratch / "count", self.scratch / "said"
        count.write_bytes(bytes(8))
        strike = {"STRIKE_BELOW": below, "STRIKE_COUNT": count, "STRIKE_AT": at, "STRIKE_HOW": how, "STRIKE_SAY": said}
        told = {name: str(value) for name, value in strike.items()} | {"LD_PRELOAD": str(self.library)}
        words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            child = subprocess.Popen(
                command,
                stdout=words,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=environment(told),
            )
        finally:
            os.close(words)
        code, _, complained = finish(child, timeout)
        calls = int.from_bytes(count.read_bytes(), "little")
        return Struck(code, child.pid, below, said.read_text().splitlines(), complained, calls)


def at_every(moments: Sequence[int], attempt: Callable[[int], Struck]) -> Iterator[Struck]:
    """`attempt` at each of these moments, a few side by side."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield from pool.map(attempt, moments)
