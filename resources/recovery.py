"""What a log found on disk is worth: whole, torn by a crash (cut, go on), or damaged (refuse until told otherwise)."""

from __future__ import annotations

import gzip
import logging
import os
import shlex
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from nanovirt.resources.errors import Invalid, StoreCorrupt
from nanovirt.resources.segments import (
    LONGEST_HEADER,
    RAISED,
    Frame,
    Segment,
    every_segment,
    first_revision,
    follows,
    header,
    line_written_after,
    parse,
    segment_path,
    segments,
    sync_directory,
    walk,
    written,
)
from nanovirt.resources.snapshots import Snapshot, open_snapshot, snapshots
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

    `base` is the snapshot that it was followed from (None: its beginning), `spoilt` are newer ones that are damaged.
    `torn` is what a crash left behind that point in the last segment; `damage` is what no crash explains.
    """

    segment: Path | None
    end: int
    rev: int
    crc: int
    torn: bytes = b""
    damage: Damage | None = None
    base: Snapshot | None = None
    spoilt: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Repaired:
    """What a repair did: the log now ends at `rev`; `dropped` bytes stand in the `kept` files of quarantine/."""

    rev: int
    dropped: int
    kept: tuple[Path, ...]


def survey(directory: Path, cluster: str) -> Survey:
    """Follow the log from the newest whole snapshot on and say how far it is good; changes nothing (OSError)."""
    synced = read_synced(directory)
    found, paths = _start(directory, cluster)
    for path in paths:
        found = _follow(found, path, cluster)
        if found.torn and not found.damage and path != paths[-1]:
            found = replace(found, damage=Damage(path, found.end, "a bad record in a segment that is not the last"))
        if found.damage:
            return found
    if found.base and not paths:
        missing = segment_path(directory / "wal", found.rev + 1)
        return replace(found, damage=Damage(missing, 0, "the segment that follows the newest snapshot is missing"))
    return replace(found, damage=_shortfall(directory, found, synced))


def whole_between(directory: Path, older: Snapshot, newer: Snapshot) -> bool:
    """Whether the log leads from one snapshot to the other without damage (OSError)."""
    found = Survey(None, 0, older.rev, older.crc)
    for path in every_segment(directory):
        if older.rev < first_revision(path) <= newer.rev and not (found.damage or found.torn):
            found = _follow(found, path, older.cluster)
    return (found.rev, found.crc) == (newer.rev, newer.crc)


def _start(directory: Path, cluster: str) -> tuple[Survey, list[Path]]:
    """Where the log can be followed from, and the segments behind that point."""
    spoilt: list[Path] = []
    for path in snapshots(directory):
        if base := open_snapshot(path, cluster):
            found = Survey(None, 0, base.rev, base.crc, base=base, spoilt=tuple(spoilt))
            return found, [path for path in every_segment(directory) if first_revision(path) > base.rev]
        spoilt.append(path)
    return Survey(None, 0, 0, 0, spoilt=tuple(spoilt)), every_segment(directory)


def _follow(found: Survey, path: Path, cluster: str) -> Survey:
    """Go on from `found` through the segment `path`."""
    try:
        content = written(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return replace(found, damage=Damage(path, 0, f"it cannot be decompressed: {error}"))
    last = parse(content, 0)
    if last is None or (content[: last.end], last.crc) != header(cluster, first_revision(path) - 1, last.prev):
        return replace(found, damage=Damage(path, 0, "its header is bad, or another store's"))
    if not follows(last, found.rev, found.crc):
        return replace(found, damage=Damage(path, 0, f"it does not follow revision {found.rev}"))
    for frame in walk(content, last):
        last = frame
    torn = content[last.end :]
    damage = _damage_behind(path, content, last) if torn else None
    return replace(found, segment=path, end=last.end, rev=last.rev, crc=last.crc, torn=torn, damage=damage)


def _damage_behind(path: Path, content: bytes, last: Frame) -> Damage | None:
    """Why the bytes behind `last` are no torn tail; None when they may be one."""
    if bad := parse(content, last.end):
        return Damage(path, last.end, f"revision {bad.rev} does not follow revision {last.rev}")
    if later := line_written_after(content, last.end, last.rev):
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

    StoreCorrupt: damaged, nothing was changed. A torn tail is copied to quarantine/, cut off and logged; a damaged
    snapshot that an older one stands in for goes there, too.
    """
    for folder in ("wal", "snap", "history"):
        for leftover in (directory / folder).glob("*.tmp"):
            leftover.unlink()
    for path in segments(directory / "wal")[-1:]:
        settle(path)
    found = survey(directory, identity.cluster)
    if found.damage:
        raise _corrupt(directory, found, found.damage)
    if found.torn and found.segment:
        kept = _quarantine(directory, found.segment, found.end, found.torn)
        _cut(found.segment, found.end)
        log.warning("torn tail cut", extra={**_place(found), "dropped": len(found.torn), "kept": str(kept)})
    for path in found.spoilt:
        set_aside(directory, path)
        log.warning("damaged snapshot set aside", extra={"snapshot": str(path), "revision": found.rev})
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
    A log without damage is left as it is. A repair that gave up anything begins a new incarnation, and its revisions
    RAISED higher. Interrupted, it can be run again.
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
    paths = _start(directory, identity.cluster)[1]
    rest = paths[paths.index(found.segment) + 1 :] if found.segment else paths
    lost = [(path, 0, written(path) if path.suffix == ".wal" else path.read_bytes()) for path in rest]
    if found.segment:
        lost.insert(0, (found.segment, found.end, written(found.segment)[found.end :]))
    kept = tuple(_quarantine(directory, path, offset, content) for path, offset, content in lost if content)
    write_format(directory, replace(identity, incarnation=identity.incarnation + 1))
    write_synced(directory, found.rev + 1)  # more than the log holds: it stays refused until all of this is done
    for path in reversed(rest):
        path.unlink()
        sync_directory(path.parent)
    for path in found.spoilt:
        set_aside(directory, path)
    if found.segment:
        _cut(found.segment, found.end)
    _go_on_raised(directory, identity.cluster, found)
    dropped = sum(len(content) for _, _, content in lost)
    log.warning("loss accepted", extra={**_place(found), "dropped": dropped})
    return Repaired(found.rev, dropped, kept)


def _go_on_raised(directory: Path, cluster: str, found: Survey) -> None:
    """Begin a segment whose revisions are above all that were given up, so that none names two states (OSError)."""
    segment, _ = Segment.create(directory / "wal", cluster, found.rev + RAISED, found.crc, LONGEST_HEADER)
    segment.close()


def _quarantine(directory: Path, path: Path, offset: int, content: bytes) -> Path:
    """Keep a copy of what is about to be dropped; doing it twice makes one file."""
    kept = directory / "quarantine" / f"{path.name}.{offset}.{crc32c(content):08x}"
    write_whole(kept, content)
    return kept


def set_aside(directory: Path, path: Path) -> None:
    """Move a damaged file to quarantine/, away from where it would be read (OSError)."""
    path.rename(directory / "quarantine" / path.name)
    sync_directory(directory / "quarantine")
    sync_directory(path.parent)


def _cut(path: Path, end: int) -> None:
    """End a segment at `end`, durably; of a compressed one there is a plain copy then, unless it ends there anyway."""
    if path.suffix == ".gz":
        if len(content := written(path)) > end:
            write_whole(path.parent.parent / "wal" / path.stem, content[:end])
            path.unlink()
            sync_directory(path.parent)
        return
    fd = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, end)
        os.fsync(fd)
    finally:
        os.close(fd)


def _place(found: Survey) -> dict[str, object]:
    return {"segment": str(found.segment), "offset": found.end, "last_good": found.rev}


def repair_command(directory: Path, rev: int) -> str:
    """What mends that store, wherever it is typed: without --data it would be another one."""
    folder = directory.resolve().parent
    return f"nanoctl store repair --data {shlex.quote(str(folder))} --accept-loss-after {rev}"


def _corrupt(directory: Path, found: Survey, damage: Damage) -> StoreCorrupt:
    return StoreCorrupt(str(damage.path), damage.offset, found.rev, damage.why, repair_command(directory, found.rev))
