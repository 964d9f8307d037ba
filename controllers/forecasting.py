"""Where new instances would be placed, and with which addresses: composed in a copy of the world, for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from uuid import NAMESPACE_URL, uuid5

from nanovirt.controllers.composing import Composition, compose
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.sets import lacking, member_of
from nanovirt.controllers.world import World
from nanovirt.resources.codec import JSON, trusted
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.rows import entry_of
from nanovirt.resources.store import Change, Commit, Entry, Sink, Store

MEMBERS_MAX = 20
"""Members of a set of which something is foreseen: nobody reads more, and each takes its time."""


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

    Of a set: the same of the first members that it would make.

    `live` is the world of the controllers that will choose. Another instance that comes first takes what was foreseen
    for this one. It reads every object once.
    """
    sandbox = Sandbox(store, changes)
    world = World(sandbox, live.reports)
    world.leases.go_on_like(live.leases)
    found: dict[Key, JSON] = {}
    for key, before, after in changes:
        if key.plural == "instances" and before is None and after is not None:
            found[key] = _placed(trusted(Instance, after.raw), world, sandbox)
        elif key.plural == "instancesets" and after is not None and not after.deleting:
            coming = list(_members(trusted(InstanceSet, after.raw), world))
            if coming:
                found[key] = {"members": [{"name": one.key.name, **_placed(one, world, sandbox)} for one in coming]}
    return found


def _members(one: InstanceSet, world: World) -> Iterator[Instance]:
    """The first members that it would make, each with a uid of its own."""
    for key in lacking(one, world.members.of(one.metadata.uid), world, MEMBERS_MAX):
        made, uid = member_of(one, key.name), str(uuid5(NAMESPACE_URL, str(key)))
        yield made.model_copy(update={"metadata": made.metadata.model_copy(update={"uid": uid})})


def _placed(instance: Instance, world: World, sandbox: Sandbox) -> JSON:
    try:
        made = compose(instance, world)
    except Missing as missing:
        reason, params = missing.reason, {name: str(value) for name, value in missing.params.items()}
        return {"reason": reason.name, "message": reason.say(**missing.params), "params": params}
    sandbox.take(made.parts())
    return _told(made)


def _told(made: Composition) -> JSON:
    addresses = [
        {"nic": one.spec.nic, "addressPool": one.spec.address_pool, "ip": str(one.spec.ip)} for one in made.addresses
    ]
    return {"host": made.host, "addresses": addresses}
