"""What is handed out, counted from rows as writes are staged: room on hosts, addresses, machines by owner."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple, TypeVar

from nanovirt.resources.address_pool import AddressPool
from nanovirt.resources.codec import JSON, load
from nanovirt.resources.fields import resolve
from nanovirt.resources.instance_set import SET_LABEL, TEMPLATE_LABEL, Naming, naming, readings
from nanovirt.resources.kind import Key
from nanovirt.resources.metadata import FOREGROUND, ORPHAN
from nanovirt.resources.placement import domain_uuid
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.store import Change, Entry

N = TypeVar("N")
FAREWELLS = (f'"{FOREGROUND}"'.encode(), f'"{ORPHAN}"'.encode())


class Load:
    """What is bound to one host: cpus, bytes of memory, bytes of disk that volumes may grow to, machines."""

    __slots__ = ("cpus", "disk", "instances", "memory")

    def __init__(self) -> None:
        self.cpus = self.memory = self.disk = self.instances = 0


class Loads:
    """The load of each host, and the Placement keys on it."""

    def __init__(self) -> None:
        self._by_host: dict[str, Load] = {}
        self.placements: dict[str, set[Key]] = defaultdict(set)
        self.pool_disk: dict[str, int] = defaultdict(int)
        self.pool_volumes: dict[str, int] = defaultdict(int)

    def of(self, host: str) -> Load:
        """The load of a host: one object that goes on being counted on."""
        return self._by_host.setdefault(host, Load())

    def apply(self, change: Change) -> None:
        """Count a change of a Placement or a Volume."""
        for entry, sign in ((change.before, -1), (change.after, 1)):
            if entry is None:
                continue
            if change.key.plural == "placements":
                self._placement(change.key, entry, sign)
            elif change.key.plural == "volumes":
                self._volume(entry, sign)

    def _placement(self, key: Key, entry: Entry, sign: int) -> None:
        row = entry.row
        load_ = self._by_host.setdefault(row.host, Load())
        load_.cpus += sign * int(row.cpu)
        load_.memory += sign * Bytes.read(row.memory)
        load_.instances += sign
        held = self.placements[row.host]
        held.add(key) if sign > 0 else held.discard(key)

    def _volume(self, entry: Entry, sign: int) -> None:
        size = sign * Bytes.read(entry.row.size)
        if entry.row.host is not None:
            self._by_host.setdefault(entry.row.host, Load()).disk += size
        self.pool_disk[entry.row.storage_pool] += size
        self.pool_volumes[entry.row.storage_pool] += sign


class Leases:
    """Who holds which address and which MAC; finds a free one from where the last one was given out."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, str]] = defaultdict(dict)
        self._macs: dict[str, str] = {}
        self._by_uid: dict[str, set[Key]] = defaultdict(set)
        self._cards: dict[tuple[str, str], str] = {}
        self._cursor: dict[str, int] = {}
        self._strange: dict[str, frozenset[IPv4Address]] = {}
        """By host: what domains have there that no Placement asks for."""

    def apply(self, change: Change) -> None:
        """Count a change of an Address, or of what a Host says of addresses that are in use without one."""
        if change.key.plural == "hosts":
            self._note_strangers(change)
        if change.key.plural != "addresses":
            return
        for entry, sign in ((change.before, -1), (change.after, 1)):
            if entry is not None:
                self._count(change.key, entry, sign)

    def _note_strangers(self, change: Change) -> None:
        if change.after is None or b'"unclaimedAddresses":[]' in change.after.raw:
            self._strange.pop(change.key.name, None)
        elif b'"unclaimedAddresses"' in change.after.raw:
            said = load(change.after.raw)["status"]["unclaimedAddresses"]
            self._strange[change.key.name] = frozenset(IPv4Address(one) for one in said)

    def stranger(self, ip: IPv4Address) -> str:
        """The host on which a domain without a Placement has that address, or ""."""
        return next((host for host, held in self._strange.items() if ip in held), "")

    def _count(self, key: Key, entry: Entry, sign: int) -> None:
        row, ip = entry.row, int(IPv4Address(entry.row.ip))
        if sign > 0:
            self._held[row.address_pool][ip] = row.instance
            self._macs[row.mac] = row.instance
            self._by_uid[row.instance_uid].add(key)
            self._cards[row.instance_uid, row.nic] = row.address_pool
            self._cursor[row.address_pool] = ip + 1
            return
        self._held[row.address_pool].pop(ip, None)
        self._macs.pop(row.mac, None)
        self._cards.pop((row.instance_uid, row.nic), None)
        self._by_uid[row.instance_uid].discard(key)
        if not self._by_uid[row.instance_uid]:
            del self._by_uid[row.instance_uid]

    def go_on_like(self, other: Leases) -> None:
        """Give out next what `other` would: who was given an address last does not show in the addresses."""
        self._cursor = dict(other._cursor)

    def used(self, pool: str) -> int:
        """How many addresses of a pool are held."""
        return len(self._held.get(pool, ()))

    def holder(self, pool: str, ip: IPv4Address) -> str | None:
        """NAMESPACE/NAME of the instance that holds an address."""
        return self._held.get(pool, {}).get(int(ip))

    def mac_holder(self, mac: str) -> str | None:
        """NAMESPACE/NAME of the instance that has a MAC."""
        return self._macs.get(mac)

    def pool_of(self, uid: str, nic: str) -> str:
        """The pool that a card of an instance has its address from, or ""."""
        return self._cards.get((uid, nic), "")

    def holders(self, pool: str) -> set[str]:
        """NAMESPACE/NAME of every instance with an address of the pool."""
        return set(self._held.get(pool, {}).values())

    def of_instance(self, uid: str) -> list[Key]:
        """The Address objects of an instance."""
        return sorted(self._by_uid.get(uid, ()))

    def free(self, pool: AddressPool, besides: frozenset[IPv4Address] = frozenset()) -> IPv4Address | None:
        """A free address, the one longest after the last given; None when the pool is full."""
        held, excluded = self._held.get(pool.metadata.name, {}), pool.excluded().union(besides, *self._strange.values())
        cursor = self._cursor.get(pool.metadata.name, 0)
        for number in _from(pool, cursor):
            if number not in held and IPv4Address(number) not in excluded:
                return IPv4Address(number)
        return None


def _from(pool: AddressPool, cursor: int) -> Iterator[int]:
    """Every address of the ranges once, beginning at `cursor` and going round."""
    spans = [(int(one.first), int(one.last)) for one in pool.spec.ranges]
    for first, last in spans:
        yield from range(max(first, cursor), last + 1)
    for first, last in spans:
        yield from range(first, min(last, cursor - 1) + 1)


class Owners:
    """Which Placement an instance has, which objects name an owner by uid, and which owners go slowly."""

    def __init__(self) -> None:
        self.placements: dict[str, set[Key]] = defaultdict(set)
        self._adopted: dict[str, set[Key]] = defaultdict(set)
        """By the uuid of its domain: Placements of machines that were there before their instance."""
        self.dependents: dict[str, set[Key]] = defaultdict(set)
        self.leaving: dict[str, Key] = {}
        """By uid: what is being deleted and wants something to become of its dependents first."""

    def apply(self, change: Change) -> None:
        """Follow Placements by instance uid, and ownerReferences of everything."""
        key, before, after = change
        if key.plural == "placements" and (before is None or after is None or before.uid != after.uid):
            for entry, sign in ((before, -1), (after, 1)):
                if entry is not None:
                    self._placement(key, entry, sign)
        had, has = before.owners if before is not None else (), after.owners if after is not None else ()
        if had != has:
            for uid in had:
                _mark(self.dependents, uid, key, -1)
            for uid in has:
                _mark(self.dependents, uid, key, 1)
        if before is not None and before.deleting:
            self.leaving.pop(before.uid, None)
        if after is not None and after.deleting and any(word in after.raw for word in FAREWELLS):
            self.leaving[after.uid] = key

    def _placement(self, key: Key, entry: Entry, sign: int) -> None:
        uid = entry.row.instance_uid
        _mark(self.placements, uid, key, sign)
        uuid = domain_uuid(entry)
        if uuid != uid:
            _mark(self._adopted, uuid, key, sign)

    def asked_for(self, uuid: str) -> set[Key]:
        """The Placements that ask for the domain with that uuid."""
        return self.placements.get(uuid, set()) | self._adopted.get(uuid, set())


class Doomed:
    """Volumes that are being deleted, by the host that has their files."""

    def __init__(self) -> None:
        self._by_host: dict[str, set[Key]] = defaultdict(set)

    def on(self, host: str) -> tuple[Key, ...]:
        """Those of a host."""
        return tuple(sorted(self._by_host.get(host, ())))

    def every(self) -> Iterator[Key]:
        """All of them."""
        return (key for keys in self._by_host.values() for key in sorted(keys))

    def apply(self, change: Change) -> None:
        """Follow Volumes."""
        if change.key.plural == "volumes":
            for entry, sign in ((change.before, -1), (change.after, 1)):
                if entry is not None and entry.deleting:
                    _mark(self._by_host, entry.row.host or "", change.key, sign)


class Tellers:
    """Which instances tell their guests something that stands in a Secret."""

    def __init__(self) -> None:
        self._of: dict[Key, set[Key]] = defaultdict(set)

    def of(self, secret: Key) -> tuple[Key, ...]:
        """Those that name that Secret."""
        return tuple(sorted(self._of.get(secret, ())))

    def apply(self, change: Change) -> None:
        """Follow Instances; only one that names a Secret is decoded."""
        if change.key.plural == "instances":
            for entry, sign in ((change.before, -1), (change.after, 1)):
                for name in _secrets(entry):
                    _mark(self._of, Key("secrets", change.key.namespace, name), change.key, sign)


def _secrets(entry: Entry | None) -> Iterator[str]:
    if entry is None or b'Secret"' not in entry.raw:
        return
    guest = load(entry.raw)["spec"].get("guest") or {}
    yield from filter(None, ((guest.get("admin") or {}).get("passwordSecret"), guest.get("userDataSecret")))


class Member(NamedTuple):
    """What a set needs to know of one of its instances."""

    ready: bool = False
    reason: str = ""
    """Of its condition Ready."""
    placed: bool = False
    protected: bool = False
    leaving: bool = False
    template: str = ""
    """The mark of the template that it was made from."""


class Members:
    """The members of every InstanceSet, and which names of other instances matter to a set."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Key, Member]] = defaultdict(dict)
        self._rules: dict[tuple[str, Naming], set[Key]] = defaultdict(set)

    def of(self, uid: str) -> dict[Key, Member]:
        """The members of the set with that uid: its label alone makes none, and neither does a reference to it."""
        return dict(self._of.get(uid, {}))

    def interested(self, key: Key) -> Iterator[Key]:
        """The sets whose rule gives an instance its name."""
        for rule in readings(key.name):
            yield from self._rules.get((key.namespace, rule), ())

    def apply(self, change: Change) -> None:
        """Follow Instances that name a set as their owner, and sets by their rules."""
        key, before, after = change
        if key.plural == "instancesets":
            for entry, sign in ((before, -1), (after, 1)):
                if entry is not None:
                    _mark(self._rules, (key.namespace, naming(entry.row.name_rule, key.name)), key, sign)
        elif key.plural == "instances":
            for uid in _sets(before):
                self._of[uid].pop(key, None)
                if not self._of[uid]:
                    del self._of[uid]
            for uid in _sets(after):
                assert after is not None
                self._of[uid][key] = _member(after)


class Guarded:
    """Which instances have a card in which SecurityGroup."""

    def __init__(self) -> None:
        self._by_group: dict[Key, set[Key]] = defaultdict(set)

    def of(self, group: Key) -> set[Key]:
        """The instances that an edit of the group reaches."""
        return set(self._by_group.get(group, ()))

    def apply(self, change: Change) -> None:
        """Follow Instances; most name no group, which their bytes say without being decoded."""
        key, before, after = change
        if key.plural == "instances":
            for group in _groups(key, before):
                _mark(self._by_group, group, key, -1)
            for group in _groups(key, after):
                _mark(self._by_group, group, key, 1)


def _groups(key: Key, entry: Entry | None) -> set[Key]:
    if entry is None or b'"securityGroups":["' not in entry.raw:
        return set()
    nics = load(entry.raw)["spec"].get("nics") or ()
    named = {name for nic in nics for name in nic.get("securityGroups") or ()}
    return {Key("securitygroups", *resolve(name, key.namespace)) for name in named}


def _sets(entry: Entry | None) -> tuple[str, ...]:
    return entry.owners if entry is not None and SET_LABEL in entry.labels else ()


def _member(entry: Entry) -> Member:
    doc = load(entry.raw)
    conditions = doc.get("status", {}).get("conditions", ())
    ready: JSON = next((one for one in conditions if one["type"] == "Ready"), {})
    return Member(
        ready=ready.get("status") == "True",
        reason=sys.intern(ready.get("reason", "")),
        placed=bool(entry.row.status_host),
        protected=bool(doc["spec"].get("deletionProtection")),
        leaving=entry.deleting,
        template=entry.labels.get(TEMPLATE_LABEL, ""),
    )


def _mark(index: dict[N, set[Key]], under: N, key: Key, sign: int) -> None:
    if sign > 0:
        index[under].add(key)
        return
    index[under].discard(key)
    if not index[under]:
        del index[under]
