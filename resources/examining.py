"""Reading a store as it lies on disk, beside the server or without one: whether it is whole, and what stands in it."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import orjson

from nanovirt.resources import upgrades
from nanovirt.resources.codec import JSON
from nanovirt.resources.errors import NanoError, Rejected, Unavailable
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.recovery import Survey, repair_command, survey
from nanovirt.resources.segments import (
    Frame,
    beyond,
    every_segment,
    first_revision,
    follows,
    header,
    parse,
    walk,
    written,
)
from nanovirt.resources.snapshots import Snapshot, newest, open_snapshot, snapshots
from nanovirt.resources.store_directory import RESTORING, Format, read_format, served

T = TypeVar("T")
TRIES = 100


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, and what mends it."""

    path: Path
    why: str
    mend: str


@dataclass
class Examined:
    """What a store is, how far it reaches, and what is wrong with it."""

    identity: Format
    rev: int = 0
    oldest: int = 0
    records: int = 0
    segments: int = 0
    snapshots: int = 0
    size: int = 0
    findings: list[Finding] = field(default_factory=list)


def examine(directory: Path) -> Examined:
    """Read every byte of a store; changes nothing. NanoError: it is none, or none that this Nano knows. OSError."""
    if not (directory / "FORMAT").exists() and not (directory / RESTORING).exists():
        raise Rejected(f"{directory} holds no store; name the server's data folder by --data DIR")
    return _steadily(lambda: _examined(directory), directory)


def _steadily(look: Callable[[], T], directory: Path) -> T:
    """Look again when a file has moved into the history meanwhile."""
    for _ in range(TRIES):
        try:
            return look()
        except FileNotFoundError:
            continue
    raise Unavailable(f"the files of {directory} move all the time; try again")


def _examined(directory: Path) -> Examined:
    if (directory / RESTORING).exists():
        unfinished = Finding(directory / RESTORING, "a restore was not finished", "the same `nanoctl restore` again")
        return Examined(Format(0, "", 0), findings=[unfinished])
    found = Examined(read_format(directory / "FORMAT"))
    begun = survey(directory, found.identity.cluster)
    found.rev = begun.rev
    found.findings += _obstacles(directory, begun)
    crcs = _walk_all(directory, begun, found)
    for path in snapshots(directory):
        found.snapshots += 1
        found.size += path.stat().st_size
        whole = open_snapshot(path, found.identity.cluster)
        if whole is None and path not in begun.spoilt:
            found.findings.append(Finding(path, "it is damaged", _past(path)))
        elif whole is not None and crcs.get(whole.rev, whole.crc) != whole.crc:
            found.findings.append(Finding(path, "it is not what the log of its revision leads to", _past(path)))
    return found


def _obstacles(directory: Path, begun: Survey) -> Iterator[Finding]:
    """What a start would say, or see to."""
    if begun.damage:
        mend = f"restore a backup, or: {repair_command(directory, begun.rev)}"
        yield Finding(begun.damage.path, f"damaged at byte {begun.damage.offset}: {begun.damage.why}", mend)
    elif begun.torn and begun.segment and not served(directory):
        why = f"{len(begun.torn)} bytes of a record that a crash cut off"
        yield Finding(begun.segment, why, "nothing: the next start cuts them, and keeps a copy in quarantine/")
    for path in begun.spoilt:
        yield Finding(path, "damaged; an older snapshot stands in", "nothing: the next start sets it aside")


def _past(path: Path) -> str:
    return f"move it away: no start needs it, only history up to {int(path.name[:16])} is lost"


def _walk_all(directory: Path, begun: Survey, found: Examined) -> dict[int, int]:
    """Follow the whole log from its oldest record on; the checksums of the lines at which segments end."""
    crcs: dict[int, int] = {}
    end: Frame | None = None
    begin = begun.base.rev if begun.base else 0
    for path in every_segment(directory):
        found.segments += 1
        found.size += path.stat().st_size
        found.oldest = found.oldest or first_revision(path)
        needed = first_revision(path) > begin  # the survey has followed those, and has said what is wrong
        last = _walked(path, end, found, quiet=needed)
        if last is None:
            end = None
            continue
        end = last
        crcs[last.rev] = last.crc
    return crcs


def _walked(path: Path, after: Frame | None, found: Examined, *, quiet: bool) -> Frame | None:
    """The last line of a segment that is whole and goes on from `after`; None, with a finding, when it is not."""
    why = ""
    first: Frame | None = None
    try:
        content = written(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        content, why = b"", f"it cannot be decompressed: {error}"
    first = parse(content, 0)
    if first is None or content[: first.end] != header(found.identity.cluster, first_revision(path) - 1, first.prev)[0]:
        why = why or "its header is bad, or another store's"
    elif after is not None and not follows(first, after.rev, after.crc):
        why = f"it does not follow revision {after.rev}: something between is lost"
    last = first
    if first is not None and not why:
        for frame in walk(content, first):
            last = frame
            found.records += 1
        if last and last.end != len(content):
            why = f"damaged at byte {last.end}"
    if why and not quiet:
        found.findings.append(Finding(path, why, _past(path)))
    return None if why and not quiet else last


# --- what stands in it ---


def dump(directory: Path, at: int | None = None, *, internal: bool = False) -> Iterator[JSON]:
    """Every object as it was at a revision (None: as it is), by kind, namespace and name; Secrets stay sealed.

    Rejected: that revision is not kept any more, or has not been. NanoError: the log is damaged. OSError.
    """
    found = _steadily(lambda: _state(directory, at), directory)
    for key in sorted(found):
        if internal or not _internal(key.plural):
            yield found[key]


def dump_records(directory: Path, upto: int | None = None, *, internal: bool = False) -> Iterator[JSON]:
    """Every record that is kept, oldest first, up to a revision. Errors as in `dump`."""
    identity = read_format(directory / "FORMAT")
    for record in _records(directory, identity.cluster, 0, upto):
        shown = [write for write in record["writes"] if internal or not _internal(write["kind"])]
        yield {**record, "writes": shown}


def _internal(plural: str) -> bool:
    return plural in KINDS and KINDS[plural].facts.internal


def _state(directory: Path, at: int | None) -> dict[Key, JSON]:
    identity = read_format(directory / "FORMAT")
    base = newest(directory, identity.cluster, sys.maxsize if at is None else at)
    found = dict(map(_object, _objects(base)))
    rev = base.rev if base else 0
    kept = every_segment(directory)
    if base is None and kept and first_revision(kept[0]) > 1:
        raise Rejected(f"revision {at} is not kept any more; the history begins with {first_revision(kept[0])}")
    for record in _records(directory, identity.cluster, rev, at):
        rev = record["rev"]
        for write in record["writes"]:
            key = Key(write["kind"], write["namespace"], write["name"])
            found.pop(key, None)
            if write["verb"] == "put":
                found.update([_object(write)])
    if at is not None and at > rev and at > (head := survey(directory, identity.cluster).rev):
        raise Rejected(f"revision {at} has not been; the store is at {head}")
    return found


def _objects(base: Snapshot | None) -> Iterator[JSON]:
    lines = base.lines() if base else iter(())
    return (said for said in map(orjson.loads, lines) if "key" not in said)


def _object(said: JSON) -> tuple[Key, JSON]:
    plural = said["kind"]
    doc = upgrades.upgraded(plural, said.get("schema", 1), said["object"])
    return Key(plural, said["namespace"], said["name"]), doc


def _records(directory: Path, cluster: str, after: int, upto: int | None) -> Iterator[JSON]:
    """The records above revision `after`, or the oldest that are kept; beside a server as far as they are whole."""
    paths = beyond(every_segment(directory), after)
    for path in paths:
        place = path if path.exists() else directory / "history" / f"{path.name.removesuffix('.gz')}.gz"
        content = written(place)
        first = parse(content, 0)
        if first is None or content[: first.end] != header(cluster, first_revision(path) - 1, first.prev)[0]:
            raise NanoError(f"{place} has a bad header; see what mends it by `nanoctl store verify`")
        start = first.end
        for frame in walk(content, first):
            if upto is not None and frame.rev > upto:
                return
            if frame.rev > after:
                yield orjson.loads(content[content.index(b"{", start) : frame.end])
            start = frame.end
