"""Shares and limits in the words of libvirt: processor, each disk, each network card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

from nanovirt.agent.hardware import PERIOD
from nanovirt.agent.hardware import SHARES as DEFAULT
from nanovirt.agent.xml_element import element
from nanovirt.resources.qos import CpuQos, DiskQos, NetworkQos, Priority
from nanovirt.resources.quantities import Bits, Millicpus

SHARES: Final[dict[Priority | None, int]] = {"High": 2 * DEFAULT, "Medium": DEFAULT, "Low": DEFAULT // 2, None: DEFAULT}
LEAST_QUOTA: Final = 1000
"""Microseconds in a period: the kernel takes no less."""
LIMITS: Final = {
    "read_bytes_sec": "read_bytes_per_second",
    "write_bytes_sec": "write_bytes_per_second",
    "read_iops_sec": "read_iops",
    "write_iops_sec": "write_iops",
}
"""libvirt's word for what a disk may do, and ours."""


def quota(limit: Millicpus | None) -> int:
    """Thousandths of a processor as the kernel can hold them to: 0 for no limit."""
    return max(int(limit), LEAST_QUOTA * 1000 // PERIOD) if limit is not None else 0


def microseconds(quota: int) -> int:
    """What that is of a period; -1 for no limit."""
    return quota * PERIOD // 1000 if quota else -1


def kilobytes(qos: NetworkQos) -> tuple[int, int]:
    """Thousands of bytes in a second, in and out, as libvirt passes them to the kernel; 0 for no limit."""
    return _kilobytes(qos.inbound_bits_per_second), _kilobytes(qos.outbound_bits_per_second)


def _kilobytes(rate: Bits | None) -> int:
    return max(1, round(rate / 8000)) if rate is not None else 0


def disk_limits(qos: DiskQos) -> dict[str, int]:
    """All of them, in libvirt's words; 0 for no limit."""
    return {word: int(getattr(qos, ours) or 0) for word, ours in LIMITS.items()}


def processor_element(qos: CpuQos) -> Iterator[Element]:
    """Nothing when nothing is wished: a host whose kernel cannot share processors starts the machine all the same."""
    made = []
    if qos.priority is not None:
        made.append(element("shares", str(SHARES[qos.priority])))
    if qos.limit is not None:
        made.append(element("global_period", str(PERIOD)))
        made.append(element("global_quota", str(microseconds(quota(qos.limit)))))
    if made:
        yield element("cputune", *made)


def disk_element(qos: DiskQos) -> Iterator[Element]:
    """Nothing when nothing is limited."""
    limits = {word: value for word, value in disk_limits(qos).items() if value}
    if limits:
        yield element("iotune", *(element(word, str(value)) for word, value in limits.items()))


def card_element(qos: NetworkQos) -> Iterator[Element]:
    """Nothing when nothing is limited. In and out are the guest's, for libvirt too."""
    rates = zip(("inbound", "outbound"), kilobytes(qos), strict=True)
    made = [element(way, average=str(rate)) for way, rate in rates if rate]
    if made:
        yield element("bandwidth", *made)
