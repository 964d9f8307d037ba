"""What a domain that nobody claims is made of, read from its definition: hostile text, bounded, never acted upon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from pydantic import ValidationError

from nanovirt.agent.drift import TOLD_MAX, XML_MAX, beyond, flattened
from nanovirt.resources.quantities import Bytes
from nanovirt.resources.report import DomainFacts, StrangeDisk, StrangeNic

DISKS_MAX, NICS_MAX, TEXT_MAX = 16, 8, 400
UNITS = {"b": 1, "bytes": 1, "KB": 10**3, "k": 2**10, "KiB": 2**10, "MB": 10**6, "M": 2**20, "MiB": 2**20, "GB": 10**9}
UNITS |= {"G": 2**30, "GiB": 2**30, "TB": 10**12, "T": 2**40, "TiB": 2**40}
BUSES = {"virtio": "Virtio", "scsi": "Scsi", "sata": "Sata", "ide": "Ide"}
MODELS: Mapping[str, Literal["Virtio", "E1000", "Rtl8139"]] = {
    "virtio": "Virtio",
    "e1000": "E1000",
    "e1000e": "E1000",
    "rtl8139": "Rtl8139",
}


def described(xml: str, sizes: Mapping[str, int], *, persistent: bool) -> DomainFacts:
    """The facts, and what keeps it from being adopted (`problems`). `sizes`: bytes of its disks' files."""
    if len(xml) > XML_MAX:
        return DomainFacts(problems=("its definition is too large to be read",))
    try:
        domain = ElementTree.fromstring(xml)
    except ParseError:
        return DomainFacts(problems=("its definition cannot be read",))
    disks, troubles = [], [] if persistent else ["it is transient: define it first (virsh dumpxml, virsh define)"]
    found = [one for one in domain.iterfind("devices/disk") if one.get("device", "disk") == "disk"]
    for one in found[:DISKS_MAX]:
        disk = _disk(one, sizes)
        disks.append(disk) if isinstance(disk, StrangeDisk) else troubles.append(disk)
    cards = domain.findall("devices/interface")
    nics = [_nic(one) for one in cards[:NICS_MAX]]
    troubles += [f"its card {nic.mac} is on no bridge of the host" for nic in nics if not nic.bridge]
    if len(found) > DISKS_MAX or len(cards) > NICS_MAX:
        troubles.append(f"it has more than {DISKS_MAX} disks or {NICS_MAX} cards")
    machine = _attribute(domain, "os/type", "machine")
    return DomainFacts(
        cpus=_number(domain.findtext("vcpu")),
        memory=_memory(domain.find("memory")),
        machine="q35" if "q35" in machine else "i440fx",
        firmware="UEFI" if _pflash(domain) else "BIOS",
        clock="LocalTime" if _attribute(domain, "clock", "offset") == "localtime" else "Utc",
        disks=tuple(disks),
        nics=tuple(nics),
        beyond=tuple(one.path[:TEXT_MAX] for one in beyond(flattened(xml))[:TOLD_MAX]),
        problems=tuple(_cut(one) for one in troubles[:TOLD_MAX]),
    )


def files_of(xml: str) -> tuple[str, ...]:
    """The files of its disks, the first of them."""
    if len(xml) > XML_MAX:
        return ()
    try:
        domain = ElementTree.fromstring(xml)
    except ParseError:
        return ()
    found = (one.get("file", "") for one in domain.iterfind("devices/disk[@device='disk']/source"))
    return tuple(dict.fromkeys(file for file in found if file))[:DISKS_MAX]


def _disk(disk: Element, sizes: Mapping[str, int]) -> StrangeDisk | str:
    """The disk, or why it cannot be taken."""
    target, file = _attribute(disk, "target", "dev"), _attribute(disk, "source", "file")
    if disk.get("type") != "file" or not file.startswith("/"):
        return f"its disk {target} is no file"
    form = _attribute(disk, "driver", "type") or "raw"
    if form not in ("qcow2", "raw"):
        return f"its disk {target} is {form}, neither qcow2 nor raw"
    if file not in sizes:
        return f"the file of its disk {target} cannot be looked at: {file}"
    bus = BUSES.get(_attribute(disk, "target", "bus"))
    if bus is None:
        return f"its disk {target} is on a bus that no instance has"
    try:
        return StrangeDisk.model_validate(
            {"name": target, "file": file, "format": form, "size": sizes[file], "bus": bus}
        )
    except ValidationError:
        return f"the name or the file of its disk {target} is none that a disk of an instance may have"


def _pflash(domain: Element) -> bool:
    return _attribute(domain, "os/loader", "type") == "pflash" or _attribute(domain, "os", "firmware") == "efi"


def _nic(interface: Element) -> StrangeNic:
    bridge = _attribute(interface, "source", "bridge") if interface.get("type") == "bridge" else ""
    return StrangeNic(
        mac=_attribute(interface, "mac", "address").lower()[:32],
        bridge=bridge[:32],
        model=MODELS.get(_attribute(interface, "model", "type"), ""),
    )


def _attribute(parent: Element, path: str, name: str) -> str:
    found = parent.find(path)
    return found.get(name, "") if found is not None else ""


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0


def _memory(element: Element | None) -> Bytes:
    if element is None or not (element.text or "").isascii() or not (element.text or "").isdigit():
        return Bytes(0)
    return Bytes(min(int((element.text or "0")[:20]) * UNITS.get(element.get("unit", "KiB"), 0), 2**50))


def _cut(text: str) -> str:
    return text[:TEXT_MAX]
