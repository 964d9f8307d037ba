"""At the start of a server: the objects that this release ships, made or renewed in one transaction with its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

from nanovirt.portal.desired.plan import memory_of
from nanovirt.resources.codec import trusted
from nanovirt.resources.defaults import EDITION, defaults
from nanovirt.resources.errors import LogFull
from nanovirt.resources.event import Event, EventSource, InvolvedObject
from nanovirt.resources.kind import Document, Key
from nanovirt.resources.metadata import ObjectMeta
from nanovirt.resources.reasons import Reason
from nanovirt.resources.shipped import SHIPPED, Shipped, ShippedSpec
from nanovirt.resources.shipping import Shipment, differing, plan
from nanovirt.resources.store import Create, Op, Store, Update, transact

log = logging.getLogger(__name__)

SETUP, RELEASE = "system:setup", "system:release"
"""Who it was, in a new store and in one that has been in use."""


async def ship(store: Store, now: datetime, edition: int = EDITION) -> None:
    """Do what `plan` says; nothing is written when nothing has changed.

    A full disk keeps no store in use from being served: what lacks room waits for the next start.
    """
    things = {thing.key: thing for thing in defaults()}
    live = {
        key: trusted(type(thing), entry.raw) for key, thing in things.items() if (entry := store.peek(key)) is not None
    }
    applied = [key for key in live if store.peek(memory_of(key)) is not None]
    known, fresh = _known(store), not store.committed
    before = ShippedSpec(edition=0) if fresh else known
    shipment = plan(things.values(), edition, before, live, applied)
    if shipment.record == known:
        if known.edition > edition:
            log.warning("shipped objects stay as a newer release left them", extra={"edition": known.edition})
        return
    ops = [*_writes(shipment), *_told(store, shipment, live, now), _recorded(shipment.record, known)]
    try:
        await transact(store, ops, SETUP if fresh else RELEASE)
    except LogFull as error:
        if fresh:
            raise
        log.warning("shipped objects wait for the next start", extra={"detail": str(error)})
        return
    if not fresh:
        log.info(
            "shipped objects are of this release",
            extra={
                "made": _names(shipment.made),
                "renewed": _names(shipment.renewed),
                "edited": _names([one.thing for one in shipment.withheld]),
            },
        )


def _known(store: Store) -> ShippedSpec | None:
    entry = store.peek(SHIPPED)
    return trusted(Shipped, entry.raw).spec if entry is not None else None


def _writes(shipment: Shipment) -> Iterator[Op]:
    yield from (Create(thing.key, thing.to_json()) for thing in shipment.made)
    yield from (Update(thing.key, thing.to_json()) for thing in shipment.renewed)


def _recorded(spec: ShippedSpec, known: ShippedSpec | None) -> Op:
    record = Shipped(metadata=ObjectMeta(name=SHIPPED.name), spec=spec).to_json()
    return Create(SHIPPED, record) if known is None else Update(SHIPPED, record)


def _told(store: Store, shipment: Shipment, live: dict[Key, Document], now: datetime) -> Iterator[Op]:
    """An Event for each object that is kept back for the first time."""
    at = now.replace(microsecond=0)
    for thing in (one.thing for one in shipment.withheld if one.new):
        here = live[thing.key]
        params = {"name": str(thing.key), "fields": ", ".join(differing(here, thing))}
        said = shipment.record.objects[str(thing.key)].withheld
        key = Key("events", here.metadata.namespace or "default", f"{here.metadata.name[:200]}.{said}")
        event = Event(
            metadata=ObjectMeta(name=key.name, namespace=key.namespace),
            involved_object=InvolvedObject.of(here),
            reason=Reason.ShippedOtherwise.name,
            message=Reason.ShippedOtherwise.say(**params),
            params=params,
            source=EventSource(component=RELEASE),
            first_timestamp=at,
            last_timestamp=at,
        )
        if store.peek(key) is None:
            yield Create(key, event.to_json())


def _names(things: tuple[Document, ...] | list[Document]) -> str:
    return ", ".join(str(thing.key) for thing in things) or "-"
