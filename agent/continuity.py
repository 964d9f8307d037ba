"""What a new definition takes over from the one before and from the running machine, so that no device moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement

from defusedxml import ElementTree

Place = Mapping[str, str]
"""The attributes of an address."""
SLOTS = range(3, 31)
"""On the one bus of an older machine: the first three have their own devices, the last one may have."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`machine`: the number of the machine type; `started`: whether it ever was; where devices are, by `identity`."""

    machine: str = ""
    started: bool = False
    places: Mapping[str, Place] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    """libvirt's names of disks and drives."""
    occupied: frozenset[tuple[str, ...]] = frozenset()
    """PCI places in which the running machine has something; empty when it is off."""
    running: bool = False


def kept(definition: str, *, started: bool, running: str = "") -> Kept:
    """What to take over from a definition that stands and from that of the running machine ("": it is off)."""
    places: dict[str, Place] = {}
    targets: dict[str, str] = {}
    occupied: set[tuple[str, ...]] = set()
    machine = ""
    for text in filter(None, (definition, running)):
        domain: Element = ElementTree.fromstring(text)
        found = domain.find("os/type")
        machine = machine or ("" if found is None else found.get("machine", ""))
        for device in domain.iterfind("devices/*"):
            place, target = device.find("address"), device.find("target")
            if place is not None:
                places[identity(device)] = dict(place.attrib)
                if text is running and place.get("type") == "pci":
                    occupied.add(spot(place.attrib))
            if device.tag == "disk" and target is not None:
                targets[identity(device)] = target.get("dev", "")
    return Kept(machine, started, places, targets, frozenset(occupied), bool(running))


def identity(device: Element) -> str:
    """What makes a device the same in two definitions; one of another kind than before is another device."""
    target, model = device.find("target"), device.find("model")
    kind = {"tag": device.tag, "type": device.get("type"), "model": device.get("model"), "index": device.get("index")}
    match device.tag:
        case "disk":
            alias = device.find("alias")
            name = device.findtext("serial") or ("" if alias is None else alias.get("name"))
            return f"disk/{device.get('device')}/{name}/{'' if target is None else target.get('bus')}"
        case "interface":
            mac = device.find("mac")
            address = "" if mac is None else mac.get("address", "").lower()
            return f"interface/{address}/{'' if model is None else model.get('type')}"
        case "channel":
            return f"channel/{'' if target is None else target.get('name')}"
        case "video":
            return f"video/{'' if model is None else model.get('type')}"
        case _:
            return "/".join(str(one or "") for one in kind.values())


def spot(place: Place) -> tuple[str, ...]:
    """A PCI place, to compare."""
    return tuple(place.get(name, "0x0") for name in ("bus", "slot", "function"))


def settle(domain: Element, kept: Kept, buses: int) -> None:
    """Give each device of a definition the place that it had; new ones of a running machine get a free one in both.

    `buses`: how many PCI buses the definition itself has; what lay on another one is placed anew by libvirt.
    """
    taken: set[tuple[str, ...]] = set()
    new = []
    for device in domain.iterfind("devices/*"):
        place = kept.places.get(identity(device))
        if place is None:
            new.append(device)
        elif place.get("type") != "pci" or (int(place.get("bus", "0x0"), 16) < buses and spot(place) not in taken):
            for old in device.findall("address"):
                device.remove(old)
            SubElement(device, "address", dict(place))
            taken.add(spot(place))
    if kept.running:
        free = _free(taken | kept.occupied, buses)
        for device in filter(_plugs_in, new):
            place = next(free, None)
            if place is not None:
                SubElement(device, "address", place)


def _plugs_in(device: Element) -> bool:
    """What is plugged in while the machine runs: virtio disks and cards, and cards of older machines."""
    target = device.find("target")
    return device.tag == "interface" or (device.tag == "disk" and target is not None and target.get("bus") == "virtio")


def _free(taken: set[tuple[str, ...]], buses: int) -> Iterator[dict[str, str]]:
    used = {(bus, slot) for bus, slot, _function in taken}
    slots = [(0, slot) for slot in SLOTS] if buses == 1 else [(bus, 0) for bus in range(1, buses)]
    for bus, slot in slots:
        place = {"type": "pci", "domain": "0x0000", "bus": f"0x{bus:02x}", "slot": f"0x{slot:02x}", "function": "0x0"}
        if (place["bus"], place["slot"]) not in used:
            yield place
