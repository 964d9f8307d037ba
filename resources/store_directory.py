"""The small files beside the log: LOCK (who has it), FORMAT (what it is), SYNCED (how far it was durable), BALLAST."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crc32c import crc32c

from nanovirt.resources.errors import NanoError, Unavailable
from nanovirt.resources.segments import every_segment, sync_directory, write_all

FORMAT_VERSION = 2
"""Since 2 there may be snapshots, and segments that only history/ holds."""
READABLE_VERSIONS = (1, 2)
RESTORING = "RESTORING"
"""The name of a file that is there as long as a restore is not finished."""
DEATH_SECONDS = 5.0
"""How long a process that its dead server has left behind may hold LOCK."""
_SYNCED = struct.Struct("<QQ")  # revision, checksum of these eight bytes


@dataclass(frozen=True)
class Format:
    """What FORMAT says; `incarnation` grows when revisions are given up, so that none names two states."""

    version: int
    cluster: str
    incarnation: int


def make_directories(directory: Path) -> None:
    """The directory and its folders, for the owner alone; one that is there keeps its mode."""
    for path in (directory, *(directory / name for name in ("wal", "snap", "history", "quarantine"))):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def hold_lock(directory: Path) -> int:
    """Take LOCK for as long as the returned descriptor stays open (Unavailable: somebody else has it)."""
    path = directory / "LOCK"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + DEATH_SECONDS
    while not _locked(fd):
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        if Path(f"/proc/{holder}").exists() or time.monotonic() > deadline:
            os.close(fd)
            raise Unavailable(
                f"{directory} is in use by process {holder} (see {path}); "
                "stop that one first, or name another directory"
            )
        time.sleep(0.01)  # it was killed, and what it had started dies just now
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def served(directory: Path) -> bool:
    """Whether the process that has last held LOCK is there."""
    try:
        holder = (directory / "LOCK").read_text().strip()
    except FileNotFoundError:
        return False
    return bool(holder) and Path(f"/proc/{holder}").exists()


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash it is either the old or the new one (OSError)."""
    unborn = path.with_name(path.name + ".tmp")
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    unborn.rename(path)
    sync_directory(path.parent)


def load_format(directory: Path) -> Format:
    """Read FORMAT, or found a new store where there is neither FORMAT nor log (NanoError: not ours to open).

    A store of an older version is one of this version from then on, and older versions of Nano refuse it.
    """
    path = directory / "FORMAT"
    if (directory / RESTORING).exists():
        raise NanoError(f"a restore into {directory} was not finished; run the same `nanoctl restore` again")
    if path.exists():
        found = read_format(path)
        if found.version != FORMAT_VERSION:
            found = replace(found, version=FORMAT_VERSION)
            write_format(directory, found)
        return found
    if every_segment(directory) or read_synced(directory):
        raise NanoError(f"{path} is missing though {directory} holds a log; restore it from a backup")
    write_synced(directory, 0)
    found = Format(FORMAT_VERSION, str(uuid.uuid4()), 1)
    write_format(directory, found)
    sync_directory(directory.parent)
    return found


def read_format(path: Path) -> Format:
    """NanoError: unreadable, or made by a version of Nano that this one does not know."""
    return parse_format(path.read_bytes(), str(path))


def parse_format(content: bytes, path: str) -> Format:
    """The same for what a FORMAT holds; `path` names it."""
    try:
        fields = json.loads(content)
        version = int(fields["version"])
        if version in READABLE_VERSIONS:
            return Format(version, str(fields["cluster"]), int(fields["incarnation"]))
    except (ValueError, KeyError, TypeError) as error:
        raise NanoError(f"{path} cannot be read ({error}); restore it from a backup") from error
    raise NanoError(
        f"{path} says format version {version}, this Nano knows only up to {FORMAT_VERSION}; "
        "start the version of Nano that wrote it, nothing was changed"
    )


def write_format(directory: Path, content: Format) -> None:
    """OSError."""
    write_whole(directory / "FORMAT", json.dumps(asdict(content)).encode() + b"\n")


def read_synced(directory: Path) -> int | None:
    """The last revision that SYNCED knows to be durable; None when the file is missing or damaged."""
    try:
        content = (directory / "SYNCED").read_bytes()
    except FileNotFoundError:
        return None
    if len(content) != _SYNCED.size:
        return None
    rev: int = _SYNCED.unpack(content)[0]
    return rev if content == pack_synced(rev) else None


def pack_synced(rev: int) -> bytes:
    """The 16 bytes of SYNCED."""
    return _SYNCED.pack(rev, crc32c(rev.to_bytes(8, "little")))


def write_synced(directory: Path, rev: int) -> None:
    """Durably (OSError)."""
    write_whole(directory / "SYNCED", pack_synced(rev))


def hold_ballast(directory: Path, size: int) -> bool:
    """Keep `size` bytes of disk as BALLAST, to be given up for deletes; False when the disk has no room for it."""
    path = directory / "BALLAST"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, max(size, 1))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        path.unlink()
        return False
    finally:
        os.close(fd)
    return True


def drop_ballast(directory: Path) -> bool:
    """Give BALLAST back to the disk; False when it is gone already."""
    try:
        (directory / "BALLAST").unlink()
    except FileNotFoundError:
        return False
    return True


def room(directory: Path) -> int:
    """Bytes that the disk of `directory` still gives to anybody."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize
