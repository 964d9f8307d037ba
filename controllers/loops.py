"""Which controllers run, and what wakes each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import cast

from nanovirt.controllers import garbage, holds, hosts, images, instances, pools, sets, volumes
from nanovirt.controllers.actions import Action
from nanovirt.controllers.runtime import Controller, Runtime, Wake
from nanovirt.controllers.world import World
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import load
from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.event import EVENT_SECONDS
from nanovirt.resources.hold import HOLD, Hold, held
from nanovirt.resources.host import Host
from nanovirt.resources.image import Image
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import SET_LABEL, InstanceSet
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reports import Reports
from nanovirt.resources.storage_pool import StoragePool
from nanovirt.resources.store import Change, Entry, Store
from nanovirt.resources.volume import Volume

log = logging.getLogger(__name__)

WAITED_FOR = frozenset(
    ["computepools", "storagepools", "addresspools", "images", "systemtemplates", "hosts", "securitygroups", "secrets"]
)
SOON = 2.0
"""Totals are written at most so often (seconds): a batch of creates must not write them a thousand times."""

SHORTLY = 0.3
"""A set looks at its members at most so often (seconds), however many of them change."""


class Loops:
    """All controllers over one store and its reports."""

    def __init__(self, store: Store, reports: Reports) -> None:
        self.world, self._store = World(store, reports), store
        self._waiting: set[Key] = set()
        self._alarm: asyncio.TimerHandle | None = None
        """When it rings all that wait are looked at: once for however much room has become free meanwhile."""
        for key, entry in store.peek_all("instances"):
            self._note_waiting(Change(key, None, entry))
        self._runtimes = {one.name: Runtime(one, store) for one in self._controllers()}
        for key in (*self.world.owners.leaving.values(), *self.world.orphaned()):
            self._runtimes["garbage"].add(key)
        for key in self.world.doomed.every():
            self._runtimes["volumes"].add(key)
        reports.subscribe(self._heard)

    async def run(self) -> None:
        """Run them all; ends only by an error or by being cancelled."""
        if held(self._store):
            log.warning("restored store: nothing is started, revoked or freed until every host has said what it holds")
        try:
            async with asyncio.TaskGroup() as group:
                for runtime in self._runtimes.values():
                    group.create_task(runtime.run())
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    @property
    def idle(self) -> bool:
        """Whether no controller has anything due."""
        return all(runtime.idle for runtime in self._runtimes.values())

    @property
    def planned(self) -> int:
        """Plans made so far, all controllers together."""
        return sum(runtime.planned for runtime in self._runtimes.values())

    def _heard(self, key: Key) -> None:
        self._runtimes["hosts" if key.plural == "hosts" else "images"].add(key)
        if key.plural == "hosts":  # free room changes without the Host
            for pool in self.world.every(StoragePool):
                self._runtimes["pools"].add(pool.key, SOON)
            for volume in self.world.doomed.on(key.name):
                self._runtimes["volumes"].add(volume)

    def _controllers(self) -> Iterator[Controller]:
        world, every, store = self.world, frozenset(KINDS), self._store

        def of_instance(thing: Document | None, now: datetime) -> Iterator[Action]:
            return instances.plan(cast(Instance | None, thing), world, now)

        def of_host(thing: Document | None, now: datetime) -> Iterator[Action]:
            return hosts.plan(cast(Host | None, thing), world, now, asyncio.get_running_loop().time())

        def of_hold(thing: Document | None, now: datetime) -> Iterator[Action]:
            return holds.plan(cast(Hold | None, thing), world, now)

        def of_pool(thing: Document | None, now: datetime) -> Iterator[Action]:
            return pools.plan(cast(ComputePool | StoragePool | AddressPool | None, thing), world, now)

        def of_image(thing: Document | None, now: datetime) -> Iterator[Action]:
            return images.plan(cast(Image | None, thing), world, now)

        def of_set(thing: Document | None, now: datetime) -> Iterator[Action]:
            return sets.plan(cast(InstanceSet | None, thing), world, now)

        def of_volume(thing: Document | None, now: datetime) -> Iterator[Action]:
            return volumes.plan(cast(Volume | None, thing), world, now)

        def of_any(thing: Document | None, now: datetime) -> Iterator[Action]:
            return garbage.plan(thing, world, now)

        wakes: dict[str, Callable[[Change], Iterable[Wake]]] = {
            plural: self._wakes_instances for plural in every if plural not in ("events", "instances")
        }
        wakes["instances"] = self._note_waiting
        yield Controller("instances", of_instance, frozenset(["instances"]), frozenset(instances.WRITES), wakes)
        yield Controller(
            "hosts",
            of_host,
            frozenset(["hosts"]),
            frozenset(hosts.WRITES),
            {"placements": _host_of, "volumes": _host_of, "holds": self._all_hosts},
            observes=True,
        )
        yield Controller(
            "holds",
            of_hold,
            frozenset(["holds"]),
            frozenset(holds.WRITES),
            {"hosts": lambda _change: [(HOLD, 0.0)] if held(store) else []},
            observes=True,
        )
        pooled = frozenset(["computepools", "storagepools", "addresspools"])
        totals = dict.fromkeys(("hosts", "placements", "volumes", "addresses"), self._pools_of)
        yield Controller("pools", of_pool, pooled, frozenset(pools.WRITES), totals, observes=True)
        yield Controller("images", of_image, frozenset(["images"]), frozenset(images.WRITES), {}, observes=True)
        yield Controller(
            "sets", of_set, frozenset(["instancesets"]), frozenset(sets.WRITES), {"instances": self._wakes_sets}
        )
        doomed = {"volumes": _doomed, "hosts": self._doomed_on}
        yield Controller("volumes", of_volume, frozenset(), frozenset(volumes.WRITES), doomed)
        orphans = dict.fromkeys(every, self._orphaned) | {"events": self._expires}
        yield Controller("garbage", of_any, frozenset(), frozenset(garbage.WRITES), orphans, frozenset(["events"]))

    # --- what wakes whom ---

    def _note_waiting(self, change: Change) -> Iterable[Wake]:
        entry = change.after
        if entry is not None and not entry.deleting and (entry.row.status_phase in (None, "Pending") or _lacks(entry)):
            self._waiting.add(change.key)
        else:
            self._waiting.discard(change.key)
        return ()

    def _wakes_instances(self, change: Change) -> Iterator[Wake]:
        """A Placement wakes its instance, a host whose silence begins or ends all of its own, room those that wait."""
        plural, entry = change.key.plural, change.after or change.before
        if plural == "placements" and entry is not None:
            yield Key("instances", change.key.namespace, entry.row.instance), 0.0
        if plural == "hosts" and (_readiness(change.before) != _readiness(change.after) or _bridges_differ(change)):
            for key in self.world.loads.placements.get(change.key.name, ()):
                yield Key("instances", key.namespace, key.name.rpartition("-")[0]), 0.0
        if plural == "computepools" and _limits(change.before) != _limits(change.after):
            for host in self.world.slots(change.key.name):
                for key in self.world.loads.placements.get(host.name, ()):
                    yield Key("instances", key.namespace, key.name.rpartition("-")[0]), 0.0
        if plural == "addresspools" and _wish(change.before) != _wish(change.after):
            for holder in self.world.leases.holders(change.key.name):
                yield Key("instances", *holder.split("/")), 0.0
        if plural == "secrets":
            for key in self.world.tellers.of(change.key):
                yield key, 0.0
        if plural == "computepools" and change.before is not None and _wish(change.before) != _wish(change.after):
            for key, one in self._store.peek_all("instances"):
                if one.row.compute_pool == change.key.name:
                    yield key, 0.0
        if plural == "securitygroups" and _wish(change.before) != _wish(change.after):
            for key in self.world.guarded.of(change.key):
                yield key, 0.0
        freed = change.after is None and plural in ("placements", "volumes", "addresses")
        freed = freed or (plural == "placements" and _shrunk(change))
        if freed or (plural in WAITED_FOR and _wish(change.before) != _wish(change.after)):
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        if self._waiting and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(SOON, self._look_at_waiting)

    def _look_at_waiting(self) -> None:
        self._alarm = None
        for key in self._waiting:
            self._runtimes["instances"].add(key)

    def _doomed_on(self, change: Change) -> Iterator[Wake]:
        """A host that comes back, or goes for good, is what Volumes that are being deleted wait for."""
        if _readiness(change.before) != _readiness(change.after):
            for key in self.world.doomed.on(change.key.name):
                yield key, 0.0

    def _all_hosts(self, change: Change) -> Iterator[Wake]:
        """What a restored store waits for begins, or is over."""
        if change.after is None:
            log.warning("the restored store is let go; work begins")
        for host in self.world.every(Host):
            yield host.key, 0.0

    def _wakes_sets(self, change: Change) -> Iterator[Wake]:
        """A member wakes its set, any instance that comes or goes those whose rule has its name.

        At once when somebody deletes it, so that the set does not go on saying that all are there.
        """
        key, before, after = change
        lost = before is not None and not before.deleting and (after is None or after.deleting)
        for entry in (before, after):
            name = entry.labels.get(SET_LABEL) if entry is not None else None
            if name:
                yield Key("instancesets", key.namespace, name), 0.0 if lost else SHORTLY
        if before is None or after is None:
            for one in self.world.members.interested(key):
                yield one, SHORTLY

    def _pools_of(self, change: Change) -> Iterator[Wake]:
        entry = change.after or change.before
        assert entry is not None
        match change.key.plural:
            case "addresses":
                yield Key("addresspools", "", entry.row.address_pool), SOON
            case "volumes":
                yield Key("storagepools", "", entry.row.storage_pool), SOON
            case "hosts":
                yield Key("computepools", "", entry.row.compute_pool), SOON
                for pool in self.world.every(StoragePool):
                    yield pool.key, SOON
            case _:
                host = self.world.read(Host, entry.row.host)
                if host is not None and (change.before is None or change.after is None):
                    yield Key("computepools", "", host.spec.compute_pool), SOON

    def _orphaned(self, change: Change) -> Iterator[Wake]:
        """When an object goes, look at all that name it as their owner, and at owners that wait for that."""
        owners = self.world.owners
        if change.after is not None and change.after.uid in owners.leaving:
            yield change.key, 0.0
        if change.before is not None and (change.after is None or change.before.owners != change.after.owners):
            for uid in owners.leaving.keys() & set(change.before.owners):
                yield owners.leaving[uid], 0.0
        if change.after is None and change.before is not None:
            for key in owners.dependents.get(change.before.uid, ()):
                yield key, 0.0

    def _expires(self, change: Change) -> Iterator[Wake]:
        if change.after is not None and not change.after.deleting:
            yield change.key, EVENT_SECONDS
        yield from self._orphaned(change)


def _lacks(entry: Entry) -> bool:
    """Whether an instance that has a place waits for something that it wishes beyond."""
    return b'"operation":"Refused"' in entry.raw


def _host_of(change: Change) -> Iterator[Wake]:
    entry = change.after or change.before
    if entry is not None and entry.row.host is not None and (change.before is None or change.after is None):
        yield Key("hosts", "", entry.row.host), SOON


def _doomed(change: Change) -> Iterator[Wake]:
    if change.after is not None and change.after.deleting:
        yield change.key, 0.0


def _shrunk(change: Change) -> bool:
    """Whether a Placement asks for less than before."""
    if change.before is None or change.after is None:
        return False
    then, now = change.before.row, change.after.row
    return (then.cpu, then.memory) != (now.cpu, now.memory) and (
        int(now.cpu) < int(then.cpu) or Bytes.read(now.memory) < Bytes.read(then.memory)
    )


def _wish(entry: Entry | None) -> tuple[object, ...]:
    """What of a pool, host or image an instance may be waiting for: its spec, its readiness, a host's room."""
    return _said(entry.raw) if entry is not None else ()


def _readiness(entry: Entry | None) -> object:
    """Status of the Ready condition of a Host."""
    return _said(entry.raw)[1] if entry is not None else ""


def _bridges_differ(change: Change) -> bool:
    """Whether a Host leads elsewhere, or carries other VLANs, than before: most of its changes are counts."""
    before, after = change.before, change.after
    if before is None or after is None or before.generation == after.generation:
        return False
    return bool(load(before.raw)["spec"].get("bridges") != load(after.raw)["spec"].get("bridges"))


def _limits(entry: Entry | None) -> object:
    """What a ComputePool says about QoS, which its machines follow."""
    return load(entry.raw)["spec"].get("qos") if entry is not None else None


@lru_cache(maxsize=2048)
def _said(raw: bytes) -> tuple[object, ...]:
    doc = load(raw)
    status = doc.get("status", {})
    ready = next((one["status"] for one in status.get("conditions", ()) if one["type"] == "Ready"), "")
    return doc["metadata"]["generation"], ready, status.get("phase"), str(status.get("capacity"))
