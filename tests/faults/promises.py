"""What a writer's words (tests.faults.log_writer) bind a log to, and whether what is recovered keeps that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanovirt.resources.errors import Expired, NanoError
from nanovirt.resources.file_log import FileLog
from nanovirt.resources.log import Record
from tests.faults.scripted import SIZES, record, records, summed


@dataclass
class Promise:
    """All of `history` was handed to the log, the first `acked` of it is durable for good.

    What a start has found is durable too: it is served.
    """

    seed: int
    life: int = 0
    history: list[Record] = field(default_factory=list)
    acked: int = 0

    def hear(self, lines: Iterable[str]) -> Promise:
        """Bind the log to what the writer said."""
        for line in lines:
            word, _, number = line.partition(" ")
            if word == "found":
                assert self.acked <= int(number) <= len(self.history), f"{line}, of {self}"
                del self.history[int(number) :]
                self.acked = int(number)
            elif word == "sent":
                self.history += records(len(self.history) + 1, int(number), self.seed, self.life)
            elif word == "acked":
                self.acked = int(number)
        return self

    def same(self) -> Promise:
        """One that can hear more apart from it."""
        return replace(self, history=list(self.history))

    def next_life(self) -> Promise:
        """What binds the next writer on the same directory."""
        return replace(self.same(), life=self.life + 1)

    def broken_by(self, found: Found) -> str:
        """What is wrong with what a start has found; "" when nothing is."""
        if found.head < self.acked:
            return f"lost: {self.acked} were acknowledged, {found.head} are there"
        if found.head > len(self.history):
            return f"phantom: {len(self.history)} were sent, {found.head} are there"
        if found.records != self.history[found.oldest : found.head]:
            return f"phantom: what is there of {found.oldest + 1} to {found.head} is not what was sent"
        if found.oldest and found.oldest not in found.sums:
            return f"lost: no snapshot of {found.oldest}, and nothing before it"
        wrong = [rev for rev, lines in found.sums.items() if lines != summed(self.history[:rev])]
        return f"phantom: snapshots of {wrong} are not what was sent until then" if wrong else ""

    def __str__(self) -> str:
        return f"life {self.life}: {len(self.history)} sent, {self.acked} acknowledged"


@dataclass(frozen=True)
class Found:
    """What an undisturbed start finds: all `records` from behind `oldest` to `head`, and the snapshots by revision."""

    head: int
    oldest: int
    records: list[Record]
    sums: dict[int, list[bytes]]


def recovered(directory: Path) -> Found:
    """Open, read everything, close (NanoError, OSError)."""
    log = FileLog.open(directory, SIZES)
    try:
        oldest, sums = 0, {one.rev: sorted(one.lines()) for one in log.sums()}
        try:
            records = list(log.read())
        except Expired as gone:
            oldest = min(rev for rev in sums if rev >= gone.params["oldest"])
            records = list(log.read(oldest))
        return Found(log.head(), oldest, records, sums)
    finally:
        log.close()


def verdict(promise: Promise, directory: Path, *, goes_on: bool = False) -> str:
    """What is wrong with the store there, "" when nothing is; with `goes_on` it has to take one more record."""
    return examine(promise, directory, goes_on=goes_on)[0]


def examine(promise: Promise, directory: Path, *, goes_on: bool) -> tuple[str, int]:
    """The verdict, and the last revision that is there."""
    try:
        found = recovered(directory)
        if wrong := promise.broken_by(found):
            return wrong, found.head
        if goes_on:
            more = record(found.head + 1, promise.seed, life=-1)
            asyncio.run(_append(directory, more))
            if recovered(directory) != replace(found, head=more.rev, records=[*found.records, more]):
                return "lost: the record after the recovery", found.head
    except (NanoError, OSError, ValueError, EOFError) as refusal:
        return f"not recovered: {refusal!r}", -1
    return "", found.head


async def _append(directory: Path, one: Record) -> None:
    log = FileLog.open(directory, SIZES)
    try:
        await log.append([one])
    finally:
        log.close()
