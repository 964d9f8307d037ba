"""The pending state as it would be after a set of writes, so that admission can look at the set as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanovirt.portal.api.admission import World
from nanovirt.portal.api.index import View
from nanovirt.resources.kind import Key
from nanovirt.resources.store import Change, Commit, Delete, Entry, Op


@dataclass(frozen=True, slots=True)
class Draft:
    """A View: `store`, with the outcome of the set laid over it."""

    store: View
    entries: Mapping[Key, Entry | None]

    def peek(self, key: Key) -> Entry | None:
        """The object as the set leaves it (None: gone), or as it is."""
        return self.entries[key] if key in self.entries else self.store.peek(key)

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]:
        """As it is: only Addresses are asked for, which no set of people's writes holds."""
        return self.store.peek_all(plural)

    def list(self, plural: str, namespace: str = "") -> Sequence[tuple[Key, Entry]]:
        """The durable objects, for messages."""
        return self.store.list(plural, namespace)


def draft(world: World, led: Iterable[tuple[Op, Entry | None]]) -> World:
    """The world after the set: what each of its operations `led` to, each about an object of its own.

    An object that the set deletes and that has to wait for its finalizers is still there; it holds its names and
    addresses, and it no longer holds what it refers to.
    """
    entries: dict[Key, Entry | None] = {}
    changes: list[Change] = []
    leaving: list[tuple[Key, Entry]] = []
    for op, after in led:
        before = world.store.peek(op.key)
        if isinstance(op, Delete) and after is not None:
            leaving.append((op.key, after))
        if after is not before:
            entries[op.key] = after
            changes.append(Change(op.key, before, after))
    return World(Draft(world.store, entries), world.index.after(Commit(0, tuple(changes)), leaving))
