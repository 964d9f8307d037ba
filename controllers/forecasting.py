"""Where new instances would be placed, and with which addresses: composed in a copy of the world, for nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nanovirt.controllers.composing import Composition, Missing, compose
from nanovirt.controllers.world import World
from nanovirt.resources.codec import JSON, trusted
from nanovirt.resources.instance import Instance
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import Change, Commit, Entry, Sink, Store


class Sandbox:
    """A store that begins as the pending state with some changes made to it; nothing of it is ever stored."""

    def __init__(self, store: Store, changes: Sequence[Change]) -> None:
        self._store = store
        self._laid_over = {change.key: change.after for change in changes}
        self._sinks: list[Sink] = []

    def peek(self, key: Key) -> Entry | None:
        """See Store."""
        return self._laid_over[key] if key in self._laid_over else self._store.peek(key)

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]:
        """See Store."""
        found: dict[Key, Entry | None] = dict(self._store.peek_all(plural))
        found.update((key, entry) for key, entry in self._laid_over.items() if key.plural == plural)
        return [(key, entry) for key, entry in found.items() if entry is not None]

    def subscribe(self, sink: Sink, *, admitted: bool = False) -> Callable[[], None]:
        """See Store."""
        assert admitted
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def take(self, parts: Sequence[Document]) -> None:
        """Let what was composed be there, so that the next instance gets something else."""
        changes = tuple(Change(part.key, None, _entry(part)) for part in parts)
        self._laid_over.update((change.key, change.after) for change in changes)
        for sink in self._sinks:
            sink(Commit(0, changes))


def _entry(part: Document) -> Entry:
    doc = part.to_json()
    doc["metadata"]["uid"] = str(part.key)
    return entry_of(part.key.plural, doc, 0)


def forecast(store: Store, live: World, changes: Sequence[Change]) -> dict[Key, JSON]:
    """What would become of each instance that is new among `changes`, in their order: host and addresses, or why not.

    `live` is the world of the controllers that will choose. Another instance that comes first takes what was foreseen
    for this one. It reads every object once.
    """
    sandbox = Sandbox(store, changes)
    world = World(sandbox, live.reports)
    world.leases.go_on_like(live.leases)
    found: dict[Key, JSON] = {}
    for change in changes:
        if change.key.plural != "instances" or change.before is not None or change.after is None:
            continue
        try:
            made = compose(trusted(Instance, change.after.raw), world)
        except Missing as missing:
            reason, params = missing.reason, {name: str(value) for name, value in missing.params.items()}
            found[change.key] = {"reason": reason.name, "message": reason.say(**missing.params), "params": params}
            continue
        sandbox.take(made.parts())
        found[change.key] = _told(made)
    return found


def _told(made: Composition) -> JSON:
    addresses = [
        {"nic": one.spec.nic, "addressPool": one.spec.address_pool, "ip": str(one.spec.ip)} for one in made.addresses
    ]
    return {"host": made.host, "addresses": addresses}
