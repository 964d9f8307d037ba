"""The small rows that indexes, schedulers and filters read instead of decoded objects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from nanovirt.resources.codec import JSON, dump
from nanovirt.resources.kind import KINDS, paths_of
from nanovirt.resources.store import Entry

NO_LABELS: Mapping[str, str] = {}


@cache
def _shape(plural: str) -> tuple[type[tuple[Any, ...]], tuple[tuple[str, str], ...]]:
    row = KINDS[plural].facts.row
    return row, tuple((path[0], path[1]) for path in paths_of(row))


def entry_of(plural: str, doc: JSON, rev: int) -> Entry:
    """The stored form of a document at a revision: stamps the revision, keeps the exact bytes and the row."""
    metadata = doc["metadata"]
    metadata["resourceVersion"] = str(rev)
    row, paths = _shape(plural)
    found = [doc[half].get(field) if half in doc else None for half, field in paths]
    values: list[Any] = [sys.intern(one) if type(one) is str and len(one) < 64 else one for one in found]
    return Entry(
        raw=dump(doc),
        rev=rev,
        uid=metadata["uid"],
        row=row(*values) if values else None,
        labels=_shared(tuple(metadata["labels"].items())) if metadata.get("labels") else NO_LABELS,
        deleting="deletionTimestamp" in metadata,
        generation=metadata.get("generation", 0),
        owners=_owners(metadata),
    )


def _owners(metadata: JSON) -> tuple[str, ...]:
    owners = metadata.get("ownerReferences")
    return tuple([sys.intern(owner["uid"]) for owner in owners]) if owners else ()


@lru_cache(maxsize=4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """One mapping for all objects with the same labels: a dict of its own is a tenth of a small object."""
    return dict(labels)
