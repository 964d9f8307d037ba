"""What disks are called: by libvirt, which wants a name for each, and by the guest, which goes by a serial number."""

from __future__ import annotations

import hashlib
from xml.etree.ElementTree import Element

from nanovirt.agent.continuity import Kept, identity
from nanovirt.agent.xml_element import element

PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}
"""How libvirt's names of disks begin, by their bus."""
SEED_TARGETS = {"scsi": "sdz", "sata": "sdr", "ide": "hdd"}
"""Names that no disk has; libvirt derives the place on SATA and IDE from them."""
SERIAL_MAX = 20
"""What virtio-blk, IDE and SATA carry; they cut longer ones off without a word."""


def name_targets(disks: list[Element], kept: Kept, reserved: set[str]) -> None:
    """Disks keep libvirt's name for them; the letter of a new one is that of no other, in the running machine too."""
    used = reserved | {name for name in kept.targets.values() if kept.running}
    targets = [(disk, disk.find("target")) for disk in disks]
    for disk, target in targets:
        if target is not None and (known := kept.targets.get(identity(disk))) is not None:
            target.set("dev", known)
            used.add(known)
    for disk, target in targets:
        if target is None or target.get("dev"):
            continue
        bus = target.get("bus", "")
        free = (f"{PREFIXES[bus]}{letters(at)}" for at in range(len(used) + 1))
        target.set("dev", next(name for name in free if name not in used))
        used.add(target.get("dev", ""))
        if bus == "scsi":
            disk.append(_scsi_place(target.get("dev", "")))


def _scsi_place(name: str) -> Element:
    """One controller for all: each disk has a target of its own, while by their letters seven would fit.

    The first two are left to the seed, and to disks of machines that were defined by their letters.
    """
    number = 0
    for letter in name[len(PREFIXES["scsi"]) :]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return element("address", type="drive", controller="0", bus="0", target=str(number + 1), unit="0")


def letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa: as disks are counted."""
    head, rest = divmod(number, 26)
    return (letters(head - 1) if head else "") + chr(ord("a") + rest)


def serial(name: str) -> str:
    """What a guest finds the disk by: its name; of a name that is too long the beginning and a hash."""
    if len(name) <= SERIAL_MAX:
        return name
    return f"{name[: SERIAL_MAX - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
