"""The devices that the firmware of a machine looks through for a system, in their turns."""

from __future__ import annotations

from nanovirt.agent.disk_names import serial
from nanovirt.resources.placement import PlacementSpec


def boot_order(spec: PlacementSpec) -> tuple[str, ...]:
    """What the firmware looks through: `disk/SERIAL`, `medium/NAME`, `nic/MAC`. Unless said: all disks, then media."""
    disks = {volume.name: f"disk/{serial(volume.name)}" for volume in spec.volumes if volume.purpose == "Disk"}
    media = {medium.name: f"medium/{medium.name}" for medium in spec.media}
    if not spec.boot_order:
        return (*disks.values(), *media.values())
    found = {nic.name: f"nic/{nic.mac}" for nic in spec.nics} | media | disks
    return tuple(dict.fromkeys(found[name] for name in spec.boot_order if name in found))


def boot_turns(spec: PlacementSpec) -> dict[str, str]:
    """The place of each in the boot order, from 1, as libvirt writes it."""
    return {key: str(turn) for turn, key in enumerate(boot_order(spec), 1)}
