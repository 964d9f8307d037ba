"""What a log found on disk is worth: whole, torn by a crash (cut, go on), or damaged (refuse until told otherwise)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from nanovirt.resources.errors import Invalid, StoreCorrupt
from nanovirt.resources.segments import (
    Frame,
    first_revision,
    header,
    parse,
    segments,
    sync_directory,
    walk,
    whole_line_beyond,
    written,
)
from nanovirt.resources.store_directory import (
    Format,
    hold_lock,
    read_format,
    read_synced,
    write_format,
    write_synced,
    write_whole,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """Where and why the log cannot be believed."""

    path: Path
    offset: int
    why: str


@dataclass(frozen=True)
class Survey:
    """How far a log is good: to `end` in `segment` (None: there is none), revision `rev`, whose line has `crc`.

    `torn` is what a crash left behind that point in the last segment; `damage` is what no crash explains.
    """

    segment: Path | None
    end: int
    rev: int
    crc: int
    torn: bytes = b""
    damage: Damage | None = None


@dataclass(frozen=True)
class Repaired:
    """What a repair did: the log now ends at `rev`; `dropped` bytes stand in the `kept` files of quarantine/."""

    rev: int
    dropped: int
    kept: tuple[Path, ...]


def survey(directory: Path, cluster: str) -> Survey:
    """Read the whole log and say how far it is good; changes nothing (OSError)."""
    synced = read_synced(directory)
    found = Survey(None, 0, 0, 0)
    paths = segments(directory / "wal")
    for path in paths:
        found = _follow(found, path, cluster)
        if found.torn and not found.damage and path != paths[-1]:
            found = replace(found, damage=Damage(path, found.end, "a bad record in a segment that is not the last"))
        if found.damage:
            return found
    return replace(found, damage=_shortfall(directory, found, synced))


def _follow(found: Survey, path: Path, cluster: str) -> Survey:
    """Go on from `found` through the segment `path`."""
    content = written(path)
    last = parse(content, 0)
    if last is None or (content[: last.end], last.crc) != header(cluster, first_revision(path) - 1, last.prev):
        return replace(found, damage=Damage(path, 0, "its header is bad, or another store's"))
    if (last.rev, last.prev) != (found.rev, found.crc):
        return replace(found, damage=Damage(path, 0, f"it does not follow revision {found.rev}"))
    for frame in walk(content, last):
        last = frame
    torn = content[last.end :]
    damage = _damage_behind(path, content, last) if torn else None
    return Survey(path, last.end, last.rev, last.crc, torn, damage)


def _damage_behind(path: Path, content: bytes, last: Frame) -> Damage | None:
    """Why the bytes behind `last` are no torn tail; None when they may be one."""
    if bad := parse(content, last.end):
        return Damage(path, last.end, f"revision {bad.rev} does not follow revision {last.rev}")
    if later := whole_line_beyond(content, last.end, last.rev):
        return Damage(path, last.end, f"a bad record, and revision {later.rev} whole behind it")
    return None


def _shortfall(directory: Path, found: Survey, synced: int | None) -> Damage | None:
    """Why the log cannot end where it does; None when it can."""
    if synced is None:
        return Damage(directory / "SYNCED", 0, "missing or damaged, so nobody can tell whether the log is complete")
    if synced > found.rev:
        why = f"SYNCED says that revision {synced} was durable, the log ends before it"
        return Damage(found.segment or directory / "wal", found.end, why)
    return None


def recover(directory: Path, identity: Format) -> Survey:
    """Bring the log into a state that can be continued; the caller holds LOCK (OSError).

    StoreCorrupt: damaged, nothing was changed. A torn tail is copied to quarantine/, cut off and logged.
    """
    wal = directory / "wal"
    for leftover in wal.glob("*.tmp"):
        leftover.unlink()
    for path in segments(wal)[-1:]:
        settle(path)
    found = survey(directory, identity.cluster)
    if found.damage:
        raise _corrupt(found, found.damage)
    if found.torn and found.segment:
        kept = _quarantine(directory, found.segment, found.end, found.torn)
        _cut(found.segment, found.end)
        log.warning("torn tail cut", extra={**_place(found), "dropped": len(found.torn), "kept": str(kept)})
    write_synced(directory, found.rev)
    return replace(found, torn=b"")


def settle(path: Path) -> None:
    """Make a file durable, then forget its cached pages, so that what is read next is what the disk holds.

    The writer before us may have died before its sync, and after a failed sync the cache shows what was never written.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def repair(directory: Path, accept_loss_after: int) -> Repaired:
    """Give up everything behind the last good revision, which the caller has to name; copies go to quarantine/.

    Invalid: another revision was named. Unavailable: a server runs on the directory. NanoError: FORMAT is not readable.
    A log without damage is left as it is. A repair that gave up anything begins a new incarnation. Interrupted, it can
    be run again.
    """
    lock = hold_lock(directory)
    try:
        identity = read_format(directory / "FORMAT")
        found = survey(directory, identity.cluster)
        if accept_loss_after != found.rev:
            raise Invalid("accept-loss-after", f"the log is good up to revision {found.rev}; name that one")
        return _give_up(directory, identity, found) if found.damage else Repaired(found.rev, 0, ())
    finally:
        os.close(lock)


def _give_up(directory: Path, identity: Format, found: Survey) -> Repaired:
    """Copies first, then the new incarnation, then the cut from the far end: refused or finished at each step."""
    paths = segments(directory / "wal")
    beyond = paths[paths.index(found.segment) + 1 :] if found.segment else paths
    lost = [(path, 0, written(path)) for path in beyond]
    if found.segment:
        lost.insert(0, (found.segment, found.end, written(found.segment)[found.end :]))
    kept = tuple(_quarantine(directory, path, offset, content) for path, offset, content in lost if content)
    write_format(directory, replace(identity, incarnation=identity.incarnation + 1))
    for path in reversed(beyond):
        path.unlink()
    sync_directory(directory / "wal")
    if found.segment:
        _cut(found.segment, found.end)
    write_synced(directory, found.rev)
    dropped = sum(len(content) for _, _, content in lost)
    log.warning("loss accepted", extra={**_place(found), "dropped": dropped})
    return Repaired(found.rev, dropped, kept)


def _quarantine(directory: Path, path: Path, offset: int, content: bytes) -> Path:
    """Keep a copy of what is about to be dropped; doing it twice makes one file."""
    kept = directory / "quarantine" / f"{path.name}.{offset}.{crc32c(content):08x}"
    write_whole(kept, content)
    return kept


def _cut(path: Path, end: int) -> None:
    """End a segment at `end`, durably."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, end)
        os.fsync(fd)
    finally:
        os.close(fd)


def _place(found: Survey) -> dict[str, object]:
    return {"segment": str(found.segment), "offset": found.end, "last_good": found.rev}


def _corrupt(found: Survey, damage: Damage) -> StoreCorrupt:
    command = f"nanoctl store repair --accept-loss-after {found.rev}"
    return StoreCorrupt(str(damage.path), damage.offset, found.rev, damage.why, command)
