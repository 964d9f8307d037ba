"""What admission must know of all objects at once, kept by following admitted commits: who refers to and holds what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cache, lru_cache
from typing import Any, NamedTuple, Protocol

from nanovirt.resources.codec import JSON, load
from nanovirt.resources.fields import resolve
from nanovirt.resources.instance_set import SET_LABEL
from nanovirt.resources.kind import KINDS, Facts, Key, Refers, paths_of
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.store import Commit, Entry, Store

Sight = Callable[[Key, Entry], bool] | None
"""What somebody may see; None: everything."""


class View(Protocol):
    """What admission reads of a store, or of a draft of what it would be; see Store."""

    def peek(self, key: Key) -> Entry | None: ...

    def peek_all(self, plural: str) -> Sequence[tuple[Key, Entry]]: ...

    def list(self, plural: str, namespace: str = "") -> Sequence[tuple[Key, Entry]]: ...


class Mention(NamedTuple):
    """A reference as it stands in an object: where, as written, and what it means."""

    field: str
    written: str
    target: Key


def mentions(facts: Facts, key: Key, doc: JSON) -> list[Mention]:
    """Every reference of one object; a path that ends in `[]` names a list of texts that are references themselves."""
    found, namespace = _found(_tree(facts.plural), doc.get("spec") or {}), key.namespace
    return [_mention(field, plural, namespace, written) for field, plural, written in found]


class Branch(NamedTuple):
    """A step of reference fields: to texts that name a `plural`, or ("") to objects; `many`: to a list of such."""

    plural: str
    many: bool
    below: dict[str, Branch]


def _found(tree: Mapping[str, Branch], node: Any) -> list[tuple[str, str, str]]:
    """The references below a node of a document: field, plural, and the text."""
    found: list[tuple[str, str, str]] = []
    for step in tree:
        if not (value := node.get(step)):
            continue
        plural, many, below = tree[step]
        if not many:
            if plural:
                found.append((step, plural, value))
            elif deeper := _found(below, value):
                found += [(f"{step}.{field}", named, text) for field, named, text in deeper]
        elif plural:
            found += [(f"{step}[{at}]", plural, text) for at, text in enumerate(value)]
        else:
            for at, item in enumerate(value):
                if deeper := _found(below, item):
                    found += [(f"{step}[{at}].{field}", named, text) for field, named, text in deeper]
    return found


@lru_cache(maxsize=4096)
def _mention(field: str, plural: str, namespace: str, written: str) -> Mention:
    return Mention(f"spec.{field}", written, _target(plural, namespace, written))


@lru_cache(maxsize=4096)
def _target(plural: str, namespace: str, written: str) -> Key:
    """What a reference in that namespace means; most objects refer to the same few."""
    if not KINDS[plural].facts.namespaced:
        return Key(plural, "", written)
    return Key(plural, *resolve(written, namespace))


@cache
def _tree(plural: str) -> dict[str, Branch]:
    """The reference fields of a kind by their steps below spec."""
    tree: dict[str, Branch] = {}
    for refers in KINDS[plural].facts.refers:
        below = tree
        *steps, last = refers.path.removeprefix("spec.").split(".")
        for step in steps:
            name = step.removesuffix("[]")
            below = below.setdefault(name, Branch("", step != name, {})).below
        name = last.removesuffix("[]")
        below[name] = Branch(refers.plural, last != name, {})
    return tree


@cache
def _in_row(plural: str) -> tuple[tuple[Refers, int], ...]:
    """Each reference with its index in the row, if the row has all of them: then nothing needs to be decoded."""
    facts = KINDS[plural].facts
    paths = [".".join(path) for path in paths_of(facts.row)]
    if not all(refers.path in paths for refers in facts.refers):
        return ()
    return tuple((refers, paths.index(refers.path)) for refers in facts.refers)


def card_claims(doc: JSON) -> Iterator[tuple[str, str]]:
    """The MACs, and the addresses as `POOL.IP`, that an Instance asks for by name: (`mac` or `ip`, claim)."""
    for nic in doc.get("spec", {}).get("nics") or ():
        if nic.get("mac"):
            yield "mac", nic["mac"]
        if nic.get("ip") and nic.get("addressPool"):
            yield "ip", f"{nic['addressPool']}.{nic['ip']}"


class Said(NamedTuple):
    """What an object says that the index counts: its references, and its claims."""

    targets: tuple[Key, ...]
    claims: tuple[tuple[str, str], ...]


NOTHING_FORESEEN = b"", Said((), ())


def said(plural: str, doc: JSON, found: Sequence[Mention]) -> Said:
    """The same of an object whose mentions have been found."""
    claims = tuple(card_claims(doc)) if plural == "instances" and doc["spec"].get("nics") else ()
    return Said(tuple([one.target for one in found]), claims)


class Index:
    """Counts and claims over the pending state; small, since names of users are looked up only when they are needed."""

    def __init__(self, store: Store) -> None:
        self.uses: Counter[Key] = Counter()
        """How many references point to an object."""
        self.contents: Counter[str] = Counter()
        """How many objects, Events aside, a namespace holds."""
        self.addresses: Counter[str] = Counter()
        """How many Addresses an AddressPool has given."""
        self.pools: dict[str, Any] = {}
        """AddressPool name -> row."""
        self.macs: dict[str, tuple[str, ...]] = {}
        """MAC -> the instances (NAMESPACE/NAME) that have it or ask for it."""
        self.ips: dict[str, tuple[str, ...]] = {}
        """POOL.IP -> the instances that ask for it by name; whoever has it stands in the Address of that name."""
        self.owned: Counter[str] = Counter()
        """How many objects a user owns, by the label `nano/owner`."""
        self.guarded: dict[str, tuple[str, ...]] = {}
        """Uid of an InstanceSet -> its members (NAMESPACE/NAME) that must not be deleted."""
        self.foreseen: dict[str, tuple[bytes, Said]] = {}
        """What the objects of a set say, from whoever has judged it: it need not be read when it is committed. By uid,
        with the very bytes that say so."""
        for plural in KINDS:
            self._note(store.peek_all(plural), 1)
        store.subscribe(self.follow, admitted=True)

    def after(self, commit: Commit, leaving: Iterable[tuple[Key, Entry]]) -> Index:
        """A copy as it would be after `commit`; what is `leaving` is still there and refers to nothing any more."""
        twin = copy(self)
        for name, held in vars(self).items():
            setattr(twin, name, held.copy())
        twin.follow(commit)
        for key, entry in leaving:
            found = mentions(KINDS[key.plural].facts, key, load(entry.raw))
            _count(twin.uses, [one.target for one in found], -1)
        return twin

    def follow(self, commit: Commit) -> None:
        """Take in what a commit changes."""
        gone: list[tuple[Key, Entry]] = []
        come: list[tuple[Key, Entry]] = []
        for key, before, after in commit.changes:
            if before is not None and after is not None and _alike(before, after):
                continue
            if before is not None:
                gone.append((key, before))
            if after is not None:
                come.append((key, after))
        self._note(gone, -1)
        self._note(come, 1)

    def _note(self, entries: Iterable[tuple[Key, Entry]], sign: int) -> None:
        """Take in that these are there, or (-1) that they are gone."""
        spaces, owners, targets = list[str](), list[str](), list[Key]()
        for key, entry in entries:
            plural, namespace, name = key
            labels = entry.labels
            if namespace and plural != "events":
                spaces.append(namespace)
            if OWNER_LABEL in labels:
                owners.append(labels[OWNER_LABEL])
            if plural == "instances":
                if SET_LABEL in labels and protected(entry):
                    for uid in entry.owners:
                        _claim(self.guarded, uid, f"{namespace}/{name}", sign)
            elif plural == "addresses":
                self._note_address(entry.row, sign)
            elif plural == "addresspools":
                self._note_pool(name, entry.row, sign)
            if plural in _referring():
                targets += self._references(key, entry, sign)
        _count(self.contents, spaces, sign)
        _count(self.owned, owners, sign)
        _count(self.uses, targets, sign)

    def _note_address(self, row: Any, sign: int) -> None:
        _count(self.addresses, (row.address_pool,), sign)
        _claim(self.macs, row.mac, row.instance, sign)

    def _note_pool(self, name: str, row: Any, sign: int) -> None:
        if sign > 0:
            self.pools[name] = row
        else:
            self.pools.pop(name, None)

    def _references(self, key: Key, entry: Entry, sign: int) -> Sequence[Key]:
        """What an object refers to; takes in its claims."""
        plural, namespace, name = key
        if in_row := _in_row(plural):
            return [_target(refers.plural, namespace, entry.row[at]) for refers, at in in_row if entry.row[at]]
        raw, known = self.foreseen.get(entry.uid, NOTHING_FORESEEN)
        targets, claims = known if raw is entry.raw else _read(plural, namespace, entry.raw)
        for kind, claim in claims:
            _claim(self.macs if kind == "mac" else self.ips, claim, f"{namespace}/{name}", sign)
        return targets


def protected(entry: Entry) -> bool:
    """Whether deletionProtection is on."""
    there = b'"deletionProtection":true' in entry.raw
    return there and bool(load(entry.raw).get("spec", {}).get("deletionProtection"))


@lru_cache(maxsize=128)
def _read(plural: str, namespace: str, raw: bytes) -> Said:
    """What an object says; that of a set may be asked for as a draft and again as a commit."""
    doc = load(raw)
    return said(plural, doc, mentions(KINDS[plural].facts, Key(plural, namespace, ""), doc))


def _alike(before: Entry, after: Entry) -> bool:
    """Whether only status or annotations changed: the same generation is the same spec."""
    return (
        before.generation == after.generation
        and before.labels is after.labels
        and before.owners == after.owners
        and before.uid == after.uid
    )


@cache
def _referring() -> frozenset[str]:
    """The kinds that refer to others."""
    return frozenset(plural for plural, cls in KINDS.items() if cls.facts.refers)


def _count(counter: Counter[Any], every: Iterable[Any], sign: int) -> None:
    for what in every:
        total = counter.get(what, 0) + sign
        if total:
            counter[what] = total
        else:
            counter.pop(what, None)


def _claim(claims: dict[str, tuple[str, ...]], what: str, owner: str, sign: int) -> None:
    owners = list(claims.pop(what, ()))
    if sign > 0:
        owners.append(owner)
    elif owner in owners:
        owners.remove(owner)
    if owners:
        claims[what] = tuple(owners)


def users(store: View, target: Key, sees: Sight) -> Iterator[tuple[Key, int]]:
    """The durable objects that refer to `target` and may be seen, with how often; scans, so only for messages."""
    needle = target.name.encode()
    for plural, cls in KINDS.items():
        if not any(refers.plural == target.plural for refers in cls.facts.refers):
            continue
        for key, entry in store.list(plural):
            if needle in entry.raw and (sees is None or sees(key, entry)):
                count = sum(one.target == target for one in mentions(cls.facts, key, load(entry.raw)))
                if count:
                    yield key, count
