"""The small rows that indexes, schedulers and filters read instead of decoded objects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.kind import KINDS, paths_of
from nanovirt.resources.store import Entry

NO_LABELS: Mapping[str, str] = {}


@cache
def _shape(plural: str) -> tuple[type[tuple[Any, ...]], tuple[tuple[str, tuple[str, ...]], ...]]:
    """The row of a kind, and its fields in their order: those of one half of the object after the other."""
    row = KINDS[plural].facts.row
    halves = groupby(paths_of(row), itemgetter(0))
    return row, tuple((half, tuple(path[1] for path in paths)) for half, paths in halves)


def entry_of(plural: str, doc: JSON, rev: int) -> Entry:
    """The stored form of a document at a revision: stamps the revision, keeps the exact bytes and the row."""
    metadata = doc["metadata"]
    metadata["resourceVersion"] = str(rev)
    row, halves = _shape(plural)
    found: list[Any] = []
    for half, fields in halves:
        found += map(doc[half].get, fields) if half in doc else (None,) * len(fields)
    labels, owners = metadata.get("labels"), metadata.get("ownerReferences")
    return Entry(
        dump(doc),
        rev,
        metadata["uid"],
        _row(row, found) if found else None,
        _shared(tuple(labels.items())) if labels else NO_LABELS,
        "deletionTimestamp" in metadata,
        metadata.get("generation", 0),
        tuple([sys.intern(owner["uid"]) for owner in owners]) if owners else (),
    )


def _row(row: type[tuple[Any, ...]], values: list[Any]) -> tuple[Any, ...]:
    try:
        return _one_row(row, *values)
    except TypeError:  # a list is among them
        return row(*map(_one_text, values))


@lru_cache(maxsize=4096, typed=True)
def _one_row(row: type[tuple[Any, ...]], *values: Any) -> tuple[Any, ...]:
    """One row for all objects whose rows say the same, and one text for all rows."""
    return row(*map(_one_text, values))


def _one_text(value: Any) -> Any:
    return sys.intern(value) if type(value) is str and len(value) < 64 else value


@lru_cache(maxsize=4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """One mapping for all objects with the same labels: a dict of its own is a tenth of a small object."""
    return dict(labels)
