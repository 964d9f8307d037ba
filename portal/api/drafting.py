"""The pending state as it would be after a set of writes, so that admission can look at the set as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nanovirt.portal.api.admission import World
from nanovirt.portal.api.index import View
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Commit, Delete, Entry
from nanovirt.resources.store import Draft as Drafted


@dataclass(frozen=True, slots=True)
class Draft:
    """A View: `store`, with the outcome of a set laid over it. It is of this moment: what was asked for, it keeps."""

    store: View
    known: dict[Key, Entry | None]

    def peek(self, key: Key) -> Entry | None:
        """The object as the set leaves it (None: gone), or as it is."""
        if key not in self.known:
            self.known[key] = self.store.peek(key)
        return self.known[key]

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]:
        """The objects of a kind as the set leaves them."""
        known = {key: entry for key, entry in self.known.items() if key.plural == plural}
        if not known:
            return self.store.peek_all(plural)
        others = [(key, entry) for key, entry in self.store.peek_all(plural) if key not in known]
        return others + [(key, entry) for key, entry in known.items() if entry is not None]

    def list(self, plural: str, namespace: str = "") -> Sequence[tuple[Key, Entry]]:
        """The durable objects, for messages."""
        return self.store.list(plural, namespace)


def draft(world: World, drafted: Drafted) -> World:
    """The world after the set that was `drafted`; its index is made when it is asked for.

    An object that the set deletes and that has to wait for its finalizers is still there; it holds its names and
    addresses, and it no longer holds what it refers to.
    """
    changes = drafted.changes
    leaving = [
        (op.key, after)
        for op, after in zip(drafted.ops, drafted.outcome.entries, strict=True)
        if isinstance(op, Delete) and after is not None
    ]
    commit = Commit(drafted.outcome.rev, tuple(changes.values()))
    led = {key: change.after for key, change in changes.items()}
    return World(Draft(world.store, led), cache(lambda: world.index.after(commit, leaving)))
