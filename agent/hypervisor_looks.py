"""What libvirt tells, in a thread of Hypervisor's, whose methods of the same names give the contracts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import libvirt

from nanovirt.agent.hardware import Hardware, read
from nanovirt.agent.machine import Counters, DomainState, Ending, SeenDomain
from nanovirt.agent.mark import NAMESPACE, Mark, read_mark
from nanovirt.agent.strangers import files_of
from nanovirt.resources.errors import HypervisorError

STATES: Final[Mapping[int, DomainState]] = {
    libvirt.VIR_DOMAIN_RUNNING: "Running",
    libvirt.VIR_DOMAIN_BLOCKED: "Running",
    libvirt.VIR_DOMAIN_PAUSED: "Paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "Paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "Stopping",
}
ENDINGS: Final[Mapping[int, tuple[Ending, str]]] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: ("Shutdown", "shutdown"),
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: ("Destroyed", "destroyed"),
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: ("Crashed", "crashed"),
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: ("Failed", "failed to start"),
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: ("Unknown", "migrated"),
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: ("Unknown", "saved"),
    libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: ("Unknown", "from a snapshot"),
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: ("Unknown", "ended by libvirtd"),
}
PAUSES: Final[Mapping[int, str]] = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "by a user",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migrating",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "saving",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "dumping",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting down",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "making a snapshot",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "the guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting",
}


class Described(NamedTuple):
    """A definition as XML, the virtual sizes of its files, and whether it outlives the machine."""

    xml: str
    sizes: Mapping[str, int]
    persistent: bool


class Qemu(NamedTuple):
    """The QEMU that libvirt starts."""

    version: str
    kvm: bool


def dotted(number: int) -> str:
    """9.0.0 for 9000000, as libvirt counts versions."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def find(connection: Any, uuid: str) -> Any:
    """The domain, or None."""
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def all_domains(connection: Any, pids: Path) -> Mapping[str, SeenDomain]:
    stats = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    found = [_seen(domain, record, pids) for domain, record in stats]
    return {one.uuid: one for one in found if one is not None}


COUNTED: Final = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)


def counters(connection: Any) -> Mapping[str, Counters]:
    """One question for all; a domain that is busy with something else is not waited for."""
    active, nowait = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = connection.getAllDomainStats(COUNTED, active | nowait)
    return {domain.UUIDString(): counted(record) for domain, record in found}


def counted(record: Mapping[str, Any]) -> Counters:
    """The sums of a record of libvirt's (virConnectGetAllDomainStats). A card's rx is what its guest sends."""

    def summed(group: str, name: str) -> int:
        return sum(int(record.get(f"{group}.{at}.{name}", 0)) for at in range(int(record.get(f"{group}.count", 0))))

    available, unused = record.get("balloon.available"), record.get("balloon.unused")
    inside = (available - unused) * 1024 if available is not None and unused is not None else 0
    return Counters(
        cpu_ns=int(record.get("cpu.time", 0)),
        memory=inside if inside > 0 else int(record.get("balloon.rss", 0)) * 1024,
        disk_read=summed("block", "rd.bytes"),
        disk_write=summed("block", "wr.bytes"),
        disk_reads=summed("block", "rd.reqs"),
        disk_writes=summed("block", "wr.reqs"),
        net_in=summed("net", "rx.bytes"),
        net_out=summed("net", "tx.bytes"),
    )


def one_domain(connection: Any, uuid: str, pids: Path) -> SeenDomain | None:
    domain = find(connection, uuid)
    if domain is None:
        return None
    stats = connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_STATE)
    found = _seen(domain, stats[0][1], pids) if stats else None
    return found and replace(found, hardware=_hardware(domain, found))


def _hardware(domain: Any, seen: SeenDomain) -> Hardware | None:
    """Of a machine of ours that runs; None if it ended meanwhile."""
    if seen.state == "Off" or not seen.live:
        return None
    try:
        return read(domain.XMLDesc(0))
    except ValueError as error:
        raise HypervisorError(str(error)) from error


def _seen(domain: Any, record: Mapping[str, int], pids: Path) -> SeenDomain | None:
    """None if it went away meanwhile."""
    try:
        return _looked_at(domain, record["state.state"], record.get("state.reason", 0), pids)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _looked_at(domain: Any, number: int, reason: int, pids: Path) -> SeenDomain:
    uuid, name, state = domain.UUIDString(), domain.name(), STATES.get(number, "Off")
    defined = mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if state == "Off":
        ended, detail = ENDINGS.get(reason, ("Unknown" if defined.started else "", ""))
        return SeenDomain(uuid, name, state, ended, detail, definition=defined.digest)
    live = mark(domain, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    cpu, memory = (live.cpu, live.memory) if live.cpu else _measured(domain)
    detail = PAUSES.get(reason, "") if state == "Paused" else ""
    return SeenDomain(uuid, name, state, "", detail, _run(domain, name, pids), defined.digest, live.digest, cpu, memory)


def mark(domain: Any, where: int) -> Mark:
    """Empty for a domain that is not ours, or that is not on or not defined."""
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, where))
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_OPERATION_INVALID}:
            return Mark()
        raise
    except ValueError:
        return Mark()


def _measured(domain: Any) -> tuple[int, int]:
    """Processors and bytes of memory, for a domain whose definition does not say them to us."""
    _state, _most, kibibytes, processors, _time = domain.info()
    return processors, kibibytes * 1024


def _run(domain: Any, name: str, pids: Path) -> str:
    """Which start this is: QEMU's process and when it began; failing that, a number that may be given out again."""
    try:
        pid = int((pids / f"{name}.pid").read_text(encoding="ascii"))
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return f"id {domain.ID()}"
    return f"{pid}.{status.rpartition(')')[2].split()[19]}"


def definition(connection: Any, uuid: str) -> tuple[str, Mark, str]:
    domain = find(connection, uuid)
    if domain is None:
        return "", Mark(), ""
    next_time = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    running = domain.XMLDesc(0) if domain.isActive() else ""
    return next_time, mark(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG), running


def described(connection: Any, uuid: str) -> Described | None:
    domain = find(connection, uuid)
    if domain is None:
        return None
    persistent = bool(domain.isPersistent())
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    sizes = {}
    for file in files_of(xml):
        with contextlib.suppress(libvirt.libvirtError):  # it is not there, or cannot be read
            sizes[file] = int(domain.blockInfo(file)[0])
    return Described(xml, sizes, persistent)


def inactive(connection: Any, uuid: str) -> str | None:
    domain = find(connection, uuid)
    if domain is None:
        return None
    try:
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else None
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def examined(connection: Any) -> Qemu:
    version = dotted(connection.getVersion())
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError:
        if not connection.isAlive():
            raise
        return Qemu(version, kvm=False)
    return Qemu(version, kvm=True)
