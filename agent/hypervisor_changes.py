"""The second half of the door to libvirt: changing a running machine, each change in one call that may be repeated."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, assert_never
from xml.etree.ElementTree import Element, tostring

import libvirt
from defusedxml import ElementTree

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
from nanovirt.agent.domain import BLOCK
from nanovirt.agent.domain_limits import disk_limits, kilobytes, microseconds
from nanovirt.agent.hardware import DRIVE, PERIOD, Hardware, attribute, read
from nanovirt.agent.live import NEAR
from nanovirt.resources.errors import HypervisorError
from nanovirt.resources.qos import NetworkQos

LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE
GUEST_SECONDS: Final = 6.0
"""How long a guest may take to let a device go, or to give memory back, before it counts as refusing."""
AGENT_SECONDS: Final = 2
LOOK_SECONDS: Final = 0.1
SLACK: Final = 4 * 2**20
"""Bytes of memory by which a guest may miss what it is asked for."""
TRAY: Final = "is not open"


def apply(domain: Any, change: Change) -> None:
    """Make the change, unless the machine has it. HypervisorError or libvirt's own when it is refused.

    What is attached looks as in the definition that stands, which therefore has to be the wished one already.
    """
    match change:
        case SetCpus(count):
            _set_cpus(domain, count)
        case SetMemory(amount):
            _set_memory(domain, amount)
        case LimitCpu(shares, quota):
            limits = {"cpu_shares": shares, "global_period": PERIOD, "global_quota": microseconds(quota)}
            domain.setSchedulerParametersFlags(limits, LIVE)
        case AttachDisk(serial):
            _attach(domain, _disk(serial), f"disk {serial}")
        case DetachDisk(serial):
            _detach(domain, _disk(serial), f"disk {serial}")
        case ResizeDisk(serial, size):
            domain.blockResize(_target(domain, serial), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        case LimitDisk(serial, qos):
            domain.setBlockIoTune(_target(domain, serial), disk_limits(qos), LIVE)
        case AttachCard(mac):
            _attach(domain, _card(mac), f"network card {mac}")
        case DetachCard(mac):
            _detach(domain, _card(mac), f"network card {mac}")
        case MoveCard(mac, bridge):
            _move(domain, mac, bridge)
        case LimitCard(mac, qos):
            _limit_card(domain, mac, qos)
        case AttachDrive(name):
            _attach(domain, _drive(name), f"drive {name}")
        case DetachDrive(name):
            _detach(domain, _drive(name), f"drive {name}")
        case ChangeMedium(name, sha256):
            _change_medium(domain, name, sha256)
        case _:
            assert_never(change)


# --- processors and memory --------------------------------------------------------------------------------------------


def _set_cpus(domain: Any, count: int) -> None:
    """Some guests leave a new processor switched off; the agent inside, if there is one, is asked to switch it on."""
    if read(domain.XMLDesc(0)).cpus < count:
        domain.setVcpusFlags(count, LIVE)
    with contextlib.suppress(libvirt.libvirtError):
        domain.agentSetResponseTimeout(AGENT_SECONDS)
        domain.setVcpusFlags(count, libvirt.VIR_DOMAIN_VCPU_GUEST)


def _set_memory(domain: Any, amount: int) -> None:
    """First what is more than at the start, then the balloon; a guest that does not follow is said."""
    text = domain.XMLDesc(0)
    before = read(text)
    spare = max(0, amount - before.fixed_memory)
    blocks = min(-(-spare // BLOCK) * BLOCK, before.max_memory - before.fixed_memory)
    device = ElementTree.fromstring(text).find("devices/memory[@model='virtio-mem']")
    if device is not None and (requested := device.find("target/requested")) is not None:
        requested.text, wished = str(blocks >> 10), requested.text
        requested.set("unit", "KiB")
        if requested.text != wished:
            domain.updateDeviceFlags(tostring(device, encoding="unicode"), LIVE)
    if not blocks or before.memory < before.fixed_memory:
        balloon = min(amount, before.fixed_memory)
        domain.setMemoryFlags((balloon + blocks) >> 10, LIVE)
    after = _until(domain, lambda seen: abs(seen.taken_memory - amount) < NEAR)
    if abs(after.memory - amount) >= SLACK:
        has = f"{after.taken_memory >> 20} MiB"
        raise HypervisorError(f"the guest does not give memory back; it has {has}, is its balloon driver loaded?")


def _until(domain: Any, done: Callable[[Hardware], bool]) -> Hardware:
    """The hardware once it is so, or when the guest has had its time."""
    end = time.monotonic() + GUEST_SECONDS
    while True:
        seen = read(domain.XMLDesc(0))
        if done(seen) or time.monotonic() >= end:
            return seen
        time.sleep(LOOK_SECONDS)


# --- devices ----------------------------------------------------------------------------------------------------------

Which = Callable[[Element], bool]


def _disk(serial: str) -> Which:
    return lambda one: one.tag == "disk" and one.get("device") == "disk" and one.findtext("serial") == serial


def _card(mac: str) -> Which:
    return lambda one: one.tag == "interface" and attribute(one, "mac", "address").lower() == mac


def _drive(name: str) -> Which:
    return lambda one: one.tag == "disk" and attribute(one, "alias", "name") == f"{DRIVE}{name}"


def _found(text: str, which: Which) -> Element | None:
    return next(filter(which, ElementTree.fromstring(text).iterfind("devices/*")), None)


def _target(domain: Any, serial: str) -> str:
    found = _found(domain.XMLDesc(0), _disk(serial))
    if found is None:
        raise HypervisorError(f"the machine has no disk {serial} any more")
    return attribute(found, "target", "dev")


def _attach(domain: Any, which: Which, name: str) -> None:
    running = domain.XMLDesc(0)
    if _found(running, which) is not None:
        return
    device = _found(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), which)
    if device is None:
        raise HypervisorError(f"the definition has no {name}; it is defined anew first")
    turn, turns = device.find("boot"), {one.get("order") for one in ElementTree.fromstring(running).iter("boot")}
    if turn is not None and turn.get("order") in turns:
        device.remove(turn)
    domain.attachDeviceFlags(tostring(device, encoding="unicode"), LIVE)


def _detach(domain: Any, which: Which, name: str) -> None:
    """The guest has to let it go: what it still holds is never taken away from under it."""
    device = _found(domain.XMLDesc(0), which)
    if device is None:
        return
    refused = ""
    try:
        domain.detachDeviceFlags(tostring(device, encoding="unicode"), LIVE)
    except libvirt.libvirtError as error:  # it is being let go already, or the guest said no
        refused = error.get_error_message() or ""
    end = time.monotonic() + GUEST_SECONDS
    while _found(domain.XMLDesc(0), which) is not None:
        if refused or time.monotonic() >= end:
            raise HypervisorError(f"the guest has not let go of {name} yet{refused and f' ({refused})'}")
        time.sleep(LOOK_SECONDS)


def _move(domain: Any, mac: str, bridge: str) -> None:
    device = _found(domain.XMLDesc(0), _card(mac))
    if device is None or (source := device.find("source")) is None:
        raise HypervisorError(f"the machine has no network card {mac} any more")
    source.set("bridge", bridge)
    domain.updateDeviceFlags(tostring(device, encoding="unicode"), LIVE)


def _limit_card(domain: Any, mac: str, qos: NetworkQos) -> None:
    inbound, outbound = kilobytes(qos)
    domain.setInterfaceParameters(mac, {"inbound.average": inbound, "outbound.average": outbound}, LIVE)


def _change_medium(domain: Any, name: str, sha256: str) -> None:
    """A guest that uses the medium holds the door shut; the wish stands above that, as a pin in the hole does."""
    wished, device = (_found(domain.XMLDesc(where), _drive(name)) for where in (libvirt.VIR_DOMAIN_XML_INACTIVE, 0))
    if device is None or wished is None or Path(attribute(wished, "source", "file")).stem != sha256:
        raise HypervisorError(f"the definition has no drive {name} with that medium; it is defined anew first")
    for tag in ("driver", "source", "backingStore"):
        for old in device.findall(tag):
            device.remove(old)
        device.extend(wished.findall(tag))
    text = tostring(device, encoding="unicode")
    try:
        domain.updateDeviceFlags(text, LIVE)
    except libvirt.libvirtError:
        try:
            domain.updateDeviceFlags(text, LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE)
        except libvirt.libvirtError as error:
            if TRAY not in (error.get_error_message() or ""):
                raise
            _exchange(domain, name, with_medium=bool(sha256))


def _exchange(domain: Any, name: str, *, with_medium: bool) -> None:
    """A drive that was plugged in while the machine ran has no tray that libvirt 9 knows of: all of it goes."""
    _detach(domain, _drive(name), f"drive {name}")
    if with_medium:
        _attach(domain, _drive(name), f"drive {name}")
