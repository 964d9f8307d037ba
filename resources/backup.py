"""A backup: one consistent store at one revision in one file, taken beside a server that writes and sums up meanwhile.

What it copies never changes again, but for the end of the live segment; it is opened before any of it is read, so that
it cannot go away. The keys of the cluster are in no backup.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson

from nanovirt.resources import archive
from nanovirt.resources.archive import MANIFEST, packed
from nanovirt.resources.backup_contents import Contents, inspect
from nanovirt.resources.errors import NanoError, Rejected, Unavailable
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.segments import (
    Frame,
    beyond,
    every_segment,
    first_revision,
    parse,
    walk,
    without_zeros,
    written,
)
from nanovirt.resources.snapshots import Snapshot, newest, revision_of, snapshots
from nanovirt.resources.store_directory import Format, read_format, read_synced, served

TRIES = 200
NOTED_SECONDS = 3.0
"""How long SYNCED is waited for; a log that works notes there within a second how far it is durable."""
_PR_SET_PDEATHSIG = 1


@dataclass
class _Gathered:
    """What is to be copied, held open; `live` is the content of the last segment, up to what is known durable."""

    identity: Format
    base: Snapshot | None
    files: dict[str, BinaryIO]
    live: tuple[str, bytes]
    end: Frame
    at: str


def take(directory: Path, *, with_history: bool = False) -> Iterator[bytes]:
    """The bytes of a backup of the store in `directory`; the server may run.

    NanoError: this is no store, or it is damaged. Unavailable: its files move faster than they can be opened. OSError.
    """
    if not (directory / "FORMAT").is_file():
        raise Rejected(f"{directory} holds no store; name the server's data folder by --data DIR")
    with ExitStack() as stack:
        gathered = _gather(directory, stack)
        noted: dict[str, tuple[int, str]] = {}
        yield from _noted(noted, "FORMAT", io.BytesIO(orjson.dumps(asdict(gathered.identity)) + b"\n"))
        for name, file in gathered.files.items():
            yield from _noted(noted, name, file)
        name, content = gathered.live
        if name:
            yield from _noted(noted, name, io.BytesIO(content))
        if with_history:
            yield from _history(directory, gathered, noted)
        said = orjson.dumps(asdict(_contents(gathered, noted)), option=orjson.OPT_INDENT_2)
        yield from packed(MANIFEST, len(said), [said])
        yield archive.END


def _contents(found: _Gathered, noted: dict[str, tuple[int, str]]) -> Contents:
    base = _place(found.base.path) if found.base else ""
    taken = rfc3339(datetime.now(UTC).replace(microsecond=0))
    identity, end = found.identity, found.end
    return Contents(identity.cluster, identity.incarnation, end.rev, end.crc, found.at, base, taken, noted)


def _noted(noted: dict[str, tuple[int, str]], name: str, file: BinaryIO) -> Iterator[bytes]:
    """A file as the archive has it, noted with its checksum when it is over."""
    if name.endswith(".wal") and not isinstance(file, io.BytesIO):
        file = io.BytesIO(without_zeros(file.read()))
    size, digest = file.seek(0, os.SEEK_END), hashlib.sha256()
    file.seek(0)

    def pieces() -> Iterator[bytes]:
        for piece in archive.pieces(file):
            digest.update(piece)
            yield piece

    yield from packed(name, size, pieces())
    noted[name] = (size, digest.hexdigest())


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _gather(directory: Path, stack: ExitStack) -> _Gathered:
    """Open all that belongs together; again when something has moved into the history meanwhile."""
    for _ in range(TRIES):
        try:
            with ExitStack() as held:
                found = _open(directory, held)
                stack.enter_context(held.pop_all())
                return found
        except FileNotFoundError:
            continue
    raise Unavailable(f"the files of {directory} move all the time; try again")


def _open(directory: Path, held: ExitStack) -> _Gathered:
    identity = read_format(directory / "FORMAT")
    base = newest(directory, identity.cluster, sys.maxsize)
    begin = base.rev if base else 0
    files: dict[str, BinaryIO] = {}
    if base:
        files[_place(base.path)] = held.enter_context(base.path.open("rb"))
    paths = [path for path in beyond(every_segment(directory), begin) if first_revision(path) > begin]
    for path in paths:
        files[_place(path)] = held.enter_context(path.open("rb"))
    if not paths or paths[-1].suffix == ".gz":
        return _Gathered(identity, base, files, ("", b""), *_last(base, paths))
    name = _place(paths[-1])
    end, content = _durable_part(directory, paths[-1], without_zeros(files.pop(name).read()))
    if not content:
        return _Gathered(identity, base, files, ("", b""), end, _last(base, paths[:-1])[1])
    return _Gathered(identity, base, files, (name, content), end, _at(content, end))


def _last(base: Snapshot | None, paths: list[Path]) -> tuple[Frame, str]:
    """The last line of sealed segments, else of the snapshot, and when it was written."""
    for path in reversed(paths):
        content = written(path)
        first = parse(content, 0)
        last = next(reversed([first, *walk(content, first)])) if first else None
        if last and (at := _at(content, last)):
            return last, at
    return (Frame(base.crc, 0, base.rev, 0), base.at) if base else (Frame(0, 0, 0, 0), "")


def _at(content: bytes, frame: Frame) -> str:
    """When the record whose line ends there was made; "" for a segment's first line."""
    start = content.rfind(b"\n", 0, frame.end - 1) + 1
    said = orjson.loads(content[content.index(b"{", start) : frame.end]) if start else {}
    return str(said.get("at", ""))


def _durable_part(directory: Path, path: Path, content: bytes) -> tuple[Frame, bytes]:
    """The last line of the log that no crash can take back, and the live segment up to there, if it begins before."""
    first = parse(content, 0)
    if first is None:
        raise NanoError(f"{path} has a bad header; see what is wrong by `nanoctl store verify`")
    frames = [first, *walk(content, first)]
    durable = max(first.rev, _durable(directory, frames[-1].rev))
    end = next(frame for frame in reversed(frames) if frame.rev <= durable)
    return (Frame(first.prev, 0, first.rev, 0), b"") if end is first else (end, content[: end.end])


def _durable(directory: Path, rev: int) -> int:
    """How far a log that reaches to `rev` is known to be durable; without a server what is there counts."""
    deadline = time.monotonic() + NOTED_SECONDS
    while (synced := read_synced(directory) or 0) < rev:
        if not served(directory):
            return rev
        if time.monotonic() > deadline:
            return synced
        time.sleep(0.05)
    return rev


def _history(directory: Path, gathered: _Gathered, noted: dict[str, tuple[int, str]]) -> Iterator[bytes]:
    """What came before, newest first, as far as it is still there when its turn comes: the oldest is given up first."""
    begin = gathered.base.rev if gathered.base else 0
    segments = [path for path in every_segment(directory) if first_revision(path) <= begin]
    older = [path for path in snapshots(directory) if revision_of(path) < begin]
    for path in sorted([*segments, *older], key=lambda path: path.name, reverse=True):
        for place in (path, directory / "history" / f"{path.name.removesuffix('.gz')}.gz"):
            if _place(place) in noted:
                break
            try:
                file = place.open("rb")
            except FileNotFoundError:
                continue
            with file:
                yield from _noted(noted, _place(place), file)
            break


def save(content: Iterator[bytes], path: Path) -> Contents:
    """Write a backup that comes in pieces, and check it; the file has its name only when it is whole.

    Rejected: there is one of that name, or what came is not whole. OSError.
    """
    if path.exists():
        raise Rejected(f"{path} is there already; give the backup another name")
    unborn = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        archive.write_private(unborn, content)
        with unborn.open("rb") as file:
            contents, _ = inspect(file)
        os.link(unborn, path)
    finally:
        unborn.unlink(missing_ok=True)
    return contents


def main() -> int:
    """`python -m nanovirt.resources.backup DIRECTORY PARENT [--with-history]`: the bytes of a backup, for a server."""
    directory, parent = Path(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.nice(19)
    try:
        for piece in take(directory, with_history="--with-history" in sys.argv[3:]):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except (NanoError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
