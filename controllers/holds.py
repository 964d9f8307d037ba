"""The controller of the hold on a restored store: it ends when every host has said what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from nanovirt.controllers.actions import Action, Transact
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import find
from nanovirt.resources.hold import Hold
from nanovirt.resources.host import ACCOUNTED, Host
from nanovirt.resources.store import Delete

NAME = "holds"
READS = ("holds", "hosts", "placements")
WRITES = ("holds",)


def plan(hold: Hold | None, world: World, now: datetime) -> Iterator[Action]:
    """Let go when all hosts are accounted for that may hold anything; until then an administrator has to say so."""
    del now
    if hold is None:
        return
    if all(_accounted(host, hold) for host in world.every(Host) if counts(host, world)):
        yield Transact((Delete(hold.key),))


def counts(host: Host, world: World) -> bool:
    """Whether a host is waited for: it is enabled, or the store has machines there."""
    return host.spec.enabled or bool(world.loads.placements.get(host.metadata.name))


def _accounted(host: Host, hold: Hold) -> bool:
    found = find(host.status.conditions, ACCOUNTED)
    return found is not None and found.status == "True" and found.params.get("hold") == hold.metadata.uid
