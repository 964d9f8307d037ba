"""Deciding what a running machine can take at once of its Placement, and what has to await its next start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nanovirt.agent.boot_devices import boot_order
from nanovirt.agent.changes import (
    AttachCard,
    AttachDisk,
    AttachDrive,
    Change,
    ChangeMedium,
    DetachCard,
    DetachDisk,
    DetachDrive,
    LimitCard,
    LimitCpu,
    LimitDisk,
    MoveCard,
    ResizeDisk,
    SetCpus,
    SetMemory,
)
from nanovirt.agent.disk_names import serial
from nanovirt.agent.domain_limits import SHARES, kilobytes, quota
from nanovirt.agent.hardware import Hardware, SeenCard, SeenDisk
from nanovirt.agent.segments import device_of, is_within
from nanovirt.agent.taps import tap
from nanovirt.resources.instance import AwaitingChange
from nanovirt.resources.placement import PlacedNic, PlacedVolume, PlacementSpec
from nanovirt.resources.quantities import Bytes

GRAIN = 4 * 2**20
"""Bytes by which memory may miss what is wished: guests give and take it in blocks."""
NEAR = 4 * GRAIN
"""Bytes, or a thirty-second part, by which a guest may miss what it is to have: what its kernel sits on stays."""
HOT = ("Virtio", "Scsi")
"""Buses that take and give back disks while the machine runs."""


class Live(NamedTuple):
    """A change to make now, and what to say if the machine will not take it."""

    change: Change
    otherwise: AwaitingChange


@dataclass(frozen=True, slots=True)
class Differences:
    """What to change now, in that order, and what awaits the next start."""

    changes: tuple[Live, ...] = ()
    awaiting: tuple[AwaitingChange, ...] = ()
    taking: bool = False
    """Whether the guest was offered or asked for memory, and has not done its part."""


NONE = Differences()


def differences(spec: PlacementSpec, hardware: Hardware, sizes: Mapping[str, int]) -> Differences:
    """Between the wish and the running machine; `sizes`: bytes of the volumes that are there, by file.

    Devices that nobody wishes are taken out first, so that their places are free for others. A change that was taken
    is seen in the hardware and not found again, however often the agent dies in between.
    """
    found = tuple(_all(spec, hardware, sizes))
    waits = tuple(one for one in found if isinstance(one, AwaitingChange))
    asked = abs(spec.memory - hardware.memory) < GRAIN
    taking = asked and any(entry.path == "spec.memory" for entry in waits)
    return Differences(tuple(one for one in found if isinstance(one, Live)), waits, taking)


Found = Iterator[Live | AwaitingChange]


def _all(spec: PlacementSpec, hardware: Hardware, sizes: Mapping[str, int]) -> Found:
    ports = _Ports(hardware.ports)
    yield from _cpus(spec, hardware)
    yield from _memory(spec, hardware)
    yield from _unwished(spec, hardware)
    yield from _disks(spec, hardware, sizes, ports)
    yield from _cards(spec, hardware, ports)
    yield from _media(spec, hardware)
    yield from _order(spec, hardware)
    yield from _devices(spec, hardware)


class _Ports:
    """How many devices can still be plugged in."""

    def __init__(self, free: int) -> None:
        self.free = free

    def take(self) -> bool:
        self.free -= 1
        return self.free >= 0


def awaiting(path: str, current: Any, desired: Any) -> AwaitingChange:
    """An entry that a restart makes vanish."""
    return AwaitingChange(path=path, current=current, desired=desired, operation="Restart")


# --- processors and memory ---


def _cpus(spec: PlacementSpec, hardware: Hardware) -> Found:
    if spec.cpu != hardware.cpus:
        entry = awaiting("spec.cpus", hardware.cpus, spec.cpu)
        # A processor that was plugged in is never taken out: QEMU's emulation breaks on what comes after it.
        yield Live(SetCpus(spec.cpu), entry) if hardware.cpus < spec.cpu <= hardware.max_cpus else entry
    most = spec.max_cpu
    if most is not None and max(most, spec.cpu) != hardware.max_cpus:
        yield awaiting("spec.maxCpus", hardware.max_cpus, most)
    shares, most_used = SHARES[spec.qos.priority], quota(spec.qos.limit)
    if (shares, most_used) != (hardware.shares, hardware.quota):
        now = {"shares": hardware.shares, "limit": f"{hardware.quota}m" if hardware.quota else None}
        yield Live(LimitCpu(shares, most_used), awaiting("spec.qos.cpu", now, spec.qos.to_json()))


def _memory(spec: PlacementSpec, hardware: Hardware) -> Found:
    """Without a word of a most, nobody reckons with memory that changes while the machine runs, and it does not."""
    entry = awaiting("spec.memory", str(Bytes(hardware.taken_memory)), str(spec.memory))
    if abs(spec.memory - hardware.memory) >= GRAIN:
        hot = spec.max_memory is not None and spec.memory <= hardware.max_memory
        yield Live(SetMemory(int(spec.memory)), entry) if hot else entry
    elif abs(spec.memory - hardware.taken_memory) >= max(NEAR, spec.memory // 32):
        yield entry
    most = spec.max_memory
    if most is not None and abs(max(most, spec.memory) - hardware.max_memory) >= GRAIN:
        yield awaiting("spec.maxMemory", str(Bytes(hardware.max_memory)), str(most))


# --- devices ---


def _unwished(spec: PlacementSpec, hardware: Hardware) -> Found:
    """What is to go. Never the disk that the machine was started from: the guest stands on it."""
    serials = {serial(volume.name) for volume in spec.volumes}
    first = min((disk.order for disk in hardware.disks.values() if disk.order), default=0)
    for disk in hardware.disks.values():
        if disk.serial not in serials:
            entry = awaiting(f"spec.disks[{disk.serial}]", Path(disk.file).name, None)
            hot = disk.bus in HOT and (not first or disk.order != first)
            yield Live(DetachDisk(disk.serial), entry) if hot else entry
    macs = {nic.mac for nic in spec.nics}
    for card in hardware.cards.values():
        if card.mac not in macs:
            yield Live(DetachCard(card.mac), awaiting(f"spec.nics[{card.mac}]", card.mac, None))
    names = {medium.name for medium in spec.media}
    for drive in hardware.drives.values():
        if drive.name not in names:
            entry = awaiting(f"spec.media[{drive.name}]", Path(drive.file).stem, None)
            yield Live(DetachDrive(drive.name), entry) if drive.bus in HOT else entry


def _disks(spec: PlacementSpec, hardware: Hardware, sizes: Mapping[str, int], ports: _Ports) -> Found:
    for volume in spec.volumes:
        seen = hardware.disks.get(serial(volume.name))
        path = f"spec.disks[{volume.name}]"
        if seen is None:
            entry = awaiting(path, None, Path(volume.file).name)
            yield Live(AttachDisk(serial(volume.name)), entry) if _room(volume, hardware, ports) else entry
        elif seen.file != volume.file and volume.rebuild:
            yield awaiting(f"{path}.rebuild", None, volume.rebuild)
        elif seen.file != volume.file:
            yield awaiting(path, Path(seen.file).name, Path(volume.file).name)
        else:
            yield from _disk(volume, seen, path, sizes.get(volume.file))


def _room(volume: PlacedVolume, hardware: Hardware, ports: _Ports) -> bool:
    return (volume.bus == "Virtio" and ports.take()) or (volume.bus == "Scsi" and hardware.scsi)


def _disk(volume: PlacedVolume, seen: SeenDisk, path: str, size: int | None) -> Found:
    if size is not None and size < volume.size:
        entry = awaiting(f"{path}.size", str(Bytes(size)), str(volume.size))
        yield Live(ResizeDisk(seen.serial, int(volume.size)), entry)
    elif size is not None and size > volume.size:
        yield awaiting(f"{path}.size", str(Bytes(size)), str(volume.size))
    if seen.qos != volume.qos:
        entry = awaiting(f"{path}.qos", seen.qos.to_json(), volume.qos.to_json())
        yield Live(LimitDisk(seen.serial, volume.qos), entry)
    if seen.bus != volume.bus:
        yield awaiting("spec.systemTemplate", {"diskBus": seen.bus}, {"diskBus": volume.bus})


def _cards(spec: PlacementSpec, hardware: Hardware, ports: _Ports) -> Found:
    old = hardware.devices.get("machine") == "i440fx"
    for nic in spec.nics:
        seen, path = hardware.cards.get(nic.mac), f"spec.nics[{nic.name}]"
        if seen is None:
            entry = awaiting(path, None, nic.mac)
            hot = (nic.model == "Virtio" or old) and ports.take()
            yield Live(AttachCard(nic.mac), entry) if hot else entry
        else:
            yield from _card(nic, seen, path)


def _card(nic: PlacedNic, seen: SeenCard, path: str) -> Found:
    if seen.tap != tap(nic):
        yield awaiting(f"{path}.addressPool", seen.tap, tap(nic))
    if seen.model != nic.model:
        yield awaiting(f"{path}.model", seen.model, nic.model)
    if seen.mtu != nic.mtu:
        yield awaiting(f"{path}.mtu", seen.mtu, nic.mtu)
    if seen.bridge != device_of(nic):
        entry = awaiting(f"{path}.{_moved(nic, seen)}", seen.bridge, device_of(nic))
        yield Live(MoveCard(nic.mac, device_of(nic)), entry)
    if kilobytes(seen.qos) != kilobytes(nic.qos):
        entry = awaiting(f"{path}.qos", seen.qos.to_json(), nic.qos.to_json())
        yield Live(LimitCard(nic.mac, nic.qos), entry)


def _moved(nic: PlacedNic, seen: SeenCard) -> str:
    """What of the card was changed, if its bridge is another one."""
    return "vlan" if is_within(seen.bridge, nic.bridge) else "network"


def _media(spec: PlacementSpec, hardware: Hardware) -> Found:
    bus = spec.domain.drive_bus
    for medium in spec.media:
        seen, path = hardware.drives.get(medium.name), f"spec.media[{medium.name}]"
        wanted = medium.image.sha256 if medium.image else ""
        if seen is None:
            entry = awaiting(path, None, medium.image.image if medium.image else "empty")
            hot = bus == "Scsi" and hardware.scsi and wanted  # libvirt cannot plug in an empty one
            yield Live(AttachDrive(medium.name), entry) if hot else entry
        elif Path(seen.file).stem != wanted:
            entry = awaiting(f"{path}.image", Path(seen.file).stem or None, medium.image and medium.image.image)
            yield Live(ChangeMedium(medium.name, wanted), entry)


# --- what only a start can change ---


def _order(spec: PlacementSpec, hardware: Hardware) -> Found:
    """The firmware looks through devices without a turn after all others: a wish may count them as the last.

    What was plugged in while nobody wished for an order needs no turn.
    """
    turns = {f"disk/{disk.serial}": disk.order for disk in hardware.disks.values()}
    turns |= {f"nic/{card.mac}": card.order for card in hardware.cards.values()}
    turns |= {f"medium/{drive.name}": drive.order for drive in hardware.drives.values()}
    wished = [key for key in boot_order(spec) if turns.get(key) or (spec.boot_order and key in turns)]
    ordered = sorted((key for key in turns if turns[key]), key=lambda key: turns[key])
    kept = _still(spec)
    now = [key for key in ordered if key in kept] + [key for key in wished if not turns[key]]
    if now != wished:
        yield awaiting("spec.bootOrder", [_name(key) for key in now], [_name(key) for key in wished])


def _still(spec: PlacementSpec) -> set[str]:
    """Devices that are wished, with a turn or without."""
    disks = {f"disk/{serial(volume.name)}" for volume in spec.volumes}
    return disks | {f"nic/{nic.mac}" for nic in spec.nics} | {f"medium/{medium.name}" for medium in spec.media}


def _name(key: str) -> str:
    return key.partition("/")[2]


def _devices(spec: PlacementSpec, hardware: Hardware) -> Found:
    wished = spec.domain.model_dump(mode="json", by_alias=True)
    other = [name for name, value in hardware.devices.items() if value != wished[name]]
    if other:
        current = {name: hardware.devices[name] for name in other}
        yield awaiting("spec.systemTemplate", current, {name: wished[name] for name in other})
