"""The libvirt domain as XML: written from a Placement, element by element, and what is read back of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, ParseError, indent, register_namespace, tostring

from defusedxml import ElementTree

from nanovirt.agent.continuity import Kept, identity, settle
from nanovirt.agent.domain_limits import card_element, disk_element, processor_element
from nanovirt.agent.hardware import DRIVE
from nanovirt.agent.image_cache import cached
from nanovirt.agent.segments import device_of
from nanovirt.agent.taps import tap
from nanovirt.agent.xml_element import element
from nanovirt.resources.placement import (
    Domain,
    PlacedGuest,
    PlacedImage,
    PlacedMedium,
    PlacedNic,
    PlacedVolume,
    PlacementSpec,
)
from nanovirt.resources.system_template import DiskBus

NAMESPACE = "urn:nano:v1"
PREFIX = "nano"
ROOT_PORTS = 32
"""Room for devices on q35, each of which takes one: 16 disks, 8 cards, and what every machine has."""
BLOCK = 2 * 2**20
"""Bytes in which virtio-mem gives memory."""
BUSES = {"Virtio": "virtio", "Scsi": "scsi", "Sata": "sata", "Ide": "ide"}
PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}
"""How libvirt's names of disks begin, by their bus."""
SEED_TARGETS = {"scsi": "sdz", "sata": "sdr", "ide": "hdd"}
"""Names that no disk has; libvirt derives the place on SATA and IDE from them."""
EMULATED = "Nehalem"
HYPERV = ("relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "reset", "frequencies", "tlbflush", "ipi")
SPINS = 8191
"""How often Windows tries to take a lock before it gives its processor away."""
FAMILIES = {"q35": "pc-q35-", "i440fx": "pc-i440fx-"}
CARDS = {"Virtio": "virtio", "E1000": "e1000", "Rtl8139": "rtl8139"}
SERIAL_MAX = 20
"""What virtio-blk, IDE and SATA carry; they cut longer ones off without a word."""

register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True, slots=True)
class Platform:
    """What of this host enters every definition.

    `images` holds the backing files, `consoles` what guests say on their serial lines, `nvram` the UEFI variables;
    `direct` are the folders whose file system takes O_DIRECT.
    """

    accelerator: Literal["kvm", "tcg"]
    images: Path
    consoles: Path
    code: str = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    variables: str = "/usr/share/OVMF/OVMF_VARS_4M.fd"
    secure_code: str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
    secure_variables: str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
    nvram: Path = Path("/var/lib/libvirt/qemu/nvram")
    direct: frozenset[Path] = frozenset()
    seeds: Path = Path("/var/lib/nano/agent/seeds")


class Mark(NamedTuple):
    """What a definition says about itself: the digest it was made from, and whether it was ever started."""

    digest: str = ""
    epoch: int = 0
    cpu: int = 0
    memory: int = 0
    started: bool = False


def render(spec: PlacementSpec, digest: str, platform: Platform, kept: Kept | None = None) -> str:
    """The whole definition. HypervisorError when a text cannot stand in XML or an image's hash is none."""
    kept = kept or Kept()
    domain = element(
        "domain",
        element("name", spec.domain.name),
        element("uuid", spec.domain.uuid),
        element("metadata", mark_element(Mark(digest, spec.epoch, spec.cpu, spec.memory, kept.started))),
        *_memory(spec),
        element("vcpu", str(most_cpus(spec)), placement="static", current=str(spec.cpu)),
        *processor_element(spec.qos),
        _system(spec.domain, platform, kept),
        _features(spec.domain, platform),
        _processor(spec, platform),
        _clock(spec.domain, platform),
        element("on_poweroff", "destroy"),
        element("on_reboot", "restart"),
        element("on_crash", "destroy"),
        element("devices", *_devices(spec, platform, kept)),
        type="kvm" if platform.accelerator == "kvm" else "qemu",
    )
    if kept.machine.startswith(FAMILIES[spec.domain.machine]):
        settle(domain, kept, ROOT_PORTS + 1 if spec.domain.machine == "q35" else 1)
    indent(domain)
    return tostring(domain, encoding="unicode") + "\n"


# --- the mark in the metadata -----------------------------------------------------------------------------------------


def mark_element(mark: Mark, tag: str = f"{{{NAMESPACE}}}placement") -> Element:
    """What stands in the metadata; `started` only when it is so."""
    numbers = {"epoch": str(mark.epoch), "cpu": str(mark.cpu), "memory": str(int(mark.memory))}
    once = {"started": "yes"} if mark.started else {}
    return element(tag, digest=mark.digest, **numbers, **once)


def mark_text(mark: Mark) -> str:
    """The element alone, without the namespace, which libvirt adds when it puts it in the place of the one there."""
    return tostring(mark_element(mark, "placement"), encoding="unicode")


def read_mark(text: str) -> Mark:
    """The mark in a metadata element as libvirt gives it. ValueError if it is none of ours."""
    try:
        found = ElementTree.fromstring(text)
    except ParseError as error:
        raise ValueError(f"no mark: {error}") from error
    number = {name: int(found.get(name, "0")) for name in ("epoch", "cpu", "memory")}
    return Mark(digest=found.get("digest", ""), started=found.get("started") == "yes", **number)


# --- the machine ------------------------------------------------------------------------------------------------------


def most_cpus(spec: PlacementSpec) -> int:
    """How many it may have without a start."""
    return max(spec.cpu, spec.max_cpu or 0)


def spare_memory(spec: PlacementSpec) -> int:
    """Bytes that it may grow by without a start, in whole blocks."""
    return max(0, (spec.max_memory or 0) - spec.memory) // BLOCK * BLOCK


def _memory(spec: PlacementSpec) -> Iterator[Element]:
    """Only a machine that may grow says so: a guest that hears of it keeps room to copy through, 64 MiB in Linux."""
    if spare := spare_memory(spec):
        yield element("maxMemory", str(int(spec.memory) + spare), unit="b", slots="1")
    yield element("memory", str(int(spec.memory)), unit="b")


def _spare_memory(spec: PlacementSpec) -> Iterator[Element]:
    if spare := spare_memory(spec):
        target = element(
            "target",
            element("size", str(spare), unit="b"),
            element("node", "0"),
            element("block", str(BLOCK), unit="b"),
            element("requested", "0", unit="b"),
        )
        yield element("memory", target, model="virtio-mem")


def _system(domain: Domain, platform: Platform, kept: Kept) -> Element:
    family = FAMILIES[domain.machine]
    fresh = {"q35": "q35", "i440fx": "pc"}[domain.machine]
    machine = kept.machine if kept.machine.startswith(family) else fresh
    made = element("os", element("type", "hvm", arch="x86_64", machine=machine))
    if domain.secure_boot:
        made.append(element("loader", platform.secure_code, readonly="yes", secure="yes", type="pflash"))
        made.append(element("nvram", str(variables(platform, domain)), template=platform.secure_variables))
    elif domain.firmware == "UEFI":
        made.append(element("loader", platform.code, readonly="yes", secure="no", type="pflash"))
        made.append(element("nvram", str(variables(platform, domain)), template=platform.variables))
    return made


def variables(platform: Platform, domain: Domain) -> Path:
    """Where the firmware keeps its variables; a firmware with Microsoft's keys begins with others."""
    return platform.nvram / f"{domain.uuid}_{'SECURE_' if domain.secure_boot else ''}VARS.fd"


def _features(domain: Domain, platform: Platform) -> Element:
    """Secure Boot is worth something only when no one but the firmware writes its variables: in SMM."""
    smm = [element("smm", state="on")] if domain.secure_boot else []
    hyperv = [_enlightenments()] if enlightened(domain, platform) else []
    return element("features", element("acpi"), element("apic"), *hyperv, *smm)


def enlightened(domain: Domain, platform: Platform) -> bool:
    """Whether the machine looks like one of Hyper-V's, which saves Windows most of its idle work; TCG cannot."""
    return domain.family == "Windows" and platform.accelerator == "kvm"


def _enlightenments() -> Element:
    """What libvirt's and QEMU's documents advise for Windows (formatdomain, hyperv.rst), without nested machines'."""
    on = [element(name, state="on") for name in HYPERV]
    return element("hyperv", *on, element("spinlocks", state="on", retries=str(SPINS)), mode="custom")


def _tpm(domain: Domain) -> Iterator[Element]:
    """Kept by libvirt itself, beside the machine's definition; the host needs the package swtpm."""
    if domain.tpm:
        model = "tpm-crb" if domain.firmware == "UEFI" else "tpm-tis"
        yield element("tpm", element("backend", type="emulator", version="2.0"), model=model)


def _processor(spec: PlacementSpec, platform: Platform) -> Element:
    """One socket, because some systems count sockets for their licence.

    TCG has no host model. Nehalem is x86-64-v2, which newer distributions ask for, without what emulation makes slow.
    """
    cores = most_cpus(spec)
    topology = [element("topology", sockets="1", cores=str(cores), threads="1")]
    if spare_memory(spec):  # memory that comes later needs a node to belong to
        cell = element("cell", id="0", cpus=f"0-{cores - 1}", memory=str(int(spec.memory)), unit="b")
        topology.append(element("numa", cell))
    if platform.accelerator == "kvm":
        return element("cpu", *topology, mode="host-model", check="partial")
    model = element("model", EMULATED, fallback="forbid")
    return element("cpu", model, *topology, mode="custom", match="exact", check="none")


def _clock(domain: Domain, platform: Platform) -> Element:
    timers = (
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="hpet", present="no"),
        *([element("timer", name="hypervclock", present="yes")] if enlightened(domain, platform) else []),
    )
    return element("clock", *timers, offset="utc" if domain.clock == "Utc" else "localtime")


# --- devices ----------------------------------------------------------------------------------------------------------


def _devices(spec: PlacementSpec, platform: Platform, kept: Kept) -> Iterator[Element]:
    yield from _controllers(spec)
    yield from _disks(spec, platform, kept)
    if seeded(spec):
        yield _seed(spec, platform)
    turns = _turns(spec)
    yield from (_card(nic, turns.get(f"nic/{nic.mac}")) for nic in spec.nics)
    yield from _lines(spec.domain, platform)
    yield from _console(spec.domain)
    yield element("memballoon", element("stats", period="5"), model="virtio")
    yield element("rng", element("backend", "/dev/urandom", model="random"), model="virtio")
    yield element("panic", model="isa")
    yield from _spare_memory(spec)
    yield from _tpm(spec.domain)


def _controllers(spec: PlacementSpec) -> Iterator[Element]:
    tablet = spec.domain.tablet == "Usb"
    if spec.domain.machine == "q35":
        yield element("controller", type="pci", index="0", model="pcie-root")
        for at in range(1, ROOT_PORTS + 1):
            yield element("controller", type="pci", index=str(at), model="pcie-root-port")
        usb = "qemu-xhci"
    else:
        usb = "piix3-uhci"
    yield element("controller", type="usb", index="0", model=usb if tablet else "none")
    if spec.domain.drive_bus == "Scsi" or any(volume.bus == "Scsi" for volume in spec.volumes):
        yield element("controller", type="scsi", index="0", model="virtio-scsi")
    yield element("controller", type="virtio-serial", index="0")


def boot_order(spec: PlacementSpec) -> tuple[str, ...]:
    """What the firmware looks through: `disk/SERIAL`, `medium/NAME`, `nic/MAC`. Unless said: all disks, then media."""
    disks = {volume.name: f"disk/{serial(volume.name)}" for volume in spec.volumes if volume.purpose == "Disk"}
    media = {medium.name: f"medium/{medium.name}" for medium in spec.media}
    if not spec.boot_order:
        return (*disks.values(), *media.values())
    found = {nic.name: f"nic/{nic.mac}" for nic in spec.nics} | media | disks
    return tuple(dict.fromkeys(found[name] for name in spec.boot_order if name in found))


def _turns(spec: PlacementSpec) -> dict[str, str]:
    return {key: str(turn) for turn, key in enumerate(boot_order(spec), 1)}


def _disks(spec: PlacementSpec, platform: Platform, kept: Kept) -> Iterator[Element]:
    turns = _turns(spec)
    made = [_disk(volume, platform, turns.get(f"disk/{serial(volume.name)}")) for volume in spec.volumes]
    made += [
        _drive(medium, spec.domain.drive_bus, platform, turns.get(f"medium/{medium.name}")) for medium in spec.media
    ]
    _name_targets(made, kept, {name for bus, name in SEED_TARGETS.items() if bus != "ide" or seeded(spec)})
    yield from made


def _name_targets(disks: list[Element], kept: Kept, reserved: set[str]) -> None:
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


def seed_file(folder: Path, uuid: str) -> Path:
    """The machine's seed."""
    return folder / f"{uuid}.iso"


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


def letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa: as disks are counted."""
    head, rest = divmod(number, 26)
    return (letters(head - 1) if head else "") + chr(ord("a") + rest)


def serial(name: str) -> str:
    """What a guest finds the disk by: its name; of a name that is too long the beginning and a hash."""
    if len(name) <= SERIAL_MAX:
        return name
    return f"{name[: SERIAL_MAX - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _card(nic: PlacedNic, turn: str | None) -> Element:
    """A VLAN is a bridge of its own (agent/segments.py), so the guest sees plain frames."""
    return element(
        "interface",
        element("mac", address=nic.mac),
        element("source", bridge=device_of(nic)),
        element("target", dev=tap(nic)),
        element("model", type=CARDS[nic.model]),
        *card_element(nic.qos),
        *([element("mtu", size=str(nic.mtu))] if nic.mtu is not None else []),
        *([element("boot", order=turn)] if turn else []),
        type="bridge",
    )


def _lines(domain: Domain, platform: Platform) -> Iterator[Element]:
    """The serial line, which a file records, and the guest agent's channel."""
    if domain.serial:
        log = element("log", file=str(console_log(platform.consoles, domain.uuid)), append="on")
        line = element("source", mode="bind", path=str(console_line(platform.consoles, domain.uuid)))
        yield element("serial", line, log, element("target", port="0"), type="unix")
    yield element("channel", element("target", type="virtio", name="org.qemu.guest_agent.0"), type="unix")


def console_log(folder: Path, uuid: str) -> Path:
    """What the guest said on its serial line."""
    return folder / f"{uuid}.log"


def console_line(folder: Path, uuid: str) -> Path:
    """The socket of the guest's serial line: one hears it at a time, the others wait."""
    return folder / f"{uuid}.sock"


def screen_trouble(definition: str) -> str:
    """Why the display of a running machine (as XML) cannot be shown, or "": it must be reachable from nowhere else."""
    shown = ElementTree.fromstring(definition).findall("devices/graphics")
    if not shown:
        return "it has no display"
    for one in shown:
        kinds = {listen.get("type") for listen in one.findall("listen")}
        if one.get("type") != "vnc" or kinds - {"socket", "none"} or one.get("port", "-1") != "-1":
            return "its display listens on TCP, which Nano never shows; restart it so that it gets one that does not"
    return ""


def _console(domain: Domain) -> Iterator[Element]:
    """A screen that only this host's own relays can reach; viewers do not throw each other out."""
    if domain.tablet == "Usb":
        yield element("input", type="tablet", bus="usb")
    yield element("graphics", element("listen", type="socket"), type="vnc", sharePolicy="ignore")
    model = {"Virtio": "virtio", "Vga": "vga", "None": "none"}[domain.video]
    yield element("video", element("model", type=model))
