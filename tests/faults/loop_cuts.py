"""A program that cuts the power of a writer on a real file system, by cloning the image that it is mounted from.

`python -m tests.faults.loop_cuts FILESYSTEM --cuts N --seed N`, as root in a mount namespace of its own (`command`).
The image lies on a btrfs that can clone it in one step, between two writes of the file system in it, so each clone is
what a disk without a cache of its own would hold after a power cut. In the end each is mounted, which replays its
journal, and the store in it is recovered and compared with what had been acknowledged when it was cloned.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.power_cuts import RAM
from tests.faults.promises import Promise, verdict
from tests.faults.strace import environment, python

FILESYSTEMS = ("ext4", "xfs", "btrfs")
IMAGE = 320 << 20
"""Bytes; the least that mkfs.xfs takes, and sparse."""
CUTS_OF_A_LIFE = 12
"""Then the writer is killed, and the next one goes on."""
LONGEST_PAUSE = 0.15
"""Seconds between two cuts."""


def command(filesystem: str, cuts: int, seed: int) -> list[str]:
    """What runs this program so that its mounts end with it."""
    own = ["unshare", "--mount", "--propagation", "private"]
    return own + python("-m", "tests.faults.loop_cuts", filesystem, "--cuts", cuts, "--seed", seed)


@dataclass
class Bench:
    """An image on an outer file system that clones, mounted and written to."""

    work: Path
    filesystem: str
    seed: int
    promise: Promise = field(default_factory=lambda: Promise(0))
    clones: list[tuple[Path, Promise]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outer, self.inner = self.work / "outer", self.work / "inner"
        for folder in (self.outer, self.inner):
            folder.mkdir()
        make("btrfs", self.work / "backing", 16 * IMAGE)
        mount(self.work / "backing", self.outer)
        self.image = self.outer / "image"
        make(self.filesystem, self.image, IMAGE)

    def cut(self, cuts: int) -> None:
        """Clone the image so often while writers live and die on it."""
        mount(self.image, self.inner)
        chance = random.Random(self.seed)
        self.promise.seed = self.seed
        try:
            while len(self.clones) < cuts:
                self._live(min(cuts, len(self.clones) + CUTS_OF_A_LIFE), chance)
        finally:
            unmount(self.inner)

    def _live(self, upto: int, chance: random.Random) -> None:
        writer = python("-m", "tests.faults.log_writer", self.inner / "store", 1 << 30, self.seed, self.promise.life)
        child = subprocess.Popen(writer, stdout=subprocess.PIPE, start_new_session=True, env=environment())
        assert child.stdout
        ear = Ear(child.stdout.fileno(), self.promise)
        try:
            ear.listen(5, until="acked")
            while len(self.clones) < upto:
                ear.listen(chance.random() * LONGEST_PAUSE)
                assert child.poll() is None, "the writer has ended by itself"
                acked = self.promise.acked
                clone = self.outer / f"clone-{len(self.clones)}"
                run("cp", "--reflink=always", self.image, clone)
                ear.listen(0)
                bound = self.promise.next_life()
                bound.acked = acked
                self.clones.append((clone, bound))
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            ear.listen(1, until="")
            child.stdout.close()
        self.promise = self.promise.next_life()

    def judge(self) -> None:
        """Recover from each clone (AssertionError: one was not whole)."""
        for clone, promise in self.clones:
            mount(clone, self.inner)
            try:
                wrong = verdict(promise, self.inner / "store", goes_on=True)
                again = " ".join(command(self.filesystem, len(self.clones), self.seed))
                assert not wrong, f"{clone.name} of {self.filesystem}: {wrong}; {promise}; again: {again}"
            finally:
                unmount(self.inner)
            clone.unlink()


@dataclass
class Ear:
    """Hears the lines of a writer in a pipe."""

    pipe: int
    promise: Promise
    unfinished: bytes = b""

    def listen(self, seconds: float, until: str | None = None) -> None:
        """For so long and until there is nothing more to hear; or, if that is sooner, until a line begins so."""
        deadline = time.monotonic() + seconds
        while select.select([self.pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            heard = os.read(self.pipe, 1 << 16)
            *whole, self.unfinished = (self.unfinished + heard).split(b"\n")
            lines = [line.decode() for line in whole]
            self.promise.hear(lines)
            if not heard or (until and any(line.startswith(until) for line in lines)):
                return


def make(filesystem: str, image: Path, size: int, *options: str) -> None:
    """A file with that file system in it."""
    with image.open("wb") as file:
        file.truncate(size)
    run(f"mkfs.{filesystem}", "-q", *options, image)


def mount(image: Path, folder: Path) -> None:
    """By a loop device, which goes when it is unmounted."""
    run("mount", "-o", "loop", image, folder)


def unmount(folder: Path) -> None:
    """As soon as the last of those who were killed has let go of it."""
    deadline = time.monotonic() + 10
    while subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode:
        assert time.monotonic() < deadline, f"{folder} stays in use"
        time.sleep(0.02)


def run(*words: object) -> None:
    """Run a tool of the system; what it says is told when it fails."""
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, timeout=60)


def main() -> int:
    """Cut, judge, say how many there were."""
    parser = argparse.ArgumentParser()
    parser.add_argument("filesystem", choices=FILESYSTEMS)
    parser.add_argument("--cuts", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that a tail was torn is no news here
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=RAM, prefix="nano-loop-cuts-") as work:
        bench = Bench(Path(work), options.filesystem, options.seed)
        try:
            bench.cut(options.cuts)
            bench.judge()
        finally:
            unmount(bench.outer)
    found = f"{options.cuts} cuts of {options.filesystem}, {bench.promise.acked} revisions, 0 bad"
    print(f"seed {options.seed}: {found}; {time.monotonic() - began:.0f} s")  # noqa: T201 - a program's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
