"""What each machine has used, in a file of a fixed size: two seconds for a quarter of an hour, coarser for 60 days.

A record has 64 bytes and lies on a multiple of that, so that no power cut tears one in two without its checksum saying
so; a record that is not whole is one that is not there. Nothing is synced: a cut loses the last half minute.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from nanovirt.resources.errors import HypervisorError, Invalid
from nanovirt.resources.usage import NAMES, Usage

MAGIC = b"nano usage 1\n".ljust(64, b"\0")
RECORD = struct.Struct("<QII8f")
SIZE = 64
POINTS_MAX = 2_000
"""What a range gives at most."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Archive(NamedTuple):
    """`slots` of `step` seconds, the first at `offset` records."""

    step: int
    slots: int
    offset: int

    @property
    def span(self) -> int:
        """Seconds that it reaches back."""
        return self.step * self.slots


ARCHIVES = (Archive(2, 450, 1), Archive(60, 1440, 451), Archive(900, 5760, 1891))
FILE_SIZE = (1 + sum(one.slots for one in ARCHIVES)) * SIZE
"""Bytes of one machine: 490 KB."""


class History:
    """The files of a folder; calls block. Trouble with a disk is HypervisorError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}
        self._lock = Lock()

    def add(self, now: float, used: Mapping[str, Usage]) -> None:
        """Note what machines use. A slot holds the mean of what was noted in it."""
        with self._lock:
            for uuid, usage in used.items():
                opened = self._opened(uuid)
                try:
                    for archive in ARCHIVES:
                        _note(opened, archive, int(now), usage)
                except OSError as error:
                    raise HypervisorError(f"{self._file(uuid)}: {error.strerror}") from error

    def between(self, uuid: str, start: float, end: float, step: int, now: float) -> dict[str, Any]:
        """Columns from `start` to `end` (seconds since 1970), one value for each `step` seconds.

        Where nothing is known stands None. `step` 0 chooses the finest that reaches back far enough. Invalid when that
        is more than POINTS_MAX.
        """
        start, end = max(start, now - ARCHIVES[-1].span), min(end, now)
        archive = next((one for one in ARCHIVES if now - start <= one.span and one.step >= step), None)
        archive = archive or next((one for one in ARCHIVES if now - start <= one.span), ARCHIVES[-1])
        step = max(step, archive.step) // archive.step * archive.step
        if end <= start:
            raise Invalid("to", "the range ends before it begins")
        if (end - start) / step > POINTS_MAX:
            raise Invalid("step", f"that are more than {POINTS_MAX} points; ask for a larger step or a shorter range")
        times = range(int(start) // step * step, int(end) + 1, step)
        with self._lock:
            found = dict(self._read(uuid, archive, times.start, times.stop))
        rows = [_mean([found[at] for at in range(time, time + step, archive.step) if at in found]) for time in times]
        columns = {
            name: [None if row is None else round(getattr(row, field), 3) for row in rows]
            for field, name in NAMES.items()
        }
        return {"step": step, "time": list(times), **columns}

    def forget(self, uuid: str) -> None:
        """Remove the file of a machine."""
        with self._lock:
            opened = self._open.pop(uuid, None)
            if opened is not None:
                os.close(opened)
            self._file(uuid).unlink(missing_ok=True)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def _read(self, uuid: str, archive: Archive, start: int, stop: int) -> Iterator[tuple[int, Usage]]:
        try:
            opened = self._open[uuid] if uuid in self._open else os.open(self._file(uuid), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            raw = os.pread(opened, archive.slots * SIZE, archive.offset * SIZE)
        finally:
            if uuid not in self._open:
                os.close(opened)
        for at in range(0, len(raw) - SIZE + 1, SIZE):
            record = _decoded(raw[at : at + SIZE])
            if record is not None and start <= record[0] < stop:
                yield record[0], record[2]

    def _file(self, uuid: str) -> Path:
        """HypervisorError for what is no uuid: it becomes part of a path."""
        if not UUID.fullmatch(uuid):
            raise HypervisorError(f"{uuid[:60]!r} is not the uuid of a machine")
        return self._folder / f"{uuid}.usage"

    def _opened(self, uuid: str) -> int:
        found = self._open.get(uuid)
        if found is None:
            file = self._file(uuid)
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = self._open[uuid] = _made(file)
            except OSError as error:
                raise HypervisorError(f"{file}: {error.strerror}") from error
        return found


def _made(file: Path) -> int:
    """An open file with the right beginning and size; one with another beginning is of no use and begins anew."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.pread(opened, SIZE, 0) != MAGIC or os.fstat(opened).st_size != FILE_SIZE:
        os.ftruncate(opened, 0)
        os.ftruncate(opened, FILE_SIZE)
        os.pwrite(opened, MAGIC, 0)
    return opened


def _note(opened: int, archive: Archive, now: int, usage: Usage) -> None:
    slot = now // archive.step
    place = (archive.offset + slot % archive.slots) * SIZE
    held = _decoded(os.pread(opened, SIZE, place))
    at, count = slot * archive.step, 0
    if held is not None and held[0] == at:
        count, mean = held[1], held[2]
        usage = Usage(*(old + (new - old) / (count + 1) for old, new in zip(mean, usage, strict=True)))
    os.pwrite(opened, _encoded(at, count + 1, usage), place)


def _encoded(at: int, count: int, usage: Usage) -> bytes:
    bare = RECORD.pack(at, count, 0, *usage)
    return RECORD.pack(at, count, zlib.crc32(bare), *usage).ljust(SIZE, b"\0")


def _decoded(raw: bytes) -> tuple[int, int, Usage] | None:
    """Time, how many were noted, their mean; None for a record that was never written, or not wholly."""
    if len(raw) < SIZE:
        return None
    at, count, crc, *values = RECORD.unpack_from(raw)
    if not count or zlib.crc32(RECORD.pack(at, count, 0, *values)) != crc:
        return None
    return at, count, Usage(*values)


def _mean(found: list[Usage]) -> Usage | None:
    if not found:
        return None
    return Usage(*(sum(values) / len(found) for values in zip(*found, strict=True)))
