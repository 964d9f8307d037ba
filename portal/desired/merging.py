"""The three-way merge of one object: what a file said last, what it says now, and what the API side has made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nanovirt.portal.desired.wishes import Values, Wish, plain
from nanovirt.resources import managed
from nanovirt.resources.codec import JSON
from nanovirt.resources.field_sets import Fields, Path, path_text, values_of, without
from nanovirt.resources.kind import Document
from nanovirt.resources.shapes import Shape, shape_of

MANAGER = "desired"
"""Who wrote, in `managedFields` and Events."""
SPEC = 2
"""Steps of a path up to which nothing is taken away as a whole."""


@dataclass(frozen=True)
class Merged:
    """What comes of it: the merge `patch` for the object (None: it is as it should be) and the base of the next merge.

    `kept`: what only the API side has changed, and `contested`: what both sides have; the API side's stands in either.
    """

    patch: JSON | None
    fields: Values
    kept: tuple[str, ...] = ()
    contested: tuple[str, ...] = ()
    agreed: bool = True
    """Whether the object says nothing beyond the file."""


@dataclass(frozen=True)
class Live:
    """An object as it is stored."""

    cls: type[Document]
    doc: JSON

    @cached_property
    def shape(self) -> Shape:
        """How it merges."""
        return shape_of(self.cls)

    @cached_property
    def values(self) -> Values:
        """Every path at which it says something, the objects around included."""
        found = {path: plain(value) for path, value in values_of(self.shape, self.doc).items()}
        for path in tuple(found):
            for length in range(len(path) - 1, 0, -1):
                found.setdefault(path[:length], {})
        return found

    @cached_property
    def claimed(self) -> Fields:
        """Where it says something that is no default: somebody wrote that."""
        made = self.cls.model_validate(self.doc)
        said = made.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        return frozenset(values_of(self.shape, said))


@dataclass
class _Sides:
    """Who has changed what."""

    taken: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    kept: set[Path] = field(default_factory=set)
    contested: set[Path] = field(default_factory=set)

    @property
    def theirs(self) -> set[Path]:
        """Where the API side stands."""
        return self.kept | self.contested


def merge(base: Values, wish: Wish, live: Live) -> Merged:
    """Bring what changed between `base` and `wish` into `live`, except where `live` has left `base` as well.

    A field that the base does not have and that is at its default is free. Raises Invalid for lists in which a key
    stands twice.
    """
    sides = _sides(base, wish.values, live)
    said = without(live.shape, wish.said, sides.theirs)
    fields = {path: value for path, value in wish.values.items() if path not in sides.contested}
    fields |= {path: base[path] for path in sides.contested if path in base and path in wish.values}
    patch: JSON | None = None
    if sides.taken or sides.removed:
        wanted = managed.wanted(live.shape, live.doc, said, [], MANAGER)
        gone = {_top(path, sides.removed, wish.values, live) for path in sides.removed}
        patch = difference(live.doc, without(live.shape, wanted, gone)) or None
    more = any(path not in wish.values and not _covered(path, sides.removed) for path in live.claimed)
    agreed = not (more or sides.theirs)
    return Merged(patch, fields, _texts(sides.kept), _texts(sides.contested), agreed)


def _sides(base: Values, said: Values, live: Live) -> _Sides:
    sides, there = _Sides(), live.values
    for path in sorted(said, key=len):
        value = said[path]
        if _within(path, sides.theirs):
            (sides.kept if base.get(path, sides) == value else sides.contested).add(path)
        elif path in there and there[path] == value:
            continue
        elif path not in base:
            free = path not in there or path not in live.claimed
            (sides.taken if free else sides.contested).add(path)
        elif path in there and there[path] == base[path]:
            sides.taken.add(path)
        else:
            (sides.kept if base[path] == value else sides.contested).add(path)
    for path in sorted(base.keys() - said.keys(), key=len):
        if path in there and not _within(path, sides.theirs):
            ours = there[path] == base[path] and not (_named(path) and _touched(path, base, live))
            (sides.removed if ours else sides.contested).add(path)
    return sides


def _named(path: Path) -> bool:
    return path[-1][0] == "k"


def _touched(item: Path, base: Values, live: Live) -> bool:
    """Whether the API side has changed something within an item, or put something into it."""
    below = [path for path in live.values if path[: len(item)] == item and path != item]
    return any(live.values[path] != base[path] if path in base else path in live.claimed for path in below) or any(
        path not in live.values for path in base if path[: len(item)] == item
    )


def _within(path: Path, around: set[Path]) -> bool:
    return any(path[:length] in around for length in range(1, len(path)))


def _top(path: Path, removed: set[Path], said: Values, live: Live) -> Path:
    """The uppermost object around what is removed in which nothing else is said: only defaults would be left in it."""
    while len(path) > SPEC and path[-1][0] == "f":
        around = path[:-1]
        below = [one for one in live.values if one[: len(around)] == around and one != around]
        if any(one in live.claimed and not _covered(one, removed) for one in below):
            break
        if any(one[: len(around)] == around for one in said):
            break
        path = around
    return path


def _covered(path: Path, removed: set[Path]) -> bool:
    return path in removed or _within(path, removed)


def _texts(paths: set[Path]) -> tuple[str, ...]:
    """The uppermost of them, as people read them."""
    return tuple(path_text(path).removeprefix(".") for path in sorted(paths) if not _within(path, paths))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> JSON:
    """The merge patch (RFC 7386) that leads from one document to the other."""
    return dict(_changes(old, new))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in old.keys() - new.keys():
        yield name, None
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            below = difference(before, value)
            if below:
                yield name, below
        elif value != before or name not in old:
            yield name, value
