"""A program that damages a store in many ways, one at a time, and sees whether a start notices.

`python -m tests.faults.rot --seed N [--every N] [--from N]`: every bit of 200 synced records, each of them lost,
doubled, swapped, cut or put in the place of another; every byte of the newest snapshot and of the compressed history. A
damaged record is refused with its place, and nothing is changed; a damaged snapshot is set aside and the one before
stands in; from damaged history nothing is read that was not written. `--every` takes one bit or byte in so many,
beginning with number `--from`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import logging
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nanovirt.resources.compaction import sum_up
from nanovirt.resources.errors import NanoError, StoreCorrupt
from nanovirt.resources.file_log import FileLog, Sizes
from nanovirt.resources.recovery import survey
from nanovirt.resources.segments import Frame, parse, segment_path, walk, written
from nanovirt.resources.store_directory import read_format
from tests.faults.power_cuts import RAM, materialize
from tests.faults.promises import Found, Promise, recovered
from tests.faults.scripted import batch
from tests.faults.tree import Picture, picture_of
from tests.resources.records import records

RECORDS = 200
LARGE = Sizes(segment=1 << 16, ballast=1 << 12, room=0)
OPENED_EVERY = 50
"""Most damage is judged by what the start would look at; so often a start is made as well."""


class Silent(AssertionError):
    """Damage that nobody would have noticed."""


class Damaged(NamedTuple):
    """The content of a segment with one fault; the record `first` is the first that is not as it was."""

    what: str
    first: int
    content: bytes


@dataclass
class Rot:
    """Damages what it has made in a folder; takes one in `every` of the many small faults."""

    seed: int
    every: int
    begin: int
    work: Path
    found: Counter[str] = field(default_factory=Counter)

    # --- records ---

    async def records(self) -> None:
        """Damage a log of 200 short records in one segment, all of them synced."""
        store = self.work / "store"
        for name, seed in (("store", 0), ("other", 1)):
            log = FileLog.open(self.work / name, LARGE)
            for first in range(1, RECORDS, 4):
                await log.append(records(first, first + 3, size=seed))
            log.close()
        path = segment_path(store / "wal", 1)
        content, other = written(path), written(segment_path(self.work / "other" / "wal", 1))
        picture = picture_of(store)
        for number, damage in enumerate(self._faults(content, other)):
            path.write_bytes(damage.content)
            self._judge(store, damage, opens=number % OPENED_EVERY == 0)
            self.found[damage.what] += 1
        materialize(picture, store)

    def _faults(self, content: bytes, other: bytes) -> Iterator[Damaged]:
        lines = frames(content)
        ends = [line.end for line in lines]
        parts = [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        for number in range(self.begin, len(content) * 8, self.every):
            at, bit = divmod(number, 8)
            flipped = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            yield Damaged("flipped bits", sum(end <= at for end in ends), flipped)
        strange = [other[begin.end : end.end] for begin, end in zip(frames(other), frames(other)[1:], strict=False)]
        for nth in range(1, len(parts)):
            before, one, rest = b"".join(parts[:nth]), parts[nth], b"".join(parts[nth + 1 :])
            yield Damaged("lost records", nth, before + rest)
            yield Damaged("cut records", nth, before + one[: len(one) // 2] + rest)
            yield Damaged("zeroed records", nth, before + bytes(len(one)) + rest)
            yield Damaged("doubled records", nth + 1, before + one + one + rest)
            yield Damaged("records of another log", nth, before + strange[nth - 1] + rest)
            if nth + 1 < len(parts):
                swapped = before + parts[nth + 1] + one + b"".join(parts[nth + 2 :])
                yield Damaged("swapped records", nth, swapped)

    def _judge(self, store: Path, damage: Damaged, *, opens: bool) -> None:
        found = survey(store, read_format(store / "FORMAT").cluster)
        if not found.damage or found.rev != max(damage.first - 1, 0):
            raise Silent(f"{damage.what}: record {damage.first} is not what was written, {found}")
        if opens:
            before = picture_of(store)
            try:
                FileLog.open(store, LARGE).close()
            except StoreCorrupt:
                after = picture_of(store)
                if {path for path in after if after[path] != before.get(path)} <= {"LOCK"}:
                    self.found["refused starts"] += 1
                    return
            raise Silent(f"{damage.what}: record {damage.first} is not what was written, and the store was changed")

    # --- snapshots and history ---

    def sums(self) -> None:
        """Damage each byte of the newest snapshot and of the history in a store that has summed itself up twice."""
        promise, whole = self._summed_up()
        before = self._found(whole)
        newest = max(path for path in whole if path.endswith(".snap"))
        for path, what in [(newest, "snapshot")] + [(path, "history") for path in whole if path.endswith(".wal.gz")]:
            content = whole[path]
            assert content
            chance = random.Random(f"{self.seed} {path}")
            for at in range(self.begin % self.every, len(content), self.every):
                flipped = bytearray(content)
                flipped[at] ^= 1 << chance.randrange(8)
                found = self._found({**whole, path: bytes(flipped)})
                self.found[f"flipped bytes of {what}"] += 1
                if what == "history" and found in (None, before):
                    self.found["of it refused"] += found is None
                    continue
                if found is None or promise.broken_by(found) or (what == "snapshot" and not self._set_aside(path)):
                    raise Silent(f"byte {at} of {path}: {found and promise.broken_by(found)}")

    def _summed_up(self) -> tuple[Promise, Picture]:
        """A store with two snapshots and with all of its history, and what it has to keep."""
        store, promise = self.work / "summed", Promise(self.seed)

        async def write() -> None:
            log = FileLog.open(store, Sizes(segment=1 << 12, ballast=1 << 12, room=0))
            chance = random.Random(self.seed)
            for _ in range(24):
                promise.history += batch(log.head(), chance, self.seed)
                await log.append(promise.history[log.head() :])
            log.close()

        asyncio.run(write())
        promise.acked = len(promise.history)
        firsts = sorted(int(path.stem) for path in (store / "wal").iterdir())
        for first in (firsts[len(firsts) // 2], firsts[-1]):
            sum_up(store, first, 1 << 20)
        return promise, picture_of(store)

    def _found(self, state: Picture) -> Found | None:
        """What a start makes of it; None when it refuses."""
        materialize(state, self.work / "rotten")
        try:
            return recovered(self.work / "rotten")
        except (NanoError, OSError, EOFError, zlib.error, gzip.BadGzipFile):
            return None

    def _set_aside(self, path: str) -> bool:
        return (self.work / "rotten" / "quarantine" / Path(path).name).exists()


def frames(content: bytes) -> list[Frame]:
    """The lines of a whole segment, its header first."""
    header = parse(content, 0)
    assert header
    return [header, *walk(content, header)]


def main() -> int:
    """Damage, and say what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="begin")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that a snapshot was set aside is no news here
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=RAM, prefix="nano-rot-") as work:
        rot = Rot(options.seed, options.every, options.begin, Path(work))
        try:
            asyncio.run(rot.records())
            rot.sums()
        except Silent as silent:
            again = f"python -m tests.faults.rot --seed {options.seed} --every {options.every} --from {options.begin}"
            print(f"{silent}; again: {again}")  # noqa: T201 - a program's output
            return 1
    found = ", ".join(f"{count} {what}" for what, count in rot.found.items())
    print(f"seed {options.seed}: 0 silent of {found}; {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
