"""What a machine may use, and may grow to: the instance's own words, else those of its pool, else the house's."""

from __future__ import annotations

from nanovirt.resources.compute_pool import ComputePool
from nanovirt.resources.devices import Disk
from nanovirt.resources.host import Host
from nanovirt.resources.instance import MIB, InstanceSpec
from nanovirt.resources.placement import Placement
from nanovirt.resources.qos import CpuQos, DiskQos, NetworkQos, Qos
from nanovirt.resources.quantities import Bytes

GROWTH = 4
"""By what a machine may grow while it runs when nobody says."""
NO_QOS = Qos()


def started_with(placement: Placement) -> tuple[int | None, Bytes | None]:
    """The ceilings of the running machine where they are not the wished ones, as its host tells them; else None."""
    if not placement.status.awaiting:
        return None, None
    told = {one.path: one.current for one in placement.status.awaiting}
    cpus, memory = told.get("spec.maxCpus"), told.get("spec.maxMemory")
    try:
        amount = Bytes(memory) if isinstance(memory, str) else None
    except ValueError:  # a host may say anything
        amount = None
    return (cpus if type(cpus) is int else None), amount


def cpu_qos(spec: InstanceSpec, pool: ComputePool) -> CpuQos:
    """Share and limit of the processors."""
    if spec.qos is None and pool.spec.qos is None:
        return NO_QOS.cpu
    own, theirs = (spec.qos or NO_QOS).cpu, (pool.spec.qos or NO_QOS).cpu
    return CpuQos(priority=own.priority or theirs.priority, limit=own.limit if own.limit is not None else theirs.limit)


def disk_qos(spec: InstanceSpec, disk: Disk, pool: ComputePool) -> DiskQos:
    """What one disk may do: each value is the disk's, else the instance's, else the pool's."""
    said = [one for one in (disk.qos, spec.qos and spec.qos.disk, pool.spec.qos and pool.spec.qos.disk) if one]
    if not said:
        return NO_QOS.disk
    found = {name: [getattr(one, name) for one in said] for name in DiskQos.model_fields}
    return DiskQos(**{name: next((one for one in values if one is not None), None) for name, values in found.items()})


def network_qos(spec: InstanceSpec, pool: ComputePool) -> NetworkQos:
    """What each card may carry."""
    if spec.qos is None and pool.spec.qos is None:
        return NO_QOS.network
    own, theirs = (spec.qos or NO_QOS).network, (pool.spec.qos or NO_QOS).network
    return NetworkQos(
        inbound_bits_per_second=own.inbound_bits_per_second or theirs.inbound_bits_per_second,
        outbound_bits_per_second=own.outbound_bits_per_second or theirs.outbound_bits_per_second,
    )


def most_cpus(spec: InstanceSpec, cpus: int, host: Host) -> int:
    """Processors that a new machine may grow to while it runs."""
    if spec.max_cpus is not None:
        return max(spec.max_cpus, cpus)
    return max(cpus, min(GROWTH * cpus, host.status.capacity.cpus))


def still_most_cpus(spec: InstanceSpec, cpus: int, host: Host, recorded: int | None, running: int | None) -> int | None:
    """The same of one that is there: as said, else what it has room for already, else more.

    `recorded`: what was chosen for it before (None: nothing, and it stays so); `running`: what the running machine was
    started with, where that differs.
    """
    if spec.max_cpus is None:
        if recorded is None:
            return None
        for known in (running, recorded):
            if known is not None and known >= cpus:
                return known
    return most_cpus(spec, cpus, host)


def still_most_memory(
    spec: InstanceSpec, memory: Bytes, host: Host, recorded: Bytes | None, running: Bytes | None
) -> Bytes | None:
    """The same of memory."""
    if spec.max_memory is None:
        if recorded is None:
            return None
        for known in (running, recorded):
            if known is not None and known >= memory:
                return known
    return most_memory(spec, memory, host)


def most_memory(spec: InstanceSpec, memory: Bytes, host: Host) -> Bytes:
    """The same of memory, in whole MiB."""
    if spec.max_memory is not None:
        return max(spec.max_memory, memory)
    most = min(GROWTH * memory, host.status.capacity.memory) // MIB * MIB
    return Bytes(most) if most > memory else memory
