"""What admission must know of all objects at once, kept by following admitted commits: who refers to and holds what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import cache, lru_cache
from typing import Any, NamedTuple, Protocol

from nanovirt.resources.codec import JSON, load
from nanovirt.resources.fields import resolve
from nanovirt.resources.instance_set import SET_LABEL
from nanovirt.resources.kind import KINDS, Facts, Key, Refers, paths_of
from nanovirt.resources.metadata import OWNER_LABEL
from nanovirt.resources.store import Change, Commit, Entry, Store

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
    spec, found = doc.get("spec") or {}, list[Mention]()
    for first, references in _plan(facts.plural).items():
        if value := spec.get(first):
            for plural, steps, names in references:
                for field, written in _written(value, steps, names):
                    found.append(Mention(field, written, _target(plural, key.namespace, written)))
    return found


def _written(node: Any, steps: Sequence[tuple[str, ...]], names: Sequence[str]) -> Sequence[tuple[str, str]]:
    """The texts at the end of the steps, each of which but the last leads to a list, with the fields they stand in."""
    for step in steps[0]:
        if not (node := node.get(step)):
            return ()
    if len(steps) == 1:
        return ((names[0], node),) if node else ()
    deeper, below, found = steps[1:], names[1:], list[tuple[str, str]]()
    for at, item in enumerate(node):
        for field, written in _written(item, deeper, below):
            found.append((f"{names[0]}[{at}]{field}", written))
    return found


@lru_cache(maxsize=4096)
def _target(plural: str, namespace: str, written: str) -> Key:
    """What a reference in that namespace means; most objects refer to the same few."""
    if not KINDS[plural].facts.namespaced:
        return Key(plural, "", written)
    return Key(plural, *resolve(written, namespace))


@cache
def _plan(plural: str) -> dict[str, list[tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]]]]:
    """The references by their first step below spec: what each refers to, and the path from there, cut where it passes
    through a list, with how a field is called as far as each cut.
    """
    plan: dict[str, list[tuple[str, tuple[tuple[str, ...], ...], tuple[str, ...]]]] = {}
    for refers in KINDS[plural].facts.refers:
        parts = refers.path.split("[]")
        steps = [[step for step in part.split(".") if step] for part in parts]
        _, first, *steps[0] = steps[0]
        plan.setdefault(first, []).append((refers.plural, tuple(map(tuple, steps)), tuple(parts)))
    return plan


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
    return Said(tuple([one.target for one in found]), tuple(card_claims(doc)) if plural == "instances" else ())


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
            for key, entry in store.peek_all(plural):
                self._note(key, entry, 1)
                self._note_owner(entry, 1)
                if plural == "instances":
                    self._note_guarded(key, entry, 1)
        store.subscribe(self.follow, admitted=True)

    def after(self, commit: Commit, leaving: Iterable[tuple[Key, Entry]]) -> Index:
        """A copy as it would be after `commit`; what is `leaving` is still there and refers to nothing any more."""
        twin = copy(self)
        for name, held in vars(self).items():
            setattr(twin, name, held.copy())
        twin.follow(commit)
        for key, entry in leaving:
            for mention in mentions(KINDS[key.plural].facts, key, load(entry.raw)):
                _count(twin.uses, mention.target, -1)
        return twin

    def follow(self, commit: Commit) -> None:
        """Take in what a commit changes."""
        for change in commit.changes:
            key, before, after = change
            if before is None or after is None or before.labels is not after.labels:
                self._note_owner(before, -1)
                self._note_owner(after, 1)
            if key.plural == "instances":
                self._note_guarded(key, before, -1)
                self._note_guarded(key, after, 1)
            if not _irrelevant(change):
                self._turn(change)

    def _note_owner(self, entry: Entry | None, sign: int) -> None:
        owner = entry.labels.get(OWNER_LABEL) if entry is not None else None
        if owner:
            _count(self.owned, owner, sign)

    def _note_guarded(self, key: Key, entry: Entry | None, sign: int) -> None:
        if entry is not None and SET_LABEL in entry.labels and protected(entry):
            for uid in entry.owners:
                _claim(self.guarded, uid, f"{key.namespace}/{key.name}", sign)

    def _turn(self, change: Change) -> None:
        if change.before is not None:
            self._note(change.key, change.before, -1)
        if change.after is not None:
            self._note(change.key, change.after, 1)

    def _note(self, key: Key, entry: Entry, sign: int) -> None:
        facts = KINDS[key.plural].facts
        if key.namespace and key.plural != "events":
            _count(self.contents, key.namespace, sign)
        if key.plural == "addresses":
            _count(self.addresses, entry.row.address_pool, sign)
            _claim(self.macs, entry.row.mac, entry.row.instance, sign)
        elif key.plural == "addresspools":
            self._note_pool(key.name, entry.row, sign)
        in_row = _in_row(key.plural)
        if in_row:
            for refers, at in in_row:
                if entry.row[at]:
                    _count(self.uses, _target(refers.plural, key.namespace, entry.row[at]), sign)
        elif facts.refers:
            self._note_references(key, entry, sign)

    def _note_pool(self, name: str, row: Any, sign: int) -> None:
        if sign > 0:
            self.pools[name] = row
        else:
            self.pools.pop(name, None)

    def _note_references(self, key: Key, entry: Entry, sign: int) -> None:
        raw, known = self.foreseen.get(entry.uid, NOTHING_FORESEEN)
        targets, claims = known if raw is entry.raw else _read(key.plural, key.namespace, entry.raw)
        for target in targets:
            _count(self.uses, target, sign)
        for kind, claim in claims:
            _claim(self.macs if kind == "mac" else self.ips, claim, f"{key.namespace}/{key.name}", sign)


def protected(entry: Entry) -> bool:
    """Whether deletionProtection is on."""
    there = b'"deletionProtection":true' in entry.raw
    return there and bool(load(entry.raw).get("spec", {}).get("deletionProtection"))


@lru_cache(maxsize=128)
def _read(plural: str, namespace: str, raw: bytes) -> Said:
    """What an object says; that of a set may be asked for as a draft and again as a commit."""
    doc = load(raw)
    return said(plural, doc, mentions(KINDS[plural].facts, Key(plural, namespace, ""), doc))


def _irrelevant(change: Change) -> bool:
    """Whether only status or metadata changed: the same generation is the same spec."""
    if change.before is None or change.after is None:
        return False
    return change.before.generation == change.after.generation and change.before.uid == change.after.uid


def _count(counter: Counter[Any], what: Any, sign: int) -> None:
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
