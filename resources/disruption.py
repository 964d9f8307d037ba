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
    """At once, and data are gone: a set deletes the members that are too many. No change of an instance does yet."""
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
SEEDED = ("spec.guest.timeZone", "spec.guest.admin", "spec.guest.userDataSecret")
"""Fields that only the seed tells, which the guest reads when it starts; its name reaches it by DHCP, too."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
ON = ("Starting", "Running", "Stopping", "Migrating", "Suspended", "Unknown")
"""Phases in which a guest may run."""
COMING = ("Provisioning", "Starting", "HypervisorRefused")
"""Why a machine that is to run is not Ready although it may begin to run at any moment, or does."""


def changes(kind: str, before: JSON, after: JSON) -> list[FieldChange]:
    """What differs in labels, annotations and spec, in the order of the fields; status and bookkeeping do not count.

    `before` is the object as it is, with its status; `after` as it will be stored, defaults filled in.
    """
    found: list[FieldChange] = []
    for path, current, desired in differences(before, after):
        found.append(FieldChange(path, current, desired, _effect(kind, path, current, desired, before, after)))
    return found


def _effect(kind: str, path: str, current: Any, desired: Any, before: JSON, after: JSON) -> Effect:
    match kind:
        case "Instance":
            return _of_instance(path, current, desired, before, after)
        case "InstanceSet":
            return _of_set(path, current, desired)
        case _:
            return Effect.Live


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
    for half in ("labels", "annotations"):
        then, now = (doc.get("metadata", {}).get(half) or {} for doc in (before, after))
        for name in dict.fromkeys((*then, *now)):
            if then.get(name) != now.get(name) and "last-applied" not in name:
                yield f"metadata.{half}[{name}]", then.get(name), now.get(name)
    yield from below("spec", before.get("spec") or {}, after.get("spec") or {})


def below(path: str, before: JSON, after: JSON) -> Iterator[tuple[str, Any, Any]]:
    """The leaves that differ; a list counts as a whole, since its items have no path of their own over time."""
    for name in dict.fromkeys((*before, *after)):
        then, now = before.get(name), after.get(name)
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            yield from below(f"{path}.{name}", then, now)
        elif then != now:
            yield f"{path}.{name}", then, now


def _of_instance(path: str, current: Any, desired: Any, before: JSON, after: JSON) -> Effect:
    status = before.get("status") or {}
    placed, runs = bool(status.get("placement")), _may_run(before)
    if _within(path, FIXED) or (placed and _within(path, PLACED)):
        return Effect.Refused
    if not placed:
        return Effect.Live
    if path == "spec.memory" and _bytes(current) == _bytes(desired):
        return Effect.Live
    if path in AT_START:
        return _at_start(path, desired, before) if runs else Effect.NextStart
    if _within(path, SEEDED):
        return Effect.Restart if runs else Effect.NextStart
    if path == "spec.powerState":
        return Effect.Restart if runs and desired == "Stopped" else Effect.Live
    if _within(path, ("spec.restart",)):
        ordered = runs and after.get("spec", {}).get("powerState", "Running") == "Running"
        return Effect.Restart if ordered and _is_new_order(path, current, desired) else Effect.Live
    return Effect.Live


def _may_run(before: JSON) -> bool:
    """Whether a guest runs, or may begin to before the change arrives: a machine on its way counts as running."""
    coming = (before.get("spec") or {}).get("powerState", "Running") == "Running" and _ready(before) in COMING
    return coming or (before.get("status") or {}).get("phase") in ON


def _ready(before: JSON) -> str:
    found = (before.get("status") or {}).get("conditions") or ()
    return next((str(one.get("reason")) for one in found if one.get("type") == "Ready"), "")


def _at_start(path: str, desired: Any, before: JSON) -> Effect:
    """What a running machine would have to be started anew for, unless that is what it was started with."""
    awaiting = (before.get("status") or {}).get("restartAwaitingChanges") or ()
    had = next((one.get("current") for one in awaiting if one.get("path") == path), ABSENT)
    if had is ABSENT or _ready(before) != "AsDesired":
        return Effect.Restart
    return Effect.Live if _bytes(had) == _bytes(desired) else Effect.Restart


def _is_new_order(path: str, current: Any, desired: Any) -> bool:
    """Whether an order to start anew is a later one: any other has been carried out, or never will be."""
    if desired is ABSENT or path == "spec.restart.mode":
        return False
    return path != "spec.restart.at" or current is ABSENT or str(desired) > str(current)


def _bytes(written: Any) -> float:
    """An amount of memory, however it is written: `1Gi` is `1024Mi`."""
    text = str(written)
    number = text.rstrip("KMGTPi")
    return float(number or 0) * UNITS.get(text[len(number) :], 1)


def _within(path: str, fields: Iterable[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)
