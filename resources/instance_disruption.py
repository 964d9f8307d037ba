"""What a change of an instance means for its machine: each field in each state, as the agent's abilities are.

The same words as the agent's `status.awaiting`, which says of a running machine what it could not take: what is
`Restart` here stands there, what is `Live` does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nanovirt.resources.effects import Effect, FieldChange

JSON = Mapping[str, Any]
ABSENT = None
FIXED = ("spec.computePool",)
"""Fields that never change."""
PLACED = ("spec.scheduling",)
"""Fields that do not change once it has a host."""
AT_START = ("spec.systemTemplate", "spec.bootOrder")
"""What only a start changes."""
SEEDED = ("spec.guest.timeZone", "spec.guest.admin", "spec.guest.userDataSecret")
"""What only the seed tells, which the guest reads when it starts; its name reaches it by DHCP, too."""
DEFAULT_NIC = "nic0"
HOT = ("Virtio", "Scsi")
"""Buses that take and give back disks while the machine runs."""
LISTS = ("disks", "nics", "media")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
ON = ("Starting", "Running", "Stopping", "Migrating", "Suspended", "Unknown")
"""Phases in which a guest may run."""
COMING = ("Provisioning", "Starting", "HypervisorRefused", "MachinePaused")
"""Why a machine that is to run is not Ready although it may begin to run at any moment, or does."""
ACCEPTED = "nano/accept-data-loss"
"""The annotation of a write, never stored, that accepts what is lost by it."""


def hot_disk(bus: str) -> bool:
    """Whether disks of that bus are plugged in and out while the machine runs."""
    return bus in HOT


def hot_card(model: str, machine: str) -> bool:
    """Whether a network card is plugged in while the machine runs: q35 takes only Virtio."""
    return model == "Virtio" or machine == "i440fx"


def hot_drive(bus: str) -> bool:
    """Whether a drive for media is plugged in while the machine runs; what is in one always changes live."""
    return bus not in ("Ide", "Sata")


class Machine(NamedTuple):
    """What decides, read from the object as it is."""

    placed: bool
    runs: bool
    off: bool
    """Certainly stopped, and wished to be."""
    hardware: JSON
    spec: JSON
    """As it is wished from now on."""
    had: JSON
    """By path: what the running machine has of fields that await its next start."""
    absent: frozenset[str]
    """The paths of devices that are wished already, and that the running machine never had."""

    def later(self) -> Effect:
        """The effect of what only a start changes."""
        return Effect.Restart if self.runs else Effect.NextStart

    def unheard(self, path: str, current: Any, desired: Any) -> Effect:
        """The effect of what only a seed tells: none, if the running guest was told so, or nothing is left to tell."""
        was = self.had.get(path, current) if self.runs else current
        return Effect.Live if (was or None) == (desired or None) else self.later()

    def plugged(self, hot: object) -> Effect:
        """The effect of what a running machine takes only if it is `hot`."""
        if not self.runs:
            return Effect.NextStart
        return Effect.Live if hot else Effect.Restart


def machine(before: JSON, after: JSON) -> Machine:
    """The machine that a change meets."""
    status, spec = before.get("status") or {}, after.get("spec") or {}
    awaiting = status.get("restartAwaitingChanges") or ()
    runs = may_run(before)
    wish = (spec.get("powerState", "Running"), (before.get("spec") or {}).get("powerState", "Running"))
    return Machine(
        placed=bool(status.get("placement")),
        runs=runs,
        off=not runs and wish == ("Stopped", "Stopped") and status.get("phase") == "Stopped",
        hardware=status.get("hardware") or {},
        spec=spec,
        had={str(one.get("path")): one.get("current") for one in awaiting if _ready(before) == "AsDesired"},
        absent=frozenset(str(one.get("path")) for one in awaiting if runs and one.get("current") is ABSENT),
    )


def may_run(before: JSON) -> bool:
    """Whether a guest runs, or may begin to before the change arrives: a machine on its way counts as running."""
    coming = (before.get("spec") or {}).get("powerState", "Running") == "Running" and _ready(before) in COMING
    return coming or (before.get("status") or {}).get("phase") in ON


def _ready(before: JSON) -> str:
    found = (before.get("status") or {}).get("conditions") or ()
    return next((str(one.get("reason")) for one in found if one.get("type") == "Ready"), "")


# --- what differs ---------------------------------------------------------------------------------------


def spec_changes(before: JSON, after: JSON) -> Iterator[FieldChange]:
    """The fields of the spec that differ, those of named things one by one: `spec.disks[data].size`."""
    met = machine(before, after)
    found = _spec_changes(met, before.get("spec") or {}, after.get("spec") or {})
    return found if met.placed else map(_unbound, found)


def _spec_changes(met: Machine, then: JSON, now: JSON) -> Iterator[FieldChange]:
    for name in dict.fromkeys((*then, *now)):
        path, old, new = f"spec.{name}", then.get(name), now.get(name)
        if old == new:
            continue
        if name in LISTS:
            yield from _items(met, name, _named(name, old), _named(name, new))
        elif isinstance(old, Mapping) or isinstance(new, Mapping):
            yield from (_of_field(met, *one) for one in _leaves(path, old or {}, new or {}, whole=name == "restart"))
        else:
            yield _of_field(met, path, old, new)


def _leaves(path: str, before: JSON, after: JSON, *, whole: bool = False) -> Iterator[tuple[str, Any, Any]]:
    if whole and not (before and after):
        yield path, before or ABSENT, after or ABSENT
        return
    for name in dict.fromkeys((*before, *after)):
        then, now = before.get(name), after.get(name)
        if then == now:
            continue
        if isinstance(then, Mapping) or isinstance(now, Mapping):
            yield from _leaves(f"{path}.{name}", then or {}, now or {})
        else:
            yield f"{path}.{name}", then, now


def _named(name: str, items: Any) -> dict[str, JSON]:
    """The items by name; without any word about cards there is one."""
    if items is None and name == "nics":
        return {DEFAULT_NIC: {"name": DEFAULT_NIC}}
    return {str(one.get("name")): one for one in items or ()}


def _items(met: Machine, name: str, before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[FieldChange]:
    change = {"disks": _of_disk, "nics": _of_nic, "media": _of_medium}[name]
    for one in dict.fromkeys((*before, *after)):
        then, now = before.get(one), after.get(one)
        if then != now:
            yield from change(met, f"spec.{name}[{one}]", then, now)
    if name == "disks":
        yield from _order(met, list(before), list(after))


def _unbound(change: FieldChange) -> FieldChange:
    """Of a machine that has no place yet nothing is there that could suffer; what it is made of counts at its start."""
    if within(change.path, FIXED):
        return change
    return change._replace(effect=min(change.effect, Effect.NextStart), accept="", why="")


def _order(met: Machine, before: list[str], after: list[str]) -> Iterator[FieldChange]:
    """The firmware looks through the disks in their order, unless bootOrder says another."""
    kept = [name for name in before if name in after]
    moved = [name for name in after if name in before] != kept or after[: len(kept)] != kept
    if moved and not met.spec.get("bootOrder"):
        yield FieldChange("spec.disks", before, after, met.later())


# --- single fields --------------------------------------------------------------------------------------


def _of_field(met: Machine, path: str, current: Any, desired: Any) -> FieldChange:
    def told(effect: Effect, why: str = "") -> FieldChange:
        return FieldChange(path, current, desired, effect, why=why)

    if within(path, FIXED):
        return told(Effect.Refused, "make a new instance there")
    if within(path, PLACED):
        return told(Effect.Refused, "it stays where it is")
    if path in ("spec.cpus", "spec.memory"):
        return told(_amount(met, path, current, desired))
    if path in ("spec.maxCpus", "spec.maxMemory"):
        has = met.hardware.get(path.removeprefix("spec."))
        same = desired is ABSENT or (has is not None and amount(has) == amount(desired))
        return told(Effect.Live if same else met.later())
    if path == "spec.systemTemplate" and desired == met.hardware.get("template"):
        return told(Effect.Live)
    if within(path, AT_START):
        return told(met.later())
    if within(path, SEEDED):
        return told(met.unheard(path, current, desired))
    if within(path, ("spec.qos",)):
        return told(Effect.Live if met.runs else Effect.NextStart)
    if path == "spec.powerState":
        return told(Effect.Restart if met.runs and desired == "Stopped" else Effect.Live)
    if within(path, ("spec.restart",)):
        ends = met.runs and _obeyed(met.spec)
        return told(Effect.Restart if ends and _is_new_order(path, current, desired) else Effect.Live)
    return told(Effect.Live)


def _amount(met: Machine, path: str, current: Any, desired: Any) -> Effect:
    """Processors are added up to the ceiling, and never taken away; memory goes up and down below it."""
    if amount(current) == amount(desired):
        return Effect.Live
    if not met.runs:
        return Effect.NextStart
    has = met.had.get(path, current)
    if path in met.had and amount(has) == amount(desired):
        return Effect.Live
    most = met.hardware.get("maxCpus" if path == "spec.cpus" else "maxMemory")
    fits = most is not None and amount(desired) <= amount(most)
    more = amount(desired) > amount(has)
    return Effect.Live if fits and (more or path == "spec.memory") else Effect.Restart


def _obeyed(spec: JSON) -> bool:
    """Whether an order to start anew ends a guest now: of one that is to be stopped a hard one cuts the power."""
    wish = spec.get("powerState", "Running")
    return bool(wish == "Running" or (wish == "Stopped" and (spec.get("restart") or {}).get("mode") == "Hard"))


def _is_new_order(path: str, current: Any, desired: Any) -> bool:
    """Whether an order to start anew is a later one: any other has been carried out, or never will be."""
    if desired is ABSENT or path == "spec.restart.mode":
        return False
    return path != "spec.restart.at" or current is ABSENT or str(desired) > str(current)


# --- disks ----------------------------------------------------------------------------------------------


def _of_disk(met: Machine, path: str, before: JSON | None, after: JSON | None) -> Iterator[FieldChange]:
    hot = hot_disk(str(met.hardware.get("diskBus", "")))
    if before is None:
        made = after or {}
        yield FieldChange(path, None, after, met.plugged(hot))
        if met.runs:  # its file system is made by the guest, which is told when it starts
            for field, current, desired in _leaves(f"{path}.format", {}, made.get("format") or {}):
                yield _of_disk_field(met, field, current, desired, {}, made)
    elif after is None:
        first = next(iter(met.hardware.get("disks") or ()), "")
        if before.get("reclaim", "Delete") == "Delete":
            yield FieldChange(path, before, None, Effect.DataLoss, accept=f"{before['name']}@removed")
        else:
            gone = path in met.absent or (hot and before["name"] != first)
            yield FieldChange(path, before, None, met.plugged(gone))
    else:
        for field, current, desired in _leaves(path, before, after):
            yield _of_disk_field(met, field, current, desired, before, after)


def _of_disk_field(met: Machine, path: str, current: Any, desired: Any, before: JSON, after: JSON) -> FieldChange:
    def told(effect: Effect, accept: str = "", why: str = "") -> FieldChange:
        return FieldChange(path, current, desired, effect, accept, why)

    name, what = str(after["name"]), path.partition("].")[2]
    then, now = int(before.get("rebuild") or 0), int(after.get("rebuild") or 0)
    keeps = before.get("reclaim", "Delete") == "Retain"
    anew = met.later() if keeps else Effect.DataLoss
    match what.partition(".")[0]:
        case "rebuild" if now < then:
            return told(Effect.Refused, why="it can only be raised")
        case "rebuild" if (after.get("source") or {}).get("volume"):
            return told(Effect.Refused, why="a disk that began as a Volume cannot be made anew; add another disk")
        case "rebuild":
            return told(anew, accept="" if keeps else f"{name}@rebuild-{now}")
        case "source" if now > then:
            return told(anew, accept="" if keeps else f"{name}@rebuild-{now}")
        case "source":
            return told(Effect.Refused, why="it has begun already; raise rebuild along with it to make the disk anew")
        case "size":
            return told(*_resized(met, name, current, desired, anew=now > then))
        case "qos":
            return told(Effect.Live if met.runs else Effect.NextStart)
        case "format":
            return told(met.unheard(path, current, desired))
        case _:
            return told(Effect.Live)


def _resized(met: Machine, name: str, current: Any, desired: Any, *, anew: bool) -> tuple[Effect, str, str]:
    has = (met.hardware.get("disks") or {}).get(name, current)
    if desired is ABSENT or has is None or anew or amount(desired) == amount(has):
        return Effect.Live, "", ""
    if amount(desired) > amount(has):
        return (Effect.Live if met.runs else Effect.NextStart), "", ""
    if not met.off:
        return Effect.Refused, "", f"it has {has}, and gets smaller only while the machine is stopped"
    return Effect.DataLoss, f"{name}@{desired}", ""


# --- cards and media ------------------------------------------------------------------------------------


def _of_nic(met: Machine, path: str, before: JSON | None, after: JSON | None) -> Iterator[FieldChange]:
    model, kind = str(met.hardware.get("nicModel", "")), str(met.hardware.get("machine", ""))
    if before is None or after is None:
        one = after or before or {}
        yield FieldChange(
            path, before, after, met.plugged(after is None or hot_card(str(one.get("model") or model), kind))
        )
        return
    # A card that had nothing said of it has an address of a pool.
    pooled = [bool(one.get("addressPool")) or not one.get("network") for one in (before, after)]
    for field, current, desired in _leaves(path, before, after):
        match field.partition("].")[2].partition(".")[0]:
            case "model":
                effect = Effect.Live if (current or model) == (desired or model) else met.later()
            case "mtu":
                effect = met.later()
            case "mac":
                hot = desired is ABSENT or hot_card(str(after.get("model") or model), kind)
                effect = met.plugged(hot)
            case "addressPool" | "network":
                effect = met.plugged(pooled[0] == pooled[1])
            case _:
                effect = Effect.Live if met.runs else Effect.NextStart
        yield FieldChange(field, current, desired, effect)


def _of_medium(met: Machine, path: str, before: JSON | None, after: JSON | None) -> Iterator[FieldChange]:
    if path in met.absent:
        if after is None:
            yield FieldChange(path, before, None, Effect.Live)
            return
        before = None
    if before is None or after is None:
        filled = after is None or bool(after.get("image"))  # libvirt cannot plug in an empty drive
        hot = filled and hot_drive(str(met.hardware.get("driveBus", "")))
        yield FieldChange(path, before, after, met.plugged(hot))
        return
    for field, current, desired in _leaves(path, before, after):
        yield FieldChange(field, current, desired, Effect.Live if met.runs else Effect.NextStart)


# --- words ----------------------------------------------------------------------------------------------


def amount(written: Any) -> float:
    """An amount of memory, however it is written: `1Gi` is `1024Mi`; 0 for none."""
    text = "" if written is None else str(written)
    number = text.rstrip("KMGTPi")
    return float(number or 0) * UNITS.get(text[len(number) :], 1)


def within(path: str, fields: Iterable[str]) -> bool:
    """Whether a path is one of the fields, or below one."""
    return any(path == field or path.startswith(f"{field}.") for field in fields)
