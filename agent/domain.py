"""The libvirt domain as XML, written from a Placement element by element; its disks are in domain_disks."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, indent, tostring

from defusedxml import ElementTree

from nanovirt.agent.boot_devices import boot_turns
from nanovirt.agent.continuity import Kept, settle
from nanovirt.agent.domain_disks import disk_elements
from nanovirt.agent.domain_limits import card_element, processor_element
from nanovirt.agent.mark import Mark, mark_element
from nanovirt.agent.platform import Platform, console_line, console_log, variables
from nanovirt.agent.segments import device_of
from nanovirt.agent.taps import tap
from nanovirt.agent.xml_element import element
from nanovirt.resources.placement import Domain, PlacedNic, PlacementSpec

ROOT_PORTS = 32
"""Room for devices on q35, each of which takes one: 16 disks, 8 cards, and what every machine has."""
BLOCK = 2 * 2**20
"""Bytes in which virtio-mem gives memory."""
EMULATED = "Nehalem"
HYPERV = ("relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "reset", "frequencies", "tlbflush", "ipi")
SPINS = 8191
"""How often Windows tries to take a lock before it gives its processor away."""
FAMILIES = {"q35": "pc-q35-", "i440fx": "pc-i440fx-"}
CARDS = {"Virtio": "virtio", "E1000": "e1000", "Rtl8139": "rtl8139"}


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
    yield from disk_elements(spec, platform, kept)
    turns = boot_turns(spec)
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
