"""The controller that alone composes Placement, Address, Volume and Instance.status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from nanovirt.controllers.actions import Action, LookAgain, Transact, set_status
from nanovirt.controllers.adopting import adopt, adopted
from nanovirt.controllers.composing import Composition, compose
from nanovirt.controllers.disks import let_go, owned, volume_key, volume_name
from nanovirt.controllers.drifting import with_policy
from nanovirt.controllers.following import Followed, follow
from nanovirt.controllers.lacks import Missing
from nanovirt.controllers.news import WARNINGS, tell, turned
from nanovirt.controllers.observing import observed, waiting
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import find, settle
from nanovirt.resources.host import Host
from nanovirt.resources.instance import FINALIZER, Instance, InstanceStatus
from nanovirt.resources.placement import FINALIZER as RELEASED
from nanovirt.resources.placement import Operation, Placement, PlacementSpec, placement_name
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Delete, Half, Op, Update
from nanovirt.resources.volume import VolumeStatus

NAME = "instances"
READS = (
    "instances",
    "placements",
    "hosts",
    "computepools",
    "storagepools",
    "addresspools",
    "systemtemplates",
    "securitygroups",
    "images",
    "events",
    "volumes",
    "secrets",
)
WRITES = ("instances/status", "instances/finalizers", "placements", "volumes", "addresses", "events")
UNDER_WAY = ("Starting", "Stopping")
"""Reasons of a machine that runs and is to be started anew."""


def plan(instance: Instance | None, world: World, now: datetime) -> Iterator[Action]:
    """What to do about one instance; nothing when all is settled."""
    if instance is None:
        return
    found = placements_of(instance, world)
    placement, older = found[0] if found else None, found[1:]
    gone = [one for one in older if one.deleting and one.status.released]
    if gone:
        yield Transact(tuple(_released(one) for one in gone))
    if instance.deleting:
        yield from _deletion(instance, placement, world, now, alone=len(gone) == len(older))
    elif placement is None:
        yield from _placing(instance, world, now)
    elif placement.status.epoch > placement.spec.epoch and not placement.deleting:
        yield from _going_on(instance, placement, world, now)
    else:
        yield from _following(instance, placement, world, now)


def placements_of(instance: Instance, world: World) -> list[Placement]:
    """Its Placements, the highest epoch first: that one counts, the others are on their way out."""
    keys = world.owners.placements.get(instance.metadata.uid, ())
    found = [world.read(Placement, key.name, key.namespace) for key in keys]
    return sorted((one for one in found if one is not None), key=lambda one: -one.spec.epoch)


def _placing(instance: Instance, world: World, now: datetime) -> Iterator[Action]:
    try:
        made = adopt(instance, world) if adopted(instance) else compose(instance, world)
    except Missing as missing:
        status = waiting(instance, missing.reason, **missing.params)
        yield from _status(instance, status, world, now)
        if adopted(instance):  # its host reports it soon, and that wakes nobody else
            yield LookAgain(2.0)
        return
    placed = with_policy(made.placement.spec, instance, world)
    made = replace(made, placement=made.placement.model_copy(update={"spec": placed}))
    after = observed(instance, made.placement, reachable=True)
    scheduled = tell(instance, NAME, Reason.Scheduled, world, now, host=made.host)
    yield Transact((*_created(made), *_status_ops(instance, after, world, now), *scheduled))


def _created(made: Composition) -> Iterator[Op]:
    for part in made.parts():
        yield Create(part.key, part.to_json())
    yield from made.taken


def _going_on(instance: Instance, placement: Placement, world: World, now: datetime) -> Iterator[Action]:
    """The host has obeyed a higher epoch than the store, which was restored, knows of: it obeys only what is above."""
    followed = follow(placement, instance, world)
    epoch = placement.status.epoch + 1
    spec = followed.spec.model_copy(update={"epoch": epoch})
    made = Placement(metadata=owned(instance, placement_name(instance.metadata.name, epoch)), spec=spec)
    ops: list[Op] = [Create(made.key, made.to_json()), Delete(placement.key), *followed.ops]
    fresh = {op.key for op in followed.ops if isinstance(op, Create)}
    holder = VolumeStatus(in_use_by=made.metadata.name).to_json()
    held = [key for key in (volume_key(instance, one) for one in made.spec.volumes) if key in fresh or world.there(key)]
    ops += [Update(key, {"status": holder}, Half.STATUS) for key in held]
    ops += _status_ops(instance, _seen(instance, made, world, followed), world, now)
    yield Transact(tuple(ops))


def _seen(
    instance: Instance, placement: Placement, world: World, followed: Followed | None = None, *, fresh: bool = False
) -> InstanceStatus:
    lacks = followed.lacks if followed is not None else ()
    return observed(instance, placement, reachable=_reachable(placement, world), lacks=lacks, fresh=fresh)


def _following(instance: Instance, placement: Placement, world: World, now: datetime) -> Iterator[Action]:
    followed = follow(placement, instance, world)
    ops = list(followed.ops)
    spec = with_policy(followed.spec, instance, world)
    fresh = spec is not placement.spec
    if fresh:
        placement = placement.model_copy(update={"spec": spec})
        ops.append(Update(placement.key, placement.to_json()))
    ops += _status_ops(instance, _seen(instance, placement, world, followed, fresh=fresh), world, now)
    if ops:
        yield Transact(tuple(ops))


def _deletion(
    instance: Instance, placement: Placement | None, world: World, now: datetime, *, alone: bool
) -> Iterator[Action]:
    if placement is None:
        yield Transact((*_freed(instance, world), _without_finalizer(instance)))
    elif not placement.deleting:
        ordered = placement.model_copy(update={"spec": _removal(instance, placement, world)})
        removal = (Update(ordered.key, ordered.to_json()), Delete(ordered.key))
        yield Transact((*removal, *_status_ops(instance, _seen(instance, ordered, world), world, now)))
    elif placement.status.released and _removed(placement) and alone:
        yield Transact(tuple(_gone(instance, placement, world)))
    else:
        yield from _status(instance, _seen(instance, placement, world), world, now)


def _removal(instance: Instance, placement: Placement, world: World) -> PlacementSpec:
    """Off, and every disk file removed that is not to be retained: an explicit order for each."""
    spec = placement.spec
    orders = [order for order in spec.operations if order.verb == "RemoveVolume"]
    for one in spec.volumes:
        key = volume_key(instance, one)
        entry = world.peek(key)
        if not one.adopted and (entry is None or entry.row.reclaim != "Retain"):
            uid = f"{spec.instance_uid}.{one.name}.remove"
            orders.append(Operation(uid=uid, verb="RemoveVolume", volume=one.name, frees=key.name))
    ended = {"power_state": "Stopped", "stop_grace_seconds": 0, "operations": tuple(orders)}
    return spec.model_copy(update=ended)


def _removed(placement: Placement) -> bool:
    done = {one.uid for one in placement.status.operations if one.state == "Succeeded"}
    return all(order.uid in done for order in placement.spec.operations)


def _gone(instance: Instance, placement: Placement, world: World) -> Iterator[Op]:
    """The host has said that nothing is left: everything goes in one revision, but for Volumes whose files stay."""
    yield _released(placement)
    orders = placement.spec.operations
    removed = {order.frees or volume_name(instance.metadata.name, order.volume) for order in orders}
    for key in sorted(world.owners.dependents.get(instance.metadata.uid, ())):
        if key.plural == "volumes":
            yield from [Delete(key)] if key.name in removed else let_go(key, world)
    yield from _freed(instance, world)
    yield _without_finalizer(instance)


def _released(placement: Placement) -> Op:
    kept = tuple(name for name in placement.metadata.finalizers if name != RELEASED)
    metadata = placement.metadata.model_copy(update={"finalizers": kept})
    return Update(placement.key, placement.model_copy(update={"metadata": metadata}).to_json())


def _freed(instance: Instance, world: World) -> Iterator[Op]:
    for key in world.leases.of_instance(instance.metadata.uid):
        yield Delete(key)


def _without_finalizer(instance: Instance) -> Op:
    kept = tuple(name for name in instance.metadata.finalizers if name != FINALIZER)
    metadata = instance.metadata.model_copy(update={"finalizers": kept})
    return Update(instance.key, instance.model_copy(update={"metadata": metadata}).to_json())


def _reachable(placement: Placement, world: World) -> bool:
    host = world.read(Host, placement.spec.host)
    ready = find(host.status.conditions, "Ready") if host is not None else None
    return ready is not None and ready.status != "Unknown"


def _status(instance: Instance, status: InstanceStatus, world: World, now: datetime) -> Iterator[Action]:
    ops = _status_ops(instance, status, world, now)
    if ops:
        yield Transact(tuple(ops))


def _status_ops(instance: Instance, status: InstanceStatus, world: World, now: datetime) -> list[Op]:
    """The status write with the Events of what has happened; none if nothing changed."""
    conditions = settle(now, instance.status.conditions, status.conditions)
    after = status.model_copy(update={"conditions": conditions})
    if after == instance.status:
        return []
    return [set_status(instance, after), *_news(instance, after, world, now)]


def _news(instance: Instance, after: InstanceStatus, world: World, now: datetime) -> Iterator[Op]:
    """What the conditions say anew, and that the machine runs, or is in sight again, in words of their own."""
    before = instance.status
    was, ready = find(before.conditions, "Ready"), find(after.conditions, "Ready")
    reason, now_given = was.reason if was is not None else "", ready.reason if ready is not None else ""
    if reason == Reason.HostUnreachable.name != now_given:
        yield from tell(instance, NAME, Reason.HostBack, world, now, host=after.host)
        if now_given not in WARNINGS:  # what it was before the silence was told then
            return
    elif now_given == Reason.AsDesired.name and (before.phase != "Running" or reason in UNDER_WAY):
        yield from tell(instance, NAME, Reason.Started, world, now, host=after.host)
    elif now_given == Reason.AsDesired.name != reason:
        yield from tell(instance, NAME, Reason.AsDesired, world, now)
    yield from turned(instance, NAME, before.conditions, after.conditions, world, now)
