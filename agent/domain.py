"""The libvirt domain as XML: written from a Placement, element by element, and what is read back of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, ParseError, indent, register_namespace, tostring

from defusedxml import ElementTree

from nanovirt.agent.firewall import LEASED, PHYSICAL
from nanovirt.agent.image_cache import cached
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.placement import Domain, PlacedGuest, PlacedNic, PlacedVolume, PlacementSpec

NAMESPACE = "urn:nano:v1"
PREFIX = "nano"
ROOT_PORTS = 16
"""Room for devices on q35: each takes one, plugged in or not, and without spare ones nothing can be plugged in live."""
BUSES = {"Virtio": ("virtio", "vd"), "Scsi": ("scsi", "sd"), "Sata": ("sata", "sd"), "Ide": ("ide", "hd")}
SEED_BUSES = {"Virtio": "scsi", "Scsi": "scsi", "Sata": "sata", "Ide": "ide"}
SEED_TARGETS = {"scsi": "sdz", "sata": "sdr", "ide": "hdd"}
"""Names that no disk has; libvirt derives the place on SATA and IDE from them."""
EMULATED = "Nehalem"
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


class Kept(NamedTuple):
    """What a new definition takes over from the one before, so that an upgrade of QEMU changes no guest's hardware."""

    machine: str = ""
    started: bool = False


def render(spec: PlacementSpec, digest: str, platform: Platform, kept: Kept | None = None) -> str:
    """The whole definition. HypervisorError when a text cannot stand in XML or an image's hash is none."""
    kept = kept or Kept()
    domain = element(
        "domain",
        element("name", spec.domain.name),
        element("uuid", spec.domain.uuid),
        element("metadata", mark_element(Mark(digest, spec.epoch, spec.cpu, spec.memory, kept.started))),
        element("memory", str(int(spec.memory)), unit="b"),
        element("vcpu", str(spec.cpu), placement="static"),
        _system(spec.domain, platform, kept),
        element("features", element("acpi"), element("apic")),
        _processor(spec, platform),
        _clock(spec.domain),
        element("on_poweroff", "destroy"),
        element("on_reboot", "restart"),
        element("on_crash", "destroy"),
        element("devices", *_devices(spec, platform)),
        type="kvm" if platform.accelerator == "kvm" else "qemu",
    )
    indent(domain)
    return tostring(domain, encoding="unicode") + "\n"


def element(tag: str, *content: Element | str, **attributes: str) -> Element:
    """An element with children, or with a text. HypervisorError for characters that XML cannot carry."""
    made = Element(tag, {name: _legal(value) for name, value in attributes.items()})
    for one in content:
        if isinstance(one, str):
            made.text = _legal(one)
        else:
            made.append(one)
    return made


def _legal(text: str) -> str:
    """Control characters (a carriage return would come back as another one), surrogates and U+FFFE, U+FFFF are not."""
    for character in text:
        code = ord(character)
        if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in {0xFFFE, 0xFFFF}:
            raise HypervisorError(f"{text[:60]!r} holds the character U+{code:04X}, which no definition can carry")
    return text


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


def kept(definition: str, mark: Mark) -> Kept:
    """What to take over from a definition that stands, given as XML, and its mark."""
    machine = ElementTree.fromstring(definition).find("os/type")
    return Kept("" if machine is None else machine.get("machine", ""), mark.started)


# --- the machine ------------------------------------------------------------------------------------------------------


def _system(domain: Domain, platform: Platform, kept: Kept) -> Element:
    family = {"q35": "pc-q35-", "i440fx": "pc-i440fx-"}[domain.machine]
    fresh = {"q35": "q35", "i440fx": "pc"}[domain.machine]
    machine = kept.machine if kept.machine.startswith(family) else fresh
    made = element("os", element("type", "hvm", arch="x86_64", machine=machine))
    if domain.firmware == "UEFI":
        made.append(element("loader", platform.code, readonly="yes", secure="no", type="pflash"))
        file = platform.nvram / f"{domain.uuid}_VARS.fd"
        made.append(element("nvram", str(file), template=platform.variables))
    return made


def _processor(spec: PlacementSpec, platform: Platform) -> Element:
    """One socket, because some systems count sockets for their licence.

    TCG has no host model. Nehalem is x86-64-v2, which newer distributions ask for, without what emulation makes slow.
    """
    topology = element("topology", sockets="1", cores=str(spec.cpu), threads="1")
    if platform.accelerator == "kvm":
        return element("cpu", topology, mode="host-model", check="partial")
    model = element("model", EMULATED, fallback="forbid")
    return element("cpu", model, topology, mode="custom", match="exact", check="none")


def _clock(domain: Domain) -> Element:
    timers = (
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="hpet", present="no"),
    )
    return element("clock", *timers, offset="utc" if domain.clock == "Utc" else "localtime")


# --- devices ----------------------------------------------------------------------------------------------------------


def _devices(spec: PlacementSpec, platform: Platform) -> Iterator[Element]:
    yield from _controllers(spec)
    yield from _disks(spec, platform)
    if seeded(spec):
        yield _seed(spec, platform)
    yield from (_card(nic) for nic in spec.nics)
    yield from _lines(spec.domain, platform)
    yield from _console(spec.domain)
    yield element("memballoon", element("stats", period="5"), model="virtio")
    yield element("rng", element("backend", "/dev/urandom", model="random"), model="virtio")
    yield element("panic", model="isa")


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
    if any(volume.bus == "Scsi" for volume in spec.volumes) or (seeded(spec) and _on_scsi(spec)):
        yield element("controller", type="scsi", index="0", model="virtio-scsi")
    yield element("controller", type="virtio-serial", index="0")


def _on_scsi(spec: PlacementSpec) -> bool:
    return SEED_BUSES[spec.domain.disk_bus] == "scsi"


def _disks(spec: PlacementSpec, platform: Platform) -> Iterator[Element]:
    used: dict[str, int] = {}
    for order, volume in enumerate(spec.volumes, 1):
        bus, prefix = BUSES[volume.bus]
        at = used[prefix] = used.get(prefix, -1) + 1
        yield _disk(volume, platform, bus, f"{prefix}{letters(at)}", order)


def _disk(volume: PlacedVolume, platform: Platform, bus: str, target: str, order: int) -> Element:
    """The chain below it is written out, so that nobody guesses formats from what a guest may have written."""
    cache = "none" if Path(volume.file).parent in platform.direct else "writeback"
    return element(
        "disk",
        element("driver", name="qemu", type=volume.format, cache=cache, discard="unmap"),
        element("source", file=volume.file),
        _backing(volume, platform),
        element("target", dev=target, bus=bus),
        element("serial", serial(volume.name)),
        element("boot", order=str(order)),
        type="file",
        device="disk",
    )


def seeded(spec: PlacementSpec) -> bool:
    """Whether the machine has a seed; an old one only when there is something to tell that DHCP does not."""
    told = spec.guest != PlacedGuest() or any(one.file_system for one in spec.volumes)
    static = any(nic.lease is not None and nic.lease.provider == "CloudInit" for nic in spec.nics)
    return told or static or spec.domain.machine == "q35"


def _seed(spec: PlacementSpec, platform: Platform) -> Element:
    """A drive on the template's bus, or on SCSI where that has no drives; out of the way of every disk's name."""
    bus = SEED_BUSES[spec.domain.disk_bus]
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


def tap(nic: PlacedNic) -> str:
    """The card's device on the host: the firewall tells by its beginning who serves DHCP to it."""
    return (LEASED if nic.lease is not None and nic.ip is not None else PHYSICAL) + nic.mac.replace(":", "")


def _card(nic: PlacedNic) -> Element:
    made = element(
        "interface",
        element("mac", address=nic.mac),
        element("source", bridge=nic.bridge),
        element("target", dev=tap(nic)),
        element("model", type=CARDS[nic.model]),
        type="bridge",
    )
    if nic.mtu is not None:
        made.append(element("mtu", size=str(nic.mtu)))
    return made


def _lines(domain: Domain, platform: Platform) -> Iterator[Element]:
    """The serial line, which a file records, and the guest agent's channel."""
    if domain.serial:
        log = element("log", file=str(console_log(platform.consoles, domain.uuid)), append="on")
        yield element("serial", log, element("target", port="0"), type="pty")
    yield element("channel", element("target", type="virtio", name="org.qemu.guest_agent.0"), type="unix")


def console_log(folder: Path, uuid: str) -> Path:
    """What the guest said on its serial line."""
    return folder / f"{uuid}.log"


def _console(domain: Domain) -> Iterator[Element]:
    """A screen that only this host's own relays can reach; viewers do not throw each other out."""
    if domain.tablet == "Usb":
        yield element("input", type="tablet", bus="usb")
    yield element("graphics", element("listen", type="socket"), type="vnc", sharePolicy="ignore")
    model = {"Virtio": "virtio", "Vga": "vga", "None": "none"}[domain.video]
    yield element("video", element("model", type=model))
