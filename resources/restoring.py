"""Making a store out of a backup: its state under a revision that no store has had, and a hold on whatever acts."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from nanovirt.resources import archive, stamping
from nanovirt.resources.archive import Member
from nanovirt.resources.backup_contents import Contents, inspect
from nanovirt.resources.codec import dump, load
from nanovirt.resources.compaction import compress, write_sum
from nanovirt.resources.errors import NanoError, Rejected
from nanovirt.resources.fields import rfc3339
from nanovirt.resources.hold import HOLD, Hold, HoldSpec
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.recovery import survey
from nanovirt.resources.rows import entry_of
from nanovirt.resources.segments import RAISED, Segment, encode, segments, sync_directory
from nanovirt.resources.snapshots import snapshots
from nanovirt.resources.store_directory import (
    FORMAT_VERSION,
    RESTORING,
    Format,
    hold_lock,
    make_directories,
    room,
    write_format,
    write_synced,
    write_whole,
)

BY = "nanoctl restore"
"""Who wrote the first revision of a restored store."""


def restore(
    file: Path,
    directory: Path,
    now: datetime,
    say: Callable[[str], None] = lambda _step: None,
    first: Callable[[], None] = lambda: None,
) -> Contents:
    """Make the store of a backup in `directory`, which must not hold one; its revision is RAISED and a bit.

    Rejected: the backup is not whole (nothing was changed), or there is something already. Unavailable: another process
    works there. Interrupted, it can be run again; a server refuses what is not finished. `first` is done when nothing
    speaks against it any more. OSError.
    """
    with file.open("rb") as opened:
        say("checking the backup")
        contents, members = inspect(opened)
        _check_free(directory, sum(member.size for member in members.values()))
        first()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(directory / RESTORING, b"an unfinished `nanoctl restore`: run it again\n")
        lock = hold_lock(directory)
        try:
            _clear(directory)
            say("unpacking")
            _unpack(opened, members, directory)
            say("building the store")
            _build(directory, contents, now)
        finally:
            os.close(lock)
    return contents


def _check_free(directory: Path, size: int) -> None:
    """Refuse a folder with anything but a restore that was interrupted, and a disk without room for two copies."""
    there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if there and not any(name.startswith(RESTORING) for name in there):
        raise Rejected(
            f"{directory} is not empty ({', '.join(there[:5])}); a store is never restored over another one. "
            "Name an empty folder by --data DIR, or move this one away"
        )
    parent = next(path for path in (directory, *directory.parents) if path.is_dir())
    if (found := room(parent)) < 2 * size:
        raise Rejected(f"the disk of {parent} has {found} bytes left, a restore takes up to {2 * size}; make room")


def _clear(directory: Path) -> None:
    """Forget what an interrupted restore has left."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (RESTORING, "LOCK"):
            path.unlink()
    make_directories(directory)


def _unpack(file: BinaryIO, members: dict[str, Member], directory: Path) -> None:
    for name, member in members.items():
        if "/" in name:
            archive.write_private(directory / name, archive.pieces(archive.opened(file, member)))
    for folder in ("wal", "snap", "history"):
        sync_directory(directory / folder)


def _build(directory: Path, contents: Contents, now: datetime) -> None:
    """The backup's own files become history; the state that they lead to, under the new revision, is the beginning."""
    cluster, rev = contents.cluster, contents.revision + RAISED
    older = [path for path in snapshots(directory) if path.parent.name == "snap"]
    write_sum(directory, cluster, contents.revision + 1, rev, alone=True)
    for path in [*segments(directory / "wal"), *older]:
        compress(path, directory / "history", alone=True)
    segment, crc = Segment.create(directory / "wal", cluster, rev, contents.crc, 1 << 16)
    segment.append(encode(crc, rev + 1, rev, _hold(contents, rev + 1, now))[0])
    segment.close()
    write_synced(directory, rev + 1)
    found = survey(directory, cluster)
    if found.damage or found.rev != rev + 1:
        raise NanoError(f"what was restored is not whole ({found.damage}); run it again")
    write_format(directory, Format(FORMAT_VERSION, cluster, contents.incarnation + 1))
    (directory / RESTORING).unlink()
    sync_directory(directory)
    sync_directory(directory.parent)


def _hold(contents: Contents, rev: int, now: datetime) -> bytes:
    """The record that holds back whatever acts, the first one of the store."""
    now = now.replace(microsecond=now.microsecond // 1000 * 1000 + 1)
    taken = datetime.fromisoformat(contents.at) if contents.at else None
    hold = Hold(
        metadata=ObjectMeta(name=HOLD.name),
        spec=HoldSpec(revision=contents.revision, at=taken, restored=now.replace(microsecond=0)),
    )
    doc = stamping.created(Hold.facts, hold.to_json(), str(uuid.uuid4()), rfc3339(now.replace(microsecond=0)))
    made = load(entry_of(HOLD.plural, doc, rev).raw)
    write = {"verb": "put", "kind": HOLD.plural, "namespace": HOLD.namespace, "name": HOLD.name, "object": made}
    return dump({"rev": rev, "at": max(contents.at, rfc3339(now)), "by": BY, "request": "", "writes": [write]})
