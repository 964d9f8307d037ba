"""Choosing a host: filter, then score, all in integers; every refusal is recorded with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from nanovirt.controllers.indexes import Load
from nanovirt.resources.compute_pool import ComputePoolSpec
from nanovirt.resources.conditions import holds
from nanovirt.resources.host import Host, HostBridge
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason
from nanovirt.resources.vlans import spoken

PASSED_MOST = 16
"""So many hosts without room at the top of a ranking, and every host is looked at instead."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What an instance needs: processors, bytes, networks with the VLANs of its cards in them (0: none), and the host
    it is pinned to ("" none).
    """

    cpus: int
    memory: int
    disk: int
    networks: frozenset[str]
    architecture: str
    pinned: str = ""
    cards: frozenset[tuple[str, int]] = frozenset()


class Refusal(NamedTuple):
    """Why one host was not taken."""

    host: str
    reason: Reason
    params: dict[str, Any]


class Slot(NamedTuple):
    """A host as the scheduler sees it, made anew when the Host changes; `load` goes on being counted."""

    name: str
    pool: str
    enabled: bool
    ready: bool
    storage: bool
    architecture: str
    networks: frozenset[str]
    cpus: int
    memory: int
    disk: int
    load: Load
    limited: tuple[HostBridge, ...] = ()
    """Bridges that do not carry every VLAN."""

    def withheld(self, ask: Ask) -> tuple[str, int] | None:
        """A network and its VLAN that a card would be in, and that the bridge does not carry."""
        if not self.limited:
            return None
        return next(
            (
                (network, vlan)
                for network, vlan in sorted(ask.cards)
                for one in self.limited
                if one.network == network and not one.carries(vlan)
            ),
            None,
        )


def slot(host: Host, load: Load) -> Slot:
    """The scheduler's view of a host."""
    room, spec = host.status.capacity, host.spec
    return Slot(
        name=host.metadata.name,
        pool=spec.compute_pool,
        enabled=spec.enabled and not host.deleting,
        ready=holds(host.status.conditions, "Ready"),
        storage=holds(host.status.conditions, "StorageReady"),
        architecture=host.status.architecture,
        networks=frozenset(bridge.network for bridge in spec.bridges),
        cpus=room.cpus,
        memory=int(room.memory),
        disk=int(room.disk),
        load=load,
        limited=tuple(bridge for bridge in spec.bridges if bridge.vlans is not None),
    )


class Ranking:
    """The hosts of one compute pool that take machines, the best first, kept so while their loads change.

    A lazy heap: a host whose load changed gets a second entry, and an entry that is no longer true is dropped when it
    comes to the top. The lightest host is best under Spread, the fullest under Pack; ties go to the first name.
    """

    def __init__(self, spec: ComputePoolSpec, slots: Iterable[Slot]) -> None:
        self.spec = spec
        self._slots = {one.name: one for one in slots if one.enabled and one.ready and one.storage}
        self._ranks = {name: self._rank(one) for name, one in self._slots.items()}
        self._order()

    def _order(self) -> None:
        self._heap = [(rank, name) for name, rank in self._ranks.items() if rank is not None]
        heapify(self._heap)

    def _rank(self, one: Slot) -> int | None:
        """Millionths of what the pool lets it be loaded with, negative where fuller is better; None: it is full."""
        load, over = one.load, self.spec.overcommit
        if load.cpus >= one.cpus * over.cpu or load.memory >= one.memory * over.memory:
            return None
        used = max(
            load.cpus * 1_000_000 // (one.cpus * over.cpu), load.memory * 1_000_000 // (one.memory * over.memory)
        )
        return used if self.spec.strategy == "Spread" else -used

    def moved(self, host: str) -> None:
        """The load of a host has changed."""
        one = self._slots.get(host)
        if one is None or (rank := self._rank(one)) == self._ranks[host]:
            return
        self._ranks[host] = rank
        if rank is not None:
            heappush(self._heap, (rank, host))
        if len(self._heap) > 4 * len(self._slots) + 16:
            self._order()

    def place(self, ask: Ask) -> Slot | None:
        """The best host that fits, or None."""
        if ask.pinned:
            pinned = self._slots.get(ask.pinned)
            return pinned if pinned is not None and self._fits(ask, pinned) else None
        heap, found = self._heap, None
        passed: list[tuple[int, str]] = []
        while heap and found is None and len(passed) < PASSED_MOST:
            rank, name = heap[0]
            if self._ranks[name] != rank:
                heappop(heap)
            elif self._fits(ask, self._slots[name]):
                found = self._slots[name]
            else:
                passed.append(heappop(heap))
        for entry in passed:
            heappush(heap, entry)
        return self._scanned(ask) if len(passed) == PASSED_MOST else found

    def _scanned(self, ask: Ask) -> Slot | None:
        """The same by a look at every host: quicker when most have no room for it."""
        open_ = ((rank, name) for name, rank in self._ranks.items() if rank is not None)
        best = min((one for one in open_ if self._fits(ask, self._slots[one[1]])), default=None)
        return self._slots[best[1]] if best is not None else None

    def _fits(self, ask: Ask, one: Slot) -> bool:
        load, over = one.load, self.spec.overcommit
        return (
            load.cpus + ask.cpus <= one.cpus * over.cpu
            and load.memory + ask.memory <= one.memory * over.memory
            and load.disk + ask.disk <= one.disk * over.disk
            and ask.networks <= one.networks
            and ask.architecture == one.architecture
            and one.withheld(ask) is None
        )


def refuse(ask: Ask, spec: ComputePoolSpec, one: Slot) -> Refusal | None:
    """Why this host cannot take it, or None: asked only when no host could."""
    over = spec.overcommit
    if ask.pinned and ask.pinned != one.name:
        return Refusal(one.name, Reason.HostPinned, {"host": ask.pinned})
    if not one.enabled:
        return Refusal(one.name, Reason.HostDisabled, {})
    if not one.ready:
        return Refusal(one.name, Reason.HostNotReady, {})
    if not one.storage:
        return Refusal(one.name, Reason.HostStorageNotReady, {})
    if one.architecture != ask.architecture:
        return Refusal(one.name, Reason.WrongArchitecture, {"has": one.architecture, "asked": ask.architecture})
    for network in sorted(ask.networks - one.networks):
        return Refusal(one.name, Reason.NetworkMissing, {"network": network})
    if (withheld := one.withheld(ask)) is not None:
        return Refusal(one.name, Reason.VlanMissing, {"network": withheld[0], "vlan": spoken(withheld[1])})
    free = one.cpus * over.cpu - one.load.cpus
    if ask.cpus > free:
        return Refusal(one.name, Reason.InsufficientCpus, {"free": max(0, free), "asked": ask.cpus})
    for reason, asked, left in (
        (Reason.InsufficientMemory, ask.memory, one.memory * over.memory - one.load.memory),
        (Reason.InsufficientDisk, ask.disk, one.disk * over.disk - one.load.disk),
    ):
        if asked > left:
            return Refusal(one.name, reason, {"free": human(left), "asked": human(asked)})
    return None


def human(amount: int) -> str:
    """Bytes for people, rounded down to whole MiB."""
    return str(Bytes(max(0, amount) // 2**20 * 2**20))


def told(refusals: Iterable[Refusal | None], most: int = 20) -> str:
    """The refusals as one text: `node-1: disabled; node-2: ...`."""
    known = [one for one in refusals if one is not None]
    parts = [f"{one.host}: {one.reason.say(**one.params)}" for one in known[:most]]
    left = len(known) - most
    return "; ".join(parts + ([f"and {left} more"] if left > 0 else []))
