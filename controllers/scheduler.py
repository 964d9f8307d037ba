"""Choosing a host: filter, then score, all in integers; every refusal is recorded with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanovirt.controllers.indexes import Load
from nanovirt.resources.compute_pool import ComputePoolSpec
from nanovirt.resources.conditions import holds
from nanovirt.resources.host import Host
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.reasons import Reason


@dataclass(frozen=True, slots=True)
class Ask:
    """What an instance needs: processors, bytes, networks, the storage pool, and the host it is pinned to ("" none)."""

    cpus: int
    memory: int
    disk: int
    networks: frozenset[str]
    architecture: str
    pinned: str = ""


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
    )


def place(ask: Ask, spec: ComputePoolSpec, slots: Iterable[Slot]) -> Slot | None:
    """The lightest (Spread) or fullest (Pack) host that fits, or None; ties go to the first name."""
    sign, over = 1 if spec.strategy == "Spread" else -1, spec.overcommit
    best: Slot | None = None
    least: tuple[int, str] | None = None
    for one in slots:
        cpus, memory, load = one.cpus * over.cpu, one.memory * over.memory, one.load
        if load.cpus + ask.cpus > cpus or load.memory + ask.memory > memory:
            continue
        rank = (sign * max(load.cpus * 1_000_000 // cpus, load.memory * 1_000_000 // memory), one.name)
        if least is not None and rank >= least:
            continue
        if _open(ask, one) and load.disk + ask.disk <= one.disk * over.disk:
            best, least = one, rank
    return best


def _open(ask: Ask, one: Slot) -> bool:
    """Whether the host takes such machines at all, room aside."""
    wanted = one.enabled and one.ready and one.storage and ask.pinned in ("", one.name)
    return wanted and ask.networks <= one.networks and ask.architecture == one.architecture


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
