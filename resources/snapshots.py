r"""The text of a snapshot: what the records up to a revision add up to, one object per line, and then a checksum.

The first line is the header, then come objects as the log's writes have them (`{"kind","namespace","name","object"}`),
then what is remembered of requests (`{"key"}`), then `sha256 HEX` over all of it. `head -n -1 | jq` reads it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from nanovirt.resources.segments import sync_directory
from nanovirt.resources.trickle import portions, write_trickling

VERSION = 1
_NAME = re.compile(r"\d{16}\.json\.snap(\.gz)?")
_OBJECT = re.compile(rb'(?:,"schema":\d+)?,"object":')
_TRAILER = re.compile(rb"sha256 [0-9a-f]{64}\n")
_TRAILER_BYTES = 72


class Snapshot(NamedTuple):
    """A snapshot that has been found whole: `crc` is that of the log's line of its revision, `at` when that was."""

    path: Path
    rev: int
    at: str
    crc: int
    cluster: str

    def lines(self) -> Iterator[bytes]:
        """What stands between header and checksum, each line without its end. OSError."""
        with _opened(self.path) as file:
            next(file)
            held = b""
            for line in file:
                if held:
                    yield held[:-1]
                held = line


def snapshots(directory: Path) -> list[Path]:
    """The snapshots of a store, newest first: those at hand, and then those that only the history holds."""
    # In this order, so that what moves into the history meanwhile is seen at least once.
    folders = [[*folder.iterdir()] if folder.is_dir() else [] for folder in (directory / "snap", directory / "history")]
    found = {path.name[:16]: path for paths in reversed(folders) for path in paths if _NAME.fullmatch(path.name)}
    return [found[name] for name in sorted(found, reverse=True)]


def snapshot_path(directory: Path, rev: int) -> Path:
    """The file that sums up all until revision `rev`."""
    return directory / "snap" / f"{rev:016d}.json.snap"


def revision_of(path: Path) -> int:
    """The revision that a snapshot's name promises."""
    return int(path.name[:16])


def open_snapshot(path: Path, cluster: str) -> Snapshot | None:
    """A snapshot whose every byte is as it was written; None when it is not, or is another cluster's (OSError)."""
    with _opened(path) as file:
        return checked(file, path, cluster)


def checked(file: gzip.GzipFile | BinaryIO, path: Path, cluster: str) -> Snapshot | None:
    """The same for what a file holds that is, or will be, a snapshot of that path."""
    try:
        if not _whole(file):
            return None
        file.seek(0)
        said = orjson.loads(next(file))
        found = Snapshot(path, said["rev"], said["at"], said["crc"], said["cluster"])
    except (ValueError, KeyError, EOFError, StopIteration, zlib.error, gzip.BadGzipFile):
        return None
    return found if (found.rev, found.cluster) == (revision_of(path), cluster) else None


def header_of(path: Path) -> Snapshot | None:
    """What the first line of a snapshot says, whatever follows; None when it says something else than the name does."""
    try:
        with _opened(path) as file:
            said = orjson.loads(next(file))
        found = Snapshot(path, said["rev"], said["at"], said["crc"], said["cluster"])
    except (ValueError, KeyError, EOFError, StopIteration, zlib.error, gzip.BadGzipFile):
        return None
    return found if found.rev == revision_of(path) else None


def newest(directory: Path, cluster: str, upto: int) -> Snapshot | None:
    """The newest whole snapshot at or before revision `upto`; None: the log has to be read from its beginning."""
    for path in snapshots(directory):
        if revision_of(path) <= upto and (found := open_snapshot(path, cluster)):
            return found
    return None


def _opened(path: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _whole(file: gzip.GzipFile | BinaryIO) -> bool:
    """Whether the checksum at the end is that of what is before it."""
    digest, held = hashlib.sha256(), b""
    for piece in portions(file):
        held += piece
        digest.update(held[:-_TRAILER_BYTES])
        held = held[-_TRAILER_BYTES:]
    return bool(_TRAILER.fullmatch(held)) and held[7:-1] == digest.hexdigest().encode()


def name_of(line: bytes) -> bytes | None:
    """The part of a line that names its object, the same bytes for the same object; None for other lines."""
    found = _OBJECT.search(line)
    return line[: found.start()] if found else None


def write_snapshot(path: Path, header: Snapshot, lines: Iterable[bytes], *, alone: bool = False) -> None:
    """Write a snapshot, durable and under its name (OSError); `alone` as in `write_trickling`."""
    unborn = path.with_suffix(".tmp")
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_trickling(fd, _text(header, lines), alone=alone)
    finally:
        os.close(fd)
    with unborn.open("rb") as file:
        whole = _whole(file)
    if not whole:
        raise OSError(f"{unborn} does not read back as it was written")
    unborn.rename(path)
    sync_directory(path.parent)


def _text(header: Snapshot, lines: Iterable[bytes]) -> Iterator[bytes]:
    said = {"snapshot": VERSION, "cluster": header.cluster, "rev": header.rev, "at": header.at, "crc": header.crc}
    digest, rest = hashlib.sha256(), chain([orjson.dumps(said)], lines)
    while some := list(islice(rest, 16)):
        piece = b"\n".join(some) + b"\n"
        digest.update(piece)
        yield piece
    yield b"sha256 %b\n" % digest.hexdigest().encode()
