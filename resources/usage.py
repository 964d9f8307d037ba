"""What machines and hosts use at a moment, as agents report it: figures in memory only, never part of an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

from pydantic import Field

from nanovirt.resources.kind import Status


class Usage(NamedTuple):
    """One machine over the last few seconds."""

    cpu: float = 0.0
    """Processors that were busy: 1.5 is one and a half."""
    memory: float = 0.0
    """Bytes that the guest uses; without a balloon driver in it, bytes that its process has."""
    disk_read: float = 0.0
    """Bytes a second, all disks together."""
    disk_write: float = 0.0
    disk_reads: float = 0.0
    """Requests a second."""
    disk_writes: float = 0.0
    net_in: float = 0.0
    """Bytes a second as the guest sees it, all cards together."""
    net_out: float = 0.0


NAMES: Mapping[str, str] = {
    "cpu": "cpu", "memory": "memory", "disk_read": "diskRead", "disk_write": "diskWrite", "disk_reads": "diskReads",
    "disk_writes": "diskWrites", "net_in": "netIn", "net_out": "netOut",
}  # fmt: skip
"""Field -> its name in JSON."""
METRICS: Mapping[str, tuple[str, str]] = {
    "cpu": ("cpu_cores", "Processors that are busy"),
    "memory": ("memory_bytes", "Memory that the guest uses"),
    "disk_read": ("disk_read_bytes_per_second", "Read from its disks"),
    "disk_write": ("disk_written_bytes_per_second", "Written to its disks"),
    "disk_reads": ("disk_reads_per_second", "Read requests of its disks"),
    "disk_writes": ("disk_writes_per_second", "Write requests of its disks"),
    "net_in": ("network_received_bytes_per_second", "Received, as the guest sees it"),
    "net_out": ("network_sent_bytes_per_second", "Sent, as the guest sees it"),
}
"""Field -> how its Prometheus metric ends, and what that is."""
MACHINES_MAX = 10_000
Column = Annotated[tuple[float, ...], Field(max_length=MACHINES_MAX)]


class UsageReport(Status):
    """All machines of a host: column by column, since that is smallest and quickest; the host itself beside them."""

    machines: Annotated[tuple[str, ...], Field(max_length=MACHINES_MAX)] = ()
    """Uuids of the domains; every column is as long."""
    cpu: Column = ()
    memory: Column = ()
    disk_read: Column = ()
    disk_write: Column = ()
    disk_reads: Column = ()
    disk_writes: Column = ()
    net_in: Column = ()
    net_out: Column = ()
    host_cpu: float = 0.0
    """Processors of the host that were busy, whatever with."""
    host_memory: float = 0.0
    """Bytes of the host's memory that are not available."""

    def rows(self) -> Iterator[tuple[str, Usage]]:
        """Machine by machine; columns of different lengths are cut to the shortest."""
        columns = (getattr(self, field) for field in Usage._fields)
        yield from ((uuid, Usage(*values)) for uuid, *values in zip(self.machines, *columns, strict=False))


def reported(found: Mapping[str, Usage], host_cpu: float = 0.0, host_memory: float = 0.0) -> UsageReport:
    """The columns of those rows; figures are rounded, since nobody reads more."""
    columns = {
        field: tuple(round(getattr(one, field), 3 if field == "cpu" else 0) for one in found.values())
        for field in Usage._fields
    }
    return UsageReport(
        machines=tuple(found), **columns, host_cpu=round(host_cpu, 3), host_memory=float(round(host_memory))
    )


def total(report: UsageReport) -> Usage:
    """All machines of the report together."""
    found = [one for _, one in report.rows()]
    return Usage(*(sum(getattr(one, field) for one in found) for field in Usage._fields))


def shown(usage: Usage) -> dict[str, float]:
    """As JSON has it."""
    return {name: getattr(usage, field) for field, name in NAMES.items()}
