"""The world as planners see it: the pending state of the store, what was heard from hosts, and indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from nanovirt.controllers.indexes import Leases, Loads, Owners
from nanovirt.controllers.scheduler import Slot, slot
from nanovirt.resources.codec import trusted
from nanovirt.resources.host import Host
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.reports import Reports
from nanovirt.resources.store import Change, Commit, Store

D = TypeVar("D", bound=Document)
KEPT = frozenset(("hosts", "computepools", "storagepools", "addresspools", "systemtemplates", "images"))
"""Kinds of which there are few and that every plan reads: kept decoded."""


class World:
    """Synchronous reads only; one instance serves all controllers."""

    def __init__(self, store: Store, reports: Reports) -> None:
        self._store = store
        self.reports = reports
        self.loads, self.leases, self.owners = Loads(), Leases(), Owners()
        self._decoded: dict[Key, Document] = {}
        self._slots: dict[str, Slot] = {}
        self._by_pool: dict[str, list[Slot]] = {}
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
        if change.key.plural == "hosts":
            self._slots.pop(change.key.name, None)
            self._by_pool.clear()
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
        if not self._by_pool:
            for key in sorted(self._names["hosts"]):
                one = self._slots.get(key.name) or self._slot(key.name)
                self._by_pool.setdefault(one.pool, []).append(one)
        return self._by_pool.get(pool, [])

    def _slot(self, name: str) -> Slot:
        host = self.read(Host, name)
        assert host is not None
        made = self._slots[name] = slot(host, self.loads.of(name))
        return made

    def there(self, key: Key, uid: str = "") -> bool:
        """Whether an object (with that uid) stands under the key."""
        entry = self._store.peek(key)
        return entry is not None and uid in ("", entry.uid)
