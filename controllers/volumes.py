"""The controller of Volumes that people delete: each stays until its host has said that its file is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from nanovirt.controllers.actions import Action, Transact, set_status
from nanovirt.controllers.news import tell, turned
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import Condition, condition, holds, settle
from nanovirt.resources.host import Host
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Op, Update
from nanovirt.resources.volume import FINALIZER, Volume, made_by_nano

NAME = "volumes"
READS = ("volumes", "hosts", "reports", "events")
WRITES = ("volumes/status", "volumes/finalizers", "events")
FOUND, HOSTLESS = "it was there before Nano", "the host is known no longer"


def plan(volume: Volume | None, world: World, now: datetime) -> Iterator[Action]:
    """Let it go when its file is gone, or is none to be removed; else say what it waits for."""
    if volume is None or not volume.deleting or FINALIZER not in volume.metadata.finalizers:
        return
    spec = volume.spec
    if spec.host is None:
        yield Transact((_let_go(volume),))
        return
    host = world.read(Host, spec.host)
    if host is None or not made_by_nano(spec.file):
        detail = HOSTLESS if host is None else FOUND
        left = tell(volume, NAME, Reason.VolumeFileLeft, world, now, file=spec.file, host=spec.host, detail=detail)
        yield Transact((*left, _let_go(volume)))
        return
    heard = world.reports.heard(spec.host)
    told = {one.file: one.detail for one in heard.report.removals} if heard is not None else {}
    if told.get(spec.file) == "":
        yield Transact((_let_go(volume),))
        return
    yield from _waits(volume, _removed(volume, host, told.get(spec.file)), world, now)


def _removed(volume: Volume, host: Host, detail: str | None) -> Condition:
    generation, name = volume.metadata.generation, host.metadata.name
    if not holds(host.status.conditions, "Ready"):
        return condition("Removed", "False", Reason.VolumeHostSilent, generation, host=name)
    if detail is None:
        return condition("Removed", "False", Reason.VolumeRemoving, generation, host=name)
    return condition("Removed", "False", Reason.VolumeNotRemoved, generation, host=name, detail=detail)


def _waits(volume: Volume, removed: Condition, world: World, now: datetime) -> Iterator[Action]:
    before = volume.status
    after = before.model_copy(update={"conditions": settle(now, before.conditions, (removed,))})
    if after != before:
        told = turned(volume, NAME, before.conditions, after.conditions, world, now)
        yield Transact((set_status(volume, after), *told))


def _let_go(volume: Volume) -> Op:
    left = tuple(one for one in volume.metadata.finalizers if one != FINALIZER)
    metadata = volume.metadata.model_copy(update={"finalizers": left})
    return Update(volume.key, volume.model_copy(update={"metadata": metadata}).to_json())
