"""What a guest was told by its seed when it started, and what of the wish it has not heard since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanovirt.agent.live import awaiting
from nanovirt.resources.devices import DiskFormat
from nanovirt.resources.instance import AwaitingChange
from nanovirt.resources.placement import PlacedGuest, PlacedSecret, PlacementSpec

NO_FORMAT: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Told:
    """What the seed said that nothing but a seed says; `file_systems` by the disk's name."""

    guest: PlacedGuest
    file_systems: tuple[tuple[str, DiskFormat], ...]


def told_by(spec: PlacementSpec) -> Told:
    """What the seed of a machine that starts now says."""
    made = tuple([(one.name, one.file_system) for one in spec.volumes if one.file_system is not None])
    return Told(spec.guest, made)


def unheard(spec: PlacementSpec, told: Told) -> Iterator[AwaitingChange]:
    """What the seed of the next start says otherwise. The host's name is not of it: the guest hears it as it runs."""
    then, now = told.guest, spec.guest
    if then is not now and then != now:
        for name, before, after in (
            ("timeZone", then.time_zone, now.time_zone),
            ("admin.name", then.admin, now.admin),
            ("admin.sshKeys", list(then.ssh_keys), list(now.ssh_keys)),
            ("admin.passwordSecret", *_names(then.password, now.password)),
            ("userDataSecret", *_names(then.user_data, now.user_data)),
        ):
            if before != after:
                yield awaiting(f"spec.guest.{name}", before, after)
    yield from _file_systems(spec, told)


def _names(then: PlacedSecret | None, now: PlacedSecret | None) -> tuple[str | None, str | None]:
    """Of a Secret that was written anew the name is the same, and what the guest has is not."""
    if then is not None and now is not None and then.name == now.name and then.mark != now.mark:
        return f"{then.name} (as it was)", now.name
    return then.name if then is not None else None, now.name if now is not None else None


def _file_systems(spec: PlacementSpec, told: Told) -> Iterator[AwaitingChange]:
    if not told.file_systems and not any(one.file_system for one in spec.volumes):
        return
    had = dict(told.file_systems)
    for volume in spec.volumes:
        then, now = had.get(volume.name), volume.file_system
        if then == now:
            continue
        before, after = (one.to_json() if one is not None else NO_FORMAT for one in (then, now))
        for field in dict.fromkeys((*before, *after)):
            if before.get(field) != after.get(field):
                path = f"spec.disks[{volume.name}].format.{field}"
                yield awaiting(path, before.get(field), after.get(field))
