"""What a backup holds, and whether every byte of it is as its manifest says: read as suspiciously as it deserves."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from nanovirt.resources import archive
from nanovirt.resources.archive import MANIFEST, Member, opened
from nanovirt.resources.errors import Rejected
from nanovirt.resources.segments import (
    Frame,
    first_revision,
    follows,
    header,
    parse,
    walk,
)
from nanovirt.resources.snapshots import Snapshot, checked
from nanovirt.resources.store_directory import parse_format

VERSION = 1
PARTS = re.compile(
    rf"FORMAT|{re.escape(MANIFEST)}|wal/\d{{16}}\.wal|history/\d{{16}}\.wal\.gz"
    r"|snap/\d{16}\.json\.snap|history/\d{16}\.json\.snap\.gz"
)
"""What a backup may hold."""
SMALL, SEGMENT_MAX = 1 << 24, 1 << 26
"""Bytes of a manifest, and of a segment, at most."""
SNAPSHOT_RATIO = 250
"""How many times its size a compressed part may have; the text of a store never comes near."""


@dataclass(frozen=True)
class Contents:
    """What a backup says of itself: the state is that of `revision`, whose line in the log has `crc` and came `at`."""

    cluster: str
    incarnation: int
    revision: int
    crc: int
    at: str
    base: str
    """The snapshot that the rest goes on from; "" for the log's beginning."""
    taken: str
    files: dict[str, tuple[int, str]]
    """By name: bytes and SHA-256."""
    backup: int = VERSION


def inspect(file: BinaryIO) -> tuple[Contents, dict[str, Member]]:
    """What a backup holds, every byte of it checked. Rejected: it is not whole, or none; nothing in it counts then."""
    found = {member.name: member for member in archive.members(file, PARTS)}
    contents = _said(file, found)
    for name, (size, sha256) in contents.files.items():
        if found[name].size != size or _sha256(file, found[name]) != sha256:
            raise Rejected(f"{name} in the backup is not as it was written; take another backup")
    _check_identity(file, found, contents)
    end = _check_chain(file, found, contents)
    if (end.rev, end.crc) != (contents.revision, contents.crc):
        raise Rejected(f"the log in the backup ends at revision {end.rev}, not at {contents.revision} as it says")
    return contents, found


def _said(file: BinaryIO, found: dict[str, Member]) -> Contents:
    member = found.get(MANIFEST)
    if member is None or "FORMAT" not in found or max(found["FORMAT"].size, member.size) > SMALL:
        raise Rejected("this is no backup of Nano, or not all of it; take another backup")
    try:
        said = orjson.loads(opened(file, member).read())
        version = int(said["backup"])
        files = {str(name): (int(size), str(sha256)) for name, (size, sha256) in said["files"].items()}
        contents = Contents(
            cluster=str(said["cluster"]),
            incarnation=int(said["incarnation"]),
            revision=int(said["revision"]),
            crc=int(said["crc"]),
            at=str(said["at"]),
            base=str(said["base"]),
            taken=str(said["taken"]),
            files=files,
            backup=version,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(f"the manifest of the backup cannot be read ({error}); take another backup") from error
    if version != VERSION:
        raise Rejected(f"the backup is of version {version}, this Nano knows only {VERSION}; use the Nano that took it")
    if found.keys() != {MANIFEST, *files} or (contents.base and contents.base not in files):
        raise Rejected("the backup does not hold what its manifest says; take another backup")
    return contents


def _sha256(file: BinaryIO, member: Member) -> str:
    return hashlib.file_digest(opened(file, member), "sha256").hexdigest()


def _check_identity(file: BinaryIO, found: dict[str, Member], contents: Contents) -> None:
    identity = parse_format(opened(file, found["FORMAT"]).read(), "FORMAT of the backup")
    if (identity.cluster, identity.incarnation) != (contents.cluster, contents.incarnation):
        raise Rejected("FORMAT and the manifest of the backup are of two stores; take another backup")


def _check_chain(file: BinaryIO, found: dict[str, Member], contents: Contents) -> Frame:
    """Follow the log from its base; every part beside that has to be whole by itself."""
    end = Frame(0, 0, 0, 0)
    for name in sorted(name for name in found if ".snap" in name):
        snapshot = _snapshot(file, found[name], contents.cluster)
        if name == contents.base:
            end = Frame(snapshot.crc, 0, snapshot.rev, 0)
    begin = end.rev
    for name in sorted((name for name in found if ".wal" in name), key=lambda name: Path(name).name):
        first, last = _segment(file, found[name], contents.cluster)
        if first_revision(Path(name)) <= begin:
            continue
        if not follows(first, end.rev, end.crc):
            raise Rejected(f"{name} in the backup does not follow revision {end.rev}; take another backup")
        end = last
    return end


def _snapshot(file: BinaryIO, member: Member, cluster: str) -> Snapshot:
    part: gzip.GzipFile | BinaryIO = opened(file, member)
    if member.name.endswith(".gz"):
        _check_ratio(file, member, SEGMENT_MAX + SNAPSHOT_RATIO * member.size)
        part = gzip.GzipFile(fileobj=part)
    found = checked(part, Path(member.name), cluster)
    if found is None:
        raise Rejected(f"{member.name} in the backup is damaged, or another cluster's; take another backup")
    return found


def _check_ratio(file: BinaryIO, member: Member, limit: int) -> None:
    """Refuse what unpacks to more than `limit` bytes, or not at all."""
    size = 0
    try:
        with gzip.GzipFile(fileobj=opened(file, member)) as unpacked:
            while size <= limit and (piece := unpacked.read(1 << 20)):
                size += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise Rejected(f"{member.name} in the backup cannot be unpacked: {error}") from error
    if size > limit:
        raise Rejected(f"{member.name} in the backup unpacks to more than {limit} bytes; that is no store")


def _segment(file: BinaryIO, member: Member, cluster: str) -> tuple[Frame, Frame]:
    """The first and the last line of a segment that is whole to its end."""
    if member.size > SEGMENT_MAX:
        raise Rejected(f"{member.name} in the backup has {member.size} bytes; no segment is that large")
    content = opened(file, member).read()
    if member.name.endswith(".gz"):
        _check_ratio(file, member, SEGMENT_MAX)
        content = gzip.decompress(content)
    first = parse(content, 0)
    rev = first_revision(Path(member.name)) - 1
    if first is None or content[: first.end] != header(cluster, rev, first.prev)[0]:
        raise Rejected(f"{member.name} in the backup has a bad header, or another cluster's; take another backup")
    last = next(reversed([first, *walk(content, first)]))
    if last.end != len(content):
        raise Rejected(f"{member.name} in the backup is damaged at byte {last.end}; take another backup")
    return first, last
