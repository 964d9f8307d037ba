"""What a release does with the objects that it ships when it starts on a store: makes, renews, or leaves them alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from nanovirt.resources.kind import Document, Key
from nanovirt.resources.shipped import Delivery, ShippedSpec

RENEWED = ("systemtemplates", "roles")
"""Kinds whose objects follow the release. Of all others it knows how a site begins, and people how it goes on."""
FIRST = (
    "namespaces/default", "namespaces/shared", "systemtemplates/linux", "systemtemplates/linux-bios",
    "systemtemplates/windows", "systemtemplates/legacy", "storagepools/local", "addresspools/lan",
    "computepools/default",
)  # fmt: skip
"""What every store was given that has no record of it yet: one of these that is missing there was deleted."""
FORMER: Mapping[str, Collection[str]] = {
    "roles/operator": (
        "dfdfd998b542f20d", "32bace7a2cba8334", "51252eaf20f660ea", "847943b9c824d7cc", "632f5456618ba538",
        "a2e28dbbb0337655", "5a60256700504f6f",
    ),
    "roles/viewer": (
        "0bc2cad6183e3aaa", "9a1a6656ae2b2039", "75b21556b57098a3", "6ff51b955c1759c7", "2d90c1638ea3d012",
    ),
}  # fmt: skip
"""As which they were shipped before there was a record. It does not grow: since then each store knows for itself."""


class Withheld(NamedTuple):
    """What is not renewed because somebody has edited it; `new` when nobody was told so yet."""

    thing: Document
    new: bool


class Shipment(NamedTuple):
    """What to make, how what is there shall be, what stays as people want it, and the record of all that."""

    made: tuple[Document, ...]
    renewed: tuple[Document, ...]
    withheld: tuple[Withheld, ...]
    record: ShippedSpec


def plan(
    things: Iterable[Document],
    edition: int,
    known: ShippedSpec | None,
    live: Mapping[Key, Document],
    applied: Collection[Key] = (),
) -> Shipment:
    """What this release, of that edition, does with `things` in a store where `live` is there of them.

    `known` is the store's record (None: an older release made the store), `applied` what a directory of desired objects
    applies, which counts as edited. A store that a newer edition has served is left as it is. Done once, the same
    plan has nothing to do.
    """
    if known is not None and known.edition > edition:
        return Shipment((), (), (), known)
    before = unrecorded(live) if known is None else known
    made, renewed, withheld = list[Document](), list[Document](), list[Withheld]()
    objects = dict(before.objects)
    for thing in things:
        here, name, now = live.get(thing.key), str(thing.key), digest(thing)
        past = objects.get(name)
        if here is None and past is None:
            made.append(thing)
            objects[name] = Delivery(left=now)
        elif here is None or here.deleting or thing.facts.plural not in RENEWED:
            objects[name] = past or Delivery()
        elif digest(here) == now:
            objects[name] = Delivery(left=now)
        elif past is not None and digest(here) == past.left and thing.key not in applied:
            renewed.append(like(here, thing))
            objects[name] = Delivery(left=now)
        else:
            past = past or Delivery()
            withheld.append(Withheld(thing, past.withheld != now))
            objects[name] = Delivery(left=past.left, withheld=now)
    return Shipment(tuple(made), tuple(renewed), tuple(withheld), ShippedSpec(edition=edition, objects=objects))


def unrecorded(live: Mapping[Key, Document]) -> ShippedSpec:
    """The record that a store would have which is older than records: what is there as it was shipped, was shipped."""
    objects = {name: Delivery() for name in FIRST}
    for key, here in live.items():
        said = digest(here)
        untouched = here.metadata.generation == 1  # who took rights away may have made of it what it was once before
        objects[str(key)] = Delivery(left=said if untouched and said in FORMER.get(str(key), ()) else "")
    return ShippedSpec(edition=0, objects=objects)


def digest(thing: Document) -> str:
    """Of all that the spec says and that is no default: a release that adds a field leaves it what it was."""
    said = thing.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True).get("spec", {})
    return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def like(here: Document, thing: Document) -> Document:
    """What is there, with the spec of `thing`: its labels and annotations are people's."""
    fresh: Any = thing
    return here.model_copy(update={"spec": fresh.spec})


def differing(here: Document, thing: Document) -> tuple[str, ...]:
    """The fields of the spec in which they differ, as paths: `spec.rules`."""
    one, other = here.to_json().get("spec", {}), thing.to_json().get("spec", {})
    return tuple(f"spec.{name}" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
