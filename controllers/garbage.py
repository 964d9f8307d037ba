"""Garbage collection: objects whose owner is gone, dependents of owners that go slowly, and Events that are old."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from nanovirt.controllers.actions import Action, LookAgain, Transact
from nanovirt.controllers.world import World
from nanovirt.resources.event import EVENT_SECONDS, Event
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.metadata import FOREGROUND, ORPHAN
from nanovirt.resources.registry import by_kind
from nanovirt.resources.store import Delete, Op, Update

NAME = "garbage"
READS = ("every kind",)
WRITES = ("deletes", "finalizers")


def plan(thing: Document | None, world: World, now: datetime) -> Iterator[Action]:
    """Delete an object all of whose owners are gone, or an Event that is old enough; see to dependents."""
    if thing is None:
        return
    if thing.deleting:
        yield from _farewell(thing, world)
    elif isinstance(thing, Event):
        yield from _expiry(thing, now)
    elif thing.metadata.owner_references and not any(_alive(thing, world)):
        yield Transact((Delete(thing.key),))


def _farewell(thing: Document, world: World) -> Iterator[Action]:
    """What the finalizers `orphan` and `foregroundDeletion` ask for, in one transaction.

    System kinds are left to their own controller, which takes them down in an order of its own; they are waited for.
    """
    finalizers = thing.metadata.finalizers
    dependents = list(_dependents(thing, world))
    if ORPHAN in finalizers:
        ops: list[Op] = [_released(one, thing) for one in dependents if not one.facts.system]
        yield Transact((*ops, _without(thing, ORPHAN)))
    elif FOREGROUND in finalizers:
        left = [one for one in dependents if not one.deleting and not one.facts.system]
        ops = [op for one in left for op in _ending(one, thing, world)]
        gone = [one for one in left if not one.metadata.finalizers and not _parent(one, thing, world)]
        if not any(_blocks(one, thing) for one in dependents if one not in gone):
            ops.append(_without(thing, FOREGROUND))
        if ops:
            yield Transact(tuple(ops))


def _dependents(thing: Document, world: World) -> Iterator[Document]:
    for key in sorted(world.owners.dependents.get(thing.metadata.uid, ())):
        found = world.read(KINDS[key.plural], key.name, key.namespace)
        if found is not None and key != thing.key:
            yield found


def _ending(thing: Document, owner: Document, world: World) -> Iterator[Op]:
    """Delete a dependent: in the foreground too, if its owner waits for it and others depend on it."""
    if _parent(thing, owner, world):
        yield _changed(thing, finalizers=(*thing.metadata.finalizers, FOREGROUND))
    yield Delete(thing.key)


def _parent(thing: Document, owner: Document, world: World) -> bool:
    """Whether a dependent has dependents of its own that its owner waits for too."""
    return _blocks(thing, owner) and next(_dependents(thing, world), None) is not None


def _blocks(thing: Document, owner: Document) -> bool:
    uid = owner.metadata.uid
    return any(one.uid == uid and one.block_owner_deletion for one in thing.metadata.owner_references)


def _released(thing: Document, owner: Document) -> Op:
    others = tuple(one for one in thing.metadata.owner_references if one.uid != owner.metadata.uid)
    return _changed(thing, owner_references=others)


def _without(thing: Document, finalizer: str) -> Op:
    return _changed(thing, finalizers=tuple(one for one in thing.metadata.finalizers if one != finalizer))


def _changed(thing: Document, **metadata: Any) -> Op:
    changed = thing.model_copy(update={"metadata": thing.metadata.model_copy(update=metadata)})
    return Update(thing.key, changed.to_json())


def _expiry(event: Event, now: datetime) -> Iterator[Action]:
    last = event.last_timestamp or event.metadata.creation_timestamp or now
    left = (last + timedelta(seconds=EVENT_SECONDS) - now).total_seconds()
    yield LookAgain(left) if left > 0 else Transact((Delete(event.key),))


def _alive(thing: Document, world: World) -> Iterator[bool]:
    for owner in thing.metadata.owner_references:
        kind = by_kind(owner.kind)
        if kind is None:
            yield True
            continue
        space = thing.metadata.namespace if kind.facts.namespaced else ""
        yield world.there(Key(kind.facts.plural, space, owner.name), owner.uid)
