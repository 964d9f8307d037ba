"""The durable log: records in segment files under one directory, made durable by one thread, one sync per batch."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import sys
import zlib
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from nanovirt.resources import compaction, store_directory
from nanovirt.resources.errors import Expired, LogFull, NanoError, StoreFailed
from nanovirt.resources.log import Record, Sum, check_order
from nanovirt.resources.recovery import recover, whole_between
from nanovirt.resources.segments import (
    LONGEST_HEADER,
    Segment,
    beyond,
    bodies,
    encode,
    every_segment,
    first_revision,
    parse,
    segments,
    written,
)
from nanovirt.resources.snapshots import newest, revision_of, snapshots
from nanovirt.resources.store_directory import Format

log = logging.getLogger(__name__)

NOTE_SYNCED_EVERY = 1.0
"""Seconds that SYNCED may be behind the log."""


@dataclass(frozen=True)
class Sizes:
    """Bytes: of one segment, of the ballast that deletes may use up, and the room an append has to leave beside it.

    `snapshot`: so much log, at least, between two snapshots. `history`: what compressed segments and older snapshots
    may have together.
    """

    segment: int = 16 << 20
    ballast: int = 64 << 20
    room: int = 32 << 20
    snapshot: int = 64 << 20
    history: int = 1 << 30


class FileLog:
    """A log in a directory of its own, held by LOCK from `open` to `close`; `identity` is what FORMAT says."""

    def __init__(self, directory: Path, sizes: Sizes, lock: int, identity: Format) -> None:
        """Not for callers: `open` is."""
        self.identity = identity
        self._directory = directory
        self._sizes = sizes
        self._lock = lock
        found = recover(directory, identity)
        self._rev, self._crc = found.rev, found.crc
        self._base = found.base
        self._sealed = asyncio.Event()
        self._sealed.set()
        if found.segment and found.segment.suffix == ".wal":
            self._segment = Segment(found.segment, found.end, sizes.segment)
        else:
            self._segment = self._create_segment(sizes.segment)
        self._synced = os.open(directory / "SYNCED", os.O_WRONLY)
        self._has_ballast = store_directory.hold_ballast(directory, sizes.ballast)
        self._rotated = False
        self._failure: OSError | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log")
        self._note: asyncio.TimerHandle | None = None

    @classmethod
    def open(cls, directory: Path, sizes: Sizes | None = None) -> FileLog:
        """Take the directory, make a store of it if it is empty, recover what is in it.

        Unavailable: another process holds it. StoreCorrupt: damaged beyond what a crash explains. NanoError: FORMAT is
        unreadable or of another version. StoreFailed: the disk refused.
        """
        try:
            with ExitStack() as undo:
                store_directory.make_directories(directory)
                lock = store_directory.hold_lock(directory)
                undo.callback(os.close, lock)
                log = cls(directory, sizes or Sizes(), lock, store_directory.load_format(directory))
                undo.pop_all()
                return log
        except OSError as error:
            raise StoreFailed(f"cannot open the log in {directory}: {error}") from error

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._directory

    def sums(self) -> Iterator[Sum]:
        """See Log. The one that `open` has followed the log from, and the one before it, if there is."""
        base = self._base
        while base:
            yield base
            older = newest(self._directory, self.identity.cluster, base.rev - 1)
            base = older if older and whole_between(self._directory, older, base) else None

    def read(self, after: int = 0) -> Iterator[Record]:
        """See Log. What `open` has checked is not checked again (OSError).

        NanoError: a part of the history is damaged.
        """
        head = self._rev
        paths = beyond(every_segment(self._directory), after)
        if after < head and (not paths or (first_revision(paths[0]) > after + 1 and not _begins(paths[0]))):
            raise Expired(after, first_revision(paths[0]) - 1 if paths else head)
        for path in paths:
            for rev, body in enumerate(bodies(self._content(path, after)), first_revision(path)):
                if after < rev <= head:
                    yield Record(rev, body)

    def _content(self, path: Path, after: int) -> bytes:
        """What a segment holds, also when it has just moved into the history; Expired when it has left that, too."""
        for place in (path, self._directory / "history" / f"{path.name.removesuffix('.gz')}.gz"):
            with suppress(FileNotFoundError):
                try:
                    return written(place)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise NanoError(f"{place} is damaged: {error}; the revisions in it cannot be read") from error
        raise Expired(after, first_revision(path))

    async def append(self, records: Sequence[Record]) -> None:
        """See Log."""
        if self._closed:
            raise StoreFailed(f"the log in {self._directory} is closed")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._commit, records)
        if self._rotated:
            self._rotated = False
            self._sealed.set()
        if self._note is None and not self._closed:
            self._note = loop.call_later(NOTE_SYNCED_EVERY, self._start_noting)

    def head(self) -> int:
        """See Log."""
        return self._rev

    def make_room(self) -> bool:
        """After LogFull: give up the ballast, so that deletes can be appended; False when it is gone already.

        The ballast comes back by itself when the disk has room again.
        """
        self._has_ballast = False
        return store_directory.drop_ballast(self._directory)

    async def tend(self) -> None:
        """See Log. Each summing up is a process of its own; one that fails is told and tried again later."""
        while True:
            await self._sealed.wait()
            self._sealed.clear()
            live = first_revision(self._segment.path)
            try:
                if compaction.due(*self._weights(live), self._sizes.snapshot):
                    await self._sum_up(live)
            except OSError as error:
                _complain(str(error))

    def _weights(self, live: int) -> tuple[int, int]:
        """Bytes of log since the last snapshot, up to the segment that begins with `live`, and of that snapshot."""
        at_hand = [path for path in snapshots(self._directory) if path.parent.name == "snap"]
        last = revision_of(at_hand[0]) if at_hand else 0
        sealed = [path for path in segments(self._directory / "wal") if last < first_revision(path) < live]
        return sum(path.stat().st_size for path in sealed), at_hand[0].stat().st_size if at_hand else 0

    async def _sum_up(self, live: int) -> None:
        reserve = self._sizes.room + self._sizes.segment
        words = [self._directory, live, self._sizes.history, reserve, os.getpid()]
        command = [sys.executable, "-m", compaction.__name__, *map(str, words)]
        # It inherits LOCK, so that nobody opens the directory while it works on it.
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, pass_fds=[self._lock])
        except OSError as error:
            _complain(str(error))
            return
        try:
            said, complained = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):  # it has ended just now
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            _complain(complained.decode(errors="replace").strip())
            return
        log.info("log summed up", extra=json.loads(said))

    def close(self) -> None:
        """See Log. Waits for an append under way."""
        if self._closed:
            return
        self._closed = True
        if self._note:
            self._note.cancel()
        self._thread.shutdown(wait=True)
        self._note_synced()
        self._segment.close()
        os.close(self._synced)
        os.close(self._lock)

    def _start_noting(self) -> None:
        self._note = None
        self._thread.submit(self._note_synced)

    # --- in the log's own thread ---

    def _commit(self, records: Sequence[Record]) -> None:
        self._refuse_after_failure()
        check_order(self._rev, records)
        try:
            if records:
                self._write(records)
        except OSError as error:
            self._note_synced()  # a disk that takes back what it has confirmed is found out at the next start
            self._failure = error
            self._refuse_after_failure()

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise StoreFailed(
                f"the log in {self._directory} failed: {self._failure}; what was being written may be on disk or not, "
                "restart the server to find out"
            ) from self._failure

    def _write(self, records: Sequence[Record]) -> None:
        lines, crc = self._lines(records)
        self._require_room(len(lines))
        if not self._segment.fits(len(lines)) and self._rev >= first_revision(self._segment.path):
            full = self._segment
            self._segment = self._create_segment(max(self._sizes.segment, LONGEST_HEADER + len(lines)))
            full.seal()
            self._rotated = True
            lines, crc = self._lines(records)  # they follow the new header now
        self._segment.append(lines)
        self._rev, self._crc = records[-1].rev, crc

    def _lines(self, records: Sequence[Record]) -> tuple[bytes, int]:
        """The text of a batch as it follows the log's last line, and the checksum of its last line."""
        lines, crc = [], self._crc
        for record in records:
            line, crc = encode(crc, record.rev, self._rev, record.body)
            lines.append(line)
        return b"".join(lines), crc

    def _create_segment(self, size: int) -> Segment:
        wal, cluster = self._directory / "wal", self.identity.cluster
        segment, self._crc = Segment.create(wal, cluster, self._rev, self._crc, size)
        return segment

    def _require_room(self, length: int) -> None:
        """LogFull unless the disk has room for that and more; nothing has been written then."""
        room, needed = store_directory.room(self._directory), self._sizes.room + length
        if room < needed:
            raise LogFull(
                f"the disk of {self._directory} has {room} bytes left and the log needs {needed}; nothing was written. "
                "Make room there, then send it again",
                room=room,
                needed=needed,
            )
        if not self._has_ballast and room >= needed + self._sizes.ballast + self._sizes.segment:
            self._has_ballast = store_directory.hold_ballast(self._directory, self._sizes.ballast)

    def _note_synced(self) -> None:
        """Bring SYNCED up to the log. The system takes it to disk in its own time: early enough against rot."""
        if self._failure:
            return
        try:
            os.pwrite(self._synced, store_directory.pack_synced(self._rev), 0)
        except OSError as error:
            self._failure = error


def _begins(path: Path) -> bool:
    """Whether nothing ever stood before that segment, though a repair has raised its revision."""
    frame = parse(written(path), 0)
    return frame is not None and not frame.prev


def _complain(detail: str) -> None:
    log.error("the log could not be summed up; it goes on growing", extra={"detail": detail})
