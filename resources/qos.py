"""Shares and limits of a machine: processor, each of its disks, each of its network cards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from nanovirt.resources.errors import Cause
from nanovirt.resources.metadata import Model
from nanovirt.resources.quantities import Bits, Bytes, Millicpus

Priority = Literal["High", "Medium", "Low"]
Iops = Annotated[int, Field(ge=1, le=10_000_000)]


class CpuQos(Model):
    """Share of the host's processors when they are short, and the most that it gets ever; None: no own word."""

    priority: Priority | None = None
    limit: Millicpus | None = None


class DiskQos(Model):
    """The most that one disk may do in a second; None: without a limit."""

    read_bytes_per_second: Bytes | None = None
    write_bytes_per_second: Bytes | None = None
    read_iops: Iops | None = None
    write_iops: Iops | None = None


class NetworkQos(Model):
    """The most that one card may carry in a second, in and out as the guest sees it; None: without a limit."""

    inbound_bits_per_second: Bits | None = None
    outbound_bits_per_second: Bits | None = None


class Qos(Model):
    """Disk values hold for each disk, network values for each card."""

    cpu: CpuQos = CpuQos()
    disk: DiskQos = DiskQos()
    network: NetworkQos = NetworkQos()


def disk_rate_problems(field: str, qos: DiskQos) -> Iterator[Cause]:
    """Rates that no disk is held to."""
    for name, value in (("read", qos.read_bytes_per_second), ("write", qos.write_bytes_per_second)):
        if value is not None and not 1024 <= value <= 2**50:
            yield Cause.of(f"{field}.{name}BytesPerSecond", f"{value}: from 1Ki to 1Pi")


def network_rate_problems(field: str, qos: NetworkQos) -> Iterator[Cause]:
    """Rates that no card is held to."""
    for name, value in (("inbound", qos.inbound_bits_per_second), ("outbound", qos.outbound_bits_per_second)):
        if value is not None and not 8000 <= value <= 10**13:
            yield Cause.of(f"{field}.{name}BitsPerSecond", f"{value}: from 8k to 10T")
