"""The bytes of watch events: one JSON per line, encoded once for all watchers of a shape, framed as an HTTP chunk."""

from __future__ import annotations

from datetime import datetime

from nanovirt.portal.api.failures import status_of
from nanovirt.portal.api.requests import Shape
from nanovirt.portal.api.secrets import public
from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.errors import NanoError
from nanovirt.resources.kind import Facts
from nanovirt.resources.store import Entry
from nanovirt.resources.tables import table

INITIAL_END = "k8s.io/initial-events-end"
LAST_CHUNK = b"0\r\n\r\n"


def line(word: str, raw: bytes) -> bytes:
    """One event: `{"type":"ADDED","object":{...}}` and a newline."""
    return b'{"type":"%b","object":%b}\n' % (word.encode(), raw)


def chunk(piece: bytes) -> bytes:
    """A piece of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def shown(facts: Facts, entry: Entry, shape: Shape, now: datetime) -> bytes:
    """An object as a watcher of that shape sees it."""
    if not shape.table:
        return public(facts, entry.raw)
    return dump(table(facts, [load(public(facts, entry.raw))], now, {"resourceVersion": str(entry.rev)}, shape.include))


def gone(before: Entry, rev: int) -> Entry:
    """What a DELETED event shows: the last state, at the revision that removed it, so that a watch can resume there."""
    doc = load(before.raw)
    doc["metadata"]["resourceVersion"] = str(rev)
    return before._replace(raw=dump(doc), rev=rev)


def bookmark(facts: Facts, rev: int, shape: Shape, *, initial_end: bool = False) -> bytes:
    """A line that says how far a watch has come."""
    metadata: JSON = {"resourceVersion": str(rev)}
    if initial_end:
        metadata["annotations"] = {INITIAL_END: "true"}
    if not shape.table:
        return line("BOOKMARK", dump({"kind": facts.kind, "apiVersion": facts.group_version, "metadata": metadata}))
    doc: JSON = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    doc |= {"columnDefinitions": [], "rows": []}
    if initial_end:
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        doc["rows"] = [{"cells": [], "object": partial}]
    return line("BOOKMARK", dump(doc))


def error(failure: NanoError) -> bytes:
    """A line that ends a watch."""
    return line("ERROR", dump(status_of(failure)))
