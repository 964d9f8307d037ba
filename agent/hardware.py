"""The hardware of a machine as it is: what libvirt's definition of the running one says, in few words and bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml import ElementTree

from nanovirt.agent.taps import LEASED, PHYSICAL
from nanovirt.resources.qos import DiskQos, NetworkQos
from nanovirt.resources.quantities import Bits, Bytes

UNITS = {"b": 1, "bytes": 1, "KB": 1000, "k": 2**10, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MODELS = {"virtio": "Virtio", "e1000": "E1000", "rtl8139": "Rtl8139"}
BUSES = {"virtio": "Virtio", "scsi": "Scsi", "sata": "Sata", "ide": "Ide"}
DRIVE = "ua-medium-"
"""How the alias of a drive for media begins; its name follows."""
PERIOD = 100_000
"""Microseconds in which a processor limit holds: the kernel's default."""
FREE_DISK, FREE_CARD = DiskQos(), NetworkQos()
SHARES = 1024
"""Processor shares of a machine of which nothing is said: the kernel's default."""


@dataclass(frozen=True, slots=True)
class SeenDisk:
    """A disk by the serial that the guest knows it by; `target` is libvirt's name for it."""

    serial: str
    file: str
    target: str
    bus: str = "Virtio"
    qos: DiskQos = FREE_DISK
    order: int = 0
    """Its turn when the firmware looks for a system; 0: none."""


@dataclass(frozen=True, slots=True)
class SeenCard:
    """A network card by its MAC; `tap` is its device on the host."""

    mac: str
    bridge: str
    tap: str
    model: str = "Virtio"
    mtu: int | None = None
    qos: NetworkQos = FREE_CARD
    order: int = 0


@dataclass(frozen=True, slots=True)
class SeenDrive:
    """A drive for media; an empty one has no file."""

    name: str
    file: str = ""
    bus: str = "Scsi"
    order: int = 0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a running machine has now; memory in bytes."""

    cpus: int
    max_cpus: int
    memory: int
    """What it is to have; a guest may take a while to give back, or to take, the rest."""
    max_memory: int
    fixed_memory: int = 0
    """What it was started with: the balloon gives back of it, and what is more comes from virtio-mem."""
    taken_memory: int = 0
    """What the guest has now: it takes and gives back when it likes."""
    shares: int = SHARES
    quota: int = 0
    """Thousandths of a processor that it gets at most; 0: as many as it has."""
    disks: Mapping[str, SeenDisk] = field(default_factory=dict)
    cards: Mapping[str, SeenCard] = field(default_factory=dict)
    drives: Mapping[str, SeenDrive] = field(default_factory=dict)
    devices: Mapping[str, Any] = field(default_factory=dict)
    """Machine, firmware, clock and the like, with the words of a system template (in camelCase)."""
    ports: int = 0
    """How many more devices can be plugged in."""
    scsi: bool = False
    """Whether there is a controller for disks on `Scsi`."""


def read(text: str) -> Hardware:
    """What a definition says, as libvirt gives it. ValueError for a text that is none."""
    try:
        domain: Element = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"libvirt gave a definition that is none: {error}") from error
    vcpu = domain.find("vcpu")
    most = int(domain.findtext("vcpu") or 1)
    quota, period = _tuned(domain, "global_quota", 0), _tuned(domain, "global_period", PERIOD)
    return Hardware(
        cpus=most if vcpu is None else int(vcpu.get("current", most)),
        max_cpus=most,
        **_memory(domain),
        shares=_tuned(domain, "shares", SHARES),
        quota=max(0, round(quota * 1000 / period)),
        disks={disk.serial: disk for disk in map(_disk, _of(domain, "disk", "disk")) if disk.serial},
        cards={card.mac: card for card in map(_card, domain.iterfind("devices/interface")) if _is_ours(card)},
        drives={drive.name: drive for drive in map(_drive, _of(domain, "disk", "cdrom")) if drive.name},
        devices=_devices(domain),
        ports=_ports(domain),
        scsi=any(one.get("model") == "virtio-scsi" for one in _of_type(domain, "scsi")),
    )


def _memory(domain: Element) -> dict[str, int]:
    """Libvirt counts the whole of a virtio-mem device as memory, and what is in use of it as current."""
    total, current = _amount(domain.find("memory")), _amount(domain.find("currentMemory"))
    device = domain.find("devices/memory[@model='virtio-mem']/target")
    if device is None:
        memory = current or total
        return {"memory": memory, "max_memory": total, "fixed_memory": total, "taken_memory": memory}
    size, asked = _amount(device.find("size")), _amount(device.find("requested"))
    taken = _amount(device.find("current")) if device.find("current") is not None else asked
    fixed = total - size
    kept = min(fixed, max(0, current - taken)) if current else fixed
    return {
        "memory": kept + asked,
        "max_memory": total,
        "fixed_memory": fixed,
        "taken_memory": kept + taken,
    }


def _amount(found: Element | None) -> int:
    if found is None:
        return 0
    return int(found.text or 0) * UNITS.get(found.get("unit", "KiB"), 1)


def _tuned(domain: Element, name: str, default: int) -> int:
    return int(domain.findtext(f"cputune/{name}") or default)


def _of(domain: Element, tag: str, device: str) -> Iterator[Element]:
    return (one for one in domain.iterfind(f"devices/{tag}") if one.get("device") == device)


def _of_type(domain: Element, kind: str) -> Iterator[Element]:
    return (one for one in domain.iterfind("devices/controller") if one.get("type") == kind)


def attribute(found: Element, path: str, name: str, default: str = "") -> str:
    """An attribute of what lies below, or the default."""
    below = found.find(path)
    return default if below is None else below.get(name, default)


def _disk(found: Element) -> SeenDisk:
    return SeenDisk(
        serial=found.findtext("serial") or "",
        file=attribute(found, "source", "file"),
        target=attribute(found, "target", "dev"),
        bus=BUSES.get(attribute(found, "target", "bus"), ""),
        qos=_disk_qos(found),
        order=int(attribute(found, "boot", "order", "0")),
    )


def _disk_qos(found: Element) -> DiskQos:
    def limit(name: str) -> int | None:
        return int(found.findtext(f"iotune/{name}") or 0) or None

    reads, writes = limit("read_bytes_sec"), limit("write_bytes_sec")
    return DiskQos.model_construct(
        read_bytes_per_second=Bytes(reads) if reads else None,
        write_bytes_per_second=Bytes(writes) if writes else None,
        read_iops=limit("read_iops_sec"),
        write_iops=limit("write_iops_sec"),
    )


def _card(found: Element) -> SeenCard:
    mtu = int(attribute(found, "mtu", "size", "0"))

    def rate(path: str) -> Bits | None:
        """Libvirt counts thousands of bytes in a second."""
        average = int(attribute(found, path, "average", "0"))
        return Bits(average * 8000) if average else None

    return SeenCard(
        mac=attribute(found, "mac", "address").lower(),
        bridge=attribute(found, "source", "bridge"),
        tap=attribute(found, "target", "dev"),
        model=MODELS.get(attribute(found, "model", "type"), ""),
        mtu=mtu or None,
        qos=NetworkQos(
            inbound_bits_per_second=rate("bandwidth/inbound"), outbound_bits_per_second=rate("bandwidth/outbound")
        ),
        order=int(attribute(found, "boot", "order", "0")),
    )


def _is_ours(card: SeenCard) -> bool:
    """A card that somebody else plugged in has another device on the host."""
    return card.tap.startswith((LEASED, PHYSICAL))


def _drive(found: Element) -> SeenDrive:
    alias = attribute(found, "alias", "name")
    return SeenDrive(
        name=alias[len(DRIVE) :] if alias.startswith(DRIVE) else "",
        file=attribute(found, "source", "file"),
        bus=BUSES.get(attribute(found, "target", "bus"), ""),
        order=int(attribute(found, "boot", "order", "0")),
    )


def _devices(domain: Element) -> dict[str, Any]:
    machine = attribute(domain, "os/type", "machine")
    video = attribute(domain, "devices/video/model", "type", "none")
    return {
        "machine": "q35" if "q35" in machine else "i440fx",
        "firmware": "BIOS" if domain.find("os/loader") is None else "UEFI",
        "secureBoot": attribute(domain, "os/loader", "secure") == "yes",
        "tpm": domain.find("devices/tpm") is not None,
        "clock": "LocalTime" if attribute(domain, "clock", "offset") == "localtime" else "Utc",
        "video": {"virtio": "Virtio", "vga": "Vga"}.get(video, "None"),
        "tablet": "None" if domain.find("devices/input[@type='tablet']") is None else "Usb",
        "serial": domain.find("devices/serial") is not None,
    }


def _ports(domain: Element) -> int:
    """Free root ports, or free slots of the one bus of an older machine."""
    used = {address.get("bus") or "" for address in _addresses(domain)}
    if "q35" in attribute(domain, "os/type", "machine"):
        ports = [one for one in _of_type(domain, "pci") if one.get("model") == "pcie-root-port"]
        return sum(f"0x{int(one.get('index', '0')):02x}" not in used for one in ports)
    slots = {address.get("slot") or "" for address in _addresses(domain) if address.get("bus") == "0x00"}
    return max(0, 31 - len(slots | {"0x00"}))


def _addresses(domain: Element) -> Iterator[Element]:
    return (one for one in domain.iterfind("devices//address") if one.get("type") == "pci")
