"""The store said a second time, as simply as can be: what a write makes of the state, and the state at a revision."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nanovirt.resources.codec import JSON, dump, load
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.log import Record
from nanovirt.resources.store import Create, Delete, Expect, Half, Op, Update


class Thing(NamedTuple):
    """What of an object is the store's business; a created one's uid is not known before it is stored ("")."""

    uid: str
    generation: int
    spec: Any
    status: Any
    labels: Mapping[str, str]
    finalizers: tuple[str, ...]
    deleting: bool
    rev: int


class Refusal(Exception):
    """The name of the error."""


class Version(NamedTuple):
    """An object as some revision left it."""

    content: bytes
    thing: Thing


Change = tuple[Key, Version | None, Version | None]


class Revision(NamedTuple):
    """What stands in the log: who wrote what, by which request, under which key."""

    rev: int
    client: str
    request: str
    once: str
    changes: tuple[Change, ...]


def thing_of(doc: JSON) -> Thing:
    """What an object says of itself."""
    metadata = doc["metadata"]
    return Thing(
        metadata["uid"], metadata["generation"], doc.get("spec"), doc.get("status"), _labels(doc), _finalizers(doc),
        "deletionTimestamp" in metadata, int(metadata["resourceVersion"]),
    )  # fmt: skip


def outcome(op: Op, before: Thing | None, rev: int) -> Thing | None:
    """What `op` makes of an object at `rev`; `before` itself when nothing changes. Raises Refusal."""
    match op:
        case Create(key, doc):
            if before is not None:
                raise Refusal("AlreadyExists")
            own = KINDS[key.plural].facts.finalizer
            finalizers = _finalizers(doc) + ((own,) if own and own not in _finalizers(doc) else ())
            return Thing("", 1, doc.get("spec"), doc.get("status"), _labels(doc), finalizers, deleting=False, rev=rev)
        case Expect(_, expected):
            if (before.rev if before else None) != expected:
                raise Refusal("Conflict")
            return before
        case Update(_, doc, Half.STATUS, expected):
            held = _held(before, expected)
            return held if doc["status"] == held.status else held._replace(status=doc["status"], rev=rev)
        case Update(_, doc, _, expected):
            return _replaced(_held(before, expected), doc, rev)
        case Delete(_, expected, uid):
            held = _held(before, expected)
            if uid and uid != held.uid:
                raise Refusal("Conflict")
            if not held.finalizers:
                return None
            return held if held.deleting else held._replace(deleting=True, generation=held.generation + 1, rev=rev)


def _held(before: Thing | None, expected: int | None) -> Thing:
    if before is None:
        raise Refusal("NotFound")
    if expected is not None and expected != before.rev:
        raise Refusal("Conflict")
    return before


def _replaced(held: Thing, doc: JSON, rev: int) -> Thing | None:
    spec, labels, finalizers = doc.get("spec"), _labels(doc), _finalizers(doc)
    if (spec, labels, finalizers) == (held.spec, held.labels, held.finalizers):
        return held
    if held.deleting and not finalizers:
        return None
    generation = held.generation + (spec != held.spec)
    return held._replace(spec=spec, labels=labels, finalizers=finalizers, generation=generation, rev=rev)


def _labels(doc: JSON) -> Mapping[str, str]:
    labels: Mapping[str, str] = doc["metadata"].get("labels", {})
    return labels


def _finalizers(doc: JSON) -> tuple[str, ...]:
    return tuple(doc["metadata"].get("finalizers", ()))


class Truth:
    """What the log says came to be: every revision, and every object at every revision."""

    def __init__(self, records: Iterable[Record]) -> None:
        """`records`: all of them, from the first one on."""
        self.revisions: list[Revision] = []
        self._versions: defaultdict[Key, tuple[list[int], list[Version | None]]] = defaultdict(lambda: ([0], [None]))
        for record in records:
            self._take(record.rev, load(record.body))

    @property
    def head(self) -> int:
        """The last revision."""
        return len(self.revisions)

    def _take(self, rev: int, said: JSON) -> None:
        changes = []
        for write in said["writes"]:
            key = Key(write["kind"], write["namespace"], write["name"])
            after = None
            if write["verb"] == "put":
                after = Version(dump(write["object"]), thing_of(write["object"]))
            revs, versions = self._versions[key]
            changes.append((key, versions[-1], after))
            revs.append(rev)
            versions.append(after)
        once = said.get("key", {}).get("name", "")
        self.revisions.append(Revision(rev, said["by"], said["request"], once, tuple(changes)))

    def at(self, key: Key, rev: int) -> Version | None:
        """An object as it was at a revision."""
        if key not in self._versions:
            return None
        revs, versions = self._versions[key]
        return versions[bisect_right(revs, rev) - 1]

    def all_at(self, plural: str, namespace: str, rev: int) -> Iterator[tuple[Key, Version]]:
        """All objects of a kind as they were at a revision, in key order."""
        for key in sorted(self._versions):
            version = self.at(key, rev) if key.plural == plural and namespace in ("", key.namespace) else None
            if version is not None:
                yield key, version

    def touched(self, keys: set[Key], rev: int) -> bool:
        """Whether a revision changed one of these."""
        return any(key in keys for key, _, _ in self.revisions[rev - 1].changes)
