"""What a write must respect beyond its own object: immutable fields, system kinds, references, addresses in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import islice
from typing import Any, NamedTuple

from nanovirt.portal.api.index import Index, Mention, Sight, View, mentions, protected, users
from nanovirt.portal.api.sizing import small_disks
from nanovirt.portal.api.vlans import bad_vlans, overlaps
from nanovirt.resources import fields
from nanovirt.resources.address import address_name
from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import JSON, load, trusted
from nanovirt.resources.disruption import Effect, changes
from nanovirt.resources.errors import Cause, Conflict, Forbidden, Invalid, NotFound
from nanovirt.resources.instance import Instance
from nanovirt.resources.instance_set import InstanceSet
from nanovirt.resources.kind import KINDS, Document, Key
from nanovirt.resources.reasons import Reason
from nanovirt.resources.registry import DEFAULT, SHARED, by_kind
from nanovirt.resources.store import Entry

SHORT_NAMES = ("namespaces", "instances", "instancesets")
"""Kinds whose names are DNS labels: they become parts of other names."""
SHOWN = 10


class Held(Conflict):
    """An object that something else stands on cannot be deleted (HTTP 409)."""

    def __init__(self, key: Key, why: Reason, **params: Any) -> None:
        super().__init__(key.plural, key.name, why.say(**params))
        self.causes = (Cause.of("", why, **params),)


@dataclass(frozen=True, slots=True)
class World:
    """What admission looks at; `ask` for the index, which a set of writes seldom does, may take a while."""

    store: View
    ask: Callable[[], Index]

    @property
    def index(self) -> Index:
        """The index over the store."""
        return self.ask()


class Wanted(NamedTuple):
    """A write of the main half: the object as asked for, and as it is (None: it is new)."""

    key: Key
    made: Document
    doc: JSON
    before: Entry | None = None
    old: JSON | None = None
    sees: Sight = None
    """What the one who writes may see of what the object refers to."""
    accepted: frozenset[str] = frozenset()
    """The losses of data that the one who writes accepts."""


def admit(world: World, wanted: Wanted) -> list[str]:
    """What to warn of. Raises Invalid with every cause, or NotFound when the namespace is missing."""
    if wanted.before is None:
        check_namespace(world, wanted.key.namespace)
    causes = problems(world, wanted)
    if causes:
        raise Invalid.of(causes)
    return list(missing(world, wanted))


def refuse_system(made: type[Document], verb: str = "") -> None:
    """Raise Forbidden for kinds that only the controllers write; some of them people may `delete`."""
    facts = made.facts
    if facts.system and not (verb == "delete" and facts.removable):
        raise Forbidden(Reason.SystemWritten, kind=facts.kind, owner=facts.system)


def check_namespace(world: World, namespace: str) -> None:
    """Raise NotFound or Forbidden when nothing can be made in that namespace ("": in none)."""
    if not namespace:
        return
    entry = world.store.peek(Key("namespaces", "", namespace))
    if entry is None:
        raise NotFound("namespaces", namespace)
    if entry.deleting:
        raise Forbidden(f"namespace {namespace} is being deleted")


def problems(world: World, wanted: Wanted) -> list[Cause]:
    """Everything that is wrong with the write."""
    key, made, _, before, old, sees, _ = wanted
    causes = [*(bad_name(key) if before is None else changed(wanted))]
    if sees is not None:
        causes += unseen(world, wanted, sees)
    match made:
        case Instance(spec=spec):  # first: a model says slowly what it is not
            if spec.nics:
                causes += bad_cards(world, wanted, made)
                causes += bad_vlans(world.store, world.ask, old, made)
            begun = old is not None and bool((old.get("status") or {}).get("placement"))
            causes += small_disks(world.store, key.namespace, spec, old["spec"] if old else None, begun=begun)
        case InstanceSet():
            at = "spec.template.spec"
            causes += small_disks(world.store, key.namespace, made.spec.template.spec, _at(old, at), at)
        case AddressPool():
            causes += overlaps(world.store, world.index, made)
            causes += lost_addresses(world.store, wanted, made)
            causes += taken_gateway(world.store, wanted, made)
        case _:
            pass
    return causes


def bad_name(key: Key) -> Sequence[Cause]:
    """A name that the kind cannot have."""
    check = fields.label if key.plural in SHORT_NAMES else fields.name
    try:
        check(key.name)
    except ValueError as error:
        return (Cause.of("metadata.name", str(error)),)
    return ()


def changed(wanted: Wanted) -> Iterator[Cause]:
    """Fields that must stay as they are and do not."""
    assert wanted.old is not None
    assert wanted.before is not None
    facts = wanted.made.facts
    for path in facts.immutable:
        if _at(wanted.old, path) != _at(wanted.doc, path):
            yield Cause.of(path, Reason.FieldImmutable)
    if wanted.key.plural == "instances" and (wanted.old.get("status") or {}).get("placement"):
        yield from changed_machine(wanted.old, wanted.doc, wanted.accepted)


def changed_machine(old: JSON, doc: JSON, accepted: frozenset[str]) -> Iterator[Cause]:
    """What a machine that has a host cannot become, and what it would lose that nobody accepted."""
    for path, _, _, effect, accept, why in changes("Instance", old, doc):
        if effect is Effect.Refused and path not in Instance.facts.immutable:
            yield Cause.of(path, Reason.ChangeRefused, detail=why)
        elif effect is Effect.DataLoss and accept not in accepted:
            disk = path.partition("[")[2].partition("]")[0]
            yield Cause.of(path, Reason.DataLossNotAccepted, disk=disk, accept=accept)


def _at(doc: Any, path: str) -> Any:
    for step in path.split("."):
        doc = doc.get(step) if isinstance(doc, dict) else None
    return doc


def missing(world: World, wanted: Wanted) -> Iterator[str]:
    """References to what does not exist yet: accepted, so that manifests can be applied in any order.

    Whoever wrote one has been told: it is not said again with each later write.
    """
    mentioned = mentions(wanted.made.facts, wanted.key, wanted.doc)
    if absent := {one.target for one in mentioned if world.store.peek(one.target) is None}:
        for mention in brought(wanted, mentioned):
            if mention.target in absent:
                yield f"{mention.field}: {reference_missing(mention).message}"


def brought(wanted: Wanted, mentioned: Sequence[Mention]) -> list[Mention]:
    """Those of the references that this write brings: what stands in a list may have moved in it."""
    before = mentions(wanted.made.facts, wanted.key, wanted.old) if wanted.old else []
    if not before:
        return [*mentioned]
    places = {(one.field, one.target) for one in before}
    new = [one for one in mentioned if (one.field, one.target) not in places]
    stayed = {(one.field, one.target) for one in mentioned}
    moved = Counter(one.target for one in before if (one.field, one.target) not in stayed)
    found = []
    for one in new:
        if moved[one.target] > 0:
            moved[one.target] -= 1
        else:
            found.append(one)
    return found


def reference_missing(mention: Mention) -> Cause:
    """What is said about a reference to nothing."""
    kind = KINDS[mention.target.plural].facts.kind
    return Cause.of(mention.field, Reason.ReferenceMissing, kind=kind, name=mention.written)


def unseen(world: World, wanted: Wanted, sees: Callable[[Key, Entry], bool]) -> Iterator[Cause]:
    """New references of a user to what is not there in the namespace, or not among what the user `sees`.

    To refer is to use: an image or a secret of somebody else would be read through one's own machine. What makes more
    of the same uses it anew.
    """
    facts = wanted.made.facts
    had = set() if _grows(wanted) else {one.target for one in mentions(facts, wanted.key, wanted.old or {})}
    for mention in mentions(facts, wanted.key, wanted.doc):
        target = mention.target
        if target.namespace in ("", SHARED) or target in had:
            continue
        entry = world.store.peek(target)
        if entry is None or not sees(target, entry):
            kind = KINDS[target.plural].facts.kind
            yield Cause.of(mention.field, Reason.ReferenceMissing, kind=kind, name=mention.written)


def _grows(wanted: Wanted) -> bool:
    """Whether more are wished of what the object is a number of."""
    scaling = wanted.made.facts.scaling
    return scaling is not None and int(_at(wanted.doc, scaling.wished)) > int(_at(wanted.old, scaling.wished) or 0)


# --- address pools --------------------------------------------------------------------------------------


def lost_addresses(store: View, wanted: Wanted, pool: AddressPool) -> Iterator[Cause]:
    """The ranges must go on holding the addresses that instances have."""
    if wanted.old is None or wanted.old["spec"]["ranges"] == wanted.doc["spec"]["ranges"]:
        return
    lost = (
        entry.row
        for _, entry in store.peek_all("addresses")
        if entry.row.address_pool == wanted.key.name and not pool.holds(IPv4Address(entry.row.ip))
    )
    for row, _ in zip(lost, range(SHOWN), strict=False):
        yield Cause.of("spec.ranges", Reason.RangeHoldsAddressInUse, ip=row.ip, instance=row.instance)


def taken_gateway(store: View, wanted: Wanted, pool: AddressPool) -> Iterator[Cause]:
    """A gateway must not be the address of an instance."""
    gateway = pool.spec.gateway
    if gateway is None or wanted.old is None or wanted.old["spec"].get("gateway") == str(gateway):
        return
    holder = store.peek(Key("addresses", "", address_name(wanted.key.name, str(gateway))))
    if holder is not None:
        yield Cause.of("spec.gateway", Reason.AddressInUse, ip=str(gateway), instance=holder.row.instance)


# --- network cards --------------------------------------------------------------------------------------


def bad_cards(world: World, wanted: Wanted, instance: Instance) -> Iterator[Cause]:
    """Addresses and MACs that an instance asks for and cannot have; what it asked for before stays accepted."""
    before = _cards(wanted.old)
    for at, nic in enumerate(instance.spec.nics or ()):
        had = before.get(nic.name, {})
        if nic.ip is not None and nic.address_pool is not None and had.get("ip") != str(nic.ip):
            yield from _bad_ip(world, wanted, f"spec.nics[{at}].ip", nic.address_pool, nic.ip)
        if nic.mac is not None and had.get("mac") != nic.mac:
            yield from _bad_mac(world, wanted, f"spec.nics[{at}].mac", nic.mac)


def _cards(old: JSON | None) -> dict[str, JSON]:
    return {nic["name"]: nic for nic in old["spec"].get("nics") or ()} if old else {}


def _bad_ip(world: World, wanted: Wanted, field: str, pool_name: str, ip: IPv4Address) -> Iterator[Cause]:
    entry = world.store.peek(Key("addresspools", "", pool_name))
    if entry is None:
        return
    pool = trusted(AddressPool, entry.raw)
    if not pool.holds(ip):
        yield Cause.of(field, Reason.NotInRanges, ip=str(ip), pool=pool_name)
    elif ip in pool.excluded():
        yield Cause.of(field, Reason.AddressReserved, ip=str(ip), pool=pool_name)
    name = address_name(pool_name, str(ip))
    holder = world.store.peek(Key("addresses", "", name))
    holders = (*((holder.row.instance,) if holder else ()), *world.index.ips.get(name, ()))
    other = next((one for one in holders if one != _own(wanted)), "")
    if other:
        yield Cause.of(field, Reason.AddressInUse, ip=str(ip), instance=_told_to(world, wanted, other))


def _bad_mac(world: World, wanted: Wanted, field: str, mac: str) -> Iterator[Cause]:
    other = next((one for one in world.index.macs.get(mac, ()) if one != _own(wanted)), "")
    if other:
        yield Cause.of(field, Reason.MacInUse, mac=mac, instance=_told_to(world, wanted, other))


def _own(wanted: Wanted) -> str:
    return f"{wanted.key.namespace}/{wanted.key.name}"


def _told_to(world: World, wanted: Wanted, holder: str) -> str:
    """Who holds it, for those of the same namespace who may see that: others do not learn what stands where."""
    namespace, _, name = holder.partition("/")
    if namespace != wanted.key.namespace:
        return "an instance of another namespace"
    key = Key("instances", namespace, name)
    entry = world.store.peek(key)
    if wanted.sees is None or (entry is not None and wanted.sees(key, entry)):
        return holder
    return "an instance of somebody else"


# --- deleting -------------------------------------------------------------------------------------------


def admit_delete(world: World, key: Key, entry: Entry, sees: Sight) -> None:
    """Raise Held or Forbidden when the object must stay; users of it are named to those who may see them."""
    if key.plural == "namespaces":
        _admit_namespace_delete(world, key)
    if key.plural == "users" and world.index.owned[key.name]:
        raise Held(key, Reason.OwnsObjects, name=key.name, count=world.index.owned[key.name])
    if key.plural == "instancesets":
        _admit_set_delete(world, key, entry, sees)
    if protected(entry):
        raise Held(key, Reason.DeletionProtected)
    if KINDS[key.plural].facts.removable and entry.owners:
        raise Held(key, Reason.InUse, name=key.name, users=", ".join(_owners(world, key, entry, sees)))
    given = world.index.addresses[key.name] if key.plural == "addresspools" else 0
    if world.index.uses[key] or given:
        raise Held(key, Reason.InUse, name=key.name, users=_named(world, key, given, sees))


def _owners(world: World, key: Key, entry: Entry, sees: Sight) -> Iterator[str]:
    """Whose it is, as far as one may know."""
    for one in load(entry.raw)["metadata"]["ownerReferences"][:SHOWN]:
        cls = by_kind(one["kind"])
        owner = Key(cls.facts.plural if cls is not None else one["kind"], key.namespace, one["name"])
        held = world.store.peek(owner)
        yield str(owner) if sees is None or (held is not None and sees(owner, held)) else "another"


def _admit_namespace_delete(world: World, key: Key) -> None:
    if key.name in (DEFAULT, SHARED):
        raise Forbidden(f'namespaces "{key.name}" is forbidden: this namespace may not be deleted')
    count = world.index.contents[key.name]
    if count:
        raise Held(key, Reason.NotEmpty, name=key.name, count=count)


def _admit_set_delete(world: World, key: Key, entry: Entry, sees: Sight) -> None:
    """The members go with their set, so one that must not be deleted keeps it."""
    for written in world.index.guarded.get(entry.uid, ()):
        one = Key("instances", *written.split("/"))
        held = world.store.peek(one)
        known = sees is None or (held is not None and sees(one, held))
        raise Held(key, Reason.MemberProtected, name=one.name if known else "of somebody else")


def _named(world: World, key: Key, given: int, sees: Sight) -> str:
    found = list(islice(users(world.store, key, sees), SHOWN))
    rows = (entry.row for _, entry in world.store.list("addresses") if entry.row.address_pool == key.name)
    held = [f"instances/{row.instance}" for row in islice(rows, SHOWN)] if given and sees is None else []
    named = [*dict.fromkeys([*(str(one) for one, _ in found), *held])][:SHOWN]
    # Who has an address of a pool most often refers to it, too.
    others = max(world.index.uses[key] - sum(count for _, count in found), given - len(held))
    words = [", ".join(named)] if named else []
    words += [f"{others} others" if others > 1 else "another"] if others > 0 else []
    return " and ".join(words) or "objects that are being written"
