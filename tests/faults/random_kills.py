"""A program that kills a loaded store (tests.faults.load_writer) at random moments, life after life on one directory.

`python -m tests.faults.random_kills --seed N --kills N --acks N`. Each start has to find all that was acknowledged
before, and exactly what the transactions up to the revision that it found add up to. The seed gives loads and moments
again, though not what the processor does in between; the first bad start ends it with 1, and its directory is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.load_writer import DELETED, State, digest
from tests.faults.power_cuts import KEPT
from tests.faults.strace import environment, python

PATIENCE = 60
"""Seconds that a store may take to start, or to say anything."""
KILLS_OF_A_STORE = 15
"""Then another one begins, so that starts do not become longer and longer."""
HASTY = 0.15
"""So many lives end at a random moment of the first second, also during the start."""


class BadStart(AssertionError):
    """A start that lost something, or found what was never sent."""


@dataclass
class Story:
    """What the store is known to hold, and what was sent and acknowledged in the present life."""

    state: State = field(default_factory=dict)
    rev: int = 0
    acked: int = 0
    acks: int = 0
    sent: list[tuple[int, list[str]]] = field(default_factory=list)

    def hear(self, line: str) -> None:
        """One line of the store."""
        word, rev, *rest = line.split()
        if word == "sent":
            self.sent.append((int(rev), rest))
        elif word == "acked":
            self.acked = max(self.acked, int(rev))
            self.acks += 1
        else:
            self._begin(int(rev), *rest)

    def _begin(self, found: int, said: str) -> None:
        if found < self.acked:
            raise BadStart(f"lost: {self.acked} was acknowledged, {found} is what is there")
        for rev, changes in self.sent:
            if rev <= found:
                self._apply(rev, changes)
        if self.rev != found:
            raise BadStart(f"phantom: {found} is there, the last that was sent is {self.rev}")
        if digest(self.state) != said:
            raise BadStart(f"what is there at {found} is not what was sent until then")
        self.sent, self.acked = [], found

    def _apply(self, rev: int, changes: list[str]) -> None:
        for name, value in zip(changes[::2], changes[1::2], strict=True):
            if value == DELETED:
                self.state.pop(name)
            else:
                self.state[name] = (value, rev)
        self.rev = rev


@dataclass
class Killer:
    """Lets a store live again and again in one directory."""

    directory: Path
    seed: int
    story: Story = field(default_factory=Story)
    kills: int = 0
    stores: int = 0

    def begin_anew(self) -> None:
        """Start the present store once more, and leave it for a new one."""
        self.live(1)
        self.story, self.stores = Story(acks=self.story.acks), self.stores + 1

    def live(self, acks: int) -> None:
        """One life, until so many acknowledgements and a moment more; 0: until a moment of its first second."""
        writer = python(
            "-m", "tests.faults.load_writer", self.directory / f"store-{self.stores}", self.seed, self.kills
        )
        complaints = self.directory / "complaints"
        with complaints.open("wb") as errors:
            child = subprocess.Popen(
                writer, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, env=environment()
            )
        assert child.stdout
        try:
            target, begun = self.story.acks + acks, time.monotonic()
            deadline = begun + (PATIENCE if acks else random.random())
            unfinished = b""
            while time.monotonic() < deadline and not (acks and self.story.acks >= target):
                if select.select([child.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                    unfinished = self._hear(unfinished + (os.read(child.stdout.fileno(), 1 << 16) or b""))
                if child.poll() is not None:
                    raise BadStart(f"it ended by itself: {complaints.read_text()[-2000:]}")
            time.sleep(random.random() * 0.003)
            os.killpg(child.pid, signal.SIGKILL)
            self._hear(unfinished + child.stdout.read())
            if acks and self.story.acks < target:
                raise BadStart(f"too slow: {self.story.acks} acknowledgements in {PATIENCE} s")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()
        self.kills += 1

    def _hear(self, text: bytes) -> bytes:
        """All whole lines; what is behind the last one."""
        *whole, rest = text.split(b"\n")
        for line in whole:
            self.story.hear(line.decode())
        return rest


def main() -> int:
    """Kill so often and until so much was acknowledged; say what became of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--acks", type=int, required=True)
    options = parser.parse_args()
    random.seed(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nano-random-kills-") as work:
        killer = Killer(Path(work), options.seed)
        try:
            while killer.kills < options.kills:
                missing = options.acks - killer.story.acks
                mean = missing / (options.kills - killer.kills) / (1 - HASTY)
                last = killer.kills + 1 == options.kills
                hasty = random.random() < HASTY and not last
                if killer.kills % KILLS_OF_A_STORE == KILLS_OF_A_STORE - 1:
                    killer.begin_anew()
                killer.live(0 if hasty else max(missing if last else int(random.expovariate(1 / mean)), 1))
            killer.live(1)
        except BadStart as bad:
            kept = KEPT / f"random-kills-{options.seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(work, kept)
            words = f"--seed {options.seed} --kills {options.kills} --acks {options.acks}"
            again = f"the directory is in {kept}; again: python -m tests.faults.random_kills {words}"
            print(f"after kill {killer.kills}: {bad}; {again}")  # noqa: T201 - a program's output
            return 1
    took = time.monotonic() - began
    print(f"seed {options.seed}: {killer.story.acks} acks, {killer.kills} kills, 0 lost, 0 phantom; {took:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
