"""Moments of the past: which revision a number or a time means, and when a revision was made."""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import UTC, datetime

from nanovirt.resources.errors import Forgotten, Invalid
from nanovirt.resources.log import Record
from nanovirt.resources.recorded import Kept, Source

_AT = re.compile(rb'"at":"([^"]*)"')


def resolve(source: Source, at: str) -> int:
    """The revision that a number or a time (RFC 3339) means; of a time, the last one that was made by then.

    Invalid: neither, or a revision that is not there yet. Forgotten: older than what is kept.
    """
    since = source.since()
    if at.isascii() and at.isdigit() and len(at) <= 15:
        rev = int(at)
        if rev > source.head:
            raise Invalid("at", f"revision {rev} is not there yet; the newest is {source.head}")
    else:
        rev = _made_by(source, since, _time(at))
    if rev < since.rev:
        raise Forgotten(f"revision {rev}", *since)
    return rev


def _time(at: str) -> str:
    try:
        found = datetime.fromisoformat(at)
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError) as error:
        said = f"{at[:60]!r} is neither a revision nor a time with its zone, such as 2026-11-22T06:00:00Z"
        raise Invalid("at", said) from error


def _made_by(source: Source, since: Kept, time: str) -> int:
    """Looks at the first record of segments, halving, and then into one of them."""
    if time < since.at:
        raise Forgotten(time, *since)
    starts = [start for start in source.starts() if start > since.rev]
    at = bisect_right(starts, time, key=lambda start: _begun(source, start))
    rev = since.rev
    for record in source.read(max(since.rev, starts[max(at, 1) - 1] - 1)) if starts else ():
        if _at(record) > time:
            break
        rev = record.rev
    return rev


def _begun(source: Source, start: int) -> str:
    first = next(source.read(start - 1), None)
    return _at(first) if first else "~"  # a segment that nothing has been written in is later than any time


def _at(record: Record) -> str:
    found = _AT.search(record.body)
    return found[1].decode() if found else ""


def made_at(source: Source, rev: int) -> str:
    """When a kept revision was made (RFC 3339), or the last one before it; "" before the first."""
    starts = source.starts()
    first = starts[max(bisect_right(starts, rev), 1) - 1] if starts else rev
    last = ""
    for record in source.read(first - 1) if first <= rev else ():
        if record.rev > rev:
            break
        last = _at(record)
    if last:
        return last
    base = source.base(rev)
    return base.at if base else ""
