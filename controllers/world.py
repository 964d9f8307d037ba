"""The world as planners see it: the pending state of the store, what was heard from hosts, and indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from nanovirt.controllers.indexes import Doomed, Guarded, Leases, Loads, Members, Owners, Tellers
from nanovirt.controllers.scheduler import Ranking, Slot, slot
from nanovirt.resources.codec import trusted
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.host import Host
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Change, Commit, Entry, Sink

D = TypeVar("D", bound=Document)
KEPT = frozenset(
    ("hosts", "computepools", "storagepools", "addresspools", "systemtemplates", "images", "securitygroups")
)
"""Kinds of which there are few and that every plan reads: kept decoded."""


class Source(Protocol):
    """What a world is read from; see Store."""

    def peek(self, key: Key) -> Entry | None: ...

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]: ...

    def subscribe(self, sink: Sink, *, admitted: bool = False) -> Callable[[], None]: ...


class World:
    """Synchronous reads only; one instance serves all controllers."""

    def __init__(self, store: Source, reports: Reports) -> None:
        self._store = store
        self.reports = reports
        self.loads, self.leases, self.owners, self.members = Loads(), Leases(), Owners(), Members()
        self.tellers = Tellers()
        self.guarded, self.doomed = Guarded(), Doomed()
        self._decoded: dict[Key, Document] = {}
        self._slots: dict[str, Slot] = {}
        self._stale: set[str] = set()
        """Hosts that changed since their slots were made."""
        self._moved: set[str] = set()
        """Hosts whose load changed since they were ranked."""
        self._by_pool: dict[str, list[Slot]] = {}
        self._rankings: dict[str, Ranking] = {}
        self._names: dict[str, dict[Key, None]] = {plural: {} for plural in KEPT}
        for plural in KINDS:
            for key, entry in store.peek_all(plural):
                self._index(Change(key, None, entry))
        store.subscribe(self._admitted, admitted=True)

    def _admitted(self, commit: Commit) -> None:
        for change in commit.changes:
            self._index(change)
            self._decoded.pop(change.key, None)

    def _index(self, change: Change) -> None:
        self.loads.apply(change)
        self.leases.apply(change)
        self.owners.apply(change)
        self.members.apply(change)
        self.tellers.apply(change)
        self.guarded.apply(change)
        self.doomed.apply(change)
        if change.key.plural == "hosts":
            self._stale.add(change.key.name)
        elif change.key.plural == "placements":
            self._moved.update(entry.row.host for entry in change[1:] if entry is not None)
        if change.key.plural in KEPT:
            known = self._names[change.key.plural]
            known.pop(change.key, None) if change.after is None else known.update({change.key: None})

    def read(self, kind: type[D], name: str, namespace: str = "") -> D | None:
        """The object as the pending state has it, or None."""
        key = Key(kind.facts.plural, namespace, name)
        found = self._decoded.get(key)
        if found is None:
            entry = self._store.peek(key)
            if entry is None:
                return None
            found = trusted(kind, entry.raw)
            if key.plural in KEPT:
                self._decoded[key] = found
        assert isinstance(found, kind)
        return found

    def every(self, kind: type[D]) -> Iterator[D]:
        """All objects of one of the few-object kinds."""
        for key in tuple(self._names[kind.facts.plural]):
            found = self.read(kind, key.name, key.namespace)
            if found is not None:
                yield found

    def slots(self, pool: str) -> list[Slot]:
        """The hosts of a compute pool as the scheduler sees them, in order of their names."""
        self._renew_slots()
        return self._by_pool.get(pool, [])

    def ranking(self, pool: ComputePool) -> Ranking:
        """The same hosts in the order in which they are to be taken."""
        self._renew_slots()
        for host in self._moved:
            for known in self._rankings.values():
                known.moved(host)
        self._moved.clear()
        name = pool.metadata.name
        held = self._rankings.get(name)
        if held is None or held.spec != pool.spec:
            held = self._rankings[name] = Ranking(pool.spec, self._by_pool.get(name, []))
        return held

    def _renew_slots(self) -> None:
        """Most changes of a Host are counts in its status: then slots and rankings stay as they are."""
        while self._stale:
            if self._renewed(next(iter(self._stale))):
                self._by_pool.clear()
                self._rankings.clear()
        if not self._by_pool:
            for name in sorted(self._slots):
                self._by_pool.setdefault(self._slots[name].pool, []).append(self._slots[name])

    def _renewed(self, name: str) -> bool:
        host = self.read(Host, name)
        self._stale.discard(name)
        before = self._slots.pop(name, None)
        if host is None:
            return before is not None
        made = self._slots[name] = slot(host, self.loads.of(name))
        return made != before

    def orphaned(self) -> Iterator[Key]:
        """What names an owner that is not there: a server that ends may leave it behind. Reads every object once."""
        known = {entry.uid for plural in KINDS for _, entry in self._store.peek_all(plural)}
        for uid in self.owners.dependents.keys() - known:
            yield from self.owners.dependents[uid]

    def peek(self, key: Key) -> Entry | None:
        """What stands under the key, not decoded."""
        return self._store.peek(key)

    def there(self, key: Key, uid: str = "") -> bool:
        """Whether an object (with that uid) stands under the key."""
        entry = self._store.peek(key)
        return entry is not None and uid in ("", entry.uid)
