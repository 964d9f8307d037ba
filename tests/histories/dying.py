"""A process that dies between two steps on its files, played within this one, so that thousands of deaths cost nothing.

What a killed process has written stays in the system's cache, so a sync is only a step here; losing what was not synced
is another matter (power loss), and so is the real SIGKILL of a real process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Literal

STEPS = ("write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate", "rename", "unlink")
SYNCS = ("fsync", "fdatasync")
Fate = Literal["die", "fail"]


class Killed(BaseException):
    """The process is no more; nothing may catch this but whoever plays it."""


class Steps:
    """Counts the calls that change files, and lets one of them be the last, or fail (EIO)."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.left = -1
        """Steps that are still taken; negative: as many as there are."""
        self._fate: Fate = "die"

    @contextmanager
    def doomed(self, left: int, fate: Fate = "die") -> Iterator[None]:
        """Within this block `left` more steps are taken; nothing is different if there are no more than that."""
        self.left, self._fate = left, fate
        try:
            yield
        finally:
            self.left = -1

    @contextmanager
    def played(self) -> Iterator[None]:
        """Within this block the calls of `os` are ours."""
        real = {name: getattr(os, name) for name in STEPS}
        for name, call in real.items():
            setattr(os, name, self._step(name, call))
        try:
            yield
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _step(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                self._end(name, call, args)
            self.left = max(self.left - 1, -1)
            return None if name in SYNCS else call(*args, **kwargs)

        return step

    def _end(self, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if name == "write":  # whatever the system had taken of it by then
            call(args[0], args[1][: self._chance.randint(0, len(args[1]))])
        if self._fate == "fail":
            self.left = -1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        raise Killed
