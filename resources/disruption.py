"""What a change of an object means for what runs: when each field takes effect, and at what price.

Works on documents without models, so that admission and agent share it with the command line, which starts without
pydantic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

JSON = Mapping[str, Any]
ABSENT = None


class Effect(IntEnum):
    """When a change takes effect, from what nobody notices to what cannot be."""

    Live = 0
    """At once; the guest goes on."""
    NextStart = 1
    """When the machine starts next; it does not run now."""
    Restart = 2
    """With an end and a new start of the running machine: ordered by the change itself, or later by somebody."""
    DataLoss = 3
    """At once, and data are gone. No change of an instance does that yet."""
    Refused = 4
    """Never: the server refuses it."""


class FieldChange(NamedTuple):
    """One field that differs: its path, the values (None: absent), and when the change takes effect."""

    path: str
    current: Any
    desired: Any
    effect: Effect


FIXED = ("spec.computePool",)
"""Fields of an instance that never change."""
PLACED = ("spec.disks", "spec.nics", "spec.systemTemplate", "spec.scheduling")
"""Fields that cannot be changed yet once it has a host."""
AT_START = ("spec.cpus", "spec.memory")
"""Fields that QEMU takes when it starts."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
ON = ("Starting", "Running", "Stopping", "Migrating", "Suspended", "Unknown")
"""Phases in which a guest may run."""


def changes(kind: str, before: JSON, after: JSON) -> list[FieldChange]:
    """What differs in labels, annotations and spec, in the order of the fields; status and bookkeeping do not count.

    `before` is the object as it is, with its status; `after` as it will be stored, defaults filled in.
    """
    found: list[FieldChange] = []
    for path, current, desired in _differences(before, after):
        effect = _of_instance(path, current, desired, before, after) if kind == "Instance" else Effect.Live
        found.append(FieldChange(path, current, desired, effect))
    return found


def worst(found: Iterable[FieldChange]) -> Effect:
    """The gravest effect of several changes; Live for none."""
    return max((one.effect for one in found), default=Effect.Live)


def _differences(before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    for half in ("labels", "annotations"):
        then, now = (doc.get("metadata", {}).get(half) or {} for doc in (before, after))
        for name in dict.fromkeys((*then, *now)):
            if then.get(name) != now.get(name) and "last-applied" not in name:
                yield f"metadata.{half}[{name}]", then.get(name), now.get(name)
    yield from _below("spec", before.get("spec") or {}, after.get("spec") or {})


def _below(path: str, before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    """The leaves that differ; a list counts as a whole, since its items have no path of their own over time."""
    for name in dict.fromkeys((*before, *after)):
        then, now = before.get(name), after.get(name)
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            yield from _below(f"{path}.{name}", then, now)
        elif then != now:
            yield f"{path}.{name}", then, now


def _of_instance(path: str, current: Any, desired: Any, before: JSON, after: JSON) -> Effect:
    status = before.get("status") or {}
    placed, runs = bool(status.get("placement")), status.get("phase") in ON
    if _within(path, FIXED) or (placed and _within(path, PLACED)):
        return Effect.Refused
    if not placed:
        return Effect.Live
    if path == "spec.memory" and _bytes(current) == _bytes(desired):
        return Effect.Live
    if path in AT_START:
        return Effect.Restart if runs else Effect.NextStart
    if path == "spec.powerState":
        return Effect.Restart if runs and desired != "Running" else Effect.Live
    if _within(path, ("spec.restart",)):
        return _of_order(current, desired, runs=runs, wanted=after.get("spec", {}).get("powerState", "Running"))
    return Effect.Live


def _of_order(current: Any, desired: Any, *, runs: bool, wanted: str) -> Effect:
    """An order to start anew; one that is taken back has been carried out, or never will be."""
    del current
    if desired is ABSENT or wanted != "Running":
        return Effect.Live
    return Effect.Restart if runs else Effect.Live


def _bytes(written: Any) -> float:
    """An amount of memory, however it is written: `1Gi` is `1024Mi`."""
    text = str(written)
    number = text.rstrip("KMGTPi")
    return float(number or 0) * UNITS.get(text[len(number) :], 1)


def _within(path: str, fields: Iterable[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)
