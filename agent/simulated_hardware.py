"""The hardware of a machine in memory: as its Placement says when it starts, and as each change makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

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
from nanovirt.agent.domain import ROOT_PORTS, most_cpus, spare_memory
from nanovirt.agent.domain_limits import SHARES, quota
from nanovirt.agent.hardware import Hardware, SeenCard, SeenDisk, SeenDrive
from nanovirt.agent.segments import device_of
from nanovirt.agent.taps import tap
from nanovirt.resources.placement import PlacementSpec

OWN = 5
"""Ports that every machine's own devices take."""


def started(spec: PlacementSpec) -> Hardware:
    """What a machine has that starts now."""
    turns = {key: turn for turn, key in enumerate(boot_order(spec), 1)}
    bus, devices = spec.domain.drive_bus, spec.domain.model_dump(mode="json", by_alias=True)
    disks = [
        SeenDisk(serial(one.name), one.file, one.name, one.bus, one.qos, turns.get(f"disk/{serial(one.name)}", 0))
        for one in spec.volumes
    ]
    cards = [
        SeenCard(one.mac, device_of(one), tap(one), one.model, one.mtu, one.qos, turns.get(f"nic/{one.mac}", 0))
        for one in spec.nics
    ]
    drives = [
        SeenDrive(one.name, _file(one.image.sha256 if one.image else ""), bus, turns.get(f"medium/{one.name}", 0))
        for one in spec.media
    ]
    virtio = sum(one.bus == "Virtio" for one in spec.volumes)
    return Hardware(
        cpus=spec.cpu,
        max_cpus=most_cpus(spec),
        memory=int(spec.memory),
        max_memory=int(spec.memory) + spare_memory(spec),
        fixed_memory=int(spec.memory),
        taken_memory=int(spec.memory),
        shares=SHARES[spec.qos.priority],
        quota=quota(spec.qos.limit),
        disks={disk.serial: disk for disk in disks},
        cards={card.mac: card for card in cards},
        drives={drive.name: drive for drive in drives},
        devices={name: value for name, value in devices.items() if name in SEEN},
        ports=ROOT_PORTS - OWN - virtio - len(spec.nics),
        scsi=bus == "Scsi" or any(disk.bus == "Scsi" for disk in disks),
    )


SEEN = ("machine", "firmware", "secureBoot", "tpm", "clock", "video", "tablet", "serial")
"""Of the devices, those that are read back."""


def _file(sha256: str) -> str:
    return f"/images/{sha256}.qcow2" if sha256 else ""


def changed(hardware: Hardware, defined: PlacementSpec, change: Change) -> Hardware:
    """What a running machine has after a change; what is attached looks as in `defined`. KeyError: it is not there."""
    wished = started(defined)
    turns = {one.order for kind in (hardware.disks, hardware.cards, hardware.drives) for one in kind.values()}
    disks, cards, drives, ports = dict(hardware.disks), dict(hardware.cards), dict(hardware.drives), hardware.ports
    match change:
        case SetCpus(count):
            return replace(hardware, cpus=count)
        case SetMemory(amount):
            return replace(hardware, memory=amount, taken_memory=amount)
        case LimitCpu(shares, most):
            return replace(hardware, shares=shares, quota=most)
        case AttachDisk(name):
            disks[name] = wished.disks[name]
            if disks[name].order in turns:
                disks[name] = replace(disks[name], order=0)
            ports -= wished.disks[name].bus == "Virtio"
        case DetachDisk(name):
            gone = disks.pop(name, None)
            ports += gone is not None and gone.bus == "Virtio"
        case ResizeDisk():
            pass  # the file says it
        case LimitDisk(name, qos):
            disks[name] = replace(disks[name], qos=qos)
        case AttachCard(mac):
            cards[mac] = wished.cards[mac]
            ports -= 1
        case DetachCard(mac):
            ports += cards.pop(mac, None) is not None
        case MoveCard(mac, bridge):
            cards[mac] = replace(cards[mac], bridge=bridge)
        case LimitCard(mac, qos):
            cards[mac] = replace(cards[mac], qos=qos)
        case AttachDrive(name):
            drives[name] = wished.drives[name]
        case DetachDrive(name):
            drives.pop(name, None)
        case ChangeMedium(name, sha256):
            drives[name] = replace(drives[name], file=_file(sha256))
        case _:
            assert_never(change)
    return replace(hardware, disks=disks, cards=cards, drives=drives, ports=ports)
