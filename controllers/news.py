"""What is told about an object, as Events: what its conditions say anew, counted when it is said again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from nanovirt.controllers.actions import owner_of
from nanovirt.controllers.world import World
from nanovirt.resources.conditions import Condition, find
from nanovirt.resources.event import Event, EventSource, InvolvedObject
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.store import Create, Op, Update

WARNINGS = frozenset(
    reason.name
    for reason in (
        # of instances
        Reason.NoHostFits,
        Reason.PoolNotFound,
        Reason.PoolDisabled,
        Reason.PoolHasNoHosts,
        Reason.StoragePoolNotFound,
        Reason.AddressPoolNotFound,
        Reason.AddressPoolFull,
        Reason.AddressInUse,
        Reason.AddressReserved,
        Reason.NotInRanges,
        Reason.MacInUse,
        Reason.ImageNotFound,
        Reason.DiskSmallerThanImage,
        Reason.SystemTemplateNotFound,
        Reason.ImageOfOtherType,
        Reason.VolumeNotFound,
        Reason.VolumeTaken,
        Reason.VolumesApart,
        Reason.VolumeElsewhere,
        Reason.VolumeNotRemoved,
        Reason.VolumeFileLeft,
        Reason.HostHasNoRoom,
        Reason.HostLacksNetwork,
        Reason.HostLacksVlan,
        Reason.VlanOfPoolOnly,
        Reason.VlanWithdrawn,
        Reason.ShrinkNeedsStop,
        Reason.OperationFailed,
        Reason.SecurityGroupNotFound,
        Reason.ImageFetchFailed,
        Reason.HypervisorRefused,
        Reason.MachinePaused,
        Reason.BridgeMissing,
        Reason.DiskFull,
        Reason.Crashed,
        Reason.RestartBudgetSpent,
        Reason.HostUnreachable,
        # of instance sets
        Reason.MembersProtected,
        Reason.NamesTaken,
        # of hosts, pools and images
        Reason.NeverReported,
        Reason.LeaseExpired,
        Reason.HypervisorDown,
        Reason.ChangedBehind,
        Reason.NotAccounted,
        Reason.HoldsElsewhere,
        Reason.StoragePathUnusable,
        Reason.NoReadyHosts,
        Reason.StorageNearlyFull,
        Reason.AddressesExhausted,
        Reason.ImageRejected,
    )
)
"""Somebody may have to do something; all else that is told is Normal."""
BEGINNINGS = frozenset(
    reason.name for reason in (Reason.NoReadyHosts, Reason.StorageReady, Reason.PoolReady, Reason.AddressesFree)
)
"""How things are at first, which is no news; told when it was otherwise before."""
NEWS = (WARNINGS - BEGINNINGS) | {
    reason.name
    for reason in (
        Reason.ImageNotReady,
        Reason.StoppedAsDesired,
        Reason.GuestShutdown,
        Reason.RestartNeeded,
        Reason.Deleting,
        Reason.MembersReady,
        Reason.TemplateOlder,
        Reason.Reporting,
        Reason.Uploading,
        Reason.ImageReady,
    )
}
"""Told whenever a condition begins to give that reason."""
PASSING = frozenset(("hosts", "seconds", "free", "received", "why", "count"))
"""Parameters that differ each time that the same thing is told."""
KEPT_APART = 32
"""Events of one reason about one object, at most; beyond that different things are counted as one."""
PAUSE = timedelta(seconds=10)
"""The same thing is told no sooner again, however often a status swings to and fro."""


def turned(
    about: Document, by: str, before: Iterable[Condition], after: Iterable[Condition], world: World, now: datetime
) -> Iterator[Op]:
    """An Event for each reason that a condition begins to give and that is worth telling.

    They ride in the transaction that writes the status, so that nothing is told that is not so.
    """
    known, told = tuple(before), set[str]()
    for one in after:
        old = find(known, one.type)
        if one.reason in told or (old is not None and old.reason == one.reason):
            continue
        if one.reason in NEWS or (one.reason in BEGINNINGS and old is not None):
            told.add(one.reason)
            yield from tell(about, by, Reason[one.reason], world, now, **one.params)


def tell(about: Document, by: str, reason: Reason, world: World, now: datetime, /, **params: Any) -> Iterator[Op]:
    """An Event about an object, or one more on the Event that tells it already; nothing if that was just told."""
    key = event_key(about, reason, params)
    before = world.read(Event, key.name, key.namespace)
    at = now.replace(microsecond=0)
    said = {"message": reason.say(**params), "params": params, "last_timestamp": at}
    if before is None:
        yield Create(key, _first(about, by, reason, key).model_copy(update=said | {"first_timestamp": at}).to_json())
    elif before.last_timestamp is None or at - before.last_timestamp >= PAUSE:
        yield Update(key, before.model_copy(update=said | {"count": before.count + 1}).to_json())


def event_key(about: Document, reason: Reason, params: dict[str, Any]) -> Key:
    """The name under which an Event is counted: object, reason and what stays the same of the message decide it."""
    lasting = sorted((name, str(value)) for name, value in params.items() if name not in PASSING)
    place = int.from_bytes(_digest(str(lasting))) % KEPT_APART
    name = f"{about.metadata.name[:200]}.{_digest(f'{about.metadata.uid} {reason.name} {place}').hex()}"
    return Key("events", about.metadata.namespace or "default", name)


def _digest(said: str) -> bytes:
    return hashlib.blake2s(said.encode(), digest_size=8).digest()


def _first(about: Document, by: str, reason: Reason, key: Key) -> Event:
    return Event(
        metadata=ObjectMeta(name=key.name, namespace=key.namespace, labels=owner_of(about)),
        involved_object=InvolvedObject.of(about),
        reason=reason.name,
        type="Warning" if reason.name in WARNINGS else "Normal",
        source=EventSource(component=by),
    )
