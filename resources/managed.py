"""Server-side apply, purely: merging what a manager applies, and who owns which field before and after a write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from nanovirt.resources import field_sets
from nanovirt.resources.codec import JSON, parse
from nanovirt.resources.errors import Cause, Invalid, Rejected, Stale
from nanovirt.resources.field_sets import Fields, Path, differing, fields_of, path_text, values_of
from nanovirt.resources.reasons import Reason
from nanovirt.resources.shapes import Shape

APPLY, UPDATE = "Apply", "Update"
CLIENT_SIDE = "kubectl-client-side-apply"
"""Who kubectl says wrote what it applied by itself; `kubectl apply --server-side` may take it over."""
KUBECTL = "kubectl"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
ANNOTATION = ("f:metadata", "f:annotations", f"f:{LAST_APPLIED}")
BEFORE = "before-first-apply"
"""Who wrote what was there when an object was applied for the first time."""
NOBODY: Fields = frozenset()
NAME_MAX = 128
"""Characters of a manager's name."""
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
SHOWN = 20


class Manager(NamedTuple):
    """What one writer owns. `operation` is Apply or Update; `time` is when it last changed something."""

    name: str
    operation: str
    fields: Fields
    time: str


class Write(NamedTuple):
    """A write of one object: how it merges, what it was, what it becomes, and when (RFC 3339)."""

    shape: Shape
    old: JSON
    new: JSON
    now: str


class Contested(Stale):
    """Other managers own fields that an apply would change (HTTP 409); `force` takes them."""

    reason = "Conflict"

    def __init__(self, found: Sequence[tuple[Manager, Path]], version: str) -> None:
        count = f"{len(found)} conflict{'s' if len(found) > 1 else ''}"
        said = "; ".join(f"{_conflict(who, version)}: {path_text(path)}" for who, path in found[:SHOWN])
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        super().__init__(f"Apply failed with {count}: {said}{more}")
        word = Reason.FieldManagerConflict.name
        self.causes = tuple(
            Cause(path_text(path), word, _conflict(who, version), _params(who, version)) for who, path in found
        )


def _params(who: Manager, version: str) -> JSON:
    return {"manager": who.name, "since": f" using {version} at {who.time}" if who.operation == UPDATE else ""}


def _conflict(who: Manager, version: str) -> str:
    return Reason.FieldManagerConflict.say(**_params(who, version))


# --- managedFields --------------------------------------------------------------------------------------


def read(entries: Any) -> list[Manager]:
    """The managers behind `metadata.managedFields`; those of a sub-resource are left out. Raises Invalid."""
    if not isinstance(entries, list):
        raise Invalid("metadata.managedFields", "it is a list of entries")
    return [_manager(index, one) for index, one in enumerate(entries) if not _of_part(one)]


def _of_part(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("subresource"))


def _manager(index: int, entry: Any) -> Manager:
    where = f"metadata.managedFields[{index}]"
    name, time = (entry.get("manager"), entry.get("time", "")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or len(name) > NAME_MAX or not name.isprintable():
        raise Invalid(where, f"it needs a manager of at most {NAME_MAX} printable characters")
    if entry.get("operation") not in (APPLY, UPDATE) or entry.get("fieldsType", "FieldsV1") != "FieldsV1":
        raise Invalid(where, "the operation is Apply or Update, the fieldsType is FieldsV1")
    if not isinstance(time, str) or (time and not TIME.fullmatch(time)):
        raise Invalid(f"{where}.time", "a time is written like 2026-11-22T06:00:00Z")
    try:
        fields = field_sets.decode(entry.get("fieldsV1", {}))
    except ValueError as error:
        raise Invalid(f"{where}.fieldsV1", str(error)) from error
    return Manager(name, entry["operation"], fields, time)


def write(managers: Iterable[Manager], version: str) -> list[JSON]:
    """`metadata.managedFields`: who applied first, then who updated, each by time. Who owns nothing is not there."""
    return [
        {
            "manager": one.name,
            "operation": one.operation,
            "apiVersion": version,
            **({"time": one.time} if one.time else {}),
            "fieldsType": "FieldsV1",
            "fieldsV1": field_sets.encode(one.fields),
        }
        for one in sorted(managers, key=lambda one: (one.operation, one.time, one.name))
        if one.fields
    ]


# --- apply ----------------------------------------------------------------------------------------------


def unmanaged(shape: Shape, said: JSON, now: str) -> list[Manager]:
    """The managers of an object that has none: whoever wrote `said`, which leaves defaults out, before the first apply.

    What kubectl notes in its annotation to have applied by itself is told apart, so that it can take that over.
    """
    whole = fields_of(shape, said)
    text = (said["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    noted = (fields_of(shape, _parsed(text)) | {ANNOTATION}) & whole if text else NOBODY
    return [Manager(BEFORE, UPDATE, whole - noted, now), Manager(CLIENT_SIDE, UPDATE, noted, now)]


def _parsed(text: str) -> JSON:
    try:
        return parse(text.encode())
    except Rejected:
        return {}


def wanted(shape: Shape, live: JSON, applied: JSON, managers: Iterable[Manager], name: str) -> JSON:
    """`live` as `name` wants it: `applied` merged in, without what it applied before and nobody owns now.

    Raises Invalid for lists in which a key stands twice.
    """
    mine = fields_of(shape, applied)
    merged = _merged(shape, live, applied)
    causes = [*_twice(shape, applied, ""), *_twice(shape, merged, "")]
    if causes:
        raise Invalid.of(causes[:SHOWN])
    held = set(_held(mine | _of_others(managers, name)))
    left = next((one.fields for one in managers if _is(one, name)), NOBODY) - held
    return field_sets.without(shape, merged, {_top(shape, path, held) for path in left})


def _held(fields: Fields) -> Iterator[Path]:
    """All that is around `fields`, themselves included; and what names an item, without which it would be nobody."""
    for path in fields:
        for length, step in enumerate(path, 1):
            yield path[:length]
            if step.startswith("k:"):
                yield from ((*path[:length], f"f:{key}") for key in orjson.loads(step[2:]))


def _of_others(managers: Iterable[Manager], name: str) -> Fields:
    return NOBODY.union(*(one.fields for one in managers if not _is(one, name)))


def _is(one: Manager, name: str) -> bool:
    return one.operation == APPLY and one.name == name


def _top(shape: Shape, path: Path, held: set[Path]) -> Path:
    """The uppermost object or list around `path` of which nobody owns anything: only defaults would be left in it."""
    around = [shape]
    for step in path[:-1]:
        around.append(around[-1].below(step[2:]) if step.startswith("f:") else around[-1].items or around[-1])
    while len(path) > 2 and path[:-1] not in held and (around[len(path) - 1].names or around[len(path) - 1].items):
        path = path[:-1]
    return path


def _merged(shape: Shape, live: Any, applied: Any) -> Any:
    if isinstance(applied, dict) and shape.open:
        base = live if isinstance(live, dict) else {}
        said = {name: value for name, value in applied.items() if value is not None}
        return base | {name: _merged(shape.below(name), base.get(name), value) for name, value in said.items()}
    if isinstance(applied, list) and isinstance(live, list):
        ours, theirs = shape.marks(applied), shape.marks(live)
        if ours is not None and theirs is not None:
            return _merged_items(shape, list(zip(theirs, live, strict=True)), dict(zip(ours, applied, strict=True)))
    return applied


def _merged_items(shape: Shape, live: list[tuple[str, Any]], applied: dict[str, Any]) -> list[Any]:
    """The items of both: what is applied in its order, and what only `live` has where it stands."""
    found, below = dict(reversed(live)), shape.items or shape
    seen, taken, made = set[str](), set[str](), list[Any]()
    waiting = iter(applied.items())

    def take(upto: str | None) -> None:
        for mark, item in waiting:
            made.append(_merged(below, found.get(mark), item))
            taken.add(mark)
            if mark == upto:
                break

    for mark, item in live:
        if mark not in applied or mark in seen:
            made.append(item)
        elif mark not in taken:
            take(upto=mark)
        seen.add(mark)
    take(upto=None)
    return made


def _twice(shape: Shape, value: Any, where: str) -> Iterator[Cause]:
    """Items of one list with the same key: nobody could tell which of them is meant."""
    if isinstance(value, dict) and shape.open:
        for name, below in value.items():
            yield from _twice(shape.below(name), below, f"{where}.{name}" if where else name)
    elif isinstance(value, list) and shape.items is not None:
        seen = set[str]()
        for index, mark in enumerate(shape.marks(value) or ()):
            if mark in seen:
                yield Cause.of(f"{where}[{index}]", Reason.FieldDuplicate, value=mark[2:])
            seen.add(mark)
        for index, item in enumerate(value):
            yield from _twice(shape.items, item, f"{where}[{index}]")


def after_apply(
    done: Write, applied: JSON, managers: Sequence[Manager], name: str, *, force: bool, version: str
) -> list[Manager]:
    """The managers once `name` has applied. Raises Contested, unless `force`, when others own what it changes.

    What kubectl applied by itself before is no conflict for kubectl. Nothing changed: the times stay as they are.
    """
    old, new = values_of(done.shape, done.old), values_of(done.shape, done.new)
    mine = fields_of(done.shape, applied) & new.keys()
    taken = mine & differing(new, old)
    others = [one._replace(fields=one.fields & old.keys()) for one in managers if not _is(one, name)]
    free = (CLIENT_SIDE, UPDATE) if name == KUBECTL else ("", "")
    conflicts = [(one, path) for one in others if one[:2] != free for path in sorted(one.fields & taken)]
    if conflicts and not force:
        raise Contested(conflicts, version)
    before = next((one for one in managers if _is(one, name)), Manager(name, APPLY, NOBODY, ""))
    still = before.fields == mine and not differing(new, old) and not differing(old, new)
    left = [one._replace(fields=(one.fields - taken) & new.keys()) for one in others]
    return [Manager(name, APPLY, mine, before.time if still else done.now), *left]


# --- update ---------------------------------------------------------------------------------------------


def after_update(done: Write, managers: Sequence[Manager], name: str) -> list[Manager]:
    """The managers once `name` has written without applying: what it changed is its own, what is gone is nobody's."""
    old, new = values_of(done.shape, done.old), values_of(done.shape, done.new)
    mine = differing(new, old)
    left = [one._replace(fields=(one.fields - mine) & new.keys()) for one in managers if not _updates(one, name)]
    before = next((one for one in managers if _updates(one, name)), Manager(name, UPDATE, NOBODY, ""))
    return [before._replace(fields=(before.fields | mine) & new.keys(), time=done.now if mine else before.time), *left]


def _updates(one: Manager, name: str) -> bool:
    return one.operation == UPDATE and one.name == name
