"""Summing up: a process beside the server that makes the next snapshot and turns what it covers into history.

It reads only what never changes again (the last snapshot and the sealed segments behind it), so the server neither
stops nor copies anything for it. Every step is durable before the next one gives anything up, and can be done again.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import NanoError
from nanovirt.resources.idempotency import Ledger
from nanovirt.resources.recovery import set_aside
from nanovirt.resources.segments import (
    Frame,
    beyond,
    every_segment,
    first_revision,
    follows,
    header,
    parse,
    segments,
    sync_directory,
    walk,
    without_zeros,
)
from nanovirt.resources.snapshots import (
    Snapshot,
    name_of,
    newest,
    open_snapshot,
    revision_of,
    snapshot_path,
    snapshots,
    write_snapshot,
)
from nanovirt.resources.store import Once
from nanovirt.resources.store_directory import read_format, room
from nanovirt.resources.trickle import gently, portions, rest, write_trickling

KEPT_AT_HAND = 2
"""Snapshots that a start may begin from; the second one is for the case that the first is damaged."""
_PACKED_AT_ONCE = 8 << 10
"""Bytes that are compressed without giving way, a fraction of a millisecond."""
_NEVER = "1970-01-01T00:00:00Z"
_GZIP = 31
"""What zlib calls its largest window in the frame of gzip."""
_PR_SET_PDEATHSIG = 1


class File(NamedTuple):
    """A file of the history: what revision it begins with or stands at, and its bytes."""

    path: Path
    rev: int
    size: int


@dataclass(frozen=True)
class Summed:
    """What a run did: the revision of the new snapshot, its bytes, and the oldest revision of the history then."""

    rev: int
    size: int
    oldest: int


def due(sealed: int, snapshot: int, least: int) -> bool:
    """Whether to sum up: as many bytes of log as the last snapshot has, so that it costs each byte twice at most."""
    return sealed >= max(snapshot, least)


def superfluous(history: Sequence[File], bound: int, needed: int) -> list[Path]:
    """What to give up, oldest first, so that the rest has at most `bound` bytes; nothing beyond revision `needed`."""
    excess = sum(file.size for file in history) - bound
    found: list[Path] = []
    for file in sorted(history, key=lambda file: file.rev):
        if excess <= 0 or file.rev > needed:
            break
        found.append(file.path)
        excess -= file.size
    return found


def sum_up(directory: Path, live: int, bound: int, reserve: int = 0) -> Summed:
    """Make the snapshot of all before the segment that begins with revision `live`; `bound`: bytes of history.

    `reserve`: bytes that the disk must have left afterwards; the history gives way for them. NanoError: what is to be
    summed up is damaged, or there is no room all the same; nothing is lost then. OSError.
    """
    cluster = read_format(directory / "FORMAT").cluster
    path = snapshot_path(directory, live - 1)
    if not (path.exists() and open_snapshot(path, cluster)):
        _make_room(directory, cluster, live, reserve)
        write_sum(directory, cluster, live, live - 1)
    size = path.stat().st_size
    for segment in segments(directory / "wal"):
        if first_revision(segment) < live:
            compress(segment, directory / "history")
    whole = []
    for found in _at_hand(directory):
        if open_snapshot(found, cluster):
            whole.append(found)
        else:
            set_aside(directory, found)
    for older in whole[KEPT_AT_HAND:]:
        compress(older, directory / "history")
    return Summed(live - 1, size, _bound_history(directory, bound, revision_of(whole[:KEPT_AT_HAND][-1])))


def _at_hand(directory: Path) -> list[Path]:
    return [path for path in snapshots(directory) if path.parent.name == "snap"]


def _make_room(directory: Path, cluster: str, live: int, reserve: int) -> None:
    """See that what comes into being before anything goes has room; the oldest of the history goes first."""
    at_hand = _at_hand(directory)
    sealed = [path for path in segments(directory / "wal") if first_revision(path) < live]
    needed = reserve + sum(path.stat().st_size for path in [*at_hand[:1], *sealed])
    if (short := needed - room(directory)) > 0:
        kept = sum(file.size for file in _history(directory))
        if whole := [path for path in at_hand if open_snapshot(path, cluster)][:KEPT_AT_HAND]:
            _bound_history(directory, max(kept - short, 0), revision_of(whole[-1]))
    if (found := room(directory)) < needed:
        raise NanoError(
            f"the disk of {directory} has {found} bytes left, to sum up the log takes up to {needed}; make room there"
        )


def write_sum(directory: Path, cluster: str, live: int, rev: int, *, alone: bool = False) -> None:
    """Write the snapshot of all before revision `live`, called revision `rev`. NanoError, OSError."""
    path = snapshot_path(directory, rev)
    base = newest(directory, cluster, live - 1)
    paths = [one for one in beyond(every_segment(directory), base.rev if base else 0) if first_revision(one) < live]
    last: dict[bytes, tuple[int, int]] = {}
    end, at = Frame(base.crc if base else 0, 0, base.rev if base else 0, 0), base.at if base else _NEVER
    for segment in paths:
        for frame, record in _records(segment, cluster, end):
            end, at = frame, record.get("at", "")
            for place, write in enumerate(record["writes"]):
                last[_name(write)] = (frame.rev, place)
    if end.rev != live - 1:
        raise NanoError(f"the log before revision {live} ends at {end.rev}; nothing was summed up")
    header_ = Snapshot(path, rev, at, end.crc, cluster)
    write_snapshot(path, header_, _lines(base, paths, cluster, last), alone=alone)


def _lines(
    base: Snapshot | None, paths: Sequence[Path], cluster: str, last: dict[bytes, tuple[int, int]]
) -> Iterator[bytes]:
    """What the base and the records after it add up to: untouched objects as they stand there, then the later ones."""
    ledger = Ledger()
    for line in gently(base.lines() if base else ()):
        name = name_of(line)
        if name is None:
            ledger.add_said(orjson.loads(line)["key"])
        elif name not in last:
            yield line
    end = Frame(base.crc if base else 0, 0, base.rev if base else 0, 0)
    for segment in paths:
        for frame, record in _records(segment, cluster, end):
            end = frame
            if "key" in record:
                once = Once(record["key"]["name"], record["key"]["digest"])
                ledger.add(record["by"], once, frame.rev, record["at"])
            for place, write in enumerate(record["writes"]):
                if write["verb"] == "put" and last[_name(write)] == (frame.rev, place):
                    yield orjson.dumps({part: value for part, value in write.items() if part != "verb"})
    for said in ledger.say():
        yield orjson.dumps({"key": said})


def _name(write: JSON) -> bytes:
    """What `name_of` gives for the line of that write."""
    return orjson.dumps({part: write[part] for part in ("kind", "namespace", "name")})[:-1]


def _records(path: Path, cluster: str, after: Frame) -> Iterator[tuple[Frame, JSON]]:
    """The records of a segment that follows the line `after`. NanoError when any of it is not as it was written."""
    content = _content(path)
    first = parse(content, 0)
    if first is None or not follows(first, after.rev, after.crc):
        raise NanoError(f"{path} does not follow revision {after.rev}; nothing was summed up")
    if content[: first.end] != header(cluster, first.rev, first.prev)[0]:
        raise NanoError(f"{path} has a bad header; nothing was summed up")
    frame, start = first, first.end
    for frame in gently(walk(content, first)):
        yield frame, orjson.loads(content[content.index(b"{", start) : frame.end])
        start = frame.end
    if frame.end != len(content):
        raise NanoError(f"{path} is damaged at byte {frame.end}; nothing was summed up")


def compress(path: Path, history: Path, *, alone: bool = False) -> None:
    """Move a file into the history; it is there, whole and durable, before it is gone here."""
    kept = history / f"{path.name}.gz"
    unborn = kept.with_suffix(".tmp")
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_trickling(fd, _packed(_pieces(path)), alone=alone)
    finally:
        os.close(fd)
    with gzip.open(unborn) as file:
        for _ in portions(file):  # its own checksum, made from what was packed, says whether it reads back
            pass
    began, size = time.monotonic(), path.stat().st_size
    unborn.rename(kept)
    sync_directory(history)
    path.unlink()
    sync_directory(path.parent)
    if not alone:
        rest(began, size)


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=_GZIP)
    for piece in pieces:
        for at in gently(range(0, len(piece), _PACKED_AT_ONCE)):
            yield packer.compress(piece[at : at + _PACKED_AT_ONCE])
    yield packer.flush()


def _pieces(path: Path) -> Iterator[bytes]:
    if path.suffix == ".wal":
        yield _content(path)
        return
    with path.open("rb") as file:
        yield from portions(file)


def _content(path: Path) -> bytes:
    """As `written`, and gently."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb", buffering=0) as file:
        return without_zeros(b"".join(portions(file)))


def _bound_history(directory: Path, bound: int, needed: int) -> int:
    """Give up what is over the bound; the oldest revision that the history still reaches."""
    files = _history(directory)
    given_up = superfluous(files, bound, needed)
    for path in given_up:
        path.unlink()
        sync_directory(directory / "history")  # one by one, or a power cut could leave a hole in the middle
    return min((file.rev for file in files if file.path not in given_up), default=needed)


def _history(directory: Path) -> list[File]:
    paths = [path for path in (directory / "history").iterdir() if path.suffix == ".gz"]
    return [File(path, int(path.name[:16]), path.stat().st_size) for path in paths]


def main() -> int:
    """`python -m nanovirt.resources.compaction DIRECTORY LIVE BOUND RESERVE PARENT`: sum up, say what came of it."""
    directory, (live, bound, reserve, parent) = Path(sys.argv[1]), map(int, sys.argv[2:6])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # whoever else wants the processor has it at once
    try:
        done = sum_up(directory, live, bound, reserve)
    except (NanoError, OSError, EOFError, zlib.error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({"rev": done.rev, "bytes": done.size, "oldest": done.oldest}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
