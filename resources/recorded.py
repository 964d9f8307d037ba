"""Where views of the past get records from: a log in this process, or the files of one that goes on being written."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from nanovirt.resources.errors import Forgotten
from nanovirt.resources.log import Log, Record, Sum
from nanovirt.resources.segments import beyond, every_segment, first_revision
from nanovirt.resources.snapshots import header_of, newest, snapshots
from nanovirt.resources.store_directory import read_format


class Kept(NamedTuple):
    """The oldest state that can be told: its revision (0: all is kept), and when that was."""

    rev: int
    at: str


class Source(Protocol):
    """Records and what they add up to; nothing behind `head` is looked at."""

    @property
    def head(self) -> int:
        """The newest revision."""

    def read(self, after: int) -> Iterator[Record]:
        """The records above `after`, in order; revisions may leap, after a restore."""

    def base(self, upto: int) -> Sum | None:
        """The newest sum at or below a revision; None: go on from the first record."""

    def since(self) -> Kept:
        """From where on the past can be told."""

    def starts(self) -> Sequence[int]:
        """Revisions from which on reading begins at little cost, ascending."""


class Recorded:
    """The past of a log that this process holds."""

    def __init__(self, log: Log, head: int) -> None:
        self._log, self._head = log, head

    @property
    def head(self) -> int:
        """See Source."""
        return self._head

    def read(self, after: int) -> Iterator[Record]:
        """See Source."""
        for record in self._log.read(after):
            if record.rev > self._head:
                return
            yield record

    def base(self, upto: int) -> Sum | None:
        """See Source."""
        return next((one for one in self._log.sums() if one.rev <= upto), None)

    def since(self) -> Kept:
        """See Source."""
        return Kept(0, "")

    def starts(self) -> Sequence[int]:
        """See Source."""
        return [1]


class Filed:
    """The past of a file log, read beside the server; it may write, compress and give up files meanwhile."""

    def __init__(self, directory: Path, head: int) -> None:
        """NanoError: FORMAT is unreadable."""
        self._directory, self._head = directory, head
        self._cluster = read_format(directory / "FORMAT").cluster

    @property
    def head(self) -> int:
        """See Source."""
        return self._head

    def read(self, after: int) -> Iterator[Record]:
        """See Source. Forgotten: a segment was given up meanwhile."""
        for path in beyond(every_segment(self._directory), after):
            for line in self._lines(path):
                start = line.split(b" ", 5)
                rev = int(start[2])
                if rev > self._head:
                    return
                if rev > after:
                    yield Record(rev, start[5])

    def _lines(self, path: Path) -> Iterator[bytes]:
        """The records of a segment; the zeros behind them, and a line that is being written, are none."""
        packed = self._directory / "history" / f"{path.name.removesuffix('.gz')}.gz"
        for place in (path, packed):
            try:
                file = gzip.open(place) if place.suffix == ".gz" else place.open("rb")  # noqa: SIM115 - below
            except FileNotFoundError:
                continue
            with file:
                next(file, b"")
                for line in file:
                    if line[:1] == b"\0" or line[-1:] != b"\n":
                        return
                    yield line[:-1]
                return
        raise Forgotten(f"revision {first_revision(path)}", *self.since())

    def base(self, upto: int) -> Sum | None:
        """See Source."""
        return newest(self._directory, self._cluster, upto)

    def since(self) -> Kept:
        """See Source."""
        paths = every_segment(self._directory)
        if paths and first_revision(paths[0]) == 1:
            return Kept(0, "")
        for path in reversed(snapshots(self._directory)):
            if found := header_of(path):
                return Kept(found.rev, found.at)
        return Kept(self._head, "")

    def starts(self) -> Sequence[int]:
        """See Source."""
        return [first_revision(path) for path in every_segment(self._directory)]
