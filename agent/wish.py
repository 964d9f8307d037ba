"""What is wished of one machine: its Placement, and what is derived from that once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from nanovirt.agent.domain_disks import seeded
from nanovirt.agent.leases import Served, reservations
from nanovirt.agent.segments import device_of
from nanovirt.agent.taps import tap
from nanovirt.resources.placement import Placement, PlacementSpec


@dataclass(frozen=True, slots=True)
class Wish:
    """A Placement, and what is derived from it once: digest of the hardware, reservations of the cards."""

    placement: Placement
    digest: str
    reservations: tuple[Served, ...]

    @classmethod
    def of(cls, placement: Placement) -> Wish:
        """Derive it."""
        return cls(placement, digest(placement.spec), reservations(placement.spec))


def digest(spec: PlacementSpec) -> str:
    """What the definition depends on, and nothing else: power, size of disks and leases are not of it."""
    hardware = (
        spec.domain.model_dump_json(),
        (spec.cpu, spec.max_cpu, int(spec.memory), int(spec.max_memory or 0), spec.qos),
        tuple((disk.name, disk.file, disk.bus, disk.purpose, disk.format, disk.qos) for disk in spec.volumes),
        tuple((nic.name, nic.mac, nic.model, device_of(nic), nic.mtu, nic.qos, tap(nic)) for nic in spec.nics),
        tuple((medium.name, medium.image.sha256 if medium.image else "") for medium in spec.media),
        spec.boot_order,
        seeded(spec),
    )
    return hashlib.sha256(repr(hardware).encode()).hexdigest()[:32]
