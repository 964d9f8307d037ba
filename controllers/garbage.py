"""Garbage collection: objects whose owner is gone, and Events that are old."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from nanovirt.controllers.actions import Action, LookAgain, Transact
from nanovirt.controllers.world import World
from nanovirt.resources.event import EVENT_SECONDS, Event
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.registry import by_kind
from nanovirt.resources.store import Delete

NAME = "garbage"
READS = ("every kind",)
WRITES = ("deletes",)


def plan(thing: Document | None, world: World, now: datetime) -> Iterator[Action]:
    """Delete an object all of whose owners are gone, or an Event that is old enough."""
    if thing is None or thing.deleting:
        return
    if isinstance(thing, Event):
        yield from _expiry(thing, now)
    elif thing.metadata.owner_references and not any(_alive(thing, world)):
        yield Transact((Delete(thing.key),))


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
