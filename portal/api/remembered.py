"""Objects of the past as a subject may see them: lines of a history, taken apart, and who may see what was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nanovirt.portal.authorization import unlimited, visible
from nanovirt.portal.identity import Subject
from nanovirt.resources import upgrades
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.errors import NotFound
from nanovirt.resources.kind import Key
from nanovirt.resources.registry import kinds
from nanovirt.resources.rows import entry_of
from nanovirt.resources.snapshots import name_of
from nanovirt.resources.store import Entry, Store

_OBJECT = b',"object":'


class Pair(NamedTuple):
    """An object at two moments, each None where it was not there, or not to be seen."""

    key: Key
    before: Entry | None
    after: Entry | None


def seen(store: Store, subject: Subject, key: Key, then: Entry, verb: str = "get") -> bool:
    """Whether the subject may see what an object was: it may by its present rights, then, and still may now.

    What has been deleted since is judged by what it was, also if another object has its name by now.
    """
    if unlimited(subject):
        return True
    return visible(subject, key, then, verb) and not _hidden(store, subject, key, then, verb)


def _hidden(store: Store, subject: Subject, key: Key, then: Entry, verb: str) -> bool:
    try:
        now = store.get(key)
    except NotFound:
        return False
    return now.uid == then.uid and not visible(subject, key, now, verb)


def raw_of(line: bytes, plural: str) -> bytes:
    """The bytes of the object in a line, as they were stored; as this release has them, if its schema is older."""
    said = name_of(line) or b""
    if line.startswith(_OBJECT, len(said)) and upgrades.schema_of(plural) == 1:
        return line[len(said) + len(_OBJECT) : -1]
    return _entry(plural, load(line)).raw


def entry_in(line: bytes) -> tuple[Key, Entry]:
    """The object in a line."""
    said = load(line)
    return Key(said["kind"], said["namespace"], said["name"]), _entry(said["kind"], said)


def _entry(plural: str, said: JSON) -> Entry:
    doc = upgrades.upgraded(plural, said.get("schema", 1), said["object"])
    return entry_of(plural, doc, int(doc["metadata"]["resourceVersion"]))


def pair_of(store: Store, subject: Subject, said: JSON) -> Pair | None:
    """What a subject may see of `{kind, namespace, name, before, after}`; None: nothing, or it is of no served kind."""
    if said["kind"] not in kinds():
        return None
    key = Key(said["kind"], said["namespace"], said["name"])
    found = (_entry(key.plural, said[half]) if said[half] else None for half in ("before", "after"))
    before, after = (one if one and seen(store, subject, key, one) else None for one in found)
    return Pair(key, before, after) if before or after else None


def pairs(store: Store, subject: Subject, lines: Iterable[bytes]) -> Iterator[tuple[JSON, Pair]]:
    """Each line, decoded, with what the subject may see of it; without those of which that is nothing."""
    for line in lines:
        said = load(line)
        if found := pair_of(store, subject, said):
            yield said, found
