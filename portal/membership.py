"""What users may do: Groups and Roles compiled into one small table for each user, and kept as these change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nanovirt.resources.codec import trusted
from nanovirt.resources.group import Group
from nanovirt.resources.kind import KINDS, Key
from nanovirt.resources.registry import SHARED
from nanovirt.resources.role import READING, Role
from nanovirt.resources.store import Commit, Entry, Store

Right = tuple[str, str, str]
"""Verb, plural, sub-resource ("" for the object itself)."""
Reach = Mapping[str, bool]
"""Namespace ("" for what lies in none) -> whether the right covers there what others own."""
Table = Mapping[Right, Reach]
BY_NAMESPACE = ("namespaces", "addresses")
"""Cluster-scoped kinds whose objects belong to a namespace all the same, and are seen only by those who see that."""


@dataclass(frozen=True, eq=False)
class Rights:
    """What one user may do; another object as soon as anything in it changes."""

    table: Table
    groups: tuple[str, ...]
    since: int
    """The revision from which these rights hold: a watch that resumes from before it has to list again."""


def compiled(groups: Iterable[Group], roles: Mapping[str, Role]) -> Table:
    """The union of what each group gives: its roles' verbs, on what it lets its members see, where it is at home."""
    table: dict[Right, dict[str, bool]] = {}
    for group in groups:
        for name in group.spec.roles:
            for right in roles[name].grants() if name in roles else ():
                reach = table.setdefault(right, {})
                for space, others in _reach(right, group):
                    reach[space] = others or reach.get(space, False)
    return table


def _reach(right: Right, group: Group) -> Iterator[tuple[str, bool]]:
    """Where a group gives a right; what stands in `shared` is read by everybody whose role reads such things."""
    verb, plural, _ = right
    cls = KINDS.get(plural)
    if cls is None or cls.facts.internal:
        return
    if not cls.facts.namespaced and plural not in BY_NAMESPACE:
        yield "", True
        return
    others = plural == "namespaces" or group.spec.visibility.get(plural) == "Group"
    for space in group.spec.namespaces:
        yield space, others
    if verb in READING:
        yield SHARED, True


class Membership:
    """The rights of every user, as the durable Groups and Roles give them at this moment."""

    def __init__(self, store: Store) -> None:
        self._nobody = Rights({}, (), store.committed)
        self._groups = {key.name: trusted(Group, entry.raw) for key, entry in store.list("groups")}
        self._roles = {key.name: trusted(Role, entry.raw) for key, entry in store.list("roles")}
        self._rights: dict[str, Rights] = {}
        self._compile({name for group in self._groups.values() for name in group.spec.members}, store.committed)
        store.subscribe(self._follow)

    def rights(self, user: str) -> Rights:
        """What that user may do; nothing for one who is in no group."""
        return self._rights.get(user, self._nobody)

    def _follow(self, commit: Commit) -> None:
        concerned: set[str] = set()
        for key, _, after in commit.changes:
            if key.plural == "groups":
                concerned |= self._group(key, after)
            elif key.plural == "roles":
                concerned |= self._role(key, after)
        if concerned:
            self._compile(concerned, commit.rev)

    def _group(self, key: Key, after: Entry | None) -> set[str]:
        """Take a group in; gives whose rights may have changed."""
        before = self._groups.pop(key.name, None)
        if after is not None:
            self._groups[key.name] = trusted(Group, after.raw)
        there = [group for group in (before, self._groups.get(key.name)) if group is not None]
        return {name for group in there for name in group.spec.members}

    def _role(self, key: Key, after: Entry | None) -> set[str]:
        self._roles.pop(key.name, None)
        if after is not None:
            self._roles[key.name] = trusted(Role, after.raw)
        with_it = [group for group in self._groups.values() if key.name in group.spec.roles]
        return {name for group in with_it for name in group.spec.members}

    def _compile(self, users: set[str], rev: int) -> None:
        """New rights for those of `users` whose rights differ; users of the same groups share a table."""
        mine: dict[str, list[str]] = {name: [] for name in users}
        for name in sorted(self._groups):
            for member in users.intersection(self._groups[name].spec.members):
                mine[member].append(name)
        tables: dict[tuple[str, ...], Table] = {}
        for user, names in mine.items():
            groups = tuple(names)
            if groups not in tables:
                tables[groups] = compiled((self._groups[name] for name in groups), self._roles)
            before = self.rights(user)
            if before.groups != groups or before.table != tables[groups]:
                self._rights[user] = Rights(tables[groups], groups, rev)
