"""The disks and drives of a domain as XML, the one with its seed among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from nanovirt.agent.boot_devices import boot_turns
from nanovirt.agent.continuity import Kept
from nanovirt.agent.disk_names import SEED_TARGETS, name_targets, serial
from nanovirt.agent.domain_limits import disk_element
from nanovirt.agent.hardware import DRIVE
from nanovirt.agent.image_cache import cached
from nanovirt.agent.platform import Platform, seed_file
from nanovirt.agent.xml_element import element
from nanovirt.resources.placement import PlacedGuest, PlacedImage, PlacedMedium, PlacedVolume, PlacementSpec
from nanovirt.resources.system_template import DiskBus

BUSES = {"Virtio": "virtio", "Scsi": "scsi", "Sata": "sata", "Ide": "ide"}


def disk_elements(spec: PlacementSpec, platform: Platform, kept: Kept) -> Iterator[Element]:
    """The disks, then the drives, then the seed: each with its place in the boot order, and under a name it keeps."""
    turns = boot_turns(spec)
    made = [_disk(volume, platform, turns.get(f"disk/{serial(volume.name)}")) for volume in spec.volumes]
    made += [
        _drive(medium, spec.domain.drive_bus, platform, turns.get(f"medium/{medium.name}")) for medium in spec.media
    ]
    name_targets(made, kept, {name for bus, name in SEED_TARGETS.items() if bus != "ide" or seeded(spec)})
    yield from made
    if seeded(spec):
        yield _seed(spec, platform)


def _disk(volume: PlacedVolume, platform: Platform, turn: str | None) -> Element:
    """The chain below it is written out, so that nobody guesses formats from what a guest may have written."""
    cache = "none" if Path(volume.file).parent in platform.direct else "writeback"
    return element(
        "disk",
        element("driver", name="qemu", type=volume.format, cache=cache, discard="unmap"),
        element("source", file=volume.file),
        *(() if volume.adopted else (_backing(volume, platform),)),  # what is below it, it says itself
        element("target", bus=BUSES[volume.bus]),
        *disk_element(volume.qos),
        element("serial", serial(volume.name)),
        *([element("boot", order=turn)] if turn else []),
        type="file",
        device="disk",
    )


def _drive(medium: PlacedMedium, bus: DiskBus, platform: Platform, turn: str | None) -> Element:
    """A drive, empty or with an image from the cache, which nobody writes to."""
    return element(
        "disk",
        element("driver", name="qemu", type="qcow2" if medium.image else "raw"),
        *medium_element(medium.image, platform.images),
        element("target", bus=BUSES[bus]),
        element("readonly"),
        *([element("boot", order=turn)] if turn else []),
        element("alias", name=f"{DRIVE}{medium.name}"),
        type="file",
        device="cdrom",
    )


def seeded(spec: PlacementSpec) -> bool:
    """Whether the machine has a seed; an old one only when there is something to tell that DHCP does not."""
    told = spec.guest != PlacedGuest() or any(one.file_system for one in spec.volumes)
    static = any(nic.lease is not None and nic.lease.provider == "CloudInit" for nic in spec.nics)
    return told or static or spec.domain.machine == "q35"


def _seed(spec: PlacementSpec, platform: Platform) -> Element:
    """A drive beside those of the media, out of the way of every disk's name."""
    bus = BUSES[spec.domain.drive_bus]
    place = [element("address", type="drive", controller="0", bus="0", target="1", unit="0")] if bus == "scsi" else []
    return element(
        "disk",
        element("driver", name="qemu", type="raw"),
        element("source", file=str(seed_file(platform.seeds, spec.domain.uuid)), startupPolicy="optional"),
        element("backingStore"),
        element("target", dev=SEED_TARGETS[bus], bus=bus),
        element("readonly"),
        element("serial", "cidata"),
        *place,
        type="file",
        device="cdrom",
    )


def medium_element(image: PlacedImage | None, images: Path) -> Iterator[Element]:
    """What lies in a drive; nothing for an empty one."""
    if image is not None:
        yield element("source", file=str(cached(images, image.sha256)))
        yield element("backingStore")


def _backing(volume: PlacedVolume, platform: Platform) -> Element:
    if volume.source is None:
        return element("backingStore")
    file = cached(platform.images, volume.source.sha256)
    return element(
        "backingStore",
        element("format", type="qcow2"),
        element("source", file=str(file)),
        element("backingStore"),
        type="file",
    )
