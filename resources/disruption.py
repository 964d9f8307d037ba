"""What a change of an object means for what runs: when each field takes effect, and at what price.

Works on documents without models, so that admission and agent share it with the command line, which starts without
pydantic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nanovirt.resources.effects import Effect, FieldChange
from nanovirt.resources.instance_disruption import spec_changes

__all__ = ["Effect", "FieldChange", "below", "changes", "differences", "worst"]
JSON = Mapping[str, Any]


def changes(kind: str, before: JSON, after: JSON) -> list[FieldChange]:
    """What differs in labels, annotations and spec, in the order of the fields; status and bookkeeping do not count.

    `before` is the object as it is, with its status; `after` as it will be stored, defaults filled in.
    """
    if kind == "Instance":
        return [*_plain(kind, _words(before, after)), *spec_changes(before, after)]
    return [*_plain(kind, differences(before, after))]


def _plain(kind: str, found: Iterable[tuple[str, Any, Any]]) -> Iterator[FieldChange]:
    for path, current, desired in found:
        effect = _of_set(path, current, desired) if kind == "InstanceSet" else Effect.Live
        yield FieldChange(path, current, desired, effect)


def _of_set(path: str, current: Any, desired: Any) -> Effect:
    """Members are never rewritten, so another template is for those to come."""
    if path == "spec.nameRule":
        return Effect.Refused
    fewer = path == "spec.replicas" and int(desired) < int(current)
    return Effect.DataLoss if fewer else Effect.Live


def worst(found: Iterable[FieldChange]) -> Effect:
    """The gravest effect of several changes; Live for none."""
    return max((one.effect for one in found), default=Effect.Live)


def differences(before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    """What differs in labels, annotations and spec: path, then, now; what was applied last is no wish of its own."""
    yield from _words(before, after)
    yield from below("spec", before.get("spec") or {}, after.get("spec") or {})


def _words(before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    for half in ("labels", "annotations"):
        then, now = (doc.get("metadata", {}).get(half) or {} for doc in (before, after))
        for name in dict.fromkeys((*then, *now)):
            if then.get(name) != now.get(name) and "last-applied" not in name:
                yield f"metadata.{half}[{name}]", then.get(name), now.get(name)


def below(path: str, before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    """The leaves that differ. A list counts as a whole, unless its items have names: those are told one by one."""
    for name in dict.fromkeys((*before, *after)):
        then, now = before.get(name), after.get(name)
        if then == now:
            continue
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            yield from below(f"{path}.{name}", then, now)
            continue
        items = _by_name(f"{path}.{name}", then, now)
        yield from items or [(f"{path}.{name}", then, now)]


def _by_name(path: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """What differs between items, by `path[NAME]`, and last the order of those that stayed, as names; nothing when
    only their order differs, or they have no names.
    """
    then, now = _named(before), _named(after)
    if then is None or now is None or not (then or now):
        return []
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys((*then, *now)):
        if name in then and name in now:
            found += below(f"{path}[{name}]", then[name], now[name])
        else:
            found.append((f"{path}[{name}]", then.get(name), now.get(name)))
    stayed = [name for name in then if name in now], [name for name in now if name in then]
    return [*found, (path, *stayed)] if found and stayed[0] != stayed[1] else found


def _named(items: Any) -> dict[str, JSON] | None:
    """The items of a list by their names; None for what is no list, or has an item without a name of its own."""
    if not isinstance(items, list | tuple) or not all(isinstance(one, Mapping) and one.get("name") for one in items):
        return {} if items is None else None
    found = {str(one["name"]): one for one in items}
    return found if len(found) == len(items) else None
